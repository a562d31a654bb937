"""What a step takes on a GPU that is not here: its arithmetic, its memory traffic, and what a CPU takes to launch it.

A step is three times the forward pass (`ctlib.models.gpu_work`): the backward pass takes two products for each of the
forward, and reads and writes as much again. What arithmetic limits runs at a share of the GPU's peak, all else at a
share of its bandwidth; a step is no shorter than its launches. Nothing of it was measured. For clips of 32 x 224 x 224
in batches of 8 it gives:

| network | A100, clips a second | H200, clips a second |
|---|--:|--:|
| slow_r50 | 67 | 176 |
| slowfast_r50 | 189 | 382 |
| r2plus1d_r50 | 79 | 199 |
| csn_r101 | 118 | 288 |
| mvit_b | 30 | 74 |
| swin3d_t | 37 | 89 |
| penet_kinetics | 77 | 185 |
| resnet18 | 229 | 635 |
| resnext101 | 24 | 65 |
"""

from __future__ import annotations

from dataclasses import dataclass

from ctlib.models import GpuWork

PASSES = 3
"""Forward passes that a training step costs."""
ARITHMETIC, BANDWIDTH = 0.4, 0.8
"""Shares of the peaks that are reached: assumptions, chosen so that the table comes near an earlier estimate. cuDNN's
3D convolutions in bf16 stay well below the peak, and large element by element kernels near the bandwidth. Depthwise
convolutions (CSN, X3D) may stay below both."""
LAUNCH_S = 10e-6
"""Of a CPU, for each operation of a step, s: an assumption, of torch without a compiler."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Args:
        name: of the product.
        flops: floating point operations a second, dense bf16.
        bytes_s: of its memory, a second.
    """

    name: str
    flops: float
    bytes_s: float

    def forward_s(self, work: GpuWork, clips: int) -> float:
        """Seconds of the forward pass of a batch, launches apart."""
        arithmetic, traffic = (
            work.flops / (ARITHMETIC * self.flops),
            work.n_bytes / (BANDWIDTH * self.bytes_s),
        )
        return clips * (arithmetic + traffic)

    def step_s(self, work: GpuWork, clips: int) -> tuple[float, float]:
        """Seconds of a training step, and of a forward pass, of a batch.

        >>> work = GpuWork(saved_mb=0.0, flops=312e9, n_bytes=2.039e9, kernels=500)
        >>> [round(seconds, 5) for seconds in GPUS["A100"].step_s(work, 8)]  # 2.5 and 1.25 ms a clip
        [0.09, 0.03]
        >>> GPUS["A100"].step_s(work, 1)[1]  # the CPU is the slower
        0.005
        """
        forward, launching = self.forward_s(work, clips), LAUNCH_S * work.kernels
        return PASSES * max(forward, launching), max(forward, launching)


GPUS = {
    gpu.name: gpu
    for gpu in (Gpu("A100", flops=312e12, bytes_s=2.039e12), Gpu("H200", flops=989e12, bytes_s=4.8e12))
}
"""By name: NVIDIA's data sheets of the A100 80GB SXM (312 TFLOP/s, 2,039 GB/s) and of the H200 SXM (1,979 TFLOP/s with
sparsity, so 989 without, and 4.8 TB/s)."""
ASSUMED = GPUS["A100"]
"""Of plans, where nothing was measured and no GPU is named: the slower."""
