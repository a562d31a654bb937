"""An injected effect has the size that was asked for, and the analysis that meets it is that of the study."""

import functools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up_results import made_up, plain

from ctlib import metrics
from ctlib.metrics import auroc
from ctlib.metrics import injected_effects as module
from ctlib.metrics.injected_effects import ONE, shifted
from ctlib.metrics.runs_table import tasks

NETWORKS = ["slow_r50", "r2plus1d_r50", "swin3d_t"]
QUICK = metrics.Bootstrap(400, 1)
GRID = {"backbones": NETWORKS, "tasks": ["lidc_nodule"], "fractions": [1.0]}


@functools.cache
def results(n_seeds, seed_sd=0.03, n_patients=90, seed=0):
    return made_up(plain({}), ("random",), n_patients, seed_sd, seed=seed, seeds=list(range(n_seeds)), **GRID)


def found(made, **settings):
    return metrics.injected(made.runs, made.predictions, "random", NETWORKS, QUICK, **settings)


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.06, 0.12])
@pytest.mark.parametrize("levels", [5, 10**6])
def test_the_auroc_rises_by_what_is_asked(shift, levels):
    rng = np.random.default_rng(3)
    labels = np.arange(80) % 2
    scores = np.round(levels * (rng.normal(size=80) + labels) / 4) / levels
    before, after = auroc(labels, scores).value, auroc(labels, shifted(labels, scores, shift)).value
    # equal scores are passed together: with few levels a step is as wide as a level
    assert after - before == pytest.approx(shift, abs=1 / 1600 if levels > 5 else 0.04)
    healthy = np.argsort(scores[labels == 0], kind="stable")
    moved = shifted(labels, scores, shift)[labels == 0][healthy]
    assert (np.diff(moved) >= 0).all()


def test_an_auroc_cannot_rise_above_one():
    labels, scores = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.5, 0.9])
    assert auroc(labels, shifted(labels, scores, 0.4)).value == 1.0


def test_a_half_against_the_other_is_the_comparison_of_the_study():
    """One split by hand: the second half becomes an init of its own, and `contrasts` compares the two."""
    made = results(4)
    task = tasks(made.runs, made.predictions, "max", QUICK)["lidc_nodule"]
    known = module._Runs.of(task, NETWORKS, "random", 1.0, [0.0, 0.06])
    order = np.array([[2, 0, 3, 1]] * 3)
    estimate = known.estimate(0, order)
    pairs = {2: ("random", 0), 0: ("random", 1), 3: ("other", 0), 1: ("other", 1)}
    init, seed = zip(*made.runs["seed"].map(pairs), strict=True)
    sides = (metrics.arms_of(NETWORKS, "random"), metrics.arms_of(NETWORKS, "other"))
    row = metrics.contrasts(
        made.runs.assign(init=init, seed=seed), made.predictions, [metrics.Contrast("halves", *sides)], QUICK
    ).iloc[0]
    got = [estimate.value, estimate.interval().low, estimate.interval().high]
    assert got == pytest.approx(row[["effect", "low", "high"]].tolist(), abs=1e-12)
    assert known.estimate(1, order).value == pytest.approx(estimate.value + 0.06, abs=1e-3)


def test_all_shifts_of_one_task_are_told_of_the_mean_and_of_one_network():
    table = found(results(4))
    assert table["networks"].unique().tolist() == ["mean of 3 networks", ONE]
    assert table["shift"].tolist() == [0.0, 0.03, 0.06, 0.12] * 2
    assert table["injected"].to_numpy() == pytest.approx(table["shift"], abs=2e-3)
    mean = table[table["networks"] != ONE]
    rise = mean["estimate"].to_numpy() - mean["estimate"].iloc[0]
    assert rise == pytest.approx(mean["shift"], abs=2e-3) and mean["seen"].is_monotonic_increasing
    assert (mean["all_seeds"] >= table.loc[table["networks"] == ONE, "all_seeds"].to_numpy() - 1e-9).all()
    assert table["n_half"].unique().tolist() == [2] and (table["reason"] == "").all()
    pd.testing.assert_frame_equal(table, found(results(4)))


def test_nothing_is_seen_where_there_is_nothing_and_effects_as_often_as_expected():
    """Many seeds: what is tried with halves agrees with the power that is expected of so many."""
    tables = [found(results(12, seed=seed), shifts=(0.0, 0.02, 0.04)) for seed in range(3)]
    table = pd.concat(tables).groupby(["networks", "shift"]).mean(numeric_only=True)
    assert (table["n_half"] == 6).all()
    for name in table.index.unique("networks"):
        part = table.loc[name]
        assert part.loc[0.0, "seen"] < 0.12
        for shift in (0.02, 0.04):
            expected = []
            for seed in range(3):
                made = results(12, seed=seed)
                task = tasks(made.runs, made.predictions, "max", QUICK)["lidc_nodule"]
                known = module._Runs.of(task, NETWORKS, "random", 1.0, [0.0])
                expected.append(module._power(shift, known.between(name == ONE), 6, 0.95, known.patients))
            assert part.loc[shift, "seen"] == pytest.approx(np.mean(expected), abs=0.12), (name, shift)


def test_seeds_that_differ_more_hide_an_effect():
    little, much = (found(results(6, seed_sd=sd)) for sd in (0.005, 0.08))
    of_one = (little["networks"] == ONE) & (little["shift"] == 0.12)
    assert little.loc[of_one, "all_seeds"].item() > much.loc[of_one, "all_seeds"].item() + 0.2
    assert little.loc[of_one, "seen"].item() > much.loc[of_one, "seen"].item()


def test_few_seeds_are_split_network_by_network(monkeypatch):
    """With four seeds 6 splits of all networks alike would give at most 6 estimates of the mean."""
    made, seen = results(4), []
    plain_estimate = module._Runs.estimate

    def noted(self, shift, order):
        seen.append(tuple(map(tuple, order)))
        return plain_estimate(self, shift, order)

    monkeypatch.setattr(module._Runs, "estimate", noted)
    found(made, shifts=(0.0,))
    means = [order for order in seen if len(order) == 3]
    assert any(len(set(order)) > 1 for order in means) and len(means) == module.SPLITS
    seen.clear()
    found(results(5), shifts=(0.0,))
    assert all(len(set(order)) == 1 for order in seen if len(order) == 3)
    assert all(len(set(order[0])) == 4 for order in seen)  # no seed stands on both sides


def test_a_network_that_is_not_in_the_grid_is_left_out():
    made = results(4)
    table = metrics.injected(made.runs, made.predictions, "random", [NETWORKS[0], "penet"], QUICK)
    assert table["networks"].unique().tolist() == [NETWORKS[0]]


def test_folds_are_moved_one_by_one():
    made = results(4)
    twice = pd.concat(
        [made.runs.assign(fold=fold, run_id=made.runs["run_id"] + f"f{fold}") for fold in (0, 1)]
    )
    half = made.predictions["patient_id"].str[1:].astype(int) // 2 % 2
    scores = made.predictions.assign(run_id=made.predictions["run_id"] + "f" + half.astype(str))
    # a fold whose scores are all higher: ranked together with the other it would add errors
    scores["score"] = scores["score"].where(half == 0, scores["score"] ** 0.01)
    table = found(replace(made, runs=twice, predictions=scores))
    assert table["injected"].to_numpy() == pytest.approx(table["shift"], abs=5e-3)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: results(1), "one seed; two are needed"),
        (lambda: made_up(plain({}), ("random",), 90, lost=lambda row: "failed" * (row["seed"] == 1), **GRID),
         "slow_r50 from random, seed 1"),
        (lambda: made_up(plain({}), ("random",), 3, **GRID), "two of each are needed"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_has_a_reason(made, said):
    table = found(made())
    assert table["reason"].str.contains(said).all() and table["seen"].isna().all()


def test_the_half_that_is_not_moved_comes_first():
    with pytest.raises(ValueError, match="the first must be 0"):
        found(results(4), shifts=(0.03, 0.06))
