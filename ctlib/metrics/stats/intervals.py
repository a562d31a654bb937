"""How intervals are asked for, and the interval of the AUROC of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ctlib.metrics.discrimination import auroc
from ctlib.metrics.stats.bootstrap import Exams
from ctlib.metrics.stats.crossed_ci import Estimate, Interval


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Args:
        n_replicates: draws of the patients.
        seed: of the draws; the same draws serve all runs of a task.
        level: of the interval, in (0, 1).
    """

    n_replicates: int = 10_000
    seed: int = 0
    level: float = 0.95


def auroc_interval(scores: pd.DataFrame, n_replicates: int, seed: int, level: float = 0.95) -> Interval:
    """AUROC of one run over exams, with its interval over patients.

    The standard error is that over draws of the patients; the interval is made of it on the scale of log
    odds, which keeps it inside 0 to 1 and covers better than percentiles where the AUROC is high or patients
    are few (measured by benchmarks/simulations.py).

    Args:
        scores: result of `metrics.study_scores` for one run and one split.
        n_replicates: draws of the patients.
        seed: of the draws.
        level: of the interval, in (0, 1).

    Returns:
        NaN with a reason where the AUROC does not exist; a value without ends where there are
        fewer than two patients of a class, or where all pairs are in the right order (every
        replicate is then 1, which says nothing about the next patient).

    Raises:
        ValueError: the table holds more than one run or split.
    """
    if len(scores[["run_id", "split"]].drop_duplicates()) > 1:
        raise ValueError("auroc_interval takes the scores of one run and one split; select them first.")
    metric = auroc(scores["label"], scores["score"])
    exams = Exams(scores)
    reason = metric.reason or exams.few
    if reason:
        return Interval(metric.value, math.nan, math.nan, reason)
    draws = exams.draw(n_replicates, np.random.default_rng(seed))
    score = scores["score"].to_numpy(np.float64)
    se = float(np.std(exams.resampled(score, draws), ddof=1))
    still = "" if se else f"the AUROC is {metric.value:g} in every draw of the patients"
    return Estimate(metric.value, se, exams.freedom(exams.influence(score)), still).share_interval(level)
