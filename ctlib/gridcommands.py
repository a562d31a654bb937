"""The commands about a grid of runs: plan, retry, prune. `ctlib.__main__` has `runs`, which lists them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from ctlib import housekeeping
from ctlib.commands import Refused, load, show
from ctlib.fetch.meter import size
from ctlib.workspace import MissingInput, Places, Workspace, shown

if TYPE_CHECKING:
    from ctlib.runs import Run

DATA, GRID = "01_explore_data", "03_finetune_grid"
"""Notebooks whose parameters decide what a grid is."""
LR_RATES, LR_FRACTION = "lr_rates", "lr_fraction"
"""Parameters of `03_finetune_grid` that say how a learning rate is searched."""
NOT_SEARCHED = "the learning rates have not been searched yet."

_set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NOTEBOOK.KEY=VALUE",
    help="Change a parameter, as in `run`. Repeatable.",
)


def _values(
    profile: str, overrides: Sequence[str], places: Places
) -> tuple[dict[str, Any], dict[str, Any], Workspace]:
    """Parameters of the data and of the grid of a profile, and its workspace."""
    values = load(profile, overrides, places)
    if GRID not in values:
        raise Refused(f"profile {profile!r} has no {GRID}.yaml, which says what the grid is.")
    grid = values[GRID]
    return {**grid, **values.get(DATA, {})}, grid, Workspace.at(grid["work_dir"])


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
    from ctlib import rates, tables
    from ctlib.arms import arms

    of, seeds = arms(values["tasks"], values["backbones"], values["inits"]), values["seeds"]
    folds = values.get("folds", [])
    lr = rates.fixed(str(values["lr"]), of)
    if lr is not None:
        runs, unknown = _runs(workspace, values, lr, values["fractions"], seeds, folds)
        return Expected(runs, [], unknown)
    first, *others = (float(rate) for rate in values[LR_RATES])
    any_rate = dict.fromkeys(of, first)  # until it is known, any will do: none changes what a run costs
    search, search_unknown = _runs(workspace, values, any_rate, [values[LR_FRACTION]], seeds[:1], ())
    search += [replace(run, lr=lr) for lr in others for run in search]
    path = workspace.table("search")
    found = rates.of_table(tables.read("search", path)) if path.is_file() else {}
    searched = all(arm in found for arm in of)
    known = found if searched else any_rate
    runs, unknown = _runs(workspace, values, known, values["fractions"], seeds, folds)
    return Expected(runs, search, unknown or ("" if searched else NOT_SEARCHED), search_unknown)


def _runs(
    workspace: Workspace,
    values: Mapping[str, Any],
    lr: Mapping[tuple[str, str, str], float],
    fractions: Sequence[float],
    seeds: Sequence[int],
    folds: Sequence[int],
) -> tuple[list[Run], str]:
    """Runs, and why their ids are not known, "" where they are."""
    from ctlib.arms import turns
    from ctlib.flaws import flaws_of
    from ctlib.grid import expand, outline
    from ctlib.runs import Run
    from ctlib.store import StoreError
    from ctlib.training import FitError
    from ctlib.zoo import InitError

    names = Run.__dataclass_fields__.keys() - {"task", "backbone", "init", "fraction", "seed", "lr", "fold"}
    settings = {name: values[name] for name in names if name in values}
    settings["exceptions"] = values.get("exceptions", [])
    settings["flaws"] = flaws_of(values["protocol"], values["protocol_overrides"])
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
    from ctlib.prepare import NO_FOLD
    from ctlib.turns import file_for

    def asked(cohort: str) -> bool:
        if workspace.table("splits", cohort).is_file():
            return workspace.table("folds", cohort).is_file()
        return values.get("fold", NO_FOLD) != NO_FOLD and bool(file_for(cohort, values["splits_file"]))

    return asked


# ---- plan ------------------------------------------------------------------------------


@click.command(short_help="Tell what the grid of a profile will take, before anything runs.")
@click.argument("profile")
@_set_option
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Runs at once.  [default: the profile's]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object.")
@click.option(
    "--no-calibration", is_flag=True, help="Measure nothing: times are assumed, but for known ones."
)
@click.option(
    "--throughput",
    type=click.FloatRange(min=0, min_open=True),
    metavar="T",
    help="Of the GPU that is assumed where nothing is measured, 10^12 multiply-adds a second.",
)
@click.pass_obj
def plan(
    places: Places,
    profile: str,
    overrides: tuple[str, ...],
    workers: int | None,
    as_json: bool,
    no_calibration: bool,
    throughput: float | None,
) -> None:
    """Runs, time, memory, disk and power of the grid of PROFILE, before anything is computed.

    Each network is timed for some seconds on this device, at the profile's size, clip and batch; what is too
    large for that is told from multiply-adds, for an assumed GPU. Data need not be there: their size is
    then taken from what is published of them.
    """
    values, grid, workspace = _values(profile, overrides, places)
    from ctlib import calibration
    from ctlib import plan as planning
    from ctlib.cohorts import CohortError, task
    from ctlib.plan import words
    from ctlib.plan.here import CALIBRATION
    from ctlib.sizes import size_of

    rate = calibration.GPU_MULTIPLY_ADDS if throughput is None else throughput * 1e12
    try:
        found = expected(workspace, values)
        in_grid = set(found.runs)
        search = [run for run in found.search if run not in in_grid]
        both = [*found.runs, *search]
        cohorts = list(dict.fromkeys(task(run.task).cohort for run in both))
        sizes = {name: size_of(workspace, name, values) for name in cohorts}
        timings = calibration.calibrate(
            both,
            workspace.root / CALIBRATION,
            not no_calibration,
            rate,
            lambda line: click.echo(line, err=True),
        )
    except (ValueError, FileNotFoundError, CohortError, calibration.CalibrationError) as error:
        raise Refused(str(error)) from error
    unknown = found.unknown or found.search_unknown
    ids = [f"Runs without an id yet count as missing: {unknown}"] if unknown else []
    setting = planning.Setting(
        profile,
        sizes,
        timings,
        workers or max(1, grid["workers"]),
        grid.get("loader_workers", 0),
        values.get("store_codec", "none"),
        calibration.memory_mb(),
        [*ids, *_left_out(workspace, values)],
    )
    states = _states(workspace, found.runs, found.unknown)
    searched = zip(search, _states(workspace, search, found.search_unknown), strict=True)
    made = planning.make(setting, found.runs, states, list(searched))
    click.echo(json.dumps(words.as_object(made)) if as_json else words.as_text(made))


def _left_out(workspace: Workspace, values: Mapping[str, Any]) -> list[str]:
    """What the grid leaves out of its parameters' product, and why: sentences."""
    from ctlib.arms import single, skipped

    tasks, folds = values["tasks"], values.get("folds", [])
    left = skipped(tasks, values["backbones"], values["inits"])
    return [*left, *single(tasks, folds, _will_have_folds(workspace, values))]


def _states(workspace: Workspace, runs: Sequence[Run], unknown: str) -> list[str]:
    """What became of runs; those without an id are missing."""
    if unknown or not workspace.runs.is_dir():
        return [housekeeping.MISSING] * len(runs)
    return housekeeping.states(workspace.runs, [run.run_id for run in runs])


# ---- retry, prune ----------------------------------------------------------------------


@click.command(short_help="Let the next grid compute failed runs again.")
@click.argument("profile")
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option(
    "--from-start", is_flag=True, help="Forget their last epochs, too: after a loss that was not finite."
)
@click.pass_obj
def retry(places: Places, profile: str, run_ids: tuple[str, ...], from_start: bool) -> None:
    """Let the next grid of PROFILE compute failed runs again: all, or those of these ids.

    A grid leaves failed runs alone. Their tracebacks are kept as error.previous.txt.
    """
    _, _, workspace = _values(profile, (), places)
    try:
        failed = housekeeping.retry(workspace, run_ids, from_start)
    except housekeeping.HousekeepingError as error:
        raise Refused(str(error)) from error
    if failed.empty:
        click.echo("No run has failed.")
        return
    show(failed[["run_id", "task", "backbone", "init", "fraction", "seed", "error"]])
    how = "from the beginning" if from_start else "from their last epoch"
    click.echo(f"{len(failed):,} runs go on {how} with `python -m ctlib run {profile} --only 03`.")


@click.command(short_help="Delete checkpoints and weights that no table needs.")
@click.argument("profile")
@click.option(
    "--keep-weights", is_flag=True, help="Keep the weights of finished runs, which `predict` needs."
)
@click.option(
    "--stale", is_flag=True, help="Also of unfinished runs that are not in the profile's grid any more."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_set_option
@click.pass_obj
def prune(
    places: Places, profile: str, keep_weights: bool, stale: bool, yes: bool, overrides: tuple[str, ...]
) -> None:
    """Delete checkpoints and weights of the runs of PROFILE that no table needs, after asking.

    Predictions, curves, ledgers and results stay, and whatever an unfinished run goes on from.
    """
    values, _, workspace = _values(profile, overrides, places)
    needed = None
    if stale:
        try:
            found = expected(workspace, values)
        except (ValueError, FileNotFoundError) as error:
            raise Refused(str(error)) from error
        if unknown := found.unknown or found.search_unknown:
            raise Refused(f"--stale: the runs of the grid have no ids yet: {unknown}")
        needed = {run.run_id for run in [*found.runs, *found.search]}
    kinds = housekeeping.waste(workspace, keep_weights, needed)
    if not kinds:
        click.echo(f"{shown(workspace.runs)} holds nothing that can go.")
        return
    for kind in kinds:
        click.echo(f"{kind.what}: {len(kind.paths):,} files, {size(kind.n_bytes)}")
    if not yes:
        click.confirm("Delete them?", abort=True)
    try:
        housekeeping.delete(kinds)
    except housekeeping.HousekeepingError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{size(sum(kind.n_bytes for kind in kinds))} deleted.")


COMMANDS = (plan, retry, prune)
