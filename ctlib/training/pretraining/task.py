"""What is learnt in one pretraining: clips to learn from, held-out clips, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ctlib.models import MeanStd
from ctlib.training.loaders import Clips
from ctlib.training.loop import Metric
from ctlib.training.pretraining.vicreg import EMBEDDING, Views, found_again


@dataclass(frozen=True)
class PretrainTask:
    """What is learnt in one pretraining.

    Args:
        train: clips to learn from, augmented.
        labels: class of each of them, what the draws are balanced by.
        heldout: clips that are not learnt from.
        loss: name in `ctlib.training.losses.LOSSES`.
        n_outputs: logits a clip; of embeddings, their length.
        metric: how well the outputs of `heldout` are.
        asked: what that metric is, in a few words.
        chance: its value for a network that has learnt nothing.
        n_channels: of a clip.
        intensity: measures means and stds of the voxels of `train`, for random weights only: it takes long.
        about: what the record says of the source: source, licence, n_train, n_heldout, classes.
    """

    train: Clips
    labels: list[int]
    heldout: Clips
    loss: str
    n_outputs: int
    metric: Metric
    asked: str
    chance: float
    n_channels: int
    intensity: Callable[[], MeanStd]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def paired(self) -> bool:
        """Whether clips come in pairs of views."""
        return self.loss == "vicreg"


def unlabelled(
    train: Clips, heldout: Clips, n_channels: int, intensity: Callable[[], MeanStd], about: dict[str, Any]
) -> PretrainTask:
    """Two views of each clip, and which belong together.

    Args:
        train: a data set that augments.
        heldout: another that augments.
        n_channels: of `PretrainTask`.
        intensity: of `PretrainTask`.
        about: of `PretrainTask`; the numbers of clips are added.
    """
    return PretrainTask(
        train,
        [0] * len(train),
        Views(heldout),
        loss="vicreg",
        n_outputs=EMBEDDING,
        metric=found_again,
        asked="clips found again",
        chance=1 / len(heldout),
        about=about | {"n_train": len(train), "n_heldout": len(heldout)},
        n_channels=n_channels,
        intensity=intensity,
    )
