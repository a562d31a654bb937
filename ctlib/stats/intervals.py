"""Intervals of AUROCs and of differences between inits.

What may vary, and how it is taken into account:

* Patients. The test patients are drawn with replacement, separately among those with and
  without disease, all exams of a patient together, and the same draw serves every run
  (stratified cluster bootstrap; Efron and Tibshirani 1993, chapter 8). Exams drawn one by one
  would count a patient's exams as independent and give intervals that are too short.
* Seeds. A seed draws the training patients of a fraction, the order of clips and the head.
  A bootstrap of three seeds sees only 2/3 of their variance and cannot know how uncertain that
  variance is. So seeds are handled as radiology handles readers: random, crossed with patients
  (Obuchowski and Rockette 1995, doi:10.1080/03610919508813243), with the degrees of freedom of
  Hillis (2007, doi:10.1002/sim.2532). The variance of a mean over S seeds is

      s^2 / S + max(c, 0)

  s^2 the variance between seeds (S - 1 in the denominator; it holds the seeds' share of the
  patients' noise too), c the covariance over patients between two seeds, from the bootstrap.
  The half-width is t sqrt(variance), with (variance)^2 / ((s^2 / S)^2 / (S - 1)) degrees of
  freedom: S - 1 where seeds dominate, many where patients do. It is never below that of the
  patients-only interval (the seeds' mean on the drawn patients), which three seeds that
  happen to agree would undercut.
* Not taken into account: other networks (the average is over the networks named), other video
  weights (each network was pretrained once), other cohorts.

With one seed nothing is known of the variation between seeds, and the interval is over
patients only, for the networks as they were trained; `n_seeds` says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from ctlib.metrics import auroc

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval; NaN and why where there is none."""

    value: float
    low: float
    high: float
    reason: str = ""

    @property
    def half_width(self) -> float:
        """Half of high - low."""
        return (self.high - self.low) / 2


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


class Exams:
    """The test exams that every run of a task scores, and the draws of their patients.

    Args:
        scores: columns patient_id and label; one row an exam, in the order of the score
            vectors that are given later.
    """

    def __init__(self, scores: pd.DataFrame) -> None:
        self.label = scores["label"].to_numpy(np.int64)
        self._patient, patients = pd.factorize(scores["patient_id"], sort=True)
        self.patient_label = np.zeros(len(patients), np.int64)
        np.maximum.at(self.patient_label, self._patient, self.label)

    @property
    def few(self) -> str:
        """Why patients cannot be drawn, or ''."""
        n_positive = int(self.patient_label.sum())
        n_negative = len(self.patient_label) - n_positive
        if min(n_positive, n_negative) < 2:
            return f"{n_positive} test patients with disease and {n_negative} without; two of each are needed"
        return ""

    def draw(self, n_replicates: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """How often each exam with and each exam without disease is drawn.

        Returns:
            `[n_replicates, exams with disease]` and `[n_replicates, exams without]`.
        """
        counts = np.zeros((n_replicates, len(self.patient_label)))
        for label in (0, 1):
            stratum = np.flatnonzero(self.patient_label == label)
            share = np.full(len(stratum), 1 / len(stratum))
            counts[:, stratum] = rng.multinomial(len(stratum), share, size=n_replicates)
        exams = counts[:, self._patient]
        return exams[:, self.label == 1], exams[:, self.label == 0]

    def pairs(self, score: Array) -> Array:
        """`[exams with disease, exams without]`: 1 in the right order, 0.5 equal, 0 wrong.

        The AUROC is its mean, and stays linear in it when exams are weighted: runs are averaged
        here, once, and not in every replicate.
        """
        positive, negative = score[self.label == 1, None], score[None, self.label == 0]
        return (positive > negative) + 0.5 * (positive == negative)


def resampled(pairs: Array, draws: tuple[Array, Array]) -> Array:
    """AUROC of each replicate, `[n_replicates]`, from `Exams.pairs` and `Exams.draw`."""
    positive, negative = draws
    weight = positive.sum(axis=1) * negative.sum(axis=1)
    return np.einsum("bj,bj->b", positive @ pairs, negative) / weight


def auroc_interval(scores: pd.DataFrame, n_replicates: int, seed: int, level: float = 0.95) -> Interval:
    """AUROC of one run over exams, with the percentile interval over patients.

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
    if not reason and metric.value in (0.0, 1.0):
        reason = f"the AUROC is {metric.value:g} in every draw of the patients"
    if reason:
        return Interval(metric.value, math.nan, math.nan, reason)
    draws = exams.draw(n_replicates, np.random.default_rng(seed))
    replicates = resampled(exams.pairs(scores["score"].to_numpy(np.float64)), draws)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(metric.value, float(low), float(high))


def crossed_interval(values: Array, replicates: Array, level: float = 0.95) -> Interval:
    """Interval of a mean over seeds, both seeds and patients random (see the module).

    Args:
        values: `[S]`, one a seed, on all patients.
        replicates: `[S, n_replicates]`, the same on drawn patients, the same draws for all.
        level: of the interval, in (0, 1).

    Returns:
        The interval; without ends where nothing varies, which is no certainty.

    >>> rng = np.random.default_rng(0)
    >>> patients = rng.normal(0, 0.03, size=2000)
    >>> found = crossed_interval(np.array([0.1, 0.1, 0.1]), np.tile(0.1 + patients, (3, 1)))
    >>> round(found.half_width, 2)  # patients only: 1.96 * 0.03
    0.06
    >>> found = crossed_interval(np.array([0.0, 0.1, 0.2]), np.zeros((3, 2000)))
    >>> round(found.half_width, 3)  # seeds only: Student's t, 4.303 * 0.1 / sqrt(3)
    0.248
    """
    n_seeds, tail = len(values), (1 + level) / 2
    mean, normal = float(np.mean(values)), float(ndtri(tail))
    half = normal * float(np.std(replicates.mean(axis=0), ddof=1))
    if n_seeds > 1:
        covariance = np.cov(replicates)
        shared = max(float(covariance[~np.eye(n_seeds, dtype=bool)].mean()), 0.0)
        between = float(np.var(values, ddof=1)) / n_seeds
        if between > 0:
            freedom = (between + shared) ** 2 / (between**2 / (n_seeds - 1))
            half = max(half, float(stdtrit(freedom, tail)) * math.sqrt(between + shared))
    if half == 0:
        return Interval(mean, math.nan, math.nan, "no draw of patients or seeds changes the value")
    return Interval(mean, mean - half, mean + half)
