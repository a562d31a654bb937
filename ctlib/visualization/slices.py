"""Pictures: CT slices in radiological convention, three planes of a volume, contours, frames of videos.

Axes of a volume point to Superior, Posterior, Left, so a slice drawn with its first row on
top and its first column on the left is seen from the feet: the patient's right is on the left
of the picture, anterior is up. No flip is needed, and none is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ctlib.core import hu
from ctlib.datasets import Store, points_of
from ctlib.io import Volume
from ctlib.visualization.style import DISEASE, FAINT, INK, READERS, WIDTH, styled
from ctlib.visualization.viewer.scene import NAMES, SIDES, Band, plane

MAX_PX = 150_000
"""Pixels of all slices of a figure; larger slices are shown as area means. A report holds 2 MB."""
SHEET_PX = 1600
"""Width of a contact sheet."""
GREYS = 64
"""Grey levels: steps of 6 to 23 HU in our HU windows, at or below the noise of a slice."""


class CohortTables(Protocol):
    """What these figures need of a cohort: its tables `series` and `slices`."""

    @property
    def series(self) -> pd.DataFrame:
        """Table `series`."""

    @property
    def slices(self) -> pd.DataFrame:
        """Table `slices`."""


@dataclass(frozen=True)
class Picture:
    """One slice.

    Args:
        hu: int16 `[H, W]`, HU; rows to Posterior, columns to Left.
        spacing_mm: of rows and columns (y, x), mm.
        title: written above.
        positive: whether it is a slice with disease; None where nobody says.
        corner_px: row and column of its first pixel in the slice it was cut from.
    """

    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float]
    title: str
    positive: bool | None = None
    corner_px: tuple[int, int] = (0, 0)


def stored(store: Store, series_uid: str) -> Volume:
    """A stored volume with its spacing as stored; its origin is not kept, so it is 0."""
    z, y, x = store.record(series_uid)["spacing_mm"]
    return Volume(np.asarray(store.read(series_uid)), (z, y, x), series_uid, (0.0, 0.0, 0.0))


def sample(store: Store, cohort: CohortTables, n: int = 20) -> list[NDArray[np.int16]]:
    """The HU of at most n exams, evenly over the table."""
    uids = cohort.series["series_uid"].to_numpy()
    chosen = np.unique(np.linspace(0, len(uids) - 1, min(n, len(uids))).round().astype(int))
    return [np.asarray(store.read(uid)) for uid in uids[chosen]]


def examples(store: Store, cohort: CohortTables, n: int = 8) -> list[Picture]:
    """Pictures of n exams, with and without disease in turn.

    An exam with labelled slices shows the middle one of them, another the middle slice, titled by the label
    of the exam where slices have none. Where there are fewer exams than n, each shows several slices.

    Args:
        store: the cohort's volumes.
        cohort: its tables.
        n: pictures.
    """
    order = in_turn(cohort.series)[:n]
    each = math.ceil(n / max(len(order), 1))
    pictures: list[Picture] = []
    for uid in order:
        table = cohort.slices[cohort.slices["series_uid"] == uid].sort_values("slice")
        shown = slices_of(stored(store, uid), _choose(table, each), table["label"])
        label = cohort.series.loc[cohort.series["series_uid"] == uid, "label"].iloc[0]
        pictures += [_titled(picture, label) for picture in shown]
    return pictures[:n]


def _titled(picture: Picture, label: Any) -> Picture:
    """A picture whose slice has no label, with the label of its exam, where that has one."""
    if picture.positive is not None or pd.isna(label):
        return picture
    title = f"{picture.title}, exam with{'' if label == 1 else 'out'} disease"
    return replace(picture, title=title, positive=bool(label == 1))


def extreme_exams(store: Store, cohort: CohortTables, checks: pd.DataFrame) -> list[Picture]:
    """Pictures of the exams at the ends of a cohort (`quality.extremes`), each its middle slice.

    Args:
        store: the cohort's volumes.
        cohort: its tables.
        checks: table `checks`.
    """
    from ctlib.datasets import extremes  # here: it brings scipy, which the viewer does not need

    pictures = []
    for extreme in extremes(cohort.series, checks):
        volume = stored(store, extreme.series_uid)
        middle = slices_of(volume, [len(volume.hu) // 2])[0]
        pictures.append(Picture(middle.hu, middle.spacing_mm, extreme.reason))
    return pictures


def in_turn(series: pd.DataFrame) -> list[str]:
    """The series of a table `series`, with and without disease in turn as long as there are both.

    >>> in_turn(pd.DataFrame({"series_uid": ["a", "b", "c"], "label": [0, 0, 1]}))
    ['c', 'a', 'b']
    """
    label = series["label"].to_numpy(np.float64, na_value=0)
    uids = series["series_uid"].to_numpy()
    turns = [uids[label == 1].tolist(), uids[label != 1].tolist()]
    return [uid for i in range(len(uids)) for turn in turns for uid in turn[i : i + 1]]


def _choose(table: pd.DataFrame, n: int) -> list[int]:
    """n slices of an exam, spread over those that are labelled, or over the middle half."""
    marked = table.loc[table["label"].fillna(0) == 1, "slice"].to_numpy()
    among = marked if len(marked) else table["slice"].to_numpy()[len(table) // 4 : -(len(table) // 4) or None]
    places = (np.arange(n) + 0.5) / n * len(among)
    return [int(i) for i in np.unique(among[places.astype(int)])]


def slices_of(
    volume: Volume, indices: Sequence[int], labels: Sequence[int] | pd.Series = ()
) -> list[Picture]:
    """Slices of a volume.

    Args:
        volume: any volume.
        indices: slices, 0 = the most inferior.
        labels: one a slice of the volume, 1 = disease, empty where unknown; () for none.
    """
    known = list(labels)
    pictures = []
    for index in indices:
        label = known[index] if known else None
        positive = None if label is None or pd.isna(label) else bool(label == 1)
        title = f"slice {index}" + ("" if positive is None else ", disease" if positive else ", no disease")
        pictures.append(Picture(volume.hu[index], volume.spacing_mm[1:], title, positive))
    return pictures


@styled
def montage(pictures: Sequence[Picture], hu_window: str, columns: int = 4) -> Figure:
    """Slices side by side, true aspect, radiological convention.

    Args:
        pictures: what to show.
        hu_window: name of the HU window; it is stated in the figure.
        columns: pictures a row.
    """
    columns = min(columns, max(len(pictures), 1))
    n_rows = max(math.ceil(len(pictures) / columns), 1)
    tallest = max(
        (p.hu.shape[0] * p.spacing_mm[0] / (p.hu.shape[1] * p.spacing_mm[1]) for p in pictures), default=1
    )
    width = WIDTH * columns / 4 if columns < 4 else WIDTH
    close = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(width, n_rows * (width / columns * tallest + 0.26) + 0.25), layout=close)
    axes = figure.subplots(n_rows, columns, squeeze=False).ravel()
    for ax in axes[len(pictures) :]:
        ax.set_visible(False)
    for i, (ax, picture) in enumerate(zip(axes, pictures, strict=False)):
        _draw(ax, picture, hu_window, MAX_PX / len(pictures))
        if i == 0:
            _sides(ax)
    figure.supxlabel(
        f"HU window {hu_window}, {hu.HuWindow.named(hu_window)}".replace("-", "−"), fontsize=9, color=FAINT
    )
    return figure


@styled
def contact_sheet(
    volume: Volume, hu_window: str, labels: Sequence[int] | pd.Series = (), columns: int = 0
) -> Figure:
    """All slices of a volume on one sheet, from superior to inferior, true aspect, radiological convention.

    Args:
        volume: any volume.
        hu_window: name of the HU window; it is stated in the figure.
        labels: one a slice, 1 = disease (framed), empty where unknown; () for none.
        columns: slices a row; 0 for as many as make the sheet about half as high again as it is wide.
    """
    n_slices, n_rows, n_columns = volume.shape
    tall = n_rows * volume.spacing_mm[1] / (n_columns * volume.spacing_mm[2])
    columns = min(columns or math.ceil(math.sqrt(n_slices * tall / 1.5)), n_slices)
    width = max(min(n_columns, SHEET_PX // columns), 1)
    height = max(round(width * tall), 1)
    sheet = np.zeros((math.ceil(n_slices / columns) * height, columns * width), np.float32)
    figure = Figure(figsize=(WIDTH, WIDTH * sheet.shape[0] / sheet.shape[1] + 0.35), layout="constrained")
    ax = figure.subplots()
    for i, place in enumerate(range(n_slices - 1, -1, -1)):
        row, column = i // columns * height, i % columns * width
        unit = hu.to_unit(volume.hu[place], hu.HuWindow.named(hu_window)).astype(np.float32)
        how = cv2.INTER_AREA if width < n_columns else cv2.INTER_LINEAR
        sheet[row : row + height, column : column + width] = cv2.resize(
            unit, (width, height), interpolation=how
        )
        number = ax.text(
            column + 0.03 * width, row + 0.03 * width, str(place), fontsize=6, va="top", color="w"
        )
        number.set_path_effects([withStroke(linewidth=1.5, foreground="black")])
        if len(labels) and not pd.isna(label := list(labels)[place]) and label == 1:
            frame = Rectangle((column + 0.5, row + 0.5), width - 2, height - 2, fill=False, edgecolor=DISEASE)
            ax.add_patch(frame)
    _grey(ax, sheet)
    ax.set(xticks=[], yticks=[])
    ax.set_frame_on(False)
    said = f"HU window {hu_window}, {hu.HuWindow.named(hu_window)}; slices from superior to inferior"
    figure.supxlabel(said.replace("-", "−"), fontsize=9, color=FAINT)
    return figure


def _draw(ax: Axes, picture: Picture, hu_window: str, max_px: float) -> None:
    unit = hu.to_unit(picture.hu, hu.HuWindow.named(hu_window))
    n_rows, n_cols = unit.shape
    top, left = picture.corner_px
    extent = (left - 0.5, left + n_cols - 0.5, top + n_rows - 0.5, top - 0.5)  # in pixels of the volume
    _grey(ax, _small(unit, max_px), picture.spacing_mm[0] / picture.spacing_mm[1], extent)
    ax.set(xticks=[], yticks=[])
    ax.set_title(picture.title, fontsize=9.5, color=INK, pad=3)
    for spine in ax.spines.values():
        spine.set(visible=bool(picture.positive), color=DISEASE, linewidth=2.5)


def _small(values: NDArray[np.generic], max_px: float) -> NDArray[np.float32]:
    """Area means where there are more than `max_px` pixels."""
    most = math.sqrt(max_px / values.size)
    plain: NDArray[np.float32] = np.ascontiguousarray(values, np.float32)
    if most >= 1:
        return plain
    size = (max(round(plain.shape[1] * most), 1), max(round(plain.shape[0] * most), 1))
    return np.asarray(cv2.resize(plain, size, interpolation=cv2.INTER_AREA), np.float32)


def _grey(
    ax: Axes,
    unit: NDArray[np.floating],
    aspect: float | None = None,
    extent: tuple[float, float, float, float] | None = None,
) -> None:
    """Values in [0, 1] as one of `GREYS`, none made up between pixels."""
    grey = np.round(unit * (GREYS - 1))
    ax.imshow(grey, cmap="gray", vmin=0, vmax=GREYS - 1, interpolation="none", aspect=aspect, extent=extent)


def _sides(ax: Axes) -> None:
    """R and L: the patient's sides."""
    _letter(ax, 0.02, 0.5, "R", 9)
    _letter(ax, 0.98, 0.5, "L", 9)


def _letter(ax: Axes, x: float, y: float, side: str, size: float) -> None:
    """A side of the patient at a place of a picture, in white with a black rim."""
    align = "left" if x < 0.1 else "right" if x > 0.9 else "center"
    words = ax.text(x, y, side, transform=ax.transAxes, color="white", fontsize=size, ha=align, va="center")
    words.set_path_effects([withStroke(linewidth=2, foreground="black")])


@styled
def contours(
    volume: Volume, marks: pd.DataFrame, hu_window: str, n: int = 8, margin_mm: float = 25.0
) -> Figure:
    """One nodule, slice by slice, with the contour of each reader.

    The nodule is the one that most readers marked, then the one on most slices.

    Args:
        volume: the series as acquired (contours are in its pixels).
        marks: table `marks`; rows of other series are passed over.
        hu_window: name of the HU window.
        n: slices at most, evenly over those that carry a mark.
        margin_mm: what is shown around the nodule, mm.

    Raises:
        ValueError: no mark belongs to the volume.
    """
    own = marks[marks["series_uid"] == volume.series_uid]
    if own.empty:
        raise ValueError(f"contours: no mark of series {volume.series_uid}; give marks of this series.")
    ranked = own.groupby("nodule").agg(readers=("reader", "nunique"), slices=("slice", "nunique"))
    nodule = ranked.sort_values(["readers", "slices"], kind="stable").index[-1]
    own = own[own["nodule"] == nodule]
    places = np.sort(own["slice"].unique())
    places = places[np.unique(np.linspace(0, len(places) - 1, min(n, len(places))).round().astype(int))]
    points = np.concatenate([points_of(text) for text in own["contour"]])
    pictures = []
    for place in places:
        n_readers = own.loc[own["slice"] == place, "reader"].nunique()
        title = f"slice {place}, z {volume.z_mm[place]:.1f} mm, readers: {n_readers}"
        pictures.append(replace(_around(volume, int(place), points, margin_mm), title=title))
    figure = montage(pictures, hu_window)
    for ax, place in zip(figure.axes, places, strict=False):
        outline(ax, own[own["slice"] == place])
    return figure


def _around(volume: Volume, place: int, points: NDArray[np.float64], margin_mm: float) -> Picture:
    """The part of a slice that holds the points and a margin, square in mm where the slice allows."""
    steps = np.array(volume.spacing_mm[1:])
    low, high = points.min(axis=0), points.max(axis=0)
    half_px = (((high - low) * steps).max() / 2 + margin_mm) / steps
    start = np.maximum(np.floor((low + high) / 2 - half_px), 0).astype(int)
    stop = np.ceil((low + high) / 2 + half_px).astype(int) + 1
    part = volume.hu[place, start[0] : stop[0], start[1] : stop[1]]
    return Picture(part, (steps[0], steps[1]), "", corner_px=(int(start[0]), int(start[1])))


def outline(ax: Axes, marks: pd.DataFrame) -> None:
    """Draw the readers' contours on a slice that is shown in its own pixels; a hole is dotted.

    Args:
        ax: shows the slice.
        marks: table `marks` of that slice alone.
    """
    for row in marks.itertuples(index=False):
        points = points_of(row.contour)
        closed = np.concatenate([points, points[:1]])
        ax.plot(
            closed[:, 1],
            closed[:, 0],
            color=READERS[row.reader % len(READERS)],
            linewidth=1.4,
            linestyle="-" if row.inclusion else ":",
        )


@styled
def video_strip(clips: Mapping[str, NDArray[np.floating]], n_frames: int = 4) -> Figure:
    """One video a class, frames from first to last, classes in two columns.

    Args:
        clips: `[D, H, W]` in [0, 1] by name of the class.
        n_frames: frames shown of each.
    """
    n_rows = math.ceil(len(clips) / 2)
    figure = Figure(figsize=(WIDTH, n_rows * (WIDTH / (2 * n_frames + 0.3) + 0.24)), layout="constrained")
    axes = figure.subplots(
        n_rows, 2 * n_frames + 1, squeeze=False, gridspec_kw={"width_ratios": _gap_between(n_frames)}
    )
    for ax in axes.ravel():
        ax.set(xticks=[], yticks=[])
        ax.set_frame_on(False)
    for i, (name, clip) in enumerate(clips.items()):
        row = axes[i % n_rows, (i // n_rows) * (n_frames + 1) :][:n_frames]
        frames = np.linspace(0, len(clip) - 1, n_frames).round().astype(int)
        for ax, frame in zip(row, frames, strict=True):
            _grey(ax, np.clip(clip[frame], 0, 1))
        row[0].set_title(name.replace("_", " "), fontsize=9.5, pad=3)
    return figure


def _gap_between(n_frames: int) -> list[float]:
    """Widths of the columns: two blocks of frames and a gap."""
    return [1.0] * n_frames + [0.3] + [1.0] * n_frames


MAX_PLANE_PX = 60_000
"""Pixels of a plane; larger ones are shown as area means."""
CURSOR = "#d62728"
HEAT_FROM = 0.25
"""Grad-CAM below this share of its highest value is not drawn."""


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
            _draw_plane(ax, volume, index, place, hu_window, cam)
            ax.set_title(_plane_title(name, index, place), fontsize=9.5, color=INK, pad=3)
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


def _plane_title(name: str, index: int, place: tuple[int, int, int]) -> str:
    what = ("slice", "row", "column")[index]
    return f"{name + ', ' if name else ''}{NAMES[index]}, {what} {place[index]}"


def _extent(volume: Volume, index: int) -> tuple[float, float]:
    """Width and height of a plane, mm."""
    depth, height, width = (n * step for n, step in zip(volume.shape, volume.spacing_mm, strict=True))
    return ((width, height), (width, depth), (height, depth))[index]


def _draw_plane(
    ax: Axes,
    volume: Volume,
    index: int,
    place: tuple[int, int, int],
    hu_window: str,
    cam: NDArray[np.floating] | None,
) -> None:
    seen = plane(volume.hu, index, place[index])
    n_rows, n_columns = seen.shape
    width, height = _extent(volume, index)
    extent = (-0.5, n_columns - 0.5, n_rows - 0.5, -0.5)
    aspect = (height / n_rows) / (width / n_columns)
    _grey(ax, _small(hu.to_unit(seen, hu.HuWindow.named(hu_window)), MAX_PLANE_PX), aspect, extent)
    if cam is not None and float(np.nanmax(cam)) > 0:
        warmth = _small(np.nan_to_num(plane(cam, index, place[index])), MAX_PLANE_PX) / float(np.nanmax(cam))
        shown = np.ma.masked_less(warmth, HEAT_FROM)
        how = {"aspect": aspect, "interpolation": "none", "extent": extent}
        ax.imshow(shown, cmap="plasma", vmin=0, vmax=1, alpha=0.5, **how)
    z, y, x = place
    from_top = len(volume.hu) - 1 - z
    column, row = ((x, y), (x, from_top), (y, from_top))[index]
    ax.axvline(column, color=CURSOR, linewidth=0.6, alpha=0.7)
    ax.axhline(row, color=CURSOR, linewidth=0.6, alpha=0.7)
    ax.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
    ax.set_frame_on(False)
    left, right, above, under = SIDES[index]
    for across, up, side in ((0.02, 0.5, left), (0.98, 0.5, right), (0.5, 0.97, above), (0.5, 0.03, under)):
        _letter(ax, across, up, side, 8)


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
