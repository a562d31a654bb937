"""Everything between raw files and training: cohorts stored, patients split, what came of it told.

This is what `01_explore_data` does before it looks, and what `python -m ctlib prepare` does without
a notebook, on a cluster for instance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ctlib.core import Identity, IdentityError, Map, Workspace, project_path, tables
from ctlib.datasets.cohort import Cohort, CohortError
from ctlib.datasets.cross_validation import NO_FOLD, file_for, read_folds
from ctlib.datasets.ingest import IngestError, Source, ingest
from ctlib.datasets.splits import SplitError, apply_splits, read_splits, split_patients
from ctlib.datasets.store import Store

FAULTS = (CohortError, IngestError, IdentityError, SplitError, FileNotFoundError)
"""What wrong input raises here; each is one sentence."""


@dataclass(frozen=True)
class Preparation:
    """How cohorts are prepared.

    Args:
        work: where everything computed goes.
        sources: where the files of each cohort lie, by name.
        matrix_px: rows and columns of a stored slice.
        store_codec: "none" or "blosc2".
        id_key: "public" or the user's key file, see `Identity.at`.
        split_shares: shares of patients: train, val, test; empty trains on nothing.
        split_seed: seed of the splits.
        splits_file: CSV of splits or folds, see `splits.read_splits`, or of one cohort, see
            `turns.file_for`; "" for none.
        fold: fold that is test; `NO_FOLD` where the file has splits.
    """

    work: Workspace
    sources: Mapping[str, Source]
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
        shared = {
            "annotations": values["lidc_annotations"],
            "archive": values["lidc_archive"],
            "min_readers": values["min_readers"],
            "indeterminate": values["indeterminate"],
            "phantom_patients": values["phantom_patients"],
            "phantom_seed": values["phantom_seed"],
            "labels": values["folder_labels"],
            "columns": tuple(values["folder_columns"]),
        }
        return cls(
            Workspace.at(values["work_dir"]),
            {name: Source(values.get(f"{name}_root", ""), **shared) for name in values["cohorts"]},
            **{name: values[name] for name in list(cls.__dataclass_fields__)[2:]},
        )

    def store(self, name: str) -> Store:
        """Where the volumes of a cohort lie."""
        return Store(self.work.store(name), self.matrix_px, self.store_codec)

    def stored(self, name: str, run: Map) -> Cohort:
        """Read a cohort, store its volumes, write its tables; see `ingest`."""
        identity = Identity.at(self.id_key, self.work.root)
        return ingest(name, self.sources[name], self.work, self.store(name), identity, run)

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
