"""How far work is: told out of a notebook's kernel, shown by the command line.

`ctlib run` names a small file in the environment variable `CTLIB_PROGRESS`; without it nothing is
written, and the notebook's own lines are all that is shown. On a terminal the command line shows a bar (which
notebook, which run of how many, time left); elsewhere (the log of a CI, a file) the same in plain lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from ctlib.core.text import time_left
from ctlib.core.workspace import write_text

VARIABLE = "CTLIB_PROGRESS"
"""Environment variable that names the file."""
POLL_S = 0.5
"""A bar looks this often, s."""
LINE_EVERY_S = 30.0
"""Between two plain lines, s."""
FIRST_LINE_S = 2.0
"""The first comes so soon, s: nobody is left to guess for longer."""


@dataclass(frozen=True)
class State:
    """How far a piece of work is.

    Args:
        what: what is counted, in plural ("finetuning runs").
        done: how many are done.
        total: of how many.
        started_s: when it began, seconds since the epoch.
        note: what was last done.
    """

    what: str
    done: int
    total: int
    started_s: float
    note: str = ""

    def left_s(self, now_s: float) -> float | None:
        """Seconds left if the rest goes like what is done; None before the first is done.

        >>> State("runs", done=3, total=9, started_s=100.0).left_s(now_s=130.0)
        60.0
        """
        if not self.done:
            return None
        return (now_s - self.started_s) / self.done * (self.total - self.done)


def report(what: str, done: int, total: int, started_s: float | None = None, note: str = "") -> None:
    """Tell the command line how far we are; does nothing outside of it."""
    path = os.environ.get(VARIABLE)
    if path:
        state = State(what, done, total, time.time() if started_s is None else started_s, note)
        write_text(Path(path), json.dumps(asdict(state)))


def read(path: Path) -> State | None:
    """What was last reported, or None where nothing was yet."""
    try:
        return State(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:  # or removed: the notebook has just ended
        return None


def _line(name: str, position: int, total: int, section: str, state: State | None) -> str:
    """What the bar says.

    >>> state = State("finetuning runs", done=3, total=9, started_s=time.time() - 300)
    >>> _line("03_finetune_grid", 3, 4, "The runs", state)
    '[3 of 4] 03_finetune_grid: finetuning runs, 3 of 9, about 10 min left'
    """
    head = f"[{position} of {total}] {name}"
    if state is None or state.done >= state.total:
        return f"{head}: {section}" if section else head
    rest = time_left(state.left_s(time.time()))
    return f"{head}: {state.what}, {state.done} of {state.total}" + (f", {rest}" if rest else "")


@contextlib.contextmanager
def watched(
    say: Callable[[], tuple[str, int, int]], stream: TextIO, every_s: float = LINE_EVERY_S
) -> Iterator[None]:
    """Show how far something is while it goes on: a bar on a terminal, a plain line now and then elsewhere.

    Args:
        say: the text, how much is done, of how much; asked by a thread of its own.
        stream: where to.
        every_s: between two plain lines.
    """

    def terminal() -> None:
        from tqdm import tqdm

        form = "{desc} |{bar:24}|"
        with tqdm(total=1, bar_format=form, leave=False, file=stream, dynamic_ncols=True) as bar:
            while not over.is_set():
                text, bar.n, bar.total = say()
                bar.set_description_str(text)
                over.wait(POLL_S)

    def log() -> None:
        wait_s = min(FIRST_LINE_S, every_s)
        while not over.wait(wait_s):
            print(say()[0], file=stream, flush=True)
            wait_s = every_s

    over = threading.Event()
    thread = threading.Thread(target=terminal if stream.isatty() else log, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what is done, on stderr, where that takes longer than `FIRST_LINE_S`."""
    timer = threading.Timer(FIRST_LINE_S, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Bar:
    """Shows how far the notebooks are.

    Args:
        total: how many notebooks run.
        stream: where to; a bar on a terminal, plain lines elsewhere.
        every_s: between two plain lines.
    """

    def __init__(self, total: int, stream: TextIO = sys.stderr, every_s: float = LINE_EVERY_S):
        self.total, self.stream, self.every_s = total, stream, every_s

    @contextlib.contextmanager
    def notebook(self, name: str, position: int, path: Path) -> Iterator[Callable[[str], None]]:
        """Show one notebook while it runs.

        Args:
            name: of the notebook.
            position: from 1.
            path: its progress file.

        Yields:
            A function that takes the heading of the section that begins to run.
        """
        section = [""]

        def say() -> tuple[str, int, int]:
            state = read(path)
            text = _line(name, position, self.total, section[0], state)
            return (text, state.done, state.total) if state and state.total > 0 else (text, 0, 1)

        with watched(say, self.stream, self.every_s):
            yield lambda heading: section.__setitem__(0, heading)

    @contextlib.contextmanager
    def here(self, name: str, position: int) -> Iterator[None]:
        """Show work of this very process that tells its progress.

        Args:
            name: of the work.
            position: from 1.
        """
        before = os.environ.get(VARIABLE)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "progress.json")
            os.environ[VARIABLE] = str(path)
            try:
                with self.notebook(name, position, path) as on_section:
                    on_section("reading folders")
                    yield
            finally:
                if before is None:
                    del os.environ[VARIABLE]
                else:
                    os.environ[VARIABLE] = before
