"""How well scores tell disease from no disease, for one run, over exams or over clips.

A value that does not exist (one class only, a score that is not a number) is NaN with a
reason, never 0 and never left out in silence: `Metric` carries both.
"""

from ctlib.metrics.auroc import (
    auprc,
    auroc,
    auroc_by_luck,
    prevalence,
    sensitivity,
    specificity,
    threshold_at_specificity,
)
from ctlib.metrics.calibration import (
    THRESHOLDS,
    brier,
    calibration_intercept,
    calibration_slope,
    decision_curve,
    ece,
    ece_floor,
    reliability,
)
from ctlib.metrics.exam_scores import study_scores
from ctlib.metrics.summary import by_run
from ctlib.metrics.values import Metric

__all__ = [
    "THRESHOLDS",
    "Metric",
    "auprc",
    "auroc",
    "auroc_by_luck",
    "brier",
    "by_run",
    "calibration_intercept",
    "calibration_slope",
    "decision_curve",
    "ece",
    "ece_floor",
    "prevalence",
    "reliability",
    "sensitivity",
    "specificity",
    "study_scores",
    "threshold_at_specificity",
]
