"""How a network is trained: its settings, optimizer and learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from ctlib.training.losses import LOSSES

SGD_MOMENTUM = 0.9  # Goyal et al. 2017, and the recipes of pytorchvideo's model zoo
PLATEAU_FACTOR = 0.5  # "halved on plateau": Ke et al. 2023, released code (docs/protocol.md)
PLATEAU_PATIENCE = 1  # epochs without a lower validation loss before it is halved; ours


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained.

    Args:
        epochs: at most so many.
        batch_size: clips a batch; how many batches an epoch has follows from the sampler.
        lr: learning rate, of one_cycle the highest.
        weight_decay: per step, in the optimizer's own sense.
        optimizer: a name in `OPTIMIZERS`.
        schedule: a name in `SCHEDULES`.
        patience: epochs without a better validation metric before the fit stops; 0 never stops.
        loss: a name in `ctlib.training.losses.LOSSES`.
        keep: the epoch whose weights are used: `best` by the validation metric, or `last`, which a
            few validation exams cannot mistake for a worse one.
        accumulate: batches a step of the optimizer, whose gradient is that of the mean loss of all their
            clips, as if they were one batch; batch norm alone sees them one by one. For networks that
            have no room for more clips at once. The last step of an epoch takes the batches that are left.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: str = "adam"
    schedule: str = "plateau"
    patience: int = 5
    loss: str = "bce"
    keep: Literal["best", "last"] = "best"
    accumulate: int = 1

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("loss", LOSSES),
            ("keep", ("best", "last")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; known are {', '.join(known)}.")
        least_of = {"epochs": 1, "batch_size": 1, "accumulate": 1, "patience": 0, "weight_decay": 0}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {least}.")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; give a learning rate above 0.")

    def weight(self, batch: int, n: int, n_clips: int) -> float:
        """What the mean loss of a batch counts, next to 1, in the mean over the batches of a step.

        Args:
            batch: which of the epoch, from 0.
            n: its clips.
            n_clips: of the epoch.

        >>> settings = FitSettings(1, batch_size=4, lr=0.1, weight_decay=0.0, accumulate=2)
        >>> [settings.weight(batch, 4, n_clips=12) for batch in range(3)]  # a step of two, a step of one
        [1.0, 1.0, 2.0]
        """
        step = self.batch_size * self.accumulate
        in_step = min(step, n_clips - batch // self.accumulate * step)
        return n * self.accumulate / in_step


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=SGD_MOMENTUM),
}
"""Optimizers by the names that settings use."""


def optimizer_of(parameters: Iterable[torch.nn.Parameter], settings: FitSettings) -> torch.optim.Optimizer:
    """The optimizer of some settings."""
    return OPTIMIZERS[settings.optimizer](parameters, lr=settings.lr, weight_decay=settings.weight_decay)


class Constant:
    """A learning rate that stays as it is, and what all schedules have.

    Args:
        optimizer: whose learning rate it is.
        settings: how the network is trained.
        n_steps: of the optimizer, in all epochs.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: FitSettings, n_steps: int) -> None:
        self.optimizer, self.settings = optimizer, settings

    def begin_epoch(self, val_losses: Sequence[float]) -> None:
        """Before an epoch, with the validation losses of those before."""

    def step(self) -> None:
        """After a step of the optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""


class Plateau(Constant):
    """Halved where the validation loss stays (`n_plateaus`)."""

    def begin_epoch(self, val_losses: Sequence[float]) -> None:
        """Before an epoch, with the validation losses of those before."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * PLATEAU_FACTOR ** n_plateaus(val_losses)


class OneCycle(Constant):
    """Up to the learning rate of the settings and down again, with each step; with it go beta or momentum."""

    def __init__(self, optimizer: torch.optim.Optimizer, settings: FitSettings, n_steps: int) -> None:
        super().__init__(optimizer, settings, n_steps)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, n_steps)

    def step(self) -> None:
        """After a step of the optimizer."""
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.scheduler.load_state_dict(dict(state))


SCHEDULES: dict[str, type[Constant]] = {"one_cycle": OneCycle, "plateau": Plateau, "constant": Constant}
"""Schedules of the learning rate by the names that settings use."""


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
