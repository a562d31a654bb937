"""Decision curves of sides of arms, with intervals over patients and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ctlib.metrics.calibration import THRESHOLDS, decision_curve
from ctlib.metrics.stats.crossed_ci import Array, for_these
from ctlib.metrics.stats.degrees_of_freedom import satterthwaite
from ctlib.metrics.stats.intervals import Bootstrap
from ctlib.metrics.stats.runs_table import PLAIN, Arm, Task, shown, tasks


def decision_curves(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    sides: Mapping[str, Sequence[Arm]],
    thresholds: ArrayLike = THRESHOLDS[4::5],
    how: Bootstrap = PLAIN,
    rule: str = "max",
) -> pd.DataFrame:
    """Net benefit over exams by threshold (`metrics.decision_curve`), mean over networks and seeds of a side.

    The share of disease is held at that of the test exams: draws of patients keep the size of each class.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        sides: arms by the name of the side.
        thresholds: in (0, 1).
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.

    Returns:
        One row for each task, fraction, side of which the grid holds an arm, and threshold: task, fraction,
        side, threshold, net_benefit, low, high, treat_all, treat_none, n_patients, n_positive, n_seeds,
        reason. A run without an AUROC leaves its side NaN and is named.

    Raises:
        ValueError: see `run_aurocs`; a threshold is outside (0, 1).
    """
    rows: list[dict[str, Any]] = []
    for name, task in tasks(runs, predictions, rule, how).items():
        for fraction in task.fractions():
            planned = {(backbone, init) for _, backbone, init in task.arms(fraction)}
            for side, arms in sides.items():
                if planned & set(arms):
                    curve = _curve(task, arms, fraction, thresholds, how.level)
                    fixed = {"task": name, "fraction": fraction, "side": side}
                    rows += [fixed | row for row in curve.to_dict("records")]
    columns = ["task", "fraction", "side", "threshold", "net_benefit", "low", "high", "treat_all"]
    return pd.DataFrame(
        rows, columns=[*columns, "treat_none", "n_patients", "n_positive", "n_seeds", "reason"]
    )


def _curve(
    task: Task, arms: Sequence[Arm], fraction: float, thresholds: ArrayLike, level: float
) -> pd.DataFrame:
    """The columns of a side that are estimated."""
    seeds = task.seeds(fraction)
    reason = shown(task.problems(arms, fraction, seeds))
    label, blank = task.exams.label, np.full(len(task.exams.label), 0.5)
    table = decision_curve(label, blank, thresholds).assign(net_benefit=math.nan, low=math.nan, high=math.nan)
    if not reason:
        scores = [[task.scores((*arm, fraction, seed)) for arm in arms] for seed in seeds]
        curves = np.array([_mean_curve(label, own, thresholds) for own in scores])
        table["net_benefit"] = curves.mean(axis=0)
        reason = task.exams.few
    whys = [reason] * len(table)
    if not reason:
        at = table["threshold"].to_numpy()
        # [seeds, 2, thresholds, draws], mean over the networks of a seed
        parts = np.stack([sum(_on_draws(task, score, at) for score in own) / len(arms) for own in scores])
        for k, values in enumerate(np.transpose(curves)):
            freedom = _freedom(task, parts[:, :, k].mean(axis=0))
            found = for_these(values[None], parts[None, :, :, k].sum(axis=2), freedom)
            interval, whys[k] = found.interval(level), found.reason
            table.loc[k, ["low", "high"]] = [interval.low, interval.high]
    return table.assign(**task.counts(seeds), reason=whys)


def _mean_curve(label: NDArray[np.int64], scores: Sequence[Array], thresholds: ArrayLike) -> Array:
    """Net benefit by threshold, mean over the networks of a seed."""
    curves = [decision_curve(label, score, thresholds)["net_benefit"] for score in scores]
    return np.mean(curves, axis=0)


def _on_draws(task: Task, score: Array, thresholds: Array) -> Array:
    """What each class adds to the net benefit on each draw, `[2, thresholds, n_replicates]`."""
    found = np.zeros((2, len(thresholds), task.draws.n_replicates))
    for label, price in ((1, np.ones_like(thresholds)), (0, -thresholds / (1 - thresholds))):
        members = np.flatnonzero(task.exams.label == label)
        times = task.draws.times[members].astype(np.float32)
        acted = (score[members] >= thresholds[:, None]).astype(np.float32)
        share = len(members) / len(score)
        found[label] = share * price[:, None] * (acted @ times) / times.sum(axis=0, dtype=np.float64)
    return found


def _freedom(task: Task, parts: Array) -> float:
    """Degrees of freedom over patients, of what each class adds on each draw `[2, n_replicates]`."""
    ill = int(task.exams.patient_label.sum())
    patients = (len(task.exams.patient_label) - ill, ill)
    known = [max(n - len(task.exams.folds), 1) for n in patients]
    return satterthwaite([(float(part.var(ddof=1)), n) for part, n in zip(parts, known, strict=True)])
