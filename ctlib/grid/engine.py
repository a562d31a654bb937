"""Where work executes: in this process, in worker processes on this machine, or on a cluster (Dask).

One idea: `Engine.run(function, items)` gives one `Outcome` an item, in order. An item that raises is
an outcome with its traceback and stops no other; a worker process that dies is replaced and its item
tried again; an item that takes too long or too much memory is ended and says so. A scheduler that is
away is waited for, and what was not finished is handed out again, so a function that takes long leaves
its results in files and returns at once where they are there. Results do not depend on the number of
workers: each worker computes with the same number of threads.

Dask carries items to workers and results back, starts workers again, and notes why they went. Which worker
computes which item is decided here: a worker has one item at a time and no queue, so a worker that dies is
to be blamed on the item it had and on no other, and the scheduler holds as many tasks as there are workers.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctlib.core import Busy, GpuError, pin_threads, pinned_threads, progress
from ctlib.grid import clusters, credentials, gpus
from ctlib.grid.clusters import Cluster

RESTORE_S = 30.0
"""Workers that are missing for good are started again this often, s."""

LOOK_S = 0.5
"""Who is there is asked this often, s."""

AGAIN_S = 2.0
"""An item that another process computes is asked for again after so long, s."""

RESULT_S = 30.0
"""A result that a worker announced must arrive within so long, s; else it is computed again."""

TELL_S = 10.0
"""That nothing moves is told after so long, s, and as often."""

FORGET_EVERY = 500
"""Items after which the scheduler is told to forget what it keeps of them."""

KEPT = "What is finished is kept: run this again."
_log = logging.getLogger(__name__)


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
    seconds: float = 0.0

    @property
    def reason(self) -> str:
        """Last line of the traceback, or ''.

        >>> Outcome(0, None, "Traceback ...\\nValueError: lr is -1.\\n", 0.1).reason
        'ValueError: lr is -1.'
        """
        return self.error.strip().splitlines()[-1].strip() if self.error else ""


class EngineError(RuntimeError):
    """An item of `Engine.map` failed, or the scheduler is away; the message ends with the reason."""


class Engine(contextlib.AbstractContextManager["Engine"]):
    """Runs a function over items; a context manager that ends its workers.

    Args:
        workers: worker processes at most; 0 runs in this process, one item after the other. For a
            scheduler, items at once; for a queue, jobs.
        threads: threads each of them computes with. Results are the same for any number
            of workers, but may differ in the last bits for another number of threads.
        dashboard: serve Dask's dashboard; `client().dashboard_link` is its address.
        cluster: where workers are, see `ctlib.grid.clusters`: `local`, the address of a Dask scheduler, or a
            queue. They must see the same files under the same paths.
        cluster_options: what a queue is asked for.
        gpu: whether items use a GPU where there is one: then a worker has one, or its part of it.
        memory_mb: an item whose worker holds more, MB, is ended and recorded; 0 is nine tenths of this
            machine's memory, and what the queue was asked for. A scheduler's workers have the limit
            they were started with.
        devices: GPUs that an item takes, of one machine; of more than one, none is shared.
        runs_a_gpu: items that share a GPU; 0 is one, until `share` chooses. As a scheduler's workers were started.
        limit_s: an item that takes longer, s, is ended and recorded; 0 is no limit.
        reconnect_s: how long a scheduler may be away, s, before `run` gives up.
        credentials: file of a scheduler's credentials (`ctlib.grid.credentials`); for a queue it is made.
        unencrypted: do without, for a scheduler at tcp:// or a queue: whoever reaches it can run code as you.

    Raises:
        ValueError: fewer than 0 workers, 1 thread or GPUs of an item, a negative limit, a cluster and no
            workers, or limits and no worker that could be ended.
        ClusterError: a `ValueError` too: an unknown cluster or option, or a scheduler without credentials.
    """

    def __init__(
        self,
        workers: int,
        threads: int = 1,
        dashboard: bool = False,
        *,
        cluster: str = "local",
        cluster_options: Sequence[str] = (),
        gpu: bool = False,
        memory_mb: float = 0.0,
        runs_a_gpu: int = 1,
        devices: int = 1,
        limit_s: float = 0.0,
        reconnect_s: float = 600.0,
        credentials: Path | None = None,
        unencrypted: bool = False,
    ):
        if workers < 0 or threads < 1:
            raise ValueError(
                f"Engine: workers is {workers}, threads is {threads}; give at least 0 workers (0 is this "
                "process) and at least 1 thread."
            )
        if min(memory_mb, limit_s, reconnect_s) < 0:
            raise ValueError("Engine: a memory or a time is negative; give 0 for no limit.")
        if runs_a_gpu < 0:
            raise ValueError(f"Engine: runs_a_gpu is {runs_a_gpu}; give 0 to have it chosen, or 1 or more.")
        self.cluster = Cluster.of(cluster, cluster_options, unencrypted, devices)
        self.here = self.cluster.kind == "local"
        if not self.here and not workers:
            raise ValueError(f"Engine: cluster is {cluster!r}, workers is 0; give at least 1 worker.")
        if not workers and (limit_s or memory_mb):
            raise ValueError(
                f"Engine: limit_s is {limit_s:g}, memory_mb is {memory_mb:g}, workers is 0; an item in this "
                "process cannot be ended: give at least 1 worker, or 0 for both."
            )
        if not (self.here or credentials or unencrypted):
            raise ValueError(f"Engine: cluster is {cluster!r}; give the file of its credentials.")
        self.credentials = None if unencrypted else credentials
        self.gpus = gpus.visible_gpus() if gpu and self.here and workers else ()
        self.on_gpus = bool(self.gpus) if self.here else gpu and self.cluster.gpus
        if self.gpus and len(self.gpus) < devices:
            raise ValueError(f"devices is {devices}, and GPUs here are {len(self.gpus)}; give at most that.")
        self.asked, self.devices, self.found = (workers, runs_a_gpu), devices, list[gpus.Gpu]()
        self.largest: gpus.Load | None = None  # what must fit on the GPUs of workers elsewhere
        self._share(runs_a_gpu or 1)
        self.threads, self.dashboard = threads, dashboard
        self.memory_mb, self.limit_s, self.reconnect_s = memory_mb, limit_s, reconnect_s
        self.address = self.cluster.address  # of a scheduler that this engine did not start, or ''
        self._client: Any = None
        self._restored = 0.0

    def _share(self, runs: int) -> None:
        """So many items share a GPU; where workers have begun otherwise, they end."""
        workers, self.runs_a_gpu = self.asked[0], runs
        here, elsewhere = len(self.gpus) // self.devices * runs, workers * (runs if self.on_gpus else 1)
        self.workers = min(workers, here) if self.gpus else elsewhere

    def share(self, loads: Sequence[gpus.Load], loader_workers: int = 0) -> str:
        """Choose how many items share a GPU here, or check what was asked for; elsewhere, who has too little gets none.

        Args:
            loads: what the items ask of a GPU, one kind at least.
            loader_workers: processes beside each worker.

        Returns:
            A sentence; "" where no GPU here is used.

        Raises:
            GpuError: a GPU cannot be used, or the items do not fit on it.
        """
        self.largest = None if self.here else max(loads, key=lambda load: load.peak_mb)
        if not self.gpus:
            return ""
        from dask.system import cpu_count

        workers, asked = self.asked
        of_cores = cpu_count() // (len(self.gpus) * (1 + loader_workers))
        most = max(1, min(of_cores, math.ceil(workers / len(self.gpus))))
        # once: later, workers hold some of it
        self.found = self.found or gpus.probe(self.gpus, asked or most)
        runs = gpus.runs_a_gpu(asked, self.found, loads, most)
        if runs != self.runs_a_gpu:
            self.close()
            self._share(runs)
        return f"GPUs: {len(self.gpus)} of {self.found[0].title}; runs at once on each: {runs}."

    def __repr__(self) -> str:
        where = f"{self.workers} worker processes" if self.workers else "this process"
        where += "" if self.here else f" at {self.address or self.cluster.kind}"
        if self.on_gpus:
            where += ", a GPU each" if self.runs_a_gpu == 1 else f", {self.runs_a_gpu} on a GPU"
        return f"Engine({where}, {self.threads} thread each)"

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes and jobs that were started here; a later `run` starts new ones."""
        client, self._client = self._client, None
        if client is None:
            return
        cluster = client.cluster
        try:
            client.close(timeout=2)
        except TimeoutError:  # busy, or its scheduler is gone: it ends by itself
            _log.info("the Dask client did not close within 2 s")
        finally:
            if cluster is not None:
                cluster.close(timeout=60)

    def client(self, timeout_s: float = 60.0) -> Any:
        """The Dask client; the first call starts the workers (about 2 s), or submits the jobs.

        Args:
            timeout_s: how long a scheduler elsewhere may take to answer, s.

        Raises:
            OSError: no scheduler answers at the address, or it has other credentials.
            CredentialsError: the file of credentials cannot be used.
            GpuError: a GPU of this machine cannot be used.
        """
        if self._client is None:
            if self.credentials and not (self.here or self.address):
                credentials.make(self.credentials)
            security = credentials.read(self.credentials) if self.credentials and not self.here else None
            if self.address:
                self._client = clusters.connected(self.address, timeout_s, security)
            elif self.here:
                self.found = self.found or gpus.probe(self.gpus, self.runs_a_gpu)
                shares = gpus.shares(self.found, self.runs_a_gpu, self.devices)
                asked = (self.workers, self.threads, shares, self.memory_mb, self.dashboard)
                self._client = clusters.connected(clusters.local(*asked))
            else:
                runs = self.workers // self.asked[0]
                one_job = (self.threads, self.dashboard, security, runs, self.devices)
                jobs = clusters.queue(self.cluster, *one_job)
                self._client = clusters.connected(jobs)
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
            self._client.cluster.scale(n=self.workers)

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
                `ctlib.core.Busy`, the item is asked for again when others are done. Where it raises
                `ctlib.core.GpuError`, the item is given to another worker, and that one gets no more.
            items: anything that pickles.
            what: what is counted, in plural, for the progress bar.
            note: a line for the progress bar, from what was last done.
            on_done: called in this process as items end, in the order in which they end.

        Returns:
            One outcome an item, in the order of the items.

        Raises:
            KeyboardInterrupt: after the workers were ended.
            EngineError: the scheduler was away for too long, or no GPU of this machine can be used any more.
        """
        outcomes: list[Outcome | None] = [None] * len(items)
        started, done = time.time(), 0

        def tell(line: str) -> None:
            progress.report(what, done, len(items), started, line)

        tell("")
        ended = (
            _Dispatch(self, function, items, tell).outcomes()
            if self.workers
            else self._here(function, items, tell)
        )
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
            put_off: dict[int, str] = {}
            for index in left:
                with pinned_threads(self.threads):
                    outcome = _call(function, index, items[index])
                if isinstance(outcome, GpuError):
                    raise EngineError(f"{outcome} {KEPT}")
                if isinstance(outcome, str):
                    put_off[index] = outcome
                else:
                    yield outcome
            if put_off and len(put_off) == len(left):
                tell(f"{len(put_off)} are computed by other processes; {put_off[left[0]]}")
                time.sleep(1.0)
            left = list(put_off)


# ---- in workers ------------------------------------------------------------------------


@dataclass
class _Held:
    """What a worker has."""

    index: int
    future: Any
    worker: str


class _Dispatch:
    """The items of one `Engine.run`, from the first to the last; arguments as there."""

    def __init__(
        self, engine: Engine, function: Callable[[Any], Any], items: Sequence[Any], tell: Callable[[str], Any]
    ):
        self.engine, self.function, self.items, self.tell = engine, function, items, tell
        self.waiting = deque(range(len(items)))
        self.suspects: deque[int] = deque()  # whose worker died once
        self.put_off: deque[tuple[float, int, str]] = deque()  # when to ask again for it, and who computes it
        self.deaths: Counter[int] = Counter()
        self.held: list[_Held] = []
        self.ended = threading.Event()  # some item has
        self.present: set[str] = set()  # addresses of workers
        self.lost: dict[str, str] = {}  # workers whose GPU cannot be used any more, and why
        self.looked = self.moved = 0.0
        self.known = False  # whether the scheduler has ever answered
        self.lost_at = 0.0  # since when it does not
        self.unforgotten = 0  # items handed out since the scheduler was last told to forget
        self.client: Any = None

    def outcomes(self) -> Iterator[Outcome]:
        """Outcomes as they come."""
        self.moved = time.monotonic()
        while self.waiting or self.suspects or self.put_off or self.held:
            try:
                for outcome in self._step():
                    self.moved = time.monotonic()
                    yield outcome
            except OSError as error:  # Dask's too, where the scheduler is away
                if not self.engine.address or not self.known:
                    raise
                self._away(error)

    def _step(self) -> Iterator[Outcome]:
        """Look, hand out, and settle what has ended."""
        self.client = self.engine.client(5.0 if self.known else 60.0)
        if self.client.status != "running":
            raise OSError("the connection to the scheduler is lost")
        if time.monotonic() - self.looked > LOOK_S:
            yield from self._look()
        self._hand_out()
        self.ended.wait(LOOK_S)
        self.ended.clear()
        for held in [held for held in self.held if held.future.status != "pending"]:
            yield from self._settle(held)
        self._tell_that_nothing_moves()

    def _look(self) -> Iterator[Outcome]:
        """See who is there and who is gone."""
        if self.engine.on_gpus or self.engine.largest:
            told = self.client.scheduler_info(n_workers=-1)["workers"]
            parts = {address: one["resources"].get(gpus.GPU_MB, 0.0) for address, one in told.items()}
            self.present = {address for address, mb in parts.items() if mb or not self.engine.on_gpus}
            whys = {one: gpus.too_small(told[one]["name"], parts[one], self.engine.largest) for one in parts}
            self.lost |= {address: why for address, why in whys.items() if why}
        else:
            self.present = set(self.client.nthreads())
        self.looked, self.known, self.lost_at = time.monotonic(), True, 0.0
        for held in [held for held in self.held if held.worker not in self.present]:
            yield from self._gone(held)
        self.engine.restore(len(self.present))
        lost = self.present & self.lost.keys()
        self.present -= lost
        if self.engine.here and len(lost) >= self.engine.workers:
            raise EngineError(f"no GPU is left: {' '.join({self.lost[one] for one in lost})} {KEPT}")
        if self.unforgotten >= FORGET_EVERY:
            self.client.run_on_scheduler(_forget)
            self.unforgotten = 0

    def _hand_out(self) -> None:
        """Give each free worker an item, while there are any."""
        for address in sorted(self.present - {held.worker for held in self.held}):
            if len(self.held) >= self.engine.workers or (index := self._next()) is None:
                return
            future = self.client.submit(
                _call_in_worker,
                *(self.function, index, self.items[index], self.engine.threads, self.engine.limit_s),
                workers=[address],
                resources={gpus.GPU: 1} if self.engine.on_gpus else None,
                pure=False,
            )
            future.add_done_callback(lambda _: self.ended.set())
            self.unforgotten += 1
            self.held.append(_Held(index, future, address))

    def _next(self) -> int | None:
        """The next item; a suspect has this machine for itself, those that others compute come last."""
        if self.waiting:
            return self.waiting.popleft()
        if self.suspects:
            alone = self.engine.here and self.held
            return None if alone else self.suspects.popleft()
        if self.engine.here and any(self.deaths[held.index] for held in self.held):
            return None
        if self.put_off and self.put_off[0][0] <= time.monotonic():
            return self.put_off.popleft()[1]
        return None

    def _settle(self, held: _Held) -> Iterator[Outcome]:
        """The outcome of an item that has ended, if it has one yet."""
        outcome: Outcome | GpuError | str | None = None
        if (
            held.future.status == "error"
        ):  # the function or the item cannot be read in the worker, for instance
            error = "".join(traceback.format_exception(held.future.exception()))
            outcome = Outcome(held.index, None, error)
        elif held.future.status == "finished":
            with contextlib.suppress(TimeoutError, CancelledError):  # the worker is gone with it
                outcome = pickle.loads(held.future.result(timeout=RESULT_S))
        self.held.remove(held)
        held.future.release()
        if isinstance(outcome, GpuError):
            self.lost[held.worker] = str(outcome)
            self.present.discard(held.worker)
            _log.warning("a worker gets no more items: %s", str(outcome))
        if outcome is None or isinstance(outcome, GpuError):
            self.waiting.appendleft(held.index)
        elif isinstance(outcome, str):
            self.put_off.append((time.monotonic() + AGAIN_S, held.index, outcome))
        else:
            yield outcome

    def _gone(self, held: _Held) -> Iterator[Outcome]:
        """A worker is gone: its item is handed out once more, unless it is known to be the reason."""
        events = self.client.get_events(held.worker)
        self.held.remove(held)
        held.future.cancel(reason="worker is gone")
        key = held.future.key
        died: tuple[float, dict[str, Any]] = (0.0, {"expected": False, "processing-tasks": [key]})
        end, noted = next((e for e in reversed(events) if e[1].get("action") == "remove-worker"), died)
        if noted["expected"] or key not in noted["processing-tasks"]:  # it left, or died before it had it
            self.waiting.appendleft(held.index)
            return
        limit_s = self.engine.limit_s
        begun = next((when for when, event in events if event.get("begun") == key), end)
        why = next((event["why"] for _, event in events if "why" in event), "")  # its memory or its GPU
        if limit_s and not why and end - begun > 0.99 * limit_s:  # the clocks of hosts differ a little
            error = f"TimeLimit: the run was ended: it reached the time limit of {limit_s:g} s.\n"
            yield Outcome(held.index, None, error)
            return
        self.deaths[held.index] += 1
        if self.deaths[held.index] == 1:  # also for its memory: of that, some may be left from items before
            self.suspects.append(held.index)
            return
        again = "had the machine for itself" if self.engine.here else "was given to another worker"
        maybe = "" if why else " (a crash in native code, or the system wanted memory)"
        why = why.rstrip(".") or "WorkerDied: the worker process died at this item"
        error = f"{why}, and again when it {again}{maybe}.\n"
        yield Outcome(held.index, None, error)

    def _away(self, error: OSError) -> None:
        """The scheduler is away: wait for it, and hand out again what was not done."""
        if not self.lost_at:
            _log.warning("the scheduler at %s is away: %s", self.engine.address, error)
            self.lost_at = time.monotonic()
        self.waiting.extendleft(sorted((held.index for held in self.held), reverse=True))
        self.held.clear()
        self.engine.close()
        if time.monotonic() - self.lost_at > self.engine.reconnect_s:
            raise EngineError(
                f"the scheduler at {self.engine.address} was away for {self.engine.reconnect_s:g} s ({error}). "
                f"Start it. {KEPT}"
            ) from error
        self.looked = 0.0
        time.sleep(LOOK_S)

    def _tell_that_nothing_moves(self) -> None:
        if time.monotonic() - self.moved < TELL_S:
            return
        self.moved = time.monotonic()
        if not self.present:
            queued = "; logs of its jobs may say why (log_directory)" if self.engine.cluster.options else ""
            self.tell(next(iter(self.lost.values()), f"no worker has come yet{queued}"))
        elif self.put_off and not self.held:
            self.tell(f"{len(self.put_off)} are computed by other processes; {self.put_off[0][2]}")


def _call(function: Callable[[Any], Any], index: int, item: Any) -> Outcome | GpuError | str:
    """The function on one item, its exception caught; or who else computes it, or that it has no GPU."""
    started = time.perf_counter()
    try:
        value, error = function(item), None
    except Busy as busy:
        return str(busy)
    except GpuError as lost:
        return lost
    except (Exception, SystemExit):
        value, error = None, traceback.format_exc()
    return Outcome(index, value, error, time.perf_counter() - started)


def _call_in_worker(
    function: Callable[[Any], Any], index: int, item: Any, threads: int, limit_s: float
) -> bytes:
    """`_call` in a worker process, whose thread must be told its number of threads.

    The outcome is pickled here, where a value that does not pickle can still become an error. Where time is
    limited, the system ends the process by SIGALRM, for an item that hangs in native code lets no Python run.
    """
    pin_threads(threads)
    if limit_s:
        _note("begun")
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        outcome = _call(function, index, item)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if isinstance(outcome, GpuError) and gpus.answers(os.environ.get("CUDA_VISIBLE_DEVICES", "")):
        _note("why", f"GpuError: {outcome}")  # of this process alone: its nanny starts another
        os._exit(1)
    try:
        return pickle.dumps(outcome)
    except Exception:
        return pickle.dumps(Outcome(index, None, traceback.format_exc()))


def _note(what: str, text: str = "") -> None:
    """Tell the scheduler something of this worker, by default its task."""
    from distributed import get_worker
    from distributed.utils import sync

    worker = get_worker()
    note = {what: text or worker.get_current_task()}
    sync(worker.loop, worker.scheduler.log_event, topic=worker.address, msg=note)


def _forget(dask_scheduler: Any) -> None:
    """Called in the scheduler, whose spans keep a note of each graph they were handed, here one an item."""
    spans = dask_scheduler.extensions.get("spans")
    for span in spans.spans.values() if spans else ():
        if span._metadata:
            span._metadata["collections"].clear()
