"""How well scores tell disease from no disease, for one run.

A value that does not exist (one class only, a score that is not a number) is NaN with a
reason, never 0 and never left out in silence: `Metric` carries both.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score

STUDY = ["run_id", "split", "patient_id", "study"]
"""Columns of table `predictions` that name one exam of one run."""


@dataclass(frozen=True)
class Metric:
    """A value, or NaN and why.

    >>> print(Metric(0.8125)), print(Metric(math.nan, "all 3 labels are 1"))
    0.812
    not defined: all 3 labels are 1
    (None, None)
    """

    value: float
    reason: str = ""

    def __str__(self) -> str:
        return f"not defined: {self.reason}" if self.reason else f"{self.value:.3f}"


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
    truth, score = _checked(labels, scores)
    reason = _undefined(truth, score) or _one_class(truth)
    if reason:
        return Metric(math.nan, reason)
    negatives, positives = np.sort(score[truth == 0]), score[truth == 1]
    below = int(np.searchsorted(negatives, positives, side="left").sum())
    up_to = int(np.searchsorted(negatives, positives, side="right").sum())
    return Metric((below + up_to) / (2 * len(negatives) * len(positives)))


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
    truth, score = _checked(labels, scores)
    reason = _undefined(truth, score) or _one_class(truth)
    if reason:
        return Metric(math.nan, reason)
    return Metric(float(average_precision_score(truth, score)))


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
    truth, score = _checked(labels, scores)
    reason = _undefined(truth, score)
    if reason:
        return Metric(math.nan, reason)
    if score.min() < 0 or score.max() > 1:
        raise ValueError(
            f"Brier score: a score is {score[(score < 0) | (score > 1)][0]:g}; give probabilities."
        )
    return Metric(float(np.mean((score - truth) ** 2)))


def study_scores(predictions: pd.DataFrame, rule: str = "max") -> pd.DataFrame:
    """One score an exam, from the scores of its clips.

    Args:
        predictions: table `predictions`, of one or more runs and splits, in any order.
        rule: `max`, the highest clip score (Ke et al. 2023; shared/protocol.md);
            `noisy_or`, the chance that at least one clip is positive if clips were independent,
            1 - prod(1 - score), which depends on the number of clips;
            `mean_top_K`, the mean of the K highest (of all, where an exam has fewer).

    Returns:
        Columns run_id, split, patient_id, study, score, label (the exam label), sorted by the
        first four. One score that is NaN makes the exam's score NaN.

    Raises:
        ValueError: unknown rule, a clip twice in an exam of a run, an exam with two labels.

    >>> clips = pd.DataFrame({"run_id": "r", "split": "test", "patient_id": "p", "study": "s",
    ...                       "clip": [0, 1, 2], "score": [0.5, 0.25, 0.5], "study_label": 1})
    >>> [float(study_scores(clips, rule)["score"].iloc[0]) for rule in ("max", "noisy_or", "mean_top_3")]
    [0.5, 0.8125, 0.4166666666666667]
    """
    top = re.fullmatch(r"mean_top_([1-9]\d*)", rule)
    if not (top or rule in ("max", "noisy_or")):
        raise ValueError(f"study_score is {rule!r}; give 'max', 'noisy_or', or 'mean_top_K' with K from 1.")
    clips = predictions.sort_values([*STUDY, "score"], ascending=[True] * 4 + [False], kind="stable")
    _require_one_row_a_clip(clips)
    starts = np.flatnonzero(np.diff(clips.groupby(STUDY).ngroup().to_numpy(), prepend=-1))
    studies = clips.iloc[starts][STUDY].reset_index(drop=True)
    score = _combine(clips["score"].to_numpy(np.float64), starts, rule, int(top[1]) if top else 0)
    return studies.assign(score=score, label=_study_label(clips, starts))


def _combine(score: NDArray[np.float64], starts: NDArray[np.int64], rule: str, k: int) -> NDArray[np.float64]:
    """One score a group; groups are consecutive, highest score first, NaN anywhere."""
    if rule == "max":
        return np.maximum.reduceat(score, starts)
    if rule == "noisy_or":
        return 1.0 - np.multiply.reduceat(1.0 - score, starts)
    sizes = np.diff(np.r_[starts, len(score)])
    rank = np.arange(len(score)) - np.repeat(starts, sizes)
    kept = np.where((rank < k) | np.isnan(score), score, 0.0)
    return np.add.reduceat(kept, starts) / np.minimum(sizes, k)


def _study_label(clips: pd.DataFrame, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The exam label of each group of rows, which must be the same in all its rows."""
    labels = clips["study_label"].to_numpy(np.int64)
    low, high = np.minimum.reduceat(labels, starts), np.maximum.reduceat(labels, starts)
    if (low != high).any():
        study = clips.iloc[starts[np.argmax(low != high)]]
        raise ValueError(f"predictions: study {study['study']} of run {study['run_id']} has two exam labels.")
    return low


def _require_one_row_a_clip(clips: pd.DataFrame) -> None:
    twice = clips.duplicated([*STUDY, "clip"])
    if twice.any():
        row = clips.loc[twice].iloc[0]
        raise ValueError(
            f"predictions: clip {row['clip']} of study {row['study']} is there twice for run {row['run_id']}."
        )


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Both as arrays `[n]`; labels are 0 or 1."""
    truth, score = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != score.shape:
        raise ValueError(f"{truth.shape} labels and {score.shape} scores; give one score a label.")
    strange = ~np.isin(truth, (0.0, 1.0))
    if strange.any():
        raise ValueError(f"a label is {truth[strange][0]:g}; labels are 0 or 1, 1 = disease.")
    return truth.astype(np.int64), score


def _undefined(truth: NDArray[np.int64], score: NDArray[np.float64]) -> str:
    """Why no metric exists, or ''."""
    if not len(truth):
        return "no case"
    bad = int((~np.isfinite(score)).sum())
    return f"{bad} of {len(score)} scores are not finite" if bad else ""


def _one_class(truth: NDArray[np.int64]) -> str:
    """Why no order of the two classes exists, or ''."""
    return f"all {len(truth)} labels are {truth[0]}" if (truth == truth[0]).all() else ""
