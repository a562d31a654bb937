"""Every figure of the reports by its name, and how figures and tables are shown: `figures.show(...)`.

A figure function takes tables (`ctlib.core.tables`) or volumes and returns a matplotlib `Figure`; a new one is
`styled` where it is written and named here.
"""

# ruff: noqa: F401  # names for others

from ctlib.visualization.animation import show_moving
from ctlib.visualization.curves import learning_curves, pretraining_curves, speed
from ctlib.visualization.datasets import (
    geometry,
    hu_histogram,
    hu_peaks,
    label_bands,
    metadata_baseline,
    n_patients,
)
from ctlib.visualization.effects import (
    beside_chance,
    contrast_forest,
    effect_by_fraction,
    effect_forest,
    injected,
    subgroup_forest,
)
from ctlib.visualization.gradcam import cam_scores, cam_slices
from ctlib.visualization.html import figure_html, png, result, say, show, show_folded, svg, table, table_html
from ctlib.visualization.published import published_cells, published_forest
from ctlib.visualization.scores import (
    auroc_by_cost,
    auroc_by_fraction,
    calibration,
    clip_scores,
    frozen_plane,
)
from ctlib.visualization.scroller import disagreed_exams, samples, scroller
from ctlib.visualization.slices import (
    contact_sheet,
    contours,
    examples,
    extreme_exams,
    montage,
    planes,
    sample,
    slices_of,
    stored,
    video_strip,
)
