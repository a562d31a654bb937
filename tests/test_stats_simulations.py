"""A short form of benchmarks/simulations.py: coverage and level on experiments with a known truth."""

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest

from ctlib.workspace import PROJECT

pytestmark = pytest.mark.slow
EXPERIMENTS = 150


@pytest.fixture(scope="module")
def simulations():
    path = PROJECT / "benchmarks" / "simulations.py"
    spec = importlib.util.spec_from_file_location("simulations", path)
    module = sys.modules["simulations"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["simulations"]


def test_intervals_cover_tests_keep_their_level_and_ignored_patients_show(simulations):
    """Of 150 experiments a share of 0.95 is within 0.053 of itself: three standard errors."""
    columns = {n: simulations.simulate(k, EXPERIMENTS, seed=7) for n, k in simulations.KINDS.items()}
    table = pd.DataFrame(columns)
    assert simulations.wrong(table, slack=0.035) == []
    assert (table.loc["AUROC of a run, exams as patients"] < 0.88).all()


def test_what_is_wrong_is_noticed(simulations):
    right = dict.fromkeys(simulations.ASKED, 0.95) | {
        "rejected, one network": 0.05,
        "rejected, averaged": 0.05,
    }
    right |= {f"{name}, exams as patients": 0.8 for name in ("AUROC of a run", "difference of a pair")}
    table = pd.DataFrame({name: right for name in simulations.KINDS})
    assert simulations.wrong(table) == []
    for row, value in (("effect, averaged", 0.92), ("AUROC of a run", 0.98), ("rejected, averaged", 0.03)):
        changed = table.copy()
        changed.loc[row] = value
        assert any(row in fault for fault in simulations.wrong(changed)), row
    changed = table.copy()
    changed.loc["difference of a pair, exams as patients"] = 0.95
    assert "although patients are ignored" in simulations.wrong(changed)[0]


def test_the_truth_of_an_experiment_is_the_share_of_pairs_of_very_many_patients(simulations, monkeypatch):
    monkeypatch.setattr(simulations, "PATIENTS", 3000)
    monkeypatch.setattr(simulations, "LABEL", (np.arange(3000) % 5 < 2).astype(int))
    case = simulations.experiment(simulations.KINDS["seeds matter much"], np.random.default_rng(3))
    found = np.array([[[case.exams.auroc(s) for s in seeds] for seeds in arm] for arm in case.scores])
    assert found == pytest.approx(case.of_run, abs=0.045)
    assert found.mean() == pytest.approx(case.of_run.mean(), abs=0.015)
