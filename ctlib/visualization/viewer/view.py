"""What `show` and its kin give back, and which of the viewers shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from IPython.core.getipython import get_ipython
from matplotlib.figure import Figure

from ctlib.visualization import figures
from ctlib.visualization.figures.planes import planes
from ctlib.visualization.viewer.frontend import chosen
from ctlib.visualization.viewer.scene import Scene

if TYPE_CHECKING:
    from ctlib.visualization.viewer.panel import Panel


@dataclass(eq=False)
class View:
    """What was shown; it is on the page already, so it shows nothing where it ends a cell.

    Args:
        scene: what was shown.
        viewer: which viewer showed it, one of `frontend.VIEWERS`.
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
    cams = {name: run.cam for name, run in scene.runs.items() if run.cam is not None}
    figure = planes(scene.volume, scene.start, scene.hu_window, scene.marks, cams, scene.bands)
    shape, uid = " x ".join(str(n) for n in scene.volume.shape), scene.volume.series_uid
    if get_ipython() is None:
        print(f"Series {uid}: three planes, in the attribute figure of what was returned.")
        return View(scene, "static", figure=figure)
    figures.show(
        figure,
        alt=f"Axial, coronal and sagittal plane of series {uid}"
        + (", with bands along z" if scene.bands else ""),
        caption=f"Series {uid}, {shape} voxels, three planes through the cursor (red).",
    )
    return View(scene, "static", figure=figure)


def open_view(scene: Scene, viewer: str) -> View:
    """Show one scene.

    Args:
        scene: what is shown.
        viewer: one of `frontend.VIEWERS`.
    """
    viewer = chosen(viewer)
    if viewer == "static":
        return static(scene)
    if viewer == "itk":
        from ctlib.visualization.viewer import itk

        return View(scene, viewer, address=itk.show(scene))
    if viewer == "itkwidgets":
        from ctlib.visualization.viewer import itkwidgets

        itkwidgets.show(scene)
        return View(scene, viewer)
    from IPython.display import display

    from ctlib.visualization.viewer.panel import Panel

    panel = Panel()
    panel.load(scene)
    display(panel.widget)
    return View(scene, viewer, [panel])


def open_pair(scenes: Mapping[str, Scene]) -> View:
    """Show scenes of one volume side by side, with linked cursors and HU windows."""
    from IPython.display import display

    from ctlib.visualization.viewer.panel import Panel, side_by_side

    panels = {name: Panel(name) for name in scenes}
    for name, scene in scenes.items():
        panels[name].load(scene)
    display(side_by_side(list(panels.values())))
    return View(next(iter(scenes.values())), "niivue", list(panels.values()))
