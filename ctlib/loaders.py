"""Batches of clips for training and prediction, whatever the clips are of.

`ctlib.clips` and `ctlib.videos` have this interface. Order and augmentation are functions of
the epoch, so that a fit that goes on after an interruption sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from ctlib.precision import Compute


class Clips(Protocol):
    """A map-style data set of `dict(clip float32 [C, D, H, W] in [0, 1], label, ...)`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any) -> Mapping[str, Any]: ...
    def set_epoch(self, epoch: int) -> None:
        """Augment as in this epoch."""


class EpochSampler(Protocol):
    """Draws the clips of one epoch, as a function of the epoch only."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def set_epoch(self, epoch: int) -> None:
        """Draw as in this epoch."""


def loader(
    clips: Clips, batch_size: int, compute: Compute, workers: int = 0, sampler: EpochSampler | None = None
) -> DataLoader[Any]:
    """Batches: `clip` float32 `[N, C, D, H, W]`, `label` `[N]`, and what else the items hold.

    Args:
        clips: data set.
        batch_size: N; the last batch may be smaller.
        compute: what the batches are for.
        workers: processes that read ahead; 0 reads here, which is faster beside a CPU that computes.
        sampler: draws the rows; without it, all rows in order.
    """
    return DataLoader(
        clips,  # type: ignore[arg-type]
        batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=compute.accelerator == "gpu",
        generator=torch.Generator().manual_seed(0),  # not torch's own, which the network draws from
    )


def set_epoch(batches: DataLoader[Any], epoch: int) -> None:
    """Order and augmentation as in this epoch, from 0."""
    batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    batches.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
