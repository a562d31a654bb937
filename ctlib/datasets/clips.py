"""Clips: runs of slices of a volume, as tensors in [0, 1].

A series is tiled into clips; every slice is in exactly one. How one is cut is in `ctlib.datasets.transforms`.
What is random is a function of (seed, epoch, position in the epoch) only: not of the number of loader
workers, nor of the network or init that is trained.

Where clips are small, looking them up counts: rows are read from lists, not from the table, and an item of
16 x 48 x 48 takes 0.12 ms instead of 0.26 (CPU time, training).

Samplers say which clips an epoch draws, and in which order: a function of (seed, epoch) only.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from ctlib.core import tables
from ctlib.datasets.transforms import ClipSettings, cut, resampled

_AUGMENT, _SHUFFLE = 0, 4  # streams of the seed; samplers and negative controls draw from others


class Slices(Protocol):
    """Where volumes are read from: `ctlib.datasets.store.Store`, or anything that reads alike."""

    def read(self, series_uid: str, start: int = 0, stop: int | None = None) -> NDArray[np.int16]:
        """HU `[stop - start, M, M]` of slices of a series; without, of all."""

    def record(self, series_uid: str) -> Mapping[str, Any]:
        """What is known of a series: `shape` is [D, M, M], `spacing_mm` (z, y, x). Asked for by `neighbours`
        and by a contract with a spacing only."""


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


class ClipDataset(Dataset[dict[str, Any]]):
    """Clips of a cohort, one item a row of its table.

    An item is `clip` float32 `[n_channels, D, H, W]` in [0, 1]; `label` float32, NaN if unknown; `index`,
    the row. Mean and std are taken off on the device, by the network, for they belong to the init.

    Args:
        store: where volumes are read from.
        clips: rows of table `clips`, with further columns if need be; kept as `table`.
        settings: how a clip is cut.
        train: augmented clips; all labels must be known. Without, centre crops.
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
        columns = (self.table[name].tolist() for name in ("series_uid", "start", "stop"))
        self._runs: list[tuple[str, int, int]] = list(zip(*columns, strict=True))
        self._labels = torch.tensor([np.nan if pd.isna(v) else float(v) for v in self.table["label"]])
        self._n_slices: dict[str, int] = {}

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
        series_uid, start, stop = self._runs[index]
        rng = None
        if self.train:
            position = getattr(index, "position", index)
            rng = np.random.default_rng([self.seed, _AUGMENT, int(self._epoch), position])
        clip = cut(*self._run(series_uid, start, stop), self.settings, rng)
        if (seed := self.settings.shuffle_seed) is not None:
            clip = clip[:, slice_order(seed, series_uid, start, self.settings.length)]
        if asked := self.settings.asked:
            clip = np.ascontiguousarray(asked.oriented(clip))
        return {"clip": torch.from_numpy(clip), "label": self._labels[index], "index": int(index)}

    def _run(self, series_uid: str, start: int, stop: int) -> tuple[NDArray[np.int16], int, int]:
        """The slices that a clip is cut from, and where it begins and ends in them."""
        beside, first, last = self.settings.beside, start, stop
        if (asked := self.settings.asked) and asked.zyx_mm:
            return self._resampled(series_uid, start, stop, asked.zyx_mm)
        if beside:
            first, last = max(start - beside, 0), min(stop + beside, self._length(series_uid))
        return self.store.read(series_uid, first, last), start - first, stop - first

    def _resampled(
        self, series_uid: str, start: int, stop: int, wanted_mm: tuple[float, ...]
    ) -> tuple[NDArray[np.int16], int, int]:
        """Slices of the wanted spacing about the middle of a clip, as many as clips have: what the clip has
        too few of, its neighbours in the volume give."""
        length, beside = self.settings.length, self.settings.beside
        spacing_mm = self.store.record(series_uid)["spacing_mm"]
        n, step = length + 2 * beside, wanted_mm[0] / spacing_mm[0]
        begin = (start + stop - 1 - (n - 1) * step) / 2
        reach = max(step, 1.0)
        first = max(0, math.floor(begin - reach))
        last = min(self._length(series_uid), math.ceil(begin + (n - 1) * step + reach) + 1)
        run = resampled(self.store.read(series_uid, first, last), begin - first, n, spacing_mm, wanted_mm)
        return run, beside, beside + length

    def _length(self, series_uid: str) -> int:
        """Slices of a series."""
        if series_uid not in self._n_slices:
            self._n_slices[series_uid] = self.store.record(series_uid)["shape"][0]
        return self._n_slices[series_uid]


def unmet(store: Slices, clips: pd.DataFrame, settings: ClipSettings) -> str:
    """Why clips of a cohort cannot be as the contract of the settings asks; "" where they can.

    Args:
        store: where volumes are read from.
        clips: rows of table `clips`.
        settings: how a clip is cut.
    """
    asked = settings.asked
    if asked is None or not asked.zyx_mm:
        return ""
    for uid, own in clips.groupby("series_uid", sort=False):
        spacing_mm = store.record(str(uid)).get("spacing_mm") or [math.nan]
        if not all(0 < step < math.inf for step in spacing_mm):
            return f"its spacing is asked to be {asked}, and that of series {uid} is unknown"
        slices = int((own["stop"] - own["start"]).max())
        needed = math.ceil(slices * spacing_mm[0] / asked.zyx_mm[0] - 0.5)
        if needed > settings.length:
            most = max(1, int((settings.length + 0.5) * asked.zyx_mm[0] / spacing_mm[0]))
            return (
                f"at {asked.zyx_mm[0]:g} mm a clip of series {uid}, {slices} slices of {spacing_mm[0]:.3g} mm, has "
                f"{needed} slices, and clips have {settings.length}; tile with clip_length {most} in 01_explore_data "
                "or leave such series out"
            )
    return ""


def intensity(
    store: Slices, clips: pd.DataFrame, settings: ClipSettings
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations in [0, 1] of the voxels of clips, as a network sees them in evaluation.

    Args:
        store: where volumes are read from.
        clips: rows of table `clips`: those of the training split.
        settings: how a clip is cut.

    Returns:
        One mean a channel, one standard deviation a channel.

    Raises:
        ValueError: no clips, or all voxels of a channel are equal.
    """
    dataset = ClipDataset(store, clips, settings, train=False)
    # clip by clip: the voxels of a real cohort do not fit in memory
    moments = [_moments(item["clip"]) for item in dataset]  # type: ignore[attr-defined]
    if not moments:
        raise ValueError("intensity: the table has no clips; there is nothing to measure.")
    means, squares = np.mean(moments, axis=0)
    variances = squares - means**2
    for channel in range(settings.n_channels):
        if variances[channel] >= 1e-12:
            continue
        hu_window = settings.hu_windows[min(channel, len(settings.hu_windows) - 1)]
        found = f"all voxels of {len(moments)} clips are {means[channel]:.3f} in HU window {hu_window!r}"
        raise ValueError(f"intensity: {found}; look at the volumes.")
    return tuple(means.tolist()), tuple(np.sqrt(variances).tolist())


def _moments(clip: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean and mean square of the voxels of each channel."""
    voxels = [channel.double() for channel in clip]
    return [float(v.mean()) for v in voxels], [float(v.square().mean()) for v in voxels]


def slice_order(seed: int, series_uid: str, start: int, n_slices: int) -> NDArray[np.int64]:
    """The order in which a clip shows its slices under `shuffled_slices`: its own, and always the same.

    Args:
        seed: of the run.
        series_uid: series of the clip.
        start: its first slice.
        n_slices: its slices, padding included.

    >>> slice_order(0, "series-1", 16, 6).tolist(), slice_order(0, "series-1", 0, 6).tolist()
    ([1, 2, 0, 3, 4, 5], [2, 4, 3, 1, 5, 0])
    """
    stream = [seed, _SHUFFLE, zlib.crc32(series_uid.encode()), start]
    return np.random.default_rng(stream).permutation(n_slices)


_SAMPLE = 1  # stream of the seed; `ctlib.datasets.clips` augments from another


class Draw(int):
    """A row that a sampler drew: an int that knows its position in the epoch.

    So a row that is drawn twice in an epoch is augmented in two ways.

    >>> rows = ["a", "b"]
    >>> rows[Draw(1, position=7)], Draw(1, position=7).position
    ('b', 7)
    """

    position: int

    # pickle calls it with the row alone and restores the position afterwards
    def __new__(cls, row: int, position: int = 0) -> Draw:  # noqa: D102
        draw = super().__new__(cls, row)
        draw.position = position
        return draw


class BalancedSampler(Sampler[int]):
    """Rows drawn with replacement, each class with the same weight.

    Each is a `Draw`, a function of (seed, epoch, position) only.

    Args:
        labels: class of each row.
        n: draws an epoch.
        seed: of the draws.
        classes: the classes that there must be.

    Raises:
        ValueError: a class has no row, or a row is of no class.
    """

    def __init__(self, labels: Sequence[int], n: int, seed: int, classes: Sequence[int] = (0, 1)) -> None:
        values = np.asarray(labels)
        self._rows = [np.flatnonzero(values == c) for c in classes]
        absent = [c for c, rows in zip(classes, self._rows, strict=True) if not len(rows)]
        if absent or sum(map(len, self._rows)) != len(values):
            raise ValueError(
                f"labels of {len(values)} clips are {sorted(set(values.tolist()))}, classes are "
                f"{list(classes)}; each class needs a clip and each clip a class: "
                "take more patients or another fraction."
            )
        self.n = n
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, _SAMPLE, self.epoch])
        for position, c in enumerate(rng.integers(len(self._rows), size=self.n)):
            yield Draw(int(rng.choice(self._rows[c])), position)


class ShuffledSampler(Sampler[int]):
    """Rows in random order, each once before any comes again, so classes are as frequent as they are.

    Each is a `Draw`, a function of (seed, epoch, position) only.

    Args:
        labels: class of each row; only their number matters.
        n: draws an epoch.
        seed: of the order.

    >>> sorted(ShuffledSampler([0, 0, 1], n=3, seed=0))
    [0, 1, 2]
    """

    def __init__(self, labels: Sequence[int], n: int, seed: int) -> None:
        self.n_rows, self.n, self.seed, self.epoch = len(labels), n, seed, 0

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, _SAMPLE, self.epoch])
        rounds = [rng.permutation(self.n_rows) for _ in range(-(-self.n // self.n_rows))]
        for position, row in enumerate(np.concatenate(rounds)[: self.n]):
            yield Draw(int(row), position)


SAMPLERS = {"balanced": BalancedSampler, "shuffled": ShuffledSampler}
"""By the names that settings use."""
