"""Handing items to workers, one each, and noticing what becomes of workers.

Dask carries items to workers and results back, and tells who is there. Which worker computes which
item is decided here: a worker has one item at a time and no queue, so a worker that dies is to be
blamed on the item it had and on no other, workers may come and go, and the scheduler holds as many
tasks as there are workers, whatever the number of items; what it notes of each is cleared from time to time.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distributed import KilledWorker
from distributed.comm import CommClosedError

from ctlib.grid.engine.outcomes import Outcome, PutOff, call_in_worker
from ctlib.grid.engine.worker import BEGUN, GPU, LEAVES, MEMORY, TOPIC

if TYPE_CHECKING:
    from ctlib.grid.engine import Engine

LOOK_S = 0.5
"""Who is there is asked this often, s."""

AGAIN_S = 2.0
"""An item that another process computes is asked for again after so long, s."""

RESULT_S = 120.0
"""A result that a worker announced must arrive within so long, s; else it is computed again."""

TELL_S = 10.0
"""That nothing moves is told after so long, s, and as often."""

FORGET_EVERY = 500
"""Items after which the scheduler is told to forget what it keeps of them."""

LOST = (CommClosedError, OSError, TimeoutError)
"""What Dask raises where the scheduler is away."""

_log = logging.getLogger(__name__)


@dataclass
class Held:
    """What a worker has."""

    index: int
    future: Any
    key: str


class Dispatch:
    """The items of one `Engine.run`, from the first to the last.

    Args:
        engine: whose workers are used.
        function: see `Engine.run`.
        items: see `Engine.run`.
        tell: takes a sentence where nothing moves.
    """

    def __init__(
        self, engine: Engine, function: Callable[[Any], Any], items: Sequence[Any], tell: Callable[[str], Any]
    ):
        self.engine, self.function, self.items, self.tell = engine, function, items, tell
        self.waiting = deque(range(len(items)))
        self.suspects: deque[int] = deque()  # whose worker died once
        self.put_off: deque[tuple[float, PutOff]] = deque()  # from when on they may be asked for again
        self.deaths: Counter[int] = Counter()
        self.held: dict[str, Held] = {}  # by address of the worker
        self.present: dict[str, Any] = {}
        self.ended: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.notices: dict[str, tuple[str, str]] = {}  # why a worker was ended, by its address
        self.begun: dict[str, float] = {}  # when an item began, by its key
        self.ending: set[str] = set()  # workers that are being ended
        self.looked = self.moved = 0.0
        self.unforgotten = 0  # items handed out since the scheduler was last told to forget
        self.client: Any = None

    def outcomes(self) -> Iterator[Outcome]:
        """Outcomes as they come."""
        self.moved = time.monotonic()
        while self.waiting or self.suspects or self.put_off or self.held:
            try:
                yield from self._step()
            except LOST as error:
                if not self.engine.address:
                    raise
                self._reconnect(error)

    def _step(self) -> Iterator[Outcome]:
        """Look, hand out, and settle what has ended."""
        if self.client is None:
            self.client = self.engine.client()
            self.client.subscribe_topic(TOPIC, self._hear)
        if self.client.status != "running":
            raise CommClosedError("the connection to the scheduler is lost")
        if time.monotonic() - self.looked > LOOK_S:
            yield from self._look()
        self._hand_out()
        try:
            address, future = self.ended.get(timeout=LOOK_S)
        except queue.Empty:
            self._tell_that_nothing_moves()
            return
        held = self.held.get(address)
        if held is None or held.future is not future:  # given up before
            return
        yield from self._settle(address, held)

    # ---- handing out ---------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give each free worker an item, while there are any."""
        for address in sorted(self.present.keys() - self.held.keys() - self.ending):
            if len(self.held) >= self.engine.at_once:
                return
            index = self._next()
            if index is None:
                return
            future = self.client.submit(
                call_in_worker,
                self.function,
                index,
                self.items[index],
                self.engine.threads,
                self.engine.limit_s > 0,
                workers=[address],
                allow_other_workers=False,
                resources={GPU: 1} if self.engine.on_gpus else None,
                pure=False,
            )
            self.unforgotten += 1
            self.held[address] = Held(index, future, str(future.key))
            future.add_done_callback(lambda done, address=address: self.ended.put((address, done)))

    def _next(self) -> int | None:
        """The next item; a suspect has this machine for itself, those that others compute come last."""
        if self.waiting:
            return self.waiting.popleft()
        if self.suspects:
            alone = self.engine.here and self.held
            return None if alone else self.suspects.popleft()
        if self.engine.here and any(self.deaths[held.index] for held in self.held.values()):
            return None
        if self.put_off and self.put_off[0][0] <= time.monotonic():
            return self.put_off.popleft()[1].index
        return None

    # ---- what becomes of it --------------------------------------------------------------

    def _settle(self, address: str, held: Held) -> Iterator[Outcome]:
        """The outcome of an item that has ended, if it has one yet."""
        future = held.future
        if future.status == "error" and isinstance(future.exception(), KilledWorker):
            yield from self._died(address)
            return
        self._drop(address)
        if future.status == "error":  # the function or the item cannot be read in the worker, for instance
            error = "".join(traceback.format_exception(future.exception()))
            yield self._done(Outcome(held.index, None, error, 0.0))
        elif future.status == "finished":
            outcome = self._result(address, future)
            if outcome is None:  # the worker is gone with it
                self.waiting.appendleft(held.index)
            elif isinstance(outcome, PutOff):
                self.put_off.append((time.monotonic() + AGAIN_S, outcome))
            else:
                yield self._done(outcome)
        else:  # cancelled: the scheduler has lost it
            self.waiting.appendleft(held.index)

    def _result(self, address: str, future: Any) -> Outcome | PutOff | None:
        """What a worker returned; None where it cannot be had any more."""
        deadline = time.monotonic() + RESULT_S
        try:
            while time.monotonic() < deadline:
                try:
                    return pickle.loads(future.result(timeout=1.0))
                except TimeoutError:
                    if address not in self.client.nthreads():
                        return None
        except (CancelledError, KilledWorker):
            return None
        finally:
            future.release()
        return None

    def _done(self, outcome: Outcome) -> Outcome:
        self.moved = time.monotonic()
        return outcome

    def _drop(self, address: str) -> Held:
        held = self.held.pop(address)
        self.begun.pop(held.key, None)
        return held

    def _died(self, address: str) -> Iterator[Outcome]:
        """A worker is gone: its item is handed out once more, unless it is known to be the reason."""
        held = self._drop(address)
        self.present.pop(address, None)
        held.future.cancel(reason="worker is gone")
        kind, why = self.notices.pop(address, ("", ""))
        if kind == LEAVES:
            self.waiting.appendleft(held.index)
            return
        self.deaths[held.index] += 1
        if self.deaths[held.index] == 1:  # also for its memory: of that, some may be left from items before
            self.suspects.append(held.index)
            return
        again = "had the machine for itself" if self.engine.here else "was given to another worker"
        if kind == MEMORY:
            error = f"OutOfMemory: the worker process was ended, for {why}, and again when it {again}.\n"
        else:
            error = (
                f"WorkerDied: the worker process died at this item, and again when it {again} "
                "(a crash in native code, or the system wanted memory).\n"
            )
        yield self._done(Outcome(held.index, None, error, 0.0))

    # ---- watching ------------------------------------------------------------------------

    def _hear(self, event: tuple[float, dict[str, str]]) -> None:
        """An event of a worker; called in Dask's thread."""
        kind, worker, why = event[1]["kind"], event[1]["worker"], event[1]["why"]
        if kind == BEGUN:
            self.begun[why] = time.monotonic()
        elif worker in self.held:
            self.notices[worker] = (kind, why)

    def _look(self) -> Iterator[Outcome]:
        """See who is there, who is gone, and what takes too long."""
        self.looked = time.monotonic()
        there = self.client.nthreads()
        if self.engine.on_gpus and there.keys() - self.present.keys():
            told = self.client.scheduler_info(n_workers=-1)["workers"]
            has = {address for address, worker in told.items() if worker["resources"].get(GPU)}
            there = {address: n for address, n in there.items() if address in has}
        self.present = there
        self.ending &= there.keys()
        for address in [address for address in self.held if address not in there]:
            yield from self._died(address)
        self.engine.restore(len(there))
        if self.unforgotten >= FORGET_EVERY:
            self.client.run_on_scheduler(_forget)
            self.unforgotten = 0
        if not self.engine.limit_s:
            return
        for address, held in list(self.held.items()):
            begun = self.begun.get(held.key)
            if begun is not None and time.monotonic() - begun > self.engine.limit_s:
                yield self._late(address)

    def _late(self, address: str) -> Outcome:
        """End the worker of an item that takes too long."""
        held = self._drop(address)
        self.ending.add(address)
        held.future.cancel(reason="time limit")
        threading.Thread(target=_end, args=(self.client, address), daemon=True).start()
        error = f"TimeLimit: the run was ended: it reached the time limit of {self.engine.limit_s:g} s.\n"
        return self._done(Outcome(held.index, None, error, 0.0))

    def _tell_that_nothing_moves(self) -> None:
        if time.monotonic() - self.moved < TELL_S:
            return
        self.moved = time.monotonic()
        if not self.present:
            self.tell("no worker has come yet")
        elif self.put_off and not self.held:
            self.tell(f"{len(self.put_off)} are computed by other processes; {self.put_off[0][1].why}")

    def _reconnect(self, error: BaseException) -> None:
        """The scheduler is away: wait for it, and hand out again what was not done."""
        _log.warning("the scheduler at %s is away: %s", self.engine.address, error)
        self.waiting.extendleft(sorted((held.index for held in self.held.values()), reverse=True))
        for table in (self.held, self.present, self.notices, self.begun, self.ending):
            table.clear()
        self.ended = queue.SimpleQueue()  # what still comes is of the old connection
        self.client, self.looked = None, 0.0
        self.engine.reconnect()
        self.moved = time.monotonic()


def _forget(dask_scheduler: Any) -> None:
    """Called in the scheduler, whose spans keep a note of each graph they were handed, here one an item."""
    spans = dask_scheduler.extensions.get("spans")
    for span in spans.spans.values() if spans else ():
        if span._metadata:
            span._metadata["collections"].clear()


def _end(client: Any, address: str) -> None:
    """Let the nanny of a worker kill it; the nanny starts a new one."""
    try:
        client.run(_kill, workers=[address], nanny=True)
    except Exception as error:
        _log.warning("the worker %s could not be ended: %s", address, error)


def _kill(dask_worker: Any) -> None:
    """Called in the nanny."""
    if dask_worker.pid is not None:
        os.kill(dask_worker.pid, signal.SIGKILL)
