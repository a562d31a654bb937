"""What was fixed before the results were seen: `params/<profile>/plan.yaml`.

A comparison that is chosen after looking always finds something. So the primary comparison, its
metric, margin, level, seeds, exclusions and the rule that ends the experiment are a file. Its hash
stands in every report: the first hex digits of a SHA-256 of what the file says, whatever its comments
and the order of its lines, so that a reader can tell whether two reports followed one plan.

A workspace remembers when it first met each plan, and how many runs were finished by then: a plan
that was changed after the first result is a deviation, and is listed as one (`ctlib.analysis.deviations`).

A plan may ask questions of the method itself, where the truth is known (`Asked`), and fix parameters of the
notebooks (`fixed`). The hash covers both, the rules (`RULES`) and the versions of the generators, so that one
hash stands for one experiment. Each time the runs of a plan are made for a report is noted beside it
(`attempts`).
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ctlib.core import (
    HOME,
    PLAN,
    ParameterError,
    Places,
    Workspace,
    conform,
    display_path,
    load_profile,
    nearest_name,
    read_json,
    read_yaml,
    write_json,
)
from ctlib.datasets import GENERATORS

METRICS = ("auroc",)
"""Metrics that a primary comparison may have."""
GRID = "03_finetune_grid"
"""The notebook whose parameters say which runs there are."""
DIGITS = 12
"""Hex digits of a hash that are shown."""
RULES = {
    "superiority": ("shown", "refuted", "not decided"),
    "trend": ("rising", "falling", "not decided"),
    "equivalence": ("equivalent", "different", "not decided"),
}
"""Rules of a question, and the words that each may end with (`ctlib.metrics.decisions` decides)."""
FEWEST_NETWORKS = 3
"""Networks of a question: fewer say nothing of networks like these (`ctlib.metrics.crossed_ci.for_next`)."""
ATTEMPTS = "attempts.csv"
"""File of a profile with a row for each time that the runs of a plan were made for a report."""
ATTEMPT = ("date", "commit", "plan", "came_out", "minutes", "machine")
"""Its columns: UTC day, commit of the code, hash of the plan, the words, minutes of the whole, processor."""


@dataclass(frozen=True)
class Asked:
    """A question about the method, with the rule that answers it.

    The statistic is a sum of arms, each the mean test AUROC over the averaged networks and all seeds.

    Args:
        key: a word.
        text: the question.
        rule: a key of `RULES`.
        task: of which the test exams are.
        fraction: share of the training patients.
        inits: arms; of superiority and equivalence two, the second is subtracted.
        doses: of each arm, for a trend, whose statistic is the least-squares slope over them; else [].
        margin: differences smaller than this are of no consequence.
        wanted: word with which the method passes; "" where the answer is only told.
    """

    key: str
    text: str
    rule: str
    task: str
    fraction: float
    inits: list[str]
    doses: list[float]
    margin: float
    wanted: str

    @property
    def weights(self) -> dict[str, float]:
        """What each arm counts in the statistic; together 0.

        >>> asked = Asked("more", "?", "trend", "t", 1.0, ["a", "b", "c"], [0.0, 0.5, 1.0], 0.05, "rising")
        >>> asked.weights
        {'a': -1.0, 'b': 0.0, 'c': 1.0}
        """
        if not self.doses:
            return dict(zip(self.inits, (1.0, -1.0), strict=True))
        apart = [dose - sum(self.doses) / len(self.doses) for dose in self.doses]
        square = sum(value**2 for value in apart)
        return {init: value / square for init, value in zip(self.inits, apart, strict=True)}

    def problems(self) -> list[str]:
        """What cannot be meant, a sentence each."""
        found = []
        if self.rule not in RULES:
            return [f"rule is {self.rule!r}; known are {', '.join(RULES)}"]
        if self.wanted not in ("", *RULES[self.rule]):
            found.append(f"wanted is {self.wanted!r}; rule {self.rule} gives {', '.join(RULES[self.rule])}")
        if not (math.isfinite(self.margin) and 0 < self.margin < 1):
            found.append(f"margin is {self.margin:g}; give a number between 0 and 1")
        if self.rule != "trend" and (self.doses or len(self.inits) != 2):
            found.append(f"rule {self.rule} compares two inits, without doses")
        if self.rule == "trend" and not 3 <= len(self.inits) == len(set(self.doses)):
            found.append("rule trend needs three inits or more, each with a dose of its own")
        return found + (["inits names one twice"] if len(set(self.inits)) < len(self.inits) else [])


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
        development: seeds and data with which the method was built, a sentence; '' for none.
        questions: of the method, where the truth is known.
        fixed: parameters that the hash covers, `name=value` as YAML has it.
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
    development: str
    questions: list[Asked]
    fixed: list[str]

    @cached_property
    def hash(self) -> str:
        """First hex digits of the SHA-256 of all that is fixed, rules and generators included."""
        text = json.dumps(self.said(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

    def said(self) -> dict[str, Any]:
        """All that is fixed, by name, as JSON has it; rules and generators included."""
        said = dataclasses.asdict(self) | {"rules": RULES, "generators": GENERATORS}
        return dict(json.loads(json.dumps(said)))


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
    given, where = read_yaml(path), display_path(path)
    asked = given.pop("questions", None)
    values, problems = _conformed(given, Prespecified, where, skipped=("questions",))
    if not isinstance(asked, list) or not all(isinstance(entry, dict) for entry in asked):
        problems.append(f"{where}: questions is {asked!r}; give a list of questions, [] for none.")
        asked = []
    questions = []
    for number, entry in enumerate(asked, start=1):
        found, wrong = _conformed(entry, Asked, f"{where}, question {number}")
        problems += wrong
        questions += [] if wrong else [Asked(**found)]
    if not problems:
        values["questions"] = questions
        problems = _out_of_range(values, where)
    if problems:
        raise ParameterError(problems)
    return Prespecified(**values)


def _conformed(
    given: Mapping[str, Any], kind: type, where: str, skipped: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The fields of a data class as their declared types, and what is wrong with them."""
    fields = dataclasses.fields(kind)
    known = {field.name: str(field.type) for field in fields if field.name not in skipped}
    problems = [
        f"{where}: {key} is not known{nearest_name(key, known)}." for key in given if key not in known
    ]
    problems += [f"{where}: {key} is missing; give it a {known[key]}." for key in known if key not in given]
    values: dict[str, Any] = {}
    for key, annotation in known.items():
        try:
            values[key] = conform(given[key], annotation) if key in given else None
        except TypeError as error:
            problems.append(f"{where}, {key}: {error}.")
    return values, problems


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
    for asked in values["questions"]:
        problems += [f"{where}, question {asked.key}: {problem}." for problem in asked.problems()]
    if values["questions"] and len(set(values["averaged"])) < FEWEST_NETWORKS:
        problems.append(
            f"{where}: averaged names {len(set(values['averaged']))} networks; questions need "
            f"{FEWEST_NETWORKS} at least."
        )
    return problems


def require(profile: str, places: Places = HOME) -> None:
    """Refuse a plan that does not fit the parameters of its profile, before anything is computed.

    What `--set` changes is not looked at: it is a deviation, which the report lists.

    Raises:
        ParameterError: a question or the plan names a network, init, task or fraction that the grid has no
            run of, or a fixed parameter that is unknown or has another value; a line a problem.
    """
    plan, where = read(profile, places), display_path(path_of(profile, places))
    if plan is None or not (plan.questions or plan.fixed):
        return
    values = load_profile(profile, (), places)
    grid = values.get(GRID, {}) | {"inits": inits_with_heads(values.get(GRID, {}))}
    problems = []
    if plan.questions:
        wanted: list[tuple[str, Any]] = [("backbones", name) for name in plan.averaged]
        for asked in plan.questions:
            wanted += [("inits", init) for init in asked.inits]
            wanted += [("tasks", asked.task), ("fractions", asked.fraction)]
        problems += [
            f"{where}: {value} is not among {name} of {GRID}, which are {grid.get(name, [])}."
            for name, value in dict.fromkeys(wanted)
            if value not in grid.get(name, [])
        ]
    problems += [problem for text in plan.fixed for problem in _unfixed(text, values, where)]
    if problems:
        raise ParameterError(problems)


def inits_with_heads(grid: Mapping[str, Any]) -> list[str]:
    """Inits that a grid has runs from, by its parameters; those of frozen networks begin with their head.

    >>> inits_with_heads({"inits": ["random"], "modes": ["frozen", "finetuned"], "heads": ["linear"]})
    ['random', 'linear:random']
    """
    inits, heads = grid.get("inits", []), grid.get("heads", []) if "frozen" in grid.get("modes", []) else []
    return [*inits, *(f"{head}:{init}" for head in heads for init in inits)]


def _unfixed(text: str, values: Mapping[str, Mapping[str, Any]], where: str) -> list[str]:
    """What is wrong with a fixed parameter: a sentence, or none."""
    name, value = fixed(text)
    held = {notebook: given[name] for notebook, given in values.items() if name in given}
    if not held:
        return [f"{where}: fixed names {name}, which no notebook has{nearest_name(name, _names(values))}."]
    return [
        f"{where}: fixed has {text!r}, but {notebook}.{name} is {there!r}; give both the same."
        for notebook, there in held.items()
        if there != value
    ][:1]


def fixed(text: str) -> tuple[str, Any]:
    """Name and value of a fixed parameter.

    >>> fixed("seeds=[1, 2]")
    ('seeds', [1, 2])
    """
    name, _, value = text.partition("=")
    return name.strip(), yaml.safe_load(value)


def _names(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [*dict.fromkeys(name for given in values.values() for name in given)]


def facts(profile: str, places: Places = HOME) -> str:
    """The plan in a few words, for the head of a report.

    Raises:
        ParameterError: see `read`.
    """
    plan, where = read(profile, places), display_path(path_of(profile, places))
    return f"{plan.hash} ({where})" if plan else f"none: {where} does not exist"


# ---- when a workspace met its plans ------------------------------------------------------


def remember(workspace: Workspace, plan: Prespecified) -> list[dict[str, Any]]:
    """Note a plan that this workspace has not met before, and give all that it met.

    Args:
        workspace: where results lie.
        plan: the plan that is followed now.

    Returns:
        hash, first_met (UTC), n_finished (runs with a result by then) and said (`Prespecified.said`), in the
        order they were met.
    """
    path = workspace.root / "plans.json"
    met = read_json(path) if path.is_file() else []
    if plan.hash not in [entry["hash"] for entry in met]:
        n_finished = sum(1 for _ in workspace.runs.glob("*/result.json"))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        met.append({"hash": plan.hash, "first_met": now, "n_finished": n_finished, "said": plan.said()})
        write_json(path, met)
    return met


def attempts(profile: str, places: Places = HOME) -> list[dict[str, str]]:
    """The register of a profile: a row each time that its runs were made for a report, columns `ATTEMPT`.

    Raises:
        ParameterError: the file has other columns.
    """
    path = places.params / profile / ATTEMPTS
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != ATTEMPT:
            raise ParameterError(
                [f"{display_path(path)} has columns {rows.fieldnames}; give {', '.join(ATTEMPT)}."]
            )
        return list(rows)
