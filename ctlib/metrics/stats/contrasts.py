"""Differences between two sides of arms: what an init gains, or a kind of network.

Every run of both sides is scored on the same draws of patients, and sides are paired by seed (same
training patients, batches and head), so what they share cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from ctlib.core import tables
from ctlib.metrics.stats.crossed_ci import Array, Estimate, Interval, Population, for_next, for_these
from ctlib.metrics.stats.decisions import decide
from ctlib.metrics.stats.intervals import Bootstrap
from ctlib.metrics.stats.multiple_testing import holm
from ctlib.metrics.stats.noncentral_t import moved_at
from ctlib.metrics.stats.runs_table import PLAIN, Arm, Task, arms_of, shown, tasks

MEAN_OF = "mean of "
"""How the name of a row that averages networks begins."""
ESTIMATED = [
    *("effect", "low", "high", "se", "freedom", "p_value", "p_holm", "equivalent"),
    *("spread", "low_spread", "high_spread", "low_mean", "high_mean", "p_mean"),
    *("low_next", "high_next", "p_next", "low_p_next", "high_p_next"),
]
"""Columns of a difference, in order."""


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
