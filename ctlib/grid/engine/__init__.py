"""Where work executes: in this process, in worker processes on this machine, or on a cluster (Dask).

One idea: `Engine.run(function, items)` gives one `Outcome` an item, in order. An item that raises is
an outcome with its traceback and stops no other; a worker process that dies is replaced and its item
tried again; an item that takes too long or too much memory is ended and says so. A scheduler that is
away is waited for, and what was not finished is handed out again, so a function that takes long leaves
its results in files and returns at once where they are there. Results do not depend on the number of
workers: each worker computes with the same number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from ctlib.core import pinned_threads, progress
from ctlib.grid.engine import clusters
from ctlib.grid.engine.clusters import Cluster
from ctlib.grid.engine.outcomes import EngineError, Outcome, PutOff, call

__all__ = ["Engine", "EngineError", "Outcome"]

RESTORE_S = 30.0
"""Workers that are missing for good are started again this often, s."""


class Engine:
    """Runs a function over items; a context manager that ends its workers.

    Args:
        workers: worker processes at most; 0 runs in this process, one item after the other. For a
            scheduler, items at once; for a queue, jobs.
        threads: threads each of them computes with. Results are the same for any number
            of workers, but may differ in the last bits for another number of threads.
        dashboard: serve Dask's dashboard; `client().dashboard_link` is its address.
        scheduler: the same as `cluster`, where that is an address.
        cluster: where workers are, see `ctlib.grid.engine.clusters`: `local`, the address of a Dask scheduler, or a
            queue. They must see the same files under the same paths.
        cluster_options: what a queue is asked for.
        gpu: whether items use a GPU where there is one: then a worker has one to itself.
        peak_mb: memory one item needs, MB: no more workers are started here than fit; 0 is unknown.
        memory_mb: an item whose worker holds more, MB, is ended and recorded; 0 is nine tenths of this
            machine's memory, and what the queue was asked for. A scheduler's workers have the limit
            they were started with.
        limit_s: an item that takes longer, s, is ended and recorded; 0 is no limit.
        reconnect_s: how long a scheduler may be away, s, before `run` gives up.

    Raises:
        ValueError: fewer than 0 workers, fewer than 1 thread, a negative limit, a cluster and no
            workers, or limits and no worker that could be ended.
        ClusterError: a `ValueError` too: an unknown cluster or option.
    """

    def __init__(
        self,
        workers: int,
        threads: int = 1,
        dashboard: bool = False,
        scheduler: str = "",
        *,
        cluster: str = "local",
        cluster_options: Sequence[str] = (),
        gpu: bool = False,
        peak_mb: float = 0.0,
        memory_mb: float = 0.0,
        limit_s: float = 0.0,
        reconnect_s: float = 600.0,
    ):
        if workers < 0 or threads < 1:
            raise ValueError(
                f"Engine: workers is {workers}, threads is {threads}; give at least 0 workers (0 is this "
                "process) and at least 1 thread."
            )
        if min(peak_mb, memory_mb, limit_s, reconnect_s) < 0:
            raise ValueError("Engine: a memory or a time is negative; give 0 for no limit.")
        if scheduler and cluster not in ("local", scheduler):
            raise ValueError(
                f"Engine: scheduler is {scheduler!r} and cluster is {cluster!r}; give one of them."
            )
        self.cluster = Cluster.of(scheduler or cluster, cluster_options)
        self.here = self.cluster.kind == "local"
        if not self.here and not workers:
            kind = "scheduler" if self.cluster.address else "cluster"
            raise ValueError(
                f"Engine: {kind} is {scheduler or cluster!r}, workers is 0; give at least 1 worker."
            )
        if not workers and (limit_s or memory_mb):
            raise ValueError(
                f"Engine: limit_s is {limit_s:g}, memory_mb is {memory_mb:g}, workers is 0; an item in this "
                "process cannot be ended: give at least 1 worker, or 0 for both."
            )
        gpus = _n_gpus() if gpu and self.here and workers else 0
        self.workers = clusters.fitting(workers, peak_mb, gpus) if self.here and workers else workers
        self.on_gpus = bool(gpus) if self.here else gpu and self.cluster.gpus
        self.threads, self.dashboard, self.gpu = threads, dashboard, gpu
        self.memory_mb, self.limit_s, self.reconnect_s = memory_mb, limit_s, reconnect_s
        self._client: Any = None
        self._restored = 0.0

    def __repr__(self) -> str:
        where = f"{self.workers} worker processes" if self.workers else "this process"
        where += "" if self.here else f" at {self.address or self.cluster.kind}"
        where += ", a GPU each" if self.on_gpus else ""
        return f"Engine({where}, {self.threads} thread each)"

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Of a scheduler that this engine did not start; '' where it did."""
        return self.cluster.address

    @property
    def at_once(self) -> int:
        """Items that are computed at once, at most."""
        return self.workers

    def close(self) -> None:
        """End the worker processes and jobs that were started here; a later `run` starts new ones."""
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
        """The Dask client; the first call starts the workers (about 2 s), or submits the jobs."""
        if self._client is None:
            if self.address:
                self._client = clusters.connected(self.address, 60.0)
            elif self.here:
                asked = (self.workers, self.threads, self.on_gpus, self.memory_mb, self.dashboard)
                self._client = clusters.connected(clusters.local(*asked))
            else:
                self._client = clusters.connected(clusters.queue(self.cluster, self.threads, self.dashboard))
                self.restore(0)
        return self._client

    def restore(self, there: int) -> None:
        """Start again, now and then, workers that are missing while there is work.

        A queue's jobs end. Workers here are started anew by their nannies, but Dask gives up a nanny whose
        worker is not back within its `lost-worker-timeout` (15 s), which a busy machine may take.
        """
        if self.address or there >= self.workers:
            return
        if self._client is not None and time.monotonic() - self._restored > RESTORE_S:
            self._restored = time.monotonic()
            self._client.cluster.scale(**{"n" if self.here else "jobs": self.workers})

    def reconnect(self) -> None:
        """Wait for the scheduler to come back at its address.

        Raises:
            EngineError: it was away for `reconnect_s`.
        """
        self.close()
        deadline = time.monotonic() + self.reconnect_s
        while True:
            try:
                self._client = clusters.connected(self.address, 5.0)
                return
            except (OSError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"the scheduler at {self.address} was away for {self.reconnect_s:g} s ({error}). "
                        "What is finished is kept: start the scheduler and run this again."
                    ) from error
                time.sleep(0.5)

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
            function: at the top level of a module, so that a worker finds it. It may be called twice
                for an item, where a worker or the scheduler was lost. Where it raises
                `ctlib.core.locks.Busy`, the item is asked for again when others are done.
            items: anything that pickles.
            what: what is counted, in plural, for the progress bar.
            note: a line for the progress bar, from what was last done.
            on_done: called in this process as items end, in the order in which they end.

        Returns:
            One outcome an item, in the order of the items.

        Raises:
            KeyboardInterrupt: after the workers were ended.
            EngineError: the scheduler was away for too long.
        """
        outcomes: list[Outcome | None] = [None] * len(items)
        started, done = time.time(), 0

        def tell(line: str) -> None:
            progress.report(what, done, len(items), started, line)

        tell("")
        ended = self._in_workers(function, items, tell) if self.workers else self._here(function, items, tell)
        try:
            for outcome in ended:
                done += 1
                outcomes[outcome.index] = outcome
                if on_done is not None:
                    on_done(outcome)
                tell(note(outcome) if note else "")
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

    def _here(
        self, function: Callable[[Any], Any], items: Sequence[Any], tell: Callable[[str], Any]
    ) -> Iterator[Outcome]:
        """In this process; what other processes compute is asked for again until they are done."""
        left = list(range(len(items)))
        while left:
            put_off = []
            for index in left:
                with pinned_threads(self.threads):
                    outcome = call(function, index, items[index])
                if isinstance(outcome, PutOff):
                    put_off.append(outcome)
                else:
                    yield outcome
            if put_off and len(put_off) == len(left):
                tell(f"{len(put_off)} are computed by other processes; {put_off[0].why}")
                time.sleep(1.0)
            left = [off.index for off in put_off]

    def _in_workers(
        self, function: Callable[[Any], Any], items: Sequence[Any], tell: Callable[[str], Any]
    ) -> Iterator[Outcome]:
        """Outcomes as they come."""
        if items:
            from ctlib.grid.engine.dispatch import Dispatch  # and with it Dask, where there is work for it

            yield from Dispatch(self, function, items, tell).outcomes()


def _n_gpus() -> int:
    from ctlib.grid.engine import worker

    return len(worker.visible_gpus())
