"""A volume and its layers on a NiiVue canvas: three planes and a rendering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipyniivue
import numpy as np
from numpy.typing import NDArray

from ctlib.core import HuWindow
from ctlib.io import Volume
from ctlib.visualization.figures.style import READERS
from ctlib.visualization.viewer.layers import OVERLAP, drawable, matrix, nifti, part, resized
from ctlib.visualization.viewer.niivue_patches import changed

PLANES = {
    "all": ipyniivue.SliceType.MULTIPLANAR,
    "axial": ipyniivue.SliceType.AXIAL,
    "coronal": ipyniivue.SliceType.CORONAL,
    "sagittal": ipyniivue.SliceType.SAGITTAL,
    "rendering": ipyniivue.SliceType.RENDER,
}
OPACITY = {"contours": 1.0, "Grad-CAM": 0.5}
"""With which a layer opens."""
CUT = (0.0, 180.0, 0.0)
"""Of the rendering: at the middle of the volume, facing the patient's front, which is cut away: whole, a
chest in the lung's HU window is a grey block. Depth, azimuth and elevation, as NiiVue's `set_clip_plane`
takes them; its key C takes other cuts."""
SEEN_FROM = {"render_azimuth": 205.0, "render_elevation": 12.0}
"""From where the rendering is seen first, degrees: the front, a little from the left and above."""
HEAT_FROM = 64
"""Grad-CAM below a quarter of its highest value is not drawn; of 255."""


class _NiiVue(ipyniivue.NiiVue):
    _esm = changed(str(ipyniivue.NiiVue._esm))


class _Layer(ipyniivue.Volume):
    """A layer whose voxels are not kept a second time in the kernel, should the browser send them."""

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state({name: value for name, value in state.items() if not name.startswith("chunk_")})


class Canvas:
    """A NiiVue canvas in radiological convention, which speaks of places as (slice, row, column).

    Args:
        height_px: height on the page, CSS pixels.
    """

    def __init__(self, height_px: int) -> None:
        self.widget = _NiiVue(
            height=height_px,
            is_radiological_convention=True,
            sagittal_nose_left=True,
            show_all_orientation_markers=True,
            multiplanar_show_render=ipyniivue.ShowRender.ALWAYS,
            multiplanar_layout=ipyniivue.MultiplanarType.GRID,
            clip_plane_color=(0.0, 0.0, 0.0, 0.0),
            crosshair_color=(0.84, 0.15, 0.16, 0.8),
            crosshair_width=0.8,
            crosshair_width_unit="mm",
            font_color=(1.0, 0.85, 0.4, 1.0),
            drag_mode=ipyniivue.DragMode.NONE,
            loading_text="",
            drag_and_drop_enabled=False,  # a file dropped here would be taken for this exam
            log_level="error",
        )
        self.widget.set_clip_plane(*CUT)
        for name, degrees in SEEN_FROM.items():
            setattr(self.widget.scene, name, degrees)
        self._layers: dict[str, _Layer] = {}
        self._shape: tuple[int, ...] = (1, 1, 1)
        self._moved: Callable[[tuple[int, int, int]], None] = lambda place: None
        self.widget.on_location_change(self._on_location)

    def load(
        self,
        volume: Volume,
        hu_window: HuWindow,
        heat: NDArray[np.uint8] | None = None,
        contours: NDArray[np.uint8] | None = None,
    ) -> None:
        """Show another volume.

        Args:
            volume: what is shown; its slices are drawn with the rows and columns of `layers.matrix`.
            hu_window: HU window.
            heat: Grad-CAM from `layers.heat`, on the volume's grid; None for none.
            contours: from `layers.contours`, with as many rows and columns as are drawn; None for none.
        """
        limits = {"cal_min": hu_window.low, "cal_max": hu_window.high}
        self._shape = volume.shape  # places are those of the volume, whatever is drawn of it
        drawn = drawable(volume)
        self._layers = {"ct": _layer(nifti(drawn, drawn.hu), "ct.nii", colormap="gray", **limits)}
        if heat is not None:
            self._layers["Grad-CAM"] = _warm(drawn, resized(heat, matrix(volume)))
        if contours is not None:
            self._layers["contours"] = _outlined(drawn, contours)
        before = self.widget.volumes
        self.widget.load_volumes(list(self._layers.values()))
        for layer in before:
            layer.close()

    @property
    def layers(self) -> list[str]:
        """Names of the layers over the volume."""
        return [name for name in self._layers if name != "ct"]

    def opacity(self, name: str, value: float) -> None:
        """Set the opacity of a layer, 0 to 1."""
        self._layers[name].opacity = value

    def hu_window(self, hu_window: HuWindow) -> None:
        """Set the HU window of what is shown."""
        if "ct" not in self._layers:
            return
        base = self._layers["ct"]
        with base.hold_sync():
            base.cal_min, base.cal_max = hu_window.low, hu_window.high

    def planes(self, name: str) -> None:
        """Show the planes of a name, a key of `PLANES`."""
        self.widget.set_slice_type(PLANES[name])

    def wheel_zooms(self, zooms: bool) -> None:
        """Whether the wheel zooms and a drag with the right button pans, or the wheel moves the slice."""
        mode = ipyniivue.DragMode.PAN if zooms else ipyniivue.DragMode.NONE
        self.widget.opts.drag_mode = mode

    def move_to(self, place: tuple[int, int, int]) -> None:
        """Move the cursor to (slice, row, column)."""
        n_slices, n_rows, n_columns = self._shape
        z, y, x = place
        # NiiVue counts from 0 to 1 along Right, Anterior, Superior, over whole voxels.
        right, anterior = 1 - (x + 0.5) / n_columns, 1 - (y + 0.5) / n_rows
        self.widget.scene.crosshair_pos = [right, anterior, (z + 0.5) / n_slices]

    def on_move(self, moved: Callable[[tuple[int, int, int]], None]) -> None:
        """Call a function with (slice, row, column) when the cursor was moved in the browser."""
        self._moved = moved

    def _on_location(self, location: dict[str, Any]) -> None:
        right, anterior, superior = location["frac"][:3]
        n_slices, n_rows, n_columns = self._shape
        across = ((superior, n_slices), (1 - anterior, n_rows), (1 - right, n_columns))
        z, y, x = (min(max(int(share * n), 0), n - 1) for share, n in across)
        self._moved((z, y, x))


def _layer(data: bytes, name: str, **options: Any) -> _Layer:
    return _Layer(data=data, name=name, colorbar_visible=False, **options)


def _warm(volume: Volume, heat: NDArray[np.uint8]) -> _Layer:
    kind = ipyniivue.ColormapType.ZERO_TO_MAX_TRANSPARENT_BELOW_MIN
    limits = {"cal_min": float(HEAT_FROM), "cal_max": 255.0}
    shown = {"opacity": OPACITY["Grad-CAM"], "colormap": "plasma", "colormap_type": kind}
    return _layer(nifti(volume, heat), "cam.nii", **shown, **limits)


def _outlined(volume: Volume, contours: NDArray[np.uint8]) -> _Layer:
    held, corner = part(contours)  # a nodule is small: nothing else need travel
    layer = _layer(nifti(volume, held, corner), "contours.nii", opacity=OPACITY["contours"])
    colours = [(0, 0, 0), *(_rgb(colour) for colour in (*READERS, OVERLAP))]
    names = ["", *(f"reader {i + 1}" for i in range(len(READERS))), "several readers"]
    table = {channel: [colour[i] for colour in colours] for i, channel in enumerate("RGB")}
    alpha = [0] + [255] * (len(colours) - 1)
    layer.set_colormap_label({**table, "A": alpha, "I": list(range(len(colours))), "labels": names})
    return layer


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
