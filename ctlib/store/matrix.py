"""Slices of scanners to slices of the training matrix."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ctlib.hu import HU_MIN
from ctlib.store.codecs import StoreError


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
    side = max(hu.shape[1:])
    if side < matrix_px:
        raise StoreError(f"slices of {hu.shape[1]} x {hu.shape[2]} px are below matrix_px {matrix_px}")
    top, left = ((side - n) // 2 for n in hu.shape[1:])
    bottom, right = side - hu.shape[1] - top, side - hu.shape[2] - left
    small = np.empty((len(hu), matrix_px, matrix_px), np.int16)
    for plane, target in zip(hu, small, strict=True):
        if plane.shape != (side, side):
            plane = cv2.copyMakeBorder(plane, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(HU_MIN,))
        cv2.resize(plane, (matrix_px, matrix_px), dst=target, interpolation=cv2.INTER_AREA)
    return small
