import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from ctlib.datasets import quality
from ctlib.datasets.store import Store
from ctlib.io.volume import Volume
from ctlib.visualization import figures
from ctlib.visualization.datasets import AIR, BODY
from ctlib.visualization.html import svg
from ctlib.visualization.style import FAINT, INK

FEATURES = ["all together", "slice count", "kernel"]


def baseline(aurocs=(0.8, 0.5, np.nan), reason="not in the files"):
    table = pd.DataFrame({"feature": FEATURES, "auroc": aurocs}).assign(reason="")
    table = table.assign(low=0.4, high=0.6, n_exams=40, n_patients=30)
    table.loc[table["auroc"].isna(), "reason"] = reason
    return table.assign(n_positive=20)


def checks(n=10, **columns):
    table = pd.DataFrame({"series_uid": [f"s{i}" for i in range(n)], "air_hu": -1000.0, "tissue_hu": 40.0})
    table = table.assign(body_hu=40.0, padding_share=0.1, body_share=0.4, dense_share=0.02)
    return table.assign(**columns)


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_a_baseline_shows_each_interval_and_marks_chance():
    figure = figures.metadata_baseline({"a": baseline(), "b": baseline((0.45, 0.7, 0.6))})
    left, right = figure.axes
    intervals = [
        line for line in left.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] in (0, 1, 2)
    ]
    ends = {int(line.get_ydata()[0]): tuple(np.round(line.get_xdata(), 3)) for line in intervals[:2]}
    assert ends == {0: (0.4, 0.6), 1: (0.4, 0.6)}
    markers = [line for line in left.lines if len(line.get_xdata()) == 1]
    assert [to_hex(line.get_color()) for line in intervals[:2]] == [FAINT, FAINT]
    assert [to_hex(line.get_color()) for line in markers] == [BODY.lower(), INK.lower()]
    assert any(list(line.get_xdata()) == [0.5, 0.5] for line in left.lines)
    assert [label.get_text() for label in left.get_yticklabels()] == FEATURES
    assert texts(left) == ["0.80  (chance 0.40 to 0.60)", "0.50  (chance 0.40 to 0.60)", "not in the files"]
    assert left.get_xlim() == right.get_xlim() and sum(left.get_xlim()) == pytest.approx(1.0)
    assert left.get_ylim()[0] > left.get_ylim()[1]  # all together is on top
    assert "30 patients, 40 exams, 20 with disease" in left.get_title(loc="left")


def test_a_baseline_without_an_answer_says_why_once():
    table = baseline((np.nan,) * 3, "no exam has a label")
    figure = figures.metadata_baseline({"a": table})
    assert [text for text in texts(figure.axes[0]) if text] == ["no exam has a label"]
    assert svg(figure)


def heights(ax, colour):
    """Heights of the points of a colour."""
    parts = [part for part in ax.collections if len(part.get_facecolor())]
    own = [part for part in parts if to_hex(part.get_facecolor()[0]) == colour.lower()]
    found = np.concatenate([np.ma.getdata(part.get_offsets())[:, 1] for part in own])
    return sorted(found[np.isfinite(found)])


def test_peaks_show_every_volume_and_cross_out_what_is_off():
    air = [-1000.0] * 8 + [np.nan, -975.0]
    body = [40.0] * 8 + [1074.0, np.nan]
    table = checks(air_hu=air, body_hu=body, body_share=[0.4] * 9 + [0.02], dense_share=[0.02] * 8 + [0.4, 0])
    figure = figures.hu_peaks({"a": table, "b": checks(3)})
    left, right = figure.axes
    assert heights(left, AIR) == sorted([-1000.0] * 8 + [-975.0])
    assert heights(left, BODY) == sorted([40.0] * 8 + [1074.0])
    assert left.get_title(loc="left") == "a: 10 volumes, 2 off the HU scale"
    assert right.get_title(loc="left") == "b: 3 volumes, 0 off the HU scale"
    assert "1 without air" in left.get_xlabel() and "1 without a body" in left.get_xlabel()
    assert left.get_ylim() == right.get_ylim() and left.get_ylim()[0] < -1024 and left.get_ylim()[1] > 1074


def test_peaks_of_thousands_of_volumes_fit_a_report():
    rng = np.random.default_rng(0)
    many = checks(8000, air_hu=rng.normal(-1000, 5, 8000), body_hu=rng.normal(40, 20, 8000))
    assert len(svg(figures.hu_peaks({"a": many}))) < 200_000


def test_extreme_exams_are_pictures_with_their_reason(tmp_path):
    store = Store(tmp_path, 16)
    depths, uids = [4, 9, 30], ["a", "b", "c"]
    for uid, depth in zip(uids, depths, strict=True):
        hu = np.full((depth, 16, 16), -1000, np.int16)
        hu[depth // 2] = depth
        store.put(Volume(hu, (2.0, 1.0, 1.0), uid, (0.0, 0.0, 0.0)))
    series = pd.DataFrame({"series_uid": uids, "n_slices": depths, "spacing_z_mm": 2.0})
    series = series.assign(rows_px=16, cols_px=16, spacing_y_mm=1.0, spacing_x_mm=1.0)
    cohort = type("Tables", (), {"series": series, "slices": pd.DataFrame()})()
    pictures = figures.extreme_exams(store, cohort, checks(1))
    assert [picture.title for picture in pictures] == ["fewest slices, 4", "most slices, 30"]
    assert [int(picture.hu[0, 0]) for picture in pictures] == [4, 30]  # the middle slice
    assert len(quality.extremes(series, checks(1))) == len(pictures)
    figure = figures.montage(pictures, "lung")
    assert svg(figure)
