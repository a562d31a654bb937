"""What the readers' contours of table `marks` say: how large a nodule is, and which voxels it fills.

Nodules are numbered within their series, as in the table.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

MIN_READERS = 3
"""Readers who must have marked a nodule, as for the labels of task `lidc_nodule` (docs/protocol.md)."""
_SHIFT = 4
"""Bits of a fraction of a pixel that OpenCV is given."""


def points_of(contour: str) -> NDArray[np.float64]:
    """A contour of table `marks` as points `[N, 2]` (row, column), px.

    >>> points_of("3,4 5,6").tolist()
    [[3.0, 4.0], [5.0, 6.0]]
    """
    return np.array([[float(value) for value in point.split(",")] for point in contour.split()]).reshape(
        -1, 2
    )


def measured(marks: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """How many readers marked each nodule, and how large it is.

    Args:
        marks: table `marks`.
        series: table `series`; marks of other series are passed over.

    Returns:
        Columns series_uid, nodule, n_readers, diameter_mm: the longest line within a slice between two
        points of a reader's contour, mean over readers.

    >>> marks = pd.DataFrame({"series_uid": "s", "nodule": 0, "reader": [0, 1], "inclusion": True,
    ...                       "contour": ["0,0 0,3 4,3", "0,0 0,9 1,9"]})
    >>> series = pd.DataFrame({"series_uid": ["s"], "spacing_y_mm": [2.0], "spacing_x_mm": [2.0]})
    >>> measured(marks, series)[["n_readers", "diameter_mm"]].round(1).values.tolist()
    [[2.0, 14.1]]
    """
    own = marks[marks["inclusion"]].merge(
        series[["series_uid", "spacing_y_mm", "spacing_x_mm"]], on="series_uid"
    )
    steps = own[["spacing_y_mm", "spacing_x_mm"]].to_numpy(np.float64)
    across = [_across(points_of(text) * step) for text, step in zip(own["contour"], steps, strict=True)]
    by_reader = own.assign(diameter_mm=across).groupby(["series_uid", "nodule", "reader"], sort=True)
    by_nodule = by_reader["diameter_mm"].max().groupby(["series_uid", "nodule"])
    return by_nodule.agg(n_readers="size", diameter_mm="mean").reset_index()


def _across(points_mm: NDArray[np.float64]) -> float:
    """Longest distance of two points."""
    # the two farthest points are corners of the hull: few of hundreds
    corners = np.asarray(cv2.convexHull(points_mm.astype(np.float32)), np.float64).reshape(-1, 2)
    return float(np.sqrt(((corners[:, None] - corners[None]) ** 2).sum(axis=2).max()))


def mask(marks: pd.DataFrame, row: Any, matrix_px: int, min_readers: int = MIN_READERS) -> NDArray[np.bool_]:
    """The voxels of a stored volume that are in a nodule.

    Args:
        marks: table `marks`; rows of other series are passed over.
        row: of the series, with series_uid, n_slices, rows_px and cols_px of table `series`.
        matrix_px: rows and columns of a stored slice (`ctlib.datasets.store.resize`).
        min_readers: readers who must have marked a nodule.

    Returns:
        bool `[n_slices, matrix_px, matrix_px]`: where at least half of the readers who marked a nodule
        have it, the edge they drew included.
    """
    volume = np.zeros((row.n_slices, matrix_px, matrix_px), np.bool_)
    side = max(row.rows_px, row.cols_px)
    padded = np.array([(side - row.rows_px) // 2, (side - row.cols_px) // 2])
    for _, nodule in marks[marks["series_uid"] == row.series_uid].groupby("nodule"):
        n_readers = nodule["reader"].nunique()
        if n_readers < min_readers:
            continue
        votes = np.zeros(volume.shape, np.int8)
        for (_, place), drawn in nodule.groupby(["reader", "slice"]):
            plane = np.zeros((matrix_px, matrix_px), np.uint8)
            for contour in drawn.sort_values("inclusion", ascending=False).itertuples():
                points = (points_of(contour.contour) + padded + 0.5) * (matrix_px / side) - 0.5
                turned = np.round(points[:, ::-1] * 2**_SHIFT).astype(np.int32)  # column, row
                cv2.fillPoly(plane, [turned], int(contour.inclusion), shift=_SHIFT)
            votes[place] += plane.astype(np.int8)
        volume |= 2 * votes >= n_readers
    return volume
