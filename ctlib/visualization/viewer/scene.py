"""What a viewer shows: one volume, its overlays, and what is known along its axis z."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.core import hu
from ctlib.datasets import points_of
from ctlib.io import Volume
from ctlib.visualization.style import DISEASE, READERS

NAMES = ("axial", "coronal", "sagittal")
SIDES = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))
"""What is on the left, on the right, above and below each plane."""
SEVERAL = len(READERS) + 1
"""Value of a voxel on the contours of more than one reader; 1 to 4 are those of one."""
UNKNOWN, NO_LABEL = "#d9d9d9", "#b5c4cf"
"""Parts without a label; parts with label 0."""
LOW_SCORE, HIGH_SCORE = (233, 240, 246), (0, 82, 140)
"""Red, green, blue of the scores 0 and 1; what lies between is mixed."""


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


class SceneError(ValueError):
    """What was given does not belong to the volume: one sentence with name, value and what to do."""


@dataclass(frozen=True, eq=False)
class Run:
    """What a run says of a volume.

    Args:
        scores: score of each clip, in [0, 1], in the order of table `clips`; () for none.
        cam: Grad-CAM on the volume's grid, float `[D, H, W]`, 0 or above; None for none.
    """

    scores: Sequence[float] | NDArray[np.floating] = ()
    cam: NDArray[np.floating] | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """A volume and what is drawn on it; everything is checked against the volume's shape.

    Args:
        volume: any volume.
        hu_window: name of the HU window it opens with, a key of `hu.HU_WINDOWS`.
        marks: table `marks`; rows of other series are passed over. Contours are in pixels of the
            volume as acquired: a stored volume has a smaller matrix, and its marks are refused.
        labels: label of each slice, `[D]`, 1 = disease, empty where unknown; () for none.
        clips: table `clips`; rows of other series are passed over.
        runs: runs by name, their scores one a clip.
        place: slice, row, column at which it opens; None for the middle of what is labelled.

    Raises:
        SceneError: something does not fit the volume.
    """

    volume: Volume
    hu_window: str = "lung"
    marks: pd.DataFrame | None = None
    labels: Sequence[Any] | pd.Series = ()
    clips: pd.DataFrame | None = None
    runs: Mapping[str, Run] = field(default_factory=dict)
    place: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        hu.HuWindow.named(self.hu_window)
        n_slices, n_rows, n_columns = self.volume.shape
        uid = self.volume.series_uid
        if len(self.labels) not in (0, n_slices):
            raise SceneError(f"labels are {len(self.labels)}, series {uid} has {n_slices} slices: one each.")
        for name in ("marks", "clips"):
            table = getattr(self, name)
            own = None if table is None else table[table["series_uid"] == uid].reset_index(drop=True)
            object.__setattr__(self, name, own if own is not None and len(own) else None)
        if self.place is not None and not all(
            0 <= i < n for i, n in zip(self.place, self.volume.shape, strict=True)
        ):
            raise SceneError(f"place is {self.place}, series {uid} has shape {self.volume.shape}.")
        if self.clips is not None and int(self.clips["stop"].max()) > n_slices:
            raise SceneError(f"clips end at {self.clips['stop'].max()}, series {uid} has {n_slices} slices.")
        if self.marks is not None:
            self._check_marks(uid, (n_slices, n_rows, n_columns))
        for name, run in self.runs.items():
            self._check_run(name, run, uid)

    def _check_marks(self, uid: str, shape: tuple[int, int, int]) -> None:
        assert self.marks is not None
        points = np.concatenate([points_of(text) for text in self.marks["contour"]])
        high = (int(self.marks["slice"].max()), *points.max(axis=0))
        if any(value > n - 1 for value, n in zip(high, shape, strict=True)) or points.min() < 0:
            raise SceneError(
                f"marks of series {uid} reach slice, row, column {tuple(float(v) for v in high)}, outside "
                f"its shape {shape}: give the volume as acquired, not the stored one."
            )

    def _check_run(self, name: str, run: Run, uid: str) -> None:
        n_clips = 0 if self.clips is None else len(self.clips)
        scores = np.asarray(run.scores, np.float64)
        if len(scores) and len(scores) != n_clips:
            raise SceneError(f"run {name!r} has {len(scores)} scores, series {uid} has {n_clips} clips.")
        if ((scores < 0) | (scores > 1)).any():
            raise SceneError(f"run {name!r} has scores outside [0, 1]: give scores, not logits.")
        if run.cam is not None and run.cam.shape != self.volume.shape:
            raise SceneError(
                f"Grad-CAM of run {name!r} has shape {run.cam.shape}, series {uid} {self.volume.shape}: "
                "give it on the volume's grid."
            )

    @property
    def start(self) -> tuple[int, int, int]:
        """Slice, row, column at which the viewer opens: `place`, or the middle of what is marked.

        The middle of the marks of the first nodule; else the middle labelled slice; else the middle.
        """
        if self.place is not None:
            return self.place
        middle = tuple(n // 2 for n in self.volume.shape)
        if self.marks is not None:
            first = self.marks[self.marks["nodule"] == self.marks["nodule"].iloc[0]]
            slices = np.sort(first["slice"].unique())
            at = int(slices[len(slices) // 2])
            points = np.concatenate([points_of(text) for text in first.loc[first["slice"] == at, "contour"]])
            row, column = np.round(points.mean(axis=0)).astype(int)
            return at, int(row), int(column)
        marked = np.flatnonzero(_known(self.labels) == 1)
        return (int(marked[len(marked) // 2]) if len(marked) else middle[0]), middle[1], middle[2]

    @property
    def bands(self) -> list[Band]:
        """Bands along z: slice labels, clips with their labels, and the scores of each run."""
        bands = []
        if len(self.labels):
            bands.append(Band("labels", tuple(_label_parts(_known(self.labels)))))
        if self.clips is None:
            return bands
        edges = list(zip(self.clips["start"].astype(int), self.clips["stop"].astype(int), strict=True))
        found = _known(self.clips["label"])
        bands.append(
            Band(
                "clips",
                tuple(
                    Part(start, stop, _label_colour(label), "", f"clip {i}, {_label_words(label)}")
                    for i, ((start, stop), label) in enumerate(zip(edges, found, strict=True))
                ),
            )
        )
        for name, run in self.runs.items():
            if len(run.scores):
                parts = (
                    Part(start, stop, _score_colour(score), f"{score:.2f}", f"{name}, clip {i}: {score:.3f}")
                    for i, ((start, stop), score) in enumerate(
                        zip(edges, map(float, run.scores), strict=True)
                    )
                )
                bands.append(Band(name, tuple(parts)))
        return bands

    def hu_at(self, place: tuple[int, int, int]) -> int:
        """HU of a voxel."""
        return int(self.volume.hu[place])

    def mm_at(self, place: tuple[int, int, int]) -> tuple[float, float, float]:
        """Patient coordinates (S, P, L) of a voxel, mm."""
        z, y, x = (
            start + step * i
            for start, step, i in zip(self.volume.origin_mm, self.volume.spacing_mm, place, strict=True)
        )
        return z, y, x


def plane(voxels: NDArray[Any], index: int, at: int, n: int = 1) -> NDArray[Any]:
    """A plane as it is drawn, first row on top: 0 axial, 1 coronal, 2 sagittal.

    Args:
        voxels: `[D, H, W]`.
        index: which plane.
        at: its slice, row or column.
        n: the maximum over so many of them, in the middle of which it lies; at an end fewer.

    >>> plane(np.arange(8).reshape(2, 2, 2), 1, 0).tolist()
    [[4, 5], [0, 1]]
    >>> plane(np.arange(8).reshape(2, 2, 2), 0, 0, 3).tolist()
    [[4, 5], [6, 7]]
    """
    start = max(at - (n - 1) // 2, 0)
    span = [slice(None)] * 3
    span[index] = slice(start, at + n // 2 + 1)
    block = voxels[tuple(span)]
    flat = block.max(axis=index) if block.shape[index] > 1 else block.squeeze(axis=index)
    return flat if index == 0 else flat[::-1]


def contours(volume: Volume, marks: pd.DataFrame) -> NDArray[np.uint8]:
    """The readers' contours, one voxel wide.

    Args:
        volume: the series as acquired.
        marks: table `marks` of this series alone.

    Returns:
        uint8 `[D, H, W]`: 0 nothing, 1 + reader (the fifth reader is 1 again), `SEVERAL` where the
        contours of several readers meet.
    """
    drawn = np.zeros(volume.shape, np.uint8)
    for (place, reader), own in marks.groupby(["slice", "reader"]):
        outline = np.zeros(volume.shape[1:], np.uint8)
        loops = [np.round(points_of(text)[:, ::-1]).astype(np.int32) for text in own["contour"]]
        cv2.polylines(outline, loops, isClosed=True, color=1)
        flat, value = drawn[place], 1 + reader % len(READERS)
        shared = (outline == 1) & (flat != 0) & (flat != value)
        flat[outline == 1] = value
        flat[shared] = SEVERAL
    return drawn


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


def _known(labels: Sequence[Any] | pd.Series) -> NDArray[np.float64]:
    """Labels as float64, NaN where empty."""
    return np.array([math.nan if pd.isna(label) else float(label) for label in labels], np.float64)


def _label_words(label: float) -> str:
    return "no label" if math.isnan(label) else "disease" if label == 1 else "no disease"


def _label_colour(label: float) -> str:
    return UNKNOWN if math.isnan(label) else DISEASE if label == 1 else NO_LABEL


def _label_parts(labels: NDArray[np.float64]) -> Iterator[Part]:
    """Runs of slices of the same label."""
    same = (labels[1:] == labels[:-1]) | (np.isnan(labels[1:]) & np.isnan(labels[:-1]))
    edges = [0, *(np.flatnonzero(~same) + 1).tolist(), len(labels)]
    for start, stop in itertools.pairwise(edges):
        label = float(labels[start])
        yield Part(
            start, stop, _label_colour(label), "", f"slices {start} to {stop - 1}, {_label_words(label)}"
        )


def _score_colour(score: float) -> str:
    mixed = (round(low + (high - low) * score) for low, high in zip(LOW_SCORE, HIGH_SCORE, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)
