"""The method itself on trial: the questions of the plan about data whose truth is known, and the register.

The plan gives each question its arms, rule, margin and the word with which the method passes
(`ctlib.analysis.preregistration.Asked`). All averaged networks of the plan count, and its seeds. The method passes if
every question that has a wanted word ends with it: all must hold at once, so no correction is due.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ctlib import metrics
from ctlib.analysis.preregistration import Asked, attempts
from ctlib.analysis.question import Question, lacking
from ctlib.analysis.study import GRID, Study
from ctlib.analysis.text import listed, place, spanned
from ctlib.core import counted, word
from ctlib.metrics import COMMON
from ctlib.visualization import figures, percent, signed

ASKED = {"superiority": "effect", "trend": "trend", "equivalence": "null"}
"""What `metrics.decide` is asked, by the plan's rule."""
MEETS, FAILS, TOLD = "as wanted", "not as wanted", "told only"


def method(study: Study) -> pd.DataFrame:
    """The questions of a study's plan, answered.

    Args:
        study: the study; its plan's networks and seeds are used, whatever else it averages.

    Returns:
        A row a question: key, text, rule, task, fraction, statistic (its arms), effect, low, high (at the
        plan's level), low_equivalence, high_equivalence, p_value, p_equivalence, margin, word, wanted,
        verdict (`MEETS`, `FAILS` or `TOLD`), level, networks (sums by network), n_networks, population,
        n_patients, n_positive, n_seeds, reason. Without rows where there is no plan or it asks nothing.
    """
    asked = study.plan.questions if study.plan else []
    return pd.DataFrame([_row(study, question) for question in asked])


def _row(study: Study, asked: Asked) -> dict[str, Any]:
    plan = study.plan
    assert plan is not None
    found = metrics.combination(
        study.runs, study.predictions, asked.task, asked.fraction, plan.averaged, plan.seeds, asked.weights,
        study.how, study.rule,
    )  # fmt: skip
    estimate = found.estimate
    decision = metrics.decide(
        estimate.value, estimate.se, estimate.freedom, asked.margin, plan.level, ASKED[asked.rule]
    )
    verdict = TOLD if not asked.wanted else MEETS if decision.word == asked.wanted else FAILS
    row: dict[str, Any] = {"key": asked.key, "text": asked.text, "rule": asked.rule, "task": asked.task}
    row |= {"fraction": asked.fraction, "statistic": _statistic(asked), "effect": estimate.value}
    names = ("low", "high", "low_equivalence", "high_equivalence", "p_value", "p_equivalence", "margin")
    row |= {name: getattr(decision, name) for name in names}
    row |= {"word": decision.word, "wanted": asked.wanted, "verdict": verdict, "level": plan.level}
    by_network = ", ".join(f"{name} {signed(value, 3)}" for name, value in found.by_network.items())
    row |= {"networks": by_network, "n_networks": len(plan.averaged), "population": plan.population}
    return row | found.counts | {"reason": estimate.reason}


def _statistic(asked: Asked) -> str:
    """The arms of a question as people write them."""
    if not asked.doses:
        return " − ".join(asked.inits)
    doses = (f"{init} {dose:g}" for init, dose in zip(asked.inits, asked.doses, strict=True))
    return f"slope over {listed(doses)}"


def passes(table: pd.DataFrame) -> bool:
    """Whether every question with a wanted word ended with it, and there is one."""
    judged = table[table["wanted"] != ""] if len(table) else table
    return bool(len(judged) and (judged["verdict"] == MEETS).all())


def say_method(table: pd.DataFrame) -> list[str]:
    """What the method's questions found, a sentence each; first whether it passes.

    Args:
        table: from `method`.
    """
    if table.empty:
        return ["Not asked: this profile's plan asks nothing of the method itself."]
    failed = table[table["verdict"] == FAILS]
    judged = table[table["wanted"] != ""]
    head = f"Method check ({table['population'].iloc[0]})"
    if judged.empty:
        lines = [
            f"{head}: the plan expects no answer, so there is nothing to pass; each is reported by its rules."
        ]
    elif passes(table):
        lines = [f"{head}: passed; {counted(len(judged), 'question')} ended as the plan expects."]
    else:
        wrong = listed(f"{row.key} is {word(row.word)}, not {row.wanted}" for row in failed.itertuples())
        lines = [f"{head}: not passed; {wrong}."]
    rows = table.to_dict("records")
    wheres = list(map(_where, rows))
    shared = len(set(wheres)) == 1
    said = [_sentence(row, "" if shared else f"; {where}") for row, where in zip(rows, wheres, strict=True)]
    return lines + said + ([f"All of them: {wheres[0]}."] if shared else [])


def _where(row: dict[str, Any]) -> str:
    place = f"{row['task']}, {percent(row['fraction'])} of the training patients"
    return f"{place}; {row['n_networks']} networks, {row['n_seeds']} seeds, {row['n_patients']} test patients"


def _sentence(row: dict[str, Any], where: str) -> str:
    if row["reason"]:
        return f"{row['text']} No answer: {row['reason']}{where}."
    ends = f"{signed(row['low'], 3)} to {signed(row['high'], 3)}"
    return (
        f"{row['text']} {word(row['word']).capitalize()}: {row['statistic']} is {signed(row['effect'], 3)} "
        f"({ends}) in AUROC{where}."
    )


def show_method(study: Study, table: pd.DataFrame, profile: str) -> None:
    """Show the answers as a figure and a table, and the register of attempts.

    Args:
        study: the study.
        table: from `method`.
        profile: whose register is shown.
    """
    known, drawn = table[table["low"].notna()] if len(table) else table, ""
    if len(known):
        level = percent(known["level"].iloc[0])
        lines = known.assign(label=known["key"], init=known["key"])
        named = "; ".join(f"{row.key}: {row.statistic}, margin {row.margin:g}" for row in known.itertuples())
        drawn = figures.figure_html(
            figures.contrast_forest(lines, "as said below", 0.0),
            alt="Answers to the questions about the method, with intervals",
            caption=f"Mean over {known['n_networks'].iloc[0]} networks with {level} intervals over networks "
            f"like these, seeds and patients. {named}.",
        )
    if len(table):
        shown = ["key", "effect", "low", "high", "margin", "word", "wanted", "networks"]
        numbers = figures.table_html(table[shown], "By the plan's rules, and by network")
        figures.show_folded("Method check: figure and numbers", drawn, numbers)
    if study.plan and study.plan.questions:
        rows = pd.DataFrame(attempts(profile))
        if len(rows):
            rows["plan"] += rows["plan"].map({study.plan.hash: " (this one)"}).fillna("")
            rows["came_out"] = rows["came_out"].str.replace("not decided", word("not decided"))
        caption = "Register: each time that the runs of a plan were made for a report"
        figures.table(rows, caption, folded=True)


def compute_injected(study: Study) -> pd.DataFrame:
    """`metrics.injected` of the baseline's runs."""
    return metrics.injected(
        study.runs, study.predictions, study.baseline, study.averaged, study.how, study.rule
    )


def say_injected(table: pd.DataFrame) -> str:
    """Of each task and fraction, how often effects are seen, and something where there is nothing.

    Args:
        table: from `compute_injected`.
    """
    lines = [_said(part) for _, part in table.groupby(["task", "fraction"], sort=False)]
    known = table[table["reason"] == ""]
    if (known["n_half"] == 1).any():
        lines.append("With one seed a side the analysis knows nothing of seeds, and sees too much.")
    if (known["n_seeds"] < COMMON).any():
        lines.append(f"Below {COMMON} seeds each network is split by itself, so their mean sees too much.")
    return "\n".join(lines)


def _said(part: pd.DataFrame) -> str:
    """What is seen of the first networks of a task and fraction: the mean, where there are several."""
    first = part.iloc[0].to_dict()
    if first["reason"]:
        return f"{place(first)}: no answer: {first['reason']}."
    rows = part[part["networks"] == first["networks"]]
    effects = rows[rows["shift"] > 0].to_dict("records")
    expected = listed(f"{row['shift']:g} in about {_hundred(row['all_seeds'])}" for row in effects)
    tried = listed(_hundred(row["seen"]) for row in effects)
    return (
        f"{place(first)}, {first['networks']}: with your patients and seeds this analysis sees an effect of "
        f"{expected} of 100 (expected with {first['n_seeds']} seeds a side). Tried with {first['n_half']} "
        f"against {first['n_half']} seeds it saw them in {tried} of 100, and something in "
        f"{_hundred(first['seen'])} where there is nothing."
    )


def _hundred(share: float) -> str:
    return "an unknown number" if pd.isna(share) else f"{100 * share:.0f}"


def _missing(study: Study) -> str:
    absent = lacking(study, study.baseline)
    if absent:
        return absent
    own = study.runs[(study.runs["init"] == study.baseline) & study.runs["backbone"].isin(study.averaged)]
    if own.empty:
        return f"No answer: the grid holds none of the averaged networks from {study.baseline}; see {GRID}."
    return "" if own["seed"].nunique() > 1 else (
        f"No answer: one seed cannot be compared with itself; give two or more in `seeds` of {GRID}."
    )  # fmt: skip


INJECTED_EFFECTS = Question(
    "injected_effects",
    "Detectable effects",
    (
        "task", "fraction", "networks", "shift", "injected", "estimate", "seen", "all_seeds", "n_half",
        "n_seeds", "reason",
    ),
    compute_injected,
    _missing,
    say_injected,
    lambda study, table: figures.injected(table),
    "Of 100 comparisons of starting weights with themselves, those that show an added effect, by its size",
    lambda table: (
        "Two halves of the seeds of the same starting weights; the scores of one are moved so that its AUROC "
        f"rises as the axis says. Shown: the {percent(table['level'].iloc[0])} interval lies above 0 (without an "
        f"effect: on either side of it). Dashed: expected with all {spanned(table['n_seeds'])} seeds on each side. "
        f"{spanned(table['n_patients'])} test patients."
    ),
    is_figure_folded=True,
)  # fmt: skip
