"""RSPECT: the RSNA STR pulmonary embolism dataset as Kaggle gives it.

`train.csv` has one row a slice; `train/<study>/<series>/<sop>.dcm` are the slices. A file is
matched to its row by its name, the SOPInstanceUID. No file names a patient, so the study stands
for the patient. The exam label is 1 - `negative_exam_for_pe`, except for indeterminate exams.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ctlib import tables
from ctlib.cohorts import Cohort, CohortError, assemble, slice_rows
from ctlib.volumes import scan

STUDY, SERIES, SOP = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"
SLICE_LABEL, NEGATIVE, INDETERMINATE = "pe_present_on_image", "negative_exam_for_pe", "indeterminate"
INDETERMINATE_RULES = {"drop": None, "negative": 0, "positive": 1}
"""What becomes of indeterminate exams, and the label they get."""


def _read_labels(path: Path) -> pd.DataFrame:
    """The columns of train.csv that are used, checked, with SOPInstanceUID as the index."""
    flags = [SLICE_LABEL, NEGATIVE, INDETERMINATE]
    columns = [STUDY, SERIES, SOP, *flags]
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it holds RSPECT's labels, one row a slice.")
    header = list(pd.read_csv(path, nrows=0).columns)
    if missing := [column for column in columns if column not in header]:
        raise CohortError(f"{path} lacks {', '.join(missing)}; its columns are {', '.join(header)}.")
    labels = pd.read_csv(path, usecols=columns, dtype=dict.fromkeys(columns[:3], str))
    for column in flags:
        wrong = ~labels[column].isin([0, 1])
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            value = labels[column].iloc[row]
            raise CohortError(f"{path}, data row {row + 1}: {column} is {value!r}; it must be 0 or 1.")
    if labels[SOP].duplicated().any():
        raise CohortError(
            f"{path}: SOPInstanceUID {labels[SOP][labels[SOP].duplicated()].iloc[0]} has two rows."
        )
    return labels.astype(dict.fromkeys(flags, "int8")).set_index(SOP)


def _refusals(slices: pd.DataFrame, labels: pd.DataFrame, indeterminate: str) -> dict[str, str]:
    """Series whose labels cannot be trusted, or are dropped, and why."""
    rows_of = labels.groupby(SERIES).size()
    varying = labels.groupby(STUDY)[[NEGATIVE, INDETERMINATE]].nunique().max(axis=1)
    refused = {}
    for uid, found in slices.groupby("series_uid", sort=False):
        known = found[found[SERIES].notna()]
        missing, named = len(found) - len(known), known[SERIES].unique()
        first = known.iloc[0] if len(known) else None
        if first is None:
            reason = "none of its files has a row in train.csv"
        elif missing:
            reason = f"{missing} of its {len(found)} files have no row in train.csv"
        elif len(named) > 1:
            reason = f"train.csv says its files belong to {len(named)} series"
        elif rows_of[named[0]] != len(found):
            reason = f"train.csv lists {rows_of[named[0]]} slices, {len(found)} files are here"
        elif varying[first[STUDY]] > 1:
            reason = f"{NEGATIVE} or {INDETERMINATE} vary within its study in train.csv"
        elif first[NEGATIVE] and (first[INDETERMINATE] or found[SLICE_LABEL].any()):
            reason = f"{NEGATIVE} is 1, yet train.csv calls it indeterminate or marks slices"
        elif first[INDETERMINATE] and indeterminate == "drop":
            reason = "the exam is indeterminate, and indeterminate exams are dropped by parameter"
        else:
            continue
        refused[str(uid)] = f"Series {uid} is not used: {reason}."
    return refused


def load(root: Path, indeterminate: str = "drop") -> Cohort:
    """Read the dataset.

    Args:
        root: folder of `train.csv` and `train/`.
        indeterminate: drop, negative or positive: what becomes of indeterminate exams.

    Returns:
        The cohort; a series is one row of `series`, or one of `problems` where its volume or
        labels are refused. A last row of `problems` counts series of `train.csv` without files.

    Raises:
        ValueError: `indeterminate` is none of the three.
        FileNotFoundError: `train.csv` or `train/` is missing.
        CohortError: `train.csv` lacks a column, or holds a value it must not.
    """
    if indeterminate not in INDETERMINATE_RULES:
        raise ValueError(f"indeterminate is {indeterminate!r}; known are {', '.join(INDETERMINATE_RULES)}.")
    root = Path(root)
    labels = _read_labels(root / "train.csv")
    series, problems = scan(root / "train")
    problems["path"] = [str(Path("train") / path) for path in problems["path"]]
    slices = slice_rows(series)
    slices["sop"] = [Path(file).stem for file in slices["file"]]
    slices = slices.merge(labels, left_on="sop", right_index=True, how="left", validate="many_to_one")
    refused = _refusals(slices, labels, indeterminate)
    absent = labels[SERIES].nunique() - slices[SERIES].nunique()
    if absent:
        reason = f"{absent} series of train.csv have no files that can be read."
        row = pd.DataFrame([{"path": "train.csv", "n_files": 0, "reason": reason}])
        problems = pd.concat([problems, row]) if len(problems) else row
    exam = slices.groupby("series_uid")[[STUDY, NEGATIVE, INDETERMINATE]].first()
    exam["label"] = 1 - exam[NEGATIVE]
    exam.loc[exam[INDETERMINATE] == 1, "label"] = INDETERMINATE_RULES[indeterminate]
    exam = exam.reindex(series["series_uid"])
    series["study_uid"] = series["patient_id"] = exam[STUDY].to_numpy()
    series["label"] = exam["label"].to_numpy()
    slices = slices.rename(columns={SLICE_LABEL: "label"})
    return assemble("rspect", series, slices, problems, tables.empty("marks"), refused, root)
