"""A worker process and the nanny that watches it, the same wherever they run: here, by hand, in a queue.

A worker computes one item at a time. Its nanny starts it anew when it dies, and ends it when it holds more
memory than it may. It watches from a process of its own, so that a worker that is busy in native code is
watched too. What the nanny counts is memory that belongs to the worker alone: mapped volumes and the
address space that a GPU's driver reserves, which the limits of the system (RLIMIT_AS) count, are not in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import psutil
from dask.utils import parse_bytes
from distributed import Nanny, Scheduler
from distributed.comm import connect
from tornado.ioloop import PeriodicCallback

from ctlib.core import GPU_SHARE, THREAD_VARIABLES
from ctlib.grid import gpus as devices

DASK_CONFIG = {
    "distributed.worker.multiprocessing-method": "spawn",  # fork copies locks held by torch's threads
    "distributed.worker.daemon": False,  # so that a worker may have loader processes of its own
    "distributed.worker.profile.enabled": False,  # a sampling thread that competes for the GIL
    "distributed.admin.low-level-log-length": 20,  # of each worker: why it went is read there
    "distributed.comm.timeouts.connect": "60s",  # importing torch on a busy machine
    # no spilling, no pausing: results are small, and the nanny below ends what holds too much
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}

NO_PAGES: dict[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
"""Of schedulers and workers: each has a small web server even so, which nobody else shall reach."""

LOOK_S = 0.1
"""A nanny looks at its worker's memory this often, s: some hundred MB at the speed of memory."""

_log = logging.getLogger(__name__)


def options(threads: int, on: devices.Share, memory_mb: float = 0.0) -> dict[str, Any]:
    """What a nanny is asked for: one item at a time, threads pinned, one GPU or none in sight.

    Args:
        threads: of the numeric libraries.
        on: the GPU of the worker, or its part of it.
        memory_mb: memory that a worker may hold, MB; 0 is no limit.

    Returns:
        Arguments of `WatchingNanny`. The environment is set before torch is loaded.
    """
    environment = dict.fromkeys(THREAD_VARIABLES, str(threads))
    if on.gpu is not None:
        environment |= {"CUDA_VISIBLE_DEVICES": on.gpu, GPU_SHARE: str(on.part or "")}
    return {
        "nthreads": 1,
        "env": environment,
        "resources": {devices.GPU: 1, devices.GPU_MB: on.mb} if on.gpu else None,
        "memory_limit": None,  # Dask's own limit counts mapped files
        "limit_mb": memory_mb,
        "preload": ["ctlib.grid.worker"],
        **NO_PAGES,
        "config": DASK_CONFIG,
    }


def worker_options(
    gpus: int | None,
    workers: int,
    threads: int,
    memory: str | None,
    name: str | None,
    runs: int = 1,
    each: int = 1,
) -> list[dict[str, Any]]:
    """What the nannies of a machine are asked for: so many a GPU, or so many where no GPU is used.

    Args:
        gpus: GPUs to use, the first of `visible_gpus`; None is all, and 0 hides them.
        workers: how many, where no GPU is used.
        threads: of each.
        memory: of each, with a unit, as a queue has it: a worker may hold 95 % of it.
        name: of the workers; None names them by host and process.
        runs: workers that share a GPU.
        each: GPUs that a worker takes.

    Raises:
        ValueError: there are fewer GPUs, one cannot be used or shared, or the memory is not a size.
    """
    visible = devices.visible_gpus()
    if gpus is not None and gpus > len(visible):
        raise ValueError(f"--gpus is {gpus}, and {len(visible)} are in sight here.")
    try:
        limit_mb = 0.95 * parse_bytes(memory) / 2**20 if memory else 0.0
    except ValueError as error:
        raise ValueError(f"--memory is {memory!r}; give a size, as 16GB.") from error
    pinned = [devices.Share(None if gpus is None else "")] * workers
    if used := visible[:gpus]:
        if len(used) < each:
            raise ValueError(f"--devices is {each}, and GPUs to use here are {len(used)}.")
        found = devices.probe(used, runs)
        pinned = devices.shares(found, devices.runs_a_gpu(runs, found, ()), each)
    name = name or f"{socket.gethostname()}-{os.getpid()}"
    names = [name] if len(pinned) == 1 else [f"{name}-{i}" for i in range(len(pinned))]
    return [options(threads, on, limit_mb) | {"name": one} for on, one in zip(pinned, names, strict=True)]


class WatchingNanny(Nanny):
    """A nanny that ends a worker which holds more memory than it may, and says so.

    Args:
        address: of the scheduler.
        limit_mb: memory that the worker may hold, MB; 0 is no limit.
        asked: arguments of Dask's `Nanny`.
    """

    def __init__(self, address: str, limit_mb: float = 0.0, **asked: Any):
        super().__init__(address, **asked)
        self.limit_mb, self._ended = limit_mb, 0
        if limit_mb:
            self.periodic_callbacks["ctlib-memory"] = PeriodicCallback(self._look, LOOK_S * 1000)

    async def _look(self) -> None:
        pid = self.pid
        held_mb = 0.0 if pid is None else own_memory_mb(pid)
        if pid is None or held_mb <= self.limit_mb or pid == self._ended:
            return
        self._ended = pid
        address = self.worker_address
        os.kill(pid, signal.SIGSTOP)  # it fills no more while the scheduler is told why it ends
        try:
            why = f"it held {held_mb:.0f} MB, its limit is {self.limit_mb:.0f} MB"
            why = f"OutOfMemory: the worker process was ended, for {why}"
            await self.scheduler.log_event(topic=address, msg={"why": why})
        except OSError as error:
            _log.warning("the scheduler was not told that %s holds too much memory: %s", address, error)
        finally:
            os.kill(pid, signal.SIGKILL)

    async def leave(self) -> None:
        """Tell the scheduler that the worker goes: its item is given to another, and not blamed."""
        if self.worker_address is None:
            return
        try:
            going = {"address": self.worker_address, "expected": True, "stimulus_id": "leave"}
            await asyncio.wait_for(self.scheduler.unregister(**going), 5)
        except (OSError, TimeoutError) as error:
            _log.warning("the scheduler was not told that a worker leaves: %s", error)


def own_memory_mb(pid: int) -> float:
    """Memory that a process holds and shares with no file, MB; 0 where there is no such process."""
    try:
        if sys.platform != "linux":
            return psutil.Process(pid).memory_info().rss / 2**20
        status = Path(f"/proc/{pid}/status").read_text()
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    held = ("RssAnon", "RssShmem", "VmSwap")  # a zombie has none
    return sum(int(fields[name].split()[0]) for name in held if name in fields) / 1024


async def serve_scheduler(host: str, port: int, security: Any, say: Callable[[str], None]) -> None:
    """Keep a scheduler, without a dashboard, until SIGTERM or SIGINT comes.

    Args:
        host: address of this machine, or the name that others reach it by.
        port: it listens at.
        security: credentials (`credentials.read`); None for none.
        say: is told the address.

    Raises:
        OSError: the port is taken, or the host is none of this machine's.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    protocol = "tls://" if security else "tcp://"
    with dask.config.set(DASK_CONFIG):
        serving = Scheduler(host=host, port=port, security=security, protocol=protocol, **NO_PAGES)
        async with serving as scheduler:
            say(scheduler.address)
            await stop.wait()


async def serve_worker(
    scheduler: str,
    asked: Sequence[dict[str, Any]],
    patience_s: float,
    lifetime_s: float = 0.0,
    security: Any = None,
) -> str:
    """Keep workers at a scheduler until it is away for long, the lifetime ends, or SIGTERM or SIGINT comes.

    Workers that lose their scheduler end; new ones wait for it to come back at the same address.

    Args:
        scheduler: its address.
        asked: arguments of each nanny, with a `name`.
        patience_s: how long the scheduler may be away, s.
        lifetime_s: leave after so long, s: before a queue ends the job; 0 stays.
        security: credentials of the scheduler (`credentials.read`); None for none.

    Returns:
        Why it ended, in words.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifetime_s:
        loop.call_later(lifetime_s, stop.set)
    asked_to_leave: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    one_each = [one | {"security": security} for one in asked]
    keepers = [asyncio.ensure_future(_keep(scheduler, one, patience_s)) for one in one_each]
    seen: asyncio.Future[Any] = asyncio.gather(*keepers)
    await asyncio.wait([asked_to_leave, seen], return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        seen.cancel()
        await asyncio.wait(keepers)
        return "stopped by user, or at the end of its time"
    asked_to_leave.cancel()
    if any(seen.result()):
        return f"the scheduler at {scheduler} was away for {patience_s:g} s"
    return f"no scheduler answers at {scheduler}"


async def _keep(scheduler: str, asked: dict[str, Any], patience_s: float) -> bool:
    """One nanny after the other; returns whether there ever was a scheduler."""
    ever = False
    while await _answers(scheduler, patience_s, asked["security"]):
        nanny = WatchingNanny(scheduler, **asked)
        try:
            await nanny
            ever = True
            await nanny.finished()
        except asyncio.CancelledError:
            await nanny.leave()
            raise
        except Exception as error:  # the scheduler went away while the worker came
            _log.warning("a worker for %s did not start: %s", scheduler, error)
            await asyncio.sleep(1.0)
        finally:
            await nanny.close(timeout=2)
    return ever


async def _answers(scheduler: str, patience_s: float, security: Any) -> bool:
    """Whether a scheduler answers at an address, sooner or later."""
    shown = security.get_connection_args("worker") if security else {}
    deadline = time.monotonic() + patience_s
    while (left_s := deadline - time.monotonic()) > 0:
        with contextlib.suppress(OSError):
            (await connect(scheduler, timeout=min(left_s, 5.0), **shown)).abort()
            return True
    return False


def dask_setup(worker: Any) -> None:
    """Called by Dask in each worker process when it starts (`preload`).

    Ctrl-C reaches every process of a terminal; only the one that holds the engine acts on it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
