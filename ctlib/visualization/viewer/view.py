"""Volumes in JupyterLab: three planes and a rendering, with what readers and runs say of them.

`show` opens one volume, `compare` two runs side by side, `browse` steps through exams. In a page of
JupyterLab they are widgets that need no network; in a notebook that is executed (papermill,
nbconvert) and in plain Python the same calls give a figure of three planes. `grid` gives all slices on one sheet.

>>> import numpy as np
>>> from ctlib.io.volume import Volume
>>> volume = Volume(np.full((3, 4, 5), -1000, np.int16), (2.5, 0.7, 0.7), "1.2.3", (-80.0, 0.0, 0.0))
>>> show(volume, "lung", labels=[0, 1, 1]).scene.start
Series 1.2.3: three planes, in the attribute figure of what was returned.
(2, 2, 2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from IPython.core import getipython
from IPython.display import display
from numpy.typing import NDArray

from ctlib.datasets import Cohort
from ctlib.io import Volume
from ctlib.visualization.viewer.exams import acquired
from ctlib.visualization.viewer.scene import Run, Scene, SceneError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ctlib.visualization.viewer.panel import Panel


VIEWERS = ("auto", "niivue", "itk", "itkwidgets", "static")


def is_watched() -> bool:
    """Whether the running cell was sent by a page, at which somebody sits.

    A notebook that is executed (papermill, nbconvert, this project's own command) says in each
    request that nobody can answer (`allow_stdin` of the Jupyter message specification is false);
    JupyterLab and other pages say that somebody can. No variable of the environment tells them
    apart: a kernel of papermill that was started from a terminal or a notebook of JupyterLab
    inherits all of them.
    """
    kernel = getattr(getipython.get_ipython(), "kernel", None)
    if kernel is None:
        return False
    request = kernel.get_parent("shell") or {}
    kind = request.get("header", {}).get("msg_type", "")
    # A widget's message comes from a page too, and has no such field.
    return kind == "comm_msg" or bool(request.get("content", {}).get("allow_stdin", False))


def chosen(viewer: str) -> str:
    """The viewer that is used, one of `VIEWERS` but not auto.

    Raises:
        ValueError: there is none of that name.
    """
    if viewer not in VIEWERS:
        raise ValueError(f"viewer is {viewer!r}; known are {', '.join(VIEWERS)}.")
    if not is_watched():
        return "static"
    return "niivue" if viewer == "auto" else viewer


@dataclass(eq=False)
class View:
    """What was shown; it is on the page already, so it shows nothing where it ends a cell.

    Args:
        scene: what was shown.
        viewer: which viewer showed it, one of `VIEWERS`.
        panels: the widgets; empty unless the viewer is niivue.
        figure: the three planes, of the viewer static; None otherwise.
        address: page of the viewer itk; "" otherwise.
    """

    scene: Scene
    viewer: str
    panels: list[Panel] = field(default_factory=list)
    figure: Figure | None = None
    address: str = ""

    def _ipython_display_(self) -> None:
        """Nothing: it was shown when it was made."""

    def __repr__(self) -> str:
        return f"View of series {self.scene.volume.series_uid}, shown by {self.viewer}"


def static(scene: Scene) -> View:
    """Three planes as a figure, displayed where IPython runs."""
    from ctlib.visualization.slices import planes

    cams = {name: run.cam for name, run in scene.runs.items() if run.cam is not None}
    figure = planes(scene.volume, scene.start, scene.hu_window, scene.marks, cams, scene.bands)
    alt = f"Axial, coronal and sagittal plane of series {scene.volume.series_uid}"
    alt += ", with bands along z" if scene.bands else ""
    return _figure(scene, figure, "three planes", alt, "three planes through the cursor (red)")


def _figure(scene: Scene, figure: Figure, what: str, alt: str, caption: str) -> View:
    shape, uid = " x ".join(str(n) for n in scene.volume.shape), scene.volume.series_uid
    if getipython.get_ipython() is None:
        print(f"Series {uid}: {what}, in the attribute figure of what was returned.")
    else:
        from ctlib.visualization.html import show as show_figure  # here: widgets do not need matplotlib

        show_figure(figure, alt=alt, caption=f"Series {uid}, {shape} voxels, {caption}.")
    return View(scene, "static", figure=figure)


def open_view(scene: Scene, viewer: str) -> View:
    """Show one scene.

    Args:
        scene: what is shown.
        viewer: one of `VIEWERS`.
    """
    viewer = chosen(viewer)
    if viewer == "static":
        return static(scene)
    if viewer == "itk":
        from ctlib.visualization.viewer import itk

        return View(scene, viewer, address=itk.show(scene))
    if viewer == "itkwidgets":
        from ctlib.visualization.viewer import itk

        itk.show_itkwidgets(scene)
        return View(scene, viewer)
    from ctlib.visualization.viewer.panel import Panel

    panel = Panel()
    panel.load(scene)
    display(panel.widget)
    return View(scene, viewer, [panel])


def open_pair(scenes: Mapping[str, Scene]) -> View:
    """Show scenes of one volume side by side, with linked cursors and HU windows."""
    from ctlib.visualization.viewer.panel import Panel, side_by_side

    panels = {name: Panel(name) for name in scenes}
    for name, scene in scenes.items():
        panels[name].load(scene)
    display(side_by_side(list(panels.values())))
    return View(next(iter(scenes.values())), "niivue", list(panels.values()))


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
        viewer: auto (niivue in a page, a figure elsewhere), niivue (planes, and a rendering by NiiVue),
            itk, itkwidgets or static.

    Raises:
        SceneError: something does not belong to the volume.
        ItkMissing, ItkwidgetsMissing: a viewer that was asked for is not there.
        ValueError: no such HU window or viewer.
    """
    runs = {name: Run(given) for name, given in (scores or {}).items()}
    if cam is not None:
        runs["Grad-CAM"] = Run(cam=cam)
    return open_view(Scene(volume, hu_window, marks, labels, clips, runs, place), viewer)


def grid(
    volume: Volume,
    hu_window: str = "lung",
    *,
    labels: Sequence[Any] | pd.Series = (),
    columns: int = 0,
) -> View:
    """Show all slices of a volume as a contact sheet, from superior to inferior: a figure, in a page too.

    Args:
        volume: any volume.
        hu_window: name of the HU window, a key of `hu.HU_WINDOWS`.
        labels: label of each slice, `[D]`, empty where unknown; slices with disease are framed.
        columns: slices a row; 0 for a sheet that fits a page.

    Raises:
        SceneError: labels are not one a slice.
        ValueError: no such HU window, or columns is below 0.
    """
    from ctlib.visualization.slices import contact_sheet  # here: widgets do not need matplotlib

    if columns < 0:
        raise ValueError(f"columns is {columns}; give 1 or more, or 0 for a sheet that fits a page.")
    scene = Scene(volume, hu_window, labels=labels)
    figure = contact_sheet(volume, hu_window, labels, columns)
    alt = f"All slices of series {volume.series_uid}"
    return _figure(scene, figure, "all slices", alt, "all slices from superior to inferior")


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
    both = Scene(volume, hu_window, marks, labels, clips, runs, place)
    if viewer == "static" or not is_watched():
        return open_view(both, "static")
    return open_pair({name: replace(both, runs={name: run}) for name, run in runs.items()})
