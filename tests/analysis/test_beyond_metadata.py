"""Networks beside what needs no image: size that tells the label is found, and what networks add to it."""

import dataclasses
import html
import math

import numpy as np
import pandas as pd
import pytest
from scored_grid import scored_grid
from sklearn.metrics import roc_auc_score

from ctlib.analysis.questions import beyond_metadata
from ctlib.analysis.questions.beyond_metadata import ALL, NO_IMAGE, Part, arms_without_image
from ctlib.analysis.study import Study
from ctlib.core import ParameterError, tables
from ctlib.core.workspace import Workspace
from ctlib.datasets.metadata import FILES_ALONE, TOGETHER
from ctlib.metrics import Bootstrap
from ctlib.visualization.html import figure_html

N, N_TRAIN = 120, 80
LABEL = np.arange(N + N_TRAIN) % 2
SIZE = 50 + 30 * LABEL + np.random.default_rng(3).normal(0, 30, N + N_TRAIN)
NETWORKS = ["slow_r50", "penet"]


def write_tables(
    workspace: Workspace, size: np.ndarray | None = SIZE, n_slices: int | np.ndarray = 4
) -> None:
    """One exam a patient; the first `N` are those that `scored_grid` tests, the others are learnt from."""
    uids = [f"s{i:03d}" for i in range(N + N_TRAIN)]
    series = pd.DataFrame({"series_uid": uids, "study_uid": uids, "patient_id": uids, "label": LABEL})
    series = series.assign(
        cohort="lidc", n_files=4, n_slices=n_slices, rows_px=64, cols_px=64, spacing_z_mm=2.0
    )
    series = series.assign(
        spacing_y_mm=1.0, spacing_x_mm=1.0, thickness_mm=None, kernel=None, manufacturer="A"
    )
    splits = pd.DataFrame({"patient_id": uids, "split": ["test"] * N + ["train"] * N_TRAIN})
    made = {"series": series, "splits": splits}
    made |= {name: tables.empty(name) for name in ("slices", "marks", "clips")}
    if size is not None:
        made["features"] = pd.DataFrame({"series_uid": uids, "name": "area_mm2", "value": size})
    for name, frame in made.items():
        tables.write(frame, name, workspace.table(name, "lidc"))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    made = Workspace(tmp_path)
    write_tables(made)
    return made


def study_of(workspace: Workspace, apart: dict[str, float], part: str = "") -> Study:
    runs, predictions = scored_grid("lidc_nodule", LABEL[:N], apart)
    runs = runs.assign(fold=0) if "fold" not in runs else runs
    how = Bootstrap(300, seed=1)
    curves = tables.empty("curves")
    return Study(
        runs, predictions, curves, pd.DataFrame(), None, "random", "video", NETWORKS, how=how, work=workspace,
        part=part,
    )  # fmt: skip


def row_of(table: pd.DataFrame, label: str, exams: str = ALL) -> dict:
    [row] = table[(table["label"] == label) & (table["exams"] == exams)].to_dict("records")
    return row


def test_a_regression_on_size_scores_the_test_exams_of_each_run(workspace):
    runs, predictions = arms_without_image(study_of(workspace, {"random": 0.5, "video": 2.5}), "lidc_nodule")
    assert set(runs["backbone"]) == {"area_mm2", TOGETHER} and set(runs["init"]) == {NO_IMAGE}
    assert len(runs) == 2 * 3 and runs["run_id"].is_unique  # three seeds of one fraction
    one = predictions[predictions["run_id"] == runs["run_id"].iloc[0]]
    assert set(one["study"]) == {f"s{i:03d}" for i in range(N)} and one["score"].between(0, 1).all()
    auroc = roc_auc_score(one["study_label"], one["score"])
    assert auroc == pytest.approx(roc_auc_score(LABEL[:N], SIZE[:N]), abs=0.03)
    assert one["score"].mean() == pytest.approx(0.5, abs=0.1)


def test_the_labels_of_test_exams_are_not_learnt_from(workspace):
    study = study_of(workspace, {"random": 0.5, "video": 2.5})
    before = arms_without_image(study, "lidc_nodule")[1]["score"].to_numpy()
    series = tables.read("series", workspace.table("series", "lidc"))
    series.loc[: N - 1, "label"] = 1 - series.loc[: N - 1, "label"]
    tables.write(series, "series", workspace.table("series", "lidc"))
    assert arms_without_image(study, "lidc_nodule")[1]["score"].to_numpy() == pytest.approx(before)


def test_networks_that_know_more_than_size_are_said_to_and_others_are_not(workspace):
    study = study_of(workspace, {"random": 0.0, "video": 3.5})
    table = beyond_metadata.BEYOND_METADATA.compute(study)
    more, less = row_of(table, "video − area_mm2"), row_of(table, "random − area_mm2")
    assert more["low"] > 0 > less["high"] and more["auroc_second"] == less["auroc_second"]
    assert row_of(table, "video − random")["effect"] == pytest.approx(more["effect"] - less["effect"])
    said = beyond_metadata.say_beyond(table)
    assert "networks from video minus the best without an image" in said and ": they see more." in said
    assert "networks from random minus" in said and ": they are worse." in said
    even = beyond_metadata.say_beyond(
        beyond_metadata.BEYOND_METADATA.compute(study_of(workspace, {"random": 0.5, "video": 1.1}))
    )
    assert ": not shown to see more." in even


def test_the_part_is_judged_by_its_own_exams(workspace):
    part = "40 <= area_mm2 <= 90"
    study = study_of(workspace, {"random": 0.5, "video": 2.5}, part)
    table = beyond_metadata.BEYOND_METADATA.compute(study)
    inside = (SIZE[:N] >= 40) & (SIZE[:N] <= 90)
    row = row_of(table, "video − area_mm2", part)
    assert row["n_patients"] == inside.sum() and row["n_positive"] == LABEL[:N][inside].sum()
    assert row["auroc_second"] == pytest.approx(roc_auc_score(LABEL[:N][inside], SIZE[:N][inside]), abs=0.08)
    assert row["auroc_second"] < row_of(table, "video − area_mm2")["auroc_second"]
    assert part in beyond_metadata.say_beyond(table)
    asked = beyond_metadata.BEYOND_METADATA
    shown = figure_html(asked.draw(study, table), asked.alt, asked.caption(table))
    assert "image/svg+xml" in shown and html.escape(f"Part: {part}.") in shown


def test_files_alone_and_all_together_stand_beside_each_feature(tmp_path):
    made = Workspace(tmp_path)
    write_tables(made, n_slices=4 + LABEL)
    runs, _ = arms_without_image(study_of(made, {"random": 0.5, "video": 2.5}), "lidc_nodule")
    assert list(dict.fromkeys(runs["backbone"])) == ["slice count", "area_mm2", FILES_ALONE, TOGETHER]


def test_where_nothing_differs_there_is_a_sentence(tmp_path):
    made = Workspace(tmp_path)
    write_tables(made, size=None)
    answer = beyond_metadata.BEYOND_METADATA.answer(study_of(made, {"random": 0.5, "video": 2.5}))
    assert answer.table.empty and "folder_features of 01_explore_data" in answer.sentence
    alone = dataclasses.replace(study_of(made, {"random": 0.5, "video": 2.5}), averaged=["x3d_m"])
    write_tables(made)
    assert "no averaged network" in beyond_metadata.BEYOND_METADATA.answer(alone).sentence


@pytest.mark.parametrize("text", ["area_mm2", "area_mm2 < 3", "40 <= area mm2 <= 200", "40 <= 3", "x <= y"])
def test_a_part_of_another_form_is_refused(text):
    with pytest.raises(ParameterError, match="write it like 40 <= area_mm2 <= 200"):
        Part.of(text)


def test_a_part_of_an_unknown_name_is_refused_with_those_that_are_known(workspace):
    with pytest.raises(ParameterError, match=r"area_mm3.*area_mm2"):
        beyond_metadata.BEYOND_METADATA.compute(
            study_of(workspace, {"random": 0.5, "video": 1.0}, "area_mm3 <= 4")
        )
    assert Part.of("n_slices <= 5") == Part("n_slices", -math.inf, 5.0)
