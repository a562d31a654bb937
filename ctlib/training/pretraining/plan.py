"""How networks are pretrained, and from what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ctlib.core import Workspace, field_values
from ctlib.models import KNOWN, PART, SECOND, Origin, origin
from ctlib.training import run
from ctlib.training.exceptions import exceptions_of, own_settings
from ctlib.training.pretraining.ct import CtSource, of_cohort, task_of
from ctlib.training.pretraining.task import PretrainTask
from ctlib.training.pretraining.videos import VideoSource, of_videos

OWN = ("lr", "weight_decay", "epochs", "steps_per_epoch")
"""Settings that a network may have for itself: all networks see clips and batches of the same size."""


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
        second_seed: the same, for inits that end in `_b`.
        part_share: share of the steps, for inits that end in `_part`.

    Raises:
        ValueError: the second seed is the first, or the share leaves no step, or all.
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
    second_seed: int = 1
    part_share: float = 1 / 3

    def __post_init__(self) -> None:
        if self.second_seed == self.seed:
            raise ValueError(f"pretrain_second_seed is {self.seed}, as the first; give another.")
        if not 0 < self.part_share < 1:
            raise ValueError(f"pretrain_part_share is {self.part_share:g}; give a share between 0 and 1.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PretrainSettings:
        """Those that the parameters of `02_pretrain` say: `pretrain_lr` is `lr`, `video_seed` is `seed`."""
        return cls(**field_values(cls, values, "pretrain_") | {"seed": values["video_seed"]})

    def of_variant(self, variant: str) -> PretrainSettings:
        """Those of an init with this ending: fewer steps, or the second seed.

        >>> settings = PretrainSettings("tiny", 16, 32, epochs=2, steps_per_epoch=60, batch_size=8, lr=0.01,
        ...                             weight_decay=0.0)
        >>> settings.of_variant("part").steps_per_epoch, settings.of_variant("b").seed
        (20, 1)
        """
        if variant == PART:
            return dataclasses.replace(self, steps_per_epoch=self._part_of(self.steps_per_epoch))
        if variant == SECOND:
            return dataclasses.replace(self, seed=self.second_seed, second_seed=self.seed)
        return self

    def _part_of(self, steps: int) -> int:
        """The share of an epoch's batches, at least one."""
        return max(1, round(self.part_share * steps))


@dataclass(frozen=True)
class Plan:
    """What is made, and from what.

    Args:
        settings: how.
        videos: labelled videos, for inits from `video`.
        ct: how clips of a cohort are cut, for inits from `ct_<cohort>`.
        exceptions: settings of some networks alone, `<network>.<setting>=<value>`.
    """

    settings: PretrainSettings
    videos: VideoSource | None = None
    ct: CtSource | None = None
    exceptions: tuple[str, ...] = ()

    def require(self, backbones: Sequence[str]) -> None:
        """Refuse exceptions that are not of these networks, or of a setting that all networks share.

        Raises:
            ValueError: the sentence names the exception, the networks and the settings.
        """
        exceptions_of(self.exceptions, [], backbones, OWN)

    def settings_of(self, made: Origin, backbone: str) -> PretrainSettings:
        """How an init of a network is made: what the network has for itself, then what its variant asks.

        Raises:
            ValueError: an exception is not of that form, or names a setting that networks share.
        """
        mine = [text for text in self.exceptions if text.startswith(f"{backbone}.")]
        own = own_settings(exceptions_of(mine, [], [backbone], OWN), ("", backbone, ""))
        return dataclasses.replace(self.settings, **own).of_variant(made.variant)

    def source_of(self, made: Origin) -> VideoSource | CtSource:
        """What an init is made from.

        Raises:
            ValueError: the plan has none for it.
        """
        source = self.videos if made.source == "video" else self.ct
        if source is None:
            raise ValueError(f"init {made.source}: nothing is known of its source; give one.")
        return source

    def pretrain_task(self, workspace: Workspace, made: Origin) -> PretrainTask:
        """What an init is made from; see `of_videos` and `of_cohort`."""
        source, how = self.source_of(made), self.settings.of_variant(made.variant)
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
        return run.fingerprint(workspace, cohort, labelled=not made.self_supervised)


def made_here(init_name: str) -> Origin:
    """How an init is made here.

    Raises:
        ValueError: it is not.
    """
    made = origin(init_name)
    if made is None:
        raise ValueError(f"init is {init_name!r}, which is not made here; known are {KNOWN}.")
    return made
