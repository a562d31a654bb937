"""RSPECT: the RSNA STR pulmonary embolism dataset as Kaggle gives it.

`train.csv` has one row a slice; `train/<study>/<series>/<sop>.dcm` are the slices. A file is
matched to its row by its name, the SOPInstanceUID. No file names a patient, so the study stands
for the patient. The exam label is 1 - `negative_exam_for_pe`, except for indeterminate exams.
How train.csv is read and judged stands in `rspect_labels`; here it meets the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ctlib.core import Map, in_order, tables
from ctlib.datasets.cohort import Cohort, assemble, slice_rows
from ctlib.datasets.rspect_labels import labels
from ctlib.datasets.synthetic import ct
from ctlib.io import scan

__all__ = ["labels", "load"]


def _match(slices: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Each slice with its row of train.csv: adds sop, named (the series of the row) and label."""
    slices = slices.assign(sop=[Path(file).stem for file in slices["file"]])
    rows = rows.rename(columns={"series_uid": "named"}).astype({"named": "str"})
    return slices.merge(rows, on="sop", how="left", validate="many_to_one")


def _exams(slices: pd.DataFrame, exams: pd.DataFrame) -> pd.DataFrame:
    """Of each series of files: its study and label, and `why` it is not used, or ""."""
    by_uid = slices.groupby("series_uid", sort=False)
    found = pd.DataFrame(
        {
            "n": by_uid.size(),
            "n_known": by_uid["named"].count(),
            "n_series": by_uid["named"].nunique(),
            "n_names": by_uid["sop"].nunique(),
            "named": by_uid["named"].first(),
        }
    ).join(exams.set_index("series_uid"), on="named")
    found["why"] = [_why(row) for row in found.itertuples()]
    return found


def _why(row: Any) -> str:
    """Why the labels of a series cannot be trusted, or are dropped; files first, then the exam."""
    if not row.n_known:
        return "none of its files has a row in train.csv"
    if row.n_known < row.n:
        return f"{row.n - row.n_known} of its {row.n} files have no row in train.csv"
    if row.n_series > 1:
        return f"train.csv says its files belong to {row.n_series} series"
    if row.n_names < row.n:
        return f"its {row.n} files have {row.n_names} names, so one row of train.csv stands for several"
    if row.n_slices != row.n:
        return f"train.csv lists {row.n_slices:.0f} slices, {row.n} files are here"
    return str(row.reason)


def read(root: Path, values: Mapping[str, Any], run: Map = in_order) -> Cohort:
    """Read the dataset by the parameters of `01_explore_data`; phantoms are written first.

    Args:
        root: see `load`.
        values: indeterminate, phantom_patients and phantom_seed, more are left alone.
        run: spreads reading and writing.

    Raises:
        ValueError, FileNotFoundError, CohortError: see `load` and `ct.write_rspect`.
    """
    if values["phantom_patients"]:
        ct.write_rspect(root, values["phantom_patients"], values["phantom_seed"], run)
    return load(root, values["indeterminate"], run)


def load(root: Path, indeterminate: str = "drop", run: Map = in_order) -> Cohort:
    """Read the dataset.

    Args:
        root: folder of `train.csv` and `train/`.
        indeterminate: drop, negative or positive: what becomes of indeterminate exams.
        run: spreads the reading of headers.

    Returns:
        The cohort; a series is one row of `series`, or one of `problems` where its volume or
        labels are refused. A last row of `problems` counts series of `train.csv` without files.

    Raises:
        ValueError: `indeterminate` is none of the three.
        FileNotFoundError: `train.csv` or `train/` is missing.
        CohortError: `train.csv` lacks a column, or holds a value it must not.
    """
    root = Path(root)
    exams, rows = labels(root / "train.csv", indeterminate)
    series, problems = scan(root / "train", run=run)
    problems["path"] = [str(Path("train") / path) for path in problems["path"]]
    slices = _match(slice_rows(series), rows)
    found = _exams(slices, exams)
    refused = {str(uid): f"Not used: {why}." for uid, why in found["why"].items() if why}
    absent = len(exams) - slices["named"].nunique()
    if absent:
        reason = f"{absent} series of train.csv have no files that can be read."
        row = pd.DataFrame([{"path": "train.csv", "n_files": 0, "reason": reason}])
        problems = pd.concat([problems, row]) if len(problems) else row
    found = found.reindex(series["series_uid"])
    series["study_uid"] = series["patient_id"] = found["study_uid"].to_numpy()
    series["label"] = found["label"].to_numpy()
    return assemble("rspect", series, slices, problems, tables.empty("marks"), refused, root)
