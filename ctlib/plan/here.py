"""The plan of runs whose data are here: tables are counted, and each network is timed on this device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ctlib import calibration, housekeeping
from ctlib.calibration import GPU_MULTIPLY_ADDS
from ctlib.cohorts import task
from ctlib.plan import Plan, Setting, make
from ctlib.runs import Run
from ctlib.sizes import counted
from ctlib.workspace import Workspace

CALIBRATION = "calibration.json"
"""Under work/PROFILE: what was measured on this device."""


def plan_of(
    workspace: Workspace,
    runs: Sequence[Run],
    workers: int,
    loader_workers: int = 0,
    notes: Sequence[str] = (),
    measuring: bool = True,
    tell: Callable[[str], Any] = lambda line: None,
) -> Plan:
    """What runs will take, and what became of them.

    Args:
        workspace: where their data lie.
        runs: from `grid.expand`.
        workers: how many compute at once.
        loader_workers: processes that read clips ahead, a run.
        notes: sentences that the plan carries on.
        measuring: False measures nothing: what was not measured before is assumed, as where the runs
            compute on other machines.
        tell: takes one line a network that is measured.

    Raises:
        MissingInput: a cohort was not prepared.
        CalibrationError: a network does not compute these clips.
    """
    names = dict.fromkeys(task(run.task).cohort for run in runs)
    sizes = {name: counted(workspace, name) for name in names}
    path = workspace.root / CALIBRATION
    timings = calibration.calibrate(runs, path, measuring, GPU_MULTIPLY_ADDS, tell)
    states = housekeeping.states(workspace.runs, [run.run_id for run in runs])
    setting = Setting(
        workspace.root.name,
        sizes,
        timings,
        max(1, workers),
        loader_workers,
        memory_mb=calibration.memory_mb(),
        notes=notes,
    )
    return make(setting, runs, states)
