"""The table of arms, its caption, and from which AUROC on an arm has learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ctlib.visualization import percent

LEARNED = 0.6
"""AUROC that one arm should reach before a difference of nothing says much; ours, a rule of thumb."""


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
