"""AUROC and the effect of an init in subgroups: by slice thickness, kernel, maker, size and agreement.

Two kinds of groups. What every exam has (thickness, kernel, maker) splits all exams: a group is compared
within itself. What only disease has (how large the largest nodule is, how many readers marked one, how many
mm of slices are labelled) splits the exams with disease: each part is set against all exams without, so such
groups share their exams without disease. Numbers are split in thirds of the test exams.

Nothing here was planned for: groups are many, small and not drawn at random, so a group that differs is a
question and no finding. The interaction of a group is its effect less that of the other exams (of the second
kind: of the other exams with disease), on the same drawn patients; its p values are Holm's over all groups of
a task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ctlib.analysis.question import ABSENT, Question, lacks_a_side, no_cohort
from ctlib.analysis.study import Study
from ctlib.analysis.text import capital
from ctlib.core import Workspace
from ctlib.datasets import measured, task
from ctlib.metrics import Arm, Array, Bootstrap, Estimate, Exams, Task, arms_of, for_these, holm, shown, tasks
from ctlib.visualization import figures, percent

LEAST = 5
"""Patients with disease, and without, below which a group has no interval: four patients of a class have
some thirty different draws."""
UNKNOWN = "not stated"
PARTS = 3
"""Parts into which numbers are split."""
OF_ALL = {"thickness_mm": "slice thickness", "kernel": "kernel", "manufacturer": "maker"}
"""Columns of table `series` by which all exams are split."""
OF_DISEASE = {"diameter_mm": "nodule size", "n_readers": "readers who agree", "extent_mm": "labelled extent"}
"""What the exams with disease are split by."""
COLUMNS = ["task", "fraction", "by", "group", "auroc_baseline", "auroc_init", "effect", "low", "high"]
COLUMNS += ["interaction", "low_interaction", "high_interaction", "p_value", "p_holm"]
COLUMNS += ["n_patients", "n_positive", "n_seeds", "n_networks", "reason"]


def thirds(values: pd.Series, unit: str = "mm") -> pd.Series:
    """The part of its numbers that each number is in, as text: three with about as many, equal ones together.

    >>> thirds(pd.Series([1.0, 1.0, 2.0, 2.5, 5.0, None])).tolist()
    ['1 mm', '1 mm', '2 to 2.5 mm', '2 to 2.5 mm', '5 mm', 'not stated']
    """
    numbers = values.astype("float64")
    known = numbers.dropna()
    named = pd.Series(UNKNOWN, index=values.index)
    if known.empty:
        return named
    ranks = known.rank(method="min") - 1  # equal numbers share the lowest place
    part = (ranks * PARTS / len(known)).astype(int)
    for _, members in known.groupby(part):
        ends = dict.fromkeys(f"{end:.3g}" for end in (members.min(), members.max()))
        named[members.index] = f"{' to '.join(ends)} {unit}"
    return named


def traits(workspace: Workspace, name: str, studies: Sequence[str]) -> pd.DataFrame:
    """What the exams of a task are split by.

    Args:
        workspace: where the cohort's tables lie.
        name: of the task.
        studies: exams; thirds are of these.

    Returns:
        One row an exam: study, and a column a value of `OF_ALL` and `OF_DISEASE`, the name of the exam's
        group; of `OF_DISEASE` empty for exams without disease, and where nobody drew a contour.

    Raises:
        MissingInput: a table is missing.
    """
    from ctlib.training import read_table  # here: it loads torch

    cohort = task(name).cohort
    series, slices, marks = (read_table(workspace, table, cohort) for table in ("series", "slices", "marks"))
    series = series[series["study_uid"].isin(list(studies))]
    labelled = slices[slices["label"] == 1].groupby("series_uid").size()
    extent = series["series_uid"].map(labelled) * series["spacing_z_mm"]
    largest = measured(marks, series).groupby("series_uid")[["diameter_mm", "n_readers"]].max()
    exams = series.join(largest, on="series_uid").assign(extent_mm=extent)
    ill = exams["label"].fillna(0) == 1
    readers = exams["n_readers"].map(lambda n: f"{n:.0f} readers", na_action="ignore")
    made = {
        "slice thickness": thirds(exams["thickness_mm"]),
        "kernel": exams["kernel"].fillna(UNKNOWN),
        "maker": exams["manufacturer"].fillna(UNKNOWN),
        "nodule size": thirds(exams["diameter_mm"].where(ill)).where(ill & exams["diameter_mm"].notna()),
        "readers who agree": readers.where(ill),
        "labelled extent": thirds(exams["extent_mm"].where(ill)).where(ill & exams["extent_mm"].notna()),
    }
    return pd.DataFrame({"study": exams["study_uid"], **made}).drop_duplicates("study", ignore_index=True)


def subgroup_effects(
    workspace: Workspace,
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    baseline: str,
    init: str,
    averaged: Sequence[str],
    how: Bootstrap,
    rule: str = "max",
) -> pd.DataFrame:
    """AUROCs, the effect of an init and its interaction in every subgroup, at the largest fraction of a task.

    Args:
        workspace: where the cohorts' tables lie.
        runs: table `runs`.
        predictions: table `predictions`.
        baseline: init that is subtracted.
        init: init that is looked at.
        averaged: networks whose mean it is.
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.

    Returns:
        A row for each task, trait (`by`) and group: auroc_baseline, auroc_init, effect with low and high,
        interaction with low_interaction and high_interaction, p_value, p_holm, n_patients, n_positive,
        n_seeds, n_networks, reason. NaN with a reason where a group, or the exams it is compared with, has
        fewer than `LEAST` patients of a class, and everywhere where a run is missing.

    Raises:
        MissingInput: a table is missing.
        ValueError: see `metrics.run_aurocs`.
    """
    rows: list[dict[str, Any]] = []
    for name, one in tasks(runs, predictions, rule, how).items():
        fraction = one.fractions()[-1]
        seeds, sides = one.seeds(fraction), [arms_of(sorted(averaged), side) for side in (baseline, init)]
        why = shown([text for side in sides for text in one.problems(side, fraction, seeds)])
        scored = _Scored(one, sides[0], sides[1], fraction, seeds, how.level)
        groups = traits(workspace, str(name), one.table["study"].unique())
        about = {"task": name, "fraction": fraction, "n_seeds": len(seeds), "n_networks": len(averaged)}
        rows += [about | row for row in _groups(groups, scored, why or one.exams.few)]
    for row, p in zip(rows, holm([float(row["p_value"]) for row in rows]), strict=True):
        row["p_holm"] = p
    return pd.DataFrame(rows, columns=COLUMNS)


@dataclass(frozen=True)
class _Scored:
    """The exams of a task, and the two inits that are compared on them."""

    task: Task
    baseline: tuple[Arm, ...]
    init: tuple[Arm, ...]
    fraction: float
    seeds: list[int]
    level: float

    def few(self, inside: NDArray[np.bool_]) -> str:
        """Why a group has no interval, or ''."""
        ill = self.task.table[inside].groupby("patient_id")["label"].max()
        n_ill, n_well = int(ill.sum()), int((1 - ill).sum())
        if min(n_ill, n_well) < LEAST:
            return f"{n_ill} patients with disease and {n_well} without; {LEAST} of each are needed"
        return Exams(self.task.table[inside]).one_class()

    def effect(self, inside: NDArray[np.bool_]) -> tuple[list[Array], list[Array], float]:
        """AUROCs of both inits among some exams: values, replicates, and degrees of freedom of patients."""
        part, sides, where = self.task.among(inside), (self.baseline, self.init), (self.fraction, self.seeds)
        values = [part.values(side, *where) for side in sides]
        with np.errstate(invalid="ignore", divide="ignore"):  # of draws without a class
            drawn = [part.replicates(side, *where) for side in sides]
        return values, drawn, part.freedom(self.init, *where, self.baseline)


def _groups(groups: pd.DataFrame, scored: _Scored, why: str) -> list[dict[str, Any]]:
    """The rows of a task; `why` says why none has values."""
    rows = []
    exams = scored.task.table
    ill = (exams["label"] == 1).to_numpy()
    for by in groups.columns.drop("study"):
        trait = exams["study"].map(groups.set_index("study")[by])
        for group in sorted(groups[by].dropna().unique(), key=_number):
            row: dict[str, Any] = {"by": by, "group": group, "reason": why}
            row |= dict.fromkeys(COLUMNS[4:14], math.nan)
            if not why:
                inside = (trait == group).to_numpy()
                others = trait.notna().to_numpy() & ~inside
                if by in OF_DISEASE.values():
                    inside, others = inside | ~ill, others | ~ill
                row |= _estimated(scored, inside, others)
                members = exams[inside].groupby("patient_id")["label"].max()
                row |= {"n_patients": len(members), "n_positive": int(members.sum())}
            rows.append(row)
    return rows


def _number(group: str) -> tuple[float, str]:
    """Groups of numbers in their order, then the others by name."""
    first = group.split(" ")[0]
    return (float(first) if first.replace(".", "", 1).isdigit() else math.inf, group)


def _estimated(scored: _Scored, inside: NDArray[np.bool_], others: NDArray[np.bool_]) -> dict[str, Any]:
    """The estimated columns of a group, and why some are empty."""
    if reason := scored.few(inside):
        return {"reason": reason}
    values, drawn, freedom = scored.effect(inside)
    effect = _estimate(values[1] - values[0], drawn[1] - drawn[0], freedom)
    found = effect.interval(scored.level)
    row = {"auroc_baseline": float(values[0].mean()), "auroc_init": float(values[1].mean())}
    row |= {"effect": found.value, "low": found.low, "high": found.high}
    if reason := scored.few(others):
        return row | {"reason": found.reason or f"nothing to compare with: {reason}"}
    beside, drawn_beside, freedom_beside = scored.effect(others)
    change = _estimate(
        values[1] - values[0] - (beside[1] - beside[0]),
        drawn[1] - drawn[0] - (drawn_beside[1] - drawn_beside[0]),
        min(freedom, freedom_beside),
    )
    ends = change.interval(scored.level)
    row |= {"interaction": ends.value, "low_interaction": ends.low, "high_interaction": ends.high}
    return row | {"p_value": change.p_value, "reason": found.reason or ends.reason}


def _estimate(values: Array, drawn: Array, freedom: float) -> Estimate:
    """`for_these` of the draws that have a value: those with exams of both classes in the groups."""
    return for_these(values, drawn[..., np.isfinite(drawn).all(axis=(0, 1))], freedom)


def compute_groups(study: Study) -> pd.DataFrame:
    """`subgroup_effects` of the averaged networks."""
    return subgroup_effects(
        study.there, study.runs, study.predictions, study.baseline, study.compared, study.averaged,
        study.how, study.rule,
    ).assign(level=study.how.level)  # fmt: skip


def _no_groups(study: Study) -> str:
    if absent := lacks_a_side(study) or no_cohort(study, study.tasks):
        return absent
    for name, runs in study.runs.groupby("task", sort=False):
        rows = study.predictions[study.predictions["run_id"].isin(runs["run_id"])]
        found = traits(study.there, str(name), rows.loc[rows["split"] == "test", "study"].unique())
        if (found.drop(columns="study").nunique() > 1).any():
            return ""
    return f"{ABSENT}nothing splits the test exams: thickness, kernel and maker are the same in all, or not stated."


def say_groups(table: pd.DataFrame) -> str:
    """How many groups of each task there are, how many differ after Holm, and which.

    Args:
        table: from `subgroup_effects`.
    """
    said = []
    for name, part in table.groupby("task", sort=False):
        asked = part[part["p_holm"].notna()]
        apart = asked[asked["p_holm"] < 0.05]
        which = "; ".join(f"{row.by} {row.group}" for row in apart.itertuples())
        said.append(
            f"{name}: {len(part)} groups, {len(asked)} of them large enough for an interaction; {len(apart)} "
            f"differ from the others after Holm's correction{f': {which}' if which else ''}. None was planned: "
            "a group that differs is a question, not a finding."
        )
    return "\n".join(said)


def _draw_groups(study: Study, table: pd.DataFrame) -> Figure:
    means = study.mean_gains
    whole = means[means["fraction"] == means.groupby("task")["fraction"].transform("max")]
    return figures.subgroup_forest(table, whole, study.compared)


SUBGROUPS = Question(
    "subgroups",
    "Subgroups",
    (
        "task", "by", "group", "auroc_baseline", "auroc_init", "effect", "low", "high", "interaction",
        "p_holm", "n_patients", "n_positive", "reason",
    ),
    compute_groups,
    _no_groups,
    say_groups,
    _draw_groups,
    "Effect of the starting weights on test AUROC by subgroup, with intervals, below that of all exams",
    lambda table: capital(
        f"{percent(table['level'].iloc[0])} intervals over patients and seeds, with "
        f"{percent(table['fraction'].max())} of the training patients; beside each stand the effect and its "
        "patients with disease of all. An asterisk: differs from the others after Holm's correction."
    ),
)  # fmt: skip
