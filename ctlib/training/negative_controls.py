"""Negative controls: runs that must find nothing, or must lose what only the order of slices tells.

A run has one of them or none (`Run.control`), and is otherwise as it would have been: the same patients,
batches, head and weights to begin with.

- `permuted_labels`: patients of the training split exchange their labels, and so do those of the validation
  split, which choose the epoch; those of the test split are true. Whatever the AUROC is then, it is not
  learnt from disease: its interval must hold 0.5.
- `shuffled_slices`: the slices of every clip are in a random order, in training and in evaluation. What is
  left can be seen slice by slice.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NONE, PERMUTED_LABELS, SHUFFLED_SLICES = "none", "permuted_labels", "shuffled_slices"
CONTROLS = {
    NONE: "no control",
    PERMUTED_LABELS: "patients exchange their labels in training; those of the test are true",
    SHUFFLED_SLICES: "the slices of each clip are in a random order, in training and in evaluation",
}
"""What each of them is."""
_PERMUTE = 3  # stream of the seed; `ctlib.datasets.clips` and `ctlib.datasets.clips` draw from others


def control_of(name: str, channels: str) -> str:
    """A control that clips of these channels can have.

    Raises:
        ValueError: it is unknown, or channels that hold the neighbours of a slice would give its place away.

    >>> control_of("shuffled_slices", "repeat")
    'shuffled_slices'
    """
    if name not in CONTROLS:
        raise ValueError(f"control is {name!r}; known are {', '.join(CONTROLS)}.")
    if name == SHUFFLED_SLICES and channels == "neighbours":
        raise ValueError(
            f"control is {name!r}, and channels is {channels!r}: each slice brings its neighbours along, "
            "whatever the order; take other channels."
        )
    return name


def with_permuted_labels(clips: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Clips whose patients have exchanged their labels.

    Each patient gets the labels of another, exam by exam (those with disease first, in a circle where there
    are more), in a random order of their clips; where the other's exam has more clips or fewer, as large a
    share of them is positive. Two things would teach a little of the truth, and do not happen: labels that
    kept their height in the body, for disease has its heights too, and a clip with disease would be called
    positive more often than another; and a permutation that leaves more patients their label than chance
    does on average. As large a share of patients with disease as of those without gets labels of disease, to
    the nearest patient.

    Args:
        clips: columns patient_id, study, clip, label and study_label; of one split.
        seed: of the permutation.

    Returns:
        The same rows in the same order with other labels.

    >>> clips = pd.DataFrame({"patient_id": list("aabbccdd"), "study": list("aabbccdd"), "clip": [0, 1] * 4,
    ...                       "label": [0, 1, 0, 1, 0, 0, 0, 0], "study_label": [1, 1, 1, 1, 0, 0, 0, 0]})
    >>> with_permuted_labels(clips, 0).groupby("study")["study_label"].max().tolist()
    [1, 0, 0, 1]
    """
    ordered = clips.reset_index(drop=True).sort_values(["patient_id", "study", "clip"], kind="stable")
    exams: dict[str, list[NDArray[np.int64]]] = {}  # rows of each exam of a patient, with disease first
    for (patient, _), part in sorted(
        ordered.groupby(["patient_id", "study"]), key=lambda item: -item[1]["study_label"].max()
    ):
        exams.setdefault(patient, []).append(part.index.to_numpy())
    ill = clips.groupby("patient_id", sort=True)["study_label"].max()
    names, rng = ill.index.to_numpy(), np.random.default_rng([seed, _PERMUTE])
    donors = names[_donors(ill.to_numpy(np.int64), rng)]
    labels = clips[["label", "study_label"]].to_numpy()
    exchanged = labels.copy()
    for patient, donor in zip(names, donors, strict=True):
        for own, given in zip(exams[patient], itertools.cycle(exams[donor]), strict=False):
            spread = ((np.arange(len(own)) + 0.5) * len(given) / len(own)).astype(int)
            exchanged[own] = labels[given[rng.permutation(spread)]]
    return clips.assign(label=exchanged[:, 0], study_label=exchanged[:, 1])


def _donors(ill: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Whose labels each patient gets: a permutation that is balanced between the patients of both labels."""
    with_disease, without = (rng.permutation(np.flatnonzero(ill == label)) for label in (1, 0))
    n_kept = round(len(with_disease) ** 2 / max(len(ill), 1))
    n_given = len(with_disease) - n_kept
    donors = np.empty(len(ill), np.int64)
    for receivers, parts in (
        (np.flatnonzero(ill == 1), (with_disease[:n_kept], without[:n_given])),
        (np.flatnonzero(ill == 0), (with_disease[n_kept:], without[n_given:])),
    ):
        donors[receivers] = rng.permutation(np.concatenate(parts))
    return donors
