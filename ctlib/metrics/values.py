"""A value, or NaN and why; what labels and scores must be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
