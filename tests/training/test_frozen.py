"""Heads on features that are computed once: for all seeds, fractions, folds and heads, by one process, whole or not."""

import json
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from noise_cohort import SETTINGS, write_cohort
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from ctlib.analysis import findings
from ctlib.core import Busy, claimed, tables
from ctlib.core.workspace import PROJECT, Workspace
from ctlib.datasets import ClipDataset
from ctlib.grid import maintenance
from ctlib.grid.engine import Engine
from ctlib.grid.execute import expand, frozen_first, run_grid
from ctlib.grid.expand import in_modes
from ctlib.metrics import Bootstrap
from ctlib.models import Network
from ctlib.models.weights import catalog
from ctlib.models.weights.load import Init, build_network, save_weights
from ctlib.training import features, finetune, heads
from ctlib.training.finetune import execute, trained
from ctlib.training.heads import Sample
from ctlib.training.loop import FitError
from ctlib.training.results import collect
from ctlib.training.run import clip_settings, clips_of, store_of

pytestmark = pytest.mark.usefixtures("one_thread")
HEADS = ["linear", "attention", "knn"]
KILLED = """
import os, pickle, signal, sys
from ctlib.core.parallel import pin_threads
from ctlib.training import features
from ctlib.training.finetune import execute

pin_threads(1)
features.PART_S, plain, calls = 0.0, features._save, []

def killed(values, path):
    plain(values, path)
    calls.append(path)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

features._save = killed
execute(sys.argv[1], pickle.loads(sys.stdin.buffer.read()))
"""


def trained_on_videos(backbone="resnet18", seed=9):
    return build_network(backbone, "tiny", Init("random", "drawn", "none", (0.4,), (0.2,)), seed)[0].eval()


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "work")
    write_cohort(made, "lidc", n_folds=5)
    for backbone in ("resnet18", "slow_r50"):
        network = trained_on_videos(backbone)
        save_weights(network, made.weights("video", backbone), {"source": "a test", "licence": "none"})
    return made


def runs_of(workspace, **changes):
    asked = {"tasks": ["lidc_nodule"], "backbones": ["resnet18"], "inits": ["video"], "fractions": [1.0]}
    asked |= {"seeds": [0], "lr": 1e-3, "modes": ["frozen"], **SETTINGS}
    return expand(workspace, **{**asked, **changes})


@pytest.fixture
def seen(monkeypatch):
    """Clips that went through a backbone, a number a batch."""
    counted, plain = [], Network.features
    monkeypatch.setattr(
        Network, "features", lambda self, clip: (counted.append(len(clip)), plain(self, clip))[1]
    )
    return counted


def test_features_are_computed_once_for_all_heads_seeds_fractions_and_folds(workspace, seen):
    many = {"seeds": [0, 1], "fractions": [0.5, 1.0], "folds": [0, 1], "heads": HEADS}
    runs = runs_of(workspace, **many)
    run_grid(workspace, runs, Engine(0), echo=lambda line: None)
    found = collect(workspace, runs)
    n_clips = len(clips_of(workspace, "lidc"))
    assert len(runs) == 24 and (found["runs"]["status"] == "finished").all()
    assert sum(seen) == n_clips  # each clip once
    rows = found["predictions"].merge(found["runs"][["run_id", "init", "fold"]], on="run_id")
    assert rows.loc[rows["init"] == "attention:video", "clip"].eq(0).all()
    assert set(rows["split"]) == {"val", "test"} and rows["score"].between(0, 1).all()
    assert set(found["ledger"]["init"]) == {f"{head}:video" for head in HEADS}
    assert found["runs"]["val_auroc"].mean() > 0.9  # half of the slices of the ill are bright
    again = runs_of(workspace, lr=5.0, epochs=7, rotation_deg=9.0)
    assert {run.run_id for run in again} <= {run.run_id for run in runs}  # nothing of training changes them
    with pytest.raises(FileNotFoundError, match=r"head \(linear\) on features"):
        trained(workspace, again[0])


def test_random_weights_are_of_a_seed_and_of_a_turn(workspace, seen):
    runs = runs_of(workspace, inits=["random"], seeds=[0, 1], folds=[0, 1], heads=["linear", "knn"])
    run_grid(workspace, runs, Engine(0), echo=lambda line: None)
    assert sum(seen) == 4 * len(clips_of(workspace, "lidc"))


def test_features_are_those_of_the_network_and_a_killed_process_goes_on(workspace, seen):
    (run,) = runs_of(workspace, batch_size=4)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", KILLED, str(workspace.root)]
    done = subprocess.run(
        words, env=environment, input=pickle.dumps(run), stderr=subprocess.PIPE, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (folder,) = (workspace.root / "features").iterdir()
    assert len(list(folder.glob("part_*.npy"))) == 3 and not (folder / "record.json").exists()
    execute(str(workspace.root), run)
    clips = clips_of(workspace, "lidc")
    assert sum(seen) == len(clips) - 3 * 4
    assert not list(folder.glob("part_*"))
    values = np.load(folder / "features.npy")
    (folder / "record.json").unlink()
    (workspace.runs / run.run_id / "result.json").unlink()
    execute(str(workspace.root), run)
    assert np.array_equal(np.load(folder / "features.npy"), values)
    dataset = ClipDataset(store_of(workspace, run), clips, clip_settings(run), train=False)
    network = trained_on_videos()
    with torch.inference_mode():  # of each clip alone: no other one, and no chance, changes them
        alone = [network.features(dataset[i]["clip"][None]) for i in range(len(dataset))]
    assert np.allclose(np.concatenate(alone), values, atol=0.02 * np.abs(values).max())


def test_a_run_whose_features_another_process_computes_is_asked_for_again(workspace):
    (run,) = runs_of(workspace)
    clips = clips_of(workspace, "lidc")
    key = features.key_of(workspace, run, clips, clips)
    with claimed(workspace.root / "features" / key[:16], lambda: False), pytest.raises(Busy):
        execute(str(workspace.root), run)
    assert not (workspace.runs / run.run_id / "error.txt").exists()
    assert execute(str(workspace.root), run)["features"] == key
    other = trained_on_videos(seed=10)
    save_weights(other, workspace.weights("video", "resnet18"), {"source": "a test", "licence": "none"})
    (again,) = runs_of(workspace)  # of other weights
    assert features.key_of(workspace, again, clips, clips) != key


def test_features_that_are_not_finite_end_the_run_in_a_sentence(workspace, monkeypatch):
    (run,) = runs_of(workspace)
    monkeypatch.setattr(Network, "features", lambda self, clip: clip.flatten(1) * np.nan)
    with pytest.raises(FitError, match="resnet18 from video gives features that are not finite"):
        execute(str(workspace.root), run)
    assert maintenance.states(workspace.runs, [run.run_id]) == ["failed"]


# heads


def sample(rng, n_exams, n_features=40, n_clips=3, shift=2.0):
    study = np.repeat(np.arange(n_exams), n_clips)
    ill = study % 2
    label = ill * (np.arange(len(study)) % n_clips == 0)  # one clip of the ill
    values = rng.normal(size=(len(study), n_features)) + shift * label[:, None] * (np.arange(n_features) < 3)
    rows = {"patient_id": study.astype(str), "study": study.astype(str), "split": "val", "label": label}
    return Sample(pd.DataFrame(rows | {"clip": np.arange(len(study)) % n_clips, "study_label": ill}), values)


@pytest.mark.parametrize("name", HEADS)
def test_heads_find_what_is_there_and_nothing_where_there_is_nothing(name):
    rng = np.random.default_rng(0)
    for shift, low, high in ((2.5, 0.8, 1.0), (0.0, 0.3, 0.7)):
        train, val, test = (sample(rng, n, shift=shift) for n in (60, 60, 200))
        head = heads.fit(name, train, val)
        rows = heads.scored(name, test.rows)
        assert low <= heads.study_auroc(rows)(head.logits(test)) <= high
        assert np.array_equal(heads.fit(name, train, val).logits(test), head.logits(test))


@pytest.mark.parametrize("n_exams", [6, 60])
def test_linear_is_logistic_regression_also_where_features_are_more_than_clips(n_exams, monkeypatch):
    rng, strength = np.random.default_rng(1), 0.01
    monkeypatch.setattr(heads, "CS", (strength,))
    train, val = sample(rng, n_exams), sample(rng, 20)
    mean, std = train.values.mean(axis=0), train.values.std(axis=0)
    plain = LogisticRegression(C=strength, class_weight="balanced", tol=1e-8, max_iter=9999)
    plain.fit((train.values - mean) / std, train.rows["label"])
    wanted = plain.decision_function((val.values - mean) / std)
    assert np.allclose(heads.fit("linear", train, val).logits(val)[:, 0], wanted, atol=2e-3)


def test_validation_chooses_and_one_class_is_refused():
    rng = np.random.default_rng(2)
    train, val = sample(rng, 40), sample(rng, 40)
    swapped = Sample(val.rows.assign(study_label=1 - val.rows["study_label"]), val.values)
    chosen = [heads.fit("knn", train, given).chosen["neighbours"] for given in (val, swapped)]
    assert chosen[0] != chosen[1]
    healthy = Sample(train.rows.assign(label=0, study_label=0), train.values)
    for name in HEADS:
        with pytest.raises(FitError, match=f"the head {name} learns from .* all with label 0"):
            heads.fit(name, healthy, val)


# which are run


def test_modes_heads_and_what_is_left_out(workspace):
    both = {"modes": ["finetuned", "frozen"], "heads": ["linear", "knn"], "inits": ["random", "video"]}
    assert [run.init for run in runs_of(workspace, **both)] == [
        *("random", "video", "linear:random", "linear:video", "knn:random", "knn:video"),
    ]
    left = runs_of(workspace, **both, leave_out=["video finetuned", "frozen random", "knn"])
    assert [run.init for run in left] == ["random", "linear:video"]
    plain = runs_of(workspace, modes=["finetuned"])
    assert plain == runs_of(workspace, modes=["finetuned"], heads=["knn"], finetune_best=0)
    for given, text in (({"modes": ["frozn"]}, "modes has 'frozn'"), ({"heads": ["svm"]}, "heads has 'svm'")):
        with pytest.raises(ValueError, match=text):
            runs_of(workspace, **given)
    with pytest.raises(ValueError, match="modes is empty"):
        in_modes([], [], ["linear"])


def test_validation_of_frozen_runs_chooses_what_is_finetuned(workspace):
    names = ["resnet18", "slow_r50"]
    asked = {"backbones": names, "inits": ["random", "video"], "modes": ["frozen", "finetuned"]}
    asked |= {"finetune_best": 1}
    assert {run.init.partition(":")[0] for run in runs_of(workspace, **asked)} == {"linear"}
    settings = {**SETTINGS, "modes": asked["modes"], "heads": ["linear"], "finetune_best": 1}
    axes = (["lidc_nodule"], names, asked["inits"], [1.0], [0], [])
    (line,) = frozen_first(workspace, *axes, None, **settings)
    assert "chosen when all frozen runs have a result" in line
    frozen_first(workspace, *axes, Engine(0), **settings)
    for run in runs_of(workspace, **asked):  # whatever the test says: validation decides
        if run.init.startswith("linear"):
            path = workspace.runs / run.run_id / "result.json"
            value = {"resnet18": 0.6, "slow_r50": 0.7}[run.backbone] + 0.2 * run.init.endswith("random")
            path.write_text(json.dumps(json.loads(path.read_text()) | {"val_auroc": value}))
    trained_ones = [run for run in runs_of(workspace, **asked) if ":" not in run.init]
    assert {(run.backbone, run.init) for run in trained_ones} == {
        ("slow_r50", "video"),
        ("slow_r50", "random"),
    }
    (line,) = frozen_first(workspace, *axes, None, **settings)
    assert "finetuned are slow_r50 from" in line


def test_three_families_frozen_and_finetuned_from_files_to_answers(workspace):
    """Weights of a user's own say what they saw; the analysis reads it from the runs."""
    network, _ = build_network("resnet18", "tiny", Init("random", "drawn", "none", (0.4,), (0.2,)), seed=5)
    state = {name.removeprefix("backbone."): value for name, value in network.state_dict().items()}
    record = {"source": "a test", "licence": "none", "mean": [0.4], "std": [0.2], "size": "tiny"}
    for name, kind, what in (("scans", "CT", "LUNA16"), ("photos", "photographs", "ImageNet-1K")):
        folder = catalog.folder(workspace) / name
        folder.mkdir(parents=True)
        save_file(
            {key: value for key, value in state.items() if not key.startswith("head.")},
            folder / "w.safetensors",
        )
        about = record | {"file": "w.safetensors", "seen": [{"what": what, "kind": kind}]}
        (folder / "resnet18.yaml").write_text(yaml.safe_dump(about))
    both = {"modes": ["finetuned", "frozen"], "inits": ["video", "scans", "photos"], "seeds": [0, 1]}
    runs = runs_of(workspace, **both)
    run_grid(workspace, runs, Engine(0), echo=lambda line: None)
    for name, table in collect(workspace, runs).items():
        tables.write(table, name, workspace.table(name))
    named = {"baseline": "scans", "compared": "video", "averaged": ["resnet18"], "how": Bootstrap(100)}
    study = findings.Study.of(workspace, plan=None, **named)
    found = findings.answer("families", study)
    assert {"video − CT, finetuned", "video − images, linear", "CT − images, linear"} <= set(
        found.table["label"]
    )
    assert "weights scans have seen scans of lidc: LUNA16 is 888 scans" in found.sentence
    assert len(findings.answer("frozen", study).table) >= 3


def test_a_frozen_run_is_a_run_for_tables_retry_and_controls(workspace, monkeypatch):
    (run,) = runs_of(workspace)
    monkeypatch.setattr(finetune.heads, "fit", lambda *given, **named: 1 / 0)
    run_grid(workspace, [run], Engine(0), echo=lambda line: None)
    assert collect(workspace, [run])["runs"]["status"].tolist() == ["failed"]
    monkeypatch.undo()
    assert maintenance.retry(workspace)["run_id"].tolist() == [run.run_id]
    run_grid(workspace, [run], Engine(0), echo=lambda line: None)
    found = collect(workspace, [run])
    assert found["runs"]["status"].tolist() == ["finished"]
    wasted = [kind for needed in (None, {run.run_id, "another"}, {run.run_id}) for kind in
              maintenance.waste(workspace, needed=needed) if "features" in kind.what]  # fmt: skip
    assert len(wasted) == 1 and len(wasted[0].paths) == 3  # none while a run of the grid is not finished
    for name in ("runs", "curves", "predictions", "ledger"):
        tables.check(found[name], name)
