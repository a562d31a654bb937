"""How networks are pretrained, and from what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ctlib import runs
from ctlib.origins import KNOWN, Origin, origin
from ctlib.picking import picked
from ctlib.pretraining.footage import VideoSource, of_videos
from ctlib.pretraining.lessons import Lessons
from ctlib.pretraining.scans import CtSource, of_cohort, task_of
from ctlib.workspace import Workspace


@dataclass(frozen=True)
class PretrainSettings:
    """How a network is pretrained. Units and meanings are those of the notebook's parameters.

    Args:
        size: `tiny` or `full`.
        clip_length: frames or slices a clip.
        crop_px: rows and columns of a clip.
        epochs: at most so many.
        steps_per_epoch: batches an epoch.
        batch_size: clips a batch; without labels, each in two views.
        lr: learning rate.
        weight_decay: of the optimizer.
        optimizer: `adam`, `adamw` or `sgd`.
        schedule: `one_cycle`, `plateau` or `constant`.
        patience: epochs without a better held-out metric before it stops; 0 never stops.
        accumulate: batches a step.
        precision: `auto`, `fp32` or `bf16`.
        keep: epoch whose weights are used: `best` by the held-out metric, or `last`.
        seed: of the split of videos, the order, the augmentation and the random weights.
    """

    size: Literal["tiny", "full"]
    clip_length: int
    crop_px: int
    epochs: int
    steps_per_epoch: int
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    schedule: Literal["one_cycle", "plateau", "constant"] = "one_cycle"
    patience: int = 0
    accumulate: int = 1
    precision: str = "auto"
    keep: Literal["best", "last"] = "best"
    seed: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PretrainSettings:
        """Those that the parameters of `02_pretrain` say: `pretrain_lr` is `lr`, `video_seed` is `seed`."""
        return cls(**picked(cls, values, "pretrain_") | {"seed": values["video_seed"]})


@dataclass(frozen=True)
class Plan:
    """What is made, and from what.

    Args:
        settings: how.
        videos: labelled videos, for inits from `video`.
        ct: how clips of a cohort are cut, for inits from `ct_<cohort>`.
    """

    settings: PretrainSettings
    videos: VideoSource | None = None
    ct: CtSource | None = None

    def source_of(self, made: Origin) -> VideoSource | CtSource:
        """What an init is made from.

        Raises:
            ValueError: the plan has none for it.
        """
        source = self.videos if made.source == "video" else self.ct
        if source is None:
            raise ValueError(f"init {made.source}: nothing is known of its source; give one.")
        return source

    def lessons(self, workspace: Workspace, made: Origin) -> Lessons:
        """What an init is made from; see `of_videos` and `of_cohort`."""
        source, how = self.source_of(made), self.settings
        cut = how.clip_length, how.crop_px, how.seed
        if isinstance(source, VideoSource):
            return of_videos(workspace, made, source, *cut)
        return of_cohort(workspace, made, source, *cut)

    def fingerprint(self, workspace: Workspace, made: Origin) -> str:
        """SHA-256 of the videos, or of the cohort.

        Raises:
            MissingInput: the cohort was not prepared.
            VideoError: there are no videos.
            ValueError: nothing is known of the source.
        """
        source = self.source_of(made)
        if isinstance(source, VideoSource):
            return source.index(workspace, self.settings.crop_px).fingerprint
        cohort = task_of(made, source.hu_window).cohort
        return runs.fingerprint(workspace, cohort, labelled=not made.self_supervised)


def made_here(init_name: str) -> Origin:
    """How an init is made here.

    Raises:
        ValueError: it is not.
    """
    made = origin(init_name)
    if made is None:
        raise ValueError(f"init is {init_name!r}, which is not made here; known are {KNOWN}.")
    return made
