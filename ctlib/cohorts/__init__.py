"""Cohorts: one module a dataset, all giving the same tables; and the tasks asked of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ctlib import tables
from ctlib.store import Store, StoreError
from ctlib.volumes import SeriesError, read_series, series_uid
from ctlib.workspace import Workspace

TABLES = ("series", "slices", "problems", "marks")
"""Tables of a cohort, keys of `tables.SCHEMAS`."""


class CohortError(ValueError):
    """The files of a dataset are not what they should be: one sentence with file and field."""


@dataclass(frozen=True)
class Task:
    """A question asked of every clip of a cohort.

    Args:
        name: key in `TASKS`.
        cohort: cohort whose labels it uses.
        hu_window: name of the HU window, a key of `hu.HU_WINDOWS`.
        title: what people read.
        min_positive_slices: positive slices that make a clip positive (Ke et al. 2023).
    """

    name: str
    cohort: str
    hu_window: str
    title: str
    min_positive_slices: int = 4


TASKS = {
    "rspect_pe": Task("rspect_pe", "rspect", "pe", "Pulmonary embolism on contrast CT (RSPECT)"),
    "lidc_nodule": Task("lidc_nodule", "lidc", "lung", "Lung nodule (LIDC-IDRI)"),
}


def task(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: no task has that name; the message lists those that there are.

    >>> task("lidc_nodule").hu_window
    'lung'
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}; known are {', '.join(TASKS)}.")
    return TASKS[name]


@dataclass(frozen=True)
class Cohort:
    """The tables of a dataset.

    Args:
        name: name of the cohort.
        series: table `series`.
        slices: table `slices`.
        problems: table `problems`; its files and those of `series` are all that were found.
        marks: table `marks`.
        files: files of each series, inferior to superior; empty after `load_tables`.
    """

    name: str
    series: pd.DataFrame
    slices: pd.DataFrame
    problems: pd.DataFrame
    marks: pd.DataFrame
    files: dict[str, tuple[Path, ...]] = field(default_factory=dict)

    def save(self, workspace: Workspace) -> None:
        """Write the tables, checked.

        Raises:
            tables.TableError: one does not fit its schema.
        """
        for table in TABLES:
            tables.write(getattr(self, table), table, workspace.table(table, self.name))


def load_tables(workspace: Workspace, name: str) -> Cohort:
    """A cohort's tables as `Cohort.save` wrote them; `files` is empty.

    Raises:
        MissingInput: a table is missing; the sentence names the notebook that writes it.
        tables.TableError: a table is damaged or of another version.
    """
    frames = {}
    for table in TABLES:
        path = workspace.require(workspace.table(table, name), "01_explore_data")
        frames[table] = tables.read(table, path)
    return Cohort(name, **frames)


def slice_rows(series: pd.DataFrame) -> pd.DataFrame:
    """One row a slice.

    Args:
        series: from `volumes.scan`.

    Returns:
        series_uid, slice (from 0, inferior to superior), z_mm, file.
    """
    rows = series[["series_uid", "files", "z_mm"]].explode(["files", "z_mm"], ignore_index=True)
    rows = rows.rename(columns={"files": "file"}).astype({"z_mm": "float64"})
    rows.insert(1, "slice", rows.groupby("series_uid", sort=False).cumcount())
    return rows


def assemble(
    name: str,
    series: pd.DataFrame,
    slices: pd.DataFrame,
    problems: pd.DataFrame,
    marks: pd.DataFrame,
    refused: dict[str, str],
    root: Path,
) -> Cohort:
    """A cohort of what was found, without the series whose labels were refused.

    Args:
        name: name of the cohort.
        series: from `volumes.scan`, with labels.
        slices: one row a slice, with labels; more columns are dropped.
        problems: from `volumes.scan`.
        marks: table `marks`.
        refused: reason by series_uid.
        root: folder that paths in `problems` are relative to.
    """
    gone = series["series_uid"].isin(list(refused))
    moved = pd.DataFrame(
        {
            "path": [str(Path(files[0]).parent.relative_to(root)) for files in series.loc[gone, "files"]],
            "n_files": series.loc[gone, "n_files"].to_numpy(),
            "reason": [refused[uid] for uid in series.loc[gone, "series_uid"]],
        }
    )
    problems = pd.concat([problems, moved]) if len(moved) else problems

    def table(frame: pd.DataFrame, key: str) -> pd.DataFrame:
        if key != "problems":
            frame = frame[~frame["series_uid"].isin(list(refused))]
        frame = frame.assign(cohort=name)
        return tables.check(frame[[column.name for column in tables.SCHEMAS[key]]], key, f"cohort {name}")

    files = {
        uid: tuple(map(Path, paths))
        for uid, paths in zip(series["series_uid"], series["files"], strict=True)
        if uid not in refused
    }
    return Cohort(
        name,
        table(series, "series"),
        table(slices, "slices"),
        table(problems, "problems"),
        table(marks, "marks"),
        files,
    )


def source_checksum(files: Sequence[Path]) -> str:
    """SHA-256 of the names, sizes and times of change of files; their contents are not read."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def is_stored(store_folder: str, matrix_px: int, files: Sequence[str | Path]) -> bool:
    """Whether the volume of a series is in the store, from these very files.

    Raises:
        FileNotFoundError: a file is gone.
        SeriesError: the first file is no DICOM.
    """
    paths = [Path(file) for file in files]
    return Store(Path(store_folder), matrix_px).has(series_uid(paths[0]), source_checksum(paths))


def store_series(store_folder: str, matrix_px: int, files: tuple[str, ...]) -> str:
    """Read a series and store its volume, unless it is there from the same files.

    Args:
        store_folder: folder of the store.
        matrix_px: rows and columns of a stored slice.
        files: files of one series.

    Returns:
        "", or why the series is refused.
    """
    paths = [Path(file) for file in files]
    store = Store(Path(store_folder), matrix_px)
    try:
        if not is_stored(store_folder, matrix_px, files):
            store.put(read_series(paths), source_checksum(paths))
    except (SeriesError, StoreError, FileNotFoundError) as error:
        return str(error)
    return ""
