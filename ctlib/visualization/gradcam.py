"""Where networks look: maps over CT slices, and what the maps score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ctlib.visualization.slices import Picture, montage
from ctlib.visualization.style import FAINT, INK, face, init_looks, panels, signed, styled

NODULE = "#56B4E9"
"""Sky blue of Okabe and Ito: the outline of a nodule."""
_GLOW = LinearSegmentedColormap.from_list("glow", [(*(0.84, 0.37, 0.0), alpha) for alpha in (0.0, 0.75)])
TITLES = {
    "slice_auroc": "slices: AUROC",
    "slice_hit": "slices: peak on one with disease",
    "voxel_auroc": "voxels: AUROC",
    "nodule_hit": "voxels: peak at a nodule",
}


@dataclass(frozen=True)
class Sight:
    """One slice of an exam, with where the disease is and where networks look.

    Args:
        hu: int16 `[M, M]`, HU, as stored.
        spacing_mm: of its rows and columns, mm.
        slice: its place in the volume, 0 = the most inferior.
        inside: bool `[M, M]`, in a nodule; None where nobody drew a contour.
        maps: by init, or `UNTRAINED`: the map, float `[M, M]`, as a share of its highest value in the exam;
            NaN beyond the crop.
        study: pseudonym of the exam.
    """

    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float]
    slice: int
    inside: NDArray[np.bool_] | None
    maps: dict[str, NDArray[np.float32]]
    study: str


@styled
def cam_slices(sights: Sequence[Sight], hu_window: str) -> Figure:
    """Exams in rows; the slice, and over it where each network looks, in columns; the nodule is outlined.

    Radiological convention, true aspect. A map is opaque where it is highest in the exam, which may be on
    another slice; what lies beyond the crop that a network saw has a dotted edge.

    Args:
        sights: result of `seen.sights`; all with maps of the same names.
        hu_window: name of the HU window; it is stated in the figure.
    """
    names = list(sights[0].maps) if sights else []
    pictures = []
    for i, sight in enumerate(sights):
        pictures.append(Picture(sight.hu, sight.spacing_mm, f"exam {i + 1}, slice {sight.slice}"))
        pictures += [Picture(sight.hu, sight.spacing_mm, _title(name)) for name in names]
    figure = montage(pictures, hu_window, columns=1 + len(names))
    axes = iter(figure.axes)
    for sight in sights:
        _nodule(next(axes), sight)
        for name in names:
            ax = next(axes)
            _glow(ax, sight.maps[name])
            _nodule(ax, sight)
    return figure


def _title(name: str) -> str:
    """What is written above a map.

    >>> _title("untrained"), _title("video")
    ('random weights', 'finetuned from video')
    """
    return "random weights" if name == "untrained" else f"finetuned from {name}"


def _glow(ax: Axes, share: NDArray[np.float32]) -> None:
    """A map over its slice, and the edge of what the network saw."""
    limits = ax.axis()
    shown = np.nan_to_num(share)
    ax.imshow(shown, cmap=_GLOW, vmin=0, vmax=1, interpolation="bilinear", aspect=ax.get_aspect())
    seen = np.isfinite(share)
    if not seen.all() and seen.any():
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        corner = (columns[0] - 0.5, rows[0] - 0.5)
        size = (len(columns), len(rows))
        ax.add_patch(Rectangle(corner, *size, fill=False, linestyle=":", edgecolor="white", linewidth=0.8))
    ax.axis(limits)


def _nodule(ax: Axes, sight: Sight) -> None:
    """The outline of a nodule on the slice."""
    if sight.inside is not None and sight.inside.any() and not sight.inside.all():
        ax.contour(sight.inside.astype(float), levels=[0.5], colors=NODULE, linewidths=1.4)


@styled
def cam_scores(gains: pd.DataFrame) -> Figure:
    """What maps score, by network and init, with intervals; a cross is the mean of random weights.

    One panel a task and measure, all from 0 to 1. The gain over random weights stands beside; bold where
    its interval leaves out 0. A measure that no exam of a task has is left out.

    Args:
        gains: result of `localization.gains`.
    """
    known = gains[gains["value"].notna()]
    places = known[["task", "measure"]].drop_duplicates().to_dict("records")
    arms = known[["backbone", "init"]].drop_duplicates().to_dict("records")
    columns = min(max(len(places), 1), 2)
    n_rows = max(-(-len(places) // columns), 1)
    figure, axes = panels(n_rows, columns, n_rows * (0.8 + 0.3 * max(len(arms), 1)))
    looks = init_looks(known["init"])
    for ax, place in zip(axes.ravel(), places, strict=False):
        part = known[(known["task"] == place["task"]) & (known["measure"] == place["measure"])]
        for row in part.itertuples():
            _score(ax, arms.index({"backbone": row.backbone, "init": row.init}), row, looks)
        ax.set_title(f"{place['task']}, {TITLES.get(place['measure'], place['measure'])}")
        ax.grid(axis="y", visible=False)
    for ax in axes.ravel()[len(places) :]:
        ax.set_visible(False)
    axes[0, 0].set(xlim=(-0.02, 1.02), ylim=(max(len(arms), 1) - 0.4, -0.6))
    axes[0, 0].set_yticks(range(len(arms)), [f"{arm['backbone']}, {arm['init']}" for arm in arms])
    if known.empty:
        axes[0, 0].set_title("no map was scored")
    words = "score, with its interval; a cross is the mean of random weights, the number the gain over it"
    figure.supxlabel(words, fontsize=9, color=FAINT)
    return figure


def _score(ax: Axes, y: int, row: Any, looks: Mapping[str, Any]) -> None:
    """A score with its interval, that of random weights, and the gain in words."""
    look = looks[row.init]
    if not np.isnan(row.low):
        ax.plot([row.low, row.high], [y, y], color=look.colour)
    ax.plot([row.value], [y], marker=look.marker, color=look.colour, markerfacecolor=face(look), markersize=6)
    ax.plot([row.untrained], [y], marker="x", color=INK, markersize=6, linestyle="none")
    clear = row.gain_low > 0 or row.gain_high < 0
    ax.text(
        *(1.03, y, signed(row.gain, 2)),
        transform=ax.get_yaxis_transform(),
        va="center",
        fontsize=9,
        weight="bold" if clear else "normal",
    )
