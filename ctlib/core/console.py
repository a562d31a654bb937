"""The live bar of the command line: which notebook, which run of how many, time left.

Where the output is no terminal (the log of a CI, a file), the same is said in plain lines.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ctlib.core import progress

POLL_S = 0.5
LINE_EVERY_S = 30.0
"""Between two plain lines, s."""


def left(seconds: float | None) -> str:
    """Time left, as rough as it is known.

    >>> left(8.0), left(47.0), left(200.0), left(4000.0), left(None)
    ('less than 10 s left', 'about 50 s left', 'about 3 min left', 'about 1 h 7 min left', '')
    """
    if seconds is None:
        return ""
    if seconds <= 10:
        return "less than 10 s left"
    if seconds < 90:
        return f"about {round(seconds / 10) * 10} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min left"


def line(name: str, position: int, total: int, section: str, state: progress.State | None) -> str:
    """What the bar says.

    >>> state = progress.State("finetuning runs", done=3, total=9, started_s=time.time() - 300)
    >>> line("03_finetune_grid", 3, 4, "The runs", state)
    '[3 of 4] 03_finetune_grid: finetuning runs, 3 of 9, about 10 min left'
    """
    head = f"[{position} of {total}] {name}"
    if state is None or state.done >= state.total:
        return f"{head}: {section}" if section else head
    rest = left(state.left_s(time.time()))
    return f"{head}: {state.what}, {state.done} of {state.total}" + (f", {rest}" if rest else "")


def _read(path: Path) -> progress.State | None:
    try:
        return progress.read(path)
    except FileNotFoundError:  # removed between the look and the reading: the notebook has just ended
        return None


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
        over = threading.Event()
        watch = self._watch_terminal if self.stream.isatty() else self._watch_log

        def say() -> tuple[str, progress.State | None]:
            state = _read(path)
            return line(name, position, self.total, section[0], state), state

        thread = threading.Thread(target=watch, args=(say, over), daemon=True)
        thread.start()
        try:
            yield lambda heading: section.__setitem__(0, heading)
        finally:
            over.set()
            thread.join()

    @contextlib.contextmanager
    def here(self, name: str, position: int) -> Iterator[None]:
        """Show work of this very process that tells its progress.

        Args:
            name: of the work.
            position: from 1.
        """
        before = os.environ.get(progress.VARIABLE)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "progress.json")
            os.environ[progress.VARIABLE] = str(path)
            try:
                with self.notebook(name, position, path) as on_section:
                    on_section("reading folders")
                    yield
            finally:
                if before is None:
                    del os.environ[progress.VARIABLE]
                else:
                    os.environ[progress.VARIABLE] = before

    def _watch_terminal(self, say: Callable[[], tuple[str, Any]], over: threading.Event) -> None:
        from tqdm import tqdm

        form = "{desc} |{bar:24}|"
        with tqdm(
            desc=say()[0], total=1, bar_format=form, leave=False, file=self.stream, dynamic_ncols=True
        ) as bar:
            while not over.is_set():
                text, state = say()
                known = state is not None and state.total > 0
                bar.total, bar.n = (state.total, state.done) if known and state else (1, 0)
                bar.set_description_str(text)
                over.wait(POLL_S)

    def _watch_log(self, say: Callable[[], tuple[str, Any]], over: threading.Event) -> None:
        while not over.wait(self.every_s):
            print(say()[0], file=self.stream, flush=True)
