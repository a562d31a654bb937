"""All metrics of all runs, in one table."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ctlib.metrics.calibration import brier, calibration_intercept, calibration_slope, ece, ece_floor
from ctlib.metrics.discrimination import (
    auprc,
    auroc,
    prevalence,
    sensitivity,
    specificity,
    threshold_at_specificity,
)
from ctlib.metrics.exam_scores import study_scores
from ctlib.metrics.values import Metric

LEVELS = ("exam", "clip")
CHOOSES = "val"
"""The split on which thresholds are chosen."""
UNCHOSEN = "no validation score to choose the threshold on"
NAMES = (
    "prevalence", "auroc", "auprc", "threshold", "sensitivity", "specificity", "brier", "ece", "ece_floor",
    "slope", "intercept",
)  # fmt: skip


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
        Columns run_id, n (exams or clips), prevalence, auroc, auprc, threshold, sensitivity and specificity
        (at the threshold), brier, ece, ece_floor, slope, intercept, reason (which are NaN and why, or ''); a
        row a run that has predictions, sorted by run_id.

    Raises:
        ValueError: unknown level or rule; a clip twice in an exam of a run.
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}; give one of {', '.join(LEVELS)}.")
    chosen = predictions[predictions["split"].isin([split, CHOOSES])]
    cases = study_scores(chosen, rule) if level == "exam" else chosen
    choosing = {str(run): part for run, part in cases[cases["split"] == CHOOSES].groupby("run_id")}
    rows = []
    for run_id, part in cases[cases["split"] == split].groupby("run_id"):
        found = _metrics(part, choosing.get(str(run_id)), wanted, n_bins)
        row: dict[str, Any] = {"run_id": run_id, "n": len(part)}
        row |= {name: metric.value for name, metric in found.items()}
        whys = [f"{name}: {m.reason}" for name, m in found.items() if m.reason]
        rows.append(row | {"reason": "; ".join(whys)})
    return pd.DataFrame(rows, columns=["run_id", "n", *NAMES, "reason"])


def _metrics(
    cases: pd.DataFrame, choosing: pd.DataFrame | None, wanted: float, n_bins: int
) -> dict[str, Metric]:
    """The metrics `NAMES` of one run, and why one is NaN."""
    labels, scores = cases["label"].to_numpy(), cases["score"].to_numpy(float)
    threshold = Metric(math.nan, UNCHOSEN)
    if choosing is not None:
        threshold = threshold_at_specificity(choosing["label"], choosing["score"], wanted)
    at = [threshold, threshold]
    if not threshold.reason:
        at = [of(labels, scores, threshold.value) for of in (sensitivity, specificity)]
    found = [
        prevalence(labels),
        auroc(labels, scores),
        auprc(labels, scores),
        threshold,
        *at,
        brier(labels, scores),
        ece(labels, scores, n_bins),
        ece_floor(scores, n_bins),
        calibration_slope(labels, scores),
        calibration_intercept(labels, scores),
    ]
    return dict(zip(NAMES, found, strict=True))
