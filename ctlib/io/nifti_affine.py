"""Where a NIfTI volume lies in the patient: its affine, checked, and turned to our axes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ctlib.io.errors import SeriesError
from ctlib.io.geometry import AXIS_TOLERANCE, MIN_SLICES

UNITS = {1: "metre", 3: "micron"}
"""Space units of nifti1.h other than mm (2) and unknown (0), which is read as mm."""
AFFINE_TOLERANCE = 0.1
"""Largest distance of a corner voxel between sform and qform, in voxels, and of the voxel size
between pixdim and affine, over the whole matrix. Both are float32: honest ones differ by 0.001."""
FARTHEST_MM = 1e6
"""Coordinates are below this, and finite."""


def _qform(header: Nifti1Header) -> NDArray[Any]:
    if float(header["pixdim"][0]) == 0:  # means 1 (nifti1.h), which nibabel does not take
        header["pixdim"][0] = 1
    try:
        return np.asarray(header.get_qform(), np.float64)
    except (HeaderDataError, ValueError) as error:
        raise SeriesError("its qform is no rotation (quatern_b, c, d or qfac)") from error


def affine_of(header: Nifti1Header, dims: tuple[int, int, int]) -> NDArray[Any]:
    """Voxel index to patient coordinates (R, A, S), float64 `[4, 4]`, mm; sform before qform.

    Args:
        header: of NIfTI-1 or -2.
        dims: voxels along the file's own axes.

    Raises:
        SeriesError: there is none, two disagree, or it does not fit the voxel size.
    """
    unit = int(header["xyzt_units"]) & 7
    if unit not in (0, 2):
        raise SeriesError(f"its unit of space is {UNITS.get(unit, unit)}, only mm are read")
    pixdim = np.array(header["pixdim"][1:4], np.float64)
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        raise SeriesError(f"its pixdim is {pixdim.tolist()}, three distances above 0 are needed")
    found = []
    if int(header["sform_code"]) > 0:
        found.append(np.asarray(header.get_sform(), np.float64))
    if int(header["qform_code"]) > 0:
        found.append(_qform(header))
    if not found:
        raise SeriesError("its sform_code and qform_code are 0: it does not say how the patient lies in it")
    if not all((np.abs(affine) < FARTHEST_MM).all() for affine in found):
        raise SeriesError(f"its affine has values that are no numbers below {FARTHEST_MM:g} mm")
    ends = np.array([(*end, 1) for end in itertools.product(*((0, n - 1) for n in dims))])
    off = float(np.abs(ends @ (found[0] - found[-1]).T).max())
    if off > AFFINE_TOLERANCE * pixdim.min():
        raise SeriesError(f"its sform and qform disagree by up to {off:.3g} mm")
    sizes = np.linalg.norm(found[0][:3, :3], axis=0)
    if (np.abs(sizes - pixdim) * dims > AFFINE_TOLERANCE * pixdim).any():
        raise SeriesError(
            f"its affine has voxels of {sizes.round(4).tolist()} mm, its pixdim {pixdim.tolist()}"
        )
    return found[0]


def place_of(affine: NDArray[Any], dims: tuple[int, int, int]) -> dict[str, Any]:
    """Where a volume lies: shape, spacing_mm, origin_mm, axes and reversed, as `nifti.NiftiHeader` has them.

    Args:
        affine: from `affine_of`.
        dims: voxels along the file's own axes.

    Raises:
        SeriesError: its axes are oblique or run along one line, or it has too few slices.
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
            f"its axes are tilted or turned by about {degrees:.1f} degrees, which is not resampled"
        )
    if len(set(along)) < 3:
        raise SeriesError("its affine is singular, two of its axes run along one line")
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
