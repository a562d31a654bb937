"""What the files alone tell of the label: no voxel is looked at.

A logistic regression with a ridge penalty, as cohorts of dozens of patients ask for: trees need more
cases a leaf than a kernel has exams there, and say nothing at all below about 40. What it would lack is
given to it: kernel and maker enter as one column a value, and each number enters twice, as its height
and as one of five ranges with about as many exams each, so that disease at a middle spacing is seen too.

Exams are scored by a model that saw none of their patient's exams, in five folds of patients
(`StratifiedGroupKFold`), and the scores are pooled. From each the mean score of its training exams is
subtracted: else a fold with less disease would be scored by a model that saw more, and files that say
nothing would get an AUROC below 0.5 for that alone. The interval is over patients
(`ctlib.stats.auroc_interval`).

Below 0.5 is no information upside down: what the training exams of a fold have too much of by chance, the
others have too little of. Where files say nothing, the interval of all together lay above 0.5 in 4 and
below in 21 of 120 simulated cohorts of 64 or 176 patients. Averaging over divisions into folds makes
that worse (0.43 in the mean for one feature), so there is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.quality.overview import ABSENT
from ctlib.stats import Interval, auroc_interval

NUMBERS = {
    "n_slices": "slice count",
    "spacing_z_mm": "slice spacing",
    "spacing_x_mm": "pixel spacing",
    "thickness_mm": "slice thickness",
}
NAMES = {"kernel": "kernel", "manufacturer": "maker"}
SAME = "the same in all exams"
TOGETHER = "all together"
"""The row of the model that has all of them."""
RANGES = 5
"""Ranges of a number, with about as many exams each."""
FOLDS = 5
"""Folds of patients; fewer where a class has fewer patients."""
Array = NDArray[np.float64]


def metadata_baseline(series: pd.DataFrame, seed: int = 0, n_replicates: int = 1000) -> pd.DataFrame:
    """The AUROC of the exam label that the columns of table `series` reach, all together and each alone.

    Args:
        series: table `series`; exams without a label are left out.
        seed: of the folds and of the draws of the patients.
        n_replicates: draws of the patients.

    Returns:
        feature, auroc, low, high (95 %), n_exams, n_patients, n_positive (exams with disease),
        reason: why a value is NaN, or ''. First the row of all together, then one a feature.
    """
    labelled = series[series["label"].notna()].reset_index(drop=True)
    blank = _no_answer(labelled)
    designs = {title: _height_and_range(labelled[name]) for name, title in NUMBERS.items()}
    designs |= {title: _one_a_value(labelled[name]) for name, title in NAMES.items()}
    said = {title: design for title, (design, why) in designs.items() if not why}
    whys = {title: why for title, (_, why) in designs.items()}
    whys[TOGETHER] = "" if said else "no feature differs between exams"
    rows = []
    for title in (TOGETHER, *designs):
        reason = blank or whys[title]
        parts = list(said.values()) if title == TOGETHER else [designs[title][0]]
        found = _undefined(reason) if reason else _score(labelled, parts, seed, n_replicates)
        rows.append((title, found.value, found.low, found.high, found.reason))
    table = pd.DataFrame(rows, columns=["feature", "auroc", "low", "high", "reason"])
    positive = int(labelled["label"].sum()) if len(labelled) else 0
    counts = {
        "n_exams": len(labelled),
        "n_patients": labelled["patient_id"].nunique(),
        "n_positive": positive,
    }
    return table.assign(**counts)[["feature", "auroc", "low", "high", *counts, "reason"]]


def _undefined(reason: str) -> Interval:
    return Interval(math.nan, math.nan, math.nan, reason)


def _patients(labelled: pd.DataFrame) -> tuple[int, int]:
    """Patients who have an exam without disease, and with."""
    by_label = labelled.groupby(labelled["label"].astype(int))["patient_id"].nunique()
    return int(by_label.get(0, 0)), int(by_label.get(1, 0))


def _no_answer(labelled: pd.DataFrame) -> str:
    """Why no feature can be tried, or ''."""
    if labelled.empty:
        return "no exam has a label"
    without, ill = _patients(labelled)
    if min(without, ill) < 2:
        return f"{ill} patients with disease and {without} without; two of each are needed"
    return ""


def _height_and_range(column: pd.Series) -> tuple[Array, str]:
    """A number as columns, and why it says nothing, or ''."""
    values = column.astype("Float64").to_numpy(np.float64, na_value=np.nan)
    known = np.isfinite(values)
    if not known.any():
        return np.empty((len(values), 0)), ABSENT
    spread = float(values[known].std())
    if spread < 1e-6 * max(abs(float(values[known].mean())), 1e-6):
        spread = 0.0
        if known.all():
            return np.empty((len(values), 0)), SAME
    height = np.where(known, (values - values[known].mean()) / (spread or 1.0), 0.0)
    ranges = np.full(len(values), -1)
    if spread:
        ranges[known] = pd.qcut(values[known], RANGES, labels=False, duplicates="drop")
    else:
        ranges[known] = 0
    return np.column_stack([height, pd.get_dummies(ranges).to_numpy(np.float64)]), ""


def _one_a_value(column: pd.Series) -> tuple[Array, str]:
    """A name as columns, and why it says nothing, or ''. Missing is a value: it may tell a hospital."""
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    if (text == "").all():
        return np.empty((len(text), 0)), ABSENT
    if text.nunique() == 1:
        return np.empty((len(text), 0)), SAME
    return pd.get_dummies(text).to_numpy(np.float64), ""


def _score(labelled: pd.DataFrame, parts: Sequence[Array], seed: int, n_replicates: int) -> Interval:
    """AUROC of scores that no model gave to a patient it saw."""
    from sklearn.linear_model import LogisticRegression  # here: a viewer's first volume need not wait for it
    from sklearn.model_selection import StratifiedGroupKFold

    design, label = np.column_stack(parts), labelled["label"].to_numpy(np.int64)
    patient = pd.factorize(labelled["patient_id"])[0]
    folds = StratifiedGroupKFold(min(FOLDS, *_patients(labelled)), shuffle=True, random_state=seed)
    scores = np.full(len(label), np.nan)
    for train, rest in folds.split(design, label, patient):
        if len(np.unique(label[train])) < 2:
            return _undefined("patients with both labels leave a fold with one class to learn from")
        # a solver for many cases of few columns: the usual one waits for threads more than it computes
        model = LogisticRegression(solver="newton-cholesky").fit(design[train], label[train])
        middle = model.decision_function(design[train]).mean()
        scores[rest] = model.decision_function(design[rest]) - middle
    # rounded: equal exams get equal scores within a fold, whatever the order of sums
    table = labelled[["patient_id", "label"]].assign(score=scores.round(9), run_id="", split="")
    return auroc_interval(table, n_replicates, seed)
