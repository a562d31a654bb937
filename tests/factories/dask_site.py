"""A Dask scheduler and workers in processes of their own, as on a cluster, for tests that hurt them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from ctlib.core.workspace import PROJECT


def wait_for(what: Callable[[], object], timeout_s: float = 300.0) -> None:
    """Return when something is true; fail when it is not for long."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Site:
    """Processes on the loopback interface, each with a working folder of its own.

    Args:
        folder: where they work and log.
        environment: variables that all of them have besides those of this process.
        credentials: file of them; by default one in the folder.
    """

    def __init__(
        self, folder: Path, environment: dict[str, str] | None = None, credentials: Path | None = None
    ):
        self.folder, self.port, self.begun = folder, free_port(), []
        self.credentials = credentials or folder / "tls.pem"
        paths = [
            *(str(PROJECT / "tests" / name) for name in ("factories", "grid")),
            os.environ.get("PYTHONPATH", ""),
        ]
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            **(environment or {}),
        }

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.begun:
            with contextlib.suppress(psutil.NoSuchProcess):
                tree = [process, *psutil.Process(process.pid).children(recursive=True)]
                for one in tree:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
            process.wait()

    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    @property
    def arguments(self) -> dict[str, object]:
        """Of an Engine that computes here."""
        return {"cluster": self.address, "credentials": self.credentials}

    def start(self, name: str, *arguments: str) -> subprocess.Popen:
        """`python arguments` in a folder of its own; what it prints goes to a file in it."""
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        with (place / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=place, env=self.environment, stdout=log, stderr=log
            )
        self.begun.append(process)
        return process

    def scheduler(self) -> subprocess.Popen:
        """A scheduler, always at the same address; returns when it listens."""
        arguments = ["--host", "127.0.0.1", "--port", str(self.port), "--credentials", str(self.credentials)]
        process = self.start("scheduler", "-m", "ctlib", "scheduler", *arguments)
        wait_for(self.listens)
        return process

    def worker(self, name: str, *arguments: str) -> subprocess.Popen:
        """`python -m ctlib worker`: a nanny, and the process that computes."""
        asked = [self.address, "--name", name, "--credentials", str(self.credentials)]
        return self.start(name, "-m", "ctlib", "worker", *asked, *arguments)

    def listens(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self, name: str) -> str:
        return (self.folder / name / "log").read_text()


def computing(nanny: subprocess.Popen) -> psutil.Process | None:
    """The process of a nanny that computes; None where there is none now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(nanny.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                return child
    return None


def kill(process: psutil.Process | subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
