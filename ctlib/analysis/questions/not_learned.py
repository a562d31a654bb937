"""Which runs did not learn, and what the init gains with and without them."""

from __future__ import annotations

import pandas as pd

from ctlib import metrics
from ctlib.analysis.question import Question
from ctlib.analysis.questions.effect import lacking
from ctlib.analysis.study import Study
from ctlib.analysis.text import capital, forest_caption, interval, place
from ctlib.visualization import figures

LEFT = "both learned"
"""The line of an effect without pairs of which a side did not learn."""


def compute_unlearned(study: Study) -> pd.DataFrame:
    """Table `Study.gains` with the columns of `metrics.without_unlearned`."""
    left = metrics.without_unlearned(
        study.runs, study.predictions, study.baseline, study.compared, study.averaged, study.how, study.rule
    )
    return study.gains.merge(left, on=["task", "fraction", "backbone"], how="left")


def say_unlearned(table: pd.DataFrame) -> str:
    """Of each task and fraction the runs that did not learn, and the averaged effect with and without them.

    Args:
        table: from `compute_unlearned`.
    """
    lines = []
    for _, part in table.groupby(["task", "fraction"], sort=False):
        is_mean = part["backbone"].str.startswith(metrics.MEAN_OF)
        lines += [_said(row) for row in part[is_mean if is_mean.any() else slice(None)].to_dict("records")]
    if table["n_unlearned"].any():
        lines.append(
            "A run did not learn where the interval of its test AUROC holds 0.5 or lies below it, or all its "
            "scores are equal. Pairs are left out by what they reached in the test: that is exploratory."
        )
    return "\n".join(lines)


def _said(row: dict) -> str:
    where = f"{place(row)}, {row['backbone']}"
    if pd.isna(row["effect_left"]) and not row["n_unlearned"]:
        return f"{where}: no answer: {row['reason_left']}."
    if not row["n_unlearned"]:
        return f"{where}: all {row['n_runs']} runs learned."
    left = interval(row, "effect_left", "low_left", "high_left")
    without = f"{left} with the {row['n_left']} of which both sides learned" if row["n_left"] else (
        "no pair is left of which both sides learned"
    )  # fmt: skip
    return (
        f"{where}: {row['n_unlearned']} of {row['n_runs']} runs did not learn: {row['unlearned']}. "
        f"{capital(row['init'])} minus {row['baseline']}: {interval(row)} with all {row['n_pairs']} pairs, "
        f"{without}."
    )


def _lines(table: pd.DataFrame) -> pd.DataFrame:
    """The averaged effects, each on a line with all pairs and on one with those of which both learned."""
    is_mean = table["backbone"].str.startswith(metrics.MEAN_OF)
    own = table[is_mean] if is_mean.any() else table
    columns = {"effect_left": "effect", "low_left": "low", "high_left": "high"}
    left = own.drop(columns=[*columns.values(), "low_mean", "high_mean"]).rename(columns=columns)
    left = left.assign(label=own["backbone"] + ", " + LEFT, by_seed="")
    return pd.concat([own.assign(label=own["backbone"]), left], ignore_index=True)


NOT_LEARNED = Question(
    "not_learned",
    "Runs that did not learn, and the effect without pairs of which a side did not",
    (
        "task", "fraction", "backbone", "n_unlearned", "n_runs", "unlearned", "effect", "low", "high",
        "n_left", "n_pairs", "effect_left", "low_left", "high_left", "reason_left",
    ),
    compute_unlearned,
    lambda study: lacking(study, study.baseline, study.compared),
    say_unlearned,
    lambda study, table: figures.contrast_forest(
        _lines(table), f"{study.compared} − {study.baseline}", table["margin"].iloc[0]
    ),
    "Averaged effect of the init with all runs, and with those pairs of which both sides learned",
    lambda table: forest_caption(_lines(table)),
)  # fmt: skip
