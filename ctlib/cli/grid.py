"""The commands about a profile and its grid: params, plan, retry, prune; `ctlib.cli.__main__` has `runs`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from ctlib.cli.data import Refused, load, show
from ctlib.core import Places, Workspace, display_path, parameters
from ctlib.datasets import size
from ctlib.grid import maintenance

DATA, GRID = "01_explore_data", "03_finetune_grid"
"""Notebooks whose parameters decide what a grid is."""

_set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NOTEBOOK.KEY=VALUE",
    help="Change a parameter, as in `run`. Repeatable.",
)


def _values(profile: str, overrides: Sequence[str], places: Places) -> tuple[dict[str, Any], Workspace]:
    """Parameters of the data and of the grid of a profile, and its workspace."""
    values = load(profile, overrides, places)
    if GRID not in values:
        raise Refused(f"profile {profile!r} has no {GRID}.yaml, which says what the grid is.")
    both = {**values[GRID], **values.get(DATA, {})}
    return both, Workspace.at(both["work_dir"])


# ---- plan ------------------------------------------------------------------------------


@click.command("params", short_help="Show the parameters of a profile, and where each comes from.")
@click.argument("profile")
@_set_option
@click.option("--changed", is_flag=True, help="Only those that are not the notebook's default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: by notebook, name and value.")
@click.pass_obj
def params(places: Places, profile: str, overrides: tuple[str, ...], changed: bool, as_json: bool) -> None:
    """Show every parameter of PROFILE: its value, and whether a file, --set or the notebook gives it."""
    try:
        found = parameters.resolve_profile(profile, overrides, places)
    except parameters.ParameterError as error:
        raise Refused(str(error)) from error
    kept = {
        name: {key: value for key, value in values.items() if not changed or _given_by(found, name, key)}
        for name, values in found.values.items()
    }
    if as_json:
        click.echo(json.dumps(kept, indent=1))
        return
    for name, values in kept.items():
        click.echo(name)
        for key, value in values.items():
            source = _given_by(found, name, key)
            click.echo(f"  {key}: {json.dumps(value)}" + (f"  ({source})" if source else ""))


def _given_by(found: parameters.Profile, notebook: str, key: str) -> str:
    """Where the value of a parameter comes from; "" for a default."""
    source = found.sources[notebook][key]
    return "" if source == parameters.DEFAULT else source


@click.command(short_help="The choices of the method: as published, as released, as corrected here.")
@click.argument("profile", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one object a choice.")
@click.pass_obj
def protocols(places: Places, profile: str | None, as_json: bool) -> None:
    """Every choice of the method: of the paper, of its released code, and of this study; what sets it, and its source.

    With PROFILE, which of the three that profile follows in each choice.
    """
    loaded = load(profile, (), places) if profile else {}
    from ctlib.training import CHOICES_OF_METHOD, follows

    rows = []
    for choice in CHOICES_OF_METHOD:
        row = {"choice": choice.name, "about": choice.about}
        row |= {name: choice.of(name).text for name in ("paper", "released", "corrected")}
        row |= {"set by": ", ".join(choice.switches) or "cannot be chosen", "source": choice.source}
        if profile:
            row[f"profile {profile}"] = (
                "as " + ", ".join(follows(choice, loaded)) if follows(choice, loaded) else "otherwise"
            )
        rows.append(row)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    width = max(len(name) for name in rows[0] if name not in ("choice", "about"))
    for row in rows:
        click.echo(f"{row.pop('choice')}: {row.pop('about')}")
        for name, text in row.items():
            click.echo(f"  {name:<{width}}  {text}")


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
    values, workspace = _values(profile, overrides, places)
    from ctlib.datasets import CohortError
    from ctlib.grid import GPU_MULTIPLY_ADDS, CalibrationError, estimate_text, plan_of_profile

    rate = GPU_MULTIPLY_ADDS if throughput is None else throughput * 1e12

    def tell(line: str) -> None:
        click.echo(line, err=True)

    try:
        made = plan_of_profile(workspace, profile, values, workers, not no_calibration, rate, tell)
    except (ValueError, FileNotFoundError, CohortError, CalibrationError) as error:
        raise Refused(str(error)) from error
    click.echo(json.dumps(estimate_text.as_object(made)) if as_json else estimate_text.as_text(made))


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
    _, workspace = _values(profile, (), places)
    try:
        failed = maintenance.retry(workspace, run_ids, from_start)
    except maintenance.HousekeepingError as error:
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
    values, workspace = _values(profile, overrides, places)
    from ctlib.grid import expected

    needed = None
    if stale:
        try:
            found = expected(workspace, values)
        except (ValueError, FileNotFoundError) as error:
            raise Refused(str(error)) from error
        if unknown := found.unknown or found.search_unknown:
            raise Refused(f"--stale: the runs of the grid have no ids yet: {unknown}")
        needed = {run.run_id for run in [*found.runs, *found.search]}
    kinds = maintenance.waste(workspace, keep_weights, needed)
    if not kinds:
        click.echo(f"{display_path(workspace.runs)} holds nothing that can go.")
        return
    for kind in kinds:
        click.echo(f"{kind.what}: {len(kind.paths):,} files, {size(kind.n_bytes)}")
    if not yes:
        click.confirm("Delete them?", abort=True)
    try:
        maintenance.delete(kinds)
    except maintenance.HousekeepingError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{size(sum(kind.n_bytes for kind in kinds))} deleted.")


COMMANDS = (protocols, params, plan, retry, prune)
