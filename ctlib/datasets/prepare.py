"""Everything between raw files and training: cohorts stored, patients split, what came of it told.

This is what `01_explore_data` does before it looks, and what `ctlib prepare` does without
a notebook, on a cluster for instance.

A cohort's source is a folder of real files. Every file under it ends in one of two places: a series
that is stored, or a problem with its reason. What is stored already from the very same files (by
their sizes and times of change) is not read again, so a run that was killed goes on from there.
Nothing that leaves here names a patient: see `ctlib.core.pseudonyms`.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ctlib.core import Identity, IdentityError, Map, Workspace, display_path, project_path, tables
from ctlib.datasets.cohort import COHORTS, FOLDER, Cohort, CohortError, commonest, store_series
from ctlib.datasets.folder import check as check_folder
from ctlib.datasets.splits import (
    NO_FOLD,
    SplitError,
    apply_splits,
    file_for,
    read_folds,
    read_splits,
    split_patients,
)
from ctlib.datasets.store import Store

SPARE_BYTES = 1_000_000_000
"""Left free on the disk: tables, weights and runs come after the volumes."""


class IngestError(ValueError):
    """A cohort cannot be stored as asked: one sentence."""


FAULTS = (CohortError, IngestError, IdentityError, SplitError, FileNotFoundError)
"""What wrong input raises here; each is one sentence."""


@dataclass(frozen=True)
class Preparation:
    """How cohorts are prepared.

    Args:
        work: where everything computed goes.
        values: parameters of `01_explore_data`, by name, from which each cohort's module takes its own.
        matrix_px: rows and columns of a stored slice.
        store_codec: "none" or "blosc2".
        id_key: "public" or the user's key file, see `Identity.at`.
        split_shares: shares of patients: train, val, test; empty trains on nothing.
        split_seed: seed of the splits.
        splits_file: CSV of splits or folds, see `splits.read_splits`, or of one cohort, see
            `splits.file_for`; "" for none.
        fold: fold that is test; `NO_FOLD` where the file has splits.
    """

    work: Workspace
    values: Mapping[str, Any] = field(repr=False)
    matrix_px: int
    store_codec: str = "none"
    id_key: str = "public"
    split_shares: Sequence[float] = ()
    split_seed: int = 0
    splits_file: str = ""
    fold: int = NO_FOLD

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Preparation:
        """The preparation that parameters of `01_explore_data` ask for.

        Args:
            values: its parameters by name, or the notebook's `globals()`.
        """
        return cls(
            Workspace.at(values["work_dir"]),
            values,
            **{name: values[name] for name in list(cls.__dataclass_fields__)[2:]},
        )

    @property
    def readers(self) -> dict[str, Any]:
        """Arguments of the `Engine` that reads the files: a scheduler, if there is one, and who may reach it."""
        asked = {name: self.values[name] for name in ("workers", "unencrypted")}
        return asked | {"cluster": self.values["scheduler"] or "local", "credentials": self.work.credentials}

    def store(self, name: str) -> Store:
        """Where the volumes of a cohort lie."""
        return Store(self.work.store(name), self.matrix_px, self.store_codec)

    def stored(self, name: str, run: Map) -> Cohort:
        """Read a cohort, store its volumes, write its tables; see `ingest`."""
        identity = Identity.at(self.id_key, self.work.root)
        return ingest(name, self.values, self.work, self.store(name), identity, run)

    def split(self, cohort: Cohort) -> pd.DataFrame:
        """Split a cohort's patients, by the file, else by the source's own splits, else at random.

        Returns:
            Table `splits`, which is written too, and table `folds` where the file has folds.

        Raises:
            SplitError: they cannot be split as asked.
        """
        if name := file_for(cohort.name, self.splits_file):
            path, pseudonym = project_path(name), Identity.at(self.id_key, self.work.root).patient
            given = read_splits(path, None if self.fold == NO_FOLD else self.fold)
            splits = apply_splits(given, cohort.series, pseudonym)
            if self.fold != NO_FOLD:
                dealt = read_folds(path)
                folds = dealt.assign(patient_id=dealt["patient_id"].map(pseudonym))
                mine = folds[folds["patient_id"].isin(splits["patient_id"])].sort_values("patient_id")
                tables.write(mine, "folds", self.work.table("folds", cohort.name))
        elif cohort.splits:
            given = pd.DataFrame(cohort.splits.items(), columns=["patient_id", "split"])
            splits = apply_splits(given, cohort.series, str)
        else:
            splits = split_patients(cohort.series, self.split_shares, self.split_seed)
        tables.write(splits, "splits", self.work.table("splits", cohort.name))
        return splits


def ingest(
    name: str, values: Mapping[str, Any], work: Workspace, store: Store, identity: Identity, run: Map
) -> Cohort:
    """Read a cohort, store its volumes and write its tables.

    Args:
        name: a key of `COHORTS`.
        values: parameters of `01_explore_data`, by name: `<name>_root` is the folder of its files.
        work: where tables go.
        store: where volumes go.
        identity: what stands for patients, studies, series and paths.
        run: spreads reading and storing over workers.

    Returns:
        The cohort under its pseudonyms, without the series that could not be stored; those are
        among its problems, each with its reason.

    Raises:
        ValueError: no cohort has that name.
        FileNotFoundError: its folder, or a file that it needs, is missing.
        IngestError: the disk would not hold the volumes, and nothing was stored; or no volume is left.
    """
    if name not in COHORTS:
        raise ValueError(f"cohorts names {name!r}; known are {', '.join(COHORTS)}.")
    read = importlib.import_module(f"ctlib.datasets.{name}").read
    root = project_path(values.get(f"{name}_root", ""))
    try:
        cohort = read(root, values, run).hidden(identity)
    except FileNotFoundError as error:
        raise _missing(name, root, error) from error
    _require_volumes(cohort, "used")
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
    _require_volumes(cohort, "stored")
    cohort.save(work)
    tables.write(_checks(cohort, store), "checks", work.table("checks", name))
    return cohort


def _missing(name: str, root: Path, error: FileNotFoundError) -> FileNotFoundError:
    hint = "" if root.is_dir() else f" Its folder is the parameter {name}_root."
    return FileNotFoundError(f"cohort {name}: {error}{hint}")


def _require_volumes(cohort: Cohort, done: str) -> None:
    if cohort.series.empty:
        raise IngestError(
            f"cohort {cohort.name}: no volume can be {done}, {commonest(cohort.problems)}; `ctlib scan "
            f"FOLDER` lists the files of a folder with their reasons."
        )


def check_input(values: Mapping[str, Any]) -> None:
    """Find what is wrong with a user's own labels before a notebook begins; see `folder.check`.

    Args:
        values: parameters of `01_explore_data`, by name.

    Raises:
        FileNotFoundError, CohortError: see `folder.check`.
    """
    if FOLDER not in values["cohorts"]:
        return
    root = project_path(values["folder_root"])
    try:
        check_folder(root, values)
    except FileNotFoundError as error:
        raise _missing(FOLDER, root, error) from error


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
