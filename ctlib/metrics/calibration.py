"""Whether scores are the probabilities that they look like, and what acting on them is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from ctlib.metrics.bootstrap import Bootstrap
from ctlib.metrics.crossed_ci import Array, for_these, satterthwaite
from ctlib.metrics.discrimination import Metric, checked, one_class, probabilities, undefined
from ctlib.metrics.runs_table import PLAIN, Arm, Task, shown, tasks

CERTAIN = 1e-7
"""Scores are held this far from 0 and 1 before log odds are taken: about where float32 sigmoids end."""
THRESHOLDS = tuple(round(0.01 * i, 2) for i in range(1, 100))
"""Of decision curves."""


def brier(labels: ArrayLike, scores: ArrayLike) -> Metric:
    """Mean squared distance of score and label: 0 is best, 0.25 is a score of 0.5 throughout.

    It is defined with one class too. (Brier 1950.)

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, probabilities in [0, 1].

    Returns:
        A value in [0, 1]; NaN with a reason where there is no case or a score is not finite.

    Raises:
        ValueError: lengths differ, a label is neither 0 nor 1, or a score is outside [0, 1].

    >>> brier([0, 1], [0.5, 0.5])
    Metric(value=0.25, reason='')
    """
    truth, score = checked(labels, scores)
    reason = undefined(truth, score)
    if reason:
        return Metric(math.nan, reason)
    probabilities(score, "Brier score")
    return Metric(float(np.mean((score - truth) ** 2)))


def reliability(labels: ArrayLike, scores: ArrayLike, n_bins: int = 10) -> pd.DataFrame:
    """The reliability curve: mean score and share of disease in bins of about as many cases each.

    Bins of equal width would leave most of them nearly empty where scores crowd; these hold n / n_bins cases
    each (Nguyen and O'Connor 2015, doi:10.18653/v1/D15-1182). Equal scores stay in one bin, so there may be
    fewer bins than asked for.

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, probabilities in [0, 1].
        n_bins: number of bins.

    Returns:
        Columns bin, n, score (mean), observed (share of label 1). No row where there is no case or a score is
        not finite: `ece` says which.

    Raises:
        ValueError: lengths differ, a label is neither 0 nor 1, a score is outside [0, 1], or n_bins is
            below 1.

    >>> bins = reliability([0, 0, 0, 1], [0.1, 0.2, 0.4, 0.8], n_bins=2)
    >>> bins[["n", "score", "observed"]].round(2).values.tolist()
    [[2.0, 0.15, 0.0], [2.0, 0.6, 0.5]]
    """
    truth, score = checked(labels, scores)
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; give at least 1.")
    if undefined(truth, score):
        return pd.DataFrame(columns=["bin", "n", "score", "observed"])
    probabilities(score, "reliability curve")
    order = np.argsort(score, kind="stable")
    truth, score = truth[order], score[order]
    cuts = _cuts(score, n_bins)
    n = np.diff(np.r_[cuts, len(score)])
    sums = {"score": np.add.reduceat(score, cuts) / n, "observed": np.add.reduceat(truth, cuts) / n}
    return pd.DataFrame({"bin": np.arange(len(n)), "n": n, **sums})


def _cuts(score: NDArray[np.float64], n_bins: int) -> NDArray[np.int64]:
    """Where bins of about as many cases begin, of scores in order; equal scores stay in one."""
    wanted = np.arange(1, n_bins) * len(score) // n_bins
    return np.unique(np.r_[0, np.searchsorted(score, score[wanted], side="left")])


def ece(labels: ArrayLike, scores: ArrayLike, n_bins: int = 10) -> Metric:
    """Expected calibration error: mean distance of score and share of disease over the bins of `reliability`.

    Bins are weighted by their cases (Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602). Scores that are right
    have a value above 0 too, by chance, the more so the fewer cases a bin has: see `ece_floor`.

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, probabilities in [0, 1].
        n_bins: number of bins of equal mass.

    Returns:
        A value in [0, 1]; NaN with a reason where there is no case or a score is not finite.

    Raises:
        ValueError: as for `reliability`.

    >>> ece([0, 0, 0, 1], [0.1, 0.2, 0.4, 0.8], 2).value.__round__(3)
    0.125
    """
    reason = undefined(*checked(labels, scores))
    if reason:
        return Metric(math.nan, reason)
    bins = reliability(labels, scores, n_bins)
    return Metric(float(np.average((bins["score"] - bins["observed"]).abs(), weights=bins["n"])))


def ece_floor(scores: ArrayLike, n_bins: int = 10, n_draws: int = 1000, seed: int = 0) -> Metric:
    """The mean `ece` of scores that are right: of labels drawn with the scores as their probabilities.

    Args:
        scores: `[n]`, probabilities in [0, 1].
        n_bins: number of bins of equal mass.
        n_draws: draws of all labels.
        seed: of the draws.

    Returns:
        A value in [0, 1]; NaN with a reason where there is no case or a score is not finite.

    Raises:
        ValueError: a score is outside [0, 1], or n_bins is below 1.

    >>> rng = np.random.default_rng(0)
    >>> [round(ece_floor(rng.random(n)).value, 2) for n in (88, 880, 8800)]
    [0.11, 0.03, 0.01]
    """
    score = np.sort(np.asarray(scores, dtype=np.float64))
    reason = undefined(*checked(np.zeros(len(score)), score))
    if reason:
        return Metric(math.nan, reason)
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; give at least 1.")
    probabilities(score, "calibration error")
    drawn = np.random.default_rng(seed).random((n_draws, len(score))) < score
    apart = np.add.reduceat(score - drawn, _cuts(score, n_bins), axis=1)
    return Metric(float(np.abs(apart).sum(axis=1).mean() / len(score)))


def calibration_slope(labels: ArrayLike, scores: ArrayLike) -> Metric:
    """Slope of the label on the log odds of the score: 1 is right, below 1 the scores are too extreme.

    Logistic regression with an intercept (Cox 1958, doi:10.1093/biomet/45.3-4.562; Van Calster et al. 2019,
    doi:10.1186/s12916-019-1466-7). Scores are held `CERTAIN` from 0 and 1.

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, probabilities in [0, 1].

    Returns:
        NaN with a reason where there is one class, one score, or scores part the classes (any steeper slope
        would then fit better).

    Raises:
        ValueError: lengths differ, a label is neither 0 nor 1, or a score is outside [0, 1].

    >>> even = [1, 0, 0, 0, 1, 1, 1, 0], [0.25] * 4 + [0.75] * 4  # a quarter, and three quarters
    >>> calibration_slope(*even).value.__round__(6), calibration_intercept(*even).value.__round__(6) + 0
    (1.0, 0.0)
    """
    truth, odds, reason = _log_odds(labels, scores)
    if not reason and (odds == odds[0]).all():
        reason = f"all {len(odds)} scores are equal"
    if not reason:
        sick, others = odds[truth == 1], odds[truth == 0]
        parted = sick.min() >= others.max() or sick.max() <= others.min()
        reason = "the scores part the classes" if parted else ""
    if reason:
        return Metric(math.nan, reason)
    design = np.stack([np.ones_like(odds), odds / odds.std()])
    return Metric(float(_fit(truth, design, np.zeros_like(odds))[1] / odds.std()))


def calibration_intercept(labels: ArrayLike, scores: ArrayLike) -> Metric:
    """Calibration in the large: what is to be added to the log odds of every score; 0 is right.

    Above 0 the scores are too low. The slope is held at 1 (sources: see `calibration_slope`).

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, probabilities in [0, 1].

    Returns:
        NaN with a reason where there is one class or a score is not finite.

    Raises:
        ValueError: as for `calibration_slope`.
    """
    truth, odds, reason = _log_odds(labels, scores)
    if reason:
        return Metric(math.nan, reason)
    return Metric(float(_fit(truth, np.ones((1, len(odds))), odds)[0]))


def _log_odds(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64], str]:
    truth, score = checked(labels, scores)
    reason = undefined(truth, score) or one_class(truth)
    if not reason:
        probabilities(score, "calibration")
    return truth, logit(np.clip(score, CERTAIN, 1 - CERTAIN)), reason


def _fit(
    truth: NDArray[np.int64], design: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Coefficients `[k]` of a logistic regression on `[k, n]`, by Newton steps that never lose likelihood."""
    beta = np.zeros(len(design))

    def loss(coefficients: NDArray[np.float64]) -> float:
        linear = coefficients @ design + offset
        return float(np.logaddexp(0, linear).sum() - truth @ linear)

    for _ in range(100):
        fitted = expit(beta @ design + offset)
        curvature = (design * (fitted * (1 - fitted))) @ design.T + 1e-12 * np.eye(len(design))
        step = np.linalg.solve(curvature, design @ (truth - fitted))
        while loss(beta + step) > loss(beta) + 1e-12 * len(truth) and np.abs(step).max() > 1e-12:
            step = step / 2
        beta = beta + step
        if np.abs(step).max() < 1e-10:
            break
    return beta


def decision_curve(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike = THRESHOLDS) -> pd.DataFrame:
    """Net benefit of acting on a score, by the threshold from which one acts.

    A threshold of t says that one missed disease is as bad as (1 - t) / t alarms for nothing:
    net benefit = true alarms / n - false alarms / n x t / (1 - t) (Vickers and Elkin 2006,
    doi:10.1177/0272989X06295361). Only scores that are calibrated mean what the threshold says.

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, probabilities in [0, 1].
        thresholds: in (0, 1); a score at the threshold is acted on.

    Returns:
        Columns threshold, net_benefit, treat_all (acting on everyone), treat_none (0). No row where there is
        no case or a score is not finite; with one class the curve exists.

    Raises:
        ValueError: lengths differ, a label is neither 0 nor 1, a score is outside [0, 1], or a threshold is
            outside (0, 1).

    >>> decision_curve([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], [0.5]).values.tolist()
    [[0.5, 0.0, 0.0, 0.0]]
    """
    truth, score = checked(labels, scores)
    at = np.asarray(thresholds, dtype=np.float64)
    if ((at <= 0) | (at >= 1)).any():
        raise ValueError(f"a threshold is {at[(at <= 0) | (at >= 1)][0]:g}; give values between 0 and 1.")
    if undefined(truth, score):
        return pd.DataFrame(columns=["threshold", "net_benefit", "treat_all", "treat_none"])
    probabilities(score, "decision curve")
    n, price = len(truth), at / (1 - at)
    sick, others = np.sort(score[truth == 1]), np.sort(score[truth == 0])
    alarms, false = (len(part) - np.searchsorted(part, at, side="left") for part in (sick, others))
    everyone = len(sick) / n - len(others) / n * price
    columns = {"threshold": at, "net_benefit": alarms / n - false / n * price, "treat_all": everyone}
    return pd.DataFrame(columns | {"treat_none": 0.0})


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
