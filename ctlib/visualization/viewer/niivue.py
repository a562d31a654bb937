"""A volume and its layers on a NiiVue canvas: three planes and a rendering."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import ipyniivue
import numpy as np
import pandas as pd
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray

from ctlib.core import HuWindow
from ctlib.datasets import points_of
from ctlib.io import Volume
from ctlib.visualization.style import READERS

SEVERAL = len(READERS) + 1
"""Value of a voxel on the contours of more than one reader; 1 to 4 are those of one."""
OVERLAP = "#FFFFFF"
MATRIX_PX = 256
"""Rows and columns of a slice that a page is sent at most: those of 512 x 512 px would be four times as
many bytes to send and to keep as textures, and the page stands still meanwhile."""


def matrix(volume: Volume) -> tuple[int, int]:
    """Rows and columns with which a volume's slices are drawn: its own, at most `MATRIX_PX`."""
    rows, columns = volume.shape[1:]
    step = max(rows / MATRIX_PX, columns / MATRIX_PX, 1.0)
    return max(round(rows / step), 1), max(round(columns / step), 1)


def drawable(volume: Volume) -> Volume:
    """A volume of the same extent whose slices are of `matrix`; itself where they are already."""
    rows, columns = volume.shape[1:]
    drawn_rows, drawn_columns = matrix(volume)
    if (rows, columns) == (drawn_rows, drawn_columns):
        return volume
    z, y, x = volume.spacing_mm
    spacing = (z, y * rows / drawn_rows, x * columns / drawn_columns)
    z0, y0, x0 = volume.origin_mm  # of a voxel's middle: that of a larger one lies further in
    origin = (z0, y0 + (spacing[1] - y) / 2, x0 + (spacing[2] - x) / 2)
    return Volume(resized(volume.hu, (drawn_rows, drawn_columns)), spacing, volume.series_uid, origin)


def resized(voxels: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Slices `[D, H, W]` with fewer rows and columns, each pixel the mean of the area it covers."""
    return np.stack([cv2.resize(plane, shape[::-1], interpolation=cv2.INTER_AREA) for plane in voxels])


def nifti(volume: Volume, voxels: NDArray[np.generic], corner: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """A single NIfTI-1 file of voxels on a volume's grid; nothing is resampled, turned or compressed.

    Our axes point to Superior, Posterior, Left and the last runs fastest. NIfTI's first runs fastest
    and its world points to Right, Anterior, Superior: the bytes stay as they are, and the affine says
    that the first index runs to Left (-x), the second to Posterior (-y), the third to Superior (+z).

    Args:
        volume: gives spacing and origin.
        voxels: `[D, H, W]`, int16, uint8 or float32; all of the grid, or a part of it.
        corner: slice, row, column of their first voxel.
    """
    z, y, x = volume.spacing_mm
    z0, y0, x0 = (
        start + step * i for start, step, i in zip(volume.origin_mm, (z, y, x), corner, strict=True)
    )
    affine = np.array([[-x, 0, 0, -x0], [0, -y, 0, -y0], [0, 0, z, z0], [0, 0, 0, 1]], np.float64)
    header = Nifti1Header(endianness="<")
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape[::-1])
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["scl_slope"], header["scl_inter"] = 1, 0
    ordered = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    return b"".join([header.binaryblock, b"\0" * 4, ordered.data])


def contours(volume: Volume, marks: pd.DataFrame, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The readers' contours, one voxel wide.

    Args:
        volume: the series as acquired.
        marks: table `marks` of this series alone.
        shape: rows and columns of the result, from `matrix`; None for those of the volume.

    Returns:
        uint8 `[D, rows, columns]`: 0 nothing, 1 + reader (the fifth reader is 1 again), `SEVERAL` where the
        contours of several readers meet.
    """
    rows, columns = shape or volume.shape[1:]
    share = np.array([rows / volume.shape[1], columns / volume.shape[2]])
    drawn = np.zeros((volume.shape[0], rows, columns), np.uint8)
    for (place, reader), own in marks.groupby(["slice", "reader"]):
        outline = np.zeros((rows, columns), np.uint8)
        points = ((points_of(text) + 0.5) * share - 0.5 for text in own["contour"])
        loops = [np.round(loop[:, ::-1]).astype(np.int32) for loop in points]
        cv2.polylines(outline, loops, isClosed=True, color=1)
        plane, value = drawn[place], 1 + reader % len(READERS)
        shared = (outline == 1) & (plane != 0) & (plane != value)
        plane[outline == 1] = value
        plane[shared] = SEVERAL
    return drawn


def part(drawn: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """The smallest part that holds all that is not 0, and a rim of one voxel where there is one.

    Args:
        drawn: `[D, H, W]`.

    Returns:
        The part, and slice, row, column of its first voxel; all of it where nothing is drawn.
    """
    if not drawn.any():
        return drawn, (0, 0, 0)
    spans = []
    for axis in range(3):
        held = np.flatnonzero(drawn.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append(slice(max(int(held[0]) - 1, 0), int(held[-1]) + 2))
    z, y, x = (span.start for span in spans)
    return drawn[tuple(spans)], (z, y, x)


def heat(cam: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Grad-CAM in 256 steps: 0 stays 0, its highest value is 255.

    Args:
        cam: `[D, H, W]`, 0 or above; NaN counts as 0.
    """
    clean = np.nan_to_num(np.asarray(cam, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(clean.max())
    if top <= 0:
        return np.zeros(clean.shape, np.uint8)
    return np.clip(np.round(clean * (255 / top)), 0, 255).astype(np.uint8)


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


@dataclass(frozen=True)
class Change:
    """A text of the script, and what takes its place.

    Args:
        why: what it is for.
        old: pattern of the text.
        new: its replacement, as `re.sub` takes it.
        count: how often the pinned version holds the text.
    """

    why: str
    old: str
    new: str
    count: int = 1


CHANGES = (
    Change(
        "a volume's voxels are not sent back to the kernel: it was drawn only after all of it was cut up, "
        "copied and sent, which takes longer than drawing it",
        r',(\w+)\.img\)\{let (\w+)=\w+\(\1\.img\);\w+\(\w+,"img",\1\.img\.buffer,\2\)\}',
        r",\1.img){}",
    ),
    Change(
        "lists of layers are loaded one after the other: two at a time make each layer twice, the second "
        "time without its colours, and a small layer overtakes a large volume and is drawn in its place",
        r'async function (\w+)(\(\w+,\w+,\w+\)\{let \w+=await \w+\((\w+),\3\.get\("volumes"\)\))',
        r"function \1(nv,...rest){return nv.ct_turn=Promise.resolve(nv.ct_turn).catch(()=>{})"
        r".then(()=>\1_alone(nv,...rest))}async function \1_alone\2",
    ),
    Change(
        "no copy of the script inside itself, which only `save_html` writes: more than half of what each "
        "canvas sends to the page",
        r'var (\w+)="var%20[^"]{100000,}"',
        r'var \1=""',
    ),
    Change(
        "textures of all voxels (0.9 s for 256 x 256 x 300 without a GPU) are made once for a burst of "
        "changes, of which loading a volume makes five, and not before anything can be drawn; and the planes "
        "of a first volume are drawn before its rendering, which takes as long as they do",
        r"\}updateGLVolume\(\)\{",
        r"}updateGLVolume(){this.ct_soon??=setTimeout(()=>{delete this.ct_soon;"
        r"if(!this._gl||!this.initialized)return;"
        r"let first=!this.ct_seen&&this.volumes.length>0;this.ct_planes=first;this.ct_update();"
        r"if(first){this.ct_seen=true;setTimeout(()=>{this.ct_planes=false;this._gl&&this.drawScene()},30)}"
        r"},this.initialized?120:0)}ct_update(){",
    ),
    Change(
        "nothing is drawn while such a burst lasts",
        r"\}drawScene\(\)\{",
        r"}drawScene(){if(this.ct_soon!==undefined)return;",
    ),
    Change(
        "no rendering while the planes are drawn",
        r"\}(draw3D\(\w+=\[0,0,0,0\][^{}]*\)\{)",
        r"}\1if(this.ct_planes)return;",
    ),
    Change(
        "letters of orientation stand beside the plane: its margin was added to a place that had it already, "
        "and R stood in the middle of the lung",
        r"\+\w+\[([01])\]-(\w+)(,\w+\[1\]\+\w+\[3\]\*\.5)?\],(\w+)\),(\w+)=!1",
        r"-\2\3],\4),\5=!1",
        2,
    ),
)
"""What no option of ipyniivue 2.4 does. The second and the last are needed for a correct picture; without the
others a first volume of 150 x 256 x 256 costs 8.3 s of CPU until it is seen, not 4.9 (Chromium without a GPU).
Another version may word its script otherwise: then that text stays as it is, and
tests/visualization/test_viewer.py fails."""


def changed(script: str) -> str:
    """ipyniivue's script with all `CHANGES` that find their text."""
    for change in CHANGES:
        script = re.sub(change.old, change.new, script)
    return script


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
            volume: what is shown; its slices are drawn with the rows and columns of `matrix`.
            hu_window: HU window.
            heat: Grad-CAM from `heat`, on the volume's grid; None for none.
            contours: from `contours`, with as many rows and columns as are drawn; None for none.
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
