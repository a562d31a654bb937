"""Exams of a study with what the runs said of them, for `browse`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from ctlib.core import Workspace, tables
from ctlib.datasets import Cohort, Store, load_tables, task
from ctlib.visualization.viewer.scene import Run, Scene

if TYPE_CHECKING:
    from ctlib.visualization.slices import CohortTables


def exam_scores(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    task: str,
    fraction: float,
    backbones: Sequence[str] = (),
    split: str = "test",
) -> pd.DataFrame:
    """Score of each clip by init, the mean over the finished runs of an arm.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        task: task.
        fraction: share of the training patients whose labels were used.
        backbones: networks; () for all.
        split: val or test.

    Returns:
        study, clip, init, score, study_label.
    """
    used = runs[(runs["task"] == task) & (runs["fraction"] == fraction) & (runs["status"] == "finished")]
    used = used[used["backbone"].isin(list(backbones))] if backbones else used
    rows = predictions[predictions["split"] == split].merge(used[["run_id", "init"]], on="run_id")
    means = rows.groupby(["study", "clip", "init"], as_index=False)[["score", "study_label"]].mean()
    return means.astype({"study_label": "int64"})


def disagreement(scores: pd.DataFrame, series: pd.DataFrame, inits: Sequence[str]) -> pd.DataFrame:
    """One row an exam: the highest clip score by each of two inits, and how far they are apart.

    Args:
        scores: from `exam_scores`.
        series: table `series`; the first series of a study stands for it.
        inits: two inits.

    Returns:
        series_uid, patient_id, label, a column `score_<init>` each, `disagreement`; largest first.
    """
    first, second = (f"score_{init}" for init in inits)
    exams = scores.groupby(["study", "init"])["score"].max().unstack("init")[list(inits)]
    exams = exams.set_axis([first, second], axis=1).join(scores.groupby("study")["study_label"].max())
    names = series.drop_duplicates("study_uid").set_index("study_uid")[["series_uid", "patient_id"]]
    table = names.join(exams, how="inner").reset_index(drop=True).rename(columns={"study_label": "label"})
    table["disagreement"] = (table[first] - table[second]).abs()
    ordered = table[["series_uid", "patient_id", "label", first, second, "disagreement"]]
    return ordered.sort_values("disagreement", ascending=False, kind="stable").reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Exams:
    """Scenes of a cohort's stored volumes by series_uid.

    Args:
        store: the volumes.
        cohort: tables `series` and `slices`.
        hu_window: name of the HU window.
        clips: table `clips`.
        scores: from `exam_scores`; None for none.
        table: one row an exam, from `disagreement`.
    """

    store: Store
    cohort: CohortTables
    hu_window: str
    clips: pd.DataFrame
    scores: pd.DataFrame | None = None
    table: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __call__(self, series_uid: str) -> Scene:
        """The scene of an exam: volume, slice labels, clips, and the scores of each init."""
        from ctlib.visualization.slices import stored  # here: it brings matplotlib

        labels = _labels(self.cohort, series_uid)
        volume = stored(self.store, series_uid)
        runs = self._runs(series_uid)
        return Scene(volume, self.hu_window, labels=labels, clips=self.clips, runs=runs)

    def _runs(self, series_uid: str) -> dict[str, Run]:
        if self.scores is None:
            return {}
        series = self.cohort.series.sort_values(["patient_id", "study_uid", "series_uid"])
        study = series.loc[series["series_uid"] == series_uid, "study_uid"].iloc[0]
        siblings = list(series.loc[series["study_uid"] == study, "series_uid"])
        n_clips = self.clips.groupby("series_uid").size()
        # Clips are counted over all series of a study (`runs.labelled_clips`).
        before = int(sum(n_clips[uid] for uid in siblings[: siblings.index(series_uid)]))
        span = list(range(before, before + int(n_clips[series_uid])))
        own = self.scores[(self.scores["study"] == study) & self.scores["clip"].isin(span)]
        found = own.pivot(index="clip", columns="init", values="score").reindex(span)
        return {str(init): Run(found[init].to_numpy()) for init in found if found[init].notna().all()}


def exams_of(
    work: Workspace,
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    task_name: str,
    backbones: Sequence[str],
    inits: Sequence[str],
    fraction: float | None = None,
    split: str = "test",
) -> Exams:
    """The exams of a task with the scores of two inits, those on which they differ most first.

    Args:
        work: where tables and volumes of the task's cohort lie.
        runs: table `runs`.
        predictions: table `predictions`.
        task_name: name of the task.
        backbones: networks whose scores are averaged; () for all.
        inits: two inits.
        fraction: share of the training patients; None for the largest that was run.
        split: val or test.

    Raises:
        MissingInput: a table of the cohort is missing.
        ValueError: no finished run of one of the inits has scores there.
    """
    asked = task(task_name)
    cohort = load_tables(work, asked.cohort)
    clips = tables.read("clips", work.require(work.table("clips", asked.cohort), "01_explore_data"))
    if fraction is None:
        fraction = float(runs.loc[runs["task"] == task_name, "fraction"].max())
    scores = exam_scores(runs, predictions, task_name, fraction, backbones, split)
    absent = [init for init in inits if init not in set(scores["init"])]
    if absent:
        raise ValueError(
            f"exams_of: no finished run of {task_name} from {absent[0]} at fraction {fraction:g}."
        )
    table = disagreement(scores, cohort.series, inits)
    folder = work.store(asked.cohort)
    shape = Store(folder, 1).record(table["series_uid"].iloc[0])["shape"]
    return Exams(Store(folder, shape[-1]), cohort, asked.hu_window, clips, scores, table)


def acquired(cohort: Cohort, hu_window: str, clips: pd.DataFrame, series_uid: str = "") -> Scene:
    """The scene of an exam at its own matrix, with slice labels, clips and readers' contours.

    Args:
        cohort: a cohort whose files were read.
        hu_window: name of the HU window.
        clips: table `clips`.
        series_uid: "" for the first exam with marks; else the first with disease; else the first.

    Raises:
        CohortError: its files cannot be read any more.
    """
    if not series_uid:
        ill = cohort.series.loc[cohort.series["label"].fillna(0) == 1, "series_uid"]
        known = [*cohort.marks["series_uid"].iloc[:1], *ill.iloc[:1], *cohort.series["series_uid"].iloc[:1]]
        series_uid = str(known[0])
    labels = _labels(cohort, series_uid)
    return Scene(cohort.volume(series_uid), hu_window, cohort.marks, labels, clips)


def _labels(cohort: CohortTables, series_uid: str) -> list[int]:
    own = cohort.slices[cohort.slices["series_uid"] == series_uid]
    return list(own.sort_values("slice")["label"])
