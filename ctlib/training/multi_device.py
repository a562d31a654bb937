"""One fit on several devices of a machine: a process each, which give the gradients of one device.

Each process has a share of each batch. What one device would take from the whole batch, all of them take from it:

- the loss is of the whole batch: outputs and labels are put together first, so that VICReg's variance and
  covariance are those of all clips, and not of a share;
- statistics of batch normalization are of the whole batch: torch's SyncBatchNorm on GPUs, which has no form for a
  CPU, and the same arithmetic here on a CPU;
- gradients are averaged by DDP.

Clips, their order and their augmentation are functions of seed, epoch and position in the epoch, so they do
not depend on the number of devices. Sums are rounded in another order. What a network draws in training (dropout,
stochastic depth) is drawn in each process by itself, so it does depend on it.

The processes are spawned: fork would copy a process that CUDA, or a notebook's kernel, has begun in. They meet
at a file of this machine and talk over its loopback interface and its GPUs' links; nothing listens elsewhere.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import ProcessException, start_processes
from torch.nn.modules.batchnorm import _BatchNorm

from ctlib.core import pin_threads
from ctlib.training.loaders import EpochSampler


class DevicesError(RuntimeError):
    """A process of a fit on several devices failed: one sentence that says which, why and what to do."""


def require_devices(devices: int, batch_size: int) -> None:
    """Refuse a number of devices that cannot be.

    Args:
        devices: of one fit.
        batch_size: clips a batch, on all of them together.

    Raises:
        ValueError: fewer than 1, or the batch cannot be divided.
    """
    if devices < 1:
        raise ValueError(f"devices is {devices}; give at least 1.")
    if batch_size % devices:
        raise ValueError(
            f"devices is {devices} and pretrain_batch_size {batch_size}, which they cannot divide; give a multiple of "
            f"{devices}."
        )


def together(work: Callable[..., None], args: Sequence[Any], devices: int) -> None:
    """Call a function in as many processes as there are devices, and wait; all end when one fails, or this one.

    Args:
        work: at the top level of a module; takes the number of its process, from 0, then `args`. A fit in it has
            `Compute.devices` of so many.
        args: of the function; they pickle.
        devices: how many, the first GPUs in sight, or so many processes on a CPU.

    Raises:
        ValueError: there are fewer GPUs in sight.
        DevicesError: a process failed or was ended.
    """
    if (n_gpus := torch.cuda.device_count()) and n_gpus < devices:
        raise ValueError(
            f"devices is {devices}, and GPUs in sight of this process are {n_gpus}; give at most {n_gpus}, or let it "
            f"see more (cluster_options: gpus={devices})."
        )
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # of the processes: DDP warns where it need not have looked
    failures = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        given = (devices, f"{folder}/meeting", torch.get_num_threads(), failures, work, tuple(args))
        processes = start_processes(_member, given, devices, join=False, start_method="spawn")
        try:
            while not processes.join(timeout=1.0):
                pass
        except ProcessException as error:
            codes = [process.exitcode for process in processes.processes]
            raise DevicesError(_told(error, codes, failures)) from error
        finally:
            for process in processes.processes:
                if process.is_alive():
                    process.kill()
                process.join()


def _told(error: ProcessException, codes: Sequence[int | None], failures: Any) -> str:
    """What failed first: the others fail because it is gone, or are ended by SIGTERM then."""
    devices, (rank, code) = len(codes), (error.error_index, getattr(error, "exit_code", None))
    killed = [(i, sent) for i, sent in enumerate(codes) if sent and sent < 0 and sent != -signal.SIGTERM]
    after = "the others were ended with it. Run it again to go on from the last epoch."
    if killed:
        rank, code = killed[0]
    elif not failures.empty():
        rank, reason = failures.get()
        return f"process {rank + 1} of {devices} failed: {reason.rstrip('.')}; {after}"
    how = "ended" if code is None else f"ended with code {code}"
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        how = f"was killed by {name}" + (" (the system may have wanted memory)" if name == "SIGKILL" else "")
    return f"process {rank + 1} of {devices} {how}; {after}"


def _member(
    rank: int,
    devices: int,
    meeting: str,
    threads: int,
    failures: Any,
    work: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    """One of the processes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pin_threads(threads)
    loopback = next(name for name, there in psutil.net_if_addrs().items() if _is_loopback(there))
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # Fabric starts no processes of its own
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    try:
        if on_gpus := torch.cuda.is_available():
            torch.cuda.set_device(rank)
        backend = "nccl" if on_gpus else "gloo"
        distributed.init_process_group(backend, f"file://{meeting}", rank=rank, world_size=devices)
        work(rank, *args)
        distributed.destroy_process_group()
    except Exception as error:
        failures.put((rank, f"{type(error).__name__}: {error}"))  # before the others notice
        raise


def _is_loopback(addresses: Sequence[Any]) -> bool:
    return any(a.family == socket.AF_INET and a.address.startswith("127.") for a in addresses)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class Share:
    """The draws of one process: of each batch, so many in a row; an `EpochSampler`.

    Args:
        sampler: draws whole batches.
        batch_size: of a whole batch; `devices` divides it.
        rank: which process, from 0.
        devices: how many processes.

    >>> list(Share(range(8), batch_size=4, rank=1, devices=2))
    [2, 3, 6, 7]
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, rank: int, devices: int) -> None:
        if len(sampler) % batch_size or batch_size % devices:
            raise ValueError(
                f"{len(sampler)} draws in batches of {batch_size} cannot be divided over {devices} devices; take as "
                "many as whole batches have, and a multiple of the devices."
            )
        self.sampler, self.rank, self.devices = sampler, rank, devices
        self.own = batch_size // devices

    def __len__(self) -> int:
        return len(self.sampler) // self.devices

    def set_epoch(self, epoch: int) -> None:
        """Draw as in this epoch."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        for place, row in enumerate(self.sampler):
            if place // self.own % self.devices == self.rank:
                yield row


class _Summed(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Summed.forward(None, gradient)


def whole(own: torch.Tensor, rows: slice, n: int) -> torch.Tensor:
    """The rows of all processes; gradients flow back to each as from one device that has them all.

    Each process computes the same from them, and DDP averages over the processes: so the sum that flows back is
    as many times too large as the average makes it smaller.

    Args:
        own: `[k, ...]` of this process.
        rows: which they are of all.
        n: all rows.

    Returns:
        `[n, ...]`, the same in all processes.
    """
    spread = own.new_zeros((n, *own.shape[1:]))
    spread[rows] = own
    return _Summed.apply(spread)


def share_statistics(network: nn.Module, accelerator: str) -> nn.Module:
    """Let batch normalization take its statistics from all processes; names and values of tensors stay.

    Args:
        network: changed in place.
        accelerator: `gpu` or `cpu`.
    """
    if accelerator == "gpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward:
            module.__class__ = type(type(module).__name__, (_Synchronized, type(module)), {})
    return network


class _Synchronized(_BatchNorm):
    """Batch normalization on a CPU whose mean and variance, in training, are of the clips of all processes."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As that of the class."""
        if not self.training:
            return super().forward(input)
        values, axes = input.float(), [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        n = values.numel() // values.shape[1] * distributed.get_world_size()
        mean = _Summed.apply(values.sum(axes)) / n
        away = values - mean.view(shape)
        variance = _Summed.apply(away.square().sum(axes)) / n
        if self.running_mean is not None and self.running_var is not None:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            momentum = self.momentum or 1 / float(self.num_batches_tracked)  # type: ignore[arg-type]
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * n / max(n - 1, 1), momentum)
        scaled = away * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(input.dtype)
