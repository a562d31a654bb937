"""GPUs: which this process may use, whether they answer, and how many runs share one.

A GPU is looked at as a worker would use it: a process of its own, with that GPU alone in sight, puts a number on it.
So a driver that is too old, a GPU that another process holds for itself and a name that is none's are found before
the first run, and no process that lives on keeps memory of a GPU.

Several runs share a GPU where it would wait for one of them: for launches, for clips, for validation and checkpoints.
Each is a worker process with the same part of the memory, which torch does not exceed, so that a run which needs more
fails by name and takes nothing from its neighbours. Runs compute the same numbers alone and beside others.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ctlib.core import GpuError, listed_gpus

DEVICES = Path("/dev")
"""Where NVIDIA's driver puts a file a GPU."""

GPU, GPU_MB = "GPU", "GPU_MB"
"""Resources of workers that have a GPU: one each, and the memory of it that a run's tensors may take."""

CONTEXT_MB, SPARE = 1200.0, 1.07
"""What a process takes of a GPU beside its tensors, assumed: CUDA's context with kernels and workspaces of cuDNN and
cuBLAS, million bytes; and the factor of what torch's allocator keeps between them."""
MOST, FULL = 4, 0.9
"""Runs on a GPU where their number is chosen, at most: each takes cores and memory of the machine, too. No more are
added when they let it compute for this share of the time."""
PROBE_S = 180.0
"""A process that looks at a GPU may take so long, s: torch is imported."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that answers.

    Args:
        name: for CUDA_VISIBLE_DEVICES.
        title: what it is called.
        total_mb: its memory, million bytes.
        free_mb: what nobody holds of that.
        shared: whether two processes can use it at once; True where only one tried.
    """

    name: str
    title: str
    total_mb: float
    free_mb: float
    shared: bool = True


class Share(NamedTuple):
    """A worker's part of a GPU.

    Args:
        gpu: its name; '' hides all, None leaves them as they are.
        part: of the GPU's memory that its tensors may fill; 0 is no limit.
        mb: what a run's tensors may take at most, million bytes.
    """

    gpu: str | None = None
    part: float = 0.0
    mb: float = 0.0


@dataclass(frozen=True)
class Load:
    """What a kind of run asks of a GPU.

    Args:
        name: of its network, in words.
        peak_mb: most memory of its tensors, million bytes.
        busy: share of its time in which the GPU computes.
        seconds: of all such runs.
    """

    name: str
    peak_mb: float
    busy: float = 1.0
    seconds: float = 1.0


# ---- which there are ---------------------------------------------------------------------


def visible_gpus() -> tuple[str, ...]:
    """Names of the GPUs that this process may use: what CUDA_VISIBLE_DEVICES lists, or all of the machine.

    All of the machine are named by their UUIDs, which mean the same in any order (CUDA_DEVICE_ORDER), and those that
    are cut into MIG instances by these. Where there are GPUs and no nvidia-smi that lists them, torch counts them, in
    a process of its own. Tasks that SLURM started on one machine with the same GPUs in sight take turns in them.

    Raises:
        GpuError: CUDA_VISIBLE_DEVICES holds no names, no GPU of the machine can be used, or this is a task too many.
    """
    names = listed_gpus()
    if names is None:
        tool = shutil.which("nvidia-smi")
        names = (_of_nvidia_smi(tool) if tool else ()) or _of_torch()
    return _of_task(names)


def _of_task(names: tuple[str, ...]) -> tuple[str, ...]:
    """A SLURM task's part of the GPUs; all, where SLURM gave each task its own, or started one."""
    told = {
        name: os.environ.get(f"SLURM_{name}", "") for name in ("STEP_TASKS_PER_NODE", "LOCALID", "NODEID")
    }
    tasks = _tasks_here(told["STEP_TASKS_PER_NODE"], int(told["NODEID"] or 0))
    of_all = os.environ.get("SLURM_STEP_GPUS") or os.environ.get("SLURM_JOB_GPUS")
    if tasks < 2 or not names or (of_all and len(names) < len(of_all.split(","))):
        return names
    own = names[int(told["LOCALID"] or 0) :: tasks]
    if not own:
        raise GpuError(
            f"SLURM started {tasks} tasks here, {len(names)} GPUs are in sight, and task {told['LOCALID']} has none: "
            "start one task a machine (--ntasks-per-node=1), it uses all GPUs."
        )
    return own


def _tasks_here(tasks_per_node: str, node: int) -> int:
    """Tasks of a step on a node.

    >>> _tasks_here("4(x2),1", 1), _tasks_here("4(x2),1", 2), _tasks_here("", 0)
    (4, 1, 1)
    """
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks_per_node)
    each = [int(tasks) for tasks, nodes in found for _ in range(int(nodes or 1))]
    return each[node] if node < len(each) else 1


def _of_nvidia_smi(tool: str) -> tuple[str, ...]:
    """GPUs as `nvidia-smi -L` lists them; under one that is cut, its instances stand."""
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):  # a GPU that hangs lets it hang, too
        return ()
    found: dict[str, list[str]] = {}
    for kind, uuid in re.findall(r"UUID: (GPU|MIG)(-[^)\s]+)\)", done.stdout) if not done.returncode else ():
        if kind == "GPU":
            found[kind + uuid] = []
        elif found:
            found[next(reversed(found))].append(kind + uuid)
    return tuple(name for gpu, parts in found.items() for name in (parts or [gpu]))


def _of_torch() -> tuple[str, ...]:
    if not any(DEVICES.glob("nvidia[0-9]*")):
        return ()
    count = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    done = subprocess.run(count, capture_output=True, text=True, check=False, timeout=300)
    names = tuple(map(str, range(int(done.stdout)))) if done.stdout.strip().isdigit() else ()
    if not names:
        raise GpuError(
            f"{DEVICES} has files of GPUs, and neither nvidia-smi nor torch can use one: look at the driver "
            "(`nvidia-smi`). CUDA_VISIBLE_DEVICES='' computes without."
        )
    return names


# ---- whether they answer -----------------------------------------------------------------

_PROBE = """
import json, sys
import torch
try:
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    told = {"title": torch.cuda.get_device_name(), "total_mb": total / 1e6, "free_mb": free / 1e6}
except Exception as error:
    told = {"error": str(error).split("\\n")[0]}
print(json.dumps(told), flush=True)
sys.stdin.read()
"""
_REMEDIES = {
    "too old": "update NVIDIA's driver, or install a torch that was built for an older CUDA",
    "busy or unavailable": "another process has it for itself (`nvidia-smi` names it, and its compute mode)",
    "not compiled with CUDA": "install a torch that was built for CUDA",
}
_NO_GPU = "`nvidia-smi -L` lists the GPUs; CUDA_VISIBLE_DEVICES='' computes without"


def probe(names: Sequence[str], runs: int = 1) -> list[Gpu]:
    """Whether GPUs can be used, by processes that see one each, all at the same time.

    Args:
        names: of `visible_gpus`.
        runs: how many are to share each; of more than one, two try.

    Raises:
        GpuError: one cannot be used: why, and what to do.
    """
    asked = [(name, _probing(name)) for name in names for _ in range(min(runs, 2))]
    timer = threading.Timer(PROBE_S, _end, [asked])
    timer.start()
    try:
        told = [(name, process.stdout.readline()) for name, process in asked if process.stdout]
    finally:
        timer.cancel()
        _end(asked)
        for _, process in asked:
            process.communicate()
    found = []
    for name in names:
        answers = [json.loads(line or '{"error": "it did not answer"}') for one, line in told if one == name]
        well = [answer for answer in answers if "error" not in answer]
        if not well:
            raise GpuError(_refusal(name, answers[0]["error"]))
        found.append(Gpu(name, **well[0], shared=len(well) == len(answers)))
    return found


def _probing(name: str) -> subprocess.Popen[str]:
    words, environment = [sys.executable, "-c", _PROBE], {**os.environ, "CUDA_VISIBLE_DEVICES": name}
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, stderr=nowhere, text=True)


def _end(asked: Sequence[tuple[str, subprocess.Popen[str]]]) -> None:
    for _, process in asked:
        process.kill()


def _refusal(name: str, error: str) -> str:
    remedy = next((text for part, text in _REMEDIES.items() if part in error), _NO_GPU)
    return f"GPU {name} cannot be used: {error.rstrip('.')}. What to do: {remedy}."


def answers(name: str) -> bool:
    """Whether a new process can use a GPU; without a name, True."""
    try:
        probe([name] if name else [])
    except GpuError:
        return False
    return True


# ---- how many runs share one -------------------------------------------------------------


def runs_a_gpu(asked: int, found: Sequence[Gpu], loads: Sequence[Load], most: int = MOST) -> int:
    """How many runs share each GPU.

    Args:
        asked: so many; 0 is chosen: as many as fit, and as let it compute most of the time.
        found: the GPUs, of `probe`.
        loads: what the runs ask of them; without any, one is chosen.
        most: runs that workers and cores are enough for, where the number is chosen.

    Raises:
        GpuError: they do not fit, or a GPU takes one process alone.
    """
    least = min(found, key=lambda gpu: gpu.free_mb)
    largest = max(loads, key=lambda load: load.peak_mb, default=Load("", 0.0))
    need_mb = SPARE * largest.peak_mb + CONTEXT_MB
    fit = int(least.free_mb / need_mb)
    where = f"{least.title} ({least.name}), of which {least.free_mb / 1e3:.1f} GB are free"
    if not fit and largest.peak_mb > least.free_mb:
        raise GpuError(
            f"{largest.name} needs {largest.peak_mb / 1e3:.1f} GB of {where}: give it a smaller batch_size and more "
            "accumulate in exceptions, or leave it out."
        )
    fit = max(fit, 1)
    alone = next((gpu for gpu in found if not gpu.shared), None)
    if asked > 1 and alone:
        raise GpuError(
            f"runs_a_gpu is {asked}, and {alone.title} ({alone.name}) takes one process at a time: give 1 or 0, or let "
            "an administrator set its compute mode to default (`nvidia-smi -c DEFAULT`)."
        )
    if asked > fit:
        raise GpuError(
            f"runs_a_gpu is {asked}, and {largest.name} needs {need_mb / 1e3:.1f} GB, more than its part of {where}: "
            f"give {fit}, or 0 to have it chosen."
        )
    total_s = sum(load.seconds for load in loads)
    if asked or alone or not total_s:
        return asked or 1
    busy = sum(load.busy * load.seconds for load in loads) / total_s
    return max(1, min(fit, most, MOST, math.ceil(FULL / max(busy, 1e-3))))


def shares(found: Sequence[Gpu], runs: int, devices: int = 1) -> list[Share]:
    """For each worker its GPU, and its part of it; the first of every GPU come before the second of any.

    A worker that takes several has their names with commas between them, and all of their memory.

    >>> shares([Gpu("a", "", 8_000, 7_000), Gpu("b", "", 8_000, 7_000)], 1)[1]
    Share(gpu='b', part=0.0, mb=7000)
    >>> [(share.gpu, share.part) for share in shares([Gpu("a", "", 8_000, 7_000)], 2)]
    [('a', 0.35), ('a', 0.35)]
    >>> [share.gpu for share in shares([Gpu(name, "", 8_000, 7_000) for name in "abcde"], 1, devices=2)]
    ['a,b', 'c,d']
    """
    if devices > 1 or runs == 1:
        groups = [found[i : i + devices] for i in range(0, len(found) - devices + 1, devices)]
        return [
            Share(",".join(gpu.name for gpu in one), 0.0, min(gpu.free_mb for gpu in one)) for one in groups
        ]
    parts = [(gpu, round(max(0.01, 1 / runs - CONTEXT_MB / gpu.total_mb), 4)) for gpu in found]
    return [Share(gpu.name, part, part * gpu.total_mb / SPARE) for gpu, part in parts] * runs


def too_small(worker: str, mb: float, load: Load | None) -> str:
    """Why a worker gets no runs: what it has of a GPU is less than the largest needs; "" where it does, or has none."""
    if load is None or not 0 < mb < load.peak_mb:
        return ""
    return (
        f"{worker} gets no runs: {mb / 1e3:.1f} GB of a GPU are its part, and {load.name} needs "
        f"{load.peak_mb / 1e3:.1f} GB. Start it with fewer runs_a_gpu, or on a larger GPU."
    )
