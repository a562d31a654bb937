"""Clips of labelled videos, with the interface of `ctlib.datasets.clips`.

Videos are held out by lists, or as a share of each class, recordings undivided.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ctlib.datasets.video.cache import VideoIndex
from ctlib.datasets.video.decode import VideoError


def held_out(table: pd.DataFrame, share: float, seed: int) -> NDArray[np.bool_]:
    """Which videos are held out: by the lists, or the same share of each class, whole groups at a time.

    Groups are drawn in random order until a class has its share, so it may have a little more. Files
    with the same bytes count as one group, and a group that several classes share stays together too.

    Args:
        table: of an index: label, group, listed, and content where it is known.
        share: of the files of a class, 0 to 1.
        seed: for a seed it is always the same.

    Returns:
        bool [n], one a row.

    >>> rows = pd.DataFrame({"label": [0, 0, 0, 0], "group": list("aabb"), "listed": ""})
    >>> held_out(rows, 0.5, seed=0).tolist()
    [True, True, False, False]
    """
    if (table["listed"] != "").any():
        return (table["listed"] == "heldout").to_numpy()
    if not 0 <= share < 1:
        raise VideoError(f"heldout_share is {share}; give 0 to less than 1.")
    opened = (table["content"] != "").to_numpy() if "content" in table else np.ones(len(table), bool)
    held = np.zeros(len(table), bool)
    held[opened] = _drawn(table[opened], share, seed)
    return held


def _drawn(table: pd.DataFrame, share: float, seed: int) -> NDArray[np.bool_]:
    """What `held_out` draws, of files that were opened."""
    groups = _joined(table)
    decided: dict[str, bool] = {}
    for label in sorted(set(table["label"])):
        of_class = groups[(table["label"] == label).to_numpy()]
        sizes = of_class.value_counts(sort=False)
        names = list(dict.fromkeys(of_class))
        order = np.random.default_rng([seed, 1, label]).permutation(len(names))
        n_held = sum(sizes[name] for name in names if decided.get(name))
        for name in (names[i] for i in order):
            if name not in decided:
                decided[name] = n_held < round(share * len(of_class))
                n_held += sizes[name] * decided[name]
    return groups.map(decided).to_numpy(dtype=bool)


def _joined(table: pd.DataFrame) -> pd.Series:
    """The group of each row; groups that have a file in common are one."""
    groups = table["group"].astype(str)
    if "content" not in table:
        return groups
    leader = {name: name for name in groups}

    def lead(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for _, names in _repeated(zip(table["content"], groups, strict=True)):
        for other in names[1:]:
            leader[lead(other)] = lead(names[0])
    return groups.map(lead)


def _repeated(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Contents that several groups have, with the groups."""
    seen: dict[str, list[str]] = {}
    for content, group in pairs:
        if content:
            seen.setdefault(content, []).append(group)
    return [(content, names) for content, names in seen.items() if len(set(names)) > 1]


_AUGMENT, _EXCHANGE = 2, 3  # streams of the seed; what is held out and the order are drawn from others


class VideoClips(Dataset[dict[str, Any]]):
    """Labelled clips of videos whose frames are stored.

    An item is `clip` float32 [1, D, H, W] in [0, 1], grey; `label`, int; `index`, the row. Training
    takes a random run of frames and a random crop, each a function of (seed, epoch, position);
    otherwise it is the middle of both.

    Args:
        index: the videos, see `prepare_videos`.
        n_frames: frames of a clip.
        crop_px: height and width of a clip, at most that of the stored frames.
        seed: of what is held out, and of the augmentation.
        heldout: serve the held-out videos instead of the others.
        heldout_share: share of each class that is held out, where no list says it.
        train: augment.
        flip: mirror every second training clip, left to right. Right for most human actions; wrong where
            the side is the class (`pan_left`), as in the generated motions.

    `table` lists every video of the part that is served, also those that are not used, with the
    columns of the index; files outside of the classes are listed in the training part. A video with
    fewer than `n_frames` frames is among those that are not used.

    Raises:
        VideoError: a class has no video that can be used, or stored frames are too small.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from ctlib.datasets.synthetic.video import generate
    >>> from ctlib.datasets.video.cache import prepare_videos
    >>> from ctlib.datasets.video.cache import FrameSettings
    >>> from ctlib.datasets.video.index import VideoFiles
    >>> folder = Path(tempfile.mkdtemp())
    >>> generate(folder / "videos", n_per_class=2, seed=0, size_px=28, n_frames=5)
    >>> index = prepare_videos(VideoFiles(folder / "videos"), folder / "cache", FrameSettings(28))
    >>> train = VideoClips(index, n_frames=4, crop_px=24, seed=0, heldout=False, heldout_share=0.5)
    >>> len(train), tuple(train[0]["clip"].shape), train.classes[train[0]["label"]]
    (9, (1, 4, 24, 24), 'pan_down')
    """

    def __init__(
        self,
        index: VideoIndex,
        n_frames: int,
        crop_px: int,
        seed: int,
        heldout: bool,
        heldout_share: float = 0.2,
        train: bool = True,
        flip: bool = False,
    ) -> None:
        self.size_px = index.settings.size_px
        if n_frames < 1 or not 1 <= crop_px <= self.size_px:
            raise VideoError(
                f"clips of {n_frames} frames of {crop_px} px: give at least 1 and at most the "
                f"{self.size_px} px that are stored."
            )
        self.classes = list(index.classes)
        self.n_frames, self.crop_px, self.seed, self.train, self.flip = n_frames, crop_px, seed, train, flip
        self._frames = index.frames
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers may outlive an epoch
        part = held_out(index.table, heldout_share, seed) == heldout
        self.table = _with_short(index.table[part].reset_index(drop=True), n_frames)
        usable = self.table[self.table["problem"] == ""]
        self.labels = [int(label) for label in usable["label"]]
        self._contents = list(usable["content"])
        present = set(self.labels)
        absent = [name for label, name in enumerate(self.classes) if label not in present]
        if absent:
            kind = "held-out" if heldout else "training"
            raise VideoError(
                f"{index.root} has no {kind} video that can be used in {', '.join(absent)}; add some."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, so that its runs and crops are its own."""
        self._epoch.fill_(epoch)

    def exchange_labels(self) -> None:
        """Give each video the class of another, by the seed; there are as many of each class as before."""
        order = np.random.default_rng([self.seed, _EXCHANGE]).permutation(len(self.labels))
        self.labels = [self.labels[i] for i in order]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A clip; a `sampling.Draw` is augmented by its position in the epoch, an int by its row."""
        frames = self._frames.read(self._contents[index], self.size_px)
        spare_px, spare_frames = self.size_px - self.crop_px, len(frames) - self.n_frames
        top, left, first, mirrored = spare_px // 2, spare_px // 2, spare_frames // 2, False
        if self.train:
            position = getattr(index, "position", index)
            rng = np.random.default_rng([self.seed, _AUGMENT, int(self._epoch), position])
            top, left = rng.integers(spare_px + 1, size=2)
            first = int(rng.integers(spare_frames + 1))
            mirrored = self.flip and bool(rng.integers(2))
        run = frames[first : first + self.n_frames, top : top + self.crop_px, left : left + self.crop_px]
        clip = run[..., ::-1] if mirrored else run
        return {
            "clip": torch.from_numpy(clip[None].astype(np.float32, order="C") / 255),
            "label": self.labels[index],
            "index": int(index),
        }

    def intensity(self) -> tuple[float, float]:
        """Mean and standard deviation in [0, 1] of whole stored frames: the middle run of each video."""
        total, squares = 0, []
        for content in self._contents:  # video by video: all of them may not fit in memory
            frames = self._frames.read(content, self.size_px)
            first = (len(frames) - self.n_frames) // 2
            run = frames[first : first + self.n_frames]
            total += int(run.sum(dtype=np.int64))
            squares.append(np.square(run, dtype=np.float64).mean())
        mean = total / (len(self) * self.n_frames * self.size_px**2) / 255
        square = float(np.mean(squares)) / 255**2
        return mean, (square - mean**2) ** 0.5


def _with_short(table: pd.DataFrame, n_frames: int) -> pd.DataFrame:
    """The table, with a problem where a video is too short for a clip."""
    short = (table["problem"] == "") & (table["n_frames"] < n_frames)
    sentences = table["path"] + " has " + table["n_frames"].astype(str) + f" frames, {n_frames} are needed."
    return table.assign(problem=table["problem"].where(~short, sentences))
