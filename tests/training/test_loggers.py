"""Curves are written while a run computes, whole after an interruption too, and change no result."""

import importlib.util
import re
import sys

import pandas as pd
import pytest
from noise_cohort import write_cohort
from test_cross_validation import runs_of

from ctlib.core.workspace import Workspace
from ctlib.grid.engine import Engine
from ctlib.grid.execute import run_grid
from ctlib.training import finetune, loggers
from ctlib.training.finetune import execute
from ctlib.training.predictions import study_auroc
from ctlib.training.results import collect

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


def test_a_logger_that_is_not_installed_is_refused_before_anything_starts(workspace, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))
    runs = runs_of(workspace)
    said = "logger is 'mlflow', which needs the package mlflow: pip install -e '.[mlflow]', or take csv."
    with pytest.raises(ValueError, match=re.escape(said)):
        run_grid(workspace, runs, Engine(0), logger="mlflow")
    with pytest.raises(ValueError, match="logger is 'wandb'; known are csv, tensorboard, mlflow"):
        run_grid(workspace, runs, Engine(0), logger="wandb")
    assert not workspace.runs.exists()


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
    assert "tensorboard" not in sys.modules and "mlflow" not in sys.modules
    assert loggers.PACKAGES[loggers.CSV] == ""
