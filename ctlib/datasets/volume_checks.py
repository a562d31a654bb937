"""What a volume looks like in a few numbers: where air and tissue lie on its HU scale, and a coarse copy.

They are computed once, when a volume is stored, and kept in its record, so that a fault of the HU
scale or the same exam under two names is found in a cohort of thousands without reading it again.

`rescale_faults` finds volumes that are not in HU: rescaled twice, not at all, or by a wrong slope. Four
faults, by what they do to a chest of air at -1000, lung at -850, fat at -100, soft tissue at 50 and bone
above 300 HU, and the number of `examine` that tells them:

| fault | air | soft tissue | seen by |
|---|---|---|---|
| intercept of -1024 applied twice | -1024, clipped | -974 | hardly a voxel above -700 HU |
| slope and intercept not applied | 24 | 1074 | no air below -700 HU, much above 300 HU |
| slope of 2 for 1 | -976 | 1124 | body outside its band |
| slope of 0.5 for 1 | -1012 | -487 | body outside its band |

The position of air alone would miss the first, where soft tissue takes its place, and the last two,
as air lies at the bottom of the scale, where a slope hardly moves it. Body means the peak with most
voxels above -700 HU. What keeps soft tissue within the band is not found: a slope of 0.83 to 1.07 times
the right one, an intercept up to 80 HU too high or 185 HU too low.

`near_duplicates` finds the same exam under two names. Two volumes are near duplicates if their coarse copies,
8 x 16 x 16 block means, differ by at most `MOST_RMS_HU` (root mean square). Measured, in HU:

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

import base64
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.core import HU_MAX, HU_MIN

COARSE = (8, 16, 16)
"""Blocks of the coarse copy along z, y, x."""
SAMPLE_PX = 64
"""About this many rows and columns of a slice are looked at: every fourth of 256."""
AIR_BELOW_HU = -700
"""Air of rooms, airways and lungs lies below; what the body is made of lies above."""
TISSUE_RANGE_HU = (-300, 300)
"""Fat, water and soft tissue lie within."""
DENSE_ABOVE_HU = 300
"""Bone, metal and bright contrast lie above."""
NEAR_HU = 50
"""A voxel is near a peak up to this distance: 2.5 standard deviations of the noise of a usual slice."""
SMOOTH_HU = 21
"""Width of the box that smooths the histogram, twice: comb-like histograms (a slope above 1) and
noise make no peaks of their own."""
LEAST_SHARE = 0.005
"""A peak has at least this share of the voxels near it, or there is none."""


def examine(hu: NDArray[np.int16]) -> dict[str, Any]:
    """What is kept of a volume for the checks of a cohort, as values that JSON holds.

    Voxels of exactly -1024 HU are padding or clipped and belong to no peak; every share is one of
    all voxels. Only some rows and columns are read (`SAMPLE_PX`).

    Args:
        hu: int16 `[D, H, W]`, HU in [-1024, 3071], any size from 1; it may be memory-mapped.

    Returns:
        air_hu: lowest peak of the smoothed histogram in [-1023, -700], HU, which is air outside
            the body or in the airways where a volume holds any, and else lung; None where
            there is none.
        tissue_hu: the peak with most voxels in [-300, 300], HU; None where there is none.
        body_hu: the same in [-700, 3071]: soft tissue or fat, unless the HU scale is wrong.
        air_share, tissue_share: of voxels within 50 HU of that peak; 0 where there is none.
        padding_share: of voxels at exactly -1024 HU.
        body_share: of voxels above -700 HU.
        dense_share: of voxels above 300 HU.
        coarse: means of 8 x 16 x 16 blocks, HU, for `coarse_of`.

    Raises:
        ValueError: the array has not three axes, or no voxel.

    >>> air, water = np.full((9, 32, 32), -1000, np.int16), np.full((3, 32, 32), 0, np.int16)
    >>> found = examine(np.concatenate([air, water]))
    >>> found["air_hu"], found["air_share"], found["tissue_hu"], found["tissue_share"]
    (-1000.0, 0.75, 0.0, 0.25)
    >>> coarse_of(found["coarse"])[:, 0, 0].tolist()
    [-1000, -1000, -1000, -1000, -1000, -1000, 0, 0]
    """
    if hu.ndim != 3 or not hu.size:
        raise ValueError(f"a volume of shape {hu.shape} cannot be examined; give [D, H, W] with voxels.")
    steps = [max(round(n / SAMPLE_PX), 1) for n in hu.shape[1:]]
    sample = np.clip(hu[:, :: steps[0], :: steps[1]], HU_MIN, HU_MAX)
    counts = np.bincount((sample - HU_MIN).ravel(), minlength=HU_MAX - HU_MIN + 1)
    air_hu, air_share = next(iter(_peaks(counts, HU_MIN + 1, AIR_BELOW_HU)), (None, 0.0))
    tissue_hu, tissue_share = _widest(_peaks(counts, *TISSUE_RANGE_HU))
    body_hu, _ = _widest(_peaks(counts, AIR_BELOW_HU, HU_MAX))
    return {
        "air_hu": air_hu,
        "tissue_hu": tissue_hu,
        "air_share": air_share,
        "tissue_share": tissue_share,
        "body_hu": body_hu,
        "padding_share": float(counts[0] / sample.size),
        "body_share": float(counts[AIR_BELOW_HU + 1 - HU_MIN :].sum() / sample.size),
        "dense_share": float(counts[DENSE_ABOVE_HU + 1 - HU_MIN :].sum() / sample.size),
        "coarse": base64.b64encode(coarse(sample).astype("<i2").tobytes()).decode("ascii"),
    }


def _peaks(counts: NDArray[np.int64], low_hu: int, high_hu: int) -> list[tuple[float, float]]:
    """Peaks of the smoothed histogram in a range, from low to high: (HU, share of voxels near it).

    A peak is the highest point within `NEAR_HU` on either side, the range's neighbours included.

    Args:
        counts: voxels of each HU from -1024; the first, padding, is left out.
        low_hu: first HU of the range.
        high_hu: last HU of the range.
    """
    total, inside = counts.sum(), np.pad(counts.astype(np.float64), NEAR_HU)
    inside[NEAR_HU] = 0
    box = np.ones(SMOOTH_HU) / SMOOTH_HU
    smooth = np.convolve(np.convolve(inside, box, "same"), box, "same").round(9)
    first, last = low_hu - HU_MIN, high_hu - HU_MIN + 2 * NEAR_HU
    around = np.lib.stride_tricks.sliding_window_view(smooth[first : last + 1], 2 * NEAR_HU + 1)
    tops = np.flatnonzero(around[:, NEAR_HU] == around.max(axis=1))
    found = []
    for flat in np.split(tops, np.flatnonzero(np.diff(tops) > NEAR_HU) + 1):
        if len(flat):
            place = int(flat.mean())  # the middle, where several are as high
            near = float(inside[first + place : first + place + 2 * NEAR_HU + 1].sum() / total)
            found += [(float(low_hu + place), near)] if near >= LEAST_SHARE else []
    return found


def _widest(peaks: list[tuple[float, float]]) -> tuple[float | None, float]:
    """The peak with most voxels near it, and their share; (None, 0) where there is none."""
    return max(peaks, key=lambda peak: peak[1], default=(None, 0.0))


def coarse(hu: NDArray[np.int16]) -> NDArray[np.int16]:
    """Means of 8 x 16 x 16 blocks that divide a volume evenly; voxels on a border count in part.

    Args:
        hu: int16 `[D, H, W]`, HU, any size from 1: a short volume repeats its slices.

    >>> coarse(np.arange(4, dtype=np.int16).reshape(4, 1, 1))[:, 5, 5].tolist()
    [0, 0, 1, 1, 2, 2, 3, 3]
    """
    z, y, x = (_overlap(n, blocks) for n, blocks in zip(hu.shape, COARSE, strict=True))
    # Whole numbers, exact in float64: the same result whatever the order in which BLAS adds.
    slabs = (z @ hu.reshape(len(hu), -1).astype(np.float64)).reshape(len(z), *hu.shape[1:])
    return np.rint((y @ slabs @ x.T) / hu.size).astype(np.int16)


def _overlap(n: int, blocks: int) -> NDArray[np.float64]:
    """How much of each of n voxels in a row lies in each block, `[blocks, n]`; rows add up to n.

    >>> _overlap(3, 2).tolist()
    [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]
    """
    voxel, block = np.arange(n) * blocks, np.arange(blocks)[:, None] * n
    return np.clip(np.minimum(voxel + blocks, block + n) - np.maximum(voxel, block), 0, None).astype(float)


def coarse_of(text: str) -> NDArray[np.int16]:
    """The coarse copy of `examine`, int16 `[8, 16, 16]`, HU.

    Raises:
        ValueError: the text is none.
    """
    try:
        data = base64.b64decode(text, validate=True)
        return np.frombuffer(data, "<i2").reshape(COARSE).astype(np.int16)
    except ValueError as error:
        raise ValueError(
            f"a coarse copy of {len(text)} characters is damaged ({error}): store its series again."
        ) from error


LEAST_BODY_SHARE = 0.3
"""Share of voxels above -700 HU that a body has. Measured: 0.36 in LIDC-IDRI-0314, 0.42 to 0.57 in
800 phantoms; with the intercept applied twice, where only bone and bright contrast are left, at most 0.21."""
MOST_DENSE_SHARE = 0.25
"""Share of the voxels that are not padding above 300 HU. Measured: up to 0.05 in chests, bone and
contrast; without slope and intercept, where all of the body lies there, 0.36 and more."""
AIR_HU = (-1023.0, -950.0)
"""Where the lowest peak lies that is air outside the body or in the airways; for people to look at, as
a tight field of view has lung alone, from -930 upwards. Measured: -1003 to -969."""
BODY_HU = (-135.0, 130.0)
"""Where the peak of a body lies: fat (-120 to -80 HU, -135 at 80 kV) or soft tissue with or
without contrast (0 to 130 HU). Measured: -106 to 52 in the real chests at hand."""
FOAM_HU = (-602.0, -574.0)
"""The same for this project's phantoms without contrast, which are cast in foam
(`ctlib.datasets.synthetic.anatomy`): -593 to -581 in 400 of them. Fat at half its slope lies at -562."""


def rescale_faults(checks: pd.DataFrame) -> pd.DataFrame:
    """Volumes whose HU scale cannot be right.

    Args:
        checks: table `checks`.

    Returns:
        series_uid, air_hu, tissue_hu, reason, in the order of the table; no rows if all is well.
        A volume without air, as a tight field of view gives, is none by that alone.
    """
    reasons = [_reason(row) for row in checks.to_dict("records")]
    faults = checks[["series_uid", "air_hu", "tissue_hu"]].assign(
        reason=pd.Series(reasons, checks.index, str)
    )
    return faults[faults["reason"] != ""].reset_index(drop=True)


def _reason(row: dict[str, float]) -> str:
    """Why a volume is not in HU, or ''."""
    body_hu, little = row["body_hu"], row["body_share"] < LEAST_BODY_SHARE
    seen = 1 - row["padding_share"]
    if pd.isna(row["air_hu"]) and seen > 0 and row["dense_share"] / seen > MOST_DENSE_SHARE:
        return (
            f"no air below -700 HU, and {row['dense_share']:.0%} of the voxels above 300 HU, where bone and "
            f"contrast are: slope and intercept were not applied"
        )
    # a thin patient in a wide field of view has little body too, but where it should be
    if BODY_HU[0] <= body_hu <= BODY_HU[1] or (FOAM_HU[0] <= body_hu <= FOAM_HU[1] and not little):
        return ""
    if little:
        return (
            f"{row['body_share']:.1%} of the voxels above -700 HU, where a body has {LEAST_BODY_SHARE:.0%} "
            f"at least: the intercept was applied twice, the slope is too small, or there is no body"
        )
    where = "has no peak" if pd.isna(body_hu) else f"peaks at {body_hu:.0f} HU"
    return (
        f"the body {where}, where fat and soft tissue peak between {BODY_HU[0]:.0f} and {BODY_HU[1]:.0f} HU: "
        f"slope or intercept is wrong"
    )


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
