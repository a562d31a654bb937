"""Patient-level splits, and nested, stratified fractions of the training patients.

The unit is the patient: all exams of a patient lie in one split. Validation and test
patients never depend on the fraction, the network or the init. Splits are drawn here
(`split_patients`), or read from a file of official, published or cross-validation splits
(`read_splits`) and checked against the cohort (`apply_splits`).

Messages name rows and numbers, never the patient ids of a file: those are the original ones.

Of a file of folds `01_explore_data` writes the splits of one fold, and table `folds` beside them; a run of
turn k has the fold that lies k further as its test split. So volumes, clips and labels are prepared once for
all turns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ctlib.core import tables
from ctlib.datasets import label_file
from ctlib.datasets.cohort import CohortError
from ctlib.io import quoted

SPLITS = ("train", "val", "test")
MIN_FOLDS = 3
"""One fold is test, the next val; the rest, at least one, is train."""


class SplitError(ValueError):
    """Patients cannot be split as asked: one sentence that says why."""


def patient_labels(series: pd.DataFrame) -> pd.Series:
    """One label a patient: 1 if any of the patient's exams has disease.

    Args:
        series: table `series`.

    Returns:
        Labels (0 or 1), indexed by patient_id, in sorted order.

    Raises:
        SplitError: an exam has no label.
    """
    unknown = series.loc[series["label"].isna(), "series_uid"]
    if len(unknown):
        raise SplitError(
            f"{len(unknown)} of {len(series)} exams have no label (the first is series {unknown.iloc[0]}); "
            f"drop them, or give labels, before splitting."
        )
    return series.groupby("patient_id")["label"].max().sort_index().astype(int)


def split_patients(series: pd.DataFrame, shares: Sequence[float], seed: int) -> pd.DataFrame:
    """Assign each patient to train, val or test, stratified by the patient's label.

    Args:
        series: table `series`.
        shares: shares of train, val and test; they add up to 1. Empty: nothing is trained on
            this cohort, and every patient is in test.
        seed: of the permutation.

    Returns:
        Table `splits`, sorted by patient_id.

    Raises:
        SplitError: the shares do not add up to 1, or a split would lack one of the classes.

    >>> series = pd.DataFrame({"patient_id": list("abcdefghij"), "label": [0, 1] * 5, "series_uid": "s"})
    >>> split_patients(series, (0.6, 0.2, 0.2), seed=0)["split"].value_counts().to_dict()
    {'train': 6, 'val': 2, 'test': 2}
    """
    if not len(shares):
        everyone = sorted(series["patient_id"].unique())
        return tables.check(pd.DataFrame({"patient_id": everyone, "split": "test"}), "splits")
    if len(shares) != 3 or min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise SplitError(f"split_shares is {list(shares)}; give three shares above 0 that add up to 1.")
    labels = patient_labels(series)
    rng = np.random.default_rng(seed)
    rows = []
    for label in (0, 1):
        patients = rng.permutation(labels.index[labels == label].to_numpy(dtype=object))
        ends = np.rint(np.cumsum(shares) * len(patients)).astype(int)
        for split, start, stop in zip(SPLITS, [0, *ends[:-1]], ends, strict=True):
            if stop <= start:
                raise SplitError(
                    f"split {split!r} gets none of the {len(patients)} patients with label {label}; "
                    f"add patients or raise its share of {shares[SPLITS.index(split)]:g}."
                )
            rows += [(patient, split) for patient in patients[start:stop]]
    return tables.check(
        pd.DataFrame(rows, columns=["patient_id", "split"]).sort_values("patient_id"), "splits"
    )


def fraction_patients(splits: pd.DataFrame, series: pd.DataFrame, fraction: float, seed: int) -> list[str]:
    """The training patients whose labels are used at a fraction.

    For a seed the fractions are nested: the patients of 10 % are among those of 50 %. They
    are the same for every network and init, and stratified by label, with at least one
    patient of each class.

    Args:
        splits: table `splits`.
        series: table `series`.
        fraction: share of the training patients, in (0, 1].
        seed: of the permutation within each class.

    Returns:
        Patient ids, sorted.

    Raises:
        SplitError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise SplitError(f"fraction is {fraction}; give a share above 0 and at most 1.")
    labels = patient_labels(series)
    train = splits.loc[splits["split"] == "train", "patient_id"]
    labels = labels[labels.index.isin(set(train))]
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for label in (0, 1):
        patients = rng.permutation(labels.index[labels == label].to_numpy(dtype=object))
        chosen += list(patients[: max(1, round(fraction * len(patients)))])
    return sorted(chosen)


def _read_rows(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of a CSV as text without blanks around it, and `row`, the data row from 1."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it says which patient is in which split.")
    try:
        rows = label_file.read_table(path, columns)
    except CohortError as error:
        hint = " A file of splits is read without a fold, a file of folds with the number of one."
        raise SplitError(f"{error}{hint if 'column' in str(error) else ''}") from error
    table = pd.DataFrame([row.cells for row in rows], dtype="str").assign(row=[row.number for row in rows])
    for row in table.loc[table["patient_id"] == "", "row"]:
        raise SplitError(f"{path.name}, data row {row}: patient_id is empty; name the patient, or drop it.")
    return table


def _refuse(table: pd.DataFrame, wrong: pd.Series, column: str, name: str, wanted: str) -> None:
    """Name the first row whose value is wrong, if there is one."""
    for row in table[wrong].itertuples():
        value = getattr(row, column)
        raise SplitError(f"{name}, data row {row.row}: {column} is {quoted(value)}; give {wanted}.")


def _splits_of_folds(table: pd.DataFrame, fold: int, name: str) -> pd.Series:
    """The split of each row when one fold is the test split."""
    wrong = ~table["fold"].str.fullmatch("[0-9]{1,4}").astype(bool)
    _refuse(table, wrong, "fold", name, "a whole number from 0")
    folds = table["fold"].astype("int64")
    n_folds = folds.nunique()
    if n_folds < MIN_FOLDS or folds.max() != n_folds - 1:
        raise SplitError(
            f"{name} has {n_folds} folds, the last is {folds.max()}; number them from 0 without a gap, "
            f"{MIN_FOLDS} at least."
        )
    if not 0 <= fold < n_folds:
        raise SplitError(f"fold is {fold}; {name} has the folds 0 to {n_folds - 1}.")
    return folds.map({**dict.fromkeys(range(n_folds), "train"), (fold + 1) % n_folds: "val", fold: "test"})


def read_splits(path: Path, fold: int | None = None) -> pd.DataFrame:
    """Read the splits of a file: official or published ones, or one turn of a cross-validation.

    Args:
        path: CSV, as `label_file` reads it, with the column patient_id (original ids, as in the dataset) and the
            column split (train, val, test) or fold (0 to k - 1); other columns are passed over. A
            patient may have several rows that agree.
        fold: None where the file has splits. Where it has folds: this one is test, the next
            (after the last: the first) is val, the rest is train.

    Returns:
        patient_id and split, one row a patient, sorted by patient_id.

    Raises:
        FileNotFoundError: no such file.
        SplitError: the file lacks a column or rows, has a row that is too long, a split or
            fold that is none, or a patient in two splits.

    >>> from ctlib.core.workspace import PROJECT
    >>> read_splits(PROJECT / "params/lidc/folds.csv", fold=4)["split"].value_counts().to_dict()
    {'train': 606, 'val': 202, 'test': 202}
    """
    path, column = Path(path), "split" if fold is None else "fold"
    table = _read_rows(path, ["patient_id", column])
    if fold is not None:
        table["split"] = _splits_of_folds(table, fold, path.name)
    _refuse(table, ~table["split"].isin(SPLITS), "split", path.name, ", ".join(SPLITS))
    splits = table.groupby("patient_id")["split"]
    torn = table[splits.transform("nunique") > 1]
    if len(torn):
        same = torn["patient_id"] == torn["patient_id"].iloc[0]
        rows = ", ".join(str(row) for row in torn.loc[same, "row"].head(4))
        raise SplitError(
            f"{path.name} has {torn['patient_id'].nunique()} patients in more than one {column}, the first "
            f"in data rows {rows}; each patient belongs in one."
        )
    return splits.first().reset_index()


def apply_splits(splits: pd.DataFrame, series: pd.DataFrame, pseudonym: Callable[[str], str]) -> pd.DataFrame:
    """The splits of a cohort's patients, as a file gives them.

    Args:
        splits: from `read_splits`; patients that the cohort does not have are passed over.
        series: table `series`.
        pseudonym: patient_id of the tables from the original id.

    Returns:
        Table `splits`, sorted by patient_id.

    Raises:
        SplitError: a patient of the cohort has no split, or two; an exam has no label; or train
            lacks one of the classes. Validation and test may lack one, as the file says so.

    >>> series = pd.DataFrame({"patient_id": ["x1", "x2"], "label": [0, 1], "series_uid": "s"})
    >>> splits = pd.DataFrame({"patient_id": ["1", "2", "3"], "split": ["train", "train", "test"]})
    >>> apply_splits(splits, series, lambda original: f"x{original}")["split"].tolist()
    ['train', 'train']
    """
    labels = patient_labels(series)
    given = splits.assign(patient_id=[pseudonym(patient) for patient in splits["patient_id"]])
    given = given[given["patient_id"].isin(labels.index)].drop_duplicates()
    if n_torn := int(given["patient_id"].duplicated().sum()):
        raise SplitError(f"{n_torn} patients of the cohort are in two splits; each belongs in one.")
    if n_missing := len(labels) - len(given):
        hint = "" if len(given) else " None is there: ids in the file must be the dataset's own."
        raise SplitError(
            f"{n_missing} of the cohort's {len(labels)} patients are not in the splits file; add a row for "
            f"each, or take their files out of the cohort.{hint}"
        )
    train = labels[given.loc[given["split"] == "train", "patient_id"]]
    for label in {0, 1} - set(train):
        raise SplitError(
            f"train has {len(train)} patients and none with label {label}; nothing can be learned from one "
            f"class, so give it patients of both."
        )
    return tables.check(given.sort_values("patient_id"), "splits")


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
    table = _read_rows(Path(path), ["patient_id", "fold"]).astype({"fold": "int64"})
    return table.groupby("patient_id")["fold"].first().reset_index()


def rotate_folds(splits: pd.DataFrame, folds: pd.DataFrame, turn: int) -> pd.DataFrame:
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
    >>> rotate_folds(splits, folds, 1)["split"].tolist()
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
