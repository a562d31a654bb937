"""How well scores order disease and no disease; their scale plays no part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

EXACT = 100
"""Cases of the smaller class up to which chance is counted; beyond, the normal value is right to 1e-4."""


@dataclass(frozen=True)
class Metric:
    """A value, or NaN and why.

    >>> print(Metric(0.8125)), print(Metric(float("nan"), "all 3 labels are 1"))
    0.812
    not defined: all 3 labels are 1
    (None, None)
    """

    value: float
    reason: str = ""

    def __str__(self) -> str:
        return f"not defined: {self.reason}" if self.reason else f"{self.value:.3f}"


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Both as arrays `[n]`; labels are 0 or 1."""
    truth, score = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != score.shape:
        raise ValueError(f"{truth.shape} labels and {score.shape} scores; give one score a label.")
    strange = ~np.isin(truth, (0.0, 1.0))
    if strange.any():
        raise ValueError(f"a label is {truth[strange][0]:g}; labels are 0 or 1, 1 = disease.")
    return truth.astype(np.int64), score


def undefined(truth: NDArray[np.int64], score: NDArray[np.float64]) -> str:
    """Why no metric exists, or ''."""
    if not len(truth):
        return "no case"
    bad = int((~np.isfinite(score)).sum())
    return f"{bad} of {len(score)} scores are not finite" if bad else ""


def one_class(truth: NDArray[np.int64]) -> str:
    """Why no order of the two classes exists, or ''."""
    return f"all {len(truth)} labels are {truth[0]}" if (truth == truth[0]).all() else ""


def probabilities(score: NDArray[np.float64], what: str) -> None:
    """Refuse scores outside [0, 1].

    Raises:
        ValueError: there is one.
    """
    outside = (score < 0) | (score > 1)
    if outside.any():
        raise ValueError(f"{what}: a score is {score[outside][0]:g}; give probabilities.")


def auroc(labels: ArrayLike, scores: ArrayLike) -> Metric:
    """Area under the ROC curve: the share of (disease, no disease) pairs in the right order.

    A pair with equal scores counts one half (Mann and Whitney 1947; Hanley and McNeil 1982).
    Pairs are counted in whole numbers, so equal orders give equal values to the last bit.

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, any unit; higher means disease.

    Returns:
        A value in [0, 1]; NaN with a reason where there is one class only, no case, or a
        score that is not finite.

    Raises:
        ValueError: lengths differ, or a label is neither 0 nor 1.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    Metric(value=0.875, reason='')
    >>> auroc([1, 1], [0.2, 0.3])
    Metric(value=nan, reason='all 2 labels are 1')
    """
    truth, score = checked(labels, scores)
    reason = undefined(truth, score) or one_class(truth)
    if reason:
        return Metric(math.nan, reason)
    negatives, positives = np.sort(score[truth == 0]), score[truth == 1]
    below = int(np.searchsorted(negatives, positives, side="left").sum())
    up_to = int(np.searchsorted(negatives, positives, side="right").sum())
    return Metric((below + up_to) / (2 * len(negatives) * len(positives)))


def auroc_by_luck(target: float, n_positive: int, n_negative: int) -> Metric:
    """Probability that scores which know nothing reach an AUROC.

    The exact distribution of Mann and Whitney's U where a class has at most `EXACT` cases, else the normal
    one with a correction for continuity; scores are taken to have no ties.

    Args:
        target: the AUROC.
        n_positive: cases with disease.
        n_negative: cases without.

    Returns:
        A value in [0, 1]; NaN with a reason where a class is empty.

    >>> round(auroc_by_luck(0.7, 12, 12).value, 3)
    0.05
    """
    if min(n_positive, n_negative) < 1:
        return Metric(math.nan, f"{n_positive} cases with disease and {n_negative} without")
    pairs = math.ceil(round(target * n_positive * n_negative, 9))
    if pairs <= 0 or pairs > n_positive * n_negative:
        return Metric(float(pairs <= 0))
    above, some = divmod(pairs, n_negative)  # cases with disease above all others, and above some of them
    places = [*np.arange(above) + n_negative, *([some - 0.5] if some else [])]
    places = [*places, *(-1.0 - np.arange(n_positive - len(places)))]
    method = "exact" if min(n_positive, n_negative) <= EXACT else "asymptotic"
    from scipy.stats import mannwhitneyu  # here: a viewer's first volume need not wait for it

    found = mannwhitneyu(places, np.arange(n_negative), alternative="greater", method=method)
    return Metric(float(found.pvalue))


def auprc(labels: ArrayLike, scores: ArrayLike) -> Metric:
    """Area under the precision-recall curve, as average precision (no interpolation).

    Chance is the share of disease, so compare it only where that share is the same.

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, any unit; higher means disease.

    Returns:
        A value in [0, 1]; NaN with a reason as for `auroc`.

    Raises:
        ValueError: lengths differ, or a label is neither 0 nor 1.

    >>> auprc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).value.__round__(4)
    0.8333
    """
    truth, score = checked(labels, scores)
    reason = undefined(truth, score) or one_class(truth)
    if reason:
        return Metric(math.nan, reason)
    from sklearn.metrics import average_precision_score  # here: a viewer's first volume need not wait for it

    return Metric(float(average_precision_score(truth, score)))


def prevalence(labels: ArrayLike) -> Metric:
    """Share of label 1: what `auprc` is by chance, and needed beside it.

    >>> prevalence([0, 0, 0, 1]), prevalence([])
    (Metric(value=0.25, reason=''), Metric(value=nan, reason='no case'))
    """
    truth, _ = checked(labels, np.zeros(len(np.asarray(labels))))
    return Metric(float(truth.mean())) if len(truth) else Metric(math.nan, "no case")


def threshold_at_specificity(labels: ArrayLike, scores: ArrayLike, specificity: float = 0.9) -> Metric:
    """The lowest threshold that leaves enough of the exams without disease below it.

    A score at the threshold counts as disease, and equal scores are never parted. Choose it on other cases
    than those whose sensitivity it is for: on the same, with few of them, the value flatters.

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, any unit; higher means disease.
        specificity: share of label 0 that must lie below the threshold, in [0, 1].

    Returns:
        A score, infinite where no score will do; NaN with a reason as for `auroc`.

    Raises:
        ValueError: lengths differ, a label is neither 0 nor 1, or the specificity is outside [0, 1].

    >>> threshold_at_specificity([0, 0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.6, 0.2, 0.5, 0.7], 0.75).value
    0.5
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity is {specificity:g}; give a share from 0 to 1.")
    truth, score = checked(labels, scores)
    reason = undefined(truth, score) or one_class(truth)
    if reason:
        return Metric(math.nan, reason)
    negatives = np.sort(score[truth == 0])
    thresholds = np.append(np.unique(score), np.inf)
    below = np.searchsorted(negatives, thresholds, side="left")
    # counts and not shares: 0.9 of 10 cases is 9 of them, whatever the last bit of 9 / 10
    enough = thresholds[below >= math.ceil(round(specificity * len(negatives), 9))][0]
    return Metric(float(enough))


def sensitivity(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Metric:
    """Share of disease at or above a threshold; NaN with a reason as for `auroc`.

    >>> labels, scores = [0, 0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.6, 0.2, 0.5, 0.7]
    >>> sensitivity(labels, scores, 0.5).value, specificity(labels, scores, 0.5).value
    (0.6666666666666666, 0.75)
    """
    return _called_ill(labels, scores, threshold, 1)


def specificity(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Metric:
    """Share of the others below a threshold; see `sensitivity`."""
    found = _called_ill(labels, scores, threshold, 0)
    return Metric(1 - found.value, found.reason)


def _called_ill(labels: ArrayLike, scores: ArrayLike, threshold: float, label: int) -> Metric:
    """Share of a class at or above a threshold."""
    truth, score = checked(labels, scores)
    reason = undefined(truth, score) or one_class(truth)
    return Metric(math.nan, reason) if reason else Metric(float((score[truth == label] >= threshold).mean()))
