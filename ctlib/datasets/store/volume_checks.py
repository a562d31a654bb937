"""What a volume looks like in a few numbers: where air and tissue lie on its HU scale, and a coarse copy.

They are computed once, when a volume is stored, and kept in its record, so that a fault of the HU
scale or the same exam under two names is found in a cohort of thousands without reading it again.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
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
