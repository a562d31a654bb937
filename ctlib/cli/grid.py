"""The commands about a profile and its grid: params, plan, retry, prune; `ctlib.cli.__main__` has `runs`."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctlib.analysis import preregistration
from ctlib.cli.data import Refused, load, show
from ctlib.core import PLAN, Places, Workspace, display_path, parameters, write_text
from ctlib.datasets import size
from ctlib.grid import maintenance

if TYPE_CHECKING:
    from ctlib.grid import budget as budgets

DATA, PRETRAINING, GRID, ANALYSIS = "01_explore_data", "02_pretrain", "03_finetune_grid", "04_analyze"
"""Notebooks whose parameters decide the runs of a grid."""

_set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NOTEBOOK.KEY=VALUE",
    help="Change a parameter, as in `run`. May be repeated.",
)


def _values(profile: str, overrides: Sequence[str], places: Places) -> tuple[dict[str, Any], Workspace]:
    """Parameters of the data and of the grid of a profile, and its workspace."""
    values = load(profile, overrides, places)
    if GRID not in values:
        raise Refused(f"profile {profile!r} has no {GRID}.yaml; take a profile that has one.")
    both = {**values[GRID], **values.get(DATA, {})}
    return both, Workspace.at(both["work_dir"])


# ---- plan ------------------------------------------------------------------------------


@click.command("params", short_help="Show the parameters of a profile, and where each value comes from.")
@click.argument("profile")
@_set_option
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
@click.argument("profile", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per choice.")
@click.pass_obj
def protocols(places: Places, profile: str | None, as_json: bool) -> None:
    """Show each choice of the method: in the paper, in its released code and here; what sets it; its source.

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


@click.command(short_help="Estimate time, memory and disk of a profile before it runs.")
@click.argument("profile")
@_set_option
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Runs at once.  [default: the profile's]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object.")
@click.option(
    "--no-calibration", is_flag=True, help="Measure nothing: assume all times that are not known yet."
)
@click.option(
    "--throughput",
    type=click.FloatRange(min=0, min_open=True),
    metavar="T",
    help="Speed of the assumed GPU where nothing is measured, 10^12 multiply-adds per second.",
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
    throughput: float | None,
    budget: str | None,
    written: str | None,
) -> None:
    """Estimate runs, time, memory, disk and statistical power of PROFILE, before anything is computed.

    \b
    python -m ctlib plan paper
    python -m ctlib plan paper --budget 300h

    Each network is timed for some seconds on this device, with the size, clip and batch of the profile. A
    network that is too large for this device is estimated from its multiply-adds, for an assumed GPU.
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
    from ctlib.grid import GPU_MULTIPLY_ADDS, CalibrationError, estimate_text, plan_of_profile

    rate = GPU_MULTIPLY_ADDS if throughput is None else throughput * 1e12

    def tell(line: str) -> None:
        click.echo(line, err=True)

    try:
        if budget is not None:
            _propose(profile, overrides, places, budget, written, as_json, (not no_calibration, rate, tell))
            return
        made = plan_of_profile(workspace, profile, values, workers, not no_calibration, rate, tell)
    except (ValueError, FileNotFoundError, CohortError, CalibrationError) as error:
        raise Refused(str(error)) from error
    click.echo(json.dumps(estimate_text.as_object(made)) if as_json else estimate_text.as_text(made))


# ---- a proposal for a budget -----------------------------------------------------------


def _propose(
    profile: str,
    overrides: Sequence[str],
    places: Places,
    text: str,
    name: str | None,
    as_json: bool,
    how: tuple[Any, ...],
) -> None:
    """Print what a budget pays for, and write it as a profile.

    Raises:
        ValueError: see `budget.propose`; or the profile has no analysis, or the new one exists.
    """
    from ctlib.grid import budget, estimate_text

    try:
        hours = budget.hours_of(text)
    except ValueError as error:
        raise ValueError(f"--budget: {error}") from error
    name = name or f"{profile}-{_literal(hours).removesuffix('.0')}h"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"--write {name!r} is no name of a profile; give letters, digits, - and _ only.")
    values, asked = load(profile, overrides, places), preregistration.read(profile, places)
    if ANALYSIS not in values:
        raise ValueError(f"profile {profile!r} has no {ANALYSIS}.yaml, which says what is compared.")
    what = values[ANALYSIS]
    comparison = budget.Comparison(what["baseline_init"], what["compared_init"], tuple(what["averaged"]))
    if asked is not None:
        fewest = preregistration.FEWEST_NETWORKS if asked.questions else comparison.fewest
        fixed = frozenset(preregistration.fixed(text)[0] for text in asked.fixed)
        comparison = dataclasses.replace(comparison, fewest=fewest, fixed=fixed)
    made = budget.propose(Workspace.at(what["work_dir"]), profile, values, comparison, hours, *how)
    told, new = "", proposed_values(values, made.kept)
    if made.steps:
        plan = asked and _plan_of(made, asked, new)
        lost = [each.text for each in asked.questions if each not in plan.questions] if asked and plan else []
        made = dataclasses.replace(
            made, given_up=(*made.given_up, *(f"Question of its plan: {text}" for text in lost))
        )
        told = _written(made, load(profile, (), places), new, plan, name, places)
    if as_json:
        found = estimate_text.proposal_object(made) | {"written": name if made.steps else None}
        click.echo(json.dumps(found))
    else:
        click.echo("\n\n".join(filter(None, (estimate_text.proposal_text(made), told))))


def proposed_values(
    values: Mapping[str, Mapping[str, Any]], kept: Mapping[str, list[Any]]
) -> dict[str, dict[str, Any]]:
    """The parameters of a profile after its cuts, by notebook; names and folders are as they were.

    Args:
        values: of the profile.
        kept: of its proposal.
    """
    made = {name: dict(given) for name, given in values.items()}
    grid = made[GRID]
    gone = [name for name in grid["backbones"] if name not in kept["backbones"]]
    named = [f"{at}{name}." for name in gone for at in ("", *(f"{one}." for one in grid["tasks"]))]
    first = grid["backbones"][:1]
    axes = [axis for axis in kept if axis in grid and (axis != "lr_rates" or kept[axis])]
    grid |= {axis: list(kept[axis]) for axis in axes}  # rates are of no account where none is searched
    grid["control_backbones"] = [name for name in grid["control_backbones"] or first if name not in gone]
    if grid["control_backbones"] == grid["backbones"][:1] and not values[GRID]["control_backbones"]:
        grid["control_backbones"] = []
    there = {*grid["tasks"], *grid["backbones"], *grid["inits"]}
    there |= {f"{100 * fraction:.6g}%" for fraction in grid["fractions"]}
    if "leave_out" in grid:  # an entry that names what is gone leaves nothing out
        grid["leave_out"] = [entry for entry in grid["leave_out"] if there.issuperset(entry.split())]
    for notebook, name in ((GRID, "exceptions"), (PRETRAINING, "pretrain_exceptions")):
        if notebook in made:
            texts = made[notebook][name]
            made[notebook][name] = [text for text in texts if not text.startswith(tuple(named))]
    if PRETRAINING in made:
        made[PRETRAINING] |= {"backbones": list(kept["backbones"]), "pretrained": list(kept["pretrained"])}
    if ANALYSIS in made:
        shown = made[ANALYSIS]["cam_backbones"]
        stay = [name for name in shown if name not in gone] or kept["averaged"][:1]
        made[ANALYSIS] |= {"averaged": list(kept["averaged"]), "cam_backbones": stay if shown else []}
    return made


def _written(
    made: budgets.Proposal,
    before: Mapping[str, Mapping[str, Any]],
    changed: Mapping[str, Mapping[str, Any]],
    plan: preregistration.Prespecified | None,
    name: str,
    places: Places,
) -> str:
    """Write a proposal as a profile; a sentence about it.

    Raises:
        ValueError: the folder exists and says something else.
    """
    folder = places.params / name
    old = changed[GRID]["work_dir"]
    new = {"profile": name, "work_dir": str(Path(old).parent / name)}
    files = {}
    for notebook, given in changed.items():
        moved = {key: new.get(key, value) for key, value in given.items()}
        if "notes_file" in moved:  # it is written by people: each profile has its own
            moved["notes_file"] = moved["notes_file"].replace(f"{old}/", f"{new['work_dir']}/", 1)
        declared = parameters.declared_parameters(places.notebooks / f"{notebook}.ipynb")
        lines = [
            f"{key}: {_literal(value)}"
            for key, value in moved.items()
            if key == "profile" or value != declared[key].default
        ]
        head = _head(made, notebook, before[notebook], given, name)
        files[f"{notebook}.yaml"] = "\n".join([*(f"# {line}" for line in head), "", *lines, ""])
    if plan is not None:
        files[PLAN] = _plan_text(made, plan, name)
    where = display_path(folder)
    if folder.exists():
        if _undated(files) != _undated(
            {path.name: path.read_text("utf-8") for path in folder.glob("*.y*ml")}
        ):
            raise ValueError(
                f"{where} exists and says something else than this proposal, and nothing is overwritten: give "
                "another name with --write, or delete it."
            )
        return f"{where} says just this already. Next: python -m ctlib run {name}"
    for file, text in files.items():
        write_text(folder / file, text)
    return (
        f"{where} was written{f'; its {PLAN} is fixed today' if plan else ''}. Next: python -m ctlib run {name}\n"
        f"It reads the files that {made.profile} reads, and computes under {new['work_dir']}.\n"
        "Weights that were put by hand are looked for there, or in the folder that CTLIB_WEIGHTS names."
    )


def _undated(files: Mapping[str, str]) -> dict[str, str]:
    """Texts of files without the day on which a plan was fixed."""
    return {name: re.sub(r"^fixed_on: .*$", "", text, flags=re.MULTILINE) for name, text in files.items()}


def _head(
    made: budgets.Proposal, notebook: str, before: Mapping[str, Any], after: Mapping[str, Any], name: str
) -> Iterator[str]:
    """The head of a parameter file: what it is, and what it takes."""
    differing = [key for key in after if after[key] != before[key] and key != "work_dir"]
    yield f"As params/{made.profile}" + (f", but for {', '.join(differing)}." if differing else ".")
    if notebook != GRID:
        yield f"Time and hardware: see params/{made.profile}, of which this is a part."
    else:
        searching = f", and {made.n_search:,} that look for a learning rate" if made.n_search else ""
        more = f", {made.pretraining_h:,.1f} hours of pretraining included" if made.pretraining_h else ""
        yield (
            f"Time: {made.n_runs:,} runs{searching}: at most {made.hours:,.1f} of {made.budget_h:,g} hours as "
            f"`python -m ctlib plan {made.profile} --budget` counts them{more}."
        )
        yield f"Hardware: see params/{made.profile}."
    told = (f"{task} {value:.3f}" for task, value in made.steps[-1].after.items())
    yield f"Expect: a smallest difference in AUROC of {', '.join(told)}; python -m ctlib plan {name} has more."


def _plan_of(
    made: budgets.Proposal,
    asked: preregistration.Prespecified,
    changed: Mapping[str, Mapping[str, Any]],
) -> preregistration.Prespecified:
    """The plan of a proposal: that of its profile, for what is left, fixed today."""
    kept, what = made.kept, changed[ANALYSIS]

    def left(planned: list[Any], of: list[Any]) -> list[Any]:
        """What was planned of it, or all of it where `--set` has given others."""
        return [value for value in planned if value in of] or list(of)

    return dataclasses.replace(
        asked,
        fixed_on=f"{datetime.now(UTC):%Y-%m-%d}",
        baseline_init=what["baseline_init"],
        compared_init=what["compared_init"],
        averaged=list(what["averaged"]),
        two_d=[name for name in asked.two_d if name in kept["backbones"]],
        in_domain=[name for name in asked.in_domain if name in kept["inits"]],
        tasks=left(asked.tasks, changed[GRID]["tasks"]),
        fractions=left(asked.fractions, kept["fractions"]),
        seeds=left(asked.seeds, kept["seeds"]),
        questions=[
            question
            for question in asked.questions
            if question.fraction in kept["fractions"] and set(question.inits) <= set(kept["inits"])
        ],
    )


def _plan_text(made: budgets.Proposal, plan: preregistration.Prespecified, name: str) -> str:
    """The file of a plan, with what its profile asks beyond it."""
    lines = [
        f"# What is fixed before the results of `{name}` are seen: nothing here may be changed after the first run.",
        f"# The plan of params/{made.profile}, for the part of it that {made.budget_h:,g} hours pay for. Not asked:",
        *(f"# - {sentence}" for sentence in made.given_up),
        "",
    ]
    for key, value in vars(plan).items():
        if key != "questions" or not value:
            lines.append(f"{key}: {_literal(value)}")
            continue
        lines.append("questions:")
        for question in plan.questions:
            fields = [f"{key}: {_literal(value)}" for key, value in dataclasses.asdict(question).items()]
            lines += [f"  {'-' if i == 0 else ' '} {field}" for i, field in enumerate(fields)]
    return "\n".join([*lines, ""])


def _literal(value: Any) -> str:
    """A value as YAML, on one line; numbers without exponents, which YAML would read as text.

    >>> _literal([0.00001, 1.0, 3]), _literal("a"), _literal(None), _literal(True)
    ('[0.00001, 1.0, 3]', '"a"', 'null', 'true')
    """
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return f"{Decimal(repr(value)):f}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


# ---- retry, prune ----------------------------------------------------------------------


@click.command(short_help="Allow failed runs to be computed again.")
@click.argument("profile")
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option(
    "--from-start", is_flag=True, help="Start them at epoch 0, for example after a loss that was not finite."
)
@click.pass_obj
def retry(places: Places, profile: str, run_ids: tuple[str, ...], from_start: bool) -> None:
    """Allow failed runs of PROFILE to be computed again: all, or those with a RUN_ID given here.

    Without this, `run` does not compute a failed run again. Tracebacks are kept as error.previous.txt.
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
    how = "start again from the beginning" if from_start else "continue from their last epoch"
    click.echo(f"{len(failed):,} runs {how} with `python -m ctlib run {profile} --only 03`.")


@click.command(short_help="Delete checkpoints and weights that no table needs.")
@click.argument("profile")
@click.option(
    "--keep-weights", is_flag=True, help="Keep the weights of finished runs, which `predict` needs."
)
@click.option(
    "--stale", is_flag=True, help="Also of unfinished runs that the profile does not ask for any more."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_set_option
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
