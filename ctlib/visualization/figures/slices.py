"""Pictures: CT slices in radiological convention, readers' contours, frames of videos.

Axes of a volume point to Superior, Posterior, Left, so a slice drawn with its first row on
top and its first column on the left is seen from the feet: the patient's right is on the left
of the picture, anterior is up. No flip is needed, and none is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ctlib.core import hu
from ctlib.datasets import Store, points_of
from ctlib.io import Volume
from ctlib.visualization.figures.cohorts import CohortTables
from ctlib.visualization.figures.style import DISEASE, FAINT, INK, READERS, WIDTH, styled

MAX_PX = 150_000
"""Pixels of all slices of a figure; larger slices are shown as area means. A report holds 2 MB."""
GREYS = 64
"""Grey levels: steps of 6 to 23 HU in our HU windows, at or below the noise of a slice."""


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

    An exam with labelled slices shows the middle one of them, another the middle slice. Where
    there are fewer exams than n, each shows several slices.

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
        pictures += slices_of(stored(store, uid), _choose(table, each), table["label"])
    return pictures[:n]


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


def _draw(ax: Axes, picture: Picture, hu_window: str, max_px: float) -> None:
    unit = hu.to_unit(picture.hu, hu.HuWindow.named(hu_window))
    n_rows, n_cols = unit.shape
    most = math.sqrt(max_px / unit.size)
    if most < 1:
        size = (round(n_cols * most), round(n_rows * most))
        unit = np.asarray(cv2.resize(unit, size, interpolation=cv2.INTER_AREA), np.float32)
    top, left = picture.corner_px
    ax.imshow(
        np.round(unit * (GREYS - 1)),
        cmap="gray",
        vmin=0,
        vmax=GREYS - 1,
        aspect=picture.spacing_mm[0] / picture.spacing_mm[1],
        interpolation="none",
        extent=(left - 0.5, left + n_cols - 0.5, top + n_rows - 0.5, top - 0.5),  # in pixels of the volume
    )
    ax.set(xticks=[], yticks=[])
    ax.set_title(picture.title, fontsize=9.5, color=INK, pad=3)
    for spine in ax.spines.values():
        spine.set(visible=bool(picture.positive), color=DISEASE, linewidth=2.5)


def _sides(ax: Axes) -> None:
    """R and L: the patient's sides."""
    for x, side, align in ((0.02, "R", "left"), (0.98, "L", "right")):
        words = ax.text(
            x, 0.5, side, transform=ax.transAxes, color="white", fontsize=9, ha=align, va="center"
        )
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
            grey = np.round(np.clip(clip[frame], 0, 1) * (GREYS - 1))
            ax.imshow(grey, cmap="gray", vmin=0, vmax=GREYS - 1, interpolation="none")
        row[0].set_title(name.replace("_", " "), fontsize=9.5, pad=3)
    return figure


def _gap_between(n_frames: int) -> list[float]:
    """Widths of the columns: two blocks of frames and a gap."""
    return [1.0] * n_frames + [0.3] + [1.0] * n_frames
