"""RSPECT: the RSNA STR pulmonary embolism dataset as Kaggle gives it.

`train.csv` has one row a slice; `train/<study>/<series>/<sop>.dcm` are the slices. A file is
matched to its row by its name, the SOPInstanceUID. No file names a patient, so the study stands
for the patient. The exam label is 1 - `negative_exam_for_pe`, except for indeterminate exams.

`labels` judges train.csv, 1,790,594 rows of 7,279 exams, without any image; `load` matches it to the files.
pyarrow reads it, for speed and because a value keeps its text: UIDs are 12 hex digits, and
`1e5000000000` must not become a number. Study, series and labels repeat, so they are read as
dictionaries: a code a row, and each value once.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from ctlib.core import Map, in_order, tables
from ctlib.datasets.cohort import Cohort, CohortError, assemble, slice_rows
from ctlib.datasets.synthetic import ct
from ctlib.io import scan

STUDY, SERIES, SOP = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"
SLICE_LABEL, NEGATIVE, INDETERMINATE = "pe_present_on_image", "negative_exam_for_pe", "indeterminate"
COLUMNS = (STUDY, SERIES, SOP, SLICE_LABEL, NEGATIVE, INDETERMINATE)
"""The columns of train.csv that are used, of its seventeen."""
INDETERMINATE_RULES = {"drop": None, "negative": 0, "positive": 1}
"""What becomes of indeterminate exams, and the label they get."""
FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
"""How a label is written; pandas writes 0.0 where a column once had a gap."""
BLOCK_BYTES = 1 << 24
"""Of the file, parsed at a time."""


def _read(path: Path) -> pa.Table:
    """The columns that are used, as text."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it holds RSPECT's labels, one row a slice.")
    text = pa.string()
    types = {column: text if column == SOP else pa.dictionary(pa.int32(), text) for column in COLUMNS}
    convert = arrow_csv.ConvertOptions(
        include_columns=list(COLUMNS), column_types=types, strings_can_be_null=False, null_values=[]
    )
    uneven: list[Any] = []

    def stop(row: Any) -> str:
        uneven.append(row)
        return "error"

    # One thread: only then a row that is too short or long knows its number.
    parse = arrow_csv.ParseOptions(invalid_row_handler=stop)
    read = arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
        if missing := [column for column in COLUMNS if column not in header]:
            raise CohortError(f"{path} lacks {', '.join(missing)}; its columns are {', '.join(header)}.")
        table = arrow_csv.read_csv(path, read, parse, convert)
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        for row in uneven:
            raise CohortError(
                f"{path}, data row {row.number - 1}: {row.actual_columns} cells under a header of "
                f"{row.expected_columns}; give one cell a column."
            ) from error
        raise CohortError(f"{path} is no CSV like Kaggle's: {str(error).splitlines()[0]:.200}.") from error
    return table.unify_dictionaries().combine_chunks()


def _codes(table: pa.Table, column: str) -> tuple[NDArray[np.int32], list[str]]:
    """A code a row, and the text of each code."""
    array = table.column(column).combine_chunks()
    return array.indices.to_numpy(zero_copy_only=False), array.dictionary.to_pylist()


def _flag(table: pa.Table, column: str, path: Path) -> NDArray[np.int8]:
    """A column of labels, int8 0 or 1, checked."""
    codes, texts = _codes(table, column)
    values = np.array([FLAGS.get(text, -1) for text in texts], np.int8)[codes]
    if (values < 0).any():
        row = int((values < 0).argmax())
        raise CohortError(
            f"{path}, data row {row + 1}: {column} is {texts[codes[row]]!r:.40}; it must be 0 or 1."
        )
    return values


def _check_names(table: pa.Table, path: Path) -> None:
    """Every row has its UIDs, and no slice has two rows."""
    for column in (STUDY, SERIES, SOP):
        empty = pc.index(table.column(column).cast(pa.string()), "").as_py()
        if empty >= 0:
            raise CohortError(f"{path}, data row {empty + 1}: {column} is empty; each slice needs its UIDs.")
    sops = table.column(SOP)
    if pc.count_distinct(sops).as_py() < len(sops):
        names = sops.to_pandas()
        first, second = np.flatnonzero(names == names[names.duplicated()].iloc[0])[:2] + 1
        raise CohortError(
            f"{path}, data rows {first} and {second}: SOPInstanceUID {names[first - 1]} has two rows; "
            f"each slice has one."
        )


def read_labels(path: Path) -> pd.DataFrame:
    """Read train.csv, checked.

    Args:
        path: the file; columns in any order, more than `COLUMNS` are passed over.

    Returns:
        One row a slice, in the file's order: study_uid and series_uid (categories of text), sop
        (text), label, negative and indeterminate (int8, 0 or 1).

    Raises:
        FileNotFoundError: no such file.
        CohortError: a column is missing, a row has too few or many cells, a UID is empty, a label
            is not 0 or 1, or a slice has two rows; the sentence names file, data row, column, value.
    """
    table = _read(path)
    _check_names(table, path)
    categories = {}
    for name, column in (("study_uid", STUDY), ("series_uid", SERIES)):
        codes, texts = _codes(table, column)
        categories[name] = pd.Categorical.from_codes(codes, pd.Index(texts, dtype="str"))
    return pd.DataFrame(
        {
            **categories,
            "sop": table.column(SOP).to_pandas().astype("str"),
            "label": _flag(table, SLICE_LABEL, path),
            "negative": _flag(table, NEGATIVE, path),
            "indeterminate": _flag(table, INDETERMINATE, path),
        }
    )


def _reasons(exams: pd.DataFrame, indeterminate: str) -> NDArray[np.str_]:
    """Why the label of each exam cannot be trusted, or is dropped; "" where it stands."""
    contradiction = exams["negative"].astype(bool) & (exams["indeterminate"] | exams["n_positive"]).astype(
        bool
    )
    rules = {
        "train.csv puts its slices in several studies": exams["n_studies"] > 1,
        f"{NEGATIVE} or {INDETERMINATE} vary within its study in train.csv": exams["varies"],
        f"{NEGATIVE} is 1, yet train.csv calls it indeterminate or marks slices": contradiction,
        "the exam is indeterminate, and indeterminate exams are dropped by parameter": (
            exams["indeterminate"].astype(bool) & (INDETERMINATE_RULES[indeterminate] is None)
        ),
    }
    return np.select([rule.to_numpy() for rule in rules.values()], list(rules), default="")


def labels(path: Path, indeterminate: str = "drop") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels of all exams and slices of train.csv, without any image; `rspect.load` uses the same.

    Args:
        path: train.csv.
        indeterminate: drop, negative or positive: what becomes of indeterminate exams.

    Returns:
        exams, one row a series, in the file's order: study_uid, series_uid, n_slices, n_positive,
        label (1 = pulmonary embolism; empty where refused), reason (why it is refused, or "").
        slices, one row a slice, in the file's order: series_uid (category), sop, label (int8);
        those of refused exams too.

    Raises:
        ValueError: `indeterminate` is none of the three.
        FileNotFoundError, CohortError: see `read_labels`.
    """
    if indeterminate not in INDETERMINATE_RULES:
        raise ValueError(f"indeterminate is {indeterminate!r}; known are {', '.join(INDETERMINATE_RULES)}.")
    rows = read_labels(Path(path))
    flags = ["negative", "indeterminate"]
    of_study = rows.groupby("study_uid", observed=True)[flags]
    varying = (of_study.max() != of_study.min()).any(axis=1)
    of_series = rows.groupby("series_uid", observed=True, sort=False)
    exams = (
        of_series[["study_uid", *flags]]
        .first()
        .assign(
            n_slices=of_series.size(),
            n_positive=of_series["label"].sum().astype("int64"),
            n_studies=rows[["series_uid", "study_uid"]]
            .drop_duplicates()
            .groupby("series_uid", observed=True)
            .size(),
        )
    )
    exams["varies"] = exams["study_uid"].astype("str").map(varying).astype(bool)
    exams["reason"] = _reasons(exams, indeterminate)
    label = (1 - exams["negative"]).astype("Int64")
    label = label.mask(exams["indeterminate"] == 1, INDETERMINATE_RULES[indeterminate] or 0)
    exams["label"] = label.mask(exams["reason"] != "")
    exams = exams.reset_index().astype({"study_uid": "str", "series_uid": "str", "reason": "str"})
    columns = ["study_uid", "series_uid", "n_slices", "n_positive", "label", "reason"]
    return exams[columns], rows[["series_uid", "sop", "label"]]


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
