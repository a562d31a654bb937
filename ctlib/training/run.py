"""What a run is: one finetuning, known by all that changes its result.

`Run.run_id` is a hash of every setting, of the data (`fingerprint`) and of the weights it begins
from, so that a result is never taken for that of another experiment, and never computed twice.
What does not belong to it: the device and the library versions. They change the last bits
only, and a result from a cluster must be found on a laptop. Device and torch version are recorded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import yaml

from ctlib.core import Workspace, read_json, tables
from ctlib.datasets import UNTOLD, Augmented, ClipSettings, Store, rotate_folds, task, unmet
from ctlib.training.negative_controls import NONE, SHUFFLED_SLICES, control_of
from ctlib.training.protocol import (
    CLIP_LABELS,
    DROPPED_TAILS,
    FILL,
    FILL_VALUE,
    FRESH_FRACTION,
    flaws_of,
    without_tails,
)

PROTOCOL_VERSION = 2
"""Counts the changes of the code that change results."""

LATER: dict[str, Any] = {
    "control": NONE,
    "fold": 0,
    "loss": "bce",
    "sampling": "balanced",
    "dropout": 0.0,
    "contract": "",
    **UNTOLD,
}
"""Settings that came after the first results, with the value those had: their ids stay what they were."""

SETTINGS_FILE = "run.json"
"""Of a run's folder: what it was asked."""

WRITER = "01_explore_data"
"""The notebook that writes a cohort's tables and volumes."""

STUDY_LABELS = ("exam", "clips")
"""Where the label of a study comes from: the exam's own, or any of its clips (the published rule)."""

CHOICES = {"study_label": STUDY_LABELS, "loss": ("bce", "focal"), "sampling": ("balanced", "shuffled")}
"""Settings that have one of a few values; others are looked at where a fit begins."""


@dataclass(frozen=True)
class Run(Augmented):
    """One finetuning. Units and meanings are those of the notebook's parameters; augmentations: see `Augmented`.

    Args:
        task: a task of `ctlib.datasets.cohort.TASKS`.
        backbone: key of the network.
        init: where its weights begin.
        fraction: share of the training patients whose labels are used.
        seed: of the patients drawn, the order of the clips, the augmentation and the head.
        lr: learning rate.
        size: `tiny` or `full`.
        matrix_px: rows and columns of a stored slice.
        clip_length: slices a clip.
        crop_px: rows and columns of a clip.
        epochs: at most so many.
        steps_per_epoch: batches an epoch; 0 takes as many as the clips that are learnt from fill.
        batch_size: clips a batch.
        weight_decay: of the optimizer.
        optimizer: `adam`, `adamw` or `sgd`.
        schedule: one of `ctlib.training.optimizer.SCHEDULES`.
        patience: epochs without a better validation AUROC before it stops; 0 never stops.
        precision: `auto`, `fp32` or `bf16`.
        study_label: one of `STUDY_LABELS`.
        data: `fingerprint` of the cohort.
        weights: checksum of the init's file; empty where nothing is loaded.
        keep: epoch whose weights are used: `best` by validation AUROC, or `last`.
        channels: what the channels of a clip are, one of `ctlib.datasets.transforms.CHANNELS`.
        accumulate: batches a step of the optimizer.
        code: checksum of the module of a network of the user's own; empty for ours.
        flaws: choices of the published code that are put back, of `ctlib.training.protocol.FLAWS`.
        control: one of `ctlib.training.negative_controls.CONTROLS`.
        loss: `bce` or `focal`.
        sampling: `balanced` or `shuffled`, of `ctlib.datasets.clips.SAMPLERS`.
        fold: turn of the cross-validation (`ctlib.datasets.splits.rotate_folds`); 0 is table `splits` as it is.
        dropout: share of the features that training sets to 0 before the head, from 0 to below 1.
        contract: what the starting weights ask of a clip (`ctlib.core.Contract.text`); empty: nothing.
    """

    task: str
    backbone: str
    init: str
    fraction: float
    seed: int
    lr: float
    size: str
    matrix_px: int
    clip_length: int
    crop_px: int
    epochs: int
    steps_per_epoch: int
    batch_size: int
    weight_decay: float
    optimizer: str
    schedule: str
    patience: int
    precision: str
    study_label: str
    data: str
    weights: str
    keep: str = "best"
    channels: str = "repeat"
    accumulate: int = 1
    code: str = ""
    flaws: tuple[str, ...] = ()
    control: str = NONE
    loss: str = "bce"
    sampling: str = "balanced"
    fold: int = 0
    dropout: float = 0.0
    contract: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type == "float":  # 1 and 1.0 are one setting
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
        super().__post_init__()
        object.__setattr__(self, "flaws", flaws_of("corrected", self.flaws))
        control_of(self.control, self.channels)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; known are {', '.join(known)}.")
        for name in ("steps_per_epoch", "fold"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 or more.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; give a share from 0 to below 1.")

    @cached_property
    def run_id(self) -> str:
        """First 12 hex digits of the SHA-256 of all settings and the version of the protocol.

        A setting of `LATER` counts where it is not what it was before it was there.
        """
        settings = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        told = {name: value for name, value in settings.items() if (name, value) not in LATER.items()}
        return digest({**told, "protocol": PROTOCOL_VERSION})[:12]

    def __str__(self) -> str:
        turn = f" fold {self.fold}" if self.fold else ""
        control = "" if self.control == NONE else f" {self.control}"
        arm = f"{self.task} {self.backbone} {self.init}"
        return f"{arm} fraction {self.fraction:g} seed {self.seed}{turn}{control}"


def clip_settings(run: Run) -> ClipSettings:
    """How the clips of a run are cut."""
    return ClipSettings(
        run.clip_length,
        run.crop_px,
        task(run.task).hu_window,
        channels=run.channels,
        **run.augmentations(),
        fill=FILL_VALUE if FILL in run.flaws else None,
        shuffle_seed=run.seed if run.control == SHUFFLED_SLICES else None,
        contract=run.contract,
    )


def refuse_unmet(workspace: Workspace, runs: Sequence[Run]) -> None:
    """Refuse runs whose cohort cannot give the clips that their starting weights ask for.

    Raises:
        ValueError: the first of them, with a series and what to do.
    """
    asked = {(run.task, run.clip_length, run.channels, run.contract): run for run in runs if run.contract}
    for run in asked.values():
        cohort = task(run.task).cohort
        if why := unmet(store_of(workspace, run), clips_of(workspace, cohort), clip_settings(run)):
            raise ValueError(f"init {run.init} for {run.backbone}, cohort {cohort}: {why}.")


def batches_an_epoch(run: Run, n_clips: int) -> int:
    """Training batches of an epoch.

    Args:
        run: the run.
        n_clips: training clips that it may learn from, all of them where it draws a fresh fraction.
    """
    n = run.steps_per_epoch or math.ceil(n_clips / run.batch_size)
    return max(1, round(run.fraction * n) if FRESH_FRACTION in run.flaws else n)


def read_run(workspace: Workspace, run_id: str) -> Run:
    """The settings that a run was computed with, from its folder.

    Raises:
        FileNotFoundError: it has none.
    """
    settings = read_json(workspace.runs / run_id / SETTINGS_FILE)
    return Run(
        **{field.name: settings[field.name] for field in dataclasses.fields(Run) if field.name in settings}
    )


def digest(settings: dict[str, Any]) -> str:
    """SHA-256 of settings, whatever their order.

    >>> digest({"b": 1, "a": [2.5]}) == digest({"a": [2.5], "b": 1})
    True
    >>> digest({"a": 1})[:12]
    '015abd7f5cc5'
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_table(workspace: Workspace, name: str, cohort: str) -> pd.DataFrame:
    """A table of a cohort.

    Raises:
        MissingInput: it is missing; the sentence names the notebook that writes it.
    """
    return tables.read(name, workspace.require(workspace.table(name, cohort), WRITER))


def splits_of(workspace: Workspace, cohort: str, fold: int = 0) -> pd.DataFrame:
    """Table `splits` of a cohort, or what it is in another turn of its folds.

    Args:
        workspace: where the tables lie.
        cohort: its name.
        fold: see `ctlib.datasets.splits.rotate_folds`.

    Raises:
        MissingInput: a table is missing; table `folds` is only needed for other turns than 0.
        SplitError: the cohort has no such fold.
    """
    splits = read_table(workspace, "splits", cohort)
    return rotate_folds(splits, read_table(workspace, "folds", cohort), fold) if fold else splits


def clips_of(workspace: Workspace, cohort: str, fold: int = 0) -> pd.DataFrame:
    """The clips of a cohort with patient, study and split; labels may be empty.

    Args:
        workspace: where the tables lie.
        cohort: its name.
        fold: turn of the cross-validation, see `splits_of`.

    Returns:
        Columns of table `clips` (series_uid, start, stop, label, ...), with `clip` counted within
        the study, and patient_id, study, split, exam_label; sorted by patient, study and clip.

    Raises:
        MissingInput: a table is missing; the sentence names the notebook that writes it.
    """
    series, clips = (read_table(workspace, name, cohort) for name in ("series", "clips"))
    splits = splits_of(workspace, cohort, fold)
    exams = series.rename(columns={"study_uid": "study", "label": "exam_label"})
    rows = clips.merge(exams[["patient_id", "study", "series_uid", "exam_label"]], on="series_uid")
    rows = rows.merge(splits, on="patient_id").sort_values(["patient_id", "study", "series_uid", "clip"])
    return rows.assign(clip=rows.groupby("study").cumcount()).reset_index(drop=True)


def labelled_clips(
    workspace: Workspace, cohort: str, study_label: str = "exam", fold: int = 0
) -> pd.DataFrame:
    """The clips of a cohort with patient, study, split and study label.

    Args:
        workspace: where the tables lie.
        cohort: its name.
        study_label: one of `STUDY_LABELS`.
        fold: turn of the cross-validation, see `splits_of`.

    Returns:
        As `clips_of`, all with a label, and study_label in place of exam_label.

    Raises:
        MissingInput: a table is missing; the sentence names the notebook that writes it.
        ValueError: a clip has no label.
    """
    rows = clips_of(workspace, cohort, fold)
    if rows["label"].isna().any() or rows["exam_label"].isna().any():
        row = rows[rows["label"].isna() | rows["exam_label"].isna()].iloc[0]
        raise ValueError(
            f"cohort {cohort}: series {row['series_uid']}, clip {row['clip']} has no clip label or no exam "
            f"label; drop such series in notebook {WRITER}."
        )
    source = "exam_label" if study_label == "exam" else "label"
    rows["study_label"] = rows.groupby("study")[source].transform("max")
    return rows.drop(columns="exam_label").astype({"label": "int64", "study_label": "int64"})


def clips_of_run(workspace: Workspace, run: Run) -> pd.DataFrame:
    """The clips that a run learns from and is judged by, as `labelled_clips`, with the flaws it repeats."""
    study_label = "clips" if CLIP_LABELS in run.flaws else run.study_label
    rows = labelled_clips(workspace, task(run.task).cohort, study_label, run.fold)
    return without_tails(rows, run.clip_length) if DROPPED_TAILS in run.flaws else rows


def fingerprint(workspace: Workspace, cohort: str, labelled: bool = True, fold: int = 0) -> str:
    """SHA-256 of all of a cohort that a run sees: clips, labels, splits and volumes.

    Args:
        workspace: where tables and volumes lie.
        cohort: name of the cohort.
        labelled: whether each clip must have a label.
        fold: turn of the cross-validation, see `splits_of`.

    Raises:
        MissingInput: a table is missing.
        StoreError: a volume is not in the store.
        ValueError: a clip has no label.
    """
    rows = labelled_clips(workspace, cohort, fold=fold) if labelled else clips_of(workspace, cohort, fold)
    store = Store(workspace.store(cohort), matrix_px=1)  # no voxel is read
    volumes = {uid: store.checksum(uid) for uid in sorted(rows["series_uid"].unique())}
    return digest({"clips": rows.drop(columns="n_positive").to_csv(index=False), "volumes": volumes})


def store_of(workspace: Workspace, run: Run) -> Store:
    """Where the volumes of a run's cohort lie."""
    return Store(workspace.store(task(run.task).cohort), run.matrix_px)


FINETUNED, FROZEN_MODE = "finetuned", "frozen"
MODES = (FINETUNED, FROZEN_MODE)
"""The network is trained, or its features are computed once and a head is fitted to them."""
OF_TRAINING: dict[str, Any] = {
    **{"lr": 0.0, "epochs": 1, "steps_per_epoch": 0, "weight_decay": 0.0, "optimizer": "adam"},
    **{"schedule": "constant", "patience": 0, "keep": "last", "accumulate": 1, "loss": "bce"},
    **{"sampling": "balanced", "dropout": 0.0},
    **{field.name: field.default for field in dataclasses.fields(Augmented)},
}
"""Settings that change nothing where a head is fitted to features: their values there, whatever is asked for."""


Exceptions = list[tuple[str, str, str, Any]]
"""Task ("" for all), backbone, setting and its value there."""


def exceptions_of(
    given: Sequence[str], tasks: Sequence[str], backbones: Sequence[str], settings: Collection[str]
) -> Exceptions:
    """Settings of some networks alone, from parameter `exceptions`.

    Args:
        given: `<backbone>.<setting>=<value>`, or `<task>.<backbone>.<setting>=<value>`.
        tasks: that there are.
        backbones: that there are.
        settings: names of those that there are.

    Returns:
        Task ("" for all), backbone, setting and its value, a number where it reads as one.

    Raises:
        ValueError: one is not of that form, or names a network or setting that there is not.

    >>> exceptions_of(["slow_r50.batch_size=3"], ["lidc_nodule"], ["slow_r50"], ["batch_size"])
    [('', 'slow_r50', 'batch_size', 3)]
    """
    found = []
    for text in given:
        left, equals, value = text.partition("=")
        where, _, name = left.rpartition(".")
        at, dot, rest = where.partition(".")
        of = (at, rest) if dot and at in tasks else ("", where)
        if not equals or of[1] not in backbones or name not in settings:
            raise ValueError(
                f"exceptions has {text!r}; give network.setting=value or task.network.setting=value, with a "
                f"network of {', '.join(backbones)} and a setting of {', '.join(sorted(settings))}."
            )
        found.append((*of, name, yaml.safe_load(value)))
    return found


def own_settings(exceptions: Exceptions, arm: tuple[str, str, str]) -> dict[str, Any]:
    """The settings that an arm has for itself."""
    return {
        name: value for at, backbone, name, value in exceptions if at in ("", arm[0]) and backbone == arm[1]
    }
