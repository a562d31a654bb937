"""Maps are scored where the disease is, gains are over random weights, and a trained network has one."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from noise_cohort import LENGTH, N_SLICES, SIDE, write_cohort

from ctlib.analysis.questions import localization
from ctlib.analysis.questions.localization import UNTRAINED
from ctlib.core import tables
from ctlib.core.workspace import Workspace
from ctlib.grid.execute import expand
from ctlib.metrics import Bootstrap
from ctlib.training.finetune import execute
from ctlib.training.results import collect
from ctlib.visualization import figures

pytestmark = pytest.mark.usefixtures("one_thread")
HOW = Bootstrap(500, seed=1)
SPACING = (2.0, 1.0, 1.0)
BRIGHT = N_SLICES // 2
"""Slices of an ill exam of the noise cohort that are bright, from the lowest on."""


# ---- scores of a map --------------------------------------------------------------------


def values(found, labels, inside):
    return {name: made.value for name, made in localization.scores(found, labels, inside, SPACING).items()}


def placed(*voxels, shape=(6, 20, 20)) -> np.ndarray:
    found = np.zeros(shape, np.float32)
    for at in voxels:
        found[at] = 1
    return found


def test_a_map_in_the_nodule_scores_all_and_one_elsewhere_nothing():
    inside = placed((2, 4, 5), (2, 4, 6), (3, 4, 5)) > 0
    labels = inside.any(axis=(1, 2)).astype(int)
    assert set(values(inside.astype(np.float32), labels, inside).values()) == {1.0}
    away = values(placed((5, 19, 19)), labels, inside)
    assert away["slice_auroc"] == pytest.approx(0.375) and away["slice_hit"] == away["nodule_hit"] == 0
    assert away["voxel_auroc"] < 0.5


def test_the_peak_may_miss_by_the_tolerance_in_mm_and_no_more():
    inside = placed((2, 0, 0)) > 0
    labels = [0, 0, 1, 0, 0, 0]
    assert localization.TOLERANCE_MM == 15.0
    for column, hit in ((15, 1.0), (16, 0.0)):
        assert values(placed((2, 0, column)), labels, inside)["nodule_hit"] == hit
    # along the slices a voxel is 2 mm: two slices and 14 px are 14.56 mm, 15 px would be 15.52
    assert values(placed((4, 0, 14)), labels, inside)["nodule_hit"] == 1
    assert values(placed((4, 0, 15)), labels, inside)["nodule_hit"] == 0


def test_a_map_of_nothing_is_no_hit_and_chance():
    inside = placed((2, 4, 5)) > 0
    found = values(placed(), [0, 0, 1, 0, 0, 0], inside)
    assert found == {"slice_auroc": 0.5, "slice_hit": 0.0, "voxel_auroc": 0.5, "nodule_hit": 0.0}


def test_what_was_not_seen_or_not_drawn_has_no_score():
    inside = placed((2, 4, 5)) > 0
    found = placed((2, 4, 5))
    found[:, :, :6] = np.nan
    made = localization.scores(found, [0, 0, 1, 0, 0, 0], inside, SPACING)
    assert made["voxel_auroc"].reason == "no nodule of enough readers lies within what the network saw"
    made = localization.scores(placed((2, 4, 5)), [0] * 6, None, SPACING)
    assert made["slice_auroc"].reason == "no slice has a label of disease"
    assert made["voxel_auroc"].reason == "nobody drew a contour"
    assert np.isnan(made["nodule_hit"].value)
    all_ill = localization.scores(placed((2, 4, 5)), [1] * 6, None, SPACING)
    assert all_ill["slice_auroc"].reason == "all 6 labels are 1" and all_ill["slice_hit"].value == 1


# ---- gains ------------------------------------------------------------------------------


def looked(gain=0.2, n=20, seeds=3, networks=("slow_r50", "penet"), seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    hard, rows = rng.normal(0, 0.05, n), []
    for network in networks:
        for init, mean, draws in (("video", 0.5 + gain, 1), (UNTRAINED, 0.5, 4)):
            for s in range(seeds):
                for draw in range(draws):
                    found = mean + hard + rng.normal(0, 0.03, n) + rng.normal(0, 0.02)
                    rows += [
                        ("t", network, init, s, draw, "r", f"p{i}", f"s{i}", "slice_auroc", value, "")
                        for i, value in enumerate(found)
                    ]
    return pd.DataFrame(rows, columns=localization.COLUMNS)


def test_the_gain_is_the_difference_of_means_with_an_interval():
    table = looked()
    found = localization.gains(table, HOW)
    assert found["backbone"].tolist() == ["slow_r50", "penet", "mean of 2 networks"]
    for row, members in zip(
        found.itertuples(), (["slow_r50"], ["penet"], ["slow_r50", "penet"]), strict=True
    ):
        mean = table[table["backbone"].isin(members)].groupby("init")["value"].mean()
        assert row.value == pytest.approx(mean["video"])
        assert row.untrained == pytest.approx(mean[UNTRAINED])
        assert row.gain == pytest.approx(mean["video"] - mean[UNTRAINED])
        assert row.gain_low > 0 and row.low < row.value < row.high <= 1
        assert (row.n_patients, row.n_exams, row.n_seeds, row.reason) == (20, 20, 3, "")
    nothing = localization.gains(looked(gain=0.0), HOW)
    assert (nothing["gain_low"] < 0).all() and (nothing["gain_high"] > 0).all()


def test_exams_of_a_patient_count_once_in_the_interval():
    table = looked(seeds=1, networks=("penet",))
    alone = localization.gains(table, HOW).iloc[0]
    twice = pd.concat([table, table.assign(study=table["study"] + "b")])
    doubled = localization.gains(twice, HOW).iloc[0]
    assert (doubled["n_exams"], doubled["n_patients"]) == (40, 20)
    assert doubled["high"] - doubled["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.02)


def test_what_is_missing_is_named_and_not_averaged():
    table = looked()
    lacking = table[~((table["init"] == "video") & (table["seed"] == 2) & (table["backbone"] == "penet"))]
    found = localization.gains(lacking, HOW).set_index("backbone")
    assert found["gain"].isna().to_dict() == {"slow_r50": False, "penet": True, "mean of 2 networks": True}
    assert found["reason"]["penet"] == "video lacks runs of some seed"
    blind = table.assign(
        value=table["value"].where(table["study"] != "s3"), reason=np.where(table["study"] == "s3", "why", "")
    )
    found = localization.gains(blind, HOW).iloc[0]
    assert found["n_exams"] == 19 and found["reason"] == "1 of 20 exams have no value: why"
    found = localization.gains(table.assign(value=np.nan, reason="why"), HOW)
    assert found["gain"].isna().all() and (found["reason"] == "20 of 20 exams have no value: why").all()
    assert localization.gains(table[:0], HOW).empty


def test_sentences_say_what_is_shown_and_what_is_not():
    tables = [localization.gains(looked(gain), HOW) for gain in (0.2, 0.0, -0.2)]
    said = [localization.say_looks(table) for table in tables]
    means = [table[table["backbone"] == "mean of 2 networks"].iloc[0] for table in tables]
    assert means[0]["value"] == pytest.approx(0.684, abs=5e-4) and means[0]["gain_low"] > 0
    head = (
        "t: of 3 scores of maps, {} lie above that of random weights, {} below it, {} are inconclusive; test "
    )
    for text, counts in zip(said, ((3, 0, 0), (0, 0, 3), (0, 3, 0)), strict=True):
        assert text == head.format(*counts) + "patients with disease: 20."
    blind = localization.gains(looked().assign(value=np.nan, reason="why"), HOW)
    assert localization.say_looks(blind) == "t, slice auroc: no interval: 20 of 20 exams have no value: why."
    figures.cam_scores(localization.gains(looked(), HOW))
    figures.cam_scores(localization.gains(looked()[:0], HOW))


# ---- runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Workspace, pd.DataFrame]:
    """Two seeds of a network that learnt what bright slices are; three readers drew where."""
    workspace = Workspace(tmp_path_factory.mktemp("seen"))
    write_cohort(workspace, "lidc")
    series = tables.read("series", workspace.table("series", "lidc"))
    rows, marks = [], []
    for row in series.itertuples():
        rows += [(row.series_uid, k, 0.0, row.label * int(k < BRIGHT)) for k in range(N_SLICES)]
        marks += [
            (row.series_uid, 0, reader, k, 0.0, True, "2,2 2,13 13,13 13,2")
            for k in range(BRIGHT * row.label)
            for reader in range(3)
        ]
    for name, made in (("slices", rows), ("marks", marks)):
        columns = [column.name for column in tables.SCHEMAS[name]]
        tables.write(pd.DataFrame(made, columns=columns), name, workspace.table(name, "lidc"))
    settings = {"size": "tiny", "matrix_px": SIDE, "clip_length": LENGTH, "crop_px": SIDE - 2}
    settings |= {"rotation_deg": 0.0, "epochs": 2, "steps_per_epoch": 12, "batch_size": 8}
    settings |= {"weight_decay": 0.0, "optimizer": "adamw", "schedule": "one_cycle", "patience": 0}
    settings |= {"precision": "fp32", "study_label": "exam", "keep": "last"}
    runs = expand(workspace, ["lidc_nodule"], ["resnet18"], ["random"], [1.0], [0, 1], 3e-3, **settings)
    for run in runs:
        execute(str(workspace.root), run)
    return workspace, collect(workspace, runs)["runs"]


@pytest.mark.slow
def test_a_trained_network_looks_where_the_disease_is_and_random_weights_do_not(finished):
    workspace, runs = finished
    said: list[str] = []
    table = localization.looked(workspace, runs, ["resnet18"], ["random"], echo=said.append)
    assert said == ["lidc_nodule, resnet18: 2 of 2 runs looked at."]
    n_exams = table["study"].nunique()
    assert len(table) == n_exams * 4 * (2 + 2 * localization.DRAWS)
    row = localization.gains(table, HOW).set_index("measure").loc["slice_auroc"]
    assert row["value"] > 0.85 and row["gain_low"] > 0


@pytest.mark.slow
def test_a_cap_draws_exams_before_it_looks_and_the_report_states_it(finished):
    workspace, runs = finished
    every = localization.looked(workspace, runs, ["resnet18"], ["random"], echo=str)
    n = every["study"].nunique()
    asked = {"there": workspace, "runs": runs[:1], "cam_backbones": ["resnet18"], "how": HOW}
    study = SimpleNamespace(**asked, baseline="random", compared="random", gradcam_exams=n)
    assert "of_exams" not in localization.compute_looks(study)  # all of them: a table as ever
    study.gradcam_exams = 2
    table = localization.compute_looks(study)
    assert set(table["n_exams"]) == {2}
    assert f"lidc_nodule: 2 of {n} test exams with disease were looked at, drawn" in localization.say_looks(
        table
    )
    draws = [
        set(
            localization.looked(workspace, runs[:1], ["resnet18"], ["random"], echo=str, at_most=2, seed=s)[
                "study"
            ]
        )
        for s in (0, 0, 1, 2, 3)
    ]
    assert draws[0] == draws[1] < set(every["study"]) and any(draws[0] != other for other in draws)


@pytest.mark.slow
def test_runs_that_cannot_be_looked_at_are_named(finished):
    workspace, runs = finished
    said: list[str] = []
    runs = runs.copy()
    runs.loc[0, "status"] = "failed"
    table = localization.looked(workspace, runs, ["resnet18"], ["random"], echo=said.append)
    assert "seed 0 is not looked at: run" in said[0] and said[0].endswith("is failed.")
    assert set(table["seed"]) == {1}
    none = localization.looked(workspace, runs[:1], ["resnet18"], ["random"], echo=said.append)
    assert none.empty and list(none) == [*localization.COLUMNS, "of_exams"]


@pytest.mark.slow
def test_exams_are_seen_side_by_side_on_the_same_slice(finished):
    workspace, runs = finished
    sights = localization.sights(workspace, runs, "lidc_nodule", "resnet18", ["random"], n=2)
    assert [list(sight.maps) for sight in sights] == [["random", UNTRAINED]] * 2
    for sight in sights:
        assert sight.slice < BRIGHT and sight.inside.sum() == 144
        for shown in sight.maps.values():
            assert shown.shape == (SIDE, SIDE) and np.isnan(shown[0]).all() and np.nanmax(shown) <= 1
    figure = figures.cam_slices(sights, "lung")
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[1:3] == ["finetuned from random", "random weights"] and len(figure.axes) == 6
    assert "HU window lung" in figure._supxlabel.get_text()
    assert localization.sights(workspace, runs, "lidc_nodule", "resnet18", ["random", "video"]) == []
    figures.cam_slices([], "lung")
