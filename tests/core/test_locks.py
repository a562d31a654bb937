"""At most one process of many computes what is in a folder, whatever happens to its owner."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dask_site import wait_for

from ctlib.core import locks
from ctlib.core.locks import Busy, ClaimLost, claimed, describe
from ctlib.core.workspace import PROJECT

pytestmark = pytest.mark.slow  # processes and seconds: not among the tests of two minutes

OWNER = """
import os, sys, time
from pathlib import Path
from ctlib.core.locks import Busy, ClaimLost, claimed

folder, hold_s, beat_s, stale_s = Path(sys.argv[1]), *map(float, sys.argv[2:5])
log, result = folder.parent / "log", folder / "result"

def tell(line):
    with log.open("a") as file:
        file.write(f"{os.getpid()} {line}\\n")

def own():
    with claimed(folder, result.is_file, beat_s=beat_s, stale_s=stale_s) as claim:
        if claim is None:
            tell("saw")
            return
        tell("owns")
        end = time.monotonic() + hold_s
        while time.monotonic() < end:
            time.sleep(0.01)
        try:
            claim.require()
            result.write_text(str(os.getpid()))
            tell("wrote")
        except ClaimLost:
            tell("lost")

while True:
    try:
        own()
        break
    except Busy:
        time.sleep(0.05)
"""


@pytest.fixture
def owner(tmp_path):
    """Starts processes that own the folder for a while; ends them."""
    script, begun = tmp_path / "owner.py", []
    script.write_text(OWNER)

    def start(hold_s: float, beat_s: float = 0.1, stale_s: float = 60.0) -> subprocess.Popen:
        command = [sys.executable, str(script), str(tmp_path / "run"), str(hold_s), str(beat_s), str(stale_s)]
        begun.append(subprocess.Popen(command, cwd=PROJECT))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def told(tmp_path: Path, word: str) -> list[int]:
    """Pids of the processes that said a word, in order."""
    log = tmp_path / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[0]) for line in lines if line.split()[1] == word]


def never() -> bool:
    return False


def is_free(folder: Path, stale_s: float) -> bool:
    """Whether this process can own a folder."""
    try:
        with claimed(folder, never, stale_s=stale_s) as claim:
            return claim is not None
    except Busy:
        return False


def test_a_claim_is_made_told_and_removed(tmp_path):
    folder = tmp_path / "run"
    with claimed(folder, never) as claim:
        assert claim is not None and claim.still_mine()
        assert describe(folder) == f"process {os.getpid()} on {socket.gethostname()}"
        assert [path.name for path in folder.iterdir()] == ["claim.0"]
        with (
            pytest.raises(Busy, match=f"run is computed by process {os.getpid()} on "),
            claimed(folder, never),
        ):
            pass
        with claimed(folder, lambda: True) as other:
            assert other is None
    assert list(folder.iterdir()) == [] and describe(folder) == "" and not claim.still_mine()
    with pytest.raises(ZeroDivisionError), claimed(folder, never):
        raise ZeroDivisionError
    assert list(folder.iterdir()) == []


def test_what_is_finished_between_two_looks_is_not_computed(tmp_path):
    seen = iter([False, True])
    with claimed(tmp_path / "run", lambda: next(seen)) as claim:
        assert claim is None
    assert list((tmp_path / "run").iterdir()) == []


def test_of_many_processes_one_computes_and_all_others_see_its_result(tmp_path, owner):
    processes = [owner(0.5) for _ in range(6)]
    assert [process.wait(60) for process in processes] == [0] * 6
    assert len(told(tmp_path, "owns")) == len(told(tmp_path, "wrote")) == 1
    assert len(told(tmp_path, "saw")) == 5
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def test_of_many_threads_that_find_a_stale_claim_one_takes_it(tmp_path):
    for trial in range(30):
        folder = tmp_path / str(trial)
        folder.mkdir()
        for number in range(trial % 3 + 1):
            old = folder / f"claim.{number}"
            old.write_text('{"token": "x", "machine": "elsewhere", "pid": 1}' if trial % 2 else "")
            os.utime(old, (1e9, 1e9))
        together, taken = threading.Barrier(8), []

        def take(folder=folder, together=together, taken=taken):
            together.wait()
            claim = locks._take(folder, 60)
            taken.append(claim) if claim else None

        threads = [threading.Thread(target=take) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(taken) <= 1  # none where two met and both stood back
        if not taken:
            taken = [locks._take(folder, 60)]
        assert taken[0].path.name == f"claim.{trial % 3 + 1}" and taken[0].still_mine()
        locks._release(taken[0])
        assert list(folder.iterdir()) == []


def test_several_that_look_after_one_claim_at_once_keep_it(tmp_path):
    """As the processes of one pretraining do, one on each GPU."""
    with claimed(tmp_path, lambda: False) as claim, ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: claim.still_mine(), range(2000)))
    assert not list(tmp_path.iterdir())


def test_a_killed_owner_on_this_machine_is_noticed_at_once(tmp_path, owner):
    first = owner(60)
    wait_for(lambda: told(tmp_path, "owns"))
    first.kill()
    first.wait()
    begun = time.monotonic()
    with claimed(tmp_path / "run", never) as claim:
        assert claim is not None and time.monotonic() - begun < 1
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_owner_elsewhere_is_noticed_when_its_claim_is_stale(tmp_path, owner, monkeypatch):
    first = owner(60)
    wait_for(lambda: told(tmp_path, "owns"))
    monkeypatch.setattr(locks, "_machine", lambda: "another")
    begun = time.monotonic()
    while time.monotonic() - begun < 1.5:  # it is alive: its heartbeat counts, wherever it is
        assert not is_free(tmp_path / "run", stale_s=1)
        time.sleep(0.05)
    first.kill()
    first.wait()
    begun = time.monotonic()
    wait_for(lambda: is_free(tmp_path / "run", stale_s=1))
    assert 0.5 < time.monotonic() - begun < 10


def test_an_owner_that_was_stopped_notices_that_it_lost(tmp_path, owner):
    first = owner(1.0, stale_s=1.0)
    wait_for(lambda: told(tmp_path, "owns"))
    first.send_signal(signal.SIGSTOP)
    second = owner(0.2, stale_s=1.0)
    assert second.wait(60) == 0
    assert told(tmp_path, "wrote") == [second.pid]
    first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0
    assert told(tmp_path, "lost") == [first.pid]
    assert (tmp_path / "run" / "result").read_text() == str(second.pid)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def test_an_owner_that_wakes_while_another_computes_leaves_its_claim_alone(tmp_path, owner):
    first = owner(1.0, stale_s=1.0)
    wait_for(lambda: told(tmp_path, "owns"))
    first.send_signal(signal.SIGSTOP)
    second = owner(3.0, stale_s=1.0)
    wait_for(lambda: second.pid in told(tmp_path, "owns"))
    first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0 and told(tmp_path, "lost") == [first.pid]
    assert describe(tmp_path / "run").startswith(f"process {second.pid} on ")
    assert second.wait(60) == 0 and told(tmp_path, "wrote") == [second.pid]


def test_an_owner_that_was_stopped_for_less_goes_on(tmp_path, owner):
    first = owner(1.0, stale_s=20.0)
    wait_for(lambda: told(tmp_path, "owns"))
    first.send_signal(signal.SIGSTOP)
    second = owner(0.0, stale_s=20.0)
    time.sleep(1.5)
    first.send_signal(signal.SIGCONT)
    assert [first.wait(60), second.wait(60)] == [0, 0]
    assert told(tmp_path, "wrote") == [first.pid] and told(tmp_path, "saw") == [second.pid]


def test_a_clock_that_is_wrong_here_changes_nothing(tmp_path, owner, monkeypatch):
    owner(60)
    wait_for(lambda: told(tmp_path, "owns"))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr(locks, "_machine", lambda: "another")
    assert not is_free(tmp_path / "run", stale_s=5)


def test_a_lost_claim_is_a_sentence(tmp_path):
    with claimed(tmp_path / "run", never) as claim:
        (tmp_path / "run" / "claim.1").write_text('{"token": "x", "pid": 7, "host": "there"}')
        assert not claim.still_mine()
        with pytest.raises(ClaimLost, match="was taken over by process 7 on there; nothing was written here"):
            claim.require()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["claim.1"]
