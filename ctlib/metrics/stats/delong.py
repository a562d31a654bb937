"""AUROCs of the same exams, and their covariance without drawing: DeLong, DeLong and Clarke-Pearson.

Biometrics 1988;44:837-845, doi:10.2307/2531595. The structural component of an exam with disease is the share
of exams without that score below it (equal scores count one half), and the other way round; the covariance of
two AUROCs is that of their components, over the number of exams of each class. Components are taken from
midranks, in n log n (Sun and Xu 2014, doi:10.1109/LSP.2014.2337313).

Exams are taken as independent. It is the check of the bootstrap for one pair of runs on patients with one
exam each; `ctlib.metrics.stats.auroc_interval` and `contrasts` keep the exams of a patient together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ctlib.metrics.stats.crossed_ci import Array, Estimate, Interval


@dataclass(frozen=True)
class DeLong:
    """AUROCs and their covariance.

    Args:
        aurocs: `[k]`.
        covariance: `[k, k]`.
    """

    aurocs: Array
    covariance: Array

    def interval(self, i: int = 0, level: float = 0.95) -> Interval:
        """Of the i-th AUROC, on the scale of log odds; without ends where the variance is 0."""
        return self._normal([i], [1.0]).share_interval(level)

    def difference(self, i: int = 0, j: int = 1) -> Estimate:
        """The i-th AUROC less the j-th, with its standard error and p-value."""
        return self._normal([i, j], [1.0, -1.0])

    def _normal(self, members: list[int], weights: list[float]) -> Estimate:
        value = float(np.dot(weights, self.aurocs[members]))
        variance = float(weights @ self.covariance[np.ix_(members, members)] @ np.asarray(weights))
        reason = "" if variance > 1e-24 else "the exams do not differ in what they say of it"
        return Estimate(value, math.nan if reason else math.sqrt(variance), math.inf, reason)


def components(truth: ArrayLike, scores: Array) -> tuple[Array, Array]:
    """Structural components of k score vectors: `[k, m]` of exams with disease and `[k, n]` of those without.

    Args:
        truth: `[m + n]`, 0 or 1, both of them present.
        scores: `[k, m + n]`, finite.

    >>> of_positive, of_negative = components([0, 0, 1, 1], np.array([[0.1, 0.4, 0.4, 0.8]]))
    >>> of_positive.tolist(), of_negative.tolist()
    ([[0.75, 1.0]], [[1.0, 0.75]])
    """
    from scipy.stats import rankdata  # here: a viewer's first volume need not wait for it

    ill = np.asarray(truth) == 1
    positive, negative = scores[:, ill], scores[:, ~ill]
    m, n = positive.shape[1], negative.shape[1]
    both = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    of_positive = (both[:, :m] - rankdata(positive, axis=1)) / n
    return of_positive, 1 - (both[:, m:] - rankdata(negative, axis=1)) / m


def delong(labels: ArrayLike, scores: ArrayLike) -> DeLong:
    """AUROCs of k score vectors of the same exams, with their covariance.

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[k, n]` or `[n]`, any unit; higher means disease.

    Raises:
        ValueError: shapes differ, a score is not finite, or a class has fewer than two exams.

    >>> found = delong([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    >>> found.aurocs.tolist(), found.covariance.tolist()  # components 0.75, 1 and 1, 0.75
    ([0.875], [[0.03125]])
    """
    truth, score = np.asarray(labels), np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if score.ndim != 2 or truth.shape != score.shape[1:]:
        raise ValueError(f"{truth.shape} labels and {score.shape} scores; give one score a label.")
    if not np.isfinite(score).all() or not np.isin(truth, (0, 1)).all():
        raise ValueError("a score is not finite, or a label is neither 0 nor 1; leave such exams out first.")
    m, n = int((truth == 1).sum()), int((truth == 0).sum())
    if min(m, n) < 2:
        raise ValueError(f"{m} exams with disease and {n} without; two of each are needed.")
    of_positive, of_negative = components(truth, score)
    covariance = np.atleast_2d(np.cov(of_positive)) / m + np.atleast_2d(np.cov(of_negative)) / n
    return DeLong(of_positive.mean(axis=1), covariance)
