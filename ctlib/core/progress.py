"""Progress that leaves a notebook's kernel: a small file that the command line watches.

`python -m ctlib run` names the file in the environment variable `CTLIB_PROGRESS`; without
it nothing is written, and the notebook's own lines are all that is shown.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ctlib.core.workspace import write_text

VARIABLE = "CTLIB_PROGRESS"
"""Environment variable that names the file."""


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
    if not path.is_file():
        return None
    return State(**json.loads(path.read_text(encoding="utf-8")))
