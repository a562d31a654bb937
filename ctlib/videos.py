"""A folder of labelled videos, one folder a class, with the interface of `clips`.

Any container and codec that PyAV decodes. `generate` (from `ctlib.motions`) writes the source of
the demo. Nothing is ever flipped: that would turn one motion into another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ctlib.motions import generate

__all__ = ["VideoClips", "VideoError", "generate", "read_video"]

EXTENSIONS = (".mkv", ".mp4", ".avi", ".webm", ".mov", ".m4v", ".mpg")
MARGIN = 7 / 6
"""Stored frames are this much larger than a crop: 56 px for crops of 48, as 256 for 224 in the paper."""


class VideoError(ValueError):
    """A folder of videos cannot be used: one sentence that says why."""


def read_video(path: Path, size_px: int) -> NDArray[np.uint8]:
    """All frames of a video of any kind: grey, the middle square, brought to `size_px`.

    Returns:
        uint8 [n, size_px, size_px].

    Raises:
        VideoError: the file is no video, or ends in the middle of a frame.
    """
    frames = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                frames.append(_square(frame.to_ndarray(format="gray"), size_px))
    except (av.FFmpegError, IndexError) as error:
        raise VideoError(f"{path} cannot be read as a video ({type(error).__name__}: {error}).") from error
    return np.stack(frames) if frames else np.empty((0, size_px, size_px), np.uint8)


def _square(frame: NDArray[Any], size_px: int) -> NDArray[np.uint8]:
    side = min(frame.shape)
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    square = frame[top : top + side, left : left + side]
    if side == size_px:
        return square
    how = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
    return cv2.resize(square, (size_px, size_px), interpolation=how).astype(np.uint8)


@dataclass(frozen=True)
class _Found:
    path: Path
    label: int


def _videos(root: Path) -> tuple[list[str], list[_Found]]:
    """Classes and files of a folder with one folder a class, both in order of their names."""
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    classes = [folder.name for folder in folders]
    found = [
        _Found(path, label)
        for label, folder in enumerate(folders)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in EXTENSIONS
    ]
    if len(classes) < 2 or not found:
        raise VideoError(
            f"{root} has {len(classes)} folders with {len(found)} videos ({', '.join(EXTENSIONS)}); "
            "it must have one folder a class, two at least."
        )
    return classes, found


def _held_out(found: list[_Found], n_classes: int, share: float, seed: int) -> Iterator[bool]:
    """Which files are held out: the same share of each class, for a seed always the same."""
    chosen: set[Path] = set()
    for label in range(n_classes):
        files = [item.path for item in found if item.label == label]
        order = np.random.default_rng([seed, 1, label]).permutation(len(files))
        chosen |= {files[i] for i in order[: round(share * len(files))]}
    return (item.path in chosen for item in found)


class VideoClips(Dataset[dict[str, Any]]):
    """Labelled clips of a folder of videos, one folder a class.

    An item is `clip` float32 [1, D, H, W] in [0, 1]; `label`, int; `index`, the row. Videos are
    decoded once into memory, a byte a pixel: 80 MB for 1,600 clips of 16 frames of 56 px. Large
    collections do not fit; cut them into short, small clips first.

    Args:
        root: folder of the classes.
        n_frames: frames of a clip; of longer videos those in the middle are used.
        crop_px: height and width of a clip; stored frames are `MARGIN` times as large.
        seed: of what is held out, and of the crops.
        heldout: serve the held-out videos instead of the others.
        heldout_share: share of each class that is held out.
        train: random crops; without, centre crops.

    `table` lists every video of the part that is served, also those that are not used: columns
    path (in root), label, n_frames, problem (one sentence, or "").

    Raises:
        VideoError: there are no classes, or a class has no video that can be used.
    """

    def __init__(
        self,
        root: Path,
        n_frames: int,
        crop_px: int,
        seed: int,
        heldout: bool,
        heldout_share: float = 0.2,
        train: bool = True,
    ) -> None:
        self.classes, found = _videos(root)
        self.crop_px, self.seed, self.train = crop_px, seed, train
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers may outlive an epoch
        mask = _held_out(found, len(self.classes), heldout_share, seed)
        part = [item for item, held in zip(found, mask, strict=True) if held == heldout]
        rows, clips, labels = [], [], []
        for item in part:
            frames, problem = _decoded(item.path, round(crop_px * MARGIN), n_frames)
            row = {"path": str(item.path.relative_to(root)), "label": item.label}
            rows.append(row | {"n_frames": len(frames), "problem": problem})
            if not problem:
                first = (len(frames) - n_frames) // 2
                clips.append(frames[first : first + n_frames])
                labels.append(item.label)
        self.table = pd.DataFrame(rows, columns=["path", "label", "n_frames", "problem"])
        absent = [name for label, name in enumerate(self.classes) if label not in labels]
        if absent:
            kind = "held-out" if heldout else "training"
            raise VideoError(f"{root} has no {kind} video that can be used in {', '.join(absent)}; add some.")
        self._clips = np.stack(clips)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, so that its crops are its own."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A clip; a `sampling.Draw` is cropped by its position in the epoch, an int by its row."""
        spare = self._clips.shape[-1] - self.crop_px
        top, left = spare // 2, spare // 2
        if self.train:
            position = getattr(index, "position", index)
            top, left = np.random.default_rng([self.seed, 2, int(self._epoch), position]).integers(
                spare + 1, size=2
            )
        crop = self._clips[index, None, :, top : top + self.crop_px, left : left + self.crop_px]
        return {
            "clip": torch.from_numpy(crop.astype(np.float32) / 255),
            "label": self.labels[index],
            "index": int(index),
        }

    def intensity(self) -> tuple[float, float]:
        """Mean and standard deviation of all stored pixels, in [0, 1]."""
        pixels = self._clips.reshape(len(self), -1)
        mean = float(pixels.mean(dtype=np.float64)) / 255
        square = float(np.mean([np.square(clip, dtype=np.float64).mean() for clip in pixels])) / 255**2
        return mean, (square - mean**2) ** 0.5


def _decoded(path: Path, size_px: int, n_frames: int) -> tuple[NDArray[np.uint8], str]:
    """Frames of a file, and what is wrong with it."""
    try:
        frames = read_video(path, size_px)
    except VideoError as error:
        return np.empty((0, size_px, size_px), np.uint8), str(error)
    if len(frames) < n_frames:
        return frames, f"{path.name} has {len(frames)} frames, {n_frames} are needed."
    return frames, ""
