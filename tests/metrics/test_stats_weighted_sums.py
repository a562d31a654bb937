"""Weighted sums of arms: their value by hand, and intervals that cover two draws of the same."""

import numpy as np
import pytest
from made_up_results import NETWORKS, SEEDS, made_up, plain

from ctlib.metrics import stats

HOW = stats.Bootstrap(1000)


def of(results, weights, networks=tuple(NETWORKS), seeds=tuple(SEEDS)):
    return stats.combination(
        results.runs, results.predictions, "lidc_nodule", 1.0, networks, seeds, weights, HOW
    )


@pytest.fixture(scope="module")
def results():
    return made_up(plain({"video": 0.1}), inits=("random", "part", "video"), backbones=NETWORKS)


def test_a_sum_is_that_of_the_runs_aurocs(results):
    weights = {"random": -0.8, "part": -0.2, "video": 1.0}
    found = of(results, weights)
    runs = stats.run_aurocs(results.runs, results.predictions)
    runs = runs[(runs["task"] == "lidc_nodule") & (runs["fraction"] == 1.0)]
    wide = runs.groupby(["backbone", "init"])["auroc"].mean().unstack()
    by_hand = sum(weight * wide[init] for init, weight in weights.items())
    assert found.estimate.value == pytest.approx(by_hand.mean(), abs=1e-12)
    assert found.by_network == pytest.approx(by_hand[NETWORKS].to_dict(), abs=1e-12)
    assert found.aurocs == pytest.approx(wide[list(weights)].mean().to_dict(), abs=1e-12)
    assert found.counts["n_seeds"] == len(SEEDS)


def test_a_difference_is_that_of_contrasts_for_networks_like_these(results):
    found = of(results, {"video": 1.0, "random": -1.0}).estimate
    sides = (stats.arms_of(NETWORKS, init) for init in ("video", "random"))
    rows = stats.contrasts(results.runs, results.predictions, [stats.Contrast("c", *sides)], HOW)
    [row] = rows[(rows["task"] == "lidc_nodule") & (rows["fraction"] == 1.0)].to_dict("records")
    interval = found.interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((row["low_mean"], row["high_mean"]), abs=1e-12)


def test_networks_that_differ_widen_the_interval(results):
    def apart(task, backbone, init, fraction):
        return 0.75 + (0.1 * (NETWORKS.index(backbone) - 1) if init == "video" else 0.0)

    wide = of(made_up(apart, backbones=NETWORKS), {"video": 1.0, "random": -1.0}).estimate
    assert wide.se > 3 * of(results, {"video": 1.0, "random": -1.0}).estimate.se
    assert abs(wide.value) < 0.05


def test_a_task_or_run_that_is_not_there_is_named(results):
    weights = {"video": 1.0, "random": -1.0}
    found = stats.combination(
        results.runs, results.predictions, "no_task", 1.0, NETWORKS, SEEDS, weights, HOW
    )
    assert np.isnan(found.estimate.value) and found.estimate.reason == "the grid has no run of no_task"
    found = of(results, {"video": 1.0, "random": -1.0}, seeds=(0, 9))
    assert np.isnan(found.estimate.se) and "seed 9" in found.estimate.reason
