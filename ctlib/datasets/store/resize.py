"""Slices of scanners to slices of the training matrix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ctlib.core import HU_MIN
from ctlib.datasets.store.codecs import StoreError


def shrink(hu: NDArray[np.int16], matrix_px: int) -> NDArray[np.int16]:
    """Slices of any matrix to square ones, each pixel the mean of the area it covers.

    Args:
        hu: int16 `[D, H, W]`, HU; a side that is shorter is padded with air at both ends.
        matrix_px: rows and columns of the result.

    Returns:
        int16 `[D, matrix_px, matrix_px]`, HU, rounded.

    Raises:
        StoreError: the slices are smaller than the result would be.

    >>> shrink(np.array([[[-1000, -900, 0, 0], [-1000, -900, 40, 40]]], np.int16), 2).tolist()
    [[[-987, -512], [-987, -492]]]
    """
    return shrink_planes(hu, hu.shape, matrix_px)


def shrink_planes(
    planes: Iterable[NDArray[np.int16]], shape: tuple[int, ...], matrix_px: int
) -> NDArray[np.int16]:
    """`shrink`, slice by slice: a series need not be in memory as a whole.

    Args:
        planes: int16 `[H, W]`, HU, one after the other; each is used before the next is taken.
        shape: (D, H, W).
        matrix_px: rows and columns of the result.

    Returns:
        int16 `[D, matrix_px, matrix_px]`, HU, rounded.

    Raises:
        StoreError: the slices are smaller than the result would be.
    """
    depth, rows, cols = shape
    side = max(rows, cols)
    if side < matrix_px:
        raise StoreError(f"slices of {rows} x {cols} px are below matrix_px {matrix_px}")
    top, left = (side - rows) // 2, (side - cols) // 2
    bottom, right = side - rows - top, side - cols - left
    small = np.empty((depth, matrix_px, matrix_px), np.int16)
    for plane, target in zip(planes, small, strict=True):
        square: Any = plane
        if rows != cols:
            square = cv2.copyMakeBorder(plane, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(HU_MIN,))
        cv2.resize(square, (matrix_px, matrix_px), dst=target, interpolation=cv2.INTER_AREA)
    return small
