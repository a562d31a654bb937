"""Every figure of the reports, in one look, and how figures and tables are shown.

A figure function takes tables (`ctlib.core.tables`) or volumes and returns a matplotlib `Figure`;
`show` displays it with its alternative text and caption.
"""

from ctlib.visualization.figures.animation import show_moving
from ctlib.visualization.figures.cohorts import geometry, hu_histogram, label_bands, n_patients
from ctlib.visualization.figures.exam_choice import disagreed_exams, sample_exams, samples
from ctlib.visualization.figures.forest import beside_chance, contrast_forest, effect_forest
from ctlib.visualization.figures.gradcam import cam_scores, cam_slices
from ctlib.visualization.figures.html import png, say, show, svg, table
from ctlib.visualization.figures.injected_effects import injected
from ctlib.visualization.figures.published import published_cells, published_forest
from ctlib.visualization.figures.quality import extreme_exams, hu_peaks, metadata_baseline
from ctlib.visualization.figures.questions import auroc_by_cost, calibration, effect_by_fraction, speed
from ctlib.visualization.figures.scores import auroc_by_fraction, clip_scores
from ctlib.visualization.figures.scroller import ClipScores, ScrollerExam, exam_of, scroller
from ctlib.visualization.figures.slices import (
    Picture,
    contours,
    examples,
    montage,
    sample,
    slices_of,
    stored,
    video_strip,
)
from ctlib.visualization.figures.style import style
from ctlib.visualization.figures.subgroups import subgroup_forest
from ctlib.visualization.figures.training_curves import learning_curves, pretraining_curves

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
    "png",
    "pretraining_curves",
    "published_cells",
    "published_forest",
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
    "svg",
    "table",
    "video_strip",
]
