"""The grid that benchmarks/chaos.py hurts; as a script, the process that drives it.

python tests/factories/chaos_grid.py WORK_DIR SEEDS local|ADDRESS
"""

from __future__ import annotations

import os
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from noise_cohort import SETTINGS as SHORT
from noise_cohort import write_cohort

from ctlib.core.workspace import Workspace, write_json
from ctlib.grid.engine import Engine
from ctlib.grid.execute import expand
from ctlib.training import finetune
from ctlib.training.results import RESULT, collect, finished
from ctlib.training.run import Run

FINISHES = "finishes"
"""File that gets the id of a run whenever its `result.json` is written; appends of a line are atomic."""
HOSTS = "hosts"
"""File that gets the name of the host that wrote it."""

SETTINGS = SHORT | {
    "rotation_deg": 10.0,
    "epochs": 4,
    "steps_per_epoch": 4,
    "optimizer": "adamw",
    "schedule": "one_cycle",
}


def prepare(workspace: Workspace) -> None:
    write_cohort(workspace, "lidc")


def runs_of(workspace: Workspace, seeds: int) -> list[Run]:
    arms = {"tasks": ["lidc_nodule"], "backbones": ["resnet18", "slow_r50"], "inits": ["random"]}
    return expand(workspace, **arms, fractions=[0.5, 1.0], seeds=range(seeds), lr=1e-3, **SETTINGS)


def content(workspace: Workspace, runs: list[Run]) -> dict[str, pd.DataFrame]:
    """All tables, but for what the clock, the memory and the folder's name say."""
    found = untimed(collect(workspace, runs))
    found["ledger"] = found["ledger"].drop(columns="why")
    return found


def untimed(found: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables without what a clock or the memory says."""
    return {
        name: table.drop(columns=["seconds", "peak_memory_mb"], errors="ignore")
        for name, table in found.items()
    }


def execute(work_dir: str, run: Run) -> dict[str, Any]:
    """`ctlib.training.finetune.execute`, slower by a second: so there is time to hurt it."""
    time.sleep(1)
    return finetune.execute(work_dir, run)


def noted(path: Path, value: Any) -> Path:
    """`write_json`, which notes in the workspace that a run was finished."""
    if path.name == RESULT:
        for name, line in ((FINISHES, path.parent.name), (HOSTS, socket.gethostname())):
            handle = os.open(path.parents[2] / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(handle, f"{line}\n".encode())
            os.close(handle)
    return write_json(path, value)


finetune.write_json = noted


def main(work_dir: str, seeds: str, where: str) -> None:
    workspace = Workspace(Path(work_dir))
    todo = [run for run in runs_of(workspace, int(seeds)) if not finished(workspace, run)]
    workers = 2 if where == "local" else 3
    credentials = workspace.credentials if where != "local" else None
    with Engine(workers, cluster=where, credentials=credentials, reconnect_s=120) as engine:
        outcomes = engine.run(
            partial(execute, work_dir), todo, on_done=lambda outcome: print(outcome, flush=True)
        )
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    import chaos_grid  # a worker finds the functions by this name, not by __main__

    chaos_grid.main(*sys.argv[1:])
