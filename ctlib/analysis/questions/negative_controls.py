"""Negative controls, looked at: what is found where there is nothing to find.

Three of them. Runs of `ctlib.training.negative_controls` learn from labels that patients have exchanged, or from
slices in a random order. Scores of the real runs meet test labels that patients have exchanged: what AUROC
chance gives for these scores and these patients. And the label is told from the files' metadata alone
(`ctlib.datasets.quality.metadata_baseline`): what a network could have read without looking.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.analysis.question import Question, no_finished_run
from ctlib.analysis.study import GRID, Study
from ctlib.analysis.text import listed
from ctlib.core import Workspace, tables, word
from ctlib.datasets import TOGETHER, metadata_baseline, task
from ctlib.metrics import (
    DIFFERENT,
    NO_ANSWER,
    Bootstrap,
    Contrast,
    Interval,
    arms_of,
    beside_chance,
    contrasts,
    decide,
    decide_auroc,
    exchanged_rows,
    for_these,
    shown,
    study_scores,
    tasks,
)
from ctlib.training import CONTROLS, NONE, PERMUTED_LABELS
from ctlib.visualization import figures, percent, signed

CHANCE = 0.5
"""AUROC of scores that know nothing."""
FOUND = ["task", "control", "init", "auroc", "low", "high", "auroc_plain", "change", "low_change"]
FOUND += ["high_change", "word", "word_change", "n_patients", "n_seeds", "n_networks", "reason"]
LABELS = {
    "equivalent": "shown to lie within the margin of 0.5",
    "not decided": f"not told apart from 0.5, nor shown to lie within the margin of it: {word('not decided')}",
}
"""What is said of a null that is not different from chance."""
ORDER = {
    "loss": "counts",
    "gain": "stands in the way",
    "equivalent": "does not count: the difference is shown to lie within the margin",
    "not decided": f"is {word('not decided')}",
}
"""What is said of the order of slices, by what runs without it lose."""
RUNS, EXCHANGED, METADATA = "runs", "exchanged test labels", "metadata alone"
"""Kinds of control: runs that learned from something spoilt, scores that meet spoilt labels, no image."""
COLUMNS = (
    "task", "label", "auroc", "low", "high", "chance", "p_value", "word", "auroc_plain", "change",
    "low_change", "high_change", "word_change", "n_patients", "reason",
)  # fmt: skip
"""Columns that are shown."""


def control_aurocs(
    runs: pd.DataFrame,
    controls: pd.DataFrame,
    predictions: pd.DataFrame,
    how: Bootstrap,
    rule: str = "max",
    margin: float = 0.0,
) -> pd.DataFrame:
    """Test AUROC of runs with a control, mean over networks and seeds, beside that of the same without.

    Args:
        runs: table `runs`.
        controls: table `controls`.
        predictions: table `predictions` of both.
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.
        margin: a difference that would not matter, in AUROC; 0 for none, and nothing is then equivalent.

    Returns:
        A row for each task, control and init: auroc with low and high; auroc_plain of the same networks and
        seeds without the control; change, low_change, high_change of the difference, on the same patients;
        word of the null that auroc is 0.5, word_change of the change as a gain (`metrics.decide`); n_patients,
        n_seeds, n_networks, reason. A run that is missing or failed leaves its row NaN, and is named.
    """
    rows = []
    for (name, control, init), part in controls.groupby(["task", "control", "init"], sort=False):
        backbones, marked = list(part["backbone"].unique()), f"{init} ({control})"
        plain = runs[(runs["task"] == name) & runs["backbone"].isin(backbones) & (runs["init"] == init)]
        plain = plain[plain["fraction"].isin(part["fraction"]) & plain["seed"].isin(part["seed"])]
        both = pd.concat([plain, part.drop(columns="control").assign(init=marked)], ignore_index=True)
        sides = arms_of(backbones, marked), arms_of(backbones, init)
        one = tasks(both, predictions, rule, how)[str(name)]
        [fraction], seeds = set(part["fraction"]), one.seeds(part["fraction"].iloc[0])
        why = shown(one.problems(sides[0], fraction, seeds)) or one.exams.few
        found, word = Interval(math.nan, math.nan, math.nan, why), NO_ANSWER
        if not why:
            drawn = one.replicates(sides[0], fraction, seeds)
            freedom = one.freedom(sides[0], fraction, seeds)
            estimate = for_these(one.values(sides[0], fraction, seeds), drawn, freedom)
            found, word = estimate.share_interval(how.level), decide_auroc(estimate, margin, how.level)
        row: dict[str, Any] = {"task": name, "control": control, "init": init}
        row |= {"auroc": found.value, "low": found.low, "high": found.high, "reason": found.reason}
        row["word"] = word
        row |= one.counts(seeds) | {"n_networks": len(backbones)}
        for beside in contrasts(both, predictions, [Contrast(marked, *sides)], how, rule).to_dict("records"):
            row |= {"auroc_plain": beside["auroc_second"], "change": beside["effect"]}
            row |= {"low_change": beside["low"], "high_change": beside["high"]}
            numbers = (beside["effect"], beside["se"], beside["freedom"])
            row["word_change"] = decide(*numbers, margin, how.level, "gain").word
            row["reason"] = row["reason"] or beside["reason"]
        rows.append(row)
    return pd.DataFrame(rows, columns=FOUND)


def exchanged_labels(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    how: Bootstrap,
    rule: str = "max",
    margin: float = 0.0,
) -> pd.DataFrame:
    """What AUROC chance gives for the scores of the finished runs: patients exchange their test labels.

    Patients exchange with those who have as many exams. The mean over the runs of an init is compared with
    the same mean under each exchange, so that what runs share is not counted twice (Ojala and Garriga,
    Permutation tests for studying classifier performance, JMLR 2010, their first test). In a cross-validation
    they exchange within each fold, and AUROCs are means over folds.

    Args:
        runs: table `runs`; of each task those of its largest fraction are used.
        predictions: table `predictions`.
        how: exchanges, seed and level.
        rule: of `metrics.study_scores`.
        margin: a difference from chance that would not matter, in AUROC; 0 for none.

    Returns:
        A row for each task and init: n_runs, auroc (mean), chance (mean over exchanges), low and high (the
        band of chance), p_value (two-sided), word (`metrics.beside_chance`), reason.
    """
    rows = []
    runs = runs[runs["status"] == "finished"]
    runs = runs[runs["fraction"] == runs.groupby("task")["fraction"].transform("max")]
    for (name, init), part in runs.groupby(["task", "init"], sort=False):
        row: dict[str, Any] = {"task": name, "init": init, "n_runs": 0}
        truths, drawn, rng = [], [], np.random.default_rng(how.seed)
        for label, patients, ranks, n_runs in _turns(part, predictions, rule):
            truths.append(float(_mean_auroc(label[None], ranks)[0]))
            drawn.append(_mean_auroc(label[exchanged_rows(patients, how.n_replicates, rng)], ranks))
            row["n_runs"] += n_runs
        if not truths:
            empty = dict.fromkeys(("auroc", "chance", "low", "high", "p_value"), math.nan)
            row |= empty | {"word": NO_ANSWER}
            rows.append(row | {"reason": "no run has scores of exams of both labels"})
            continue
        truth = float(np.mean(truths))
        found = beside_chance(truth, np.mean(drawn, axis=0), margin, how.level)
        row |= {"auroc": truth, "chance": found.mean, "low": found.low, "high": found.high}
        rows.append(row | {"p_value": found.p_value, "word": found.word, "reason": found.reason})
    return pd.DataFrame(rows)


def _turns(runs: pd.DataFrame, predictions: pd.DataFrame, rule: str) -> Iterator[tuple[Any, Any, Any, int]]:
    """Of each fold: labels and patients of its exams, their mean rank over runs, and how many runs these are."""
    from scipy.stats import rankdata  # here: nothing else needs it

    for _, turn in runs.groupby("fold"):
        own = predictions[predictions["run_id"].isin(turn["run_id"]) & (predictions["split"] == "test")]
        wide = study_scores(own, rule).pivot(
            index=["patient_id", "study", "label"], columns="run_id", values="score"
        )
        wide = wide.loc[:, wide.notna().all()]
        label = wide.index.get_level_values("label").to_numpy(np.int64)
        if 0 < label.sum() < len(label) and wide.shape[1]:
            patients = pd.factorize(wide.index.get_level_values("patient_id"))[0]
            ranks = rankdata(wide.to_numpy(np.float64), axis=0).mean(axis=1)
            yield label, patients, ranks, wide.shape[1]


def _mean_auroc(labels: NDArray[np.int64], ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUROC `[n]` of labels `[n, exams]` by ranks `[exams]`, ties sharing theirs (Mann and Whitney 1947).

    It is linear in the ranks, so the mean rank over runs gives the mean AUROC over runs.
    """
    n_positive = labels.sum(axis=1)
    n_negative = labels.shape[1] - n_positive
    return (labels @ ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def metadata_aurocs(
    workspace: Workspace, names: Sequence[str], seed: int = 0, margin: float = 0.0
) -> pd.DataFrame:
    """The AUROC of the exam label that the files' metadata reach together, for each task.

    Args:
        workspace: where tables lie.
        names: of tasks.
        seed: of folds and exchanges.
        margin: a difference from chance that would not matter, in AUROC; 0 for none.

    Returns:
        task, auroc, chance, low, high (the band of chance, 95 %), p_value, word, n_exams, n_patients,
        n_positive, reason. Over all exams of the cohort, each scored by a model that saw none of its
        patient's.
    """
    from ctlib.training import read_table  # here: it loads torch

    parts = []
    for name in names:
        table = metadata_baseline(read_table(workspace, "series", task(name).cohort), seed, margin)
        parts.append(table[table["feature"] == TOGETHER].drop(columns="feature").assign(task=name))
    made = pd.concat(parts, ignore_index=True)
    return made[["task", *(column for column in made if column != "task")]]


def compute_nothing(study: Study) -> pd.DataFrame:
    """The three kinds of control in one table, told apart by `kind`.

    Returns:
        Rows of `control_aurocs`, `exchanged_labels` and `metadata_aurocs`, as far as what they need is there;
        with kind, label (of a line of the figure) and level.
    """
    parts = []
    controls, scores = _controls(study)
    if len(controls):
        both = pd.concat([study.predictions, scores], ignore_index=True)
        found = control_aurocs(study.runs, controls, both, study.how, study.rule, study.margin)
        label = found["control"].str.replace("_", " ") + ", from " + found["init"]
        parts.append(found.assign(kind=RUNS, label=label))
    two = study.runs[study.runs["init"].isin([study.baseline, study.compared])]
    exchanged = exchanged_labels(two, study.predictions, study.how, study.rule, study.margin)
    if len(exchanged):
        label = "test labels exchanged, from " + exchanged["init"]
        parts.append(exchanged.assign(kind=EXCHANGED, label=label))
    if study.work is not None:
        names = [name for name in dict.fromkeys(study.runs["task"]) if _has_series(study, name)]
        if names:
            metadata = metadata_aurocs(study.work, names, margin=study.margin)
            parts.append(metadata.assign(kind=METADATA, label=METADATA))
    table = pd.concat(parts, ignore_index=True).assign(level=study.how.level)
    return table.reindex(columns=list(dict.fromkeys([*COLUMNS, *table.columns])))


def _controls(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `controls` and `control_predictions`; without rows where they were not written."""
    empty = tables.empty("controls"), tables.empty("predictions")
    if study.work is None:
        return empty
    paths = study.work.table("controls"), study.work.table("control_predictions")
    if not all(path.is_file() for path in paths):
        return empty
    return tables.read("controls", paths[0]), tables.read("predictions", paths[1])


def _has_series(study: Study, name: str) -> bool:
    return study.work is not None and study.work.table("series", task(name).cohort).is_file()


def say_nothing(table: pd.DataFrame) -> str:
    """What each control found, and which control there is none of.

    Args:
        table: from `compute_nothing`.
    """
    lines = [_said(row) for row in table.fillna({"reason": ""}).to_dict("records")]
    there = set(table["control"]) if "control" in table else set()
    absent = [name for name in CONTROLS if name != NONE and name not in there]
    if absent:
        lines.append(
            f"Not asked: the grid holds no run of {listed(absent, 'or')}; name it in `controls` of {GRID}."
        )
    if not (table["kind"] == METADATA).any():
        lines.append("Not asked of metadata alone: 01_explore_data wrote no table `series` of these tasks.")
    return "\n".join(lines)


def _said(row: dict[str, Any]) -> str:
    """What a control says, of a row of the table."""
    if row["kind"] == EXCHANGED:
        about = f"{row['task']}, test labels exchanged, {row['n_runs']:.0f} runs from {row['init']}"
        found = "" if row["reason"] else f"{_beside(row, 'their ')}, {_exchanged(row)}"
    elif row["kind"] == METADATA:
        about = f"{row['task']}, metadata alone, {row['n_patients']:.0f} patients"
        above = row["auroc"] > row["high"]
        found = "" if math.isnan(row["low"]) else f"{_beside(row)}, {_told(row, above)}"
    else:
        about = f"{row['task']}, {row['control'].replace('_', ' ')}, from {row['init']}"
        found = "" if math.isnan(row["low"]) else _of_runs(row)
    return f"{about}: {found or 'no answer: ' + row['reason']}."


def _of_runs(row: dict[str, Any]) -> str:
    """What runs of a control reached, and what the order of slices counts."""
    auroc = f"AUROC {row['auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    if row["control"] == PERMUTED_LABELS:
        return f"{auroc}: {_told(row, row['low'] > CHANCE)}"
    if row["word_change"] not in ORDER:
        return f"{auroc}; no answer beside the order: {row['reason']}"
    change, low, high = (signed(row[key], 3) for key in ("change", "low_change", "high_change"))
    plain = f"{change} ({low} to {high}) beside {row['auroc_plain']:.3f} in order"
    return f"{auroc}, {plain}: the order of slices {ORDER[row['word_change']]}"


def _beside(row: dict[str, Any], whose: str = "") -> str:
    chance = f"chance gives {row['low']:.3f} to {row['high']:.3f}"
    return f"{chance}; {whose}AUROC {row['auroc']:.3f} (p = {row['p_value']:.3f})"


def _exchanged(row: dict[str, Any]) -> str:
    """What true labels tell beside exchanged ones."""
    if row["word"] == DIFFERENT:
        return f"is {'beyond' if row['auroc'] > row['high'] else 'below'} it"
    return f"is {LABELS[row['word']]}"


def _told(row: dict[str, Any], above: bool) -> str:
    """What is said of scores that should know nothing."""
    if row["word"] != DIFFERENT:
        return LABELS[row["word"]]
    if above:
        return f"above {CHANCE:g}: something tells the label that should not"
    return f"below {CHANCE:g}: what it learnt does not tell the label"


NEGATIVE_CONTROLS = Question(
    "negative_controls",
    "Negative controls",
    COLUMNS,
    compute_nothing,
    no_finished_run,
    say_nothing,
    lambda study, table: figures.beside_chance(table),
    "AUROC of the negative controls with intervals, beside chance, by task",
    lambda table: (
        f"{percent(table['level'].iloc[0])} intervals; a wide grey bar is what chance gives when "
        "patients exchange their test labels, or their metadata, and its marker the AUROC as it is."
    ),
)  # fmt: skip
