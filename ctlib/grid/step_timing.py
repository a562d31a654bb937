"""What a step of a run takes here, in time and memory: measured in seconds, before hours are paid for.

A few steps of each network (forward, backward, optimizer; and forward only) run at the size, clip and batch
of the profile, through `ctlib.training.device` as in a run, with one thread as in a worker. On a CPU the clock is
the process's own CPU time, which other processes do not change; on a GPU it is the wall's, and a process of its
own measures, so that a notebook's kernel keeps no memory of the GPU on which workers are to train.

A network whose step is too long or too large for that is not measured. Its time then is that of a GPU by what it
computes, reads and writes (`ctlib.grid.roofline`). Such figures are assumptions and say so.

What was measured is kept in `calibration.json`, by device, torch's version and settings.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctlib.core import pinned_threads, read_json, write_json
from ctlib.datasets import cut
from ctlib.grid.roofline import ASSUMED, GPUS, PASSES, Gpu
from ctlib.models import Cost, GpuWork, gpu_work, network_cost, spec
from ctlib.training import (
    Compute,
    Run,
    Step,
    choose,
    clip_settings,
    compute_of,
    digest,
    median_seconds,
    step_seconds,
)

SETTINGS = (
    *("backbone", "code", "size", "matrix_px", "clip_length", "crop_px", "rotation_deg", "channels"),
    *("batch_size", "optimizer", "precision"),
)
"""Fields of a run that decide what a step takes."""
kind = attrgetter(*SETTINGS)
"""The values of these fields of a run, a tuple."""

CUT_S_A_VOXEL = 0.12e-3 / (16 * 48 * 48)
"""To read and cut a voxel of a training clip where that was not measured, s (`ctlib.datasets.clips`, CPU time)."""
BYTES_A_PARAMETER = 16
"""Weight, gradient and Adam's two moments, fp32."""

MOST_S = 1.0
"""A step that would take longer than this on a CPU is not measured, s."""
MOST_MEMORY = 0.5
"""Nor is one that would fill more than this share of the memory."""
CPU_MULTIPLY_ADDS = 15e9
"""Of one core, a second: only to tell, before the first step, whether it would be too long."""


class CalibrationError(RuntimeError):
    """A network does not compute a step of this profile: one sentence that says which, and why."""


@dataclass(frozen=True)
class Timing:
    """What a step takes.

    Args:
        train_s: of a batch: forward, backward, step of the optimizer, s.
        predict_s: of a batch, forward, s.
        cut_train_s: of a clip, to cut and augment it, s of one CPU core.
        cut_s: of a clip, to cut it, s of one CPU core.
        peak_mb: most memory, million bytes: of the process on a CPU, libraries included; else of the GPU.
        parameters: of the network, without the head.
        multiply_adds: of the forward pass of a clip.
        is_measured: False where time and memory are assumptions.
        device: what it holds for.
        busy: share of a training step in which a GPU computes; 1 on a CPU, or where it was not measured.
    """

    train_s: float
    predict_s: float
    cut_train_s: float
    cut_s: float
    peak_mb: float
    parameters: int
    multiply_adds: int
    is_measured: bool
    device: str
    busy: float = 1.0


def calibrate(
    runs: Iterable[Run],
    path: Path,
    measuring: bool = True,
    gpu: Gpu = ASSUMED,
    tell: Callable[[str], Any] = lambda line: None,
) -> dict[tuple[Any, ...], Timing]:
    """What a step of each kind of run takes; what was measured before is not measured again.

    Args:
        runs: of any number; each `kind` is looked at once.
        path: `calibration.json`, read and written.
        measuring: False measures nothing: what was not measured before is assumed.
        gpu: of which the times are, where nothing is measured.
        tell: takes one line a network that is measured.

    Returns:
        By `kind`.

    Raises:
        CalibrationError: a network does not compute these clips, or they do not fit into memory.
    """
    kinds = {kind(run): run for run in runs}
    computes = {values: choose(run.precision, spec(run.backbone)) for values, run in kinds.items()}
    with _apart(any(compute.accelerator == "gpu" for compute in computes.values())) as apart:
        book = _Book(path, apart)
        found = {
            values: book.measured(run, computes[values], tell if measuring else None)
            or assume(run, book.on_gpu(run), book.work(run), gpu)
            for values, run in kinds.items()
        }
    book.write()
    return found


def on_gpus(runs: Iterable[Run], path: Path) -> dict[str, dict[tuple[Any, ...], Timing]]:
    """What a step of each kind of run would take on each of `GPUS`, whatever was measured here; by name.

    Args:
        runs: see `calibrate`.
        path: see `calibrate`.

    Raises:
        CalibrationError: see `calibrate`.
    """
    kinds, book = {kind(run): run for run in runs}, _Book(path, lambda function, *given: function(*given))
    found = {
        name: {values: assume(run, book.on_gpu(run), book.work(run), gpu) for values, run in kinds.items()}
        for name, gpu in GPUS.items()
    }
    book.write()
    return found


Apart = Callable[..., Any]
"""Calls a function with arguments, in a process of its own or here."""


@contextlib.contextmanager
def _apart(is_needed: bool) -> Iterator[Apart]:
    """Where a GPU is asked and measured: the memory that CUDA takes goes with the process."""
    if not is_needed:
        yield lambda function, *arguments: function(*arguments)
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


class _Book:
    """What was counted and measured, by settings; `calibration.json`.

    Args:
        path: of the file.
        apart: asks a GPU.
    """

    def __init__(self, path: Path, apart: Apart) -> None:
        self.path, self.apart = path, apart
        self.known: dict[str, dict[str, Any]] = {"costs": {}, "timings": {}, "gpu_work": {}}
        if path.is_file():
            self.known |= read_json(path)
        self.before = digest(self.known)
        self.counted: dict[tuple[Any, ...], Any] = {}  # batch and optimizer do not change what a clip costs

    def _counted(self, what: str, run: Run, count: Callable[[Run], Any]) -> Any:
        key, shape = digest(_settings(run)), (what, run.backbone, run.code, run.size, clip_shape(run))
        if key not in self.known[what]:
            if shape not in self.counted:
                self.counted[shape] = count(run)
            self.known[what][key] = self.counted[shape]
        return self.known[what][key]

    def cost(self, run: Run) -> Cost:
        """Of the network of a run, in fp32."""
        return Cost(**self._counted("costs", run, lambda run: asdict(_cost_of(run))))

    def work(self, run: Run) -> GpuWork:
        """Of a GPU, in bf16."""
        return GpuWork(**self._counted("gpu_work", run, lambda run: asdict(_work_of(run))))

    def on_gpu(self, run: Run) -> Cost:
        """As `cost`, with the memory that bf16 keeps on a GPU."""
        return replace(self.cost(run), saved_mb=self.work(run).saved_mb)

    def measured(self, run: Run, compute: Compute, tell: Callable[[str], Any] | None) -> Timing | None:
        """What a step takes here: known, or measured now if somebody is told; None where it is neither."""
        on_gpu = compute.accelerator == "gpu"
        apart: Apart = self.apart if on_gpu else lambda function, *arguments: function(*arguments)
        device = apart(device_name, compute)
        costs = self.on_gpu(run) if on_gpu and compute.precision != "32-true" else self.cost(run)
        measuring = tell is not None and apart(is_measurable, costs, run.batch_size, compute)
        with _named(run):
            compute = apart(compute_of, self.path.parent, Step.of(run), measuring)
        here = digest(_settings(run) | {"device": device} | ({"compute": str(compute)} if on_gpu else {}))
        if here not in self.known["timings"] and tell is not None and measuring:
            tell(f"{run.backbone}: measured on {device}")
            self.known["timings"][here] = asdict(apart(measure, run, costs, compute))
        timing = self.known["timings"].get(here)
        return Timing(**timing) if timing else None

    def write(self) -> None:
        """Keep what is new."""
        if digest(self.known) != self.before:
            write_json(self.path, self.known)


def _settings(run: Run) -> dict[str, Any]:
    return dict(zip(SETTINGS, kind(run), strict=True)) | {"torch": torch.__version__}


def clip_shape(run: Run) -> tuple[int, int, int, int]:
    """Shape of a clip, C first."""
    return clip_settings(run).n_channels, run.clip_length, run.crop_px, run.crop_px


def _cost_of(run: Run) -> Cost:
    channels, *clip = clip_shape(run)
    with _named(run):
        return network_cost(run.backbone, run.size, tuple(clip), channels)  # type: ignore[arg-type]


def _work_of(run: Run) -> GpuWork:
    channels, *clip = clip_shape(run)
    with _named(run):
        return gpu_work(run.backbone, run.size, tuple(clip), channels)  # type: ignore[arg-type]


@contextlib.contextmanager
def _named(run: Run) -> Iterator[None]:
    """A network that does not compute is named."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        clips = f"{run.batch_size} clips {list(clip_shape(run))}"
        raise CalibrationError(
            f"{run.backbone} ({run.size}) does not compute {clips}: {str(error).splitlines()[0]}; change "
            "crop_px, clip_length or batch_size, or leave the network out."
        ) from error


def device_name(compute: Compute) -> str:
    """What the device is called."""
    if compute.accelerator == "gpu":
        return torch.cuda.get_device_name(0)
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return f"CPU, one core of {named[1].strip() if named else platform.processor() or platform.machine()}"


def memory_mb() -> float:
    """Memory of this machine, million bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def is_measurable(costs: Cost, batch_size: int, compute: Compute) -> bool:
    """Whether a step is short and small enough to be measured here; on a CPU, as if it were in fp32."""
    needed = costs.saved_mb * 1e6 * batch_size + BYTES_A_PARAMETER * costs.parameters
    if compute.accelerator == "gpu":
        return needed < torch.cuda.mem_get_info()[0]
    seconds = PASSES * costs.multiply_adds * batch_size / CPU_MULTIPLY_ADDS
    return needed < MOST_MEMORY * 1e6 * memory_mb() and seconds < MOST_S


def assume(run: Run, costs: Cost, work: GpuWork, gpu: Gpu = ASSUMED) -> Timing:
    """What a step would take on a GPU, in mixed precision.

    Args:
        run: of the kind.
        costs: of its network, with the memory that bf16 keeps.
        work: of a forward pass.
        gpu: the GPU.
    """
    cutting = CUT_S_A_VOXEL * float(np.prod(clip_shape(run)))
    memory = costs.saved_mb * run.batch_size + BYTES_A_PARAMETER * costs.parameters / 1e6
    network = (costs.parameters, costs.multiply_adds)
    taken = gpu.step_s(work, run.batch_size)
    return Timing(*taken, cutting, cutting, memory, *network, False, f"GPU, assumed: {gpu.name}")


def measure(run: Run, costs: Cost, compute: Compute) -> Timing:
    """What a step takes on this device.

    Args:
        run: of the kind.
        costs: of its network.
        compute: how runs of the kind compute.

    Raises:
        CalibrationError: it does not compute.
    """
    with _named(run), pinned_threads(1):
        _reset_peak(compute)
        train_s, predict_s, busy = step_seconds(Step.of(run), compute)
        peak_mb = _peak_mb(compute)
        cutting = _cutting(run)
    if peak_mb is None:  # the system does not tell the peak of a part of a process's life
        peak_mb = costs.saved_mb * run.batch_size + BYTES_A_PARAMETER * costs.parameters / 1e6
    network = (costs.parameters, costs.multiply_adds)
    return Timing(train_s, predict_s, *cutting, peak_mb, *network, True, device_name(compute), busy)


def _cutting(run: Run) -> tuple[float, float]:
    """Seconds of CPU time to cut a clip out of a volume: for training, for evaluation."""
    rng, settings = np.random.default_rng(0), clip_settings(run)
    hu = rng.integers(-1000, 400, (run.clip_length, run.matrix_px, run.matrix_px)).astype(np.int16)
    here = Compute("cpu", "32-true")
    train_s = median_seconds(lambda: cut(hu, 0, run.clip_length, settings, rng), here)
    return train_s, median_seconds(lambda: cut(hu, 0, run.clip_length, settings), here)


def _reset_peak(compute: Compute) -> None:
    """Begin to watch the most memory that is used."""
    gc.collect()
    if compute.accelerator == "gpu":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        with contextlib.suppress(OSError):  # a container may forbid it; then the peak is of the whole life
            Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM (proc(5))


def _peak_mb(compute: Compute) -> float | None:
    """Most memory since then, million bytes; None where the system does not tell."""
    if compute.accelerator == "gpu":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    told = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(told[1]) * 1024 / 1e6 if told else None
