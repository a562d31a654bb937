"""Patient-level splits, and nested, stratified fractions of the training patients.

The unit is the patient: all exams of a patient lie in one split. Validation and test
patients never depend on the fraction, the network or the init.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ctlib import tables

SPLITS = ("train", "val", "test")


class SplitError(ValueError):
    """Patients cannot be split as asked: one sentence that says why."""


def patient_labels(series: pd.DataFrame) -> pd.Series:
    """One label a patient: 1 if any of the patient's exams has disease.

    Args:
        series: table `series`.

    Returns:
        Labels (0 or 1), indexed by patient_id, in sorted order.

    Raises:
        SplitError: an exam has no label.
    """
    unknown = series.loc[series["label"].isna(), "series_uid"]
    if len(unknown):
        raise SplitError(
            f"{len(unknown)} of {len(series)} exams have no label (the first is series {unknown.iloc[0]}); "
            f"drop them, or give labels, before splitting."
        )
    return series.groupby("patient_id")["label"].max().sort_index().astype(int)


def split_patients(series: pd.DataFrame, shares: Sequence[float], seed: int) -> pd.DataFrame:
    """Assign each patient to train, val or test, stratified by the patient's label.

    Args:
        series: table `series`.
        shares: shares of train, val and test; they add up to 1. Empty: nothing is trained on
            this cohort, and every patient is in test.
        seed: of the permutation.

    Returns:
        Table `splits`, sorted by patient_id.

    Raises:
        SplitError: the shares do not add up to 1, or a split would lack one of the classes.

    >>> series = pd.DataFrame({"patient_id": list("abcdefghij"), "label": [0, 1] * 5, "series_uid": "s"})
    >>> split_patients(series, (0.6, 0.2, 0.2), seed=0)["split"].value_counts().to_dict()
    {'train': 6, 'val': 2, 'test': 2}
    """
    if not len(shares):
        everyone = sorted(series["patient_id"].unique())
        return tables.check(pd.DataFrame({"patient_id": everyone, "split": "test"}), "splits")
    if len(shares) != 3 or min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise SplitError(f"split_shares is {list(shares)}; give three shares above 0 that add up to 1.")
    labels = patient_labels(series)
    rng = np.random.default_rng(seed)
    rows = []
    for label in (0, 1):
        patients = rng.permutation(labels.index[labels == label].to_numpy(dtype=object))
        ends = np.rint(np.cumsum(shares) * len(patients)).astype(int)
        for split, start, stop in zip(SPLITS, [0, *ends[:-1]], ends, strict=True):
            if stop <= start:
                raise SplitError(
                    f"split {split!r} gets none of the {len(patients)} patients with label {label}; "
                    f"add patients or raise its share of {shares[SPLITS.index(split)]:g}."
                )
            rows += [(patient, split) for patient in patients[start:stop]]
    return tables.check(
        pd.DataFrame(rows, columns=["patient_id", "split"]).sort_values("patient_id"), "splits"
    )


def fraction_patients(splits: pd.DataFrame, series: pd.DataFrame, fraction: float, seed: int) -> list[str]:
    """The training patients whose labels are used at a fraction.

    For a seed the fractions are nested: the patients of 10 % are among those of 50 %. They
    are the same for every network and init, and stratified by label, with at least one
    patient of each class.

    Args:
        splits: table `splits`.
        series: table `series`.
        fraction: share of the training patients, in (0, 1].
        seed: of the permutation within each class.

    Returns:
        Patient ids, sorted.

    Raises:
        SplitError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise SplitError(f"fraction is {fraction}; give a share above 0 and at most 1.")
    labels = patient_labels(series)
    train = splits.loc[splits["split"] == "train", "patient_id"]
    labels = labels[labels.index.isin(set(train))]
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for label in (0, 1):
        patients = rng.permutation(labels.index[labels == label].to_numpy(dtype=object))
        chosen += list(patients[: max(1, round(fraction * len(patients)))])
    return sorted(chosen)
