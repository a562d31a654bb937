"""The commands about a profile and its grid: params, plan, retry, prune; `ctlib.cli.__main__` has `runs`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ctlib.cli import proposal
from ctlib.cli.data import Refused, load, profile_argument, profiles, set_option, show
from ctlib.core import PROJECT, Places, Workspace, command, display_path, doing, parameters
from ctlib.datasets import size
from ctlib.grid import maintenance

DATA, GRID = "01_explore_data", "03_finetune_grid"
"""Notebooks whose parameters decide the runs of a grid."""
NAMED = ("02_pretrain", GRID)
"""Notebooks whose parameters name networks and starting weights."""


def _values(profile: str, overrides: Sequence[str], places: Places) -> tuple[dict[str, Any], Workspace]:
    """Parameters of the data and of the grid of a profile, and its workspace."""
    values = load(profile, overrides, places)
    if GRID not in values:
        raise Refused(f"profile {profile!r} has no {GRID}.yaml; take a profile that has one.")
    both = {**values[GRID], **values.get(DATA, {})}
    return both, Workspace.at(both["work_dir"])


_REFUSED = "import json, sys; from ctlib.grid import refused; print(refused(json.load(sys.stdin)))"


def check_names(values: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse tasks, networks, starting weights and exceptions that notebooks would refuse, before any of them runs.

    In a process of its own: what the names are compared with needs torch, which stays in memory.

    Args:
        values: parameters by notebook.
    """
    with doing("Comparing tasks, networks and starting weights with those that there are"):
        words, asked = [sys.executable, "-c", _REFUSED], json.dumps(values)
        done = subprocess.run(words, cwd=PROJECT, input=asked, capture_output=True, text=True, check=False)
    if not done.returncode and (why := done.stdout.strip()):
        raise Refused(why)


# ---- plan ------------------------------------------------------------------------------


@click.command("params", short_help="Show the parameters of a profile, and where each value comes from.")
@profile_argument
@set_option
@click.option("--changed", is_flag=True, help="Only parameters that differ from the default of the notebook.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: by notebook, name and value.")
@click.pass_obj
def params(places: Places, profile: str, overrides: tuple[str, ...], changed: bool, as_json: bool) -> None:
    """Show every parameter of PROFILE: its value, and the file or --set that gives it (else the default)."""
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


@click.command(short_help="Show the choices of the method: published, released, corrected here.")
@click.argument("profile", required=False, shell_complete=profiles)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per choice.")
@click.pass_obj
def protocols(places: Places, profile: str | None, as_json: bool) -> None:
    """Show each choice of the method: in the paper, in its released code and here; what sets it; its source.

    With PROFILE, which of the three that profile follows in each choice.
    """
    loaded = load(profile, (), places) if profile else {}
    from ctlib.training import CHOICES_OF_METHOD, differences, follows

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
    if asked := loaded.get(GRID, {}).get("protocol"):
        others = ", ".join(choice.name for choice in differences(asked, loaded))
        click.echo(
            f"\nProfile {profile} follows protocol {asked}" + (f", but for {others}." if others else ".")
        )


@click.command(short_help="Estimate time, memory and disk of a profile before it runs.")
@profile_argument
@set_option
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Runs at once.  [default: the profile's]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object.")
@click.option(
    "--no-calibration", is_flag=True, help="Measure nothing: assume all times that are not known yet."
)
@click.option(
    "--gpu",
    "named",
    metavar="NAME",
    help="GPU of the times that are not measured: A100 or H200.  [default: A100]",
)
@click.option(
    "--budget", metavar="TIME", help="Propose the part of the profile that takes so long: 300h, 300 or 12d."
)
@click.option(
    "--write",
    "written",
    metavar="NAME",
    help="Profile that the proposal is written to.  [default: PROFILE-300h]",
)
@click.pass_obj
def plan(
    places: Places,
    profile: str,
    overrides: tuple[str, ...],
    workers: int | None,
    as_json: bool,
    no_calibration: bool,
    named: str | None,
    budget: str | None,
    written: str | None,
) -> None:
    """Estimate runs, time, memory, disk and statistical power of PROFILE, before anything is computed.

    \b
    ctlib plan paper
    ctlib plan paper --budget 300h

    Each network is timed for some seconds on this device, with the size, clip and batch of the profile. A
    network that is too large for this device is estimated for a GPU, from what it computes, reads and writes; of
    networks of full size, the hours of an A100 and of an H200 are stated in any case.
    Public data are not needed: published numbers of exams and patients are used. Your own data must have
    been read by 01_explore_data.

    With --budget, runs, search, negative controls and pretraining are reduced until they take that many hours, so
    that the difference between the compared init and the baseline can be seen as well as possible. What was
    left out, what is given up and the smallest differences are printed, and params/PROFILE-300h is written.
    Nothing that exists is overwritten.
    """
    if budget is None and written is not None:
        raise Refused("--write is the profile of a proposal: give --budget, too.")
    values, workspace = _values(profile, overrides, places)
    from ctlib.datasets import CohortError
    from ctlib.grid import ASSUMED, GPUS, CalibrationError, estimate_text, plan_of_profile

    gpu = ASSUMED if named is None else GPUS.get(named.upper())
    if gpu is None:
        raise Refused(f"--gpu is {named!r}; known are {', '.join(GPUS)}.")

    def tell(line: str) -> None:
        click.echo(line, err=True)

    try:
        if budget is not None:
            proposal.propose(
                profile, overrides, places, budget, written, as_json, (not no_calibration, gpu, tell)
            )
            return
        made = plan_of_profile(workspace, profile, values, workers, not no_calibration, gpu, tell)
    except (ValueError, FileNotFoundError, CohortError, CalibrationError) as error:
        raise Refused(str(error)) from error
    click.echo(json.dumps(estimate_text.as_object(made)) if as_json else estimate_text.as_text(made))


# ---- retry, prune ----------------------------------------------------------------------


@click.command(short_help="Allow failed runs to be computed again.")
@profile_argument
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@set_option
@click.option(
    "--from-start", is_flag=True, help="Start them at epoch 0, for example after a loss that was not finite."
)
@click.pass_obj
def retry(
    places: Places, profile: str, run_ids: tuple[str, ...], overrides: tuple[str, ...], from_start: bool
) -> None:
    """Allow failed runs of PROFILE to be computed again: all, or those with a RUN_ID given here.

    Without this, `run` does not compute a failed run again. Tracebacks are kept as error.previous.txt.
    """
    _, workspace = _values(profile, overrides, places)
    try:
        failed = maintenance.retry(workspace, run_ids, from_start)
    except maintenance.HousekeepingError as error:
        raise Refused(str(error)) from error
    if failed.empty:
        click.echo("No run has failed.")
        return
    show(failed[["run_id", "task", "backbone", "init", "fraction", "seed", "error"]])
    how = "start again from the beginning" if from_start else "continue from their last epoch"
    click.echo(f"{len(failed):,} runs {how} with `{command('run', profile)}`.")


@click.command(short_help="Delete checkpoints and weights that no table needs.")
@profile_argument
@click.option(
    "--keep-weights", is_flag=True, help="Keep the weights of finished runs, which `predict` needs."
)
@click.option(
    "--stale", is_flag=True, help="Also of unfinished runs that the profile does not ask for any more."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@set_option
@click.pass_obj
def prune(
    places: Places, profile: str, keep_weights: bool, stale: bool, yes: bool, overrides: tuple[str, ...]
) -> None:
    """Delete checkpoints and weights of the runs of PROFILE that no table needs, after asking.

    Predictions, curves, ledgers and results are kept, and everything that an unfinished run needs.
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
            raise Refused(f"--stale: the runs of the profile have no ids yet: {unknown}")
        needed = {run.run_id for run in [*found.runs, *found.search]}
    kinds = maintenance.waste(workspace, keep_weights, needed)
    if not kinds:
        click.echo(f"{display_path(workspace.runs)} holds nothing that can be deleted.")
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
