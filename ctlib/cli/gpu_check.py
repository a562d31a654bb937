"""`ctlib gpu-check`: eleven checks in four minutes of what a GPU computes; its file goes with a bug report.

Each check (`ctlib.cli.gpu_checks`) runs in a process that is not this one, which touches no GPU: a check that hangs is
ended in time, one that crashes is told, and the next ones run all the same. Checks that need a GPU for themselves
(GPUs in exclusive mode have one process at a time) begin a process of their own; the others share one.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import multiprocessing
import os
import pkgutil
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import click

from ctlib import __version__
from ctlib.cli.data import Refused
from ctlib.core import display_path, doing, pin_threads, write_json

YES, NO, NOT_HERE, NOT_REACHED = "yes", "NO", "not here (no GPU)", "not reached"
SHARED_MEMORY = Path("/dev/shm")
DATA_GB = 1.0
"""What the clips of the full-size networks take, with room to spare."""


@dataclass(frozen=True)
class Site:
    """Where checks run, and how large their largest networks are.

    Args:
        folder: for what they write.
        data: for the volumes that readers are timed on.
        size: of the networks of checks 6, 7, 9 and 11.
        clip: of these, slices and rows.
    """

    folder: Path
    data: Path
    size: Literal["tiny", "full"] = "full"
    clip: tuple[int, int] = (32, 224)


@dataclass(frozen=True)
class Finding:
    """A line of a check.

    Args:
        what: was looked at.
        value: was seen.
        limit: what passes; "" where the value is only told.
        good: whether it passes; None where it is only told.
        details: numbers of all networks, for the file.
    """

    what: str
    value: Any
    limit: str = ""
    good: bool | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """A check.

    Args:
        title: what people read.
        routine: its function, `module:name`; it takes a `Site` and yields `Finding`.
        seconds: it takes on a GPU.
        needs_gpu: whether there is nothing to see on a CPU.
        is_apart: whether it begins a process of its own, with one GPU in sight, as a worker's.
    """

    title: str
    routine: str
    seconds: int
    needs_gpu: bool = False
    is_apart: bool = False


ROUTINES = "ctlib.cli.gpu_checks"

CHECKS = (
    Check("what is here", f"{ROUTINES}:machine", 3),
    Check("same numbers, tiny", f"{ROUTINES}:same_numbers", 25),
    Check("bf16", f"{ROUTINES}:low_precision", 15),
    Check("it learns", f"{ROUTINES}:learns", 15),
    Check("it goes on", f"{ROUTINES}:goes_on", 10),
    Check("full size, a step", f"{ROUTINES}:full_size", 90, needs_gpu=True, is_apart=True),
    Check("loader", f"{ROUTINES}:waiting", 20, needs_gpu=True),
    Check("the whole path", f"{ROUTINES}:whole_path", 25, is_apart=True),
    Check("processes on one GPU", f"{ROUTINES}:sharing", 25, needs_gpu=True, is_apart=True),
    Check("memory returned", f"{ROUTINES}:memory_returned", 2, is_apart=True),
    Check("out of memory is told", f"{ROUTINES}:out_of_memory", 5),
)
SECONDS = 240
"""For all of them."""
PATIENCE, ON_CPU, LEAST_S = 3, 9, 40
"""A check is ended after so many times its seconds, on a CPU later, for much is not asked there; but not before
`LEAST_S`: that a process starts counts."""


@dataclass
class Outcome:
    """What became of a check."""

    number: int
    check: str
    verdict: str = NOT_REACHED
    seconds: float = 0.0
    limit_s: float = 0.0
    seen: list[Finding] = field(default_factory=list)


class Runner:
    """A process that runs checks; it is begun when it is needed, and ended when a check ends it or hangs.

    Args:
        site: where checks run.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.process: Any = None
        self.pipe: Any = None

    def begin(self, is_apart: bool) -> None:
        """Have a process: a fresh one, if it is to be apart."""
        if self.process is not None and not is_apart:
            return
        self.end()
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, self.site, is_apart))
        self.process.start()
        theirs.close()

    def end(self, is_stuck: bool = False) -> None:
        """End the process, and those that it started."""
        if self.process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send("")
        self.process.join(0 if is_stuck else 10)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.process = None

    def run(self, check: Check, outcome: Outcome, end_s: float) -> None:
        """Run a check until it is done, or this time comes (`time.monotonic`).

        Args:
            check: the check.
            outcome: gets what is seen, as it is seen, and the verdict.
            end_s: when others must begin, or all end; then it is not reached.
        """
        began, until = time.monotonic(), min(time.monotonic() + outcome.limit_s, end_s)
        self.begin(check.is_apart)
        try:
            self.pipe.send(check.routine)
            while self.pipe.poll(max(0.0, until - time.monotonic())):
                if (line := self.pipe.recv()) is None:
                    outcome.verdict = NO if any(one.good is False for one in outcome.seen) else YES
                    break
                outcome.seen.append(line)
            else:
                self.end(is_stuck=True)
                if until < end_s:
                    outcome.seen.append(
                        Finding("time", f"not done in {outcome.limit_s:.0f} s", "done", False)
                    )
                if any(one.good is False for one in outcome.seen):
                    outcome.verdict = NO
        except (EOFError, ConnectionError):
            self.process.join(5)
            code = self.process.exitcode
            outcome.verdict = NO
            outcome.seen.append(Finding("process", f"ended with status {code}", "stays", False))
            self.end()
        outcome.seconds = time.monotonic() - began


def _serve(pipe: Connection, site: Site, is_apart: bool) -> None:
    """Run the checks that are asked for; in a process, and a session of processes, of its own."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pin_threads(1)  # as a worker
    from ctlib.grid import visible_gpus

    with contextlib.suppress(ValueError):  # which check 1 tells
        if is_apart and (gpus := visible_gpus()):
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
    with contextlib.suppress(EOFError):
        while routine := pipe.recv():
            try:
                for line in pkgutil.resolve_name(routine)(site):
                    pipe.send(line)
            except Exception as error:
                frames = traceback.extract_tb(error.__traceback__)[-3:]
                where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
                pipe.send(Finding("error", f"{type(error).__name__}: {error} ({where})", "none", False))
            pipe.send(None)


def checked(site: Site, seconds: float = SECONDS) -> Iterator[Outcome]:
    """Run all checks; each outcome as it is there, also of those that are not reached.

    Args:
        site: where they run.
        seconds: for all of them.
    """
    runner, end_s, on_gpu = Runner(site), time.monotonic() + seconds, True
    try:
        for number, check in enumerate(CHECKS, 1):
            limit_s = max((PATIENCE if on_gpu else ON_CPU) * check.seconds, LEAST_S) * max(
                1.0, seconds / SECONDS
            )
            later_s = sum(one.seconds for one in CHECKS[number:] if on_gpu or not one.needs_gpu)
            last_s = max(end_s - later_s * seconds / SECONDS, time.monotonic() + check.seconds)
            outcome = Outcome(number, check.title, limit_s=limit_s)
            if check.needs_gpu and not on_gpu:
                outcome.verdict = NOT_HERE
            elif time.monotonic() < end_s:
                with doing(f"{number} of {len(CHECKS)}: {check.title}"):
                    runner.run(check, outcome, min(last_s, end_s))
            if number == 1:
                on_gpu = any((one.what, one.value) == ("accelerator", "gpu") for one in outcome.seen)
            yield outcome
    except BaseException:  # Ctrl-C comes to this process alone
        runner.end(is_stuck=True)
        raise
    runner.end()


def without_names(text: str) -> str:
    """A text without folders of paths, and without the names of user and host."""
    text = re.sub(r"(?<![\w.])(?:~|\.{1,2})?/(?:[^\s'\",;:()/]+/)*", "", text)
    with contextlib.suppress(OSError, KeyError):
        for name in {getpass.getuser(), socket.gethostname(), socket.gethostname().split(".")[0]} - {""}:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", text)
    return text


def as_object(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """The content of the file: no name of a user or a host, and no path, is in it."""
    checks = [asdict(outcome) | {"seconds": round(outcome.seconds, 2)} for outcome in outcomes]
    for outcome in checks:
        for line in outcome["seen"]:
            line["value"] = without_names(line["value"]) if isinstance(line["value"], str) else line["value"]
    device = {line["what"]: line["value"] for line in checks[0]["seen"]} if checks else {}
    return {"ctlib": __version__, "asked_s": seconds, "device": device, "checks": checks}


def _rows(outcome: Outcome) -> Iterator[str]:
    yield f"{outcome.number:2d}  {outcome.check:24s}{outcome.verdict:20s}{outcome.seconds:6.1f} s"
    for line in outcome.seen:
        mark = "NO" if line.good is False else "  "
        yield f"  {mark}  {line.what}: {line.value}" + (f"  [passes: {line.limit}]" if line.limit else "")


@click.command("gpu-check", short_help="Check in four minutes that runs compute as they should here.")
@click.option(
    "--seconds",
    type=click.IntRange(min=1),
    default=SECONDS,
    show_default=True,
    help="For all checks; those that are not done are told.",
)
@click.option(
    "--json",
    "file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    help="Write all that was seen as JSON, for a bug report; - is the standard output.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    metavar="FOLDER",
    help="Put the clips whose reading is timed on the disk of this folder.  [default: /dev/shm]",
)
def gpu_check(seconds: int, file: Path | None, data: Path | None) -> None:
    """Run eleven checks of what training does on this machine's first GPU, and end with 1 if one says NO.

    \b
    ctlib gpu-check --json gpu-check.json

    On a machine without a GPU it says so, and checks what a CPU can. All data are noise, made for it and deleted
    afterwards. The file holds versions, numbers and verdicts; no name of a user, a host or a path.
    """
    on_stdout = file == Path("-")
    if file is not None and not file.parent.is_dir():
        raise Refused(f"--json {display_path(file)}: its folder is missing; make it, or give another.")
    outcomes: list[Outcome] = []
    with (
        tempfile.TemporaryDirectory(prefix="ctlib-gpu-check-") as scratch,
        _room(data, Path(scratch)) as clips,
    ):
        for outcome in checked(Site(Path(scratch), clips), seconds):
            outcomes.append(outcome)
            click.echo("\n".join(_rows(outcome)), err=on_stdout)
            if file is not None and not on_stdout:
                write_json(file, as_object(outcomes, seconds))
    if on_stdout:
        click.echo(json.dumps(as_object(outcomes, seconds)))
    counts = Counter(outcome.verdict for outcome in outcomes)
    click.echo(", ".join(f"{n} {verdict}" for verdict, n in counts.items()), err=on_stdout)
    if counts[NO]:
        sys.exit(1)


@contextlib.contextmanager
def _room(data: Path | None, scratch: Path) -> Iterator[Path]:
    """A folder for the clips of full-size networks: where asked, in memory, or, where that is small, on the disk."""
    if data is None:
        fits = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > DATA_GB * 1e9
        data = SHARED_MEMORY if fits else scratch
    with tempfile.TemporaryDirectory(prefix="ctlib-gpu-check-", dir=data) as folder:
        yield Path(folder)
