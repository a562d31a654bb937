"""A plan, or a proposal for a budget, as people and machines read it: tables, notes, sentences; or one object."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import Any

import pandas as pd

from ctlib.core import command, title_of
from ctlib.grid.budget import STAGES, Proposal
from ctlib.grid.estimate import Plan
from ctlib.metrics import power

WIDTH = 100
"""Characters of a line of text."""
MOST_LISTED = 6
"""Values that a table lists one by one."""


def as_object(made: Plan) -> dict[str, Any]:
    """A plan for machines."""
    return {
        "profile": made.profile,
        "workers": made.workers,
        "runs_a_gpu": made.runs_a_gpu,
        "n_runs": made.count("runs"),
        **{f"n_{state}": made.count(state) for state in ("finished", "failed", "begun", "missing")},
        "n_todo": made.n_todo,
        "work_s": made.work_s,
        "wall_s": made.wall_s,
        "runs": _rows(made.runs),
        "costs": _rows(made.costs),
        "gpus": _rows(made.gpus),
        "disk": _rows(made.disk),
        "power": _rows(made.power),
        "power_assumed": asdict(made.design),
        "notes": list(made.notes),
    }


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(frame.to_json(orient="records"))


def _wrapped(text: str, bullet: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


def as_text(made: Plan) -> str:
    """A plan for people: tables, notes, and one sentence of total."""
    parts = [("Runs", _table(runs(made))), ("Time and memory of a run, upper estimates", _table(costs(made)))]
    if len(made.gpus):
        parts.append(
            (
                "A training step on a GPU, by its peaks (ctlib/grid/roofline.py), not measured",
                _table(gpus(made)),
            )
        )
    disk = made.disk.assign(n_bytes=made.disk["n_bytes"].map(size)).rename(columns={"n_bytes": "size"})
    parts.append(("Disk, when all runs are done", _table(disk)))
    if len(made.power):
        told = made.power.drop(columns="SD from")  # the sentence below has it
        sheet = told.map(lambda value: f"{value:.3f}" if isinstance(value, float) else value)
        parts.append(("Power", f"{_table(sheet)}\n\n{_wrapped(power.sentence(made.design))}"))
    if made.notes:
        parts.append(("Notes", "\n".join(_wrapped(note, "- ") for note in made.notes)))
    return "\n\n".join([f"{title}\n\n{body}" for title, body in parts] + [_wrapped(total(made))])


def size(n_bytes: float) -> str:
    """Bytes as people read them.

    >>> size(128_405_916_114), size(144_650_902), size(0)
    ('128.4 GB', '145 MB', '0 MB')
    """
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _table(frame: pd.DataFrame) -> str:
    return frame.rename(columns=title_of).to_string(index=False)


def runs(made: Plan) -> pd.DataFrame:
    """Runs by task and init, and what became of them."""
    grouped = made.runs.groupby(["purpose", "task", "init"], sort=False)
    table = grouped.agg(
        networks=("backbone", "nunique"),
        fractions=("fraction", _listed),
        **{name: (name, "sum") for name in ("runs", "finished", "failed", "begun", "missing")},
    ).reset_index()
    return table.drop(columns="purpose") if table["purpose"].nunique() == 1 else table


def _listed(values: pd.Series) -> str:
    """Distinct values; of many, the first two and the last.

    >>> _listed(pd.Series([0.1, 0.1, 1.0])), _listed(pd.Series(range(9)))
    ('0.1, 1', '0, 1, ..., 8')
    """
    told = [f"{value:g}" for value in dict.fromkeys(values)]
    return ", ".join(told if len(told) <= MOST_LISTED else [*told[:2], "...", told[-1]])


def costs(made: Plan) -> pd.DataFrame:
    """What a run takes, by task and network; fractions that cost the same share a row."""
    same = ["task", "backbone", "batches", "epochs", "seconds", "peak_mb", "is_measured"]
    table = made.costs.groupby(same, sort=False).agg(
        fractions=("fraction", _listed), todo=("todo", "sum"), hours=("hours", "sum")
    )
    table = table.reset_index()
    return table[["task", "backbone", "fractions", "batches", "epochs"]].assign(
        **{
            "a run": table["seconds"].map(duration),
            "memory": (table["peak_mb"] * 1e6).map(size),
            "from": table["is_measured"].map({True: "measured here", False: "assumed GPU"}),
            "to compute": table["todo"],
            "hours": table["hours"].map("{:,.1f}".format),
        }
    )


def gpus(made: Plan) -> pd.DataFrame:
    """A training step of each network, and the hours of its runs, on each GPU."""
    wide = made.gpus.pivot(index=["backbone", "batch_size"], columns="gpu").sort_index(level=0)
    table = pd.DataFrame(index=wide.index)
    for name in made.gpus["gpu"].unique():
        table[f"{name}, ms"] = wide["step_ms", name].map("{:,.0f}".format)
        table[f"{name}, h"] = wide["hours", name].map("{:,.1f}".format)
    return table.reset_index().rename(columns={"batch_size": "batch"})


def gpu_hours(made: Plan) -> str:
    """Hours of all runs on each GPU, words; "" where no network is of full size.

    The figures are by the GPUs' peaks (`ctlib.grid.roofline`).
    """
    hours = made.gpus.groupby("gpu", sort=False)["hours"].sum() if len(made.gpus) else {}
    return " or ".join(f"{taken:,.0f} hours of an {name}" for name, taken in hours.items())


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as a plan knows them.

    >>> duration(4.23), duration(400), duration(90_000)
    ('4.2 s', '6.7 min', '25.0 h')
    """
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def total(made: Plan) -> str:
    """The plan in one sentence."""
    failed = made.count("failed")
    retried = f" (`{command('retry', made.profile)}` tries them again)" if failed else ""
    workers = "1 worker" if made.workers == 1 else f"{made.workers} workers"
    workers += f" ({made.runs_a_gpu} on a GPU)" if made.runs_a_gpu > 1 else ""
    beside = ", longer where these share a core or its memory" if made.workers > 1 else ""
    memory, disk = 1e6 * made.costs["peak_mb"].max(), int(made.disk["n_bytes"].sum())
    elsewhere = f" By the peaks of GPUs they take at most {gpu_hours(made)}." if len(made.gpus) else ""
    return (
        f"{made.count('runs'):,} runs: {made.count('finished'):,} finished, {failed:,} failed{retried}, "
        f"{made.n_todo:,} to compute. With all epochs they take {duration(made.work_s)} one after the other, "
        f"{duration(made.wall_s)} on {workers}{beside}; {size(memory)} of memory a run, "
        f"{size(disk)} of disk.{elsewhere}"
    )


# ---- a proposal for a budget -----------------------------------------------------------


def proposal_object(made: Proposal) -> dict[str, Any]:
    """A proposal for machines."""
    return asdict(made) | {"power": _rows(made.power)}


def proposal_text(made: Proposal) -> str:
    """A proposal for people: what was cut, what stays, what it can show, what is given up."""
    making = f", {made.pretraining_h:,.1f} of them for pretraining" if made.pretraining_h else ""
    opening = f"{made.budget_h:,g} hours are asked. Profile {made.profile} takes {made.whole_h:,.1f} hours"
    if not made.steps:
        return f"{_wrapped(f'{opening}{making}: all of it fits, and nothing is cut.')}\n\n{_power(made)}"
    said = f"{opening}, this part of it {made.hours:,.1f}{making}, one run after the other."
    stages = "; ".join(STAGES.values())
    order = (
        f"Cuts come in stages: {stages}. Within a stage that cut is next which saves most hours for the least rise of "
        "the smallest difference, in the mean over the tasks, at the lowest r; at the end cuts are taken back as far "
        "as the hours allow."
    )
    parts = [
        ("Cuts", f"{_table(_steps(made))}\n\n{_wrapped(order)}"),
        ("Design", "\n".join(_wrapped(line, "- ") for line in _design(made))),
        ("Smallest difference", _power(made)),
        ("Given up", "\n".join(_wrapped(line, "- ") for line in made.given_up)),
    ]
    return "\n\n".join([_wrapped(said), *(f"{title}\n\n{body}" for title, body in parts)])


def _steps(made: Proposal) -> pd.DataFrame:
    """What was cut, hours, and the smallest difference of each task before and after."""
    return pd.DataFrame(
        [
            {"what goes": str(step.cut), "saves, h": f"{step.saved:,.1f}", "leaves, h": f"{step.hours:,.1f}"}
            | {name: f"{step.before[name]:.3f} to {step.after[name]:.3f}" for name in step.before}
            for step in made.steps
        ]
    )


def _design(made: Proposal) -> list[str]:
    """What stays, a line each."""
    kept = {
        name: ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        for name, values in made.kept.items()
    }
    searched = f"; {kept['lr_rates']} are tried in its search" if kept["lr_rates"] else ""
    lines = [
        f"{made.n_runs:,} runs, and {made.n_search:,} that look for a learning rate{searched}",
        f"networks that are averaged: {kept['averaged']}; of slices: {kept['two_d'] or 'none'}",
        f"starting weights: {kept['inits']}; made here: {kept['pretrained'] or 'none'}",
        f"fractions: {kept['fractions']}; seeds: {kept['seeds']}; folds: {kept['folds'] or 'a single split'}",
        f"negative controls: {kept['controls'] or 'none'}",
    ]
    return [f"{line}." for line in lines]


def _power(made: Proposal) -> str:
    """The smallest differences of the proposal, beside those of the whole profile."""
    sheet = made.power.map(lambda value: f"{value:.3f}" if isinstance(value, float) else value)
    return f"{_table(sheet)}\n\n" + _wrapped(
        "Smallest difference in AUROC between the compared and the baseline weights, in the mean over the averaged "
        f"networks and the seeds, that is seen with {made.design.power:.0%} power at a two-sided "
        f"{made.design.alpha:g}; whole: of the whole profile. Networks and seeds score the same test patients, so "
        f"more of them do not average out what patients do to all. {power.assumptions(made.design)}"
    )
