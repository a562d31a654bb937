"""Outcomes are in order, failures stop nothing, workers are alike and end with whoever made them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import pytest
from dask_site import wait_for

from ctlib.core import progress
from ctlib.grid import engine as engines
from ctlib.grid.engine import Engine, EngineError, Outcome

pytestmark = pytest.mark.slow  # processes and seconds: not among the tests of two minutes


def square(x: int) -> int:
    return x * x


def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError(f"x is {x}; give an even number.")
    return x


def dies_at_one(x: int) -> int:
    if x == 1:
        os._exit(3)
    return x


def dies_the_first_time(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        os._exit(3)
    return "alive"


def gives_a_lock(x: int) -> object:
    return threading.Lock()


def threads_used(x: int) -> tuple[int, int, str, str]:
    import cv2
    import torch

    return torch.get_num_threads(), cv2.getNumThreads(), os.environ["OMP_NUM_THREADS"], str(os.getpid())


def interrupts(x: int) -> int:
    if x == 1:
        raise KeyboardInterrupt
    return x


@pytest.fixture(scope="module")
def two_workers():
    with Engine(2) as engine:
        yield engine


def values(outcomes: list[Outcome]) -> list[object]:
    return [outcome.value for outcome in outcomes]


def test_outcomes_are_in_order_whatever_the_number_of_workers(two_workers):
    items = list(range(25))
    for engine in (Engine(0), two_workers):
        outcomes = engine.run(square, items)
        assert values(outcomes) == [x * x for x in items]
        assert [outcome.index for outcome in outcomes] == items
        assert all(outcome.error is None for outcome in outcomes)


def test_a_failure_is_an_outcome_with_its_traceback_and_stops_nothing(two_workers):
    for engine in (Engine(0), two_workers):
        outcomes = engine.run(odd_fails, range(4))
        assert values(outcomes) == [0, None, 2, None]
        assert outcomes[3].reason == "ValueError: x is 3; give an even number."
        assert "in odd_fails" in outcomes[3].error
        with pytest.raises(EngineError, match=r"(?s)2 of 4 items failed; the first:.*x is 1; give an even"):
            engine.map(odd_fails, range(4))
        assert engine.map(square, [2, 3]) == [4, 9]


def test_a_worker_that_dies_is_an_outcome_and_no_other_item_is_blamed(two_workers):
    for _ in range(3):
        outcomes = two_workers.run(dies_at_one, range(5))
        assert values(outcomes) == [0, None, 2, 3, 4]
        assert outcomes[1].reason.startswith("WorkerDied: the worker process died at this item, and again")


def test_an_item_whose_worker_died_once_is_tried_again(two_workers, tmp_path):
    assert values(two_workers.run(dies_the_first_time, [str(tmp_path / "been here")])) == ["alive"]


def test_workers_that_dask_has_given_up_are_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "RESTORE_S", 0.5)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "0s"}), Engine(2) as engine:
        items = [str(tmp_path / f"{i}") for i in range(4)]
        assert values(engine.run(dies_the_first_time, items)) == ["alive"] * 4


def test_a_result_that_cannot_travel_is_an_outcome(two_workers):
    [outcome] = two_workers.run(gives_a_lock, [0])
    assert outcome.value is None and "pickle" in outcome.error


def test_threads_are_pinned_in_workers_and_given_back_here(two_workers):
    import cv2
    import torch

    [used] = values(two_workers.run(threads_used, [0]))
    assert used[:3] == (1, 1, "1") and int(used[3]) != os.getpid()
    before = torch.get_num_threads(), cv2.getNumThreads(), os.environ.get("OMP_NUM_THREADS")
    [(n_torch, n_cv2, variable, pid)] = values(Engine(0, threads=2).run(threads_used, [0]))
    assert (n_torch, n_cv2, variable, int(pid)) == (2, 2, "2", os.getpid())
    assert (torch.get_num_threads(), cv2.getNumThreads(), os.environ.get("OMP_NUM_THREADS")) == before


def notes(dask_scheduler) -> int:
    """Graphs of which the scheduler's spans keep a note."""
    spans = dask_scheduler.extensions["spans"].spans.values()
    return sum(len(span._metadata["collections"]) for span in spans if span._metadata)


def test_the_scheduler_forgets_items_that_are_done(two_workers, monkeypatch):
    monkeypatch.setattr(engines, "LOOK_S", 0.01)
    monkeypatch.setattr(engines, "FORGET_EVERY", 10)
    assert values(two_workers.run(square, list(range(200)))) == [x * x for x in range(200)]
    assert two_workers.client().run_on_scheduler(notes) < 60


def test_it_works_where_an_event_loop_runs_as_in_a_notebook(two_workers):
    async def cell() -> list[object]:
        return values(two_workers.run(square, [3, 4]))

    assert asyncio.run(cell()) == [9, 16]


def test_nothing_starts_before_there_is_work():
    with Engine(2) as engine:
        assert engine.run(square, []) == []
        assert engine._client is None


def test_an_interrupt_passes_and_later_work_is_done(two_workers):
    with pytest.raises(KeyboardInterrupt):
        Engine(0).run(interrupts, range(3))

    def interrupt(outcome: Outcome) -> None:
        raise KeyboardInterrupt

    with Engine(1) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.run(square, range(3), on_done=interrupt)
        assert engine._client is None  # its workers were ended at once


def test_progress_counts_what_ended(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv(progress.VARIABLE, str(path))
    seen = []
    Engine(0).run(
        odd_fails,
        range(3),
        what="trials",
        note=lambda outcome: outcome.reason or f"item {outcome.index}",
        on_done=lambda outcome: seen.append((outcome.index, json.loads(path.read_text())["done"])),
    )
    assert seen == [(0, 0), (1, 1), (2, 2)]
    state = progress.read(path)
    assert (state.what, state.done, state.total, state.note) == ("trials", 3, 3, "item 2")
    assert abs(time.time() - state.started_s) < 60


@pytest.mark.parametrize(("workers", "threads"), [(-1, 1), (1, 0)])
def test_senseless_numbers_are_refused(workers, threads):
    with pytest.raises(ValueError, match=f"workers is {workers}, threads is {threads}; give at least 0"):
        Engine(workers, threads)


SCRIPT = """
import os, sys, time
from ctlib.grid.engine import Engine

def pid_and_wait(seconds):
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: the other worker writes too
    time.sleep(seconds)

if __name__ == "__main__":
    assert "torch" not in sys.modules
    with Engine(2) as engine:
        engine.run(pid_and_wait, [60, 60])
"""


def gone(pid: int) -> bool:
    """Ended, or a zombie that nobody waits for in a container."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to look at processes")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_made_them(tmp_path, sign):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        # a test run in the background of a shell ignores Ctrl-C, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(2)]
    process.send_signal(sign)
    wait_for(lambda: all(map(gone, pids)))
    process.communicate(timeout=300)
    assert process.returncode != 0


def test_workers_of_a_scheduler_elsewhere_are_used_and_left_alone():
    """A cluster's scheduler, as a process of its own would have it; the engine ends nothing there."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        for _ in range(2):
            with Engine(2, cluster=cluster.scheduler_address, unencrypted=True) as engine:
                assert engine.map(square, [1, 2, 3]) == [1, 4, 9]
                pids = engine.map(process_id, [0, 0, 0, 0])
                assert os.getpid() not in pids
                outcomes = engine.run(odd_fails, [0, 1])
                assert [outcome.error is None for outcome in outcomes] == [True, False]
        assert len(cluster.scheduler.workers) == 2
    with pytest.raises(ValueError, match="workers is 0; give at least 1"):
        Engine(0, cluster="tls://127.0.0.1:1")


def process_id(_: int) -> int:
    return os.getpid()
