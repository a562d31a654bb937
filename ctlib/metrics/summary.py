"""All metrics of all runs, in one table; `METRICS` holds them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.metrics.calibration import brier, calibration_intercept, calibration_slope, ece, ece_floor
from ctlib.metrics.discrimination import (
    Metric,
    auprc,
    auroc,
    prevalence,
    sensitivity,
    specificity,
    threshold_at_specificity,
)
from ctlib.metrics.exam_scores import study_scores

LEVELS = ("exam", "clip")
CHOOSES = "val"
"""The split on which thresholds are chosen."""
UNCHOSEN = "no validation score to choose the threshold on"


@dataclass(frozen=True)
class Cases:
    """The exams, or clips, of one run.

    Args:
        labels: `[n]`, 0 or 1.
        scores: `[n]`, probabilities.
        threshold: chosen on the validation cases of the run, or why there is none.
        n_bins: of calibration errors.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    threshold: Metric
    n_bins: int

    def at_threshold(self, metric: Callable[..., Metric]) -> Metric:
        """A metric of labels, scores and threshold, where there is a threshold."""
        if self.threshold.reason:
            return self.threshold
        return metric(self.labels, self.scores, self.threshold.value)


@dataclass(frozen=True)
class Entry:
    """A metric of the table.

    Args:
        of: of the cases of one run.
        higher_is_better: None where neither is.
        levels: of `LEVELS`, to which it applies.
    """

    of: Callable[[Cases], Metric]
    higher_is_better: bool | None
    levels: tuple[str, ...] = LEVELS


METRICS = {
    "prevalence": Entry(lambda run: prevalence(run.labels), None),
    "auroc": Entry(lambda run: auroc(run.labels, run.scores), True),
    "auprc": Entry(lambda run: auprc(run.labels, run.scores), True),
    "threshold": Entry(lambda run: run.threshold, None),
    "sensitivity": Entry(lambda run: run.at_threshold(sensitivity), True),
    "specificity": Entry(lambda run: run.at_threshold(specificity), True),
    "brier": Entry(lambda run: brier(run.labels, run.scores), False),
    "ece": Entry(lambda run: ece(run.labels, run.scores, run.n_bins), False),
    "ece_floor": Entry(lambda run: ece_floor(run.scores, run.n_bins), None),
    "slope": Entry(lambda run: calibration_slope(run.labels, run.scores), None),
    "intercept": Entry(lambda run: calibration_intercept(run.labels, run.scores), None),
}
"""Every metric of `by_run` by its column: an entry here adds one."""


def by_run(
    predictions: pd.DataFrame,
    level: str = "exam",
    rule: str = "max",
    wanted: float = 0.9,
    n_bins: int = 10,
    split: str = "test",
) -> pd.DataFrame:
    """Every metric of every run, over exams or over clips.

    Args:
        predictions: table `predictions`.
        level: `exam`, the exam's score by `rule` against the exam label; `clip`, each clip against its own.
        rule: of `study_scores`.
        wanted: specificity for which the threshold of a run is chosen, on its validation cases.
        n_bins: of `ece`.
        split: whose predictions are used.

    Returns:
        Columns run_id, n (exams or clips), the metrics of `METRICS`, reason (which are NaN and why, or ''); a
        row a run that has predictions, sorted by run_id. Sensitivity and specificity are at the threshold.

    Raises:
        ValueError: unknown level or rule; a clip twice in an exam of a run.
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}; give one of {', '.join(LEVELS)}.")
    chosen = predictions[predictions["split"].isin([split, CHOOSES])]
    cases = study_scores(chosen, rule) if level == "exam" else chosen
    choosing = {str(run): part for run, part in cases[cases["split"] == CHOOSES].groupby("run_id")}
    own = {name: entry for name, entry in METRICS.items() if level in entry.levels}
    rows = []
    for run_id, part in cases[cases["split"] == split].groupby("run_id"):
        chosen_on, threshold = choosing.get(str(run_id)), Metric(math.nan, UNCHOSEN)
        if chosen_on is not None:
            threshold = threshold_at_specificity(chosen_on["label"], chosen_on["score"], wanted)
        run = Cases(part["label"].to_numpy(), part["score"].to_numpy(float), threshold, n_bins)
        found = {name: entry.of(run) for name, entry in own.items()}
        row: dict[str, Any] = {"run_id": run_id, "n": len(part)}
        row |= {name: metric.value for name, metric in found.items()}
        whys = [f"{name}: {metric.reason}" for name, metric in found.items() if metric.reason]
        rows.append(row | {"reason": "; ".join(whys)})
    return pd.DataFrame(rows, columns=["run_id", "n", *own, "reason"])
