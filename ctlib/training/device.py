"""Where and how exactly a network computes: device, precision, memory format. The one place.

On a GPU: bf16 autocast, or fp16 where the GPU has no bf16, unless another way was measured to be faster
(`ctlib.training.step`). On a CPU: what is recorded as faster for the network in `ctlib.models.registry`, and bf16
only where the CPU has instructions for it.
Results are the same, bit for bit, on the same machine with the same number of threads. On a
GPU some kernels have no deterministic form (the gradients of adaptive and 3D pooling, for
instance); torch then warns and the last bits may differ from run to run.

In bf16 on a CPU, the gradient of a 3D kernel is wrong where the clip, at that layer, has fewer slices
than the kernel: torch 2.14.1 (oneDNN) leaves parts of it as they were in memory, which is NaN now and
then, and may write beyond it. Two slices and a kernel of three are enough:

    conv, clip = nn.Conv3d(16, 16, 3, padding=1), torch.rand(2, 16, 2, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        conv(clip).sum().backward()
    conv.weight.grad  # differs from run to run

Seen with a stride of 1 for 2 to k - 1 slices and odd kernels of k, and for 1 slice and kernels of 2; also
for planes with fewer rows than half the kernel's (7 x 7 on 2 rows, 5 x 5 on 1). With a stride of 2, a
kernel of 3 x 3 on a plane of one pixel ends the whole process ("double free", or no word at all). Never in
fp32 or in grouped convolutions. In Conv2d only the last was seen (3 x 3 and 7 x 7 with a stride of 2 on one pixel: a
gradient of NaN), of planes of 1 to 7 pixels. R3D-18, S3D and PENet meet it in clips of 16 slices, ResNet-18 in planes
of 14 pixels. `Compute.prepare` lets each layer whose input is smaller than its kernel, along any axis, compute in fp32
(Conv2d: whose plane has one row or column): they are the smallest of a network, so that costs next to nothing, and no
list of what is safe is needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ctlib.core import GPU_SHARE, GpuError, listed_gpus
from ctlib.models import Backbone

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.plugins import Precision

PRECISIONS = ("auto", "fp32", "bf16")
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Where and how a network computes.

    Args:
        accelerator: `gpu` or `cpu`.
        precision: in Lightning's words: `32-true`, `bf16-mixed` or `16-mixed`.
        memory_format: of the network's convolutions.
        devices: of one fit, a process each (`ctlib.training.multi_device.together`).
    """

    accelerator: Literal["gpu", "cpu"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    memory_format: torch.memory_format = torch.contiguous_format
    devices: int = 1

    @property
    def device(self) -> torch.device:
        """The device of tensors."""
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    def set_up(self) -> None:
        """Choose kernels.

        On a GPU all kernels of this process are from now on those that are deterministic, where there are such, and
        fp32 is fp32 (by default cuDNN convolves in TF32); on a CPU all that are used here are so as they are.
        """
        if self.accelerator == "gpu":
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.benchmark = False
            # else each fresh tensor is filled with NaN first, up to hundreds of kernels a step
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # docs.nvidia.com/cuda/cublas, reproducibility
            if share := float(os.environ.get(GPU_SHARE) or 0):  # others compute on this GPU, too
                torch.cuda.set_per_process_memory_fraction(share)

    def fabric(self) -> Fabric:
        """Lightning Fabric for this device and precision, after `set_up`."""
        from lightning.fabric import Fabric  # takes seconds, which only a fit is worth
        from lightning.fabric.plugins.environments import LightningEnvironment

        self.set_up()
        # else a SLURM job's environment would be asked how many processes there are
        plugins: list[Any] = [_plugin(self.precision, self.device.type), LightningEnvironment()]
        with _quiet():
            fabric = Fabric(
                accelerator=self.accelerator, devices=self.devices, plugins=plugins, **_shared(self.devices)
            )
            fabric.launch()
        return fabric

    def autocast(self) -> AbstractContextManager[Any]:
        """The same precision without Fabric."""
        if self.precision not in _DTYPES:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def prepare(self, backbone: nn.Module) -> nn.Module:
        """Bring a backbone into its memory format, and make its gradients right; in place.

        Its tensors keep their names and values. Where it computes in bf16 on a CPU, each convolution computes
        in fp32 when it sees a clip too small for its kernel (see above).
        """
        if self.accelerator == "cpu" and self.precision == "bf16-mixed":
            for module in backbone.modules():
                # a class with a forward of its own knows what it does
                if type(module).forward in (nn.Conv2d.forward, nn.Conv3d.forward):
                    module.__class__ = _small_in_fp32(type(module))  # type: ignore[arg-type]
        return backbone.to(memory_format=self.memory_format)

    def __str__(self) -> str:
        layout = "" if self.memory_format is torch.contiguous_format else ", channels last"
        many = "" if self.devices == 1 else f", {self.devices} devices"
        return f"{self.accelerator}, {self.precision}{layout}{many}"


class _SmallInFp32:
    """A convolution that leaves autocast where a clip is too small for its kernel (see above)."""

    kernel_size: tuple[int, ...]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As that of the class; the result of a small clip is fp32."""
        most = 1 if len(self.kernel_size) == 2 else max(self.kernel_size)
        is_small = any(n < k and n <= most for n, k in zip(input.shape[2:], self.kernel_size, strict=True))
        if not is_small or input.device.type != "cpu":
            return super().forward(input)  # type: ignore[misc]
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())  # type: ignore[misc]


@cache
def _small_in_fp32(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of convolutions that differs from `kind` in that alone."""
    return type(kind.__name__, (_SmallInFp32, kind), {})


def choose(asked: str, backbone: Backbone) -> Compute:
    """Where and how the network of a key usually computes on this machine; `ctlib.training.step` times other ways.

    Args:
        asked: `auto`, the fastest of sufficient precision; `fp32`; or `bf16` (autocast), even
            where the CPU has no instructions for it and is slower so.
        backbone: record of the network.

    Raises:
        ValueError: unknown precision.
        GpuError: CUDA_VISIBLE_DEVICES names a GPU that torch cannot use: it would compute on the CPU, unnoticed.
    """
    if asked not in PRECISIONS:
        raise ValueError(f"precision is {asked!r}; known are {', '.join(PRECISIONS)}.")
    if (names := listed_gpus()) and not torch.cuda.is_available():
        raise GpuError(
            f"CUDA_VISIBLE_DEVICES is {','.join(names)}, and torch can use no such GPU. `nvidia-smi -L` lists the GPUs "
            "and `ctlib gpu-check` looks at them; CUDA_VISIBLE_DEVICES='' computes without."
        )
    if torch.cuda.is_available():
        if asked == "fp32":
            return Compute("gpu", "32-true")
        bf16 = asked == "bf16" or torch.cuda.is_bf16_supported(including_emulation=False)
        return Compute("gpu", "bf16-mixed" if bf16 else "16-mixed")
    layout = backbone.channels_last if backbone.cpu_channels_last else torch.contiguous_format
    faster = backbone.cpu_precision == "bf16" and cpu_has_bf16()
    bf16 = asked == "bf16" or (asked == "auto" and faster)
    return Compute("cpu", "bf16-mixed" if bf16 else "32-true", layout)


@contextlib.contextmanager
def watching_gpu() -> Iterator[None]:
    """Say so where something failed because the GPU of this process does not answer any more.

    Raises:
        GpuError: in place of what was raised, which says little then: the GPU was lost, or CUDA refuses everything in
            this process after an error of a kernel.
    """
    try:
        yield
    except Exception as error:
        if not torch.cuda.is_initialized():
            raise
        try:
            torch.cuda.synchronize()
        except Exception as told:
            name = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
            lines = str(told).strip().splitlines() or [type(told).__name__]
            raise GpuError(f"GPU {name} does not answer any more: {lines[0].rstrip('.')}.") from error
        raise


def cpu_has_bf16() -> bool:
    """Whether this CPU has instructions for bf16; without them autocast only costs time."""
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _plugin(precision: str, device: str) -> Precision:
    """How Fabric computes in a precision.

    A weight that a network uses for each slice in turn (LRCN) is cast anew each time: so its gradients are
    summed in fp32, where those of a weight that is cast once would be summed in bf16.
    """
    from lightning.fabric.plugins import MixedPrecision, Precision

    class Autocast(MixedPrecision):
        def forward_context(self) -> AbstractContextManager[Any]:
            return torch.autocast(device, dtype=_DTYPES[precision], cache_enabled=False)

    return Autocast(precision, device) if precision in _DTYPES else Precision()  # type: ignore[arg-type]


def _shared(devices: int) -> dict[str, Any]:
    """What Fabric needs to know where several processes were started for one fit.

    Some networks have parameters that a clip does not use, and batch norm's statistics are the same in all.
    """
    from lightning.fabric.strategies import DDPStrategy

    ddp = DDPStrategy(find_unused_parameters=True)
    return {"strategy": ddp} if devices > 1 else {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No advice of Lightning's; warnings that may hint at a fault stay."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
