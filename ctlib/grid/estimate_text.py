"""A plan as people and machines read it: tables, notes, one sentence of total; or one object."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import Any

import pandas as pd

from ctlib.grid.estimate import Plan
from ctlib.metrics import power

WIDTH = 100
"""Characters of a line of text."""
MOST_LISTED = 6
"""Values that a table lists one by one."""


def as_object(made: Plan) -> dict[str, Any]:
    """A plan for machines."""

    def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
        return json.loads(frame.to_json(orient="records"))

    return {
        "profile": made.profile,
        "workers": made.workers,
        "n_runs": made.count("runs"),
        **{f"n_{state}": made.count(state) for state in ("finished", "failed", "begun", "missing")},
        "n_todo": made.n_todo,
        "work_s": made.work_s,
        "wall_s": made.wall_s,
        "runs": rows(made.runs),
        "costs": rows(made.costs),
        "disk": rows(made.disk),
        "power": rows(made.power),
        "power_assumed": asdict(made.design),
        "notes": list(made.notes),
    }


def as_text(made: Plan) -> str:
    """A plan for people: tables, notes, and one sentence of total."""

    def wrapped(text: str, bullet: str = "") -> str:
        return textwrap.fill(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))

    parts = [("Runs", _table(runs(made))), ("Time and memory of a run, at most", _table(costs(made)))]
    disk = made.disk.assign(n_bytes=made.disk["n_bytes"].map(size)).rename(columns={"n_bytes": "size"})
    parts.append(("Disk, when all runs are done", _table(disk)))
    if len(made.power):
        told = made.power.drop(columns="SD from")  # the sentence below has it
        sheet = told.map(lambda value: f"{value:.3f}" if isinstance(value, float) else value)
        parts.append(("Power", f"{_table(sheet)}\n\n{wrapped(power.sentence(made.design))}"))
    if made.notes:
        parts.append(("Notes", "\n".join(wrapped(note, "- ") for note in made.notes)))
    return "\n\n".join([f"{title}\n\n{body}" for title, body in parts] + [wrapped(total(made))])


def size(n_bytes: float) -> str:
    """Bytes as people read them.

    >>> size(128_405_916_114), size(144_650_902), size(0)
    ('128.4 GB', '145 MB', '0 MB')
    """
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _table(frame: pd.DataFrame) -> str:
    return frame.to_string(index=False)


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
    retried = f" (`python -m ctlib retry {made.profile}` tries them again)" if failed else ""
    workers = "1 worker" if made.workers == 1 else f"{made.workers} workers"
    memory, disk = 1e6 * made.costs["peak_mb"].max(), int(made.disk["n_bytes"].sum())
    return (
        f"{made.count('runs'):,} runs: {made.count('finished'):,} finished, {failed:,} failed{retried}, "
        f"{made.n_todo:,} to compute. They take at most {duration(made.work_s)} one after the other, "
        f"{duration(made.wall_s)} on {workers}, {size(memory)} of memory a run and {size(disk)} of disk."
    )
