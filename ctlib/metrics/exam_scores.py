"""One score an exam, from the scores of its clips."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

STUDY = ["run_id", "split", "patient_id", "study"]
"""Columns of table `predictions` that name one exam of one run."""


def study_scores(predictions: pd.DataFrame, rule: str = "max") -> pd.DataFrame:
    """One score an exam, from the scores of its clips.

    Args:
        predictions: table `predictions`, of one or more runs and splits, in any order.
        rule: `max`, the highest clip score (Ke et al. 2023; docs/protocol.md);
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
