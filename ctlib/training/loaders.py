"""Batches of clips for training and prediction, whatever the clips are of.

`ctlib.datasets.clips` and `ctlib.datasets.video` have this interface. Order and augmentation are functions of
the epoch, so that a fit that goes on after an interruption sees what it would have seen, whatever
the number of processes that read.

Those processes live as long as the loader, compute with one thread each, and are told the epoch with
each clip they are asked for. They are started as the platform starts processes: by fork on Linux, which
costs nothing and is safe beside CUDA, for they touch no GPU; by spawn on macOS and Windows, which
imports torch once a process.

Clips travel as float32. A clip of 32 x 224 x 224 has 6.4 MB, half a millisecond of a PCIe 3 bus of
12 GB/s, from pinned memory and beside the computing, where a training step of such clips takes some
hundred. uint8 would be off by 2e-3 of the HU window and float16 by 2.4e-4, more than the 1e-4 that a
clip may be off here; int16 would be exact enough, but one more pass over each clip on the CPU, whose
work is the scarcer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ctlib.core import pin_threads
from ctlib.training.device import Compute

AHEAD = 2
"""Batches that each process reads ahead; torch's default. More take memory and hide no longer wait."""


SHARED_MEMORY = Path("/dev/shm")
"""Where Linux has it: batches travel in it from the processes that read."""

PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h: the signal that a process gets when its parent ends (prctl(2)); children do not inherit it."""


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


class _InEpoch(Dataset[Mapping[str, Any]]):
    """Clips that hear of a new epoch in whichever process they are read.

    Args:
        clips: data set.
        held: clips that are read in between, by a `_Held`.
    """

    def __init__(self, clips: Clips, held: Clips | None = None) -> None:
        self.clips, self.held = clips, held
        self._epoch = torch.full((), -1, dtype=torch.int64).share_memory_()  # -1: none was said
        self._told = -1

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, here and to processes that outlive an epoch."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: Any) -> Mapping[str, Any]:
        if self.held is not None and isinstance(index, _Held):
            return self.held[int(index)]
        epoch = int(self._epoch)
        if epoch != self._told:
            self.clips.set_epoch(epoch)
            self._told = epoch
        return self.clips[index]


class _Held(int):
    """A row of the held-out clips."""


class _Turns(Sampler[Any]):
    """What a sampler draws or, in their turn, rows of the held-out clips."""

    def __init__(self, sampler: EpochSampler, held: Sequence[int]) -> None:
        self.sampler, self.held, self.is_held = sampler, held, False

    def __len__(self) -> int:
        return len(self.held if self.is_held else self.sampler)

    def __iter__(self) -> Iterator[Any]:
        return map(_Held, self.held) if self.is_held else iter(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Draw as in this epoch."""
        self.sampler.set_epoch(epoch)


def _start_worker(parent: int, worker: int) -> None:
    """What each process that reads does first.

    torch seeds it, from the loader's own generator and its number; clips draw from no such seed. Where the process
    that asked for clips is killed, it would wait for ever to hand over its last ones, as its siblings hold the other
    end of the pipe: so Linux ends it then.
    """
    pin_threads(1)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before
            os._exit(1)


def loader(
    clips: Clips,
    batch_size: int,
    compute: Compute,
    workers: int = 0,
    sampler: EpochSampler | None = None,
    held: tuple[Clips, Sequence[int]] | None = None,
) -> DataLoader[Any]:
    """Batches: `clip` float32 `[N, C, D, H, W]`, `label` `[N]`, and what else the items hold.

    Args:
        clips: data set.
        batch_size: N; the last batch may be smaller.
        compute: what the batches are for; for a GPU they lie in pinned memory.
        workers: processes that read ahead, one thread each; 0 reads here, which is faster beside a CPU
            that computes. They do not change what is read. They end with the loader.
        sampler: draws the rows; without it, all rows in order.
        held: held-out clips and their rows, for `held_out`: the same processes read them between the epochs.
    """
    if held is not None and sampler is not None:
        sampler = _Turns(sampler, held[1])
    return DataLoader(
        _InEpoch(clips, held[0] if held else None),
        batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=compute.accelerator == "gpu",
        persistent_workers=workers > 0,
        prefetch_factor=AHEAD if workers else None,
        # where this process was spawned, as a worker of Dask is, its children would be, too
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        worker_init_fn=partial(_start_worker, os.getpid()),
        generator=torch.Generator().manual_seed(0),  # not torch's own, which the network draws from
    )


def held_out(batches: DataLoader[Any]) -> Iterator[Any]:
    """The batches of the held-out clips of a loader, in order; not while an epoch of the others goes on."""
    turns: Any = batches.sampler
    turns.is_held = True
    try:
        yield from batches
    finally:
        turns.is_held = False


def set_epoch(batches: DataLoader[Any], epoch: int) -> None:
    """Order and augmentation as in this epoch, from 0."""
    batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    batches.dataset.set_epoch(epoch)  # type: ignore[attr-defined]


@contextlib.contextmanager
def ending(batches: DataLoader[Any]) -> Iterator[None]:
    """End the processes that read ahead with this block, also where an epoch is interrupted."""
    try:
        yield
    finally:
        batches._iterator = None


def require_shared_memory(batch_mb: float, workers: int, loaders: int) -> None:
    """Refuse processes that read ahead where /dev/shm is too small for their batches: the system would end them.

    Args:
        batch_mb: memory of a batch, million bytes.
        workers: processes of a loader.
        loaders: how many read at once.

    Raises:
        ValueError: it is too small.
    """
    if not (workers and SHARED_MEMORY.is_dir()):
        return
    free_mb, needed_mb = (
        shutil.disk_usage(SHARED_MEMORY).free / 1e6,
        loaders * (AHEAD * workers + 1) * batch_mb,
    )
    if needed_mb > free_mb:
        raise ValueError(
            f"loader_workers is {workers}, for {loaders} runs at once: their batches need {needed_mb:,.0f} MB of "
            f"{SHARED_MEMORY}, which has {free_mb:,.0f} MB free. Give a container more (docker run --shm-size=16g), or "
            "take fewer loader_workers or workers."
        )
