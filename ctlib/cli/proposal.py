"""What a number of hours pays for, written as a profile of its own: `plan PROFILE --budget`."""

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
from ctlib.cli.data import load
from ctlib.core import PLAN, Places, Workspace, display_path, parameters, write_text

if TYPE_CHECKING:
    from ctlib.grid import budget as budgets

PRETRAINING, GRID, ANALYSIS = "02_pretrain", "03_finetune_grid", "04_analyze"
"""Notebooks whose parameters a proposal changes."""


def propose(
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
        return f"{where} says just this already. Next: ctlib run {name}"
    for file, text in files.items():
        write_text(folder / file, text)
    return (
        f"{where} was written{f'; its {PLAN} is fixed today' if plan else ''}. Next: ctlib run {name}\n"
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
            f"`ctlib plan {made.profile} --budget` counts them{more}."
        )
        yield f"Hardware: see params/{made.profile}."
    told = (f"{task} {value:.3f}" for task, value in made.steps[-1].after.items())
    yield f"Expect: a smallest difference in AUROC of {', '.join(told)}; ctlib plan {name} has more."


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
        fixed=[_still(text, changed) for text in asked.fixed],
        questions=[
            question
            for question in asked.questions
            if question.fraction in kept["fractions"] and set(question.inits) <= set(kept["inits"])
        ],
    )


def _still(text: str, changed: Mapping[str, Mapping[str, Any]]) -> str:
    """A fixed parameter; of exceptions, those whose network is left."""
    name, value = preregistration.fixed(text)
    if name not in ("exceptions", "pretrain_exceptions"):
        return text
    there = [entry for given in changed.values() for entry in given.get(name, [])]
    return f"{name}=[{', '.join(entry for entry in value if entry in there)}]"


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
