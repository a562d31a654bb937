"""Where an analysis departs from its plan, found by comparing the two, and listed by the report itself.

| kind | what |
|---|---|
| changed | something is done otherwise than the plan says |
| incomplete | something that the plan asks for is not there, or has no AUROC |
| added | something is there that the plan does not name: what is said of it is exploratory |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ctlib.analysis.preregistration import Prespecified, fixed, remember
from ctlib.analysis.study import Study
from ctlib.analysis.text import listed
from ctlib.core import Workspace, counted, read_json, word
from ctlib.visualization import figures

CHANGED, INCOMPLETE, ADDED = "changed", "incomplete", "added"
COLUMNS = ["kind", "what", "planned", "done"]


def deviations(study: Study, met: Sequence[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """Every departure from the plan.

    Args:
        study: what was done.
        met: the plans that the workspace met, from `prespecified.remember`.

    Returns:
        Columns kind, what, planned, done (texts); one row a departure, none where there is none. Without a
        plan one row says so.
    """
    plan = study.plan
    if plan is None:
        row = (
            CHANGED,
            "the plan",
            "a file plan.yaml that was fixed beforehand",
            "there is none: all is exploratory",
        )
        return pd.DataFrame([row], columns=COLUMNS)
    rows = [*_late(plan, met), *_settings(plan, study), *_unfixed(plan, study)]
    rows += [*_grid(plan, study), *_incomplete(study)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _late(plan: Prespecified, met: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """A plan that was made or changed when results were there."""
    rows = []
    for i, entry in enumerate(met):
        if entry["n_finished"] and (entry["hash"] == plan.hash or i):
            n_finished = counted(entry["n_finished"], "run")
            done = f"{entry['hash']} on {entry['first_met']}, when {n_finished} had a result"
            planned = "before the first result" if i == 0 else f"{met[i - 1]['hash']}, not to be changed"
            rows.append((CHANGED, "when the plan was fixed", planned, done))
            rows += _changed(met[i - 1].get("said", {}), entry.get("said", {})) if i else []
    return rows


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What a plan says otherwise than the one before it, by name."""
    names = [name for name in before if name in after and before[name] != after[name]]
    return [(CHANGED, f"{name} of the plan", _text(before[name]), _text(after[name])) for name in names]


def _settings(plan: Prespecified, study: Study) -> list[tuple[str, str, str, str]]:
    """What 04_analyze does otherwise."""
    pairs = {
        "baseline_init": (plan.baseline_init, study.baseline),
        "compared_init": (plan.compared_init, study.compared),
        "averaged": (plan.averaged, study.averaged),
        "study_score_rule": (plan.study_score_rule, study.rule),
        "level": (plan.level, study.how.level),
    }
    return [
        (CHANGED, f"{name} of 04_analyze", _text(planned), _text(done))
        for name, (planned, done) in pairs.items()
        if planned != done
    ]


def _unfixed(plan: Prespecified, study: Study) -> list[tuple[str, str, str, str]]:
    """Fixed parameters that a notebook of this workspace was executed with another value of."""
    rows = []
    for name, value in map(fixed, plan.fixed):
        for notebook, given in _executed(study).items():
            if name in given and given[name] != value:
                rows.append((CHANGED, f"{name} of {notebook}", _text(value), _text(given[name])))
    return rows


def _executed(study: Study) -> dict[str, dict[str, Any]]:
    """Parameters of the executed copies that are there, by notebook."""
    paths = sorted(study.work.notebooks.glob("*.ipynb")) if study.work else []
    return {p.stem: read_json(p)["metadata"].get("papermill", {}).get("parameters", {}) for p in paths}


def _grid(plan: Prespecified, study: Study) -> list[tuple[str, str, str, str]]:
    """What the grid lacks of the plan, and what it has beside it."""
    runs, rows = study.runs, []
    asked = [init for question in plan.questions for init in question.inits]
    needed_inits = [*dict.fromkeys([plan.baseline_init, plan.compared_init, *asked])]
    planned_inits = [*dict.fromkeys([*needed_inits, *plan.in_domain])]
    parts: dict[str, tuple[str, Sequence[Any], Sequence[Any]]] = {
        "tasks": ("task", plan.tasks, plan.tasks),
        "fractions": ("fraction", plan.fractions, plan.fractions),
        "seeds": ("seed", plan.seeds, plan.seeds),
        "networks": ("backbone", [*plan.averaged, *plan.two_d], [*plan.averaged, *plan.two_d]),
        "starting weights": ("init", needed_inits, planned_inits),
    }
    for what, (column, needed, known) in parts.items():
        there = list(dict.fromkeys(runs[column]))
        absent = [value for value in needed if value not in there]
        extra = [value for value in there if value not in known]
        rows += (
            [(INCOMPLETE, f"{what} of the grid", _text(needed), f"without {_text(absent)}")] if absent else []
        )
        rows += [(ADDED, f"{what} of the grid", _text(known), f"also {_text(extra)}")] if extra else []
    return rows


def _incomplete(study: Study) -> list[tuple[str, str, str, str]]:
    """Runs without a test AUROC, by what is wrong with them."""
    found = study.run_aurocs
    empty = found[found["reason"] != ""]
    if empty.empty:
        return []
    status = study.runs.set_index("run_id")["status"]
    kinds = empty["run_id"].map(status).where(lambda s: s != "finished", "finished without an AUROC")
    named = [f"{count} {kind}" for kind, count in kinds.value_counts().items()]
    return [(INCOMPLETE, "runs with a test AUROC", f"all {counted(len(found), 'run')}", listed(named))]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def say_deviations(plan: Prespecified | None, table: pd.DataFrame) -> str:
    """The plan's hash and how many departures there are, by kind.

    Args:
        plan: what was fixed beforehand.
        table: from `deviations`.
    """
    if plan is None:
        return "No plan was fixed beforehand, so nothing here is confirmatory."
    head = f"Plan {plan.hash}, fixed on {plan.fixed_on}, about {plan.population}"
    if table.empty:
        return f"{head}: followed, without a deviation."
    counts = table["kind"].value_counts()
    words = listed(f"{counts[kind]} {kind}" for kind in (CHANGED, INCOMPLETE, ADDED) if kind in counts)
    return f"{head}: {counted(len(table), 'deviation')} ({words})."


def plan_table(plan: Prespecified) -> pd.DataFrame:
    """What was fixed, line by line."""
    names = {
        "comparison": f"{plan.compared_init} minus {plan.baseline_init}",
        "averaged over": _text(plan.averaged),
        "2D networks": _text(plan.two_d) or "none",
        "starting weights from CT": _text(plan.in_domain) or "none",
        "tasks": _text(plan.tasks),
        "fractions": _text(plan.fractions),
        "seeds": _text(plan.seeds),
        "metric": f"{plan.metric} over test exams; exam score: {plan.study_score_rule} of its clips",
        "level of intervals": _text(plan.level),
        "margin": f"{_text(plan.margin)}: smaller differences do not matter",
        "left out": "; ".join(plan.exclusions),
        "ends when": plan.stopping,
        "development": plan.development or "none",
        "fixed parameters": ", ".join(plan.fixed) or "none",
    }
    for asked in plan.questions:
        wanted = f"expected: {asked.wanted}" if asked.wanted else word("told only")
        of = f"{asked.task} at {asked.fraction:g}, {_text(asked.inits)}"
        names[f"question {asked.key}"] = f"{asked.text} {asked.rule}, {of}, margin {asked.margin:g}; {wanted}"
    return pd.DataFrame({"what": names.keys(), "fixed": names.values()})


def show_checks(study: Study, work: Workspace) -> None:
    """Say in a line which checks passed, then show what did not: deviations, and runs without an AUROC.

    Args:
        study: what was done.
        work: where the plans that were met are noted.
    """
    found = deviations(study, remember(work, study.plan) if study.plan else ())
    lost = study.run_aurocs[study.run_aurocs["reason"] != ""]
    checks = [(found.empty, say_deviations(study.plan, found).removesuffix("."))]
    runs = counted(len(study.run_aurocs), "run")
    all_scored = f"all {runs} have a test AUROC"
    checks.append((lost.empty, all_scored if lost.empty else f"{len(lost)} of {runs} lack a test AUROC"))
    lines = [f"{head}: {'; '.join(said for is_good, said in checks if is_good == good)}."
             for head, good in (("Checks passed", True), ("Checks not passed", False))
             if any(is_good == good for is_good, _ in checks)]  # fmt: skip
    figures.say("\n".join(lines))
    for table, caption in ((found, "Deviations from the plan"), (lost, "Runs without an AUROC")):
        if len(table):
            figures.table(table, caption)
    if study.plan:
        figures.table(plan_table(study.plan), f"Plan {study.plan.hash}", folded=True)
