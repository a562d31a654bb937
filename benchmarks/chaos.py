"""A grid of small runs, computed while workers, the scheduler and the notebook's process are killed.

    python benchmarks/chaos.py [--short] [--keep FOLDER]

A Dask scheduler and three workers (`python -m ctlib worker`), each a process with a working folder of
its own, on the loopback interface. During the grid one worker is killed with SIGKILL, one is stopped
for a minute, the scheduler is killed and started again at its address, and so is the process that
drives the grid, as the kernel of the notebook would be. The same grid is computed a second time by one
process that nothing happens to. Prints what was done and when; ends with 1 unless the tables and
weights of both are equal to the last bit, and every run was finished once: each `result.json` is
written by one process, once. `--short` stops the worker for some seconds and has fewer runs: CI runs it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import pandas as pd
from safetensors.torch import load_file

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "tests"))  # the site and the cohort are shared with the tests

from chaos_grid import FINISHES, content, prepare, runs_of  # noqa: E402
from dask_site import Site, computing, kill, wait_for  # noqa: E402

from ctlib.results import finished  # noqa: E402
from ctlib.workspace import Workspace  # noqa: E402


def n_finished(workspace: Workspace, seeds: int) -> int:
    """How many runs have their result."""
    return sum(finished(workspace, run) for run in runs_of(workspace, seeds))


def drive(site: Site, name: str, workspace: Workspace, seeds: int, workers: int) -> subprocess.Popen:
    """A process that computes the grid, as a kernel of the notebook would."""
    where = site.address if workers else "local"
    return site.start(name, str(PROJECT / "tests" / "chaos_grid.py"), str(workspace.root), str(seeds), where)


def hurt(site: Site, workspace: Workspace, seeds: int, stopped_s: float) -> None:
    """Compute the grid while everything is killed once."""
    begun = time.monotonic()

    def say(line: str) -> None:
        done = n_finished(workspace, seeds)
        click.echo(f"{time.monotonic() - begun:6.1f} s, {done:2d} runs finished: {line}")

    def until(n: int) -> None:
        wait_for(lambda: n_finished(workspace, seeds) >= n, 600)

    scheduler = site.scheduler()
    nannies = [site.worker(f"worker-{i}") for i in range(3)]
    driver = drive(site, "driver", workspace, seeds, 3)
    until(1)
    wait_for(lambda: computing(nannies[0]) is not None)
    say("a worker is killed")
    kill(computing(nannies[0]))
    until(2)
    wait_for(lambda: computing(nannies[1]) is not None)
    stopped = computing(nannies[1])
    say(f"a worker is stopped for {stopped_s:g} s")
    stopped.send_signal(signal.SIGSTOP)
    wakes = time.monotonic() + stopped_s
    until(3)
    say("the scheduler is killed, and started again")
    kill(scheduler)
    scheduler.wait()
    time.sleep(2)
    site.scheduler()
    until(4)
    say("the process that drives the grid is killed, and started again")
    kill(driver)
    driver.wait()
    driver = drive(site, "driver-again", workspace, seeds, 3)
    time.sleep(max(0.0, wakes - time.monotonic()))
    if stopped.is_running():
        say("the stopped worker goes on")
        stopped.send_signal(signal.SIGCONT)
    else:
        say("the stopped worker was replaced meanwhile")
    if driver.wait(900):
        raise SystemExit(f"the grid failed:\n{site.log('driver-again')}")
    say("the grid is done")


def differences(quiet: Workspace, hurt: Workspace, seeds: int) -> list[str]:
    """What is not the same, and what was finished twice."""
    found = []
    runs = runs_of(quiet, seeds)
    tables, others = content(quiet, runs), content(hurt, runs)
    for name, table in tables.items():
        try:
            pd.testing.assert_frame_equal(table, others[name], check_exact=True)
        except AssertionError as error:
            found.append(f"table {name}: {error}")
    for run in runs:
        a, b = (load_file(w.runs / run.run_id / "weights.safetensors") for w in (quiet, hurt))
        if a.keys() != b.keys() or not all(bool((a[key] == b[key]).all()) for key in a):
            found.append(f"weights of {run} differ")
        left = [path.name for path in (hurt.runs / run.run_id).iterdir() if path.name.startswith("claim.")]
        if left:
            found.append(f"{run}: {left} was left behind")
    counts = Counter((hurt.root / FINISHES).read_text().split())
    found += [
        f"run {run.run_id} was finished {counts[run.run_id]} times" for run in runs if counts[run.run_id] != 1
    ]
    return found


@click.command()
@click.option("--short", is_flag=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Work here, and leave it.")
def main(short: bool, keep: Path | None) -> None:
    """Hurt one grid, leave another alone, and compare."""
    seeds, stopped_s = (3, 6.0) if short else (8, 60.0)
    folder = keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        calm, chaos = Workspace(folder / "calm"), Workspace(folder / "chaos")
        prepare(calm)
        shutil.copytree(calm.root, chaos.root)
        with Site(folder / "site", {"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}) as site:
            hurt(site, chaos, seeds, stopped_s)
            if drive(site, "calm", calm, seeds, 0).wait(900):
                raise SystemExit(f"the quiet grid failed:\n{site.log('calm')}")
        found = differences(calm, chaos, seeds)
    finally:
        if keep is None:
            shutil.rmtree(folder)
    click.echo(
        "\n".join(found) if found else "The tables are equal to the last bit; each run was finished once."
    )
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
