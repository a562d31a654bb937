"""What files of a whole volume (NIfTI, MetaImage, NRRD) share: where its voxels lie, and whether they are HU.

Such a file has an affine, from voxel to patient, and one array. The affine must run along the axes of
the patient; the array is turned to ours: Superior, Posterior, Left. None of these formats names its
modality for certain, so the voxels themselves must look like HU: see `PLAIN_SHARE`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctlib.core import HU_MAX, HU_MIN
from ctlib.io.deidentify import SeriesError
from ctlib.io.geometry import AXIS_TOLERANCE, MIN_SLICES

PLAIN_HU = (-1200, -500)
"""Air and lung, HU. Nothing else of a body lies here (fat is above -150), nor do the padding values
-1500, -2000, -2048 and -3024; -1200 leaves room for noise."""
PLAIN_SHARE = 0.001
"""Least share of voxels within `PLAIN_HU`. In a chest it is above a tenth; in a mask, in numbers
stored with an offset (air at 0 or 24) and in values scaled to [0, 1] or [-1, 1] it is nothing."""
DEFLATE_RATIO = 1032
"""Deflate makes data at most so many times smaller (zlib's technical details)."""
FARTHEST_MM = 1e6
"""Coordinates are below this, and finite."""


def place_of(affine: NDArray[Any], dims: tuple[int, int, int]) -> dict[str, Any]:
    """Where a volume lies.

    Args:
        affine: voxel index of the file to patient coordinates (R, A, S), float64 `[4, 4]` or `[3, 4]`, mm.
        dims: voxels along the file's own axes.

    Returns:
        shape (D, H, W); spacing_mm and origin_mm (z, y, x) = (S, P, L) of voxel [0, 0, 0], mm; axes, which
        axis of the file goes along S, P, L; reversed, whether that axis runs the other way.

    Raises:
        SeriesError: its axes are oblique or run along one line, or it has too few slices.

    >>> place_of(np.diag([-0.5, 0.75, 2.5, 1.0]), (7, 6, 5))["axes"]
    (2, 1, 0)
    >>> place_of(np.diag([-0.5, 0.75, 2.5, 1.0]), (7, 6, 5))["reversed"]
    (False, True, False)
    """
    # (R, A, S) to (S, P, L): the order is turned round, two directions change sign.
    turned = affine[[2, 1, 0]] * np.array([[1], [-1], [-1]])
    spacing = np.linalg.norm(turned[:, :3], axis=0)
    cosines = turned[:, :3] / spacing
    along = np.abs(cosines).argmax(axis=0)
    straight = np.zeros((3, 3))
    straight[along, range(3)] = np.sign(cosines[along, range(3)])
    off = float(np.abs(cosines - straight).max())
    if off > AXIS_TOLERANCE:
        degrees = math.degrees(math.asin(min(off, 1.0)))
        raise SeriesError(
            f"its axes are tilted or turned by about {degrees:.1f} degrees; only axes of the patient are read; "
            "resample it to these (3D Slicer, SimpleITK.Resample)"
        )
    if len(set(along)) < 3:
        raise SeriesError("its affine is singular, two of its axes run along one line; store the right one")
    axes = [int(axis) for axis in np.argsort(along)]
    shape = tuple(dims[axis] for axis in axes)
    if shape[0] < MIN_SLICES:
        raise SeriesError(f"it has {shape[0]} slices along Superior, at least {MIN_SLICES} are needed")
    backwards = [bool(straight[place, axis] < 0) for place, axis in enumerate(axes)]
    first = np.zeros(3)
    for axis, back in zip(axes, backwards, strict=True):
        first[axis] = dims[axis] - 1 if back else 0
    return {
        "shape": shape,
        "spacing_mm": tuple(float(spacing[axis]) for axis in axes),
        "origin_mm": tuple(float(c) for c in turned[:, :3] @ first + turned[:, 3]),
        "axes": tuple(axes),
        "reversed": tuple(backwards),
    }


def upright_hu(
    stored: NDArray[Any],
    axes: tuple[int, int, int],
    reverse: tuple[bool, bool, bool],
    slope: float = 1.0,
    intercept: float = 0.0,
) -> NDArray[np.int16]:
    """Stored values of a volume in HU, turned to our axes.

    Args:
        stored: integers or floats `[k, j, i]`, the last axis of the file first.
        axes: from `place_of`.
        reverse: `reversed` of `place_of`.
        slope: HU of one stored unit.
        intercept: HU of the stored value 0.

    Returns:
        int16 `[D, H, W]`, contiguous, axes to Superior, Posterior, Left; non-integers rounded, clipped to
        [-1024, 3071].

    Raises:
        SeriesError: values are not finite, or no HU.

    >>> stored = np.full((3, 1, 2), -1000.4, np.float32)
    >>> upright_hu(stored, (2, 1, 0), (False, False, False)).tolist()[0]
    [[-1000, -1000]]
    """
    hu = np.empty(stored.shape, np.int16)
    steps = tuple(slice(None, None, -1 if reverse[axes.index(2 - place)] else 1) for place in range(3))
    turned = hu[steps]  # a view, in which planes lie as they are stored
    as_they_are = stored.dtype.kind in "iu" and slope == 1 and intercept == 0
    limits = _limits(stored.dtype if as_they_are else np.dtype(np.float64))
    lowest, plain, enough = math.inf, 0, PLAIN_SHARE * hu.size
    for plane, out in zip(stored, turned, strict=True):  # float64 of all would be four times the file
        values = plane if as_they_are else _scaled(plane, slope, intercept)
        if plain < enough:  # once there is enough air and lung, no more is counted
            lowest = min(lowest, float(values.min()))
            plain += int(np.count_nonzero((values >= PLAIN_HU[0]) & (values < PLAIN_HU[1])))
        np.clip(values, *limits, out=out, casting="unsafe")
    if plain < enough:
        raise SeriesError(
            f"its lowest value is {lowest:g} and {plain / hu.size:.2%} of its values lie between {PLAIN_HU[0]} and "
            f"{PLAIN_HU[1]}; HU has air near -1000; store HU"
        )
    return np.ascontiguousarray(hu.transpose([2 - axis for axis in axes]))


def _scaled(plane: NDArray[Any], slope: float, intercept: float) -> NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        values = np.rint(plane.astype(np.float64) * slope + intercept)
    if not np.isfinite(values).all():
        raise SeriesError("it has voxels that are no finite numbers; store HU as int16")
    return values


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Least and most HU that a dtype holds; numpy clips to no others."""
    if dtype.kind == "f":
        return HU_MIN, HU_MAX
    held = np.iinfo(dtype)
    return max(HU_MIN, held.min), min(HU_MAX, held.max)
