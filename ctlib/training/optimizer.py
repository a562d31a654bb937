"""How a network is trained: its settings, optimizer and learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from ctlib.training.losses import LOSSES

SGD_MOMENTUM = 0.9  # Goyal et al. 2017, and the recipes of pytorchvideo's model zoo
PLATEAU_FACTOR = 0.5  # "halved on plateau": Ke et al. 2023, released code (docs/protocol.md)
PLATEAU_PATIENCE = 1  # epochs without a lower validation loss before it is halved; ours
PAPER_PATIENCE = 5  # the same, of Ke et al. 2023 (p. 771)


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
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "sgd": partial(torch.optim.SGD, momentum=SGD_MOMENTUM, fused=True),
}
"""Optimizers by the names that settings use; fused, one kernel for all tensors: a tiny network's step spends 3 to 5 %
of its time in it, of one for each tensor 7 to 15 %."""


def optimizer_of(parameters: Iterable[torch.nn.Parameter], settings: FitSettings) -> torch.optim.Optimizer:
    """The optimizer of some settings."""
    return OPTIMIZERS[settings.optimizer](parameters, lr=settings.lr, weight_decay=settings.weight_decay)


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves.

    Args:
        make: the optimizer, its settings and the number of its steps in all epochs to a scheduler of torch's.
        each: what moves it on: a `step`, or an `epoch` with its validation loss.
    """

    make: Callable[[torch.optim.Optimizer, FitSettings, int], LRScheduler]
    each: Literal["step", "epoch"]


def _plateau(patience: int) -> Schedule:
    """Halved where the validation loss has not fallen for more than so many epochs."""
    return Schedule(
        lambda optimizer, settings, n_steps: ReduceLROnPlateau(
            optimizer, factor=PLATEAU_FACTOR, patience=patience, threshold=0.0, eps=0.0
        ),
        "epoch",
    )


SCHEDULES = {
    "one_cycle": Schedule(
        lambda optimizer, settings, n_steps: OneCycleLR(optimizer, settings.lr, n_steps), "step"
    ),
    "plateau": _plateau(PLATEAU_PATIENCE),
    "plateau_5": _plateau(PAPER_PATIENCE),
    "constant": Schedule(lambda optimizer, settings, n_steps: ConstantLR(optimizer, factor=1.0), "step"),
}
"""Schedules of the learning rate by the names that settings use."""
