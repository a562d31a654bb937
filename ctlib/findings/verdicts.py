"""What the analysis says in words: every number in a sentence is read from a table.

A verdict follows a rule that is fixed before the result is seen. `low` and `high` are the ends
of the interval of the effect (AUROC from the init minus from the baseline):

| what was expected | low > 0 | holds 0 | high < 0 |
|---|---|---|---|
| a planted effect | recovered | not recovered | not recovered |
| a planted null | violated | kept | violated |
| nothing is known (real data) | supported | not decided | reversed |

An interval that holds 0 is no proof of nothing, so its half-width is said each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ctlib.figures.look import percent, signed
from ctlib.stats import MEAN_OF

OUTCOMES = {
    "effect": ("recovered", "not recovered", "not recovered"),
    "null": ("violated", "kept", "violated"),
    "": ("supported", "not decided", "reversed"),
}
"""Words for: interval above 0, interval that holds 0, interval below 0."""
LEARNED = 0.6
"""AUROC that one arm should reach before a difference of nothing says much; ours, a rule of thumb."""
EXPECTED = {"effect": "Planted effect", "null": "Planted null", "": "Gain"}


def outcome(row: Mapping[str, Any] | pd.Series, planted: str = "") -> str:
    """One word (or two) for a row of `effects`, by the rule of the module; "no answer" without an interval.

    Args:
        row: a row of table `effects`.
        planted: "effect", "null", or "" where nobody knows.

    Raises:
        ValueError: `planted` is something else.

    >>> outcome({"low": -0.01, "high": 0.02}, "null")
    'kept'
    """
    if planted not in OUTCOMES:
        raise ValueError(f"planted is {planted!r}; give 'effect', 'null' or ''.")
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return "no answer"
    above, around, below = OUTCOMES[planted]
    return above if row["low"] > 0 else below if row["high"] < 0 else around


def verdict(row: Mapping[str, Any] | pd.Series, planted: str = "") -> str:
    """A row of `effects` in words, with the verdict.

    Args:
        row: a row of table `effects`.
        planted: "effect", "null", or "" where nobody knows.

    Raises:
        ValueError: see `outcome`.
    """
    word = outcome(row, planted)
    where = f"{row['task']}, {percent(float(row['fraction']))} of the training patients, {row['backbone']}"
    seeds = "1 seed" if row["n_seeds"] == 1 else f"{row['n_seeds']} seeds"
    who = f"{row['n_patients']} test patients, {row['n_positive']} with disease; {seeds}"
    if word == "no answer":
        return f"{where}: no answer, for {row['reason']} ({who})."
    numbers = (
        f"AUROC {row['auroc_init']:.3f} from {row['init']} and {row['auroc_baseline']:.3f} from "
        f"{row['baseline']}, a difference of {signed(float(row['effect']), 3)} "
        f"({signed(float(row['low']), 3)} to {signed(float(row['high']), 3)}; {who})"
    )
    sentences = f"{where}: {numbers}. {EXPECTED[planted]} {word}: the interval {_place(row)}."
    if row["n_seeds"] == 1:
        sentences += (
            " One seed says nothing about the variation between seeds, and the interval leaves it out."
        )
    return sentences


def _place(row: Mapping[str, Any] | pd.Series) -> str:
    if row["low"] > 0:
        return "lies above 0"
    if row["high"] < 0:
        return "lies below 0"
    half = (row["high"] - row["low"]) / 2
    place = f"holds 0; its half-width is {half:.3f}, and a difference smaller than that could hide in it"
    if max(row["auroc_init"], row["auroc_baseline"]) < LEARNED:
        place += f"; neither arm reaches an AUROC of {LEARNED:g}, so there was little to differ in"
    return place


def verdicts(effects: pd.DataFrame, planted: Mapping[str, str]) -> list[str]:
    """A verdict for each task and fraction, on the average over networks.

    Args:
        effects: table `effects`; where it holds no average, each network has its verdict.
        planted: "effect" or "null" by task; tasks that are not named are real data.
    """
    means = effects[effects["backbone"].str.startswith(MEAN_OF)]
    rows = means if len(means) else effects
    return [verdict(row, planted.get(row["task"], "")) for row in rows.to_dict("records")]


def arm_table(arms: pd.DataFrame) -> pd.DataFrame:
    """AUROC with its interval of each task, network and init, a column a fraction.

    Args:
        arms: result of `stats.arm_aurocs`.
    """
    rows = arms[["task", "backbone", "init", "fraction"]].assign(
        auroc=[_auroc(row) for row in arms.to_dict("records")]
    )
    wide = rows.pivot(index=["task", "backbone", "init"], columns="fraction", values="auroc")
    order = rows.drop_duplicates(["task", "backbone", "init"])[["task", "backbone", "init"]]
    wide = wide.reindex(pd.MultiIndex.from_frame(order)).rename(columns=lambda f: f"AUROC, {percent(f)}")
    return wide.reset_index().rename_axis(columns=None)


def _auroc(row: Mapping[str, Any]) -> str:
    if pd.isna(row["auroc"]):
        return "no value"
    ends = "no interval" if pd.isna(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
    return f"{row['auroc']:.3f} ({ends})"


def score_caption(arms: pd.DataFrame, level: float) -> str:
    """Caption of `figures.auroc_by_fraction`: what is drawn, of how many patients and seeds.

    Args:
        arms: result of `stats.arm_aurocs`.
        level: of the intervals.
    """
    return (
        f"Test AUROC over exams: each run a faint dot, the mean over seeds a marker, with "
        f"{percent(level)} intervals over patients and seeds. {_who(arms)}"
    )


def _who(table: pd.DataFrame) -> str:
    """Patients and seeds of each task; ranges where fractions differ."""
    parts = []
    for task, rows in table.groupby("task", sort=False):
        patients, sick = rows["n_patients"].iloc[0], rows["n_positive"].iloc[0]
        few, many = rows["n_seeds"].min(), rows["n_seeds"].max()
        seeds = f"{few}" if few == many else f"{few} to {many}"
        parts.append(f"{task}: {patients} patients, {sick} with disease, seeds: {seeds}")
    return "; ".join(parts) + "."
