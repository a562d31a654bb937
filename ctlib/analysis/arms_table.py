"""The table of arms, its caption, and from which AUROC on an arm has learned; and what is to be
held against the intervals of a study.

Few test patients of a class, seeds that differ more than their patients explain, fewer seeds than a family of
comparisons asks for, how many families there are, and training patients that all seeds share. Each is a
sentence where it is true; rules and constants are those of `ctlib.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from ctlib import metrics
from ctlib.analysis.question import Question
from ctlib.analysis.study import Study
from ctlib.analysis.text import listed, spanned
from ctlib.visualization import percent

LEARNED = 0.6
"""AUROC that one arm should reach before a difference of nothing says much; ours, a rule of thumb."""
MOST_NAMED = 2
"""Arms that a sentence names; of more it says how many there are."""


def arm_table(arms: pd.DataFrame) -> pd.DataFrame:
    """AUROC with its interval of each task, network and init, a column a fraction.

    Args:
        arms: result of `metrics.arm_aurocs`.
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
        arms: result of `metrics.arm_aurocs`.
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


def cautions(study: Study, questions: Iterable[Question]) -> list[str]:
    """The cautions of a study, a sentence each.

    Args:
        study: its tables.
        questions: those that are asked; with corrected p-values and an answer they count as families.
    """
    arms = study.arm_aurocs
    families = [q.key for q in questions if "p_holm" in q.columns and not q.missing(study)]
    return [
        *_few(arms),
        *_apart(arms, study.run_aurocs, study.how.level),
        *_seeds(arms),
        *_families(families),
        *_shared(arms),
    ]


def _few(arms: pd.DataFrame) -> list[str]:
    rows = arms[arms["warning"] != ""].drop_duplicates("task")
    return [f"{row.task}: {row.warning}." for row in rows.itertuples()]


def _apart(arms: pd.DataFrame, runs: pd.DataFrame, level: float) -> list[str]:
    """Arms whose seeds differ more than patients explain, each with its lowest and highest run."""
    found = arms[metrics.seeds_apart(arms["p_seeds"], arms["seed_sd"], level)]
    if found.empty:
        return []
    names = ["task", "fraction", "backbone", "init"]
    ends = runs.groupby(names)["auroc"].agg(["min", "max"])
    shown = found.sort_values("seed_sd", ascending=False, kind="stable").head(MOST_NAMED)
    told = []
    for row in shown.to_dict("records"):
        low, high = ends.loc[tuple(row[name] for name in names)]
        arm = f"{row['backbone']} from {row['init']}, {row['task']} at {percent(row['fraction'])}"
        told.append(f"{arm} ({low:.2f} to {high:.2f})")
    more = f"; the widest are {listed(told)}" if len(found) > len(told) else f": {listed(told)}"
    return [
        f"For {len(found)} of {len(arms)} networks and starting weights, seeds differ more than their patients "
        f"explain{more}. Some runs "
        "may have learned and others not, and few seeds do not tell how often: intervals of single "
        "networks may be too short, those of differences less so."
    ]


def _seeds(arms: pd.DataFrame) -> list[str]:
    if arms.empty or arms["n_seeds"].min() >= metrics.SEEDS_ASKED:
        return []
    return [
        f"Seeds: {spanned(arms['n_seeds'])}. {metrics.SEEDS_ASKED} are asked for: with fewer, a correction for "
        "many comparisons leaves only the largest differences."
    ]


def _families(keys: list[str]) -> list[str]:
    if not keys:
        return []
    tables = "1 table" if len(keys) == 1 else f"{len(keys)} tables"
    return [
        f"{tables} with corrected p-values ({listed(keys)}): the comparisons that decide a claim are "
        "one family (Holm), all others of a table another; between tables nothing is corrected."
    ]


def _shared(arms: pd.DataFrame) -> list[str]:
    whole = arms[(arms["fraction"] == 1) & (arms["n_seeds"] > 1)]
    if whole.empty:
        return []
    return [
        f"At {percent(1.0)} all seeds share the training patients: they differ by order and head alone, and "
        "the intervals say nothing of other training patients."
    ]
