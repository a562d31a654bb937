"""Pretraining on a CT cohort: the labels of its task are learnt, or, without, which views are of one clip.

Only patients of the training split are learnt from; those of the validation split choose the epoch, and
test patients are never seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ctlib.core import Workspace, field_values
from ctlib.datasets import (
    COHORTS,
    UNTOLD,
    Augmented,
    ClipDataset,
    ClipSettings,
    Store,
    Task,
    fraction_patients,
    intensity,
    tasks_of,
)
from ctlib.models import PLACEBO, Origin
from ctlib.training import run
from ctlib.training.loop import FitError
from ctlib.training.negative_controls import with_permuted_labels
from ctlib.training.pretraining import PretrainTask, unlabelled
from ctlib.training.results import study_auroc


@dataclass(frozen=True)
class CtSource(Augmented):
    """How clips of a CT cohort are cut in pretraining. Units and meanings are those of `ClipSettings` and `Augmented`.

    Args:
        matrix_px: rows and columns of a stored slice.
        hu_window: of the cohort `folder`; each other has that of its task.
        channels: what the channels of a clip are.
        study_label: where the label of a study comes from.
        pretrain_patients: training patients whose labels are learnt at most, drawn by label and rounded for each
            label; 0 for all. Without labels (`_ssl`) all of them are seen.

    Raises:
        ValueError: a number of patients below 0.
    """

    matrix_px: int
    hu_window: str = "lung"
    channels: str = "repeat"
    study_label: str = "exam"
    pretrain_patients: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrain_patients < 0:
            raise ValueError(f"pretrain_patients is {self.pretrain_patients}; give 0 (all) or more.")

    def fingerprint(self, workspace: Workspace, origin: Origin, crop_px: int) -> str:
        """SHA-256 of the cohort.

        Raises:
            MissingInput: it was not prepared.
        """
        cohort = task_of(origin, self.hu_window).cohort
        return run.fingerprint(workspace, cohort, labelled=not origin.self_supervised)

    def task(
        self, workspace: Workspace, origin: Origin, clip_length: int, crop_px: int, seed: int
    ) -> PretrainTask:
        """What is learnt in the pretraining of an init, see `of_cohort`."""
        return of_cohort(workspace, origin, self, clip_length, crop_px, seed)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> CtSource:
        """How clips are cut, by the parameters of `02_pretrain`: `folder_hu_window` is `hu_window`."""
        return cls(**field_values(cls, values, "folder_"))

    def settings(self) -> dict[str, Any]:
        """All that changes the weights, but for the cohort itself."""
        given, later = dataclasses.asdict(self).items(), {"pretrain_patients": 0, **UNTOLD}
        return {"kind": "ct", **{name: value for name, value in given if (name, value) not in later.items()}}


def of_cohort(
    workspace: Workspace, origin: Origin, source: CtSource, clip_length: int, crop_px: int, seed: int
) -> PretrainTask:
    """A cohort's training patients, with the labels of its task or without.

    Args:
        workspace: where tables and volumes lie.
        origin: names the cohort, and whether labels are learnt, exchanged or not read.
        source: how clips are cut.
        clip_length: slices a clip.
        crop_px: rows and columns of a clip.
        seed: of the augmentation.

    Raises:
        FitError: no clip to learn from, or validation studies of one label only.
        MissingInput: the cohort was not prepared.
        ValueError: no cohort has that name, or a clip has no label where labels are learnt.
    """
    task = task_of(origin, source.hu_window)
    cut = ClipSettings(
        clip_length,
        crop_px,
        task.hu_window,
        channels=source.channels,
        **source.augmentations(),
    )
    if origin.self_supervised:
        rows = run.clips_of(workspace, task.cohort).assign(label=0)  # which nobody reads
    else:
        rows = run.labelled_clips(workspace, task.cohort, source.study_label)
    train, heldout = (rows[rows["split"] == split].reset_index(drop=True) for split in ("train", "val"))
    for split, part in (("train", train), ("val", heldout)):
        if part.empty:
            raise FitError(
                f"cohort {task.cohort} has no clip in split {split}; give it patients (split_shares)."
            )
    if source.pretrain_patients and not origin.self_supervised:
        series = run.read_table(workspace, "series", task.cohort)
        share = min(1.0, source.pretrain_patients / train["patient_id"].nunique())
        capped = fraction_patients(run.splits_of(workspace, task.cohort), series, share, seed)
        train = train[train["patient_id"].isin(capped)].reset_index(drop=True)
    learnt = "no labels" if origin.self_supervised else "labelled"
    if origin.variant == PLACEBO:
        train, learnt = with_permuted_labels(train, seed), "labels exchanged"
    store = Store(workspace.store(task.cohort), source.matrix_px)
    about = {
        "source": f"{task.title}, {train['patient_id'].nunique()} training patients, {learnt}",
        "licence": COHORTS[task.cohort].terms,
        "classes": [] if origin.self_supervised else ["no disease", "disease"],
    }
    seen = ClipDataset(store, train, cut, train=True, seed=seed)
    shown = partial(ClipDataset, store, heldout, cut, seed=seed)
    measured = partial(intensity, store, train, cut)
    if origin.self_supervised:
        return unlabelled(seen, shown(train=True), cut.n_channels, measured, about)
    return PretrainTask(
        seen,
        train["label"].tolist(),
        shown(train=False),
        loss="bce",
        n_outputs=1,
        metric=study_auroc(heldout),
        asked="study AUROC",
        chance=0.5,
        n_channels=cut.n_channels,
        intensity=measured,
        about=about | {"n_train": len(train), "n_heldout": len(heldout)},
    )


def task_of(origin: Origin, hu_window: str) -> Task:
    """The task whose labels a source cohort has.

    Raises:
        ValueError: no cohort has that name.
    """
    cohort = origin.source.removeprefix("ct_")
    if cohort not in COHORTS:
        known = ", ".join(sorted(COHORTS))
        raise ValueError(f"init {origin.source} names no cohort; known are {known}.")
    return tasks_of([cohort], hu_window)[cohort]
