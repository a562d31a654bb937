"""The same exam under two names, found by the coarse copies of the stored volumes.

Two volumes are near duplicates if their coarse copies, 8 x 16 x 16 block means, differ by at most
`MOST_RMS_HU` (root mean square). Measured, in HU:

| pair | RMS |
|---|---|
| LIDC-IDRI-0314 and itself, noise of 20 HU added | 1 |
| ... at half the matrix | 13 |
| ... cut by 2, 4, 5 slices of 275 at the top | 9, 18, 22 |
| ... every second, every fifth slice | 2, 13 |
| phantoms of different patients, the closest of 79,800 pairs, foam | 32 |
| the same with contrast | 34 |

Padding of any value is no difference: all below -1000 HU counts as -1000. People differ more than
phantoms, which are drawn by one hand, and much more than foam, whose contrast is 0.3 of theirs. A copy
that was cut by more, shifted or reconstructed to another field of view is not found: 2 % of the field
of view is 60 HU already.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.datasets.store.volume_checks import COARSE, coarse_of

MOST_RMS_HU = 20.0
"""Between what copies differ by (18 and less) and the closest of different patients (32)."""
LEAST_SPREAD_HU = 50.0
"""Standard deviation of a coarse copy below which it shows nothing, and equals others for nothing."""
FLOOR_HU = -1000
"""Padding and air are the same."""
MOST_PAIRS = 100_000
"""The search ends there: so many are no accident but a fault that one look at the list shows."""
BLOCK = 512
"""Volumes compared with all others at once: a product of 512 x 8,000 takes 16 MB."""


def near_duplicates(
    checks: pd.DataFrame, series: pd.DataFrame, splits: pd.DataFrame, most_rms_hu: float = MOST_RMS_HU
) -> pd.DataFrame:
    """Pairs of series whose coarse copies are nearly equal.

    Args:
        checks: table `checks`.
        series: table `series`.
        splits: table `splits`.
        most_rms_hu: greatest RMS difference of a pair, HU.

    Returns:
        series_a, series_b, patient_a, patient_b, split_a, split_b ("" for a patient without one),
        rms_hu, same_patient, crosses_splits; most alike first. At most about `MOST_PAIRS` rows.
        Volumes that are flat (`LEAST_SPREAD_HU`) are in no pair.
    """
    owner = series.drop_duplicates("series_uid").set_index("series_uid")["patient_id"]
    role = splits.drop_duplicates("patient_id").set_index("patient_id")["split"]
    known = checks[checks["series_uid"].isin(owner.index)]
    flat = np.array([coarse_of(text).ravel() for text in known["coarse"]], np.float32)
    flat = np.maximum(flat.reshape(len(known), math.prod(COARSE)), FLOOR_HU)
    telling = flat.std(axis=1) >= LEAST_SPREAD_HU
    uids = known["series_uid"].to_numpy(object)[telling]
    found = list(_pairs(flat[telling], most_rms_hu))
    first, second, rms = (np.concatenate([part[k] for part in found] or [np.empty(0)]) for k in range(3))
    pairs = pd.DataFrame({"series_a": uids[first.astype(int)], "series_b": uids[second.astype(int)]})
    for end in ("a", "b"):
        pairs[f"patient_{end}"] = pairs[f"series_{end}"].map(owner).astype(object)
    for end in ("a", "b"):
        pairs[f"split_{end}"] = pairs[f"patient_{end}"].map(role).astype(object).fillna("")
    pairs["rms_hu"] = rms.astype(float)
    pairs["same_patient"] = pairs["patient_a"] == pairs["patient_b"]
    pairs["crosses_splits"] = pairs["split_a"] != pairs["split_b"]
    return pairs.sort_values(["rms_hu", "series_a", "series_b"], ignore_index=True)


def _pairs(flat: NDArray[np.float32], most_rms_hu: float) -> Iterator[tuple[NDArray[np.generic], ...]]:
    """Pairs of rows (first, second, RMS), block by block.

    A product of matrices finds who may be near (to 1 HU, as float32 cancels), and the difference itself
    decides.
    """
    centred = flat - (flat.mean(axis=0) if len(flat) else 0)
    norms, limit = (centred**2).sum(axis=1), (most_rms_hu + 1) ** 2 * flat.shape[1]
    n_pairs = 0
    for start in range(0, len(flat), BLOCK):
        block = slice(start, start + BLOCK)
        squares = norms[block, None] + norms[start:] - 2 * (centred[block] @ centred[start:].T)
        first, second = np.nonzero(np.triu(squares <= limit, 1))
        for at in range(0, len(first), BLOCK):
            a, b = first[at : at + BLOCK] + start, second[at : at + BLOCK] + start
            rms = np.sqrt(((flat[a] - flat[b]).astype(np.float64) ** 2).mean(axis=1))
            near = rms <= most_rms_hu
            yield a[near], b[near], rms[near]
            n_pairs += int(near.sum())
            if n_pairs >= MOST_PAIRS:
                return
