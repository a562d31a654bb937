"""Weighted sums of arms, each averaged over the same networks: a difference of two, a slope over several.

The interval is that of networks like these (`crossed.for_next`): what an init is worth depends on the draw of
its pretraining, which is another for each network, so the draws of this study are a sample as its networks
are. Two draws of the same init, fixed as they are, do differ; in the mean over such draws they do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ctlib.metrics.stats.crossed_ci import Array, Estimate, for_next
from ctlib.metrics.stats.intervals import Bootstrap
from ctlib.metrics.stats.runs_table import PLAIN, Task, arms_of, shown, tasks


@dataclass(frozen=True)
class Combination:
    """A weighted sum of arms.

    Args:
        estimate: over networks like these, seeds and patients; NaN with a reason where a run is missing.
        by_network: the sum of each network, mean over seeds; empty where a run is missing.
        aurocs: mean test AUROC of each arm over networks and seeds; empty where a run is missing.
        counts: n_patients, n_positive, n_seeds; empty where the task has no run.
    """

    estimate: Estimate
    by_network: dict[str, float]
    aurocs: dict[str, float]
    counts: dict[str, int]


def combination(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    task: str,
    fraction: float,
    networks: Sequence[str],
    seeds: Sequence[int],
    weights: Mapping[str, float],
    how: Bootstrap = PLAIN,
    rule: str = "max",
) -> Combination:
    """The sum over inits of weight x mean test AUROC of the networks from this init.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        task: task of the test exams.
        fraction: share of the training patients.
        networks: networks, the same for each init; each has its own sum.
        seeds: seeds; each network and init must have a run of each.
        weights: by init.
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.

    Raises:
        ValueError: see `ctlib.metrics.stats.run_aurocs`.
    """
    part = runs[runs["task"] == task]
    if part.empty:
        why = f"the grid has no run of {task}"
        return Combination(Estimate(math.nan, math.nan, math.nan, why), {}, {}, {})
    one = tasks(part, predictions, rule, how)[task]
    sides = {init: arms_of(networks, init) for init in weights}
    wrong = [why for side in sides.values() for why in one.problems(side, fraction, seeds)]
    if wrong:
        return Combination(Estimate(math.nan, math.nan, math.nan, shown(wrong)), {}, {}, one.counts(seeds))
    values = {init: one.values(side, fraction, seeds) for init, side in sides.items()}
    total = _sum(weights, values)
    by_network = dict(zip(networks, map(float, total.mean(axis=1)), strict=True))
    aurocs = {init: float(found.mean()) for init, found in values.items()}
    if one.exams.few:
        estimate = Estimate(float(total.mean()), math.nan, math.nan, one.exams.few)
    else:
        drawn = _sum(weights, {init: one.replicates(side, fraction, seeds) for init, side in sides.items()})
        freedom = _freedom(one, networks, weights, fraction, seeds)
        estimate = for_next(total, drawn, freedom, how.level).mean
    return Combination(estimate, by_network, aurocs, one.counts(seeds))


def _sum(weights: Mapping[str, float], parts: Mapping[str, Array]) -> Array:
    return sum(weight * parts[init] for init, weight in weights.items())  # type: ignore[return-value]


def _freedom(
    task: Task, networks: Sequence[str], weights: Mapping[str, float], fraction: float, seeds: Sequence[int]
) -> float:
    """Degrees of freedom over patients: of the inits that are added less those that are subtracted."""
    added, taken = (
        [arm for init, weight in weights.items() if weight * sign > 0 for arm in arms_of(networks, init)]
        for sign in (1, -1)
    )
    return task.freedom(added, fraction, seeds, taken)
