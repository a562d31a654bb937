"""Networks against what tells the label without an image: size, slice count, spacing, scanner.

A network that is not better than a logistic regression on what a label file and the headers say has not been
shown to see more than that. Each regression is fitted to the training patients of each run and scores its test
exams, so that it stands beside the networks as another arm of the same grid, on the same patients and seeds.

A part of the test exams, planned beforehand, is looked at alone (parameter test_part): exams of middle size, say,
of which size tells less. Nothing is trained again for it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ctlib.analysis.question import Question, lacks_a_side, no_cohort
from ctlib.analysis.study import Study
from ctlib.analysis.text import conclusions, forest_caption, interval, place, unanswered
from ctlib.core import ParameterError, nearest_name
from ctlib.datasets import (
    FILES_ALONE,
    TOGETHER,
    fraction_patients,
    load_features,
    probabilities,
    task,
    told_without_image,
)
from ctlib.metrics import Arm, Contrast, arms_of
from ctlib.visualization import figures

NO_IMAGE = "no image"
"""The init of arms that no image was read for."""
ALL = "all test exams"
_NUMBER = r"-?\d+(?:\.\d+)?"
_PART = re.compile(rf"(?:({_NUMBER}) <= )?([A-Za-z]\w*)(?: <= ({_NUMBER}))?")


@dataclass(frozen=True)
class Part:
    """Exams of which a number lies within two ends.

    Args:
        name: column of table `series`, or name in table `features`.
        low: lower end, included.
        high: upper end, included.
    """

    name: str
    low: float
    high: float

    @classmethod
    def of(cls, text: str) -> Part:
        """What the parameter test_part says.

        Raises:
            ParameterError: it is not of that form.

        >>> Part.of("40 <= area_mm2 <= 200"), Part.of("age <= 64.5").low
        (Part(name='area_mm2', low=40.0, high=200.0), -inf)
        """
        found = _PART.fullmatch(" ".join(text.split()))
        if not found or not (found[1] or found[3]):
            raise ParameterError(
                [f"test_part is {text!r}; write it like 40 <= area_mm2 <= 200, with one end or both, or ''."]
            )
        return cls(found[2], float(found[1] or "-inf"), float(found[3] or "inf"))

    def exams(self, series: pd.DataFrame, features: pd.DataFrame) -> list[str]:
        """The studies that are in it.

        Raises:
            ParameterError: neither table knows the name.
        """
        numbers = {name: series[name] for name in series.select_dtypes("number") if name != "label"}
        for name, rows in features.groupby("name", sort=False):
            numbers[str(name)] = series["series_uid"].map(rows.set_index("series_uid")["value"])
        if self.name not in numbers:
            raise ParameterError(
                [
                    f"test_part names {self.name}{nearest_name(self.name, numbers)}; known are {', '.join(numbers)}; "
                    "a column of the label file is known where folder_features of 01_explore_data names it."
                ]
            )
        inside = numbers[self.name].astype("float64").between(self.low, self.high)
        return list(series.loc[inside, "study_uid"])


def arms_without_image(study: Study, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Regressions on what is told without an image, as runs of a task beside those of the grid.

    Args:
        study: the study.
        name: of the task.

    Returns:
        Rows of table `runs`, backbone the name of what is told and init `NO_IMAGE`, one for each fraction, seed
        and fold of the grid; and rows of table `predictions` of their test exams. A part of the grid whose
        training patients are of one class has none.
    """
    from ctlib.training import read_table, splits_of  # here: it loads torch

    cohort = task(name).cohort
    series = read_table(study.there, "series", cohort).dropna(subset="label").reset_index(drop=True)
    designs = told_without_image(series, load_features(study.there, cohort))
    label, patient = series["label"].to_numpy(np.int64), series["patient_id"]
    runs: list[dict[str, Any]] = []
    scored = []
    here = study.runs[study.runs["task"] == name]
    for fraction, seed, fold in here[["fraction", "seed", "fold"]].drop_duplicates().itertuples(index=False):
        splits = splits_of(study.there, cohort, fold)
        train = patient.isin(fraction_patients(splits, series, fraction, seed)).to_numpy()
        test = patient.isin(splits.loc[splits["split"] == "test", "patient_id"]).to_numpy()
        for told, design in designs.items() if len(set(label[train])) == 2 else ():
            run_id = f"{NO_IMAGE} {name} {told} {fraction:g} {seed} {fold}"
            runs.append(
                {"run_id": run_id, "task": name, "backbone": told, "init": NO_IMAGE, "fraction": fraction}
                | {"seed": seed, "fold": fold, "status": "finished", "error": pd.NA}
            )
            exams = series[test]
            rows = {"run_id": run_id, "split": "test", "patient_id": exams["patient_id"]}
            rows |= {"study": exams["study_uid"], "clip": 0, "label": label[test], "study_label": label[test]}
            scored.append(pd.DataFrame(rows).assign(score=probabilities(design, label, train)[test]))
    if not runs:
        return study.runs[:0], study.predictions[:0]
    return pd.DataFrame(runs).reindex(columns=study.runs.columns), pd.concat(scored)[
        study.predictions.columns
    ]


def compute_beyond(study: Study) -> pd.DataFrame:
    """The averaged networks from both inits against each regression, on all test exams and on the part.

    Returns:
        Columns of `Study.contrasts`, and exams (`ALL`, or the part), init (of the networks; '' where the two
        inits are compared with each other), told (what the networks are compared with).
    """
    made = [arms_without_image(study, name) for name in study.tasks]
    runs = pd.concat([study.runs, *(runs for runs, _ in made)], ignore_index=True)
    predictions = pd.concat([study.predictions, *(rows for _, rows in made)], ignore_index=True)
    told = list(dict.fromkeys(runs.loc[runs["init"] == NO_IMAGE, "backbone"]))
    inits = (study.compared, study.baseline)
    sides: dict[tuple[str, str], tuple[Arm, ...]] = {
        (init, name): ((name, NO_IMAGE),) for init in inits for name in told
    }
    sides["", study.baseline] = arms_of(study.networks_from(*inits), study.baseline)
    wanted, whose = [], {}
    for (init, name), second in sides.items():
        first = init or study.compared
        label = f"{first} − {name}"
        wanted.append(Contrast(label, arms_of(study.networks_from(*inits), first), second))
        whose[label] = (init, name)
    parts = [(ALL, predictions)]
    if study.part:
        inside = [exam for name in study.tasks for exam in _inside(study, name)]
        parts.append((study.part, predictions[predictions["study"].isin(inside)]))
    made_of = []
    for exams, rows in parts:
        table = dataclasses.replace(study, runs=runs, predictions=rows).contrasts(wanted)
        pairs = [whose[label] for label in table["label"]]
        made_of.append(
            table.assign(exams=exams, init=[init for init, _ in pairs], told=[name for _, name in pairs])
        )
    return pd.concat(made_of, ignore_index=True)


def _inside(study: Study, name: str) -> list[str]:
    """The exams of a task that are in the part."""
    from ctlib.training import read_table  # here: it loads torch

    cohort = task(name).cohort
    series = read_table(study.there, "series", cohort)
    return Part.of(study.part).exams(series, load_features(study.there, cohort))


def _nothing_to_compare(study: Study) -> str:
    if why := lacks_a_side(study) or no_cohort(study, study.tasks):
        return why
    if not study.networks_from(study.compared, study.baseline):
        return (
            f"No answer: no averaged network is in the grid from both {study.compared} and {study.baseline}."
        )
    for name in study.tasks:
        if len(arms_without_image(study, name)[0]):
            return ""
    return (
        "No answer: slice count, spacing, kernel and maker are the same in all exams, and the label file has no "
        "column that folder_features of 01_explore_data names."
    )


def strongest(table: pd.DataFrame) -> pd.DataFrame:
    """What comes nearest to the networks: a row for each part of the exams, init, task and fraction.

    Args:
        table: from `compute_beyond`.
    """
    known = table[table["effect"].notna()]
    rows = known.groupby(["exams", "init", "task", "fraction"], sort=False)["effect"].idxmin()
    return known.loc[rows]


def say_beyond(table: pd.DataFrame) -> str:
    """For each part of the exams and each init, what comes nearest, and whether the networks are above it.

    Args:
        table: from `compute_beyond`.
    """
    lines = []
    for row in strongest(table).to_dict("records"):
        where = f"{place(row)}, {row['exams']} ({row['n_patients']:,} patients)"
        if not row["init"]:  # of all exams it is the result of the page
            lines += [f"{where}: {row['label']}: {interval(row)}."] if row["exams"] != ALL else []
            continue
        lines.append(
            f"{where}: networks from {row['init']} minus the best without an image, {row['told']} "
            f"(AUROC {row['auroc_second']:.3f}): {interval(row)}: {vision(row)}."
        )
    compared = table[table["init"] != ""]
    return "\n".join(
        [*lines, f"Networks against what needs no image: {conclusions(compared)}.", *unanswered(table)]
    )


def vision(row: dict[str, Any]) -> str:
    """Whether networks are above what needs no image, in words; of a row of `compute_beyond`."""
    if np.isnan(row["low"]):
        return "no answer"
    if row["low"] > 0:
        return "they see more"
    return "they are worse" if row["high"] < 0 else "not shown to see more"


def _draw(study: Study, table: pd.DataFrame) -> Any:
    """The strongest of each part, task and fraction, all of it together, and the starting weights themselves."""
    exams = table["exams"].map(lambda name: "" if name == ALL else " (part)")
    least = table.index.isin(strongest(table).index)
    drawn = table.assign(label=table["label"] + exams)
    drawn = drawn[least | table["told"].isin((FILES_ALONE, TOGETHER)) | (table["init"] == "")]
    return figures.contrast_forest(drawn, "networks − what is named", table["margin"].iloc[0])


def _caption(table: pd.DataFrame) -> str:
    part = [name for name in table["exams"].unique() if name != ALL]
    return f"The strongest without an image, and all of it. {forest_caption(table)}" + "".join(
        f" Part: {name}." for name in part
    )


BEYOND_METADATA = Question(
    "beyond_metadata",
    "Networks against metadata",
    (
        "task", "fraction", "exams", "label", "auroc_first", "auroc_second", "effect", "low", "high", "p_holm",
        "n_patients", "n_positive", "reason",
    ),
    compute_beyond,
    _nothing_to_compare,
    say_beyond,
    _draw,
    "Test AUROC of the averaged networks minus that of regressions on size and metadata, with intervals",
    _caption,
    is_figure_folded=True,
)  # fmt: skip
