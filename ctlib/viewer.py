"""The short name of `ctlib.visualization.viewer`: `from ctlib import viewer`, then `viewer.show(volume)`."""

from ctlib.visualization import (
    VIEWERS,
    Browser,
    Exams,
    Run,
    Scene,
    SceneError,
    View,
    browse,
    compare,
    disagreement,
    exam_scores,
    exams_of,
    is_watched,
    show,
    show_exam,
)

__all__ = [
    "VIEWERS",
    "Browser",
    "Exams",
    "Run",
    "Scene",
    "SceneError",
    "View",
    "browse",
    "compare",
    "disagreement",
    "exam_scores",
    "exams_of",
    "is_watched",
    "show",
    "show_exam",
]
