"""What `ctlib.io.volume` makes of damaged series, in a process that may crash, hang or run out of memory."""

import multiprocessing
import os
import resource
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HANG_S = 10.0
"""Longest time for a scan and a read together."""
MEMORY_BYTES = 2 << 30
"""What a child may allocate beyond its imports."""
GOOD = ("refused", "same", "changed", "shorter")
"""Outcomes that are no fault of the reader's: other voxels, or a volume without its last slice, are one
only where bytes of pixels are missing."""


@dataclass
class Verdict:
    """What became of a series with one damaged file.

    Args:
        outcome: one of `GOOD`, or what went wrong.
        reason: why it was refused, or what differs.
        seconds: of both calls.
        peak_bytes: most memory that the child has held so far.
    """

    outcome: str
    reason: str
    seconds: float = 0.0
    peak_bytes: int = 0


def judge_folder(folder, truth):
    """Scan and read a folder; runs in the child."""
    from ctlib.io.volume import SeriesError, read_series, scan

    n_files = sum(1 for _ in Path(folder).iterdir())
    series, problems = scan(folder)
    counted = int(series["n_files"].sum() + problems["n_files"].sum())
    if counted != n_files:
        return "unaccounted", f"scan counts {counted} of {n_files} files"
    reasons = " ".join(problems["reason"])
    try:
        volume = read_series(folder)
    except SeriesError as error:
        reasons += f" {error}"
        out_of_memory = any(word in reasons for word in ("MemoryError", "bad_alloc"))
        return ("memory" if out_of_memory else "refused"), str(error)
    if not len(series):
        return "disagree", f"read, but scan says: {reasons}"
    hu, spacing, origin = truth
    if volume.hu.shape != hu.shape:
        return "shorter", f"{volume.hu.shape}, for {reasons}"
    wrong = int((volume.hu != hu).sum())
    if wrong:
        return "changed", f"{wrong} voxels"
    same = np.allclose(volume.spacing_mm, spacing) and np.allclose(volume.origin_mm, origin)
    return ("same", "") if same else ("changed", f"spacing {volume.spacing_mm}, origin {volume.origin_mm}")


def _child(pipe, judge, memory_bytes):
    """Judges folders until the pipe ends."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)  # decoders write there
    import ctlib.io.volume  # noqa: F401

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send("ready")
    while True:
        folder, truth = pipe.recv()
        began = time.perf_counter()
        try:
            outcome, reason = judge(folder, truth)
        except Exception as error:
            outcome, reason = "exception", f"{type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send(Verdict(outcome, reason, time.perf_counter() - began, peak))


def _names(source):
    """Names of the files of a source; those of DICOM slices are numbers."""
    return getattr(source, "names", None) or [f"{k}.dcm" for k in range(len(source.slices))]


class Reader:
    """A child process, started again when it is lost.

    Args:
        folder: for the files of the series it reads.
        judge: what the child does with a folder and its truth; gives outcome and reason.
        hang_s: after how long it hangs.
        memory_bytes: what it may allocate.
    """

    def __init__(self, folder: Path, judge=judge_folder, hang_s=HANG_S, memory_bytes=MEMORY_BYTES):
        self.folder, self.work, self.hang_s, self.memory_bytes = folder, judge, hang_s, memory_bytes
        self.process = None
        self.truths = {}

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_child, args=(other, self.work, self.memory_bytes), daemon=True)
        self.process.start()
        other.close()
        if not self.pipe.poll(60) or self.pipe.recv() != "ready":
            raise RuntimeError("the child process does not start")

    def stop(self):
        """End the child."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def _ask(self, folder, truth):
        if self.process is None:
            self._start()
        try:
            self.pipe.send((str(folder), truth))
            if not self.pipe.poll(self.hang_s):
                self.stop()
                return Verdict("hang", f"nothing after {self.hang_s:g} s", self.hang_s)
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            self.process = None
            return Verdict("crash", signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def _folder(self, source):
        """A folder with the whole slices of a source, and its geometry as read there."""
        folder = self.folder / source.name.replace("/", "-")
        if source.name not in self.truths:
            from ctlib.io.volume import read_series

            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name, data in zip(_names(source), source.slices, strict=True):
                (folder / name).write_bytes(data)
            volume = read_series(folder)
            np.testing.assert_array_equal(volume.hu, source.truth, err_msg=f"{source.name}, undamaged")
            self.truths[source.name] = (source.truth, volume.spacing_mm, volume.origin_mm)
        return folder, self.truths[source.name]

    def judge(self, source, mutant) -> Verdict:
        """What becomes of a source with one slice damaged; a wrong volume after a cut is "wrong"."""
        folder, truth = self._folder(source)
        path = folder / _names(source)[mutant.place]
        path.write_bytes(mutant.data)
        verdict = self._ask(folder, truth)
        path.write_bytes(source.slices[mutant.place])
        if verdict.outcome in ("changed", "shorter") and mutant.cut:
            verdict.outcome = "wrong"
        return verdict


def judge_all(pairs, folder: Path, n_processes: int = 1):
    """Yields source, mutant and verdict of each pair of source and mutant, as they come."""
    readers = [Reader(folder / str(n)) for n in range(n_processes)]
    pairs = iter(pairs)
    try:
        with ThreadPoolExecutor(n_processes) as pool:
            while batch := [pair for _, pair in zip(readers, pairs, strict=False)]:
                done = pool.map(lambda reader, pair: reader.judge(*pair), readers, batch)
                yield from ((*pair, verdict) for pair, verdict in zip(batch, done, strict=True))
    finally:
        for reader in readers:
            reader.stop()
