"""Clips: runs of slices of a volume, as tensors in [0, 1].

A series is tiled into clips; every slice is in exactly one. Padding is air (`HU_MIN`) before the
HU window is applied, so it has the value that air maps to, wherever it comes from: a short clip, a
crop beyond the edge, a corner that a rotation uncovers; in training and in evaluation.

Crop and rotation are one affine map, the same for every slice of a clip, interpolated once
(bilinear). What is random is a function of (seed, epoch, position in the epoch) only: not of the
number of loader workers, nor of the network or init that is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ctlib import hu, tables

_AUGMENT = 0  # stream of the seed; `ctlib.sampling` draws from another
_WARP = {
    "flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    "borderMode": cv2.BORDER_CONSTANT,
    "hint": cv2.ALGO_HINT_ACCURATE,
}


class Slices(Protocol):
    """Where volumes are read from: `ctlib.store.Store`, or anything that reads alike."""

    def read(self, series_uid: str, start: int = 0, stop: int | None = None) -> NDArray[np.int16]:
        """HU `[stop - start, M, M]` of slices of a series; without, of all."""


def tile(n_slices: int, length: int) -> list[tuple[int, int]]:
    """(start, stop) of the clips of a series: every slice in one, the last may be shorter.

    >>> tile(40, 16)
    [(0, 16), (16, 32), (32, 40)]
    >>> tile(5, 16)
    [(0, 5)]
    """
    if n_slices < 1 or length < 1:
        raise ValueError(f"tile: {n_slices} slices in clips of {length}; both must be at least 1.")
    return [(start, min(start + length, n_slices)) for start in range(0, n_slices, length)]


def clip_table(
    slices: pd.DataFrame, length: int, min_positive: int, series: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The clips of all series of a table `slices`.

    Args:
        slices: table `slices`.
        length: slices a clip.
        min_positive: slices with label 1 that make a clip positive; the published rule is 4.
            A clip of fewer slices cannot be positive.
        series: table `series`; the clips of an exam none of whose slices has a label get the label
            of the exam.

    Returns:
        Table `clips`. `n_positive` and, but for that, `label` are empty where a slice of the clip
        has no label.

    Raises:
        ValueError: the slices of a series are not 0, 1, 2, ..., each once; a number is below 1.

    >>> slices = pd.DataFrame({"series_uid": "1.2", "slice": range(6), "z_mm": 0.0,
    ...                        "label": [0, 0, 0, 1, 1, 1]})
    >>> clip_table(slices, length=4, min_positive=2)[["start", "stop", "n_positive", "label"]].values.tolist()
    [[0, 4, 1, 0], [4, 6, 2, 1]]
    """
    if min_positive < 1:
        raise ValueError(f"min_positive is {min_positive}; give at least 1.")
    exam_labels = {} if series is None else dict(zip(series["series_uid"], series["label"], strict=True))
    rows: list[tuple[Any, ...]] = []
    for series_uid, group in slices.sort_values("slice", kind="stable").groupby("series_uid", sort=False):
        if group["slice"].tolist() != list(range(len(group))):
            raise ValueError(
                f"series {series_uid}: its {len(group)} rows in table 'slices' are not the slices 0 to "
                f"{len(group) - 1}, each once; write the table again."
            )
        labels = group["label"].astype("Int64").reset_index(drop=True)
        for clip, (start, stop) in enumerate(tile(len(group), length)):
            n_positive = labels[start:stop].sum(skipna=False)
            label = pd.NA if n_positive is pd.NA else int(n_positive >= min_positive)
            if labels.isna().all():
                label = exam_labels.get(series_uid, pd.NA)
            rows.append((series_uid, clip, start, stop, n_positive, label))
    columns = [column.name for column in tables.SCHEMAS["clips"]]
    return tables.check(pd.DataFrame(rows, columns=columns), "clips")


@dataclass(frozen=True)
class ClipSettings:
    """How a clip is cut.

    Args:
        length: slices, D.
        crop_px: height and width, H and W.
        hu_window: name of the HU window that is mapped to [0, 1].
        rotation_deg: training clips turn by up to this, either way.
    """

    length: int
    crop_px: int
    hu_window: str
    rotation_deg: float = 0.0

    def __post_init__(self) -> None:
        hu.named(self.hu_window)
        if self.length < 1 or self.crop_px < 1:
            raise ValueError(f"clips of {self.length} slices and {self.crop_px} px: both must be at least 1.")
        if not 0 <= self.rotation_deg <= 180:
            raise ValueError(f"rotation_deg is {self.rotation_deg}; give 0 to 180 degrees.")

    @property
    def air(self) -> float:
        """The value of padding: what `HU_MIN` maps to.

        >>> ClipSettings(16, 48, "pe").air, round(ClipSettings(16, 48, "lung").air, 4)
        (0.0, 0.2173)
        """
        return float(hu.to_unit(np.array([hu.HU_MIN]), hu.named(self.hu_window))[0])


def affine(size_px: int, crop_px: int, rotation_deg: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random crop, turned about its centre by a random angle, as one map `[2, 3]`.

    It maps (x, y, 1) of the crop to (x, y) of the slice, px. The crop lies at whole pixels,
    anywhere in the slice; where the slice is the smaller, the slice lies anywhere in the crop.

    >>> affine(56, 48, 0.0, np.random.default_rng(0))[:, 2].tolist()
    [7.0, 5.0]
    """
    spare = size_px - crop_px
    left, top = rng.integers(min(spare, 0), max(spare, 0), size=2, endpoint=True)
    angle = np.deg2rad(rng.uniform(-rotation_deg, rotation_deg))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.full(2, (crop_px - 1) / 2)
    return np.column_stack([turn, centre + np.array([left, top]) - turn @ centre])


def _centre(matrix_px: int, crop_px: int) -> tuple[slice, slice]:
    """Where a centre crop begins and ends: in the slice, and in the crop."""
    spare = matrix_px - crop_px
    size = min(matrix_px, crop_px)
    source, target = max(spare // 2, 0), max(-spare // 2, 0)
    return slice(source, source + size), slice(target, target + size)


def cut(
    volume: NDArray[np.int16],
    start: int,
    stop: int,
    settings: ClipSettings,
    rng: np.random.Generator | None = None,
) -> NDArray[np.float32]:
    """One clip of a volume.

    Args:
        volume: HU `[D, M, M]`.
        start: first slice.
        stop: slice after the last; at most `settings.length` after the first.
        settings: how it is cut.
        rng: for a random crop and rotation; without it, the plain centre crop.

    Returns:
        float32 `[length, crop_px, crop_px]` in [0, 1]; slices from `stop` on are air.

    >>> air = np.full((3, 6, 6), -1024, np.int16)
    >>> cut(air, 0, 3, ClipSettings(4, 4, "pe")).max()
    np.float32(0.0)
    """
    matrix_px, size = volume.shape[1], settings.crop_px
    clip = np.full((settings.length, size, size), settings.air, np.float32)
    hu_window = hu.named(settings.hu_window)
    if rng is None:
        source, target = _centre(matrix_px, size)
        clip[: stop - start, target, target] = hu.to_unit(volume[start:stop, source, source], hu_window)
        return clip
    matrix = affine(matrix_px, size, settings.rotation_deg, rng)
    for target_slice, plane in zip(clip, hu.to_unit(volume[start:stop], hu_window), strict=False):
        cv2.warpAffine(plane, matrix, (size, size), dst=target_slice, borderValue=settings.air, **_WARP)
    return clip


class ClipDataset(Dataset[dict[str, Any]]):
    """Clips of a cohort, one item a row of its table.

    An item is `clip` float32 `[1, D, H, W]` in [0, 1]; `label` float32, NaN if unknown; `index`, the row.

    Args:
        store: where volumes are read from.
        clips: rows of table `clips`, with further columns if need be; kept as `table`.
        settings: how a clip is cut.
        train: random crops and rotations; all labels must be known. Without, centre crops.
        seed: of what is random.

    Raises:
        ValueError: a clip is longer than the settings say, or has no label in training.
    """

    def __init__(
        self, store: Slices, clips: pd.DataFrame, settings: ClipSettings, train: bool, seed: int = 0
    ) -> None:
        self.store = store
        self.table = clips.reset_index(drop=True)
        self.settings = settings
        self.train = train
        self.seed = seed
        # shared with loader workers that outlive an epoch
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        long = self.table["stop"] - self.table["start"] > settings.length
        self._refuse(long, f"is longer than {settings.length} slices; tile with that length")
        if train:
            self._refuse(self.table["label"].isna(), "has no label; leave such clips out of training")

    def _refuse(self, bad: pd.Series, why: str) -> None:
        """Raise a ValueError that names the first bad row, if there is one."""
        if bad.any():
            row = self.table[bad].iloc[0]
            raise ValueError(f"series {row['series_uid']}, clip {row['clip']} {why}.")

    def __len__(self) -> int:
        return len(self.table)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The clip of a row; a `sampling.Draw` is augmented by its position, an int by its row."""
        row = self.table.iloc[index]
        rng = None
        if self.train:
            position = getattr(index, "position", index)
            rng = np.random.default_rng([self.seed, _AUGMENT, int(self._epoch), position])
        run = self.store.read(row["series_uid"], int(row["start"]), int(row["stop"]))
        clip = cut(run, 0, len(run), self.settings, rng)
        label = float("nan") if pd.isna(row["label"]) else float(row["label"])
        return {
            "clip": torch.from_numpy(clip[None]),
            "label": torch.tensor(label, dtype=torch.float32),
            "index": int(index),
        }


def intensity(store: Slices, clips: pd.DataFrame, settings: ClipSettings) -> tuple[float, float]:
    """Mean and standard deviation in [0, 1] of the voxels of clips, as a network sees them in evaluation.

    Args:
        store: where volumes are read from.
        clips: rows of table `clips`: those of the training split.
        settings: how a clip is cut.

    Raises:
        ValueError: no clips, or all voxels are equal.
    """
    dataset = ClipDataset(store, clips, settings, train=False)
    # clip by clip: the voxels of a real cohort do not fit in memory
    moments = [(v.mean(), v.square().mean()) for v in (item["clip"].double() for item in dataset)]  # type: ignore[attr-defined]
    if not moments:
        raise ValueError("intensity: the table has no clips; there is nothing to measure.")
    mean, square = np.mean(moments, axis=0).tolist()
    if square - mean**2 < 1e-12:
        found = f"all voxels of {len(moments)} clips are {mean:.3f} in HU window {settings.hu_window!r}"
        raise ValueError(f"intensity: {found}; look at the volumes.")
    return mean, (square - mean**2) ** 0.5
