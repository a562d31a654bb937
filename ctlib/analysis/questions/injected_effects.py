"""What could this analysis see? The baseline against itself, with effects of a known size added."""

from __future__ import annotations

import pandas as pd

from ctlib import metrics
from ctlib.analysis.question import Question
from ctlib.analysis.questions.effect import lacking
from ctlib.analysis.study import GRID, Study
from ctlib.analysis.text import listed, place, spanned
from ctlib.metrics import COMMON
from ctlib.visualization import figures, percent


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
    "How often effects of a known size are shown",
    (
        "task", "fraction", "networks", "shift", "injected", "estimate", "seen", "all_seeds", "n_half",
        "n_seeds", "reason",
    ),
    compute_injected,
    _missing,
    say_injected,
    lambda study, table: figures.injected(table),
    "Of 100 comparisons of an init with itself, those that show an injected effect, by its size",
    lambda table: (
        "Two halves of the seeds of one init; the scores of one are moved so that its AUROC rises as the "
        f"axis says. Shown: the {percent(table['level'].iloc[0])} interval lies above 0 (without an effect: "
        f"on either side of it). Dashed: expected with all {spanned(table['n_seeds'])} seeds on each side. "
        f"{spanned(table['n_patients'])} test patients."
    ),
)  # fmt: skip
