"""Runs that did not learn, and what an init gains without them.

A run did not learn where the interval of its test AUROC over patients holds 0.5 or lies below it, or where
all its scores are equal. With few test patients that cannot be told from a run that learned a little. A
difference between two runs of which one did not learn is not what an init adds to a network that works, so
effects are given with such pairs and without them. Pairs are left out by what they reached on the test
exams, so an effect without them is exploratory.

Without a pair the networks of its seed are fewer. The effect is then the mean over seeds of the mean over the
networks that are left, with the interval of `ctlib.metrics.stats.crossed_ci` for one network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.metrics.stats.contrasts import groups_of
from ctlib.metrics.stats.crossed_ci import Estimate, Interval, for_these
from ctlib.metrics.stats.intervals import Bootstrap
from ctlib.metrics.stats.runs_table import PLAIN, Arm, Name, Task, arms_of, shown, tasks

CHANCE = 0.5
EQUAL, HELD, BELOW = "all scores are equal", "the interval holds 0.5", "the interval lies below 0.5"
"""Why a run did not learn."""


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
    """The rows of `stats.effects` without pairs of which a side did not learn.

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
