"""All metrics of all runs, in one table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ctlib.metrics.exams import study_scores
from ctlib.metrics.probability import brier, calibration_intercept, calibration_slope, ece
from ctlib.metrics.ranking import auprc, auroc, prevalence, sensitivity_at_specificity

LEVELS = ("exam", "clip")


def by_run(
    predictions: pd.DataFrame,
    level: str = "exam",
    rule: str = "max",
    specificity: float = 0.9,
    n_bins: int = 10,
    split: str = "test",
) -> pd.DataFrame:
    """Every metric of every run, over exams or over clips.

    Args:
        predictions: table `predictions`.
        level: `exam`, the exam's score by `rule` against the exam label; `clip`, each clip against its own.
        rule: of `study_scores`.
        specificity: of `sensitivity_at_specificity`.
        n_bins: of `ece`.
        split: whose predictions are used.

    Returns:
        Columns run_id, n (exams or clips), prevalence, auroc, auprc, sensitivity, brier, ece, slope,
        intercept, reason (which are NaN and why, or ''); a row a run that has predictions, sorted by run_id.

    Raises:
        ValueError: unknown level or rule; a clip twice in an exam of a run.
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}; give one of {', '.join(LEVELS)}.")
    chosen = predictions[predictions["split"] == split]
    cases = study_scores(chosen, rule) if level == "exam" else chosen
    names = ["prevalence", "auroc", "auprc", "sensitivity", "brier", "ece", "slope", "intercept"]
    rows = []
    for run_id, part in cases.groupby("run_id"):
        labels, scores = part["label"].to_numpy(), part["score"].to_numpy(float)
        found = [
            prevalence(labels),
            auroc(labels, scores),
            auprc(labels, scores),
            sensitivity_at_specificity(labels, scores, specificity),
            brier(labels, scores),
            ece(labels, scores, n_bins),
            calibration_slope(labels, scores),
            calibration_intercept(labels, scores),
        ]
        row: dict[str, Any] = {"run_id": run_id, "n": len(part)}
        row |= {name: metric.value for name, metric in zip(names, found, strict=True)}
        whys = [f"{name}: {m.reason}" for name, m in zip(names, found, strict=True) if m.reason]
        rows.append(row | {"reason": "; ".join(whys)})
    return pd.DataFrame(rows, columns=["run_id", "n", *names, "reason"])
