"""How far a fetch is, and how fast, as measured by what is on the disk."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ctlib.core import LINE_EVERY_S, time_left, watched

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
