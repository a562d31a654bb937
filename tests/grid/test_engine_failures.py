"""Whatever happens to a worker, a scheduler or an item: nothing is lost, and what failed says why."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from dask_site import Site, computing, kill, wait_for

from ctlib.core.locks import Busy, claimed
from ctlib.grid.engine import Engine, EngineError, Outcome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by /proc"),
]


def step(item: tuple[str, str, float]) -> str:
    """Notes that it began; takes a while; leaves a file, and returns at once where that is there."""
    folder, name, seconds = item
    result = Path(folder) / f"{name}.result"
    if not result.exists():
        with (Path(folder) / f"{name}.began").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        result.write_text(name)
    return name


def began(folder: Path, name: str) -> list[int]:
    path = folder / f"{name}.began"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def misbehaves(item: str) -> str:
    if item == "hangs":
        time.sleep(600)
    if item == "hangs with the lock":
        import re

        re.match(r"(a+)+$", "a" * 60 + "b")  # catastrophic backtracking, in C, and the GIL is held
    if item == "fills memory":
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20)) * 20)
    if item == "raises":
        raise ValueError("no such luck")
    if item == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    return item


def errors(outcomes: list[Outcome]) -> list[str]:
    return [outcome.reason for outcome in outcomes]


def test_each_failure_is_recorded_as_what_it_is_and_stops_no_other():
    items = ["well", "hangs", "fills memory", "raises", "well", "hangs with the lock", "dies", "well"]
    with Engine(2, limit_s=25.0, memory_mb=600) as engine:
        outcomes = engine.run(misbehaves, items)
    assert [outcome.value for outcome in outcomes] == [item if item == "well" else None for item in items]
    told = dict(zip(items, errors(outcomes), strict=True))
    assert told["hangs"] == "TimeLimit: the run was ended: it reached the time limit of 25 s."
    assert told["hangs with the lock"] == told["hangs"]
    assert told["fills memory"].startswith("OutOfMemory: the worker process was ended, for it held ")
    assert "its limit is 600 MB, and again when it had the machine for itself." in told["fills memory"]
    assert told["raises"] == "ValueError: no such luck"
    assert told["dies"].startswith("WorkerDied: the worker process died at this item, and again")


def test_limits_need_a_process_that_can_be_ended():
    for limit in ({"limit_s": 1.0}, {"memory_mb": 100.0}):
        with pytest.raises(ValueError, match="workers is 0; an item in this process cannot be ended"):
            Engine(0, **limit)
    with pytest.raises(ValueError, match="a time is negative"):
        Engine(1, limit_s=-1)


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path / "site") as made:
        made.scheduler()
        yield made


def workers(site: Site, n: int, *arguments: str) -> list[subprocess.Popen]:
    begun = [site.worker(f"worker-{i}", *arguments) for i in range(n)]
    with Engine(n, **site.arguments) as engine:
        engine.client().wait_for_workers(n, timeout=300)
    return begun


def test_workers_come_go_and_come_back(site, tmp_path):
    """One is killed at work, one is told to leave, one comes late: each item is finished once."""
    first, second = workers(site, 2)
    items = [(str(tmp_path), f"item {i}", 1.0) for i in range(8)]
    done = []

    def hurt(outcome: Outcome) -> None:
        done.append(outcome.index)
        if len(done) == 1:
            kill(computing(first))
            second.send_signal(signal.SIGTERM)
            site.worker("late")

    with Engine(3, **site.arguments) as engine:
        outcomes = engine.run(step, items, on_done=hurt)
    assert [outcome.value for outcome in outcomes] == [name for _, name, _ in items]
    assert sorted(done) == list(range(8))
    assert second.wait(
        300
    ) == 0 and "The worker ended: stopped by user, or at the end of its time." in site.log("worker-1")
    assert first.poll() is None  # its nanny has another process by now
    assert sum(len(began(tmp_path, name)) for _, name, _ in items) <= 8 + 2


def test_a_worker_that_leaves_is_never_blamed_on_its_item(site, tmp_path):
    """Preempted three times while it has the same item, which is handed out a fourth time."""
    begun = workers(site, 1)
    item = (str(tmp_path), "long", 6.0)

    def preempt() -> None:
        for i in range(3):
            wait_for(lambda i=i: len(began(tmp_path, "long")) == i + 1)
            begun[-1].send_signal(signal.SIGTERM)
            begun.append(site.worker(f"next-{i}"))

    thread = threading.Thread(target=preempt)
    thread.start()
    with Engine(1, **site.arguments) as engine:
        [outcome] = engine.run(step, [item])
    thread.join()
    assert outcome.value == "long" and len(began(tmp_path, "long")) == 4


def test_an_item_that_kills_two_workers_is_left(site):
    workers(site, 2, "--memory", "600MB")
    with Engine(2, **site.arguments, limit_s=30) as engine:
        outcomes = engine.run(misbehaves, ["dies", "well", "fills memory", "hangs", "well"])
    assert [outcome.error is None for outcome in outcomes] == [False, True, False, False, True]
    dies, _, fills, hangs, _ = errors(outcomes)
    assert dies.startswith("WorkerDied: ") and "again when it was given to another worker" in dies
    assert fills.startswith("OutOfMemory: ") and "its limit is 544 MB" in fills  # 95 % of 600 MB
    assert hangs == "TimeLimit: the run was ended: it reached the time limit of 30 s."


def test_a_scheduler_that_comes_back_at_its_address_loses_nothing(tmp_path):
    with Site(tmp_path / "site") as site:
        scheduler = site.scheduler()
        first, second = workers(site, 2)
        done = []

        def hurt(outcome: Outcome) -> None:
            done.append(outcome.index)
            if len(done) == 2:
                kill(scheduler)
                scheduler.wait()
                site.scheduler()

        items = [(str(tmp_path), f"item {i}", 0.7) for i in range(8)]
        with Engine(2, **site.arguments) as engine:
            outcomes = engine.run(step, items, on_done=hurt)
        assert [outcome.value for outcome in outcomes] == [name for _, name, _ in items]
        assert sorted(done) == list(range(8))
        assert first.poll() is None and second.poll() is None  # they waited for it


def test_a_scheduler_that_stays_away_is_given_up_and_workers_end(tmp_path):
    with Site(tmp_path / "site") as site:
        scheduler = site.scheduler()
        [worker] = workers(site, 1, "--patience", "3")

        def hurt(outcome: Outcome) -> None:
            kill(scheduler)

        engine = Engine(1, **site.arguments, reconnect_s=2)
        with engine, pytest.raises(EngineError, match=r"was away for 2 s .*What is finished is kept"):
            engine.run(step, [(str(tmp_path), f"item {i}", 0.2) for i in range(50)], on_done=hurt)
        worker.wait(300)
        assert "was away for 3 s" in site.log("worker-0")


def test_a_driver_that_is_killed_goes_on_where_it_was(site, tmp_path):
    workers(site, 2)
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys\nfrom pathlib import PosixPath\n"
        "from test_engine_failures import step\nfrom ctlib.grid.engine import Engine\n"
        f"items = [({str(tmp_path)!r}, f'item {{i}}', 0.5) for i in range(8)]\n"
        f"with Engine(2, **{site.arguments!r}) as engine:\n"
        "    print([outcome.value for outcome in engine.run(step, items)])\n"
    )
    driver = site.start("driver", str(script))
    wait_for((tmp_path / "item 1.result").exists)
    kill(driver)
    driver.wait()
    again = site.start("again", str(script))
    assert again.wait(300) == 0
    assert site.log("again").strip() == str([f"item {i}" for i in range(8)])
    assert len(began(tmp_path, "item 0")) == 1


# ---- what others compute -----------------------------------------------------------------


def once(item: tuple[str, str]) -> str:
    """What `ctlib.grid.execute.execute` does: claims its folder, or asks to be called later."""
    folder = Path(item[0]) / item[1]
    result = folder / "result"
    with claimed(folder, result.is_file) as claim:
        if claim is not None:
            time.sleep(0.3)
            claim.require()
            with (Path(item[0]) / "finished").open("a") as file:
                file.write(f"{item[1]}\n")
            result.write_text(item[1])
    return result.read_text()


@pytest.mark.parametrize("n_workers", [0, 1])
def test_two_engines_share_the_work_and_compute_nothing_twice(tmp_path, n_workers):
    items = [(str(tmp_path), f"item{i}") for i in range(8)]
    script = tmp_path / "other.py"
    script.write_text(
        "from test_engine_failures import once\nfrom ctlib.grid.engine import Engine\n\n"
        "if __name__ == '__main__':\n"
        f"    with Engine({n_workers}) as engine:\n"
        f"        print([outcome.value for outcome in engine.run(once, {items!r})])\n"
    )
    with Site(tmp_path / "site") as site:
        other = site.start("other", str(script))
        with Engine(n_workers) as engine:
            outcomes = engine.run(once, items)
        assert other.wait(300) == 0
        assert [outcome.value for outcome in outcomes] == [name for _, name in items]
        assert site.log("other").strip() == str([name for _, name in items])
    assert sorted((tmp_path / "finished").read_text().split()) == sorted(name for _, name in items)


def busy_at_first(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        raise Busy("another has it.")
    return "done"


def test_an_item_that_another_computes_comes_last(tmp_path):
    order = []
    outcomes = Engine(0).run(
        busy_at_first,
        [str(tmp_path / "a"), str(tmp_path)],
        on_done=lambda outcome: order.append(outcome.index),
    )
    assert order == [1, 0] and [outcome.value for outcome in outcomes] == ["done", "done"]


def test_the_scheduler_holds_as_many_tasks_as_there_are_workers():
    held = []
    with Engine(2) as engine:
        scheduler = engine.client().cluster.scheduler
        engine.run(abs, range(200), on_done=lambda outcome: held.append(len(scheduler.tasks)))
        assert len(held) == 200 and max(held) <= 2 + 2  # those that are just being forgotten
        wait_for(lambda: not scheduler.tasks)
