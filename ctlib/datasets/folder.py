"""Anybody's own data: a tree of DICOM, NIfTI, MetaImage or NRRD files, and a CSV of labels (`label_file` reads it).

One row of the CSV is one exam. Its column `study` names the volume, by any of

- the StudyInstanceUID or SeriesInstanceUID of DICOM files,
- the path of a file of another format (`.mhd`, not its `.raw`), of the folder of a DICOM series, or of a DICOM
  file of many frames, relative to the root; it may begin with the root's own name, or be absolute, and may have
  the backslashes of Windows,
- the bare name of that file or folder, with or without the ending of the format, where only one has it,
- a folder above, of a study or a patient: as a StudyInstanceUID, it names all volumes under it.

Leading zeros that a spreadsheet program dropped (`000` became `0`) are not filled in, even where only one volume
would fit: the program has then changed other cells, too (long numbers, dates), and ids of patients would differ
from those of other tables. The row is named, and the volume that it means.

The columns are named by parameters. `label` is 1 (or True) for disease, 0 (or False) for none. `patient` keeps all
exams of a patient in one split. `split` is train, val or test. `slices` lists the slices with disease,
counted from 0 at the most inferior slice: `40-52 60` means 40 to 52 and 60; empty where nobody knows.
An exam without disease has no slice with it; of an exam with disease whose slices are not known,
every clip has the label of the exam (`clips.clip_table`).
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.core import Map, display_path, in_order, project_path, tables
from ctlib.datasets.cohort import FOLDER, Cohort, CohortError, assemble, commonest, slice_rows
from ctlib.datasets.label_file import LabelRow, read_table
from ctlib.io import FORMATS, format_of, quoted, scan

SPLITS = ("train", "val", "test")
RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
LABELS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
"""What a label may be, in lower case: pandas writes 0.0 and False, spreadsheet programs FALSE."""
CHECKED_FILES = 20_000
"""Most files of a folder whose headers `check` reads where paths alone do not settle it: about two seconds."""


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
        CohortError: the file is no table (`label_file.read_table`), or a value is none that it may have; the
            sentence names the row. Values are repeated only where they cannot be somebody's name, except in
            `CohortError.shown`.
    """
    asked = {name: column for name, column in vars(columns).items() if column}
    for name in ("study", "label"):
        if name not in asked:
            raise CohortError(f"the column of the {name} is ''; name a column of {path.name}.")
    rows = read_table(path, [*asked.values(), *features])
    read = pd.DataFrame({"row": [row.number for row in rows]})
    for name in vars(columns):
        read[name] = [row.cells[asked[name]] if name in asked else "" for row in rows]
    _check(path, read["study"] != "", read, "study", "it must name a volume")
    labels = read["label"].str.lower().map(LABELS)
    _check(path, labels.notna(), read, "label", "it must be 0 or 1 (or False or True)")
    if columns.split:
        _check(path, read["split"].isin(SPLITS), read, "split", f"it must be {', '.join(SPLITS)}")
    if columns.patient:
        _check(path, read["patient"] != "", read, "patient", "it must name a patient")
    else:
        read["patient"] = read["study"]
    read["label"] = labels.astype(int)
    n_splits = read.groupby("patient")["split"].transform("nunique")
    _check(path, n_splits == 1, read, "split", "its patient is in another split in another row")
    read["features"] = [_numbers(path, row, features) for row in rows]
    return read


def _numbers(path: Path, row: LabelRow, names: Sequence[str]) -> tuple[tuple[str, float | None], ...]:
    """The numbers of a row with the names of their columns."""
    numbers: list[tuple[str, float | None]] = []
    for name in names:
        text = row.cells[name]
        try:
            value = float(text) if text else None
        except ValueError:
            value = math.nan
        if value is not None and not math.isfinite(value):
            raise CohortError(
                f"{path.name}, data row {row.number}: {name} is {quoted(text)}; folder_features names columns of "
                "numbers (with a point, not a comma), with cells left empty where one is not known."
            )
        numbers.append((name, value))
    return tuple(numbers)


def _check(path: Path, right: pd.Series, read: pd.DataFrame, name: str, why: str) -> None:
    if not right.all():
        first = read[~right].iloc[0]
        where = f"{path.name}, data row {first['row']}: {name} is "
        raise CohortError(
            f"{where}{quoted(first[name])}; {why}.", shown=f"{where}{_shown(first[name])}; {why}."
        )


def _shown(text: str) -> str:
    """A text as its owner may see it: one line, in quotes, the middle of a long one left out."""
    return repr(text if len(text) <= 80 else f"{text[:40]} ... {text[-30:]}")


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
    """Series by all the names they go by; a bare name only where one has it; folders above name all under them."""
    known: dict[str, set[str]] = defaultdict(set)
    bare: dict[str, set[str]] = defaultdict(set)
    for row in series.itertuples():
        for name in map(_composed, _names(row, root)):
            known[name].add(row.series_uid)
            bare[PurePosixPath(name).name].add(row.series_uid)
    for name, uids in bare.items():
        if len(uids) == 1:
            known[name] |= uids
    above: dict[str, set[str]] = defaultdict(set)
    paths: dict[str, set[str]] = defaultdict(set)
    for row in series.itertuples():
        for folder in list(PurePosixPath(Path(row.files[0]).relative_to(root).as_posix()).parents)[:-1]:
            path = _composed(str(folder))
            above[path].add(row.series_uid)
            paths[folder.name].add(path)
    above |= {name: above[path] for name, (path, *more) in paths.items() if not more and name not in above}
    return defaultdict(set, above | known)


def _composed(name: str) -> str:
    """A name with each accent in its letter (NFC): macOS keeps them apart on disk, Excel does not."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _spellings(study: str, root: Path) -> Iterator[str]:
    """What a row may mean, the most literal first: as it is, with slashes, without what leads to the root.

    A path without what leads to the root is what is left after `data/` or `/home/me/study/data/`, the last
    folders of the root's own path, or all of it.
    """
    name = _composed(study).removeprefix("./").rstrip("/")
    yield name
    plain = name.replace("\\", "/").removeprefix("./").rstrip("/")
    yield plain
    parts = PurePosixPath(plain).parts
    for place in dict.fromkeys((root.absolute(), root.resolve())):
        own = tuple(map(_composed, place.parts))
        for n in range(1, min(len(own), len(parts) - 1) + 1):
            if parts[:n] == own[-n:]:
                yield str(PurePosixPath(*parts[n:]))


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
    labels = project_path(values["folder_labels"])
    return load(root, labels, _columns(values), run, values["folder_features"])


def _columns(values: Mapping[str, Any]) -> Columns:
    given = list(values["folder_columns"])
    most = len(vars(Columns()))
    if not 2 <= len(given) <= most:
        raise CohortError(
            f"folder_columns has {len(given)} names; give those of {', '.join(vars(Columns()))}, '' for none."
        )
    columns = Columns(*given)
    if len(set(filter(None, given))) < len(list(filter(None, given))):
        raise CohortError(f"folder_columns is {given}; name each column once.")
    return columns


def check(root: Path, values: Mapping[str, Any]) -> None:
    """Find what is wrong with the labels before anything is stored, in seconds.

    The headers of the files are read only where a row is no path under the root, and only of a folder of at most
    `CHECKED_FILES` files; what is not found here, `load` finds.

    Args:
        root, values: see `read`.

    Raises:
        FileNotFoundError, CohortError: see `load`.
    """
    root, labels, columns = Path(root), project_path(values["folder_labels"]), _columns(values)
    features = values["folder_features"]
    rows = read_labels(labels, columns, features)
    if root.is_dir():
        endings = ["", *(ending for kind in FORMATS for ending in kind.endings)]
        if all(_is_path(study, root, endings) for study in rows["study"]):
            return
        n_files = 0
        for _, _, names in os.walk(root):
            n_files += len(names)
            if n_files > CHECKED_FILES:
                return
    load(root, labels, columns, features=features)


def _is_path(study: str, root: Path, endings: Sequence[str]) -> bool:
    try:
        return any((root / f"{name}{end}").exists() for name in _spellings(study, root) for end in endings)
    except (OSError, ValueError):  # too long for a path
        return False


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
        CohortError: see `read_labels`; or no volume can be read, no row names one, or a row has lost the leading
            zeros of its volume. `shown` gives a valid name of this folder.
    """
    root = Path(root)
    rows = read_labels(labels, columns, features)
    series, problems = scan(root, skip=[labels], run=run)
    if series.empty:
        raise CohortError(
            f"no volume can be read under {display_path(root)}: {commonest(problems)}; `ctlib scan "
            f"{display_path(root)}` lists every file with its reason."
        )
    known = _lookup(series, root)
    rows_of, lost = _matched(rows, known, root)
    if len(lost):
        _check_zeros(labels, lost, known, rows_of)
        if not rows_of:
            raise _no_match(labels, lost, known, series, problems, root)
        first = lost["row"].iloc[0]
        told = f"{len(lost)} rows name no volume that can be read, the first of them is data row {first}."
        row = pd.DataFrame([{"path": labels.name, "n_files": 0, "reason": told}])
        problems = pd.concat([problems, row]) if len(problems) else row
    return _assembled(series, problems, rows_of, root)


def _assembled(
    series: pd.DataFrame, problems: pd.DataFrame, rows_of: dict[str, list[Any]], root: Path
) -> Cohort:
    """The cohort of what was found and what the rows say of it."""
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


def _matched(
    rows: pd.DataFrame, known: dict[str, set[str]], root: Path
) -> tuple[dict[str, list[Any]], pd.DataFrame]:
    """Rows of each series, and rows that name none."""
    rows_of: dict[str, list[Any]] = defaultdict(list)
    named = []
    for row in rows.itertuples():
        uids = _named(row.study, known, root)
        named.append(bool(uids))
        for uid in uids:
            rows_of[uid].append(row if len(uids) == 1 or not row.slices else None)
    return rows_of, rows[~np.array(named, bool)]


def _named(study: str, known: dict[str, set[str]], root: Path) -> set[str]:
    """Series of a row: those of its literal name; else of its other spellings, where they agree."""
    literal, *others = dict.fromkeys(_spellings(study, root))
    if literal in known:
        return known[literal]
    found = [known[name] for name in others if name in known]
    return found[0] if found and all(uids == found[0] for uids in found) else set()


def _check_zeros(
    labels: Path, lost: pd.DataFrame, known: dict[str, set[str]], rows_of: dict[str, list[Any]]
) -> None:
    """Refuse rows that are the name of a volume without a row of its own, but for leading zeros."""
    bare: dict[str, str] = {}
    for name, uids in known.items():
        last = PurePosixPath(name).name
        if last.startswith("0") and last[1:] and not uids & set(rows_of):
            bare.setdefault(last.lstrip("0") or "0", last)
    for row in lost.itertuples():
        if row.study.removesuffix(".0") in bare:
            where = f"{labels.name}, data row {row.row}: study is "
            why = (
                "it names no volume, but {} does: a spreadsheet program has dropped the leading zeros; make the column "
                "text before the names are entered or imported, and save the table again."
            )
            real = repr(bare[row.study.removesuffix(".0")])
            shown, why = why.format(real), why.format("a name with leading zeros")
            raise CohortError(f"{where}{quoted(row.study)}; {why}", shown=f"{where}{row.study!r}; {shown}")


def _no_match(
    labels: Path,
    lost: pd.DataFrame,
    known: dict[str, set[str]],
    series: pd.DataFrame,
    problems: pd.DataFrame,
    root: Path,
) -> CohortError:
    """Why no row names a volume, with a name that would."""
    row = lost.iloc[0]
    names = [name for name in _spellings(row["study"], root) if name]
    lowered = {name.lower(): name for name in known}
    near = [lowered[name.lower()] for name in names if name.lower() in lowered]
    named = {uid for name in names for uid in known.get(PurePosixPath(name).name, ())}
    meant = series[series["series_uid"].isin(named)] if named else series
    valid = near[0] if near else _example(next(meant.itertuples()), root)
    n_rows = f"none of its {len(lost)} rows names" if len(lost) > 1 else "its one row does not name"
    begin = (
        f"{labels.name}: {n_rows} a volume under {display_path(root)}; data row {row['row']} has the study "
    )
    if near:
        why = "capital letters count: write the names as they are on the disk."
    else:
        why = _why_not(row["study"], bool(named), problems, root)
    return CohortError(
        f"{begin}{quoted(row['study'])}; {why}",
        shown=f"{begin}{_shown(row['study'])}, a valid one is {valid!r}; {why}",
    )


def _example(row: Any, root: Path) -> str:
    """A name of a volume that a CSV may have: its path, or its UID where it lies in the root itself."""
    _, series_uid, *paths = _names(row, root)
    return next((path for path in paths if path != "."), series_uid)


def _why_not(study: str, is_elsewhere: bool, problems: pd.DataFrame, root: Path) -> str:
    """What is most likely wrong with a name, and what to do."""
    names = [name for name in _spellings(study, root) if name]
    path = PurePosixPath(study.replace("\\", "/"))
    refused = problems[problems["path"].isin([name for name in names if name != "."])]
    if len(refused):
        return f"it is there, but cannot be read: {commonest(refused)}."
    if path.is_absolute() or re.match(r"[A-Za-z]:", study):
        return "its path is absolute, of another folder or machine: write paths relative to this folder."
    if is_elsewhere or any(
        _is_path(str(PurePosixPath(*path.parts[n:])), root, [""]) for n in range(1, len(path.parts))
    ):
        return "it begins with folders that are not in this one: write paths relative to this folder."
    return (
        "write the path relative to this folder, of a file (NIfTI, MetaImage, NRRD) or of the folder of a series "
        "(DICOM), or one of its UIDs, and look whether folder_labels and folder_root belong together."
    )


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
