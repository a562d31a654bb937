"""The most memory that a run takes: of the machine, its readers included, and of the GPU."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from ctlib.training.device import Compute

if TYPE_CHECKING:
    from ctlib.training.loop import Metric


class PeakMemory:
    """Watches from now on; on a GPU, of this process alone.

    Args:
        compute: where the run computes.
    """

    def __init__(self, compute: Compute) -> None:
        self.on_gpu, self.readers_mb = compute.accelerator == "gpu", 0.0
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def watched(self, metric: Metric) -> Metric:
        """A metric that looks, as an epoch ends, at what the processes that read clips hold."""

        def asked(logits: NDArray[np.float32]) -> float:
            self.readers_mb = max(self.readers_mb, children_mb())
            return metric(logits)

        return asked

    def peaks(self) -> dict[str, float | None]:
        """`peak_memory_mb`, of this process so far (a worker's: of all its runs) and its readers; `peak_gpu_mb`."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        own_mb = peak / (2**20 if sys.platform == "darwin" else 2**10)
        gpu_mb = torch.cuda.max_memory_allocated() / 2**20 if self.on_gpu else None
        return {"peak_memory_mb": own_mb + self.readers_mb, "peak_gpu_mb": gpu_mb}


def children_mb() -> float:
    """Memory that the processes which this one started have for themselves, MB: not what they share with it."""
    held = 0
    for child in psutil.Process().children(recursive=True):
        try:
            held += child.memory_full_info().uss
        except psutil.Error:  # it has just ended
            continue
    return held / 2**20
