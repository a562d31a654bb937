"""Run ids change with what changes results and nothing else; results do not depend on who computes them."""

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from noise_cohort import SETTINGS as SHORT
from noise_cohort import SIDE, write_cohort
from safetensors.torch import load_file

from ctlib import metrics
from ctlib.core import GpuError, tables
from ctlib.core.locks import Busy, claimed
from ctlib.core.workspace import MissingInput, Workspace
from ctlib.datasets.store import Store
from ctlib.grid import maintenance, step_timing
from ctlib.grid.engine import Engine, Outcome
from ctlib.grid.estimate_profile import plan_of
from ctlib.grid.execute import expand, run_grid
from ctlib.grid.expand import arms
from ctlib.grid.gpus import Gpu
from ctlib.grid.step_timing import Timing, kind
from ctlib.io.volume import Volume
from ctlib.models.weights.load import Init, build_network, save_weights
from ctlib.training import finetune
from ctlib.training.device import Compute
from ctlib.training.finetune import execute
from ctlib.training.loop import FitError
from ctlib.training.results import collect, finished, predictions, study_auroc
from ctlib.training.run import (
    LATER,
    PROTOCOL_VERSION,
    Run,
    clip_settings,
    clips_of_run,
    digest,
    fingerprint,
    labelled_clips,
    store_of,
)
from ctlib.training.step import Step

SETTINGS = SHORT | {"rotation_deg": 10.0, "epochs": 3, "optimizer": "adamw", "schedule": "one_cycle"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Data of both cohorts and one set of weights; tests copy it."""
    workspace = Workspace(tmp_path_factory.mktemp("prepared"))
    for cohort in ("rspect", "lidc"):
        write_cohort(workspace, cohort)
    for backbone in ("resnet18", "slow_r50"):
        made, _ = build_network(backbone, "tiny", Init("random", "drawn", "none", (0.4,), (0.2,)), seed=9)
        record = {"source": "a test", "licence": "none"}
        save_weights(made, workspace.weights("video", backbone), record)
    return workspace.root


@pytest.fixture
def workspace(prepared, tmp_path) -> Workspace:
    shutil.copytree(prepared, tmp_path / "work")
    return Workspace(tmp_path / "work")


@contextlib.contextmanager
def edited(workspace: Workspace, table: str, cohort: str = "lidc") -> Iterator[pd.DataFrame]:
    """A table, to be changed in place."""
    frame = tables.read(table, workspace.table(table, cohort))
    yield frame
    tables.write(frame, table, workspace.table(table, cohort))


def runs_of(workspace: Workspace, **changes) -> list[Run]:
    asked = {
        "tasks": ["rspect_pe", "lidc_nodule"],
        "backbones": ["resnet18"],
        "inits": ["random", "video"],
        "fractions": [0.5],
        "seeds": [0],
        "lr": 1e-3,
        **SETTINGS,
        **changes,
    }
    return expand(workspace, **asked)


def ids(runs: list[Run]) -> dict[tuple, str]:
    return {(run.task, run.backbone, run.init, run.fraction, run.seed): run.run_id for run in runs}


def changed(before: list[Run], after: list[Run]) -> set[tuple]:
    old, new = ids(before), ids(after)
    assert old.keys() == new.keys()
    return {key for key in old if old[key] != new[key]}


# ids


def test_ids_are_a_function_of_the_settings(workspace):
    runs = runs_of(workspace, seeds=[0, 1], fractions=[0.5, 1.0])
    assert len({run.run_id for run in runs}) == len(runs) == 16
    assert all(len(run.run_id) == 12 and int(run.run_id, 16) >= 0 for run in runs)
    assert runs_of(workspace, seeds=[0, 1], fractions=[0.5, 1]) == runs  # 1 and 1.0 are one fraction
    assert runs_of(workspace, seeds=[0, 0], fractions=[0.5]) == runs[:4]  # twice is once
    first_arms = {(run.task, run.init) for run in runs[:4]}
    assert len(first_arms) == 4  # early results cover all arms
    assert digest({"a": 1}) != digest({"a": 2})


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Run)])
def test_every_field_is_part_of_the_id(field):
    values = {"task": "lidc_nodule", "backbone": "resnet18", "init": "video", "fraction": 0.5, "seed": 0}
    run = Run(**values, lr=1e-3, data="d", weights="w", **SETTINGS)
    value = getattr(run, field)
    if isinstance(value, str):
        known = {"exam": "clips", "bce": "focal", "balanced": "shuffled", "none": "permuted_labels"}
        other = known.get(value, value + "x")
    else:
        known = {"flaws": ("fill",), "jitter_scale": 0.5, "dropout": 0.5}
        other = known[field] if field in known else value + 1
    assert dataclasses.replace(run, **{field: other}).run_id != run.run_id


def test_settings_that_came_later_leave_old_ids_alone():
    run = Run("lidc_nodule", "resnet18", "video", 0.5, 0, lr=1e-3, data="d", weights="w", **SETTINGS)
    settings = {name: value for name, value in dataclasses.asdict(run).items() if name not in LATER}
    assert run.run_id == digest({**settings, "protocol": PROTOCOL_VERSION})[:12]
    assert {name: getattr(run, name) for name in LATER} == LATER


def test_a_network_may_have_settings_of_its_own(workspace):
    asked = {"backbones": ["resnet18", "slow_r50"], "inits": ["random"]}
    before = runs_of(workspace, **asked)
    given = ["slow_r50.batch_size=3", "rspect_pe.resnet18.optimizer=sgd", "rspect_pe.resnet18.loss=focal"]
    after = runs_of(workspace, **asked, exceptions=given, loss="bce")
    found = {(run.task, run.backbone): (run.batch_size, run.optimizer, run.loss) for run in after}
    assert found == {
        ("rspect_pe", "resnet18"): (4, "sgd", "focal"),
        ("lidc_nodule", "resnet18"): (4, "adamw", "bce"),
        ("rspect_pe", "slow_r50"): (3, "adamw", "bce"),
        ("lidc_nodule", "slow_r50"): (3, "adamw", "bce"),
    }
    assert changed(before, after) == {key for key in ids(before) if key[:2] != ("lidc_nodule", "resnet18")}
    for wrong in [
        "slow.batch_size=3",
        "slow_r50.batch=3",
        "slow_r50.clip_length=3",
        "batch_size=3",
        "slow_r50",
    ]:
        with pytest.raises(ValueError, match=re.escape(f"exceptions has {wrong!r}; give network")):
            runs_of(workspace, **asked, exceptions=[wrong])


def test_what_is_not_to_be_run_together_is_left_out(workspace):
    asked = {"inits": ["random", "video"], "fractions": [0.5, 1.0]}
    whole = runs_of(workspace, **asked)
    left = runs_of(workspace, **asked, leave_out=["lidc_nodule 50%", "rspect_pe video"])
    gone = {run for run in whole if (run.task, run.fraction) == ("lidc_nodule", 0.5)}
    gone |= {run for run in whole if (run.task, run.init) == ("rspect_pe", "video")}
    assert len(gone) == 4 and set(left) == set(whole) - gone
    for entry, word in (("lidc 50%", "lidc"), ("lidc_nodule 1%", "1%"), ("  ", "nothing")):
        with pytest.raises(ValueError, match=f"leave_out has '{entry}', but no run has {word}"):
            runs_of(workspace, **asked, leave_out=[entry])


def test_a_network_may_have_a_learning_rate_of_its_own(workspace):
    """Whether the others have one rate, or a search has found one for each arm."""
    asked = {"tasks": ["lidc_nodule"], "backbones": ["resnet18", "slow_r50"]}
    given = ["slow_r50.lr=0.02"]
    searched = {("lidc_nodule", "resnet18", "video"): 0.1, ("lidc_nodule", "slow_r50", "video"): 0.2}
    for lr, of_others in ((1e-3, 1e-3), (searched, 0.1)):
        runs = runs_of(workspace, **asked, lr=lr, exceptions=given)
        assert {(run.backbone, run.lr) for run in runs} == {("resnet18", of_others), ("slow_r50", 0.02)}
    assert {run.init for run in runs} == {"video"}  # an arm that has no rate yet gets no run by an exception


def test_loss_and_sampling_reach_the_training(workspace):
    asked = {"tasks": ["lidc_nodule"], "inits": ["random"], "steps_per_epoch": 0, "epochs": 1}
    curves = {}
    for changes in ({}, {"loss": "focal"}, {"sampling": "shuffled"}):
        (run,) = runs_of(workspace, **asked, **changes)
        result = execute(str(workspace.root), run)
        curves[tuple(changes)] = collect(workspace, [run])["curves"]["train_loss"][0]
        if changes == {"sampling": "shuffled"}:  # every clip was seen
            rows = labelled_clips(workspace, "lidc")
            patients = rows[rows["split"] == "train"]["patient_id"].nunique() // 2
            assert result["n_patients"] == patients and result["n_clips"] == 3 * result["n_studies"]
    assert curves[("loss",)] < 0.5 * curves[()] and curves[("sampling",)] != curves[()]


def test_the_version_of_the_protocol_is_part_of_the_id(workspace, monkeypatch):
    before = set(ids(runs_of(workspace)).values())
    monkeypatch.setattr("ctlib.training.run.PROTOCOL_VERSION", 99)
    assert before.isdisjoint(ids(runs_of(workspace)).values())


def test_one_voxel_changes_the_runs_of_its_cohort_only(workspace):
    before = runs_of(workspace)
    store = Store(workspace.store("lidc"), SIDE)
    hu = np.array(store.read("lidc.3.0"))
    hu[2, 3, 4] += 1
    store.put(Volume(hu, (2.0, 1.0, 1.0), "lidc.3.0", (0.0, 0.0, 0.0)))
    touched = changed(before, runs_of(workspace))
    assert touched == {key for key in ids(before) if key[0] == "lidc_nodule"}


@pytest.mark.parametrize("table", ["series", "clips", "splits"])
def test_one_label_or_split_changes_the_runs_of_its_cohort_only(workspace, table):
    before = runs_of(workspace)
    column = "split" if table == "splits" else "label"
    swapped = {"train": "val", "val": "test", "test": "train", 0: 1, 1: 0}
    with edited(workspace, table, "rspect") as frame:
        frame.loc[0, column] = swapped[frame.loc[0, column]]
    touched = changed(before, runs_of(workspace))
    assert touched == {key for key in ids(before) if key[0] == "rspect_pe"}


def test_what_no_run_sees_changes_no_id(workspace):
    before = runs_of(workspace)
    path = workspace.table("series", "rspect")
    tables.write(
        tables.read("series", path).sample(frac=1, random_state=1).assign(kernel="B"), "series", path
    )
    assert not changed(before, runs_of(workspace))


def test_one_weight_tensor_changes_the_runs_that_load_it(workspace):
    before = runs_of(workspace, backbones=["resnet18", "slow_r50"])
    made, _ = build_network("resnet18", "tiny", Init("random", "drawn", "none", (0.4,), (0.2,)), seed=9)
    with torch.no_grad():
        made.backbone.conv1.weight[0, 0, 0, 0] += 1e-3
    save_weights(made, workspace.weights("video", "resnet18"), {"source": "a test", "licence": "none"})
    touched = changed(before, runs_of(workspace, backbones=["resnet18", "slow_r50"]))
    assert touched == {key for key in ids(before) if key[1:3] == ("resnet18", "video")}


def test_what_is_missing_or_unknown_is_refused_before_anything_starts(workspace):
    with pytest.raises(TypeError, match="cropp_px"):
        runs_of(workspace, cropp_px=3)
    known = {"study_label": "exam, clips", "loss": "bce, focal", "sampling": "balanced, shuffled"}
    for setting, names in known.items():
        with pytest.raises(ValueError, match=f"{setting} is 'vicreg'; known are {names}"):
            runs_of(workspace, **{setting: "vicreg"})
    with pytest.raises(ValueError, match="task is 'lidc_nodules'"):
        runs_of(workspace, tasks=["lidc_nodules"])
    workspace.table("clips", "lidc").unlink()
    with pytest.raises(MissingInput, match=r"lidc/clips\.parquet is missing; notebook 01_explore_data"):
        runs_of(workspace)


def test_a_validation_split_of_one_class_is_refused_at_the_start(workspace):
    ill = {f"p{i:02d}" for i in range(10)}
    with edited(workspace, "splits") as frame:
        frame.loc[frame["patient_id"].isin(ill) & (frame["split"] == "val"), "split"] = "test"
    with pytest.raises(FitError, match=r"validation split has \d+ studies, all with label 0, so no AUROC"):
        runs_of(workspace)


# clips


def test_clips_know_their_patient_split_and_study_label(workspace):
    rows = labelled_clips(workspace, "lidc")
    series = tables.read("series", workspace.table("series", "lidc")).set_index("series_uid")
    assert len(rows) == 3 * len(series)  # 10 slices are three clips of 4
    assert (rows["study_label"].to_numpy() == series.loc[rows["series_uid"], "label"].to_numpy()).all()
    assert rows.groupby("patient_id")["split"].nunique().max() == 1
    assert rows.groupby("study")["clip"].apply(list).map(tuple).unique().tolist() == [(0, 1, 2)]


def test_clips_are_counted_within_the_study_and_labels_are_the_studys(workspace):
    with edited(workspace, "series") as series:
        series.loc[series["patient_id"] == "p01", "study_uid"] = "one study of two series"
    rows = labelled_clips(workspace, "lidc")
    rows = rows[rows["patient_id"] == "p01"]
    assert rows["series_uid"].tolist() == ["lidc.1.0"] * 3 + ["lidc.1.1"] * 3
    assert rows["clip"].tolist() == list(range(6))
    assert rows["study_label"].tolist() == [1] * 6  # the second series alone would be 0


def test_the_published_study_label_is_that_of_the_clips(workspace):
    with edited(workspace, "clips") as clips:
        clips.loc[clips["series_uid"] == "lidc.0.0", "label"] = 0  # an exam whose clips all miss the rule
    for rule, expected in (("exam", 1), ("clips", 0)):
        rows = labelled_clips(workspace, "lidc", rule)
        assert set(rows.loc[rows["series_uid"] == "lidc.0.0", "study_label"]) == {expected}


def test_an_exam_without_label_is_named(workspace):
    with edited(workspace, "series") as series:
        series.loc[series["series_uid"] == "lidc.4.0", "label"] = pd.NA
    with pytest.raises(
        ValueError, match=r"cohort lidc: series lidc\.4\.0, clip 0 has no clip label or no exam"
    ):
        fingerprint(workspace, "lidc")


def test_the_validation_metric_is_the_auroc_of_the_highest_clip_scores(workspace):
    rows = labelled_clips(workspace, "lidc").query("split == 'val'").reset_index(drop=True)
    logits = np.random.default_rng(0).normal(size=(len(rows), 1)).astype(np.float32)
    highest = rows.assign(score=logits[:, 0]).groupby("study").agg({"score": "max", "study_label": "first"})
    expected = metrics.auroc(highest["study_label"], highest["score"]).value
    assert study_auroc(rows)(logits) == pytest.approx(expected)
    assert 0 < expected < 1


def test_high_logits_give_scores_that_differ(workspace):
    """In float32 both would be 1: a tie, which counts one half."""
    rows = labelled_clips(workspace, "lidc").head(2)
    lower, higher = predictions("run", rows, np.array([[20.0], [21.0]], np.float32))["score"]
    assert lower < higher < 1


# runs


def content(workspace: Workspace, runs: list[Run]) -> dict[str, object]:
    """All that came out, but for what the clock and the folder's name say."""
    tables_of = collect(workspace, runs)
    tables_of["runs"] = tables_of["runs"].drop(columns="seconds")
    tables_of["ledger"] = tables_of["ledger"].drop(columns="why")
    weights = {run.run_id: load_file(workspace.runs / run.run_id / "weights.safetensors") for run in runs}
    return {**tables_of, "weights": weights}


def assert_same(a: dict, b: dict) -> None:
    for name in ("runs", "curves", "predictions", "ledger"):
        pd.testing.assert_frame_equal(a[name], b[name], check_exact=True)
    for run_id, tensors in a["weights"].items():
        assert tensors.keys() == b["weights"][run_id].keys()
        assert all(torch.equal(tensor, b["weights"][run_id][name]) for name, tensor in tensors.items())


class KilledAt:
    """A metric that is interrupted on its n-th call, as a process is that is killed."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, clips: pd.DataFrame):
        metric = study_auroc(clips)

        def counted(logits):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return metric(logits)

        return counted


def test_results_do_not_depend_on_workers_or_on_interruptions(workspace, tmp_path, monkeypatch):
    others = [Workspace(tmp_path / name) for name in ("workers", "interrupted")]
    for other in others:
        shutil.copytree(workspace.root, other.root)
    two = {"tasks": ["lidc_nodule"]}
    runs = runs_of(workspace, **two)
    assert ids(runs) == ids(runs_of(others[0], **two))  # where a workspace lies does not matter
    lines: list[str] = []
    run_grid(workspace, runs, Engine(0), echo=lines.append)
    expected = content(workspace, runs)
    assert lines[0] == "0 of 2 runs were finished before; 2 to compute." and len(lines) == 3
    assert lines[1].startswith("lidc_nodule resnet18 random fraction 0.5 seed 0: validation AUROC ")

    with Engine(2) as engine:
        run_grid(others[0], runs, engine, echo=lines.append)
    assert_same(content(others[0], runs), expected)

    interrupted = others[1]
    monkeypatch.setattr(finetune, "study_auroc", KilledAt(3 + 2))  # in the second epoch of the second run
    with pytest.raises(KeyboardInterrupt):
        run_grid(interrupted, runs, Engine(0), echo=lines.append)
    monkeypatch.undo()
    assert [finished(interrupted, run) for run in runs] == [True, False]
    checkpoint = interrupted.runs / runs[1].run_id / "last.ckpt"
    assert len(torch.load(checkpoint, weights_only=True)["history"]["rows"]) == 1
    statuses = collect(interrupted, runs)["runs"]["status"]
    assert statuses.tolist() == ["finished", "missing"]
    run_grid(interrupted, runs, Engine(0), echo=lines.append)
    assert "1 of 2 runs were finished before; 1 to compute." in lines
    assert_same(content(interrupted, runs), expected)


def test_a_run_folder_holds_what_is_promised_and_is_not_computed_again(workspace, monkeypatch):
    [run] = runs_of(workspace, tasks=["lidc_nodule"], inits=["video"])
    kept = Compute("cpu", "32-true", torch.channels_last)
    monkeypatch.setattr(finetune, "compute_of", lambda root, step: kept if step == Step.of(run) else None)
    result = execute(str(workspace.root), run)
    folder = workspace.runs / run.run_id
    assert {path.name for path in folder.iterdir()} == {
        *("run.json", "weights.safetensors", "weights.json", "curves.parquet"),
        *("predictions.parquet", "ledger.parquet", "result.json", "logs"),
    }
    assert json.loads((folder / "run.json").read_text())["lr"] == 1e-3
    rows = labelled_clips(workspace, "lidc")
    train = rows[rows["split"] == "train"]
    patients = train["patient_id"].nunique() // 2
    assert result["n_patients"] == patients and 0 < result["n_clips"] <= 6 * 4
    assert result["epochs"] == 3 and 1 <= result["best_epoch"] <= 3
    assert result["seconds"] > 0 and result["peak_memory_mb"] > 100 and result["compute"] == str(kept)
    tables_of = collect(workspace, [run])
    predictions = tables_of["predictions"]
    held = rows[rows["split"] != "train"]
    assert sorted(predictions["split"].unique()) == ["test", "val"]
    merged = predictions.merge(held, on=["study", "clip", "split", "patient_id"], suffixes=("", "_true"))
    assert len(merged) == len(predictions) == len(held)
    assert (merged["label"] == merged["label_true"]).all()
    assert (merged["study_label"] == merged["study_label_true"]).all()
    val = metrics.study_scores(predictions[predictions["split"] == "val"])
    assert result["val_auroc"] == metrics.auroc(val["label"], val["score"]).value
    assert set(tables_of["ledger"]["status"]) == {"loaded", "head"}
    assert tables_of["runs"].loc[0, "n_patients"] == patients
    assert result["seen"] == [{"what": "a test", "kind": "video"}]

    monkeypatch.setattr(finetune, "fit", lambda *args, **kwargs: pytest.fail("computed again"))
    assert execute(str(workspace.root), run) == result
    lines: list[str] = []
    run_grid(workspace, [run], Engine(0), echo=lines.append)
    assert lines == ["1 of 1 runs were finished before; 0 to compute."]


def test_a_run_of_another_process_is_left_to_it(workspace, monkeypatch):
    [run] = runs_of(workspace, tasks=["lidc_nodule"], inits=["random"], epochs=1)
    folder = workspace.runs / run.run_id
    with claimed(folder, lambda: False), pytest.raises(Busy, match="is computed by process"):
        execute(str(workspace.root), run)
    assert list(folder.iterdir()) == []

    def taken_over(clips):
        (folder / "claim.1").write_text("{}")
        return study_auroc(clips)

    monkeypatch.setattr(finetune, "study_auroc", taken_over)
    with pytest.raises(Busy, match="was taken over by"):
        execute(str(workspace.root), run)
    assert not (folder / "weights.safetensors").exists() and not finished(workspace, run)


def test_the_arms_of_a_seed_see_the_same_batches_and_test_patients_are_not_measured(workspace, monkeypatch):
    seen, measured = [], []
    fit, measure = finetune.fit, finetune.intensity

    def spied(network, train, sampler, *rest):
        sampler.set_epoch(1)
        seen.append(([(int(row), row.position) for row in sampler], train.seed, train.table))
        return fit(network, train, sampler, *rest)

    monkeypatch.setattr(finetune, "fit", spied)
    monkeypatch.setattr(finetune, "intensity", lambda *a: measured.append(a[1]) or measure(*a))
    for run in runs_of(workspace, tasks=["lidc_nodule"], epochs=1):
        execute(str(workspace.root), run)
    (random, random_seed, random_clips), (video, video_seed, video_clips) = seen
    assert random == video and random_seed == video_seed
    pd.testing.assert_frame_equal(random_clips, video_clips)
    assert [set(clips["split"]) for clips in measured] == [{"train"}]


def test_a_failed_run_is_recorded_and_stops_no_other_and_is_tried_again_when_asked(workspace, monkeypatch):
    good = runs_of(workspace, tasks=["lidc_nodule"], inits=["random"], epochs=1)
    bad = runs_of(workspace, tasks=["lidc_nodule"], inits=["random"], epochs=1, lr=1e30)
    lines: list[str] = []
    run_grid(workspace, bad + good, Engine(0), echo=lines.append)
    assert "failed: ctlib.training.loop.FitError: the loss of epoch 1 is" in lines[1]
    assert "validation AUROC" in lines[2]
    table = collect(workspace, bad + good)["runs"]
    assert table["status"].tolist() == ["failed", "finished"]
    assert "lower lr, which is 1e+30" in table.loc[0, "error"]
    assert pd.isna(table.loc[0, "val_auroc"]) and pd.isna(table.loc[0, "epochs"])
    error = workspace.runs / bad[0].run_id / "error.txt"
    assert error.read_text().startswith("Traceback")
    run_grid(workspace, bad, Engine(0), echo=lines.append)
    assert lines[3] == "0 of 1 runs were finished before; 0 to compute."
    assert lines[4].startswith("1 failed before and would again; `ctlib retry work` lets them")
    maintenance.retry(workspace)
    run_grid(workspace, bad, Engine(0), echo=lines.append)
    assert lines[5] == "0 of 1 runs were finished before; 1 to compute."


def test_a_run_that_does_not_fit_on_its_gpu_says_what_to_do(workspace, monkeypatch):
    [run] = runs_of(workspace, tasks=["lidc_nodule"], inits=["random"])

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(finetune, "fit", full)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2e9, 80e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100")
    told = rf"{run.backbone} \(tiny\) does not fit with batch_size {run.batch_size} on NVIDIA A100: 2.0 of 80.0 GB"
    with pytest.raises(FitError, match=told):
        execute(str(workspace.root), run)
    last = (workspace.runs / run.run_id / "error.txt").read_text().splitlines()[-1]
    assert (
        f'put "{run.backbone}.batch_size={run.batch_size // 2}", "{run.backbone}.accumulate=2" into' in last
    )


def test_a_run_whose_gpu_is_lost_is_not_a_failed_run(workspace, monkeypatch):
    [run] = runs_of(workspace, tasks=["lidc_nodule"], inits=["random"], epochs=1)

    def lost(*_):
        raise RuntimeError("CUDA error: unspecified launch failure\nCompile with more words.")

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "fit", lost)
        patched.setattr(torch.cuda, "is_initialized", lambda: True)
        patched.setattr(torch.cuda, "synchronize", lost)
        patched.setenv("CUDA_VISIBLE_DEVICES", "GPU-a")
        patched.setattr(torch.cuda, "is_available", lambda: True)
        patched.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
        told = "GPU GPU-a does not answer any more: CUDA error: unspecified launch failure.$"
        with pytest.raises(GpuError, match=told):
            execute(str(workspace.root), run)
    assert maintenance.states(workspace.runs, [run.run_id]) == [maintenance.BEGUN]
    run_grid(workspace, [run], Engine(0), echo=lambda line: None)
    assert finished(workspace, run)


class Sharing(Engine):
    """An engine whose two GPUs are made up."""

    def __init__(self, asked: int) -> None:
        super().__init__(8, gpu=True, runs_a_gpu=asked)
        self.found = [Gpu(name, "NVIDIA Pretended", 80_000, 80_000) for name in self.gpus]

    def client(self, timeout_s: float = 60.0) -> None:
        raise RuntimeError("the workers begin")


@pytest.mark.parametrize(
    ("asked", "peak_mb", "busy", "said"),
    [
        (0, 10_000, 0.3, "GPUs: 2 of NVIDIA Pretended; runs at once on each: 3."),
        (0, 10_000, 0.95, "GPUs: 2 of NVIDIA Pretended; runs at once on each: 1."),
        (0, 30_000, 0.3, "GPUs: 2 of NVIDIA Pretended; runs at once on each: 2."),
        (3, 10_000, 0.95, "GPUs: 2 of NVIDIA Pretended; runs at once on each: 3."),
        (3, 30_000, 0.3, r"runs_a_gpu is 3, and resnet18 (tiny) with batch_size 4 needs 33.3 GB, more than"),
        (0, 90_000, 0.3, r"resnet18 (tiny) with batch_size 4 needs 90.0 GB of NVIDIA Pretended (0)"),
    ],
)
def test_runs_share_a_gpu_as_made_up_timings_say_or_are_refused_before_the_first(
    workspace, monkeypatch, asked, peak_mb, busy, said
):
    timing = Timing(0.2, 0.05, 0.0, 0.0, peak_mb, 10**7, 10**9, True, "NVIDIA Pretended", busy)
    monkeypatch.setattr(step_timing, "calibrate", lambda runs, *_, **__: {kind(run): timing for run in runs})
    monkeypatch.setattr("dask.system.cpu_count", lambda: 16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    runs = runs_of(workspace, seeds=[0, 1, 2, 3])
    before, lines = [run.run_id for run in runs], []
    engine = Sharing(asked)
    with pytest.raises((RuntimeError, ValueError), match=re.escape(said) if "needs" in said else "begin"):
        run_grid(workspace, runs, engine, echo=lines.append)
    assert "needs" in said or lines[1:] == [said]
    assert [run.run_id for run in runs] == before
    if "needs" not in said:
        made = plan_of(workspace, runs, 8, engine=engine)
        assert (made.workers, made.runs_a_gpu) == (engine.workers, engine.runs_a_gpu)
        assert said in made.notes


def test_mean_and_std_are_measured_once_a_cohort_and_cut(workspace, monkeypatch):
    measured, measure = [], finetune.intensity
    monkeypatch.setattr(finetune, "intensity", lambda *a: measured.append(a[1]) or measure(*a))
    one, two = runs_of(workspace, tasks=["lidc_nodule"], inits=["random"], seeds=[0, 1], epochs=1)
    networks = [finetune._network(workspace, run, clips_of_run(workspace, run))[0] for run in (one, two, one)]
    assert len(measured) == 1
    clips = measured[0]
    (mean,), (std,) = measure(store_of(workspace, one), clips, clip_settings(one))
    for network in networks:
        assert torch.equal(network.mean, torch.tensor([mean])) and torch.equal(
            network.std, torch.tensor([std])
        )
    other = dataclasses.replace(one, crop_px=one.crop_px - 2)
    finetune._network(workspace, other, clips_of_run(workspace, other))
    assert len(measured) == 2


def test_a_worker_that_died_leaves_its_reason(workspace):
    runs = runs_of(workspace, tasks=["lidc_nodule"], inits=["random"])

    class Dying(Engine):
        def run(self, function, items, what="runs", note=None, on_done=None):
            on_done(Outcome(0, None, "WorkerDied: the worker process died at this item.\n", 0.0))
            return []

    run_grid(workspace, runs, Dying(0), echo=lambda line: None)
    table = collect(workspace, runs)["runs"]
    assert table.loc[0, "status"] == "failed" and table.loc[0, "error"].startswith("WorkerDied")


def test_data_that_changed_since_the_plan_are_not_trained_on(workspace):
    [run] = runs_of(workspace, tasks=["lidc_nodule"], inits=["random"])
    with edited(workspace, "clips") as clips:
        clips.loc[0, "label"] = 1 - clips.loc[0, "label"]
    with pytest.raises(FitError, match="cohort lidc has changed since this run was planned"):
        execute(str(workspace.root), run)
    assert not finished(workspace, run)


# what may begin a run, and what it may see


@pytest.mark.parametrize("init", ["ct_lidc", "shuffled:ct_lidc", "video+ct_lidc", "ct_lidc+video"])
def test_an_init_learnt_from_the_cohort_of_the_task_is_refused(workspace, init):
    with pytest.raises(ValueError, match=f"init {re.escape(init)} was learnt from cohort lidc, on which"):
        runs_of(workspace, tasks=["lidc_nodule"], inits=[init])


@pytest.mark.parametrize(("name", "init"), [("luna16_nodule", "ct_lidc"), ("lidc_nodule", "video+ct_luna16")])
def test_an_init_learnt_from_the_same_patients_in_another_cohort_is_refused(name, init):
    with pytest.raises(
        ValueError, match=r"was learnt from cohort \w+, whose patients cohort \w+ has too, on which"
    ):
        arms([name], ["slow_r50"], [init])


@pytest.mark.parametrize(("task", "init"), [("rspect_pe", "ct_lidc"), ("lidc_nodule", "ct_lidc_ssl")])
def test_an_init_learnt_from_another_cohort_or_without_labels_is_looked_for(workspace, task, init):
    with pytest.raises(MissingInput, match=rf"weights/{init}/resnet18\.safetensors is missing; notebook 02"):
        runs_of(workspace, tasks=[task], inits=[init])


@pytest.mark.parametrize("channels", ["hu_windows", "neighbours"])
def test_runs_on_three_channels_take_weights_of_one(workspace, channels):
    runs = runs_of(workspace, tasks=["lidc_nodule"], channels=channels, epochs=1, flip=True, jitter_hu=20.0)
    plain = runs_of(workspace, tasks=["lidc_nodule"], epochs=1)
    assert not {run.run_id for run in runs} & {run.run_id for run in plain}
    for run in runs:
        execute(str(workspace.root), run)
    ledger = collect(workspace, runs)["ledger"].set_index(["init", "tensor"])
    assert ledger.loc[("random", "backbone.conv1.weight"), "shape"].split("x")[1] == "3"
    assert ledger.loc[("video", "backbone.conv1.weight"), "status"] == "adapted"
    record = json.loads((workspace.runs / runs[0].run_id / "weights.json").read_text())
    assert record["channels"] == 3
