"""A training step, timed as a run computes it; and the fastest way of a GPU, measured once and kept.

On a GPU it depends on the network, the batch and the device which memory format is faster, and whether mixed precision
is. So each way is timed, and the choice is kept in `work/<profile>/compute/`, a file for each device, network and
batch, which is written once and never again: all runs of a network compute alike, in whatever process and whenever.
Whoever needs it first measures it, a notebook's plan or a worker; others wait for the file. On a CPU nothing is
measured or kept: the registry says what is faster (`Backbone.cpu_*`), so that results do not depend on timing.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ctlib.core import Busy, claimed, pinned_threads, read_json, write_json
from ctlib.models import Network, build, spec
from ctlib.training.device import Compute, choose
from ctlib.training.optimizer import FitSettings, optimizer_of
from ctlib.training.run import Run, clip_settings, digest

N_STEPS = 3
"""Steps that are timed, after one that warms up; their median counts."""
LEAST_GAIN = 0.05
"""Another way than the usual one is taken where it saves at least this share: less is noise."""
CYCLES_A_S = 2e9
"""Of a GPU's clock, about: an H100 has 1.98e9 at most (its data sheet). A slower one sleeps longer than it need."""
WAIT_S = 0.5
"""Between two looks whether another process has measured, s."""


@dataclass(frozen=True)
class Step:
    """What decides how long a step takes.

    Args:
        backbone: key of the network.
        code: checksum of the module of a user's own network; empty for ours.
        size: `tiny` or `full`.
        clips: shape of a batch `(N, C, D, H, W)`.
        optimizer: a name in `ctlib.training.optimizer.OPTIMIZERS`.
        precision: what was asked, one of `ctlib.training.device.PRECISIONS`.
    """

    backbone: str
    code: str
    size: str
    clips: tuple[int, int, int, int, int]
    optimizer: str
    precision: str

    @classmethod
    def of(cls, run: Run) -> Step:
        """A step of a run."""
        clips = (run.batch_size, clip_settings(run).n_channels, run.clip_length, run.crop_px, run.crop_px)
        return cls(run.backbone, run.code, run.size, clips, run.optimizer, run.precision)


def ways(step: Step) -> list[Compute]:
    """How a step can compute on this machine, the usual way first; on a CPU that alone.

    Raises:
        ValueError: unknown precision.
    """
    usual = choose(step.precision, spec(step.backbone))
    if usual.accelerator == "cpu":
        return [usual]
    precisions = [usual.precision, *(["32-true"] if step.precision == "auto" else [])]
    formats = (torch.contiguous_format, spec(step.backbone).channels_last)
    return [replace(usual, precision=p, memory_format=f) for p in precisions for f in formats]  # type: ignore[arg-type]


def step_seconds(step: Step, compute: Compute) -> tuple[float, float, float]:
    """Seconds of a training step and of a forward pass of one batch; share of the first in which a GPU computes.

    CPU time on a CPU, where the share is 1; else wall time.

    One thread, as in a worker. Torch's generator is left as it was.

    Raises:
        RuntimeError: the network does not compute such clips, or they do not fit (torch.OutOfMemoryError).
    """
    with pinned_threads(1), torch.random.fork_rng(devices=[]):
        network = Network(build(step.backbone, step.size, step.clips[1]), 1, (0.45,), (0.225,))  # type: ignore[arg-type]
        compute.set_up()
        network = network.to(compute.device)
        compute.prepare(network.backbone)
        # the rate has no part in what a step takes; it may still be to be searched
        settings = FitSettings(1, step.clips[0], 1e-6, 0.0, step.optimizer)
        optimizer = optimizer_of(network.parameters(), settings)
        clips = torch.rand(step.clips, device=compute.device)
        labels = torch.zeros(step.clips[0], device=compute.device)

        def train() -> None:
            with compute.autocast():
                loss = functional.binary_cross_entropy_with_logits(network(clips).squeeze(1), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        def predict() -> None:
            with torch.inference_mode(), compute.autocast():
                network(clips).cpu()

        network.train()
        taken = median_seconds(train, compute)
        busy = _busy(train, taken) if compute.accelerator == "gpu" else 1.0
        network.eval()
        return taken, median_seconds(predict, compute), busy


def _busy(train: Callable[[], Any], taken: float) -> float:
    """Share of a step in which the GPU computes: it sleeps until all of another step is launched, which is timed."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(int(2 * taken * CYCLES_A_S))
    begin.record()
    train()
    end.record()
    torch.cuda.synchronize()
    return min(1.0, begin.elapsed_time(end) / 1e3 / taken)


def median_seconds(function: Callable[[], Any], compute: Compute) -> float:
    """Median seconds of a call, after one that warms up."""
    on_gpu = compute.accelerator == "gpu"
    clock, taken = (time.perf_counter if on_gpu else time.process_time), []
    for _ in range(N_STEPS + 1):
        started = clock()
        function()
        if on_gpu:
            torch.cuda.synchronize()
        taken.append(clock() - started)
    return statistics.median(taken[1:])


def measured(step: Step) -> dict[Compute, float]:
    """Seconds of a training step, each way; one that does not compute or fit is left out.

    Raises:
        RuntimeError: the usual way does not compute or fit.
    """
    found: dict[Compute, float] = {}
    for way in ways(step):
        with contextlib.suppress(RuntimeError) if found else contextlib.nullcontext():
            found[way] = step_seconds(step, way)[0]
        if way.accelerator == "gpu":
            torch.cuda.empty_cache()
    return found


def fastest(seconds: Mapping[Compute, float]) -> Compute:
    """The way that is taken: the first, unless another is faster by `LEAST_GAIN`.

    >>> plain, mixed = Compute("gpu", "32-true"), Compute("gpu", "bf16-mixed")
    >>> fastest({mixed: 1.0, plain: 0.97}) == mixed, fastest({mixed: 1.0, plain: 0.9}) == plain
    (True, True)
    """
    usual, best = next(iter(seconds)), min(seconds, key=lambda way: seconds[way])
    return best if seconds[best] <= (1 - LEAST_GAIN) * seconds[usual] else usual


def compute_of(root: Path, step: Step, measuring: bool = True) -> Compute:
    """How a step computes on this machine, of all processes that share a work folder the same.

    Args:
        root: the work folder.
        step: of the runs.
        measuring: False measures nothing: what is not kept yet is the usual way, and is not kept.

    Raises:
        ValueError: unknown precision.
        RuntimeError: see `measured`.
    """
    usual, *others = ways(step)
    if not others:
        return usual
    device = torch.cuda.get_device_name()
    folder = root / "compute" / digest(asdict(step) | {"device": device})
    path = folder / "choice.json"
    while measuring and not path.is_file():
        with contextlib.suppress(Busy), claimed(folder, path.is_file) as claim:
            if claim is not None:
                seconds = measured(step)
                claim.require()
                write_json(path, _record(step, device, seconds))
                break
        time.sleep(WAIT_S)
    if not path.is_file():
        return usual
    kept = read_json(path)
    return next(way for way in (usual, *others) if str(way) == kept["compute"])


def _record(step: Step, device: str, seconds: Mapping[Compute, float]) -> dict[str, Any]:
    told = {str(way): taken for way, taken in seconds.items()}
    return {"device": device, "step": asdict(step), "compute": str(fastest(seconds)), "seconds": told}
