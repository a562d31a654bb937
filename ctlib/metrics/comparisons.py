"""Differences between two sides of arms: what an init gains, or a kind of network.

Every run of both sides is scored on the same draws of patients, and sides are paired by seed (same
training patients, batches and head), so what they share cancels.

A weighted sum of arms (`combination`) is a difference of two, or a slope over several. Its interval is that of
networks like these (`crossed_ci.for_next`): what an init is worth depends on the draw of its pretraining, which
is another for each network, so the draws of this study are a sample as its networks are. Two draws of the same
init, fixed as they are, do differ; in the mean over such draws they do not.

A run did not learn where the interval of its test AUROC over patients holds 0.5 or lies below it, or where
all its scores are equal. With few test patients that cannot be told from a run that learned a little. A
difference between two runs of which one did not learn is not what an init adds to a network that works, so
effects are given with such pairs and without them. Pairs are left out by what they reached on the test
exams, so an effect without them is exploratory.

Without a pair the networks of its seed are fewer. The effect is then the mean over seeds of the mean over the
networks that are left, with the interval of `ctlib.metrics.crossed_ci` for one network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from ctlib.core import tables
from ctlib.metrics.bootstrap import Bootstrap
from ctlib.metrics.crossed_ci import Array, Estimate, Interval, Population, for_next, for_these, moved_at
from ctlib.metrics.decisions import decide, holm
from ctlib.metrics.runs_table import PLAIN, Arm, Name, Task, arms_of, shown, tasks

MEAN_OF = "mean of "
"""How the name of a row that averages networks begins."""
ESTIMATED = [
    *("effect", "low", "high", "se", "freedom", "p_value", "p_holm", "equivalent"),
    *("spread", "low_spread", "high_spread", "low_mean", "high_mean", "p_mean"),
    *("low_next", "high_next", "p_next", "low_p_next", "high_p_next"),
]
"""Columns of a difference, in order."""
CHANCE = 0.5
EQUAL, HELD, BELOW = "all scores are equal", "the interval holds 0.5", "the interval lies below 0.5"
"""Why a run did not learn."""


@dataclass(frozen=True)
class Contrast:
    """A comparison: the mean AUROC over the arms of one side less that of the other.

    Args:
        name: of the comparison.
        first: arms of the side that is looked at.
        second: arms of the side that is subtracted.
        seeds: seeds that are used; () for all that any run of the task and fraction has.

    Raises:
        ValueError: a side is empty, or names an arm twice.
    """

    name: str
    first: tuple[Arm, ...]
    second: tuple[Arm, ...]
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for side in (self.first, self.second):
            if not side or len(set(side)) < len(side):
                raise ValueError(f"contrast {self.name!r}: a side is empty or names an arm twice: {side}.")

    @property
    def partners(self) -> tuple[Arm, ...]:
        """The second side in the order of the first's networks; () where their networks differ."""
        own, other = ([backbone for backbone, _ in side] for side in (self.first, self.second))
        if sorted(own) != sorted(other) or len(set(own)) < len(own):
            return ()
        return tuple(self.second[other.index(backbone)] for backbone in own)


def contrasts(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    wanted: Sequence[Contrast],
    how: Bootstrap = PLAIN,
    rule: str = "max",
    margin: float = 0.0,
) -> pd.DataFrame:
    """Differences in mean test AUROC of any two sides, with what they say of these and of other networks.

    Networks of the two sides need not be the same. Where they are, one arm each, a network is paired with
    itself; else each arm of the first side is set against the mean of the second, so that `spread`, `*_mean`
    and `*_next` speak of networks like those of the first side against these of the second.

    Args:
        runs: table `runs`; with a column `fold`, runs that differ only by it are one.
        predictions: table `predictions`; give a part of the exams for a subgroup.
        wanted: the comparisons.
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.
        margin: a difference that would not matter, in AUROC; 0 for none.

    Returns:
        One row for each task, fraction and comparison that has a run in the grid on both sides: task,
        fraction, contrast, auroc_first, auroc_second, the columns `ESTIMATED`, n_patients, n_positive,
        n_seeds, n_networks (of the first side), reason, reason_next.

        effect is first - second; low and high its interval for these networks (seeds and patients random),
        se and freedom its standard error, p_value the test of the same, p_holm by Holm over all rows of the
        table; equivalent whether two one-sided tests show it within -+ margin (`decisions`). spread is the
        standard deviation of the effect between networks; low_mean and high_mean the interval of the mean
        over networks like these, p_mean its test; low_next and high_next where the effect of a next network
        lies; p_next the probability that it is above 0, and low_p_next and high_p_next the interval of that
        probability (see `chance_above`). A missing, failed or unscored run leaves its row NaN and is named in
        `reason`; `reason_next` says why nothing is said of other networks.

    Raises:
        ValueError: see `run_aurocs`.
    """
    rows: list[dict[str, Any]] = []
    for name, task in tasks(runs, predictions, rule, how).items():
        for fraction in task.fractions():
            planned = {(backbone, init) for _, backbone, init in task.arms(fraction)}
            here = [c for c in wanted if planned & set(c.first) and planned & set(c.second)]
            place: dict[str, Any] = {"task": name, "fraction": fraction}
            rows += [place | _row(task, c, fraction, how, margin) for c in here]
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p
    counts = ["n_patients", "n_positive", "n_seeds", "n_networks"]
    columns = ["task", "fraction", "contrast", "auroc_first", "auroc_second", *ESTIMATED, *counts]
    return pd.DataFrame(rows, columns=[*columns, "reason", "reason_next"])


def _row(task: Task, contrast: Contrast, fraction: float, how: Bootstrap, margin: float) -> dict[str, Any]:
    """The columns of a comparison after task and fraction; p_holm is not known yet."""
    seeds = contrast.seeds or task.seeds(fraction)
    sides = (contrast.first, contrast.partners or contrast.second)
    wrong = [task.problems(side, fraction, seeds) for side in sides]
    values = [None if w else task.values(side, fraction, seeds) for w, side in zip(wrong, sides, strict=True)]
    row: dict[str, Any] = {"contrast": contrast.name}
    for column, found in zip(("auroc_first", "auroc_second"), values, strict=True):
        row[column] = math.nan if found is None else float(found.mean())
    value = row["auroc_first"] - row["auroc_second"]
    reason = shown(wrong[0] + wrong[1]) or task.exams.few
    if reason:
        estimate = Estimate(value, math.nan, math.nan, reason)
        population = Population.unknown(value, reason)
    else:
        replicates = [task.replicates(side, fraction, seeds) for side in sides]
        paired, known = bool(contrast.partners), [found for found in values if found is not None]
        gain, drawn = _against(known[0], known[1], paired), _against(replicates[0], replicates[1], paired)
        freedom = task.freedom(sides[0], fraction, seeds, sides[1])
        estimate = for_these(gain, drawn, freedom)
        population = for_next(gain, drawn, freedom, how.level)
    return (
        row
        | estimated(estimate, population, how.level, margin)
        | task.counts(seeds)
        | {"n_networks": len({backbone for backbone, _ in contrast.first})}
        | {"reason": estimate.reason, "reason_next": population.reason}
    )


def _against(first: Array, second: Array, paired: bool) -> Array:
    """`[arms of the first side, seeds, ...]`: less its partner, or less the mean of the second side."""
    return first - (second if paired else second.mean(axis=0, keepdims=True))


def estimated(estimate: Estimate, population: Population, level: float, margin: float) -> dict[str, Any]:
    """The columns `ESTIMATED`, without p_holm."""
    here, mean, following = (e.interval(level) for e in (estimate, population.mean, population.next))
    chance = chance_above(population, level)
    return {
        **{"effect": here.value, "low": here.low, "high": here.high},
        **{"se": estimate.se, "freedom": estimate.freedom, "p_value": estimate.p_value},
        "equivalent": decide(estimate.value, estimate.se, estimate.freedom, margin, level, "gain").equivalent,
        "spread": population.spread,
        **{"low_spread": population.low_spread, "high_spread": population.high_spread},
        **{"low_mean": mean.low, "high_mean": mean.high, "p_mean": population.mean.p_value},
        **{"low_next": following.low, "high_next": following.high, "p_next": population.next.p_above},
        **{"low_p_next": chance.low, "high_p_next": chance.high},
    }


def chance_above(population: Population, level: float) -> Interval:
    """The probability that a next network's effect is above 0, with its interval.

    The effects of networks are taken as normal and exchangeable: the next is drawn as those that were run.
    The interval inverts the noncentral t distribution of mean / standard error (as that of a standardized
    mean, Hedges and Olkin 1985); how much wider a next network spreads than the mean is taken as known.

    Args:
        population: what is known of networks like these.
        level: of the interval.
    """
    mean, further = population.mean, population.next
    if population.reason:
        return Interval(math.nan, math.nan, math.nan, population.reason)
    tails = ((1 + level) / 2, (1 - level) / 2)
    ends = [moved_at(mean.value / mean.se, mean.freedom, tail) for tail in tails]
    low, high = ndtr(np.array(ends) * mean.se / further.se)
    return Interval(further.p_above, float(low), float(high))


def groups_of(
    task: Task, fraction: float, baseline: str, init: str, averaged: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """Rows of `effects` of a task and fraction: each network that has both inits, then the averaged ones."""
    arms = task.arms(fraction)
    single = [b for _, b, i in arms if i == init and (fraction, b, baseline) in arms]
    mean = [(f"{MEAN_OF}{len(averaged)} networks", list(averaged))] if averaged else []
    return [(b, [b]) for b in single] + mean


def effects(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    baseline: str = "random",
    init: str = "video",
    averaged: Sequence[str] = (),
    how: Bootstrap = PLAIN,
    rule: str = "max",
    margin: float = 0.0,
) -> pd.DataFrame:
    """What an init gains over another in test AUROC, network by network and averaged.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        baseline: init that is subtracted.
        init: init that is looked at.
        averaged: networks over which the last row of a task and fraction averages; () for none.
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.
        margin: a difference that would not matter, in AUROC; 0 for none.

    Returns:
        Table `effects`: a row for each network that the grid holds from both inits, then one
        'mean of N networks'; columns as those of `contrasts`, `p_holm` too over all rows. A missing, failed
        or unscored run leaves its row and the mean NaN and is named in `reason`.

    Raises:
        ValueError: see `run_aurocs`.
    """
    rows = []
    for name, task in tasks(runs, predictions, rule, how).items():
        for fraction in task.fractions():
            for title, members in groups_of(task, fraction, baseline, init, averaged):
                contrast = Contrast(title, arms_of(members, init), arms_of(members, baseline))
                rows.append(
                    {"task": name, "fraction": fraction, "baseline": baseline, "init": init}
                    | _row(task, contrast, fraction, how, margin)
                )
    if not rows:
        return tables.empty("effects")
    names = {"contrast": "backbone", "auroc_first": "auroc_init", "auroc_second": "auroc_baseline"}
    table = pd.DataFrame(rows).rename(columns=names)
    table["p_holm"] = holm(table["p_value"])
    return tables.check(table, "effects")


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
        ValueError: see `ctlib.metrics.run_aurocs`.
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


@dataclass(frozen=True)
class Reached:
    """Test AUROC of a run with its interval over patients, and why it did not learn, or ''."""

    interval: Interval
    why_not: str

    @classmethod
    def by(cls, task: Task, name: Name, level: float) -> Reached:
        """Of a run that has an AUROC, of a task whose patients can be drawn."""
        backbone, init, fraction, seed = name
        one = [(backbone, init)], fraction, [seed]
        found = for_these(task.values(*one), task.replicates(*one), task.freedom(*one)).share_interval(level)
        score = task.scores(name)
        if all(np.ptp(score[members]) == 0 for _, members in task.exams.folds):
            return cls(found, EQUAL)
        if found.high < CHANCE:
            return cls(found, BELOW)
        return cls(found, HELD if found.low <= CHANCE or found.value <= CHANCE else "")


def without_unlearned(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    baseline: str,
    init: str,
    averaged: Sequence[str],
    how: Bootstrap = PLAIN,
    rule: str = "max",
) -> pd.DataFrame:
    """The rows of `effects` without pairs of which a side did not learn.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        baseline: init that is subtracted.
        init: init that is looked at.
        averaged: networks over which the last row of a task and fraction averages; () for none.
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.

    Returns:
        Columns task, fraction, backbone, n_pairs (of a network and a seed), n_left, n_runs, n_unlearned,
        unlearned (those runs by arm and seed, with their AUROC), effect_left, low_left, high_left,
        reason_left (why there is no such effect or interval, or '').

    Raises:
        ValueError: see `run_aurocs`.
    """
    rows: list[dict[str, Any]] = []
    for name, task in tasks(runs, predictions, rule, how).items():
        for fraction in task.fractions():
            rows += [
                {"task": name, "fraction": fraction, "backbone": title}
                | _left(task, members, (init, baseline), fraction, how.level)
                for title, members in groups_of(task, fraction, baseline, init, averaged)
            ]
    columns = ["task", "fraction", "backbone", "n_pairs", "n_left", "n_runs", "n_unlearned", "unlearned"]
    return pd.DataFrame(rows, columns=[*columns, "effect_left", "low_left", "high_left", "reason_left"])


def _left(
    task: Task, networks: list[str], inits: tuple[str, str], fraction: float, level: float
) -> dict[str, Any]:
    """The columns of a row after its name."""
    seeds, n = task.seeds(fraction), len(networks)
    sides = [arms_of(networks, name) for name in inits]
    row: dict[str, Any] = {"n_pairs": n * len(seeds), "n_left": 0, "n_runs": 2 * n * len(seeds)}
    row |= {"n_unlearned": 0, "unlearned": ""}
    problems = [why for side in sides for why in task.problems(side, fraction, seeds)]
    found = Estimate(math.nan, math.nan, math.nan, shown(problems) or task.exams.few)
    if not found.reason:
        arms = [arm for side in sides for arm in side]
        reached = [[Reached.by(task, (*arm, fraction, seed), level) for seed in seeds] for arm in arms]
        learned = np.array([[not run.why_not for run in runs] for runs in reached])
        kept = np.logical_and(learned[:n], learned[n:])
        row |= {"n_left": int(kept.sum()), "n_unlearned": int((~learned).sum())}
        named = [_named(arm, seeds, runs) for arm, runs in zip(arms, reached, strict=True)]
        row["unlearned"] = "; ".join(filter(None, named))
        found = _mean(task, sides, fraction, seeds, kept)
    ends = found.interval(level)
    left = {"effect_left": ends.value, "low_left": ends.low, "high_left": ends.high}
    return row | left | {"reason_left": ends.reason}


def _named(arm: Arm, seeds: Sequence[int], runs: Sequence[Reached]) -> str:
    """The runs of an arm that did not learn: their seeds, AUROCs and, beside the usual one, reasons."""
    found = [
        f"seed {seed}: {run.interval.value:.3f}" + (f", {run.why_not}" if run.why_not != HELD else "")
        for seed, run in zip(seeds, runs, strict=True)
        if run.why_not
    ]
    return f"{arm[0]} from {arm[1]} ({'; '.join(found)})" if found else ""


def _mean(
    task: Task,
    sides: Sequence[tuple[Arm, ...]],
    fraction: float,
    seeds: Sequence[int],
    kept: NDArray[np.bool_],
) -> Estimate:
    """Mean over the seeds of the mean over the networks that are kept, `[networks, seeds]`."""
    some = kept.any(axis=0)
    if not some.any():
        return Estimate(math.nan, math.nan, math.nan, "no pair of which both sides learned")
    weight = kept[:, some] / kept[:, some].sum(axis=0)
    values, drawn = (
        of(sides[0], fraction, seeds) - of(sides[1], fraction, seeds) for of in (task.values, task.replicates)
    )
    gain = (values[:, some] * weight).sum(axis=0, keepdims=True)
    gain_drawn = (drawn[:, some] * weight[..., None]).sum(axis=0, keepdims=True)
    return for_these(gain, gain_drawn, task.freedom(sides[0], fraction, seeds, sides[1]))
