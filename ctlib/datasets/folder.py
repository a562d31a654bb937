"""Anybody's own data: a tree of DICOM, NIfTI, MetaImage or NRRD files, and a CSV of labels.

One row of the CSV is one exam. Its column `study` names the volume, by any of

- the StudyInstanceUID or SeriesInstanceUID of DICOM files,
- the path of a file of another format (`.mhd`, not its `.raw`), of the folder of a DICOM series, or of a DICOM
  file of many frames, relative to the root,
- the bare name of that file or folder, with or without the ending of the format, where only one has it.

The columns are named by parameters. `label` is 1 for disease, 0 for none. `patient` keeps all exams
of a patient in one split. `split` is train, val or test. `slices` lists the slices with disease,
counted from 0 at the most inferior slice: `40-52 60` means 40 to 52 and 60; empty where nobody knows.
An exam without disease has no slice with it; of an exam with disease whose slices are not known,
every clip has the label of the exam (`clips.clip_table`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.core import Map, in_order, project_path, tables
from ctlib.datasets.cohort import FOLDER, Cohort, CohortError, assemble, slice_rows
from ctlib.io import format_of, quoted, scan

SPLITS = ("train", "val", "test")
RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of the CSV; "" for one that it does not have.

    Args:
        study: what names the volume; needed.
        label: 0 or 1; needed.
        patient: patient; "" makes each study a patient.
        split: train, val or test.
        slices: slices with disease.
    """

    study: str = "study"
    label: str = "label"
    patient: str = ""
    split: str = ""
    slices: str = ""


def read_labels(path: Path, columns: Columns, features: Sequence[str] = ()) -> pd.DataFrame:
    """The CSV, checked.

    Args:
        path: the file.
        columns: names of its columns.
        features: more columns of it, of numbers.

    Returns:
        One row an exam: row (number of the data row, from 1), study, label (int), patient, split
        and slices, "" where there is none; and features, pairs of a name and a number, None where a cell is empty.

    Raises:
        FileNotFoundError: no such file.
        CohortError: a column is missing, or a value is none that it may have; the sentence names
            the row. Values are repeated only where they cannot be somebody's name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it holds the labels, one row per exam.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    asked = {name: column for name, column in vars(columns).items() if column}
    for name in ("study", "label"):
        if name not in asked:
            raise CohortError(f"the column of the {name} is ''; name a column of {path.name}.")
    if missing := [column for column in (*asked.values(), *features) if column not in table.columns]:
        has = ", ".join(table.columns)
        raise CohortError(f"{path.name} has no column {', '.join(missing)}; its columns are {has}.")
    read = pd.DataFrame({"row": np.arange(1, len(table) + 1)})
    for name in vars(columns):
        read[name] = table[asked[name]].str.strip() if name in asked else ""
    _check(path, read["study"] != "", read, "study", "it must name a volume")
    _check(path, read["label"].isin(["0", "1", "0.0", "1.0"]), read, "label", "it must be 0 or 1")
    if columns.split:
        _check(path, read["split"].isin(SPLITS), read, "split", f"it must be {', '.join(SPLITS)}")
    if columns.patient:
        _check(path, read["patient"] != "", read, "patient", "it must name a patient")
    else:
        read["patient"] = read["study"]
    read["label"] = read["label"].astype(float).astype(int)
    n_splits = read.groupby("patient")["split"].transform("nunique")
    _check(path, n_splits == 1, read, "split", "its patient is in another split in another row")
    read["features"] = _numbers(path, table[list(features)])
    return read


def _numbers(path: Path, table: pd.DataFrame) -> list[tuple[tuple[str, float | None], ...]]:
    """The numbers of each row, with the names of their columns."""
    numbers = table.apply(pd.to_numeric, errors="coerce").astype(float)
    for name in table:
        wrong = (~np.isfinite(numbers[name]) & (table[name].str.strip() != "")).to_numpy()
        if wrong.any():
            row = int(wrong.argmax())
            raise CohortError(
                f"{path.name}, data row {row + 1}: {name} is {quoted(table[name].iloc[row])}; folder_features "
                "names columns of numbers, with cells left empty where one is not known."
            )
    rows = numbers.astype(object).where(numbers.notna(), None).to_numpy()
    return [tuple(zip(numbers, row, strict=True)) for row in rows]


def _check(path: Path, right: pd.Series, read: pd.DataFrame, name: str, why: str) -> None:
    if not right.all():
        first = read[~right].iloc[0]
        raise CohortError(f"{path.name}, data row {first['row']}: {name} is {quoted(first[name])}; {why}.")


def _names(row: Any, root: Path) -> Iterator[str]:
    """All that a CSV may call a volume, but for bare names."""
    yield row.study_uid
    yield row.series_uid
    file = PurePosixPath(Path(row.files[0]).relative_to(root).as_posix())
    kind = format_of(file.name)
    if kind is None:
        yield str(file.parent)
        if row.n_files == 1:  # a DICOM file of many frames
            yield str(file)
            yield str(file.with_suffix(""))
        return
    yield str(file)
    for ending in kind.endings:
        if file.name.lower().endswith(ending):
            yield str(file)[: -len(ending)]


def _lookup(series: pd.DataFrame, root: Path) -> dict[str, set[str]]:
    """Series by all the names they go by; a bare name only where one series has it."""
    known: dict[str, set[str]] = defaultdict(set)
    bare: dict[str, set[str]] = defaultdict(set)
    for row in series.itertuples():
        for name in _names(row, root):
            known[name].add(row.series_uid)
            bare[PurePosixPath(name).name].add(row.series_uid)
    for name, uids in bare.items():
        if len(uids) == 1:
            known[name] |= uids
    return known


def slices_of(text: str, n_slices: int) -> NDArray[np.bool_]:
    """Slices that a cell lists.

    Args:
        text: numbers and ranges, between blanks, commas or semicolons.
        n_slices: of the volume.

    Returns:
        bool `[n_slices]`.

    Raises:
        CohortError: it cannot be read, or names a slice that is not there.

    >>> slices_of("1-2 4", 6).tolist()
    [False, True, True, False, True, False]
    """
    listed = np.zeros(n_slices, bool)
    for part in re.split(r"[\s,;]+", text.strip()):
        found = RANGE.fullmatch(part)
        if not found:
            raise CohortError(f"slices holds {quoted(part)}; write them like 40-52 60")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < n_slices:
            raise CohortError(f"slices holds {part}, but the volume has slices 0 to {n_slices - 1}")
        listed[first : last + 1] = True
    return listed


def _slice_labels(text: str, label: int, n_slices: int) -> list[Any]:
    """Label of each slice; NA where nobody knows."""
    listed = slices_of(text, n_slices) if text else np.zeros(n_slices, bool)
    if label == 0 and listed.any():
        raise CohortError("label is 0, yet slices lists some")
    return listed.astype(int).tolist() if text or label == 0 else [pd.NA] * n_slices


def read(root: Path, values: Mapping[str, Any], run: Map = in_order) -> Cohort:
    """Read the data by the parameters folder_labels, folder_columns, folder_features of `01_explore_data`."""
    labels, columns = project_path(values["folder_labels"]), Columns(*values["folder_columns"])
    return load(root, labels, columns, run, values["folder_features"])


def load(
    root: Path, labels: Path, columns: Columns, run: Map = in_order, features: Sequence[str] = ()
) -> Cohort:
    """Read the data.

    Args:
        root: folder of DICOM, NIfTI, MetaImage or NRRD files, in any tree.
        labels: CSV; see the module's docstring. It may lie under the root.
        columns: names of its columns.
        run: spreads the reading of headers.
        features: columns of numbers that may tell the label, size or age say; they become table `features`.

    Returns:
        The cohort; volumes that no row names, or whose rows contradict each other, are among its
        problems. A last row of `problems` counts rows that name no volume.

    Raises:
        FileNotFoundError: the folder or the CSV is missing.
        CohortError: see `read_labels`.
    """
    root = Path(root)
    rows = read_labels(labels, columns, features)
    series, problems = scan(root, skip=[labels], run=run)
    rows_of, lost = _matched(rows, _lookup(series, root))
    if len(lost):
        first = lost["row"].iloc[0]
        told = f"{len(lost)} rows name no volume that can be read, the first of them is data row {first}."
        row = pd.DataFrame([{"path": labels.name, "n_files": 0, "reason": told}])
        problems = pd.concat([problems, row]) if len(problems) else row
    exams, slices, refused, features_of = [], [], {}, []
    for uid, n_slices in zip(series["series_uid"], series["n_slices"], strict=True):
        try:
            exam = _exam(rows_of.get(uid, []))
            slices += _slice_labels(exam.slices, exam.label, n_slices)
            exams.append((exam.patient, exam.study, exam.label, exam.split))
            features_of += [(uid, name, value) for name, value in exam.features]
        except CohortError as error:
            refused[uid] = f"Not used: {error}."
            slices += [pd.NA] * n_slices
            exams.append(("", "", pd.NA, ""))
    columns_of = ("patient_id", "study_uid", "label", "split")
    exams = pd.DataFrame(exams, columns=columns_of, index=series.index)
    labelled = slice_rows(series).assign(label=pd.array(slices, dtype="Int64"))
    series = series.assign(**{name: exams[name] for name in columns_of[:3]})
    cohort = assemble(FOLDER, series, labelled, problems, tables.empty("marks"), refused, root)
    used = exams[~series["series_uid"].isin(list(refused)) & (exams["split"] != "")]
    found = tables.check(pd.DataFrame(features_of, columns=["series_uid", "name", "value"]), "features")
    return replace(cohort, splits=dict(zip(used["patient_id"], used["split"], strict=True)), features=found)


def _matched(rows: pd.DataFrame, known: dict[str, set[str]]) -> tuple[dict[str, list[Any]], pd.DataFrame]:
    """Rows of each series, and rows that name none."""
    rows_of: dict[str, list[Any]] = defaultdict(list)
    named = []
    for row in rows.itertuples():
        uids = known.get(row.study.removeprefix("./").rstrip("/"), set())
        named.append(bool(uids))
        for uid in uids:
            rows_of[uid].append(row if len(uids) == 1 or not row.slices else None)
    return rows_of, rows[~np.array(named, bool)]


def _exam(rows: list[Any]) -> Any:
    """What the rows of one series say together."""
    if not rows:
        raise CohortError("no row of the label file names it")
    if None in rows:
        raise CohortError("its row lists slices, but names several series: name this one")
    for name in ("label", "patient", "slices", "split", "features"):
        if len({getattr(row, name) for row in rows}) > 1:
            numbers = " and ".join(str(row.row) for row in rows[:2])
            raise CohortError(f"data rows {numbers} of the label file name it and differ in their {name}")
    return rows[0]
