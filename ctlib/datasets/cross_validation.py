"""Turns of a cross-validation: which patients are test in each, from one file of folds.

`01_explore_data` writes the splits of one fold, and table `folds` beside them; a run of turn k has the fold
that lies k further as its test split. So volumes, clips and labels are prepared once for all turns.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd

from ctlib.core import tables
from ctlib.datasets.splits import SplitError, read_splits

NO_FOLD = -1
"""Parameter `fold` of a splits file that has splits and no folds."""


def file_for(cohort: str, splits_file: str) -> str:
    """The file of splits or folds of a cohort: parameter `splits_file`, "" for none.

    Args:
        cohort: its name.
        splits_file: a path, for every cohort, or `<cohort>=<path>`, for that one alone.

    >>> file_for("lidc", "params/lidc/folds.csv"), file_for("rspect", "lidc=params/lidc/folds.csv")
    ('params/lidc/folds.csv', '')
    """
    named, equals, path = splits_file.partition("=")
    if not equals or not re.fullmatch(r"\w+", named):
        return splits_file
    return path if named == cohort else ""


def read_folds(path: Path) -> pd.DataFrame:
    """The folds of a file.

    Args:
        path: see `read_splits`.

    Returns:
        patient_id and fold, one row a patient, sorted by patient_id.

    Raises:
        FileNotFoundError: no such file.
        SplitError: see `read_splits`.
    """
    read_splits(path, 0)  # which looks whether the file has folds, without gaps, and a patient in one only
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        rows = [{key.strip(): cell.strip() for key, cell in row.items()} for row in csv.DictReader(file)]
    table = pd.DataFrame(rows)[["patient_id", "fold"]].astype({"fold": "int64"})
    return table.groupby("patient_id")["fold"].first().reset_index()


def turned(splits: pd.DataFrame, folds: pd.DataFrame, turn: int) -> pd.DataFrame:
    """The splits of another turn of a cross-validation.

    Args:
        splits: table `splits`: one fold is test, the next val, the rest train.
        folds: table `folds`.
        turn: how many folds further; 0 is `splits` itself.

    Returns:
        Table `splits`, sorted by patient_id.

    Raises:
        SplitError: there are not so many folds, or the two tables are not of one file.

    >>> folds = pd.DataFrame({"patient_id": list("abc"), "fold": [0, 1, 2]})
    >>> splits = pd.DataFrame({"patient_id": list("abc"), "split": ["test", "val", "train"]})
    >>> turned(splits, folds, 1)["split"].tolist()
    ['train', 'test', 'val']
    """
    n_folds = folds["fold"].nunique()
    if not 0 <= turn < n_folds:
        raise SplitError(f"folds has {turn}; the cohort has {n_folds} folds, so give 0 to {n_folds - 1}.")
    of_patient = splits["patient_id"].map(folds.set_index("patient_id")["fold"])
    tested = of_patient[splits["split"] == "test"].unique()
    if of_patient.isna().any() or len(tested) != 1:
        raise SplitError("tables splits and folds are not of one file; run 01_explore_data again.")
    place = (of_patient - tested[0] - turn) % n_folds
    roles = place.map({0: "test", 1: "val"}).fillna("train")
    return tables.check(splits.assign(split=roles).sort_values("patient_id"), "splits")
