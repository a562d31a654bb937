"""Exams of a study with what the runs said of them, for `browse`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from ctlib.figures.cohorts import CohortTables
from ctlib.figures.pictures import stored
from ctlib.store import Store
from ctlib.viewer.scene import Run, Scene


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
    """

    store: Store
    cohort: CohortTables
    hu_window: str
    clips: pd.DataFrame
    scores: pd.DataFrame | None = field(default=None)

    def __call__(self, series_uid: str) -> Scene:
        """The scene of an exam: volume, slice labels, clips, and the scores of each init."""
        slices = self.cohort.slices
        labels = slices[slices["series_uid"] == series_uid].sort_values("slice")["label"]
        scene = Scene(stored(self.store, series_uid), self.hu_window, None, list(labels), self.clips)
        return replace(scene, runs=self._runs(series_uid))

    def _runs(self, series_uid: str) -> dict[str, Run]:
        if self.scores is None:
            return {}
        series = self.cohort.series.sort_values(["patient_id", "study_uid", "series_uid"])
        study = series.loc[series["series_uid"] == series_uid, "study_uid"].iloc[0]
        siblings = list(series.loc[series["study_uid"] == study, "series_uid"])
        n_clips = self.clips.groupby("series_uid").size()
        # Clips are counted over all series of a study (`runs.labelled_clips`).
        before = int(sum(n_clips[uid] for uid in siblings[: siblings.index(series_uid)]))
        span = range(before, before + int(n_clips[series_uid]))
        own = self.scores[(self.scores["study"] == study) & self.scores["clip"].isin(list(span))]
        found = own.pivot(index="clip", columns="init", values="score").reindex(list(span))
        return {str(init): Run(found[init].to_numpy()) for init in found if found[init].notna().all()}
