"""Every figure of the reports, in one look, and how figures and tables are shown.

A figure function takes tables (`ctlib.tables`) or volumes and returns a matplotlib `Figure`;
`show` displays it with its alternative text and caption.
"""

from ctlib.figures.cohorts import geometry, hu_histogram, label_bands, n_patients
from ctlib.figures.display import show, table
from ctlib.figures.exams import disagreed_exams, sample_exams
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
from ctlib.figures.results import auroc_by_fraction, clip_scores, effect_forest
from ctlib.figures.scroller import ClipScores, ScrollerExam, exam_of, scroller

__all__ = [
    "ClipScores",
    "Picture",
    "ScrollerExam",
    "auroc_by_fraction",
    "clip_scores",
    "contours",
    "disagreed_exams",
    "effect_forest",
    "exam_of",
    "examples",
    "extreme_exams",
    "geometry",
    "hu_histogram",
    "hu_peaks",
    "label_bands",
    "learning_curves",
    "metadata_baseline",
    "montage",
    "n_patients",
    "pretraining_curves",
    "sample",
    "sample_exams",
    "scroller",
    "show",
    "show_moving",
    "slices_of",
    "stored",
    "style",
    "table",
    "video_strip",
]
