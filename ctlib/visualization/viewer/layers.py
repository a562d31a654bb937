"""Volumes as NIfTI in memory, for viewers that draw from bytes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pandas as pd
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray

from ctlib.io import Volume
from ctlib.visualization.figures.slices import points_of
from ctlib.visualization.figures.style import READERS

SEVERAL = len(READERS) + 1
"""Value of a voxel on the contours of more than one reader; 1 to 4 are those of one."""
OVERLAP = "#FFFFFF"
MATRIX_PX = 256
"""Rows and columns of a slice that a page is sent at most: those of 512 x 512 px would be four times as
many bytes to send and to keep as textures, and the page stands still meanwhile."""


def matrix(volume: Volume) -> tuple[int, int]:
    """Rows and columns with which a volume's slices are drawn: its own, at most `MATRIX_PX`."""
    rows, columns = volume.shape[1:]
    step = max(rows / MATRIX_PX, columns / MATRIX_PX, 1.0)
    return max(round(rows / step), 1), max(round(columns / step), 1)


def drawable(volume: Volume) -> Volume:
    """A volume of the same extent whose slices are of `matrix`; itself where they are already."""
    rows, columns = volume.shape[1:]
    drawn_rows, drawn_columns = matrix(volume)
    if (rows, columns) == (drawn_rows, drawn_columns):
        return volume
    z, y, x = volume.spacing_mm
    spacing = (z, y * rows / drawn_rows, x * columns / drawn_columns)
    z0, y0, x0 = volume.origin_mm  # of a voxel's middle: that of a larger one lies further in
    origin = (z0, y0 + (spacing[1] - y) / 2, x0 + (spacing[2] - x) / 2)
    return Volume(resized(volume.hu, (drawn_rows, drawn_columns)), spacing, volume.series_uid, origin)


def resized(voxels: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Slices `[D, H, W]` with fewer rows and columns, each pixel the mean of the area it covers."""
    return np.stack([cv2.resize(plane, shape[::-1], interpolation=cv2.INTER_AREA) for plane in voxels])


def nifti(volume: Volume, voxels: NDArray[np.generic], corner: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """A single NIfTI-1 file of voxels on a volume's grid; nothing is resampled, turned or compressed.

    Our axes point to Superior, Posterior, Left and the last runs fastest. NIfTI's first runs fastest
    and its world points to Right, Anterior, Superior: the bytes stay as they are, and the affine says
    that the first index runs to Left (-x), the second to Posterior (-y), the third to Superior (+z).

    Args:
        volume: gives spacing and origin.
        voxels: `[D, H, W]`, int16, uint8 or float32; all of the grid, or a part of it.
        corner: slice, row, column of their first voxel.
    """
    z, y, x = volume.spacing_mm
    z0, y0, x0 = (
        start + step * i for start, step, i in zip(volume.origin_mm, (z, y, x), corner, strict=True)
    )
    affine = np.array([[-x, 0, 0, -x0], [0, -y, 0, -y0], [0, 0, z, z0], [0, 0, 0, 1]], np.float64)
    header = Nifti1Header(endianness="<")
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape[::-1])
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["scl_slope"], header["scl_inter"] = 1, 0
    ordered = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    return b"".join([header.binaryblock, b"\0" * 4, ordered.data])


def contours(volume: Volume, marks: pd.DataFrame, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The readers' contours, one voxel wide.

    Args:
        volume: the series as acquired.
        marks: table `marks` of this series alone.
        shape: rows and columns of the result, from `matrix`; None for those of the volume.

    Returns:
        uint8 `[D, rows, columns]`: 0 nothing, 1 + reader (the fifth reader is 1 again), `SEVERAL` where the
        contours of several readers meet.
    """
    rows, columns = shape or volume.shape[1:]
    share = np.array([rows / volume.shape[1], columns / volume.shape[2]])
    drawn = np.zeros((volume.shape[0], rows, columns), np.uint8)
    for (place, reader), own in marks.groupby(["slice", "reader"]):
        outline = np.zeros((rows, columns), np.uint8)
        points = ((points_of(text) + 0.5) * share - 0.5 for text in own["contour"])
        loops = [np.round(loop[:, ::-1]).astype(np.int32) for loop in points]
        cv2.polylines(outline, loops, isClosed=True, color=1)
        plane, value = drawn[place], 1 + reader % len(READERS)
        shared = (outline == 1) & (plane != 0) & (plane != value)
        plane[outline == 1] = value
        plane[shared] = SEVERAL
    return drawn


def part(drawn: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """The smallest part that holds all that is not 0, and a rim of one voxel where there is one.

    Args:
        drawn: `[D, H, W]`.

    Returns:
        The part, and slice, row, column of its first voxel; all of it where nothing is drawn.
    """
    if not drawn.any():
        return drawn, (0, 0, 0)
    spans = []
    for axis in range(3):
        held = np.flatnonzero(drawn.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append(slice(max(int(held[0]) - 1, 0), int(held[-1]) + 2))
    z, y, x = (span.start for span in spans)
    return drawn[tuple(spans)], (z, y, x)


def heat(cam: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Grad-CAM in 256 steps: 0 stays 0, its highest value is 255.

    Args:
        cam: `[D, H, W]`, 0 or above; NaN counts as 0.
    """
    clean = np.nan_to_num(np.asarray(cam, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(clean.max())
    if top <= 0:
        return np.zeros(clean.shape, np.uint8)
    return np.clip(np.round(clean * (255 / top)), 0, 255).astype(np.uint8)
