"""Pretraining on videos: the class of a video is learnt, or, without labels, which views are of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctlib.core import Map, Workspace, field_values, in_order, project_path
from ctlib.datasets import (
    FrameSettings,
    VideoClips,
    VideoError,
    VideoFiles,
    VideoIndex,
    prepare_videos,
    stored_px,
)
from ctlib.models import PLACEBO, MeanStd, Origin
from ctlib.training.pretraining import PretrainTask, unlabelled


@dataclass(frozen=True)
class VideoSource:
    """Labelled videos and how clips are taken from them.

    Args:
        files: where they are.
        source: what they are, one phrase; it stands in every ledger.
        licence: of the videos, and so of the weights.
        heldout_share: share of the videos that are not learnt from, where no list says which.
        frames_per_s: frames a second of a video's own time; 0 takes each frame as it is.
        max_frames: at most so many of a video are stored, those in its middle; 0 stores all.
        flip: whether training clips may be mirrored; not where a side is the class.
    """

    files: VideoFiles
    source: str
    licence: str
    heldout_share: float = 0.2
    frames_per_s: float = 0.0
    max_frames: int = 0
    flip: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> VideoSource | None:
        """The source that the parameters of `02_pretrain` name; None where `videos_root` is empty."""
        if not values["videos_root"]:
            return None
        files = field_values(VideoFiles, values, "videos_") | {"root": project_path(values["videos_root"])}
        about = {"source": values["videos_source"], "licence": values["videos_licence"]}
        return cls(VideoFiles(**files), **about, **field_values(cls, values, "video_"))

    def index(self, workspace: Workspace, crop_px: int, run: Map = in_order) -> VideoIndex:
        """The videos with their frames stored, which takes time once.

        Args:
            workspace: frames lie in its `frames/`.
            crop_px: rows and columns of a clip.
            run: where files are decoded; `Engine.map`, for instance.
        """
        settings = FrameSettings(stored_px(crop_px), self.frames_per_s, self.max_frames)
        return prepare_videos(self.files, workspace.frames, settings, run)

    def clips(self, index: VideoIndex, n_frames: int, crop_px: int, seed: int, **part: bool) -> VideoClips:
        """Clips of the training or of the held-out videos; see `VideoClips`."""
        return VideoClips(index, n_frames, crop_px, seed, heldout_share=self.heldout_share, **part)

    def settings(self) -> dict[str, Any]:
        """All that changes the weights, but for the videos themselves."""
        return {"kind": "video", "share": self.heldout_share, "flip": self.flip, "max": self.max_frames}

    def fingerprint(self, workspace: Workspace, origin: Origin, crop_px: int) -> str:
        """SHA-256 of the videos.

        Raises:
            VideoError: there are none.
        """
        return self.index(workspace, crop_px).fingerprint

    def task(
        self, workspace: Workspace, origin: Origin, clip_length: int, crop_px: int, seed: int
    ) -> PretrainTask:
        """What is learnt in the pretraining of an init, see `of_videos`."""
        return of_videos(workspace, origin, self, clip_length, crop_px, seed)


def of_videos(
    workspace: Workspace, origin: Origin, source: VideoSource, n_frames: int, crop_px: int, seed: int
) -> PretrainTask:
    """Videos that are not held out, with their classes or without.

    Args:
        workspace: where their frames are stored.
        origin: whether classes are learnt, and whether they are the videos' own.
        source: the videos.
        n_frames: frames a clip.
        crop_px: rows and columns of a clip.
        seed: of what is held out, and of the augmentation.

    Raises:
        VideoError: there are no classes, or a class has no video that can be used.
    """
    if not (source.files.labelled or origin.self_supervised):
        raise VideoError(f"init {origin.source} learns classes, but the videos have none; make video_ssl.")
    index = source.index(workspace, crop_px)
    taken = partial(source.clips, index, n_frames, crop_px, seed, flip=source.flip)
    train = taken(heldout=False, train=True)
    about = {"source": source.source, "licence": source.licence, "classes": train.classes}
    if origin.self_supervised:
        about |= {"source": f"{source.source}, no labels", "classes": []}
        return unlabelled(train, taken(heldout=True, train=True), 1, partial(_intensity, train), about)
    if origin.variant == PLACEBO:
        train.exchange_labels()
        about |= {"source": f"{source.source}, labels exchanged"}
    heldout = source.clips(index, n_frames, crop_px, seed, heldout=True, train=False)
    truth = np.array(heldout.labels)

    def accuracy(logits: NDArray[np.float32]) -> float:
        return float((logits.argmax(axis=1) == truth).mean())

    return PretrainTask(
        train,
        train.labels,
        heldout,
        loss="cross_entropy",
        n_outputs=len(train.classes),
        metric=accuracy,
        asked="accuracy",
        chance=1 / len(train.classes),
        n_channels=1,
        intensity=partial(_intensity, train),
        about=about | {"n_train": len(train), "n_heldout": len(heldout)},
    )


def _intensity(clips: VideoClips) -> MeanStd:
    """Mean and std of videos, which have one channel."""
    mean, std = clips.intensity()
    return (mean,), (std,)
