"""A short form of benchmarks/simulations.py: coverage and level on experiments with a known truth."""

import dataclasses
import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest

from ctlib.core.workspace import PROJECT

pytestmark = pytest.mark.slow
EXPERIMENTS = 80
SHORT = [
    "seeds matter much",
    "seeds matter little, no effect",
    "3 seeds, no effect",
    "bimodal, 3 seeds, no effect",
    "10 of 100 ill, AUROC .93, 5 seeds",
]
"""Kinds of the short form: each rule has one."""


@pytest.fixture(scope="module")
def simulations():
    path = PROJECT / "benchmarks" / "simulations.py"
    spec = importlib.util.spec_from_file_location("simulations", path)
    module = sys.modules["simulations"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["simulations"]


@pytest.fixture(scope="module")
def found(simulations):
    return {name: simulations.simulate(simulations.KINDS[name], EXPERIMENTS, seed=7) for name in SHORT}


def test_intervals_cover_tests_keep_their_level_and_ignored_patients_show(simulations, found):
    """Of 80 experiments a share of 0.95 is within 0.049 of itself: two standard errors."""
    faults = {name: simulations.wrong(name, shares) for name, shares in found.items()}
    assert not any(faults.values()), faults
    for name in SHORT[:2]:
        assert found[name]["AUROC of a run, exams as patients"] < 0.9


def test_what_may_not_be_covered_is_warned_of_and_nothing_else(found):
    assert found[SHORT[3]]["warned"] >= 0.95 and found[SHORT[4]]["warned"] == 1
    assert found[SHORT[1]]["warned"] < 0.1 and found[SHORT[2]]["warned"] < 0.1


def test_what_is_wrong_is_noticed(simulations):
    name = SHORT[1]
    right = dict.fromkeys(simulations.ASKED, 0.95) | dict.fromkeys(simulations.REJECTED, 0.05)
    right |= dict.fromkeys(simulations.NAMED, 0.04) | {"warned": 1.0, "experiments": 1e9}
    right |= {f"{row}, exams as patients": 0.8 for row in simulations.ASKED[:2]}
    assert simulations.wrong(name, pd.Series(right)) == []
    changes = [("effect, averaged", 0.92), ("AUROC of a run", 0.98), ("rejected, averaged", 0.03)]
    changes += [("rejected, one network", 0.07), ("named, a table", 0.11), ("named, four tables", 0.3)]
    for row, value in changes:
        assert any(row in fault for fault in simulations.wrong(name, pd.Series(right | {row: value}))), row
    ignored = pd.Series(right | {"difference of a pair, exams as patients": 0.95})
    assert "although patients are ignored" in simulations.wrong(name, ignored)[0]
    few = pd.Series(right | {"AUROC of a run": 0.88})
    assert simulations.wrong(SHORT[4], few) == []
    assert "is covered in 88.0%" in simulations.wrong(SHORT[4], few.replace({1.0: 0.5}))[0]


@pytest.mark.parametrize("levels", [False, True])
def test_the_truth_of_an_experiment_is_the_share_of_pairs_of_very_many_patients(simulations, levels):
    kind = simulations.KINDS["seeds matter much"]
    kind = dataclasses.replace(kind, patients=3000, ill=1200, levels=levels)
    case = simulations.experiment(kind, np.random.default_rng(3))
    found = np.array([[[case.exams.auroc(s) for s in seeds] for seeds in arm] for arm in case.scores])
    assert found == pytest.approx(case.of_run, abs=0.045)
    assert found.mean() == pytest.approx(case.of_run.mean(), abs=0.015)


def test_the_truth_of_a_network_is_the_mean_over_its_runs(simulations):
    kind = dataclasses.replace(
        simulations.KINDS["bimodal, 3 seeds, no effect"], seeds=4000, patients=6, ill=3
    )
    case = simulations.experiment(kind, np.random.default_rng(4))
    assert case.of_run.mean(axis=2) == pytest.approx(case.of_network, abs=0.02)
