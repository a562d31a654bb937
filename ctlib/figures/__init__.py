"""Every figure of the reports, in one look, and how figures and tables are shown.

A figure function takes tables (`ctlib.tables`) or volumes and returns a matplotlib `Figure`;
`show` displays it with its alternative text and caption.
"""

from ctlib.figures.cohorts import geometry, hu_histogram, label_bands, n_patients
from ctlib.figures.display import say, show, table
from ctlib.figures.exams import disagreed_exams, sample_exams, samples
from ctlib.figures.forests import beside_chance, contrast_forest, effect_forest
from ctlib.figures.gradcam import cam_scores, cam_slices
from ctlib.figures.injected import injected
from ctlib.figures.learning import learning_curves, pretraining_curves
from ctlib.figures.look import style
from ctlib.figures.moving import show_moving
from ctlib.figures.pictures import (
    Picture,
    contours,
    examples,
    montage,
    sample,
    slices_of,
    stored,
    video_strip,
)
from ctlib.figures.quality import extreme_exams, hu_peaks, metadata_baseline
from ctlib.figures.questions import auroc_by_cost, calibration, effect_by_fraction, speed
from ctlib.figures.results import auroc_by_fraction, clip_scores
from ctlib.figures.scroller import ClipScores, ScrollerExam, exam_of, scroller
from ctlib.figures.subgroups import subgroup_forest

__all__ = [
    "ClipScores",
    "Picture",
    "ScrollerExam",
    "auroc_by_cost",
    "auroc_by_fraction",
    "beside_chance",
    "calibration",
    "cam_scores",
    "cam_slices",
    "clip_scores",
    "contours",
    "contrast_forest",
    "disagreed_exams",
    "effect_by_fraction",
    "effect_forest",
    "exam_of",
    "examples",
    "extreme_exams",
    "geometry",
    "hu_histogram",
    "hu_peaks",
    "injected",
    "label_bands",
    "learning_curves",
    "metadata_baseline",
    "montage",
    "n_patients",
    "pretraining_curves",
    "sample",
    "sample_exams",
    "samples",
    "say",
    "scroller",
    "show",
    "show_moving",
    "slices_of",
    "speed",
    "stored",
    "style",
    "subgroup_forest",
    "table",
    "video_strip",
]
