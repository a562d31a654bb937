"""Where work executes: in this process, in worker processes on this machine, or on a cluster (Dask).

One idea: `Engine.run(function, items)` gives one `Outcome` an item, in order. An item that
raises is an outcome with its traceback and stops no other; a worker process that dies is
replaced and its item tried again. Results do not depend on the number of workers: each
worker computes with the same number of threads.
"""

from __future__ import annotations

import logging
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ctlib import progress
from ctlib.threads import THREAD_VARIABLES, pin_threads, pinned_threads

DASK_CONFIG = {
    "distributed.worker.multiprocessing-method": "spawn",  # fork copies locks held by torch's threads
    "distributed.worker.daemon": False,  # so that a worker may have loader processes of its own
    "distributed.worker.profile.enabled": False,  # a sampling thread that competes for the GIL
    "distributed.admin.low-level-log-length": 0,
    "distributed.comm.timeouts.connect": "60s",  # importing torch on a busy machine
    "distributed.scheduler.allowed-failures": 0,  # items are tried again here, see `Engine._in_workers`
}


@dataclass(frozen=True)
class Outcome:
    """What became of one item.

    Args:
        index: position of the item.
        value: what the function returned; None where it failed.
        error: traceback as text; None where it succeeded.
        seconds: wall time, s; 0 where the worker died.
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


def _call(function: Callable[[Any], Any], index: int, item: Any) -> Outcome:
    """The function on one item, its exception caught."""
    started = time.perf_counter()
    try:
        value, error = function(item), None
    except (Exception, SystemExit):
        value, error = None, traceback.format_exc()
    return Outcome(index, value, error, time.perf_counter() - started)


def _call_in_worker(function: Callable[[Any], Any], index: int, item: Any, threads: int) -> bytes:
    """`_call` in a worker process, whose thread must be told its number of threads.

    The outcome is pickled here, where a value that does not pickle can still become an error.
    """
    pin_threads(threads)
    outcome = _call(function, index, item)
    try:
        return pickle.dumps(outcome)
    except Exception:
        return pickle.dumps(Outcome(index, None, traceback.format_exc(), outcome.seconds))


def _died(future: Any) -> bool:
    """Whether a future failed because its worker process died."""
    from distributed import KilledWorker

    return future.status == "error" and isinstance(future.exception(), KilledWorker)


def _outcome(index: int, future: Any) -> Outcome:
    """The outcome of a future, also where it is not the function that failed."""
    if future.status == "finished":
        return pickle.loads(future.result())
    if _died(future):
        error = (
            "WorkerDied: the worker process died at this item, and again when it had the machine for itself "
            "(a crash in native code, or the system wanted memory).\n"
        )
    else:  # the function or the item cannot be read in the worker, for instance
        error = "".join(traceback.format_exception(future.exception()))
    return Outcome(index, None, error, 0.0)


class EngineError(RuntimeError):
    """An item of `Engine.map` failed; the message ends with its traceback."""


class Engine:
    """Runs a function over items; a context manager that ends its workers.

    Args:
        workers: worker processes; 0 runs in this process, one item after the other.
        threads: threads each of them computes with. Results are the same for any number
            of workers, but may differ in the last bits for another number of threads.
        dashboard: serve Dask's dashboard on this machine; `client().dashboard_link` is its address.
        scheduler: address of a Dask scheduler whose workers are used, `workers` items at once; ""
            starts processes here. They must see the same files under the same paths.

    Raises:
        ValueError: fewer than 0 workers, fewer than 1 thread, or a scheduler and no workers.
    """

    def __init__(self, workers: int, threads: int = 1, dashboard: bool = False, scheduler: str = ""):
        if workers < 0 or threads < 1:
            raise ValueError(
                f"Engine: workers is {workers}, threads is {threads}; give at least 0 workers (0 is this "
                "process) and at least 1 thread."
            )
        if scheduler and not workers:
            raise ValueError(f"Engine: scheduler is {scheduler!r}, workers is 0; give at least 1 worker.")
        self.workers, self.threads, self.dashboard, self.scheduler = workers, threads, dashboard, scheduler
        self._client: Any = None

    def __repr__(self) -> str:
        where = f"{self.workers} worker processes" if self.workers else "this process"
        where += f" at {self.scheduler}" if self.scheduler else ""
        return f"Engine({where}, {self.threads} thread each)"

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes that were started here; a later `run` starts new ones."""
        client, self._client = self._client, None
        if client is None:
            return
        cluster = client.cluster
        try:
            client.close(timeout=2)
        finally:  # also where the client was too busy to say goodbye
            if cluster is not None:
                cluster.close(timeout=10)

    def client(self) -> Any:
        """The Dask client; the first call starts the workers (about 2 s)."""
        if self._client is None and self.scheduler:
            from distributed import Client

            self._client = Client(self.scheduler, timeout="60s")
        if self._client is None:
            import dask
            from distributed import Client, LocalCluster

            environment = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
            with dask.config.set(DASK_CONFIG):
                cluster = LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    # any free port: the usual one may be taken, and Dask warns
                    scheduler_kwargs={"dashboard": self.dashboard, "dashboard_address": "127.0.0.1:0"},
                    memory_limit=None,  # no spilling, pausing or killing
                    silence_logs=logging.CRITICAL,  # failures come back as outcomes
                    env=environment,
                    preload="ctlib.engine",
                )
                self._client = Client(cluster)
        return self._client

    def run(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        what: str = "runs",
        note: Callable[[Outcome], str] | None = None,
        on_done: Callable[[Outcome], None] | None = None,
    ) -> list[Outcome]:
        """The function on every item.

        Args:
            function: at the top level of a module, so that a worker finds it.
            items: anything that pickles.
            what: what is counted, in plural, for the progress bar.
            note: a line for the progress bar, from what was last done.
            on_done: called in this process as items end, in the order in which they end.

        Returns:
            One outcome an item, in the order of the items.

        Raises:
            KeyboardInterrupt: after the workers were ended.
        """
        outcomes: list[Outcome | None] = [None] * len(items)
        started = time.time()
        progress.report(what, 0, len(items), started)
        ended = self._in_workers(function, items) if self.workers else self._here(function, items)
        try:
            for done, outcome in enumerate(ended, start=1):
                outcomes[outcome.index] = outcome
                if on_done is not None:
                    on_done(outcome)
                progress.report(what, done, len(items), started, note(outcome) if note else "")
        except BaseException:
            self.close()  # not at the end of the with statement: an interrupted notebook cell may go on
            raise
        return [outcome for outcome in outcomes if outcome is not None]

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], what: str = "items") -> list[Any]:
        """What the function returned for every item, in order, where no failure is acceptable.

        Raises:
            EngineError: an item failed; the others were computed nevertheless.
        """
        outcomes = self.run(function, items, what)
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        if failed:
            raise EngineError(f"{len(failed)} of {len(items)} {what} failed; the first:\n{failed[0].error}")
        return [outcome.value for outcome in outcomes]

    def _here(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Outcome]:
        for index, item in enumerate(items):
            with pinned_threads(self.threads):
                outcome = _call(function, index, item)
            yield outcome

    def _in_workers(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Outcome]:
        """Outcomes as they come; items whose worker died come last, once more and each alone.

        Where a worker dies, Dask blames every item it held. One that is alone is blamed rightly,
        and has the memory of the machine for itself.
        """
        if not items:
            return
        suspects = []
        for index, future in self._handed_out(function, list(enumerate(items)), self.workers):
            if _died(future):
                suspects.append((index, items[index]))
            else:
                yield _outcome(index, future)
        for index, future in self._handed_out(function, suspects, 1):
            yield _outcome(index, future)

    def _handed_out(
        self, function: Callable[[Any], Any], items: Sequence[tuple[int, Any]], at_once: int
    ) -> Iterator[tuple[int, Any]]:
        """Indices and their futures as they end, so many at once, begun in order."""
        from distributed import as_completed

        client, waiting = self.client(), iter(items)
        indices: dict[Any, int] = {}
        running = as_completed()

        def hand_out() -> None:
            for index, item in waiting:
                future = client.submit(_call_in_worker, function, index, item, self.threads, pure=False)
                indices[future] = index
                running.add(future)
                return

        for _ in range(at_once):
            hand_out()
        for future in running:
            hand_out()
            yield indices.pop(future), future


def dask_setup(worker: Any) -> None:
    """Called by Dask in each worker process when it starts (`preload`).

    Ctrl-C reaches every process of a terminal; only the one that holds the engine acts on it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
