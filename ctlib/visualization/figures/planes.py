"""Three planes of a volume through one voxel, with what is drawn on it: the viewer on paper.

Axes point to Superior, Posterior, Left. The axial plane is seen from the feet and the coronal one
from the front (the patient's right is on the left of both), the sagittal one from the left side
with the front on the left; superior is up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ctlib.core import hu
from ctlib.io import Volume
from ctlib.visualization.figures.slices import GREYS, outline
from ctlib.visualization.figures.style import FAINT, INK, WIDTH, styled

MAX_PX = 60_000
"""Pixels of a plane; larger ones are shown as area means."""
CURSOR = "#d62728"
HEAT_FROM = 0.25
"""Grad-CAM below this share of its highest value is not drawn."""
NAMES = ("axial", "coronal", "sagittal")
SIDES = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))
"""What is on the left, on the right, above and below each plane."""


@dataclass(frozen=True)
class Part:
    """A part of a band along z.

    Args:
        start: first slice.
        stop: slice after the last.
        colour: `#rrggbb`.
        text: what is written on it; "" for nothing.
        says: what is said of it, for those who point at it.
    """

    start: int
    stop: int
    colour: str
    text: str = ""
    says: str = ""


@dataclass(frozen=True)
class Band:
    """A coloured band along z.

    Args:
        name: written before it.
        parts: from inferior to superior.
    """

    name: str
    parts: tuple[Part, ...]


def plane(voxels: NDArray[np.generic], index: int, place: tuple[int, int, int]) -> NDArray[np.generic]:
    """A plane as it is drawn, first row on top: 0 axial, 1 coronal, 2 sagittal.

    Args:
        voxels: `[D, H, W]`.
        index: which plane.
        place: slice, row, column it goes through.

    >>> plane(np.arange(8).reshape(2, 2, 2), 1, (0, 1, 0)).tolist()
    [[6, 7], [2, 3]]
    """
    z, y, x = place
    return (voxels[z], voxels[::-1, y], voxels[::-1, :, x])[index]


@styled
def planes(
    volume: Volume,
    place: tuple[int, int, int],
    hu_window: str,
    marks: pd.DataFrame | None = None,
    cams: Mapping[str, NDArray[np.floating]] | None = None,
    bands: Sequence[Band] = (),
) -> Figure:
    """Three planes through a voxel, true aspect, and bands along z below them.

    Args:
        volume: any volume.
        place: slice, row, column.
        hu_window: name of the HU window; it is stated in the figure.
        marks: table `marks` of this series; contours of the slice are drawn on the axial plane.
        cams: Grad-CAM by name of the run, `[D, H, W]`, 0 or above: one row of planes each.
        bands: bands along z; the cursor's slice is marked on them.
    """
    rows: list[tuple[str, NDArray[np.floating] | None]] = list((cams or {}).items()) or [("", None)]
    sizes = [_extent(volume, index) for index in range(3)]
    per_mm = (WIDTH - 0.5) / sum(width for width, _ in sizes)
    tall = min(per_mm * max(height for _, height in sizes), 4.2)
    below = 0.3 * len(bands) + (0.35 if bands else 0)
    figure = Figure(figsize=(WIDTH, len(rows) * (tall + 0.35) + below + 0.55), layout="constrained")
    ratios = [tall + 0.35] * len(rows) + ([below] if bands else [])
    grid = figure.add_gridspec(len(ratios), 3, height_ratios=ratios, width_ratios=[w for w, _ in sizes])
    for i, (name, cam) in enumerate(rows):
        for index in range(3):
            ax = figure.add_subplot(grid[i, index])
            _draw(ax, volume, index, place, hu_window, cam)
            ax.set_title(_title(name, index, place), fontsize=9.5, color=INK, pad=3)
            if index == 0 and marks is not None:
                outline(ax, marks[marks["slice"] == place[0]])
    if bands:
        _bands(figure.add_subplot(grid[-1, :]), bands, volume.shape[0], place[0])
    z, y, x = (o + s * i for o, s, i in zip(volume.origin_mm, volume.spacing_mm, place, strict=True))
    said = (
        f"HU window {hu_window}, {hu.HuWindow.named(hu_window)}; cursor at S {z:.1f}, P {y:.1f}, L {x:.1f} mm: "
        f"{int(volume.hu[place])} HU"
    )
    figure.supxlabel(said.replace("-", "−"), fontsize=9, color=FAINT)
    return figure


def _title(name: str, index: int, place: tuple[int, int, int]) -> str:
    what = ("slice", "row", "column")[index]
    return f"{name + ', ' if name else ''}{NAMES[index]}, {what} {place[index]}"


def _extent(volume: Volume, index: int) -> tuple[float, float]:
    """Width and height of a plane, mm."""
    depth, height, width = (n * step for n, step in zip(volume.shape, volume.spacing_mm, strict=True))
    return ((width, height), (width, depth), (height, depth))[index]


def _small(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """Area means where there are more than `MAX_PX` pixels."""
    most = math.sqrt(MAX_PX / values.size)
    plain: NDArray[np.float32] = np.ascontiguousarray(values, np.float32)
    if most >= 1:
        return plain
    size = (max(round(plain.shape[1] * most), 1), max(round(plain.shape[0] * most), 1))
    return np.asarray(cv2.resize(plain, size, interpolation=cv2.INTER_AREA), np.float32)


def _draw(
    ax: Axes,
    volume: Volume,
    index: int,
    place: tuple[int, int, int],
    hu_window: str,
    cam: NDArray[np.floating] | None,
) -> None:
    seen = plane(volume.hu, index, place)
    n_rows, n_columns = seen.shape
    unit = _small(hu.to_unit(seen, hu.HuWindow.named(hu_window)))
    width, height = _extent(volume, index)
    extent = (-0.5, n_columns - 0.5, n_rows - 0.5, -0.5)
    aspect = (height / n_rows) / (width / n_columns)
    grey = np.round(unit * (GREYS - 1))
    ax.imshow(grey, cmap="gray", vmin=0, vmax=GREYS - 1, aspect=aspect, interpolation="none", extent=extent)
    if cam is not None and float(np.nanmax(cam)) > 0:
        warmth = _small(np.nan_to_num(plane(cam, index, place))) / float(np.nanmax(cam))
        shown = np.ma.masked_less(warmth, HEAT_FROM)
        ax.imshow(
            shown,
            cmap="plasma",
            vmin=0,
            vmax=1,
            alpha=0.5,
            aspect=aspect,
            interpolation="none",
            extent=extent,
        )
    z, y, x = place
    from_top = len(volume.hu) - 1 - z
    column, row = ((x, y), (x, from_top), (y, from_top))[index]
    ax.axvline(column, color=CURSOR, linewidth=0.6, alpha=0.7)
    ax.axhline(row, color=CURSOR, linewidth=0.6, alpha=0.7)
    ax.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
    ax.set_frame_on(False)
    left, right, above, under = SIDES[index]
    places = ((0.02, 0.5, left), (0.98, 0.5, right), (0.5, 0.97, above), (0.5, 0.03, under))
    for across, up, side in places:
        align = {0.02: "left", 0.98: "right"}.get(across, "center")
        words = ax.text(
            across, up, side, transform=ax.transAxes, color="white", fontsize=8, ha=align, va="center"
        )
        words.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _bands(ax: Axes, bands: Sequence[Band], n_slices: int, place: int) -> None:
    for i, band in enumerate(bands):
        for part in band.parts:
            n = part.stop - part.start
            box = Rectangle((part.start, i - 0.38), n, 0.76, facecolor=part.colour, edgecolor="white")
            ax.add_patch(box)
            if part.text and n / n_slices > 0.04:
                red, green, blue = (int(part.colour[j : j + 2], 16) for j in (1, 3, 5))
                ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else INK
                ax.text(part.start + n / 2, i, part.text, ha="center", va="center", fontsize=8, color=ink)
    ax.axvline(place + 0.5, color=CURSOR, linewidth=1.4)
    ax.set(xlim=(0, n_slices), ylim=(len(bands) - 0.5, -0.5), yticks=range(len(bands)))
    ax.set_yticklabels([band.name for band in bands])
    ax.set_xlabel("slice, from inferior to superior", fontsize=9, color=FAINT)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
