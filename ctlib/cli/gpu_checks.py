"""What `ctlib gpu-check` looks at: eleven checks, each a generator of what it sees.

They call what runs call (`ctlib.training`, `ctlib.grid`, `ctlib.models`), on the device that a run would have; without
a GPU, on the CPU. The data are noise, with some HU added where there is disease. `ctlib.cli.gpu_check` lets them
run, in processes that are not its own.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from ctlib.cli.gpu_check import Finding, Site
from ctlib.core import Workspace, read_json, tables
from ctlib.datasets import SAMPLERS, ClipDataset, Store, clip_table
from ctlib.grid import calibrate, visible_gpus
from ctlib.io import Volume
from ctlib.models import BACKBONES, Network, build, spec
from ctlib.training import (
    Compute,
    FitSettings,
    Run,
    Step,
    choose,
    clip_settings,
    clips_of_run,
    compute_of,
    ending,
    execute,
    fingerprint,
    loader,
    loop,
    optimizer_of,
    set_epoch,
    step_seconds,
    store_of,
    study_auroc,
    trained,
)

CUDNN = (9, 15)
"""Of cuDNN 9.8 to 9.14, 3D convolutions in bf16 leave the fast kernels (release notes of PyTorch 2.9.1)."""
LOADER_WORKERS, BATCH, AHEAD = 6, 8, 2
"""Of the profiles with full-size networks; and batches that each reader has ready."""
FULL = (
    *("slow_r50", "slowfast_r50", "r2plus1d_r50", "csn_r101"),
    *("mvit_b", "swin3d_t", "penet_kinetics", "resnext101"),
)
"""The networks of those profiles, and the largest of the 2D ones."""
BATCHES = {"swin3d_t": 3}
"""Clips a step, where they are not `BATCH`."""
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L40S": 362e12, "A10": 125e12, "V100": 125e12}
"""Dense 16-bit peaks of NVIDIA's data sheets; of other GPUs no share of the peak is told."""
SLURM = ("NTASKS", "CPUS_PER_TASK", "GPUS_ON_NODE")
"""Numbers of a job; its names are not told."""
PLANTED_HU = 60
"""Added to slices with disease."""

Seeing = Iterator[Finding]


# ---- 1: what is here ----------------------------------------------------------------------------


def machine(site: Site) -> Seeing:
    """1: versions, GPU, and what would be in the way of a run."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        here = torch.cuda.is_available()
    yield Finding("accelerator", "gpu" if here else "cpu")
    yield Finding("Python, torch", f"{platform.python_version()}, {torch.__version__}")
    yield Finding("system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    counted: int = torch.cuda.device_count()
    try:
        named: Any = len(visible_gpus())
    except ValueError as error:
        named = error
    listed = "CUDA_VISIBLE_DEVICES" in os.environ
    why = f" ({told[0].message})" if told else ""
    value = f"{counted} and {named}{', CUDA_VISIBLE_DEVICES is set' if listed else ''}{why}"
    yield Finding("GPUs that torch and ctlib count", value, "the same number", counted == named)
    if here:
        yield from _gpu()
    yield from _shared_memory(here)
    asked = [name for name in SLURM if f"SLURM_{name}" in os.environ]
    if asked:
        yield Finding("SLURM", ", ".join(f"{name} {os.environ[f'SLURM_{name}']}" for name in asked))


def _gpu() -> Seeing:
    found = torch.cuda.get_device_properties(0)
    yield Finding("GPU", f"{found.name}, {found.total_memory / 1e9:.1f} GB, sm_{found.major}{found.minor}")
    asked = "--query-gpu=driver_version,compute_mode,mig.mode.current"
    driver, mode, mig = _nvidia_smi(asked) or ("unknown",) * 3
    version = torch.backends.cudnn.version() or 0
    cudnn = (version // 10_000, version // 100 % 100)
    yield Finding("driver, CUDA", f"{driver}, {torch.version.cuda}")
    yield Finding("cuDNN", ".".join(map(str, cudnn)), f"{CUDNN[0]}.{CUDNN[1]} or newer", cudnn >= CUDNN)
    yield Finding("MIG", mig)
    alone = mode in ("Default", "unknown") or not _nvidia_smi("--query-compute-apps=pid")
    yield Finding("compute mode", mode, "Default, or no other process holds the GPU", alone)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    yield Finding("bf16", "yes" if bf16 else "no: fp16 is used")


def _nvidia_smi(query: str) -> list[str]:
    """The first line that nvidia-smi answers, in parts; empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    asked = [tool, query, "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
    lines = done.stdout.strip().splitlines() if not done.returncode else []
    return [part.strip() for part in lines[0].split(",")] if lines else []


def _shared_memory(on_gpu: bool) -> Seeing:
    """Readers hand batches over in /dev/shm; containers often have 64 MB of it."""
    workers, voxels = (LOADER_WORKERS, 32 * 224**2) if on_gpu else (0, 16 * 48**2)
    needed = 2 * (workers * AHEAD + 2) * BATCH * voxels * 4 / 1e9
    folder = Path("/dev/shm")
    if folder.is_dir():
        free = shutil.disk_usage(folder).free / 1e9
        limit = f"{needed:.2g} for {workers} readers"
        yield Finding("/dev/shm, GB free", round(free, 2), limit, free >= needed)


# ---- 2 and 3: the same numbers ------------------------------------------------------------------


@dataclass(frozen=True)
class Computed:
    """What one pass forward and back gave, on the CPU in fp32.

    Args:
        features: `[N, F]`.
        gradients: of all parameters, one after the other.
        dtypes: of logits and loss.
    """

    features: torch.Tensor
    gradients: torch.Tensor
    dtypes: tuple[torch.dtype, torch.dtype]


class Trained:
    """A network that is trained as a fit does it: the same device, precision, loss and optimizer.

    Args:
        key: of the network.
        compute: where and how.
        size: `tiny` or `full`.
    """

    def __init__(self, key: str, compute: Compute, size: Any = "tiny") -> None:
        torch.manual_seed(0)  # on the CPU: the same weights for every device
        self.network = Network(build(key, size, 1), 1, (0.45,), (0.225,))
        compute.prepare(self.network.backbone)
        self.fabric = compute.fabric()
        self.network.to(self.fabric.device)
        settings = FitSettings(1, 1, 1e-6, 0.0)
        self.optimizer: Any = self.fabric.setup_optimizers(optimizer_of(self.network.parameters(), settings))

    def pass_through(self, clips: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and loss; gradients stay in the network."""
        clips, labels = self.fabric.to_device((clips, labels))
        with self.fabric.autocast():
            logits = self.network(clips)
            loss = loop.LOSSES["bce"](logits, labels)
        self.fabric.backward(loss)
        return logits, loss

    def step(self, clips: torch.Tensor, labels: torch.Tensor) -> None:
        """A step of training; of a GPU, until it is done."""
        self.pass_through(clips, labels)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()


def computed(key: str, compute: Compute) -> Computed:
    """Two clips through a tiny network, forward and back; statistics of batch norm are not of the clips."""
    one = Trained(key, compute)
    one.network.eval()
    features: list[torch.Tensor] = []
    one.network.backbone.register_forward_hook(lambda module, given, out: features.append(out.detach()))
    clips = torch.rand(2, 1, 16, 48, 48, generator=torch.Generator().manual_seed(1))
    logits, loss = one.pass_through(clips, torch.ones(2))  # of two labels, gradients would cancel out
    known = [p.grad for p in one.network.parameters() if p.grad is not None]
    gradients = [gradient.detach().flatten().float().cpu() for gradient in known]
    return Computed(features[0].float().cpu(), torch.cat(gradients), (logits.dtype, loss.dtype))


def _here() -> list[str]:
    """Networks whose packages are here: such a machine may lack MONAI and transformers."""
    found: list[str] = []
    for key in BACKBONES:
        with contextlib.suppress(ImportError):
            found += [key] * (build(key, "tiny") is not None)
    return found


def same_numbers(site: Site) -> Seeing:
    """2: fp32 here against fp32 on the CPU, channels in order."""
    errors = {}
    for key in _here():
        here, there = computed(key, choose("fp32", spec(key))), computed(key, Compute("cpu", "32-true"))
        errors[key] = max(
            float((a - b).abs().max() / b.abs().max())
            for a, b in ((here.features, there.features), (here.gradients, there.gradients))
        )
    yield _worst("error against the CPU, of the largest", errors, "below 1e-3", lambda x: x < 1e-3, max)


def low_precision(site: Site) -> Seeing:
    """3: bf16 (fp16 where there is none) against fp32, both here."""
    cosines, other = {}, []
    for key in _here():
        low, full = (computed(key, choose(precision, spec(key))) for precision in ("bf16", "fp32"))
        pairs = ((low.features.flatten(), full.features.flatten()), (low.gradients, full.gradients))
        cosines[key] = min(float(functional.cosine_similarity(a, b, dim=0)) for a, b in pairs)
        other += [key] * (low.dtypes != (torch.float32,) * 2)
    yield _worst("cosine with fp32", cosines, "above 0.98", lambda cosine: cosine > 0.98, min)
    yield Finding("logits and loss not in fp32", ", ".join(other) or "none", "none", not other)


def _worst(
    what: str, values: dict[str, float], limit: str, good: Callable[[float], bool], pick: Any
) -> Finding:
    """One line of all networks; the worst, and those that fail, by name. What is not finite fails."""
    failing = [key for key, value in values.items() if not good(value)]
    endless = [key for key, value in values.items() if not np.isfinite(value)]
    worst = endless[0] if endless else pick(values, key=values.__getitem__)
    names = ", ".join(failing) or f"{worst}, the worst of {len(values)}"
    return Finding(what, f"{values[worst]:.3g} ({names})", limit, not failing, values)


# ---- 4 and 5: fits ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A cohort of noise in a workspace, where disease is some HU more.

    Args:
        root: of the workspace.
        matrix_px: of its volumes.
        length: slices of a clip; a volume has two.
    """

    root: Path
    matrix_px: int
    length: int

    @property
    def workspace(self) -> Workspace:
        """Where it lies."""
        return Workspace(self.root)

    def run(self, **given: Any) -> Run:
        """A run on it; writes the cohort where it is not there."""
        if not self.workspace.table("splits", "lidc").is_file():
            self._write()
        settings: dict[str, Any] = {
            **{"task": "lidc_nodule", "backbone": "slow_r50", "init": "random", "fraction": 1.0, "seed": 0},
            **{"lr": 1e-3, "size": "tiny", "matrix_px": self.matrix_px, "clip_length": self.length},
            **{"crop_px": self.matrix_px - 4, "rotation_deg": 0.0, "epochs": 2, "steps_per_epoch": 20},
            **{"batch_size": BATCH, "weight_decay": 1e-6, "optimizer": "adam", "schedule": "constant"},
            **{"patience": 0, "precision": "auto", "study_label": "exam", "weights": ""},
        }
        return Run(**settings | {"data": fingerprint(self.workspace, "lidc")} | given)

    def clips(self, run: Run, split: str) -> ClipDataset:
        """The clips of a split."""
        rows = clips_of_run(self.workspace, run)
        rows = rows[rows["split"] == split].reset_index(drop=True)
        return ClipDataset(
            store_of(self.workspace, run), rows, clip_settings(run), split == "train", run.seed
        )

    def _write(self) -> None:
        rng, series, slices = np.random.default_rng(0), [], []
        store, n = Store(self.workspace.store("lidc"), self.matrix_px), 2 * self.length
        for i in range(20):
            uid, ill = f"noise.{i}", i // 5 % 2
            hu = rng.integers(-900, -100, (n, self.matrix_px, self.matrix_px)).astype(np.int16)
            hu[: self.length] += PLANTED_HU * ill
            store.put(Volume(hu, (2.0, 1.0, 1.0), uid, (0.0, 0.0, 0.0)))
            row: dict[str, Any] = {
                "cohort": "lidc",
                "patient_id": f"p{i:02d}",
                "study_uid": f"s{i:02d}",
                "series_uid": uid,
            }
            row |= {"n_files": n, "n_slices": n, "rows_px": self.matrix_px, "cols_px": self.matrix_px}
            row |= {"spacing_z_mm": 2.0, "spacing_y_mm": 1.0, "spacing_x_mm": 1.0, "thickness_mm": 2.0}
            series.append(row | {"kernel": None, "manufacturer": None, "label": ill})
            labels = [ill] * self.length + [0] * self.length
            slices.append(pd.DataFrame({"series_uid": uid, "slice": range(n), "z_mm": 0.0, "label": labels}))
        made = {
            "series": tables.check(pd.DataFrame(series), "series"),
            "clips": clip_table(tables.check(pd.concat(slices), "slices"), self.length, min_positive=2),
            "splits": pd.DataFrame(
                [(f"p{i:02d}", {0: "val", 1: "test"}.get(i % 5, "train")) for i in range(20)],
                columns=["patient_id", "split"],
            ),
        }
        for name, frame in made.items():
            tables.write(frame, name, self.workspace.table(name, "lidc"))


EPOCH = 50
"""Steps of an epoch of the fits below."""


def small(site: Site) -> Planted:
    """Clips for tiny networks."""
    return Planted(site.folder / "small", 36, 8)


def fitted(site: Site, name: str, compute: Compute, metric: loop.Metric | None = None) -> loop.FitResult:
    """A fit of a tiny network over three epochs.

    Args:
        site: where.
        name: of its folder; a fit that was interrupted there goes on.
        compute: where and how.
        metric: of the validation clips; their AUROC where none is given.
    """
    planted = small(site)
    run = planted.run()
    train, val = (planted.clips(run, split) for split in ("train", "val"))
    torch.manual_seed(0)
    network = Network(build(run.backbone, "tiny", 1), 1, (0.45,), (0.225,))
    sampler = SAMPLERS["balanced"](train.table["label"].tolist(), EPOCH * BATCH, 0)
    settings = FitSettings(3, BATCH, 1.2e-4, 1e-6, schedule="constant", patience=0)
    metric = metric or study_auroc(val.table)
    return loop.fit(network, train, sampler, val, metric, settings, compute, site.folder / name, 0)


@cache
def uninterrupted(site: Site, precision: str) -> loop.FitResult:
    """The fit that the others are compared with."""
    return fitted(site, f"whole-{precision}", choose(precision, spec("slow_r50")))


def learns(site: Site) -> Seeing:
    """4: 150 steps in fp32 and in bf16 (fp16) come to the same loss."""
    full, low = (float(uninterrupted(site, p).curves["train_loss"].iloc[-1]) for p in ("fp32", "bf16"))
    value, limit = f"{full:.3f}, {low:.3f}", "both below 0.35"
    yield Finding("loss after 150 steps, fp32 and bf16", value, limit, max(full, low) < 0.35)
    apart = abs(full - low) / max(full, low)
    yield Finding("their difference", f"{100 * apart:.1f} %", "at most 10 %", apart <= 0.1)


class _Ended(Exception):
    """An epoch's end that is not reached."""


def goes_on(site: Site) -> Seeing:
    """5: the same fit, ended within its second epoch and begun again."""
    compute, calls = choose("bf16", spec("slow_r50")), []

    def ending_second(logits: Any) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise _Ended
        return 0.5

    with contextlib.suppress(_Ended):
        fitted(site, "resumed", compute, ending_second)
    first, second = uninterrupted(site, "bf16").curves, fitted(site, "resumed", compute).curves
    apart = float((first["val_loss"] - second["val_loss"]).abs().max())
    equal = "the same bits" if first["val_loss"].equals(second["val_loss"]) else "not the same bits"
    yield Finding("largest difference of val_loss", f"{apart:.2g}, {equal}", "at most 1e-3", apart <= 1e-3)


# ---- 6, 7 and 9: full size ----------------------------------------------------------------------


def large(site: Site) -> Planted:
    """Clips for the full-size networks, where `--data` says."""
    clip = site.clip
    return Planted(site.data, clip[1] * 8 // 7, clip[0])


def full_run(site: Site, key: str, **given: Any) -> Run:
    """A run of a full-size network, as the profiles have it."""
    asked = {
        "backbone": key,
        "size": site.size,
        "crop_px": site.clip[1],
        "batch_size": BATCHES.get(key, BATCH),
    }
    return large(site).run(**asked | {"rotation_deg": 20.0} | given)


def _batch(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (run.batch_size, 1, run.clip_length, run.crop_px, run.crop_px)
    return torch.rand(shape), torch.arange(run.batch_size) % 2.0


def full_size(site: Site) -> Seeing:
    """6: time and memory of a step against what `ctlib plan` says, each way that a run might compute it."""
    runs = [full_run(site, key) for key in FULL]
    plan = calibrate(
        runs, site.folder / "plan.json", measuring=False
    )  # another process asks the GPU: it goes first
    for run, planned in zip(runs, plan.values(), strict=True):
        try:
            yield _step_of(run, planned.peak_mb, planned.multiply_adds, site.folder / "ways" / run.backbone)
        except torch.OutOfMemoryError:
            free = torch.cuda.mem_get_info()[0] / 1e6
            value = f"batch {run.batch_size} does not fit; {planned.peak_mb / 1e3:.1f} GB are planned"
            yield Finding(run.backbone, value, "fits, if the plan says so", planned.peak_mb > free)
        gc.collect()
        torch.cuda.empty_cache()


class _Filling(Compute):
    """With memory filled before it is used, as deterministic kernels are by torch's default."""

    def set_up(self) -> None:
        super().set_up()
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


def _step_of(run: Run, planned_mb: float, multiply_adds: int, folder: Path) -> Finding:
    """A network's line. Ways are timed and the fastest is kept as the first run of a work folder does it."""
    step = Step.of(run)
    chosen = compute_of(folder, step)
    kept = [read_json(path)["seconds"] for path in folder.glob("compute/*/choice.json")]
    ways = kept[0] if kept else {}
    torch.cuda.reset_peak_memory_stats()
    seconds, _, busy = step_seconds(step, chosen)
    peak_mb = torch.cuda.max_memory_allocated() / 1e6
    filled, *_ = step_seconds(step, _Filling(chosen.accelerator, chosen.precision, chosen.memory_format))
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    flops = 6 * multiply_adds * run.batch_size / seconds
    peak = next((value for name, value in PEAK_FLOPS.items() if name in torch.cuda.get_device_name()), 0.0)
    share = f", {100 * flops / peak:.0f} % of the peak" if peak else ""
    value = f"{chosen}: {1e3 * seconds:.0f} ms, {run.batch_size / seconds:.0f} clips/s{share}; "
    value += f"{peak_mb / 1e3:.1f} GB of {planned_mb / 1e3:.1f} planned"
    is_fastest = ways.get(str(chosen), 0.0) <= 1.06 * min(ways.values(), default=1.0)
    good = abs(peak_mb / planned_mb - 1) <= 0.15 and is_fastest
    details = {
        "batch": run.batch_size, "ms": 1e3 * seconds, "ms_filled": 1e3 * filled, "busy": busy, "tflops": flops / 1e12,
        "peak_gb": peak_mb / 1e3, "planned_gb": planned_mb / 1e3, "seconds_of_ways": ways,
    }  # fmt: skip
    return Finding(
        run.backbone, value, "memory within 15 % of the plan, the fastest way is used", good, details
    )


def waiting(site: Site) -> Seeing:
    """7: how long the fastest network waits for its clips."""
    run, planted = full_run(site, "slowfast_r50"), large(site)
    compute, clips = choose(run.precision, spec(run.backbone)), planted.clips(run, "train")
    sampler = SAMPLERS["balanced"](clips.table["label"].tolist(), 25 * run.batch_size, 0)
    batches, one = (
        loader(clips, run.batch_size, compute, LOADER_WORKERS, sampler),
        Trained(run.backbone, compute, run.size),
    )
    waits, steps = [], []
    with ending(batches):
        set_epoch(batches, 0)
        feed = iter(batches)
        for _ in range(25):
            began = time.perf_counter()
            batch = next(feed)
            came = time.perf_counter()
            one.step(batch["clip"], batch["label"])
            waits.append(came - began)
            steps.append(time.perf_counter() - came)
    share = sum(waits[5:]) / sum(waits[5:] + steps[5:])  # the first fill the queues
    value = f"{100 * share:.1f} % of 20 steps of {1e3 * statistics.mean(steps[5:]):.0f} ms, {LOADER_WORKERS} readers"
    yield Finding("waiting for clips", value, "below 5 %", share < 0.05)


def sharing(site: Site) -> Seeing:
    """9: clips a second of one, two and three processes at once on the GPU."""
    run, spawn = full_run(site, "slowfast_r50"), multiprocessing.get_context("spawn")
    barriers = [spawn.Barrier(n) for n in (1, 2, 3)]
    with ProcessPoolExecutor(3, mp_context=spawn, initializer=_meet, initargs=(barriers,)) as pool:
        rates = [sum(pool.map(_rate, [(run, n)] * n)) for n in (1, 2, 3)]
    best = 1 + rates.index(max(rates))
    value = ", ".join(f"{rate:.0f}" for rate in rates)
    details = {"clips_a_second": rates}
    good = min(rates[1:]) > 0.9 * rates[0]
    limit = "more do not slow it by a tenth"
    yield Finding("clips a second of 1, 2, 3 processes", value, limit, good, details)
    yield Finding("most clips a second", f"{best} process{'es' * (best > 1)} (runs_a_gpu)")


_meeting: list[Any] = []
"""Of a process of `sharing`: barriers for one, two and three of them, then its network."""


def _meet(barriers: list[Any]) -> None:
    _meeting[:] = barriers


def _rate(asked: tuple[Run, int]) -> float:
    """Clips a second of this process, while n - 1 others compute the same."""
    run, n = asked
    if len(_meeting) == 3:
        _meeting.append(Trained(run.backbone, choose(run.precision, spec(run.backbone)), run.size))
    one, (clips, labels) = _meeting[3], _batch(run)
    for _ in range(3):
        one.step(clips, labels)
    _meeting[n - 1].wait(120)
    began = time.perf_counter()
    for _ in range(20):
        one.step(clips, labels)
    return 20 * run.batch_size / (time.perf_counter() - began)


# ---- 8, 10 and 11: runs -------------------------------------------------------------------------


def whole_path(site: Site) -> Seeing:
    """8: a run as a worker computes it, with two readers; then its test clips on the CPU."""
    planted = small(site)
    run = planted.run(seed=1)
    result = execute(str(planted.root), run, loader_workers=2)
    chosen = compute_of(planted.root, Step.of(run), measuring=False)
    yield Finding("a run computed on", result["compute"], str(chosen), result["compute"] == str(chosen))
    clips = planted.clips(run, "test")
    metric, ways = study_auroc(clips.table), (chosen, Compute("cpu", "32-true"))
    here, there = (loop.predict(trained(planted.workspace, run), clips, BATCH, way) for way in ways)
    apart = abs(metric(here) - metric(there))
    value = (
        f"{metric(here):.3f}, {metric(there):.3f}; logits differ by at most {np.abs(here - there).max():.2g}"
    )
    yield Finding("AUROC here and on the CPU", value, "within 0.01", apart <= 0.01)


def memory_returned(site: Site) -> Seeing:
    """10: measuring steps leaves nothing of the GPU with the process that asked."""
    (timing,) = calibrate([small(site).run()], site.folder / "calibration.json").values()
    yield Finding("a step, measured", f"{1e3 * timing.train_s:.1f} ms", "measured", timing.is_measured)
    held = torch.cuda.memory_reserved() / 1e9
    yield Finding("GB held afterwards", round(held, 2), "below 0.1", held < 0.1)


def out_of_memory(site: Site) -> Seeing:
    """11: a run that does not fit says what to change."""
    on_gpu = torch.cuda.is_available()
    planted, batch, told = large(site) if on_gpu else small(site), BATCH, ""
    while not told and batch <= 2**14:
        asked = {"batch_size": batch, "steps_per_epoch": 1, "epochs": 1}
        run = full_run(site, "slow_r50", **asked) if on_gpu else planted.run(**asked)
        with _little_memory(on_gpu):
            try:
                execute(str(planted.root), run)
                # on a CPU one tensor is to be too large; of many small ones oneDNN says "could not create a primitive"
                batch *= 2 if on_gpu else 16
            except Exception as error:
                told = str(error)
    good = "batch_size" in told and "accumulate" in told
    value = told or "none: it fitted"
    yield Finding(f"reason at batch {batch}", value, "names batch_size and accumulate", good)


@contextlib.contextmanager
def _little_memory(on_gpu: bool) -> Iterator[None]:
    """A tenth of the GPU's memory; or, of a CPU's, a quarter of a GB more than this process has."""
    if on_gpu:
        torch.cuda.set_per_process_memory_fraction(0.1)
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    held = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    resource.setrlimit(resource.RLIMIT_DATA, (int(held[1]) * 1024 + 2**28 if held else before[0], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
