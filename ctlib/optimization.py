"""How a network is trained: its settings, optimizer and learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

SGD_MOMENTUM = 0.9  # Goyal et al. 2017, and the recipes of pytorchvideo's model zoo
PLATEAU_FACTOR = 0.5  # "halved on plateau": Ke et al. 2023, released code (shared/protocol.md)
PLATEAU_PATIENCE = 1  # epochs without a lower validation loss before it is halved; ours


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained.

    Args:
        epochs: at most so many.
        batch_size: clips a step; how many steps an epoch has follows from the sampler.
        lr: learning rate, of one_cycle the highest.
        weight_decay: per step, in the optimizer's own sense.
        optimizer: `adam`, `adamw` or `sgd`.
        schedule: `one_cycle` (each step), `plateau` (halved where the validation loss stays) or `constant`.
        patience: epochs without a better validation metric before the fit stops; 0 never stops.
        loss: `bce` (one logit) or `cross_entropy` (one logit a class).
        keep: the epoch whose weights are used: `best` by the validation metric, or `last`, which a
            few validation exams cannot mistake for a worse one.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["one_cycle", "plateau", "constant"] = "plateau"
    patience: int = 5
    loss: Literal["bce", "cross_entropy"] = "bce"
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", ("adam", "adamw", "sgd")),
            ("schedule", ("one_cycle", "plateau", "constant")),
            ("loss", ("bce", "cross_entropy")),
            ("keep", ("best", "last")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; known are {', '.join(known)}.")
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0), ("weight_decay", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {least}.")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; give a learning rate above 0.")


def optimizer_of(parameters: Iterable[torch.nn.Parameter], settings: FitSettings) -> torch.optim.Optimizer:
    """The optimizer of some settings."""
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=SGD_MOMENTUM, **common)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, **common)


def plateau_lr(settings: FitSettings, val_losses: Sequence[float]) -> float:
    """Learning rate of the next epoch under the schedule `plateau`.

    Args:
        settings: how the network is trained.
        val_losses: of the epochs so far.
    """
    return settings.lr * PLATEAU_FACTOR ** n_plateaus(val_losses)


def n_plateaus(val_losses: Sequence[float]) -> int:
    """How often the validation loss stayed where it was, for more than `PLATEAU_PATIENCE` epochs.

    >>> n_plateaus([0.7, 0.6, 0.6, 0.6]), n_plateaus([0.7, 0.6, 0.6, 0.5])
    (1, 0)
    """
    best, waited, plateaus = math.inf, 0, 0
    for loss in val_losses:
        best, waited = min(best, loss), 0 if loss < best else waited + 1
        if waited > PLATEAU_PATIENCE:
            plateaus, waited = plateaus + 1, 0
    return plateaus
