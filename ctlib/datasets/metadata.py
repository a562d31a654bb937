"""What the files alone tell of the label: no voxel is looked at.

A logistic regression with a ridge penalty, as cohorts of dozens of patients ask for: trees need more
cases a leaf than a kernel has exams there, and say nothing at all below about 40. What it would lack is
given to it: kernel and maker enter as one column a value, and each number enters twice, as its height
and as one of five ranges with about as many exams each, so that disease at a middle spacing is seen too.

Exams are scored by a model that saw none of their patient's exams, in five folds of patients
(`StratifiedGroupKFold`), and the scores are pooled. From each the mean score of its training exams is
subtracted: else a fold with less disease would be scored by a model that saw more, and files that say
nothing would get an AUROC below 0.5 for that alone.

Below 0.5 is no information upside down: what the training exams of a fold have too much of by chance, the
others have too little of. Where files say nothing, the interval over patients lay above 0.5 in 4 and below in
21 of 120 simulated cohorts of 64 or 176 patients. So there is none: beside the AUROC stands the band of what
chance gives when patients exchange their metadata, all of it at once, and everything is fitted again
(`ctlib.metrics.decisions`). Labels, patients and folds stay. Averaging over divisions into folds
makes the AUROC of files that say nothing lower still (0.43 in the mean for one feature), so there is one.

Of videos `metadata_accuracy` asks how well the files tell the class: where archers were filmed at 30 frames a
second and swimmers at 25, a network need not see what they do. A decision tree is asked there, for it finds a
class at a middle rate as well as one at an end; accuracy is balanced (each class counts the same), so that
chance is 1 over the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from ctlib.metrics import NO_ANSWER, beside_chance, exchanged_rows

ABSENT = "not in the files"
NUMBERS = {
    "n_slices": "slice count",
    "spacing_z_mm": "slice spacing",
    "spacing_x_mm": "pixel spacing",
    "thickness_mm": "slice thickness",
}
NAMES = {"kernel": "kernel", "manufacturer": "maker"}
FILES_ALONE = "file metadata"
"""The design of all that files say, where a label file says more."""
SAME = "the same in all exams"
TOGETHER = "all together"
"""The row of the model that has all of them."""
OF_FILES = {TOGETHER, *NUMBERS.values(), *NAMES.values()}
"""All that is told where a label file says no more."""
VALUES = ["auroc", "chance", "low", "high", "p_value"]
"""Columns of a feature that are NaN where it says nothing."""
RANGES = 5
"""Ranges of a number, with about as many exams each."""
FOLDS = 5
"""Folds of patients, or of groups of videos; fewer where a class has fewer of them."""
EXCHANGES = 199
"""Of patients, for the band of chance: the smallest p-value is then 0.01."""
AT_ONCE = 4_000_000
"""Numbers of the designs that are fitted at once: 32 MB."""
STEPS, STILL = 50, 1e-9
"""Newton steps at most, and the step of a coefficient that ends them."""
Array = NDArray[np.float64]


def metadata_baseline(
    series: pd.DataFrame, seed: int = 0, margin: float = 0.0, features: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The AUROC of the exam label that the columns of table `series` reach, all together and each alone.

    Args:
        series: table `series`; exams without a label are left out.
        seed: of the folds and of the exchanges of the patients.
        margin: a difference from chance that would not matter, in AUROC; 0 for none.
        features: table `features`: what the label file says besides; None for nothing.

    Returns:
        feature, auroc, chance (mean over exchanges), low, high (the band of chance, 95 %), p_value
        (two-sided), word (`stats.permutations`), n_exams, n_patients, n_positive (exams with disease),
        reason: why a value is NaN, or ''. First the row of all together, then one a feature.
    """
    labelled = series[series["label"].notna()].reset_index(drop=True)
    blank = _no_answer(labelled)
    designs = _of_files(labelled) | _of_features(labelled, features)
    said = {title: design for title, (design, why) in designs.items() if not why}
    whys = {title: why for title, (_, why) in designs.items()}
    whys[TOGETHER] = "" if said else "no feature differs between exams"
    rows = []
    for title in (TOGETHER, *designs):
        reason = blank or whys[title]
        parts = list(said.values()) if title == TOGETHER else [designs[title][0]]
        blank_row = {"feature": title, **dict.fromkeys(VALUES, math.nan), "word": NO_ANSWER}
        found = {"reason": reason} if reason else _scored(labelled, parts, seed, margin)
        rows.append(blank_row | found)
    table = pd.DataFrame(rows)
    positive = int(labelled["label"].sum()) if len(labelled) else 0
    counts = {
        "n_exams": len(labelled),
        "n_patients": labelled["patient_id"].nunique(),
        "n_positive": positive,
    }
    return table.assign(**counts)[["feature", *VALUES, "word", *counts, "reason"]]


Design = tuple[Array, str]
"""Columns `[exams, n]`, and why they say nothing, or ''."""


def _of_files(series: pd.DataFrame) -> dict[str, Design]:
    designs = {title: _height_and_range(series[name]) for name, title in NUMBERS.items()}
    return designs | {title: _one_a_value(series[name]) for name, title in NAMES.items()}


def _of_features(series: pd.DataFrame, features: pd.DataFrame | None) -> dict[str, Design]:
    if features is None:
        return {}
    return {
        str(name): _height_and_range(series["series_uid"].map(part.set_index("series_uid")["value"]))
        for name, part in features.groupby("name", sort=False)
    }


def told_without_image(series: pd.DataFrame, features: pd.DataFrame) -> dict[str, Array]:
    """What tells of the label without a look at the image, as designs of a logistic regression.

    Args:
        series: table `series`.
        features: table `features`.

    Returns:
        `[exams, columns]` by name, exams in the order of `series`: each number and name that differs between
        exams, `FILES_ALONE` of those that files say, and `TOGETHER` where the label file says more.
    """
    files, more = _of_files(series), _of_features(series, features)
    known = {name: design for name, (design, why) in (files | more).items() if not why}
    if of_files := [known[name] for name in files if name in known]:
        known[FILES_ALONE] = np.column_stack(of_files)
    if of_more := [known[name] for name in more if name in known]:
        known[TOGETHER] = np.column_stack([*of_files, *of_more])
    return known


def probabilities(design: Array, label: NDArray[np.int64], train: NDArray[np.bool_]) -> Array:
    """The probability of disease by a ridge logistic regression on some exams, for all of them.

    Args:
        design: `[exams, columns]`.
        label: `[exams]`, 0 or 1.
        train: `[exams]`, those that it is fitted to; both labels must be among them.
    """
    weights = ridge_logistic(design[None, train], label[train])[0]
    share = label[train].mean()
    moved = design @ weights - (design[train] @ weights).mean() + np.log(share / (1 - share))
    return np.asarray(expit(moved))


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


def _scored(labelled: pd.DataFrame, parts: Sequence[Array], seed: int, margin: float) -> dict[str, Any]:
    """AUROC of scores that no model gave to a patient it saw, beside what chance gives."""
    from sklearn.model_selection import (
        StratifiedGroupKFold,
    )  # here: a viewer's first volume need not wait for it

    design, label = np.column_stack(parts), labelled["label"].to_numpy(np.int64)
    patient = pd.factorize(labelled["patient_id"])[0]
    chosen = StratifiedGroupKFold(min(FOLDS, *_patients(labelled)), shuffle=True, random_state=seed)
    folds = list(chosen.split(design, label, patient))
    if any(len(np.unique(label[train])) < 2 for train, _ in folds):
        return {"reason": "patients with both labels leave a fold with one class to learn from"}
    exchanged = exchanged_rows(patient, EXCHANGES, np.random.default_rng([seed, 1]))
    rows = np.concatenate([np.arange(len(label))[None], exchanged])
    step = max(AT_ONCE // design.size, 1)
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]
    auroc = np.concatenate([_aurocs(design[block], label, folds) for block in blocks])
    found = beside_chance(float(auroc[0]), auroc[1:], margin)
    values = (float(auroc[0]), found.mean, found.low, found.high, found.p_value)
    return dict(zip(VALUES, values, strict=True)) | {"word": found.word, "reason": found.reason}


def _aurocs(designs: Array, label: NDArray[np.int64], folds: Sequence[tuple[Any, Any]]) -> Array:
    """`[k]`: AUROCs of cross-validated scores from designs `[k, exams, columns]`."""
    scores = np.full(designs.shape[:2], np.nan)
    for train, rest in folds:
        weights = ridge_logistic(designs[:, train], label[train])
        middle = (designs[:, train] @ weights[..., None]).mean(axis=1)
        scores[:, rest] = (designs[:, rest] @ weights[..., None])[..., 0] - middle
    from scipy.stats import rankdata  # here: as above

    # rounded: equal exams get equal scores within a fold, whatever the order of sums
    ranks = rankdata(scores.round(9), axis=1)
    ill = int(label.sum())
    found: Array = (ranks[:, label == 1].sum(axis=1) - ill * (ill + 1) / 2) / (ill * (len(label) - ill))
    return found


def ridge_logistic(designs: Array, label: NDArray[np.int64]) -> Array:
    """Weights `[k, columns]` of logistic regressions of one label on k designs, by Newton's steps.

    The penalty is half the sum of squares, of all but the constant: that of scikit-learn's
    `LogisticRegression` with C = 1. 200 fits of 140 exams and 30 columns take
    0.07 s, and 0.9 s one by one.

    Args:
        designs: `[k, exams, columns]`.
        label: `[exams]`, 0 or 1, both of them present.

    Raises:
        RuntimeError: `STEPS` steps did not end it.
    """
    x = np.concatenate([designs, np.ones((*designs.shape[:2], 1))], axis=2)
    penalty = np.append(np.ones(designs.shape[2]), 0.0)
    weights = np.zeros((len(x), x.shape[2]))
    for _ in range(STEPS):
        p = expit((x @ weights[..., None])[..., 0])
        slope = ((p - label)[:, None] @ x)[:, 0] + penalty * weights
        curvature = np.swapaxes(x * (p * (1 - p))[..., None], 1, 2) @ x + np.diag(penalty)
        change = np.linalg.solve(curvature, slope[..., None])[..., 0]
        weights = weights - change
        if np.abs(change).max() < STILL:
            return weights[:, :-1]
    raise RuntimeError(f"A logistic regression did not end in {STEPS} steps.")


VIDEO_NUMBERS = ("frames_per_s", "duration_s", "width", "height")
VIDEO_KINDS = ("container", "codec")
TELLS_AUROC = 0.9
"""A fact that tells a class from the others this well is named in the sentence."""
ENOUGH = 10
"""Videos of a class that is named: of two or three, files are alike by chance."""
STANDARD_ERRORS = 3.0
"""By how many an accuracy must pass chance to be called information: one set of files in 700 by luck."""


@dataclass(frozen=True)
class MetadataAccuracy:
    """How well files tell their class without a picture.

    Args:
        table: a row a class: class, n_videos, and the AUROC, class against all others, of each of
            `VIDEO_NUMBERS` and `VIDEO_KINDS`, from 0.5 (nothing) to 1 (tells it), whether it is by high values, by
            low ones, by some in between, or by one kind.
        accuracy: balanced accuracy of a decision tree on all facts, cross-validated; NaN where a class
            has fewer than two groups of videos.
        chance: of guessing.
        n_videos: usable videos.
        sentence: what this means.
    """

    table: pd.DataFrame
    accuracy: float
    chance: float
    n_videos: int
    sentence: str


def metadata_accuracy(videos: pd.DataFrame, seed: int = 0) -> MetadataAccuracy:
    """What frame rate, duration, size, container and codec tell of the class.

    Args:
        videos: the table of an index (`VideoIndex.table`), or a part of it; files with a problem are
            left out.
        seed: of the folds.

    Returns:
        AUROCs, accuracy and a sentence.

    Raises:
        ValueError: fewer than two classes.

    >>> rows = {"class": ["a", "b"] * 20, "group": list(map(str, range(40))), "problem": "",
    ...         "frames_per_s": [25.0, 30.0] * 20, "duration_s": 4.0, "width": 320, "height": 240,
    ...         "container": "avi", "codec": "mpeg4"}
    >>> told = metadata_accuracy(pd.DataFrame(rows))
    >>> told.table[["class", "frames_per_s", "container"]].values.tolist(), told.accuracy
    ([['a', 1.0, 0.5], ['b', 1.0, 0.5]], 1.0)
    """
    used = videos[videos["problem"] == ""].reset_index(drop=True)
    classes = sorted(set(used["class"]))
    if len(classes) < 2:
        raise ValueError(f"metadata_accuracy: videos of {len(classes)} classes; give those of two at least.")
    rows = []
    for name in classes:
        own = (used["class"] == name).to_numpy()
        facts = {
            fact: _of_numbers(own, used[fact].fillna(-1).to_numpy(dtype=float)) for fact in VIDEO_NUMBERS
        }
        facts |= {fact: _of_kinds(own, used[fact]) for fact in VIDEO_KINDS}
        rows.append({"class": name, "n_videos": int(own.sum()), **facts})
    table = pd.DataFrame(rows)
    accuracy, chance = _tree(used, seed), 1 / len(classes)
    return MetadataAccuracy(table, accuracy, chance, len(used), _sentence(table, accuracy, chance, len(used)))


def _of_numbers(own: NDArray[np.bool_], values: NDArray[np.float64]) -> float:
    """The AUROC of high, of low, or of typical values: of 24, 25 and 30 frames/s each tells its class."""
    typical = -np.abs(values - np.median(values[own]))
    return max(_folded(own, values), float(roc_auc_score(own, typical)))


def _folded(own: NDArray[np.bool_], values: NDArray[np.float64]) -> float:
    auroc = float(roc_auc_score(own, values))
    return max(auroc, 1 - auroc)


def _of_kinds(own: NDArray[np.bool_], kinds: pd.Series) -> float:
    """The AUROC of the best single kind: a class is of it, or is not of it."""
    return max(_folded(own, (kinds == kind).to_numpy(dtype=float)) for kind in set(kinds))


def _tree(used: pd.DataFrame, seed: int) -> float:
    """Balanced accuracy of a tree that saw no video of the group it is asked for."""
    sizes = used.groupby("class")["group"].nunique()
    n_folds = min(FOLDS, int(sizes.min()))
    if n_folds < 2:
        return float("nan")
    facts = (
        pd.get_dummies(used[[*VIDEO_NUMBERS, *VIDEO_KINDS]], columns=list(VIDEO_KINDS))
        .fillna(-1)
        .to_numpy(dtype=float)
    )
    alone = not used["group"].duplicated().any()
    kind = StratifiedKFold if alone else StratifiedGroupKFold  # the same then, and a lot quicker
    folds = kind(n_folds, shuffle=True, random_state=seed)
    tree = DecisionTreeClassifier(min_samples_leaf=2, random_state=seed)
    groups = None if alone else used["group"]
    named = cross_val_predict(tree, facts, used["class"], groups=groups, cv=folds)
    return float(balanced_accuracy_score(used["class"], named))


def _sentence(table: pd.DataFrame, accuracy: float, chance: float, n_videos: int) -> str:
    """What was found, and what to do about it."""
    strong = [
        f"{fact} tells {row['class']} (AUROC {row[fact]:.2f})"
        for row in table.to_dict("records")
        for fact in (*VIDEO_NUMBERS, *VIDEO_KINDS)
        if row[fact] >= TELLS_AUROC and row["n_videos"] >= ENOUGH
    ]
    named = f"; {', '.join(strong[:5])}{' and more' if len(strong) > 5 else ''}" if strong else ""
    if np.isnan(accuracy):
        opening = (
            f"Too few videos a class ({n_videos} of {len(table)} classes) to say whether files tell the class"
        )
        return f"{opening}{named}."
    score = f"{accuracy:.0%} against {chance:.0%} by chance, {n_videos} videos"
    if accuracy <= chance + STANDARD_ERRORS * np.sqrt(chance * (1 - chance) / n_videos) and not strong:
        return f"Frame rate, duration, size, container and codec tell nothing of the class ({score})."
    rate = any(words.startswith("frames_per_s") for words in strong)
    advice = " Set frames_per_s, so that all move at one pace." if rate else ""
    return (
        f"Frame rate, duration, size, container and codec alone tell something of the class "
        f"({score}{named}); a network may learn traces of them instead of motion.{advice}"
    )
