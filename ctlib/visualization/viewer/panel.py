"""The viewer in JupyterLab: planes, HU windows, what is under the cursor, layers, bands along z."""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from numpy.typing import NDArray

from ctlib.core import HU_MAX, HU_MIN, HU_WINDOWS, HuWindow
from ctlib.io import Volume
from ctlib.visualization.style import READERS
from ctlib.visualization.viewer.scene import (
    NAMES,
    NO_LABEL,
    SEVERAL,
    SIDES,
    Band,
    Part,
    Scene,
    contours,
    heat,
    plane,
)

if TYPE_CHECKING:
    from ctlib.visualization.viewer.niivue import Rendering

ASSETS = Path(__file__).parent / "assets"
FREE = "free"
HEIGHT_PX = 600
"""Of the planes at most: the axial one, and the two others above each other."""
OPACITY = {"contours": 1.0, "Grad-CAM": 0.5}
"""With which a layer opens."""
OVERLAP = "#FFFFFF"
COLOURS = ("plasma", "viridis", "inferno", "hot", "turbo")
"""Colour maps for Grad-CAM, files of ipyniivue."""
HEAT_FROM = 64
"""Grad-CAM below a quarter of its highest value is not drawn; of 255."""
VIEWS = {
    "all": "three planes, the axial one largest",
    **{name: f"the {name} plane alone" for name in NAMES},
    "rendering": "a rendering, cut open in front; a drag turns it, the wheel moves the cut",
}
TOOLS = {
    "HU window": "a drag to the right widens the HU window, upwards raises its centre",
    "ruler": "a drag measures in mm; Escape removes all rulers",
    "pan": "a drag moves the picture; so does a drag with the right button, or with Shift, at any time",
}
SLABS_MM = (0, 5, 10, 20, 30)


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


def colour_map(name: str) -> list[list[int]]:
    """Red, green, blue, alpha of the values 0 to 255 of Grad-CAM, each 0 to 255.

    Args:
        name: one of `COLOURS`.
    """
    spec = find_spec("ipyniivue")  # its files: importing it takes longer than drawing three planes
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0], "static", "colormaps", f"{name}.json")
    known, steps = json.loads(path.read_text()), np.arange(256)
    bands = [np.interp(steps, known["I"], known[channel]).round() for channel in "RGB"]
    return np.stack([*bands, np.where(steps >= HEAT_FROM, 255, 0)], axis=1).astype(int).tolist()


def reader_colours() -> list[list[int]]:
    """Red, green, blue, alpha of the values of `contours`, each 0 to 255."""
    coded = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] + [255] for colour in (*READERS, OVERLAP)]
    return [[0, 0, 0, 0], *coded]


class Planes(anywidget.AnyWidget):
    """Axial, coronal and sagittal plane of a volume, at its own rows and columns whatever they are.

    The page asks for the planes that it shows and keeps them: a whole volume of 512 x 512 x 300 is
    157 MB, and all of it takes NiiVue without a GPU 20 to 35 s. The three that it opens with are sent along.
    A plane goes as int16 HU, its layers as uint8, nothing where a layer is empty there.
    """

    _esm = ASSETS / "planes.js"
    _css = ASSETS / "planes.css"
    serial = traitlets.Int(0).tag(sync=True)
    shape: Any = traitlets.List([1, 1, 1]).tag(sync=True)
    spacing_mm: Any = traitlets.List([1.0, 1.0, 1.0]).tag(sync=True)
    sides: Any = traitlets.List([list(sides) for sides in SIDES]).tag(sync=True)
    place: Any = traitlets.List([0, 0, 0]).tag(sync=True)
    limits: Any = traitlets.List([-1350.0, 150.0]).tag(sync=True)
    layers: Any = traitlets.List().tag(sync=True)
    first: Any = traitlets.Dict({"planes": [], "buffers": []}).tag(sync=True)
    view = traitlets.Unicode("all").tag(sync=True)
    tools: Any = traitlets.List(list(TOOLS)).tag(sync=True)
    tool = traitlets.Int(0).tag(sync=True)
    slab_mm = traitlets.Float(0.0).tag(sync=True)
    height_px = traitlets.Int(HEIGHT_PX).tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self._voxels: list[NDArray[Any]] = []
        self.on_msg(self._asked)

    def load(self, volume: Volume, layers: Mapping[str, NDArray[np.uint8]], place: tuple[int, ...]) -> None:
        """Show another volume.

        Args:
            volume: any volume.
            layers: "Grad-CAM" from `heat`, "contours" from `contours`, `[D, H, W]`.
            place: slice, row, column.
        """
        self._voxels = [volume.hu, *layers.values()]
        kinds = {"Grad-CAM": colour_map(COLOURS[0]), "contours": reader_colours()}
        with self.hold_sync():
            self.layers = [
                {"name": name, "opacity": OPACITY[name], "colours": kinds[name], "sharp": name == "contours"}
                for name in layers
            ]
            self.shape, self.spacing_mm = list(volume.shape), list(volume.spacing_mm)
            self.place = list(place)
            opened = list(enumerate(place))
            self.first = {"planes": opened, "buffers": self.cut(opened)}
            self.serial += 1

    def cut(self, planes: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes of planes and of the layers on each, as the page reads them.

        Args:
            planes: index of a plane (0 axial, 1 coronal, 2 sagittal), and its slice, row or column.
        """
        cuts = []
        for index, at in planes:
            n = max(round(self.slab_mm / self.spacing_mm[index]), 1)
            for number, voxels in enumerate(self._voxels):
                flat = plane(voxels, index, at, n)
                empty = number > 0 and not flat.any()
                cuts.append(b"" if empty else flat.astype("u1" if number else "<i2").tobytes())
        return cuts

    def change(self, name: str, **given: Any) -> None:
        """Change opacity or colours of a layer."""
        self.layers = [{**layer, **(given if layer["name"] == name else {})} for layer in self.layers]

    def snapshot(self) -> None:
        """Have the page save what it shows as a PNG."""
        self.send({"snapshot": True})

    def _asked(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        if content["serial"] == self.serial and content["slab_mm"] == self.slab_mm:
            planes = [(int(index), int(at)) for index, at in content["need"]]
            answer = {**content, "planes": planes}
            self.send(answer, self.cut(planes))
        else:
            self.send({**content, "planes": []})


class Panel:
    """One volume with its overlays; another may be loaded into it.

    Args:
        title: written above; "" for nothing.
    """

    def __init__(self, title: str = "") -> None:
        self.picture = Planes()
        self.rendering: Rendering | None = None
        self.scene: Scene | None = None
        self.place = (0, 0, 0)
        self.followers: list[Callable[[tuple[int, int, int]], None]] = []
        said = {name: f"HU window {name}, {known}" for name, known in HU_WINDOWS.items()}
        self.presets = _choice({**said, FREE: "any other HU window: drag on a plane, or use the sliders"})
        self.centre = _slider("centre", HU_MIN, HU_MAX, "middle grey of the HU window")
        self.width = _slider("width", 1, HU_MAX - HU_MIN, "from black to white")
        self.planes, self.tool = _choice(VIEWS), _choice(TOOLS)
        self.slab = widgets.Dropdown(
            options=[("one slice", 0), *((f"{mm} mm", mm) for mm in SLABS_MM[1:])], description="maximum of",
            tooltip="maximum intensity over a slab of so many mm around each plane",
            layout={"width": "190px"}, style={"description_width": "auto"},
        )  # fmt: skip
        self.snapshot = widgets.Button(
            description="snapshot",
            icon="camera",
            tooltip="save what is shown as a PNG",
            layout={"width": "auto"},
        )
        self.opacities, self.shown = widgets.HBox(), widgets.VBox([self.picture], layout={"width": "100%"})
        self.cursor, self.legend = widgets.HTML(), widgets.HTML()
        self.strip = Strip()
        self._presetting = False
        self._connect()
        heading = [widgets.HTML(f"<b>{html.escape(title)}</b>")] if title else []
        rows = [
            _row(self.presets, self.centre, self.width),
            _row(self.planes, self.tool, self.slab, self.snapshot, self.opacities),
        ]
        below = [_row(self.cursor, self.legend), self.strip]
        self.widget = widgets.VBox([*heading, *rows, self.shown, *below], layout={"width": "100%"})

    def load(self, scene: Scene) -> None:
        """Show a scene; of its runs, the first with Grad-CAM gives that layer.

        The first one opens with its own HU window; after it, the HU window that was chosen stays.
        """
        if self.scene is None:
            self.presets.value = scene.hu_window
            self._on_preset({"new": scene.hu_window})
        self.scene = scene
        layers = {}
        cam = next((run.cam for run in scene.runs.values() if run.cam is not None), None)
        if cam is not None:
            layers["Grad-CAM"] = heat(cam)
        if scene.marks is not None:
            layers["contours"] = contours(scene.volume, scene.marks)
        self.picture.load(scene.volume, layers, scene.start)
        self.opacities.children = [part for name in layers for part in self._layer_controls(name)]
        self.legend.value = _legend(layers["contours"]) if "contours" in layers else ""
        n_slices = scene.volume.shape[0]
        plain = [Band("slices", (Part(0, n_slices, NO_LABEL, "", "click to go to a slice"),))]
        self.strip.load(scene.bands or plain, n_slices, scene.start[0])
        self.move_to(scene.start)
        self._on_view({"new": self.planes.value}, anew=True)

    def _layer_controls(self, name: str) -> list[widgets.Widget]:
        slider = widgets.FloatSlider(
            OPACITY[name], min=0, max=1, step=0.05, description=name, readout=False, layout={"width": "220px"},
            tooltip=f"opacity of {name}",
        )  # fmt: skip
        slider.observe(lambda change: self.picture.change(name, opacity=change["new"]), "value")
        if name != "Grad-CAM":
            return [slider]
        chosen = widgets.Dropdown(options=COLOURS, tooltip="colours of Grad-CAM", layout={"width": "90px"})
        chosen.observe(lambda change: self.picture.change(name, colours=colour_map(change["new"])), "value")
        return [slider, chosen]

    def _connect(self) -> None:
        self.presets.observe(self._on_preset, "value")
        for slider in (self.centre, self.width):
            slider.observe(self._on_hu_window, "value")
        self.planes.observe(self._on_view, "value")
        widgets.jslink((self.tool, "index"), (self.picture, "tool"))  # in the page: a kernel may be busy
        self.slab.observe(lambda change: setattr(self.picture, "slab_mm", change["new"]), "value")
        self.snapshot.on_click(lambda button: (self.rendering or self.picture).snapshot())
        self.picture.observe(self._on_place, "place")
        self.picture.observe(self._on_limits, "limits")
        self.strip.observe(self._on_strip, "place")

    def _on_view(self, change: dict[str, Any], anew: bool = False) -> None:
        rendered = change["new"] == "rendering"
        if self.rendering is not None and (anew or not rendered):
            self.rendering.close()  # one canvas a volume: a large one may be drawn after, and over, the next
            self.rendering = None
        if not rendered:
            self.picture.view = change["new"]
            self.shown.children = [self.picture]
        elif self.rendering is None and self.scene is not None:
            from ctlib.visualization.viewer.niivue import Rendering  # here: planes need not wait for it

            self.rendering = Rendering(self.scene.volume, self._hu_window, HEIGHT_PX)
            self.shown.children = [self.rendering.widget]

    def _apply(self, hu_window: HuWindow) -> None:
        self.picture.limits = [hu_window.low, hu_window.high]
        if self.rendering is not None:
            self.rendering.hu_window(hu_window)

    def _on_preset(self, change: dict[str, Any]) -> None:
        if change["new"] != FREE:
            self._set(HuWindow.named(change["new"]))

    def _set(self, hu_window: HuWindow) -> None:
        self._presetting = True
        self.centre.value, self.width.value = hu_window.centre, hu_window.width
        self._presetting = False
        self._on_hu_window({})

    @property
    def _hu_window(self) -> HuWindow:
        return HuWindow(self.centre.value, self.width.value)

    def _on_hu_window(self, change: dict[str, Any]) -> None:
        if self._presetting:  # between one slider and the other
            return
        now = self._hu_window
        self._apply(now)
        self.presets.value = next((name for name, known in HU_WINDOWS.items() if known == now), FREE)

    def _on_limits(self, change: dict[str, Any]) -> None:
        low, high = change["new"]
        if (low, high) != (self._hu_window.low, self._hu_window.high):  # a drag on a plane
            self._set(HuWindow((low + high) / 2, high - low))

    def _on_place(self, change: dict[str, Any]) -> None:
        self._go(tuple(int(value) for value in change["new"]))

    def _on_strip(self, change: dict[str, Any]) -> None:
        self._go((int(change["new"]), *self.place[1:]))

    def _go(self, place: tuple[int, ...]) -> None:
        z, y, x = place
        if (z, y, x) != self.place:
            self.move_to((z, y, x))
            for follow in self.followers:
                follow((z, y, x))

    def move_to(self, place: tuple[int, int, int]) -> None:
        """Move the cursor to (slice, row, column); those who follow are not told."""
        assert self.scene is not None
        self.place = place
        self.picture.place, self.strip.place = list(place), place[0]
        z_mm, y_mm, x_mm = self.scene.mm_at(place)
        text = (
            f"<b>{self.scene.hu_at(place)} HU</b> &nbsp; slice {place[0]}, row {place[1]}, column {place[2]} "
            f"&nbsp; S {z_mm:.1f}, P {y_mm:.1f}, L {x_mm:.1f} mm"
        )
        self.cursor.value = f'<span class="ct-cursor">{text.replace("-", "−")}</span>'


def side_by_side(panels: Sequence[Panel]) -> widgets.Widget:
    """Panels of one volume in a row; cursor and HU window of one are those of all."""
    for panel in panels:
        for other in panels:
            if other is not panel:
                panel.followers.append(other.move_to)
    for first, second in itertools.pairwise(panels):
        for control in ("presets", "centre", "width", "planes", "tool", "slab"):
            widgets.link((getattr(first, control), "value"), (getattr(second, control), "value"))
    for panel in panels:
        panel.widget.layout.width = f"{100 // len(panels)}%"
    return widgets.HBox([panel.widget for panel in panels], layout={"width": "100%"})


def _slider(name: str, low: float, high: float, tooltip: str) -> widgets.FloatSlider:
    return widgets.FloatSlider(
        min=low, max=high, step=1, description=f"{name}, HU", readout_format=".0f",
        continuous_update=False, layout={"width": "290px"}, tooltip=tooltip,
    )  # fmt: skip


def _choice(options: Mapping[str, str]) -> widgets.ToggleButtons:
    return widgets.ToggleButtons(
        options=list(options), tooltips=list(options.values()), style={"button_width": "auto"}
    )


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
