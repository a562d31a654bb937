"""What was fixed before the results were seen: `params/<profile>/plan.yaml`.

A comparison that is chosen after looking always finds something. So the primary comparison, its
metric, margin, level, seeds, exclusions and the rule that ends the experiment are a file. Its hash
stands in every report: the first hex digits of a SHA-256 of what the file says, whatever its comments
and the order of its lines, so that a reader can tell whether two reports followed one plan.

A workspace remembers when it first met each plan, and how many runs were finished by then: a plan
that was changed after the first result is a deviation, and is listed as one (`ctlib.findings`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ctlib.parameters import ParameterError, conform, nearest, read_yaml
from ctlib.workspace import HOME, PLAN, Places, Workspace, read_json, shown, write_json

METRICS = ("auroc",)
"""Metrics that a primary comparison may have."""
DIGITS = 12
"""Hex digits of a hash that are shown."""


@dataclass(frozen=True)
class Prespecified:
    """What was fixed beforehand.

    Args:
        fixed_on: day on which it was fixed, YYYY-MM-DD.
        population: whom the answer is about, in a few words.
        baseline_init: init that is subtracted.
        compared_init: init that is looked at.
        averaged: the 3D networks over which the primary effect is averaged.
        two_d: the 2D networks that these are compared with.
        in_domain: inits from CT that video is compared with, each on the tasks that it may be used for.
        tasks: tasks.
        fractions: shares of the training patients.
        seeds: seeds; their number is the number of repetitions.
        metric: of the primary comparison, one of `METRICS`, over test exams.
        study_score_rule: exam score from clip scores.
        level: of the intervals, in (0, 1); tests are at 1 - level.
        margin: differences of the metric smaller than this are of no consequence.
        exclusions: what is left out and why, a sentence each.
        stopping: when the experiment ends, a sentence.
    """

    fixed_on: str
    population: str
    baseline_init: str
    compared_init: str
    averaged: list[str]
    two_d: list[str]
    in_domain: list[str]
    tasks: list[str]
    fractions: list[float]
    seeds: list[int]
    metric: str
    study_score_rule: str
    level: float
    margin: float
    exclusions: list[str]
    stopping: str

    @cached_property
    def hash(self) -> str:
        """First hex digits of the SHA-256 of all that is fixed."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def path_of(profile: str, places: Places = HOME) -> Path:
    """Where the plan of a profile lies."""
    return places.params / profile / PLAN


def read(profile: str, places: Places = HOME) -> Prespecified | None:
    """The plan of a profile; None where it has none.

    Raises:
        ParameterError: a value is unknown, missing, of the wrong type or out of range; a line a problem.
    """
    path = path_of(profile, places)
    if not path.is_file():
        return None
    given, where = read_yaml(path), shown(path)
    known = {field.name: str(field.type) for field in dataclasses.fields(Prespecified)}
    problems = [f"{where}: {key} is not known{nearest(key, known)}." for key in given if key not in known]
    problems += [f"{where}: {key} is missing; give it a {known[key]}." for key in known if key not in given]
    values: dict[str, Any] = {}
    for key, annotation in known.items():
        try:
            values[key] = conform(given[key], annotation) if key in given else None
        except TypeError as error:
            problems.append(f"{where}, {key}: {error}.")
    if not problems:
        problems = _out_of_range(values, where)
    if problems:
        raise ParameterError(problems)
    return Prespecified(**values)


def _out_of_range(values: dict[str, Any], where: str) -> list[str]:
    """Values of the right type that cannot be meant."""
    problems = []
    for key in ("averaged", "tasks", "fractions", "seeds", "exclusions"):
        if not values[key]:
            problems.append(f"{where}: {key} is empty; give at least one.")
    if values["metric"] not in METRICS:
        problems.append(f"{where}: metric is {values['metric']!r}; known are {', '.join(METRICS)}.")
    for key in ("level", "margin"):
        if not (math.isfinite(values[key]) and 0 < values[key] < 1):
            problems.append(f"{where}: {key} is {values[key]:g}; give a number between 0 and 1.")
    return problems


def facts(profile: str, places: Places = HOME) -> str:
    """The plan in a few words, for the head of a report.

    Raises:
        ParameterError: see `read`.
    """
    plan, where = read(profile, places), shown(path_of(profile, places))
    return f"{plan.hash} ({where})" if plan else f"none: {where} does not exist"


# ---- when a workspace met its plans ------------------------------------------------------


def remember(workspace: Workspace, plan: Prespecified) -> list[dict[str, Any]]:
    """Note a plan that this workspace has not met before, and give all that it met.

    Args:
        workspace: where results lie.
        plan: the plan that is followed now.

    Returns:
        hash, first_met (UTC) and n_finished (runs with a result by then), in the order they were met.
    """
    path = workspace.root / "plans.json"
    met = read_json(path) if path.is_file() else []
    if plan.hash not in [entry["hash"] for entry in met]:
        n_finished = sum(1 for _ in workspace.runs.glob("*/result.json"))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        met.append({"hash": plan.hash, "first_met": now, "n_finished": n_finished})
        write_json(path, met)
    return met
