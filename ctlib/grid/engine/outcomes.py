"""What becomes of an item: its value, or why there is none."""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ctlib.core import Busy, pin_threads


@dataclass(frozen=True)
class Outcome:
    """What became of one item.

    Args:
        index: position of the item.
        value: what the function returned; None where it failed.
        error: traceback as text, or a line that says why the worker ended; None where it succeeded.
        seconds: wall time, s; 0 where the worker ended.
    """

    index: int
    value: Any
    error: str | None
    seconds: float

    @property
    def reason(self) -> str:
        """Last line of the traceback, or ''.

        >>> Outcome(0, None, "Traceback ...\\nValueError: lr is -1.\\n", 0.1).reason
        'ValueError: lr is -1.'
        """
        return self.error.strip().splitlines()[-1].strip() if self.error else ""


@dataclass(frozen=True)
class PutOff:
    """An item that another process computes; it is asked for again later.

    Args:
        index: position of the item.
        why: who computes it.
    """

    index: int
    why: str


class EngineError(RuntimeError):
    """An item of `Engine.map` failed, or the scheduler is away; the message ends with the reason."""


def call(function: Callable[[Any], Any], index: int, item: Any) -> Outcome | PutOff:
    """The function on one item, its exception caught."""
    started = time.perf_counter()
    try:
        value, error = function(item), None
    except Busy as busy:
        return PutOff(index, str(busy))
    except (Exception, SystemExit):
        value, error = None, traceback.format_exc()
    return Outcome(index, value, error, time.perf_counter() - started)


def call_in_worker(
    function: Callable[[Any], Any], index: int, item: Any, threads: int, announced: bool
) -> bytes:
    """`call` in a worker process, whose thread must be told its number of threads.

    The outcome is pickled here, where a value that does not pickle can still become an error.

    Args:
        function: what to call.
        index: position of the item.
        item: the item.
        threads: of the numeric libraries.
        announced: whether the engine is told that the item begins, as it must where time is limited.
    """
    pin_threads(threads)
    if announced:
        from distributed import get_worker
        from distributed.utils import sync

        from ctlib.grid.engine.worker import BEGUN, TOPIC

        worker = get_worker()
        told = {"kind": BEGUN, "worker": worker.address, "why": str(worker.get_current_task())}
        # the answer is waited for: an item that hangs in native code may let no other thread speak
        sync(worker.loop, worker.scheduler.log_event, topic=TOPIC, msg=told)
    outcome = call(function, index, item)
    try:
        return pickle.dumps(outcome)
    except Exception:
        return pickle.dumps(Outcome(index, None, traceback.format_exc(), getattr(outcome, "seconds", 0.0)))
