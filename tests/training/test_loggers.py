"""Curves are written while a run computes, whole after an interruption too, and change no result."""

import importlib.util
import os
import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pandas as pd
import pytest
from noise_cohort import write_cohort
from test_cross_validation import runs_of

from ctlib.core.workspace import Workspace
from ctlib.grid.engine import Engine
from ctlib.grid.execute import run_grid
from ctlib.training import finetune
from ctlib.training.finetune import execute
from ctlib.training.loggers import CSV, LOGGERS
from ctlib.training.results import collect, study_auroc

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "work")
    write_cohort(made, "lidc")
    return made


def logged(workspace, run):
    return pd.read_csv(workspace.runs / run.run_id / "logs" / "metrics.csv")


def assert_whole(workspace, run):
    log, curves = logged(workspace, run), collect(workspace, [run])["curves"]
    assert log["step"].tolist() == curves["epoch"].tolist()
    for ours, theirs in (("train_loss",) * 2, ("val_loss",) * 2, ("val_auroc", "val_metric")):
        assert log[theirs].to_numpy() == pytest.approx(curves[ours].to_numpy())


def test_the_csv_has_each_epoch_as_it_ends_and_is_whole_after_an_interruption(workspace, monkeypatch):
    (run,) = runs_of(workspace, epochs=4)
    lengths = []

    def interrupted(clips):
        metric = study_auroc(clips)

        def counted(logits):
            path = workspace.runs / run.run_id / "logs" / "metrics.csv"
            lengths.append(len(pd.read_csv(path)) if path.is_file() else 0)
            if len(lengths) == 3:
                raise KeyboardInterrupt
            return metric(logits)

        return counted

    monkeypatch.setattr(finetune, "study_auroc", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(str(workspace.root), run)
    assert lengths == [0, 1, 2] and len(logged(workspace, run)) == 2
    monkeypatch.undo()
    execute(str(workspace.root), run)
    assert_whole(workspace, run)


@pytest.mark.parametrize("name", [name for name in LOGGERS if name != CSV])
def test_a_logger_that_is_not_installed_is_refused_before_anything_starts(workspace, monkeypatch, name):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else found(asked))
    runs = runs_of(workspace)
    said = f"logger is '{name}', which needs the package {name}: pip install -e '.[{name}]', or take csv."
    with pytest.raises(ValueError, match=re.escape(said)):
        run_grid(workspace, runs, Engine(0), logger=name)
    with pytest.raises(ValueError, match="logger is 'neptune'; known are csv, tensorboard, mlflow, wandb"):
        run_grid(workspace, runs, Engine(0), logger="neptune")
    assert not workspace.runs.exists()


@pytest.fixture
def wandb(monkeypatch):
    """A package that notes what it is asked for."""
    package = ModuleType("wandb")
    package.run, package.runs, package.__spec__ = None, [], ModuleSpec("wandb", None)

    class Run:
        def __init__(self, **settings):
            self.settings, self.rows, self.exit_codes = settings, [], []

        def log(self, row):
            self.rows.append(row)

        def define_metric(self, *names, **how): ...

        def finish(self, exit_code):
            self.exit_codes.append(exit_code)
            package.run = None

    def init(**settings):
        package.run = Run(**settings)
        package.runs.append(package.run)
        return package.run

    package.init = init
    parts = {"wandb.sdk": {}, "wandb.sdk.lib": {"RunDisabled": Run}, "wandb.wandb_run": {"Run": Run}}
    monkeypatch.setitem(sys.modules, "wandb", package)
    for name, content in parts.items():
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(content)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    monkeypatch.setenv("WANDB_MODE", "")
    return package


def test_wandb_writes_each_run_to_files_of_its_own(workspace, wandb):
    runs = runs_of(workspace, epochs=2, seeds=[0, 1])
    run_grid(workspace, runs, Engine(0), echo=print, logger="wandb")
    assert {made.settings["name"] for made in wandb.runs} == {run.run_id for run in runs} and len(runs) == 2
    assert {str(made.settings["dir"]) for made in wandb.runs} == {str(workspace.root)}
    assert os.environ["WANDB_MODE"] == "dryrun"  # offline, in Lightning's words
    for made in wandb.runs:
        assert [row["trainer/global_step"] for row in made.rows] == [1, 2] and made.exit_codes == [0]
        assert set(made.rows[0]) == {"trainer/global_step", "train_loss", "val_loss", "val_metric"}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_other_loggers_come_on_top(workspace, name):
    pytest.importorskip(name)
    (run,) = runs_of(workspace, epochs=2)
    run_grid(workspace, [run], Engine(0), echo=print, logger=name)
    assert_whole(workspace, run)
    files = [path.name for path in (workspace.root / name).rglob("*") if path.is_file()]
    wanted = "val_metric" if name == "mlflow" else "events.out"
    assert any(file.startswith(wanted) for file in files), files


def test_nothing_of_the_loggers_is_imported_without_them(workspace):
    (run,) = runs_of(workspace)
    execute(str(workspace.root), run)
    assert not {kind.package for kind in LOGGERS.values()} & set(sys.modules)
