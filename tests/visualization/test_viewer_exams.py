import numpy as np
import pandas as pd
import pytest

from ctlib.core import tables
from ctlib.core.workspace import MissingInput, Workspace
from ctlib.datasets.clips import clip_table
from ctlib.datasets.store import Store
from ctlib.io.volume import Volume
from ctlib.visualization import viewer

TASK, SIDE, N_SLICES, LENGTH = "lidc_nodule", 8, 8, 4
EXAMS = {"s1": ("s1.a", "s1.b"), "s2": ("s2.a",)}
"""Series by study: the first has two, whose clips are counted on."""
SCORES = {
    "random": {"s1": (0.1, 0.2, 0.3, 0.4), "s2": (0.5, 0.6)},
    "video": {"s1": (0.2, 0.3, 0.4, 0.5), "s2": (0.9, 0.1)},
}
"""Score of each clip by init; the highest differ by 0.1 and 0.3."""


@pytest.fixture
def work(tmp_path):
    """Tables and volumes of a cohort, as 01_explore_data leaves them."""
    made = Workspace(tmp_path)
    store, series, slices = Store(made.store("lidc"), SIDE), [], []
    for study, uids in EXAMS.items():
        for value, uid in enumerate(uids):
            hu = np.full((N_SLICES, SIDE, SIDE), -800 + 100 * value, np.int16)
            store.put(Volume(hu, (2.0, 1.0, 1.0), uid, (0.0, 0.0, 0.0)))
            row = {"cohort": "lidc", "patient_id": f"p{study}", "study_uid": study, "series_uid": uid}
            row |= {"n_files": N_SLICES, "n_slices": N_SLICES, "rows_px": SIDE, "cols_px": SIDE}
            row |= {"spacing_z_mm": 2.0, "spacing_y_mm": 1.0, "spacing_x_mm": 1.0, "thickness_mm": 2.0}
            series.append(row | {"kernel": None, "manufacturer": None, "label": int(study == "s1")})
            rows = {"series_uid": uid, "slice": range(N_SLICES), "z_mm": 0.0, "label": [value] * N_SLICES}
            slices.append(pd.DataFrame(rows))
    frames = {name: tables.empty(name) for name in ("problems", "marks")}
    frames["series"] = tables.check(pd.DataFrame(series), "series")
    frames["slices"] = tables.check(pd.concat(slices), "slices")
    frames["clips"] = clip_table(frames["slices"], LENGTH, min_positive=2)
    for name, frame in frames.items():
        tables.write(frame, name, made.table(name, "lidc"))
    return made


def tried(fractions=(1.0,), inits=("random", "video")):
    """Tables `runs` and `predictions`, no more columns than are read; scores halve with the fraction."""
    runs, predictions = [], []
    for fraction in fractions:
        for init in inits:
            run = f"{init}{fraction}"
            given = {"task": TASK, "backbone": "net", "init": init, "fraction": fraction}
            runs.append({"run_id": run, "status": "finished", **given})
            for study, scores in SCORES[init].items():
                rows = {"clip": range(len(scores)), "score": np.multiply(scores, fraction)}
                place = {"run_id": run, "split": "test", "study": study, "study_label": int(study == "s1")}
                predictions.append(pd.DataFrame(rows).assign(**place))
    return pd.DataFrame(runs), pd.concat(predictions)


def test_the_exam_on_which_two_inits_differ_most_comes_first(work):
    found = viewer.exams_of(work, *tried(), TASK, ["net"], ["random", "video"])
    assert found.table["series_uid"].tolist() == ["s2.a", "s1.a"]
    assert found.table["patient_id"].tolist() == ["ps2", "ps1"]
    assert found.table["disagreement"].tolist() == pytest.approx([0.3, 0.1])


def test_each_series_of_an_exam_has_its_own_volume_labels_and_scores(work):
    found = viewer.exams_of(work, *tried(), TASK, [], ["random", "video"])
    for uid, value, span in (("s1.a", 0, slice(0, 2)), ("s1.b", 1, slice(2, 4))):
        scene = found(uid)
        assert scene.volume.series_uid == uid and scene.hu_window == "lung"
        assert (scene.volume.hu == -800 + 100 * value).all() and list(scene.labels) == [value] * N_SLICES
        assert list(scene.clips["series_uid"].unique()) == [uid]
        for init in ("random", "video"):
            assert list(scene.runs[init].scores) == pytest.approx(SCORES[init]["s1"][span])


def test_the_largest_fraction_is_taken_unless_one_is_asked_for(work):
    given = tried((0.5, 1.0))
    for fraction, share in ((None, 1.0), (0.5, 0.5)):
        found = viewer.exams_of(work, *given, TASK, [], ["random", "video"], fraction)
        expected = np.multiply(SCORES["video"]["s2"], share)
        assert list(found("s2.a").runs["video"].scores) == pytest.approx(expected)


def test_what_is_not_there_is_said(work):
    with pytest.raises(ValueError, match="no finished run of lidc_nodule from video at fraction 1"):
        viewer.exams_of(work, *tried(inits=("random",)), TASK, [], ["random", "video"])
    work.table("clips", "lidc").unlink()
    with pytest.raises(MissingInput, match="01_explore_data"):
        viewer.exams_of(work, *tried(), TASK, [], ["random", "video"])
