"""A grid of runs, computed while workers, the scheduler and the notebook's kernel are killed.

    python benchmarks/chaos.py [--short] [--keep FOLDER]   # small runs of noise, in two minutes
    python benchmarks/chaos.py --demo [--keep FOLDER]      # the demo's grid, by its notebook; after make demo

A Dask scheduler and three workers (`python -m ctlib worker`), each a process with a working folder of
its own, on the loopback interface. During the grid one worker is killed with SIGKILL, one is stopped
for a minute, the scheduler is killed and started again at its address, and so is the process that
drives the grid: with `--demo` the kernel of notebook 03, which papermill runs. The same grid is computed
by processes that nothing happens to: with `--demo` they have done so already, in work/demo. Prints what
was done and when; ends with 1 unless the tables and weights of both are equal to the last bit, and every
run was finished once: each `result.json` is written by one process, once. `--short` stops the worker for
some seconds and has fewer runs: CI runs it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path

import click
import pandas as pd
import psutil
from grid import prepared
from safetensors.torch import load_file

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "tests" / "factories"))  # the site and the cohort are shared with the tests

from chaos_grid import FINISHES, content, prepare, runs_of, untimed  # noqa: E402
from dask_site import Site, computing, kill, wait_for  # noqa: E402

from ctlib.core.workspace import Workspace  # noqa: E402
from ctlib.training.results import RESULT, finished  # noqa: E402
from ctlib.training.run import Run  # noqa: E402

WORKERS = 3


class Grid(ABC):
    """A grid of `runs` that is computed twice, in two workspaces: `calm` and `chaos`."""

    runs: list[Run]
    calm: Workspace
    chaos: Workspace

    @abstractmethod
    def driver(self, site: Site, name: str) -> tuple[subprocess.Popen, psutil.Process]:
        """Begin to compute `chaos` on a site; the process that was started, and the one to kill."""

    @abstractmethod
    def settle(self, site: Site) -> None:
        """Compute `calm`, with nothing happening to it."""

    @abstractmethod
    def tables(self, workspace: Workspace) -> dict[str, pd.DataFrame]:
        """All tables, but for what the clock, the memory and the folder's name say."""

    @abstractmethod
    def finishes(self) -> Counter[str]:
        """How often each run of `chaos` was finished, by id."""

    def claims(self) -> list[str]:
        """Finished runs of `chaos` that a process has not let go."""
        folders = (self.chaos.runs / run.run_id for run in self.runs if finished(self.chaos, run))
        return [f"{path.parent.name}/{path.name}" for folder in folders for path in folder.glob("claim.*")]

    def n_finished(self) -> int:
        """How many runs of `chaos` have their result."""
        return sum(finished(self.chaos, run) for run in self.runs)


class Noise(Grid):
    """Small networks on noise, driven by a script, its runs slower by a second each."""

    def __init__(self, folder: Path, seeds: int) -> None:
        self.calm, self.chaos = Workspace(folder / "calm"), Workspace(folder / "chaos")
        prepare(self.calm)
        shutil.copytree(self.calm.root, self.chaos.root)
        self.runs, self._seeds = runs_of(self.calm, seeds), str(seeds)

    def driver(self, site: Site, name: str) -> tuple[subprocess.Popen, psutil.Process]:
        """See `Grid`."""
        begun = self._start(site, name, self.chaos, site.address)
        return begun, psutil.Process(begun.pid)

    def settle(self, site: Site) -> None:
        """See `Grid`."""
        if self._start(site, "calm", self.calm, "local").wait(900):
            raise SystemExit(f"the quiet grid failed:\n{site.log('calm')}")

    def _start(self, site: Site, name: str, workspace: Workspace, where: str) -> subprocess.Popen:
        script = str(PROJECT / "tests" / "factories" / "chaos_grid.py")
        return site.start(name, script, str(workspace.root), self._seeds, where)

    def tables(self, workspace: Workspace) -> dict[str, pd.DataFrame]:
        """See `Grid`."""
        return content(workspace, self.runs)

    def finishes(self) -> Counter[str]:
        """See `Grid`."""
        return Counter((self.chaos.root / FINISHES).read_text().split())


class Demo(Grid):
    """The demo's grid, driven by its notebook as papermill runs it; work/demo is the calm side."""

    NOTEBOOK = "03_finetune_grid"
    TABLES = ("runs", "curves", "predictions", "controls", "control_predictions")

    def __init__(self, folder: Path) -> None:
        self.calm = Workspace.at("work/demo")
        self.chaos, self.runs, _ = prepared("demo", folder)
        for name in self.TABLES:  # what is found in the end was written here
            self.chaos.table(name).unlink()
        if not all(finished(self.calm, run) for run in self.runs):
            raise SystemExit("work/demo has runs that are not finished: run make demo first.")
        self._seen: dict[str, set[tuple[int, int]]] = {run.run_id: set() for run in self.runs}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """See each result: one that is written again is another file. No run takes less than seconds."""
        while True:
            for run_id, files in self._seen.items():
                path = self.chaos.runs / run_id / RESULT
                if path.is_file():
                    status = path.stat()
                    files.add((status.st_ino, status.st_mtime_ns))
            time.sleep(0.2)

    def driver(self, site: Site, name: str) -> tuple[subprocess.Popen, psutil.Process]:
        """See `Grid`."""
        settings = {"work_dir": self.chaos.root, "cluster": site.address, "workers": WORKERS}
        begun = site.start(
            name,
            *("-m", "papermill", str(PROJECT / "notebooks" / f"{self.NOTEBOOK}.ipynb"), "executed.ipynb"),
            *("-f", str(PROJECT / "params" / "demo" / f"{self.NOTEBOOK}.yaml")),
            *(word for name, value in settings.items() for word in ("-p", name, str(value))),
        )

        def kernels() -> list[psutil.Process]:
            return [p for p in psutil.Process(begun.pid).children() if "ipykernel" in " ".join(p.cmdline())]

        wait_for(kernels)
        return begun, kernels()[0]

    def settle(self, site: Site) -> None:
        """Nothing: make demo did."""

    def tables(self, workspace: Workspace) -> dict[str, pd.DataFrame]:
        """See `Grid`."""
        return untimed({name: pd.read_parquet(workspace.table(name)) for name in self.TABLES})

    def finishes(self) -> Counter[str]:
        """See `Grid`."""
        return Counter({run_id: len(files) for run_id, files in self._seen.items()})


def hurt(site: Site, grid: Grid, blows: tuple[int, int, int, int], stopped_s: float) -> None:
    """Compute the grid while everything is killed once, each when so many runs are finished."""
    begun = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"{time.monotonic() - begun:6.1f} s, {grid.n_finished():2d} runs finished: {line}")

    def until(n: int) -> None:
        wait_for(lambda: grid.n_finished() >= n, 1800)
        wait_for(lambda: not grid.claims())  # a worker that was killed in between would leave one

    scheduler = site.scheduler()
    nannies = [site.worker(f"worker-{i}") for i in range(WORKERS)]
    driver, kernel = grid.driver(site, "driver")
    until(blows[0])
    wait_for(lambda: computing(nannies[0]) is not None)
    say("a worker is killed")
    kill(computing(nannies[0]))
    until(blows[1])
    wait_for(lambda: computing(nannies[1]) is not None)
    stopped = computing(nannies[1])
    say(f"a worker is stopped for {stopped_s:g} s")
    stopped.send_signal(signal.SIGSTOP)
    wakes = time.monotonic() + stopped_s
    until(blows[2])
    say("the scheduler is killed, and started again")
    kill(scheduler)
    scheduler.wait()
    time.sleep(2)
    site.scheduler()
    until(blows[3])
    say("the process that drives the grid is killed, and started again")
    kill(kernel)
    driver.wait()
    driver, _ = grid.driver(site, "driver-again")
    time.sleep(max(0.0, wakes - time.monotonic()))
    if stopped.is_running():
        say("the stopped worker goes on")
        stopped.send_signal(signal.SIGCONT)
    else:
        say("the stopped worker was replaced meanwhile")
    if driver.wait(3600):
        raise SystemExit(f"the grid failed:\n{site.log('driver-again')}")
    say("the grid is done")


def differences(grid: Grid) -> list[str]:
    """What is not the same, and what was finished twice."""
    found = [f"{claim} was left behind" for claim in grid.claims()]
    tables, others = grid.tables(grid.calm), grid.tables(grid.chaos)
    for name, table in tables.items():
        try:
            pd.testing.assert_frame_equal(table, others[name], check_exact=True)
        except AssertionError as error:
            found.append(f"table {name}: {error}")
    counts = grid.finishes()
    for run in grid.runs:
        a, b = (load_file(w.runs / run.run_id / "weights.safetensors") for w in (grid.calm, grid.chaos))
        if a.keys() != b.keys() or not all(bool((a[key] == b[key]).all()) for key in a):
            found.append(f"weights of {run} differ")
        if counts[run.run_id] != 1:
            found.append(f"run {run.run_id} was finished {counts[run.run_id]} times")
    return found


@click.command(help=__doc__)
@click.option("--short", is_flag=True)
@click.option("--demo", is_flag=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Work here, and leave it.")
def main(short: bool, demo: bool, keep: Path | None) -> None:
    """Hurt one grid, leave another alone, and compare."""
    folder = keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        grid = Demo(folder) if demo else Noise(folder, 3 if short else 8)
        # the demo's are spread over its twenty minutes
        blows = (20, 60, 100, 140) if demo else (1, 2, 3, 4)
        environment = {"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
        with Site(folder / "site", environment, grid.chaos.credentials) as site:
            hurt(site, grid, blows, 6.0 if short else 60.0)
            grid.settle(site)
        found = differences(grid)
    finally:
        if keep is None:
            shutil.rmtree(folder)
    good = f"The tables are equal to the last bit; each of {len(grid.runs)} runs was finished once."
    click.echo("\n".join(found) if found else good)
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
