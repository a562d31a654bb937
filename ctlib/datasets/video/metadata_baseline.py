"""What the files alone tell of the class: no picture is looked at.

Where archers were filmed at 30 frames a second and swimmers at 25, a network need not see what they do.
A decision tree is asked here, for it finds a class at a middle rate as well as one at an end; accuracy
is balanced (each class counts the same), so that chance is 1 over the number of classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

NUMBERS = ("frames_per_s", "duration_s", "width", "height")
KINDS = ("container", "codec")
FOLDS = 5
"""Folds of the cross-validation; fewer where a class has fewer groups of videos."""
TELLS_AUROC = 0.9
"""A fact that tells a class from the others this well is named in the sentence."""
ENOUGH = 10
"""Videos of a class that is named: of two or three, files are alike by chance."""
STANDARD_ERRORS = 3.0
"""By how many an accuracy must pass chance to be called information: one set of files in 700 by luck."""


@dataclass(frozen=True)
class Told:
    """How well files tell their class without a picture.

    Args:
        table: a row a class: class, n_videos, and the AUROC, class against all others, of each of
            `NUMBERS` and `KINDS`, from 0.5 (nothing) to 1 (tells it), whether it is by high values, by
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


def told_by_metadata(videos: pd.DataFrame, seed: int = 0) -> Told:
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
    >>> told = told_by_metadata(pd.DataFrame(rows))
    >>> told.table[["class", "frames_per_s", "container"]].values.tolist(), told.accuracy
    ([['a', 1.0, 0.5], ['b', 1.0, 0.5]], 1.0)
    """
    used = videos[videos["problem"] == ""].reset_index(drop=True)
    classes = sorted(set(used["class"]))
    if len(classes) < 2:
        raise ValueError(f"told_by_metadata: videos of {len(classes)} classes; give those of two at least.")
    rows = []
    for name in classes:
        own = (used["class"] == name).to_numpy()
        facts = {fact: _of_numbers(own, used[fact].fillna(-1).to_numpy(dtype=float)) for fact in NUMBERS}
        facts |= {fact: _of_kinds(own, used[fact]) for fact in KINDS}
        rows.append({"class": name, "n_videos": int(own.sum()), **facts})
    table = pd.DataFrame(rows)
    accuracy, chance = _tree(used, seed), 1 / len(classes)
    return Told(table, accuracy, chance, len(used), _sentence(table, accuracy, chance, len(used)))


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
    facts = pd.get_dummies(used[[*NUMBERS, *KINDS]], columns=list(KINDS)).fillna(-1).to_numpy(dtype=float)
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
        for fact in (*NUMBERS, *KINDS)
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
