"""Contours become voxels of the stored volume where they were drawn, and sizes in mm."""

import numpy as np
import pandas as pd
import pytest

from ctlib.core import tables
from ctlib.datasets.lidc_annotations import mask, measured

SQUARE = "20,40 20,47 27,47 27,40 20,40"


def marks_of(*drawn: tuple) -> pd.DataFrame:
    columns = ["nodule", "reader", "slice", "inclusion", "contour"]
    return pd.DataFrame(drawn, columns=columns).assign(series_uid="s", z_mm=0.0)


def row_of(rows_px: int = 64, cols_px: int = 64, n_slices: int = 4):
    made = {"series_uid": "s", "n_slices": n_slices, "rows_px": rows_px, "cols_px": cols_px}
    return next(pd.DataFrame([made]).itertuples(index=False))


def three(contour: str, place: int = 1) -> list[tuple]:
    return [(0, reader, place, True, contour) for reader in range(3)]


def test_a_square_of_three_readers_is_where_it_was_drawn():
    inside = mask(marks_of(*three(SQUARE)), row_of(), 64)
    expected = np.zeros((4, 64, 64), bool)
    expected[1, 20:28, 40:48] = True
    assert np.array_equal(inside, expected)


def test_it_follows_the_stored_matrix():
    """64 px stored as 32: each stored voxel covers two pixels."""
    inside = mask(marks_of(*three(SQUARE)), row_of(), 32)
    rows, columns = np.nonzero(inside[1])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 13, 20, 23)


def test_it_follows_the_padding_of_slices_that_are_not_square():
    inside = mask(marks_of(*three(SQUARE)), row_of(rows_px=48), 64)  # 8 rows of air on top
    rows, columns = np.nonzero(inside[1])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (28, 35, 40, 47)


def test_half_of_the_readers_decide_and_few_readers_do_not():
    other = "20,40 20,43 27,43 27,40 20,40"
    drawn = [(0, 0, 1, True, SQUARE), (0, 1, 1, True, other), (0, 2, 1, True, other), (0, 3, 1, True, SQUARE)]
    assert mask(marks_of(*drawn), row_of(), 64)[1].sum() == 64  # two of four have the right half
    assert mask(marks_of(*drawn[:3]), row_of(), 64)[1].sum() == 32  # one of three has it
    assert not mask(marks_of(*drawn[:2]), row_of(), 64).any()
    assert mask(marks_of(*drawn[:2]), row_of(), 64, min_readers=2).any()


def test_a_hole_is_cut_out_whatever_the_order():
    hole = "22,42 22,45 25,45 25,42 22,42"
    for drawn in ([True, False], [False, True]):
        rows = [
            (0, reader, 1, inclusion, SQUARE if inclusion else hole)
            for reader in range(3)
            for inclusion in drawn
        ]
        assert mask(marks_of(*rows), row_of(), 64)[1].sum() == 64 - 16


def test_the_diameter_is_the_longest_line_of_a_slice_in_mm():
    long = "0,0 0,30 1,30 1,0"
    drawn = [(0, 0, 1, True, SQUARE), (0, 0, 2, True, long), (0, 1, 1, True, SQUARE), (1, 0, 0, True, "5,5")]
    series = pd.DataFrame({"series_uid": ["s"], "spacing_y_mm": [1.0], "spacing_x_mm": [0.5]})
    found = measured(marks_of(*drawn), series).set_index("nodule")
    by_reader = [np.hypot(1, 15), np.hypot(7, 3.5)]
    assert found["n_readers"].tolist() == [2, 1]
    assert found["diameter_mm"].tolist() == pytest.approx([np.mean(by_reader), 0.0], rel=1e-5)


def test_no_marks_are_no_nodules():
    none = tables.empty("marks")
    assert measured(
        none, pd.DataFrame({"series_uid": ["s"], "spacing_y_mm": [1.0], "spacing_x_mm": [1.0]})
    ).empty
    assert not mask(none, row_of(), 64).any()
