"""The viewer in JupyterLab: canvas, HU windows, what is under the cursor, layers, bands along z."""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from numpy.typing import NDArray

from ctlib.core import HU_MAX, HU_MIN, HU_WINDOWS, HuWindow
from ctlib.visualization.style import READERS
from ctlib.visualization.viewer.niivue import (
    OPACITY,
    OVERLAP,
    PLANES,
    SEVERAL,
    Canvas,
    contours,
    heat,
    matrix,
)
from ctlib.visualization.viewer.scene import Band, Scene

ASSETS = Path(__file__).parent / "assets"
FREE = "free"
HEIGHT_PX = 520
"""Of the canvas: planes and rendering, two by two."""


class Strip(anywidget.AnyWidget):
    """Bands along z, inferior on the left; a click, a drag or an arrow key moves `place`."""

    _esm = ASSETS / "bands.js"
    _css = ASSETS / "bands.css"
    bands: Any = traitlets.List().tag(sync=True)
    n_slices = traitlets.Int(1).tag(sync=True)
    place = traitlets.Int(0).tag(sync=True)

    def load(self, bands: Sequence[Band], n_slices: int, place: int) -> None:
        """Show other bands.

        Args:
            bands: from `Scene.bands`.
            n_slices: slices of the volume.
            place: slice that is shown.
        """
        with self.hold_sync():
            self.bands, self.n_slices = [asdict(band) for band in bands], n_slices
            self.place = place


class Panel:
    """One volume with its overlays; another may be loaded into it.

    Args:
        title: written above; "" for nothing.
    """

    def __init__(self, title: str = "") -> None:
        self.canvas = Canvas(HEIGHT_PX)
        self.scene: Scene | None = None
        self.place = (0, 0, 0)
        self.followers: list[Callable[[tuple[int, int, int]], None]] = []
        self.presets = _choice([*HU_WINDOWS, FREE])
        self.centre, self.width = _slider("centre", HU_MIN, HU_MAX), _slider("width", 10, HU_MAX - HU_MIN)
        self.planes, self.wheel = _choice(list(PLANES)), _choice(["wheel: slices", "wheel: zoom"])
        self.opacities = widgets.HBox()
        self.cursor, self.legend = widgets.HTML(), widgets.HTML()
        self.strip = Strip()
        self._presetting = False
        self._connect()
        heading = [widgets.HTML(f"<b>{html.escape(title)}</b>")] if title else []
        rows = [_row(self.presets, self.centre, self.width), _row(self.planes, self.wheel, self.opacities)]
        below = [_row(self.cursor, self.legend), self.strip]
        self.widget = widgets.VBox([*heading, *rows, self.canvas.widget, *below], layout={"width": "100%"})

    def load(self, scene: Scene) -> None:
        """Show a scene; of its runs, the first with Grad-CAM gives that layer.

        The first one opens with its own HU window; after it, the HU window that was chosen stays.
        """
        if self.scene is None:
            self.presets.value = scene.hu_window
            self._on_preset({"new": scene.hu_window})
        self.scene = scene
        cam = next((run.cam for run in scene.runs.values() if run.cam is not None), None)
        shape = matrix(scene.volume)
        drawn = None if scene.marks is None else contours(scene.volume, scene.marks, shape)
        self.canvas.load(scene.volume, self._hu_window, None if cam is None else heat(cam), drawn)
        self.opacities.children = [self._opacity(name) for name in self.canvas.layers]
        self.legend.value = "" if drawn is None else _legend(drawn)
        self.strip.load(scene.bands, scene.volume.shape[0], scene.start[0])
        self.move_to(scene.start)

    def _opacity(self, name: str) -> widgets.Widget:
        slider = widgets.FloatSlider(
            OPACITY[name], min=0, max=1, step=0.05, description=name, readout=False, layout={"width": "220px"}
        )
        slider.observe(lambda change: self.canvas.opacity(name, change["new"]), "value")
        return slider

    def _connect(self) -> None:
        self.presets.observe(self._on_preset, "value")
        for slider in (self.centre, self.width):
            slider.observe(self._on_hu_window, "value")
        self.planes.observe(lambda change: self.canvas.planes(change["new"]), "value")
        self.wheel.observe(lambda change: self.canvas.wheel_zooms("zoom" in change["new"]), "value")
        self.canvas.on_move(self._on_canvas)
        self.strip.observe(self._on_strip, "place")

    def _on_preset(self, change: dict[str, Any]) -> None:
        if change["new"] != FREE:
            preset = HuWindow.named(change["new"])
            self._presetting = True
            self.centre.value, self.width.value = preset.centre, preset.width
            self._presetting = False
            self.canvas.hu_window(preset)

    @property
    def _hu_window(self) -> HuWindow:
        return HuWindow(self.centre.value, self.width.value)

    def _on_hu_window(self, change: dict[str, Any]) -> None:
        if self._presetting:  # between one slider and the other
            return
        now = self._hu_window
        self.canvas.hu_window(now)
        self.presets.value = next((name for name, known in HU_WINDOWS.items() if known == now), FREE)

    def _on_canvas(self, place: tuple[int, int, int]) -> None:
        if place != self.place:
            self._moved(place)
            for follow in self.followers:
                follow(place)

    def _on_strip(self, change: dict[str, Any]) -> None:
        place = (int(change["new"]), *self.place[1:])
        if place != self.place:
            self.move_to(place)
            for follow in self.followers:
                follow(place)

    def move_to(self, place: tuple[int, int, int]) -> None:
        """Move the cursor to (slice, row, column); those who follow are not told."""
        self._moved(place)
        self.canvas.move_to(place)

    def _moved(self, place: tuple[int, int, int]) -> None:
        assert self.scene is not None
        self.place = place
        self.strip.place = place[0]
        z_mm, y_mm, x_mm = self.scene.mm_at(place)
        text = (
            f"<b>{self.scene.hu_at(place)} HU</b> &nbsp; slice {place[0]}, row {place[1]}, column {place[2]} "
            f"&nbsp; S {z_mm:.1f}, P {y_mm:.1f}, L {x_mm:.1f} mm"
        )
        drawn, own = matrix(self.scene.volume), self.scene.volume.shape[1:]
        fewer = f" &nbsp; drawn with {drawn[0]} of {own[0]} rows" if drawn != own else ""
        self.cursor.value = f'<span class="ct-cursor">{text.replace("-", "−")}</span>{fewer}'


def side_by_side(panels: Sequence[Panel]) -> widgets.Widget:
    """Panels of one volume in a row; cursor and HU window of one are those of all."""
    for panel in panels:
        for other in panels:
            if other is not panel:
                panel.followers.append(other.move_to)
    for first, second in itertools.pairwise(panels):
        for control in ("presets", "centre", "width", "planes"):
            widgets.link((getattr(first, control), "value"), (getattr(second, control), "value"))
    for panel in panels:
        panel.widget.layout.width = f"{100 // len(panels)}%"
    return widgets.HBox([panel.widget for panel in panels], layout={"width": "100%"})


def _slider(name: str, low: float, high: float) -> widgets.FloatSlider:
    return widgets.FloatSlider(
        min=low, max=high, step=10, description=f"{name}, HU", readout_format=".0f",
        continuous_update=False, layout={"width": "290px"},
    )  # fmt: skip


def _choice(options: list[str]) -> widgets.ToggleButtons:
    return widgets.ToggleButtons(options=options, style={"button_width": "auto"})


def _row(*parts: widgets.Widget) -> widgets.Widget:
    return widgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "center"})


def _legend(drawn: NDArray[np.uint8]) -> str:
    """A coloured square and a name for each reader whose contours were drawn."""
    names = [f"reader {value}" for value in range(1, SEVERAL)] + ["several readers"]
    square = "display:inline-block;width:10px;height:10px;border:1px solid #888;background:"
    return "".join(
        f'<span style="margin-left:1.2em"><span style="{square}{(*READERS, OVERLAP)[value - 1]}"></span> '
        f"{names[value - 1]}</span>"
        for value in np.unique(drawn[drawn > 0])
    )
