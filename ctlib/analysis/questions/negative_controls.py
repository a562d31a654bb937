"""Negative controls: what is found where there is nothing to find."""

from __future__ import annotations

import pandas as pd

from ctlib.analysis import negative_controls
from ctlib.analysis.question import Question
from ctlib.analysis.study import GRID, Study
from ctlib.analysis.text import listed
from ctlib.core import tables
from ctlib.datasets import task
from ctlib.training import CONTROLS, NONE
from ctlib.visualization import figures, percent

RUNS, EXCHANGED, METADATA = "runs", "exchanged test labels", "metadata alone"
"""Kinds of control: runs that learned from something spoilt, scores that meet spoilt labels, no image."""
COLUMNS = (
    "task", "label", "auroc", "low", "high", "chance", "p_value", "word", "auroc_plain", "change",
    "low_change", "high_change", "word_change", "n_patients", "reason",
)  # fmt: skip
"""Columns that are shown."""


def compute_nothing(study: Study) -> pd.DataFrame:
    """The three kinds of control in one table, told apart by `kind`.

    Returns:
        Rows of `nulls.control_aurocs`, `nulls.exchanged_labels` and `nulls.metadata_aurocs`, as far as what
        they need is there; with kind, label (of a line of the figure) and level.
    """
    parts = []
    controls, scores = _controls(study)
    if len(controls):
        both = pd.concat([study.predictions, scores], ignore_index=True)
        found = negative_controls.control_aurocs(
            study.runs, controls, both, study.how, study.rule, study.margin
        )
        label = found["control"].str.replace("_", " ") + ", from " + found["init"]
        parts.append(found.assign(kind=RUNS, label=label))
    two = study.runs[study.runs["init"].isin([study.baseline, study.compared])]
    exchanged = negative_controls.exchanged_labels(
        two, study.predictions, study.how, study.rule, study.margin
    )
    if len(exchanged):
        label = "test labels exchanged, from " + exchanged["init"]
        parts.append(exchanged.assign(kind=EXCHANGED, label=label))
    if study.work is not None:
        names = [name for name in dict.fromkeys(study.runs["task"]) if _has_series(study, name)]
        if names:
            metadata = negative_controls.metadata_aurocs(study.work, names, margin=study.margin)
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


def _none_finished(study: Study) -> str:
    return "" if (study.runs["status"] == "finished").any() else f"No answer: no run is finished; see {GRID}."


def say_nothing(table: pd.DataFrame) -> str:
    """What each control found, and which control there is none of.

    Args:
        table: from `compute_nothing`.
    """
    parts = [table[table["kind"] == kind] for kind in (RUNS, EXCHANGED, METADATA)]
    lines = negative_controls.sentences(*map(_whole_counts, parts))
    there = set(parts[0]["control"]) if len(parts[0]) else set()
    absent = [name for name in CONTROLS if name != NONE and name not in there]
    if absent:
        lines.append(
            f"No answer: the grid holds no run of {listed(absent, 'or')}; name it in `controls` of {GRID}."
        )
    if parts[2].empty:
        lines.append("No answer for metadata alone: 01_explore_data wrote no table `series` of these tasks.")
    return "\n".join(lines)


def _whole_counts(part: pd.DataFrame) -> pd.DataFrame:
    """The rows of a kind as they were before all kinds were put in one table."""
    counts = [name for name in part if name.startswith("n_") and part[name].notna().all()]
    return part.astype(dict.fromkeys(counts, "int64")).fillna({"reason": ""})


NEGATIVE_CONTROLS = Question(
    "negative_controls",
    "What is found where there is nothing to find",
    COLUMNS,
    compute_nothing,
    _none_finished,
    say_nothing,
    lambda study, table: figures.beside_chance(table),
    "AUROC of the negative controls with intervals, beside chance, by task",
    lambda table: (
        f"{percent(table['level'].iloc[0])} intervals; a wide grey bar is what chance gives when "
        "patients exchange their test labels, or their metadata, and its marker the AUROC as it is."
    ),
)  # fmt: skip
