"""Volumes in JupyterLab: three planes and a rendering, with what readers and runs say of them.

`show` opens one volume, `compare` two runs side by side, `browse` steps through exams. In a page of
JupyterLab they are widgets that need no network; in a notebook that is executed (papermill,
nbconvert) and in plain Python the same calls give a figure of three planes.

>>> import numpy as np
>>> from ctlib.io.volume import Volume
>>> volume = Volume(np.full((3, 4, 5), -1000, np.int16), (2.5, 0.7, 0.7), "1.2.3", (-80.0, 0.0, 0.0))
>>> show(volume, "lung", labels=[0, 1, 1]).scene.start
Series 1.2.3: three planes, in the attribute figure of what was returned.
(2, 2, 2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.datasets import Cohort
from ctlib.io import Volume
from ctlib.visualization.viewer.browser import Browser, browse
from ctlib.visualization.viewer.exams import Exams, acquired, disagreement, exam_scores, exams_of
from ctlib.visualization.viewer.frontend import VIEWERS, is_watched
from ctlib.visualization.viewer.scene import Run, Scene, SceneError
from ctlib.visualization.viewer.view import View, open_pair, open_view

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


def show(
    volume: Volume,
    hu_window: str = "lung",
    *,
    marks: pd.DataFrame | None = None,
    labels: Sequence[Any] | pd.Series = (),
    clips: pd.DataFrame | None = None,
    scores: Mapping[str, Sequence[float]] | None = None,
    cam: NDArray[np.floating] | None = None,
    place: tuple[int, int, int] | None = None,
    viewer: str = "auto",
) -> View:
    """Show a volume and what is known about it.

    Args:
        volume: any volume.
        hu_window: name of the HU window it opens with, a key of `hu.HU_WINDOWS`.
        marks: table `marks`: contours by reader; the volume must be the one as acquired.
        labels: label of each slice, `[D]`, empty where unknown: a coloured band along z.
        clips: table `clips`: borders of the clips, coloured by label.
        scores: by name of a run, the score of each clip in [0, 1]: a strip that moves the slice.
        cam: Grad-CAM on the volume's grid, float `[D, H, W]`, 0 or above.
        place: slice, row, column at which it opens; None for the middle of what is marked.
        viewer: auto (niivue in a page, a figure elsewhere), niivue, itk, itkwidgets or static.

    Raises:
        SceneError: something does not belong to the volume.
        ItkMissing, ItkwidgetsMissing: a viewer that was asked for is not there.
        ValueError: no such HU window or viewer.
    """
    runs = {name: Run(given) for name, given in (scores or {}).items()}
    if cam is not None:
        runs["Grad-CAM"] = Run(cam=cam)
    return open_view(Scene(volume, hu_window, marks, labels, clips, runs, place), viewer)


def show_exam(
    cohort: Cohort, hu_window: str, clips: pd.DataFrame, series_uid: str = "", viewer: str = "auto"
) -> View:
    """Show an exam of a cohort as acquired, with slice labels, clips and readers' contours.

    Args:
        cohort: a cohort whose files were read.
        hu_window: name of the HU window it opens with.
        clips: table `clips`.
        series_uid: "" for the first exam with marks; else the first with disease; else the first.
        viewer: see `show`.

    Raises:
        CohortError: its files cannot be read any more.
        SceneError, ItkMissing, ItkwidgetsMissing: see `show`.
    """
    return open_view(acquired(cohort, hu_window, clips, series_uid), viewer)


def compare(
    volume: Volume,
    runs: Mapping[str, Run],
    hu_window: str = "lung",
    *,
    marks: pd.DataFrame | None = None,
    labels: Sequence[Any] | pd.Series = (),
    clips: pd.DataFrame | None = None,
    place: tuple[int, int, int] | None = None,
    viewer: str = "auto",
) -> View:
    """Show what two runs, of two inits for example, say of a volume, with linked cursors.

    Args:
        volume: any volume.
        runs: two runs by name, each with scores, Grad-CAM or both.
        hu_window: see `show`, as all that follow; `viewer` is auto, niivue or static.

    Raises:
        SceneError: see `show`, or there are not two runs.
    """
    if len(runs) != 2:
        raise SceneError(f"compare was given {len(runs)} runs ({', '.join(runs)}): give two, by name.")
    if viewer not in ("auto", "niivue", "static"):
        raise ValueError(f"viewer is {viewer!r}; compare knows auto, niivue and static.")
    shared: dict[str, Any] = {
        "hu_window": hu_window,
        "marks": marks,
        "labels": labels,
        "clips": clips,
        "place": place,
    }
    both = Scene(volume, runs=runs, **shared)
    if viewer == "static" or not is_watched():
        return open_view(both, "static")
    return open_pair({name: Scene(volume, runs={name: run}, **shared) for name, run in runs.items()})
