"""Folds are an axis of the grid: every patient is test once, and data are prepared once for all turns."""

import pandas as pd
import pytest
from noise_cohort import LENGTH, SIDE, write_cohort

from ctlib.core import tables
from ctlib.core.workspace import PROJECT, Workspace
from ctlib.datasets.clips import SAMPLERS
from ctlib.datasets.prepare import Preparation
from ctlib.datasets.splits import SplitError, file_for, read_folds, read_splits, rotate_folds
from ctlib.grid.execute import expand, left_out
from ctlib.grid.expand import arms, skipped
from ctlib.models.weights.catalog import InitError
from ctlib.training.finetune import execute
from ctlib.training.results import collect
from ctlib.training.run import fingerprint, labelled_clips, splits_of

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDS_FILE = PROJECT / "params" / "lidc" / "folds.csv"
SETTINGS = {
    **{"size": "tiny", "matrix_px": SIDE, "clip_length": LENGTH, "crop_px": SIDE - 2, "rotation_deg": 0.0},
    **{"epochs": 1, "steps_per_epoch": 0, "batch_size": 4, "weight_decay": 0.0, "optimizer": "adam"},
    **{"schedule": "constant", "patience": 0, "precision": "fp32", "study_label": "exam"},
}


@pytest.fixture
def workspace(tmp_path):
    """LIDC's cohort in five folds, RSPECT's in one split."""
    made = Workspace(tmp_path / "work")
    write_cohort(made, "lidc", n_folds=5)
    write_cohort(made, "rspect")
    return made


def runs_of(workspace, **changes):
    asked = {"tasks": ["lidc_nodule"], "backbones": ["resnet18"], "inits": ["random"], "fractions": [1.0]}
    return expand(workspace, **{**asked, "seeds": [0], "lr": 1e-3, **SETTINGS, **changes})


# turns


def test_a_turn_is_the_split_of_its_fold():
    folds = read_folds(FOLDS_FILE)
    assert len(folds) == 1010 and set(folds["fold"]) == set(range(5))
    for base in (0, 3):
        splits = read_splits(FOLDS_FILE, base)
        for turn in range(5):
            expected = read_splits(FOLDS_FILE, (base + turn) % 5)
            pd.testing.assert_frame_equal(rotate_folds(splits, folds, turn), tables.check(expected, "splits"))


def test_every_patient_is_test_once_and_never_beside_training(workspace):
    splits = [splits_of(workspace, "lidc", fold) for fold in range(5)]
    tested = pd.concat(split[split["split"] == "test"] for split in splits)
    assert len(tested) == tested["patient_id"].nunique() == 20
    for split in splits:
        assert split["patient_id"].is_unique and split["split"].value_counts().to_dict()["train"] == 12
    pd.testing.assert_frame_equal(splits[0], tables.read("splits", workspace.table("splits", "lidc")))


def test_folds_that_are_not_there_are_refused(workspace):
    with pytest.raises(SplitError, match="folds has 5; the cohort has 5 folds, so give 0 to 4"):
        runs_of(workspace, folds=[5])
    with pytest.raises(ValueError, match="fold is -1; give 0 or more"):
        runs_of(workspace)[0].__class__(**{**runs_of(workspace)[0].__dict__, "fold": -1})
    path = workspace.table("splits", "lidc")
    shuffled = tables.read("splits", path).assign(split=["test", "train"] * 10)
    tables.write(shuffled, "splits", path)
    with pytest.raises(SplitError, match="tables splits and folds are not of one file; run 01_explore_data"):
        runs_of(workspace, folds=[1])


def test_a_file_of_one_cohort_leaves_others_alone():
    assert file_for("lidc", "lidc=a/b.csv") == "a/b.csv" and file_for("rspect", "lidc=a/b.csv") == ""
    assert file_for("rspect", "a/b=c.csv") == "a/b=c.csv" and file_for("rspect", "") == ""


def test_preparing_writes_the_folds_under_pseudonyms(tmp_path):
    class Cohort:
        name, splits = "lidc", {}

    rows = "".join(f"P{i},{i % 3},x\n" for i in range(12))
    (tmp_path / "folds.csv").write_text(f"patient_id, fold ,other\n{rows}\n")
    work = Workspace(tmp_path / "work")
    plan = Preparation(work, {}, 8, splits_file=str(tmp_path / "folds.csv"), fold=1)
    from ctlib.core.pseudonyms import Identity

    pseudonym = Identity.at("public", work.root).patient
    ids = [pseudonym(f"P{i}") for i in range(9)]  # the last three are not in the cohort
    Cohort.series = pd.DataFrame({"patient_id": ids, "label": [0, 0, 0, 1, 1, 1, 0, 1, 0], "series_uid": "s"})
    splits = plan.split(Cohort)
    folds = tables.read("folds", work.table("folds", "lidc")).set_index("patient_id")["fold"]
    assert folds.to_dict() == {pseudonym(f"P{i}"): i % 3 for i in range(9)}
    assert set(folds[splits.loc[splits["split"] == "test", "patient_id"]]) == {1}


# runs of several turns


def test_folds_are_an_axis_of_the_grid(workspace):
    runs = runs_of(workspace, folds=[0, 1, 2, 3, 4], seeds=[0, 1])
    assert len({run.run_id for run in runs}) == len(runs) == 10
    assert len({run.data for run in runs}) == 5  # each turn has its own data
    assert runs[0] == runs_of(workspace)[0] == runs_of(workspace, folds=[0])[0]  # turn 0 is the single split
    assert [(run.seed, run.fold) for run in runs][:6] == [(0, fold) for fold in range(5)] + [(1, 0)]
    assert fingerprint(workspace, "lidc", fold=2) == runs[2].data


def test_a_cohort_without_folds_has_its_single_split(workspace):
    tasks = ["lidc_nodule", "rspect_pe"]
    runs = runs_of(workspace, tasks=tasks, folds=[0, 1, 2])
    assert [(run.task, run.fold) for run in runs] == [
        *(("lidc_nodule", 0), ("rspect_pe", 0)),
        *(("lidc_nodule", 1), ("lidc_nodule", 2)),
    ]
    (line,) = left_out(workspace, tasks, ["resnet18"], ["random"], [0, 1, 2])
    assert line.startswith("rspect_pe has no folds") and left_out(workspace, tasks, [], [], [0]) == []


def test_runs_of_all_turns_score_every_patient_once(workspace):
    runs = runs_of(workspace, folds=[0, 1, 2, 3, 4])
    for run in runs:
        execute(str(workspace.root), run)
    found = collect(workspace, runs)
    assert found["runs"]["fold"].tolist() == [0, 1, 2, 3, 4]
    tested = found["predictions"].query("split == 'test'").drop_duplicates(["run_id", "patient_id"])
    assert len(tested) == tested["patient_id"].nunique() == 20
    for run in runs:  # none of them learnt from a patient that it is judged by
        rows = labelled_clips(workspace, "lidc", fold=run.fold)
        split = rows.drop_duplicates("patient_id").set_index("patient_id")["split"]
        mine = tested.loc[tested["run_id"] == run.run_id, "patient_id"]
        assert set(split[mine]) == {"test"}


@pytest.mark.parametrize(("fraction", "flaws", "batches"), [(1.0, (), 14), (0.5, (), 8), (0.5, "fresh", 7)])
def test_without_a_number_of_steps_an_epoch_is_all_clips(workspace, monkeypatch, fraction, flaws, batches):
    drawn = []
    sampler = SAMPLERS["balanced"]
    monkeypatch.setitem(
        SAMPLERS, "balanced", lambda labels, n, seed: drawn.append(n) or sampler(labels, n, seed)
    )
    flaws = ("fresh_fraction",) if flaws else ()
    (run,) = runs_of(workspace, fractions=[fraction], flaws=flaws)
    execute(str(workspace.root), run)
    assert drawn == [4 * batches]


# combinations that cannot be


def test_what_was_learnt_from_a_cohort_is_left_out_for_its_task_alone():
    tasks, inits = ["lidc_nodule", "rspect_pe"], ["random", "ct_lidc", "frozen:ct_rspect", "ct_lidc_ssl"]
    found = {(task, init) for task, _, init in arms(tasks, ["slow_r50"], inits)}
    assert found == {(t, i) for t in tasks for i in inits} - {
        ("lidc_nodule", "ct_lidc"),
        ("rspect_pe", "frozen:ct_rspect"),
    }
    assert skipped(tasks, ["slow_r50"], inits) == [
        "Init ct_lidc is left out for lidc_nodule: it was learnt from its labels.",
        "Init frozen:ct_rspect is left out for rspect_pe: it was learnt from its labels.",
    ]
    assert skipped(tasks, ["slow_r50"], ["random"]) == []


def test_networks_without_published_weights_are_left_out_of_that_init_alone():
    networks, inits = ["slow_r50", "resnet18"], ["random", "kinetics400", "imagenet", "kinetics400+ct_lidc"]
    found = [(backbone, init) for _, backbone, init in arms(["rspect_pe"], networks, inits)]
    assert found == [
        *(("slow_r50", "random"), ("slow_r50", "kinetics400"), ("slow_r50", "kinetics400+ct_lidc")),
        *(("resnet18", "random"), ("resnet18", "imagenet")),
    ]
    with pytest.raises(InitError, match="init kinetics400 has no weights for resnet18; it has some for"):
        arms(["rspect_pe"], ["resnet18"], ["random", "kinetics400"])
