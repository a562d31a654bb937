"""Which exams are scrolled through: some of both classes, or those on which two inits disagree most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from ctlib.core import counted
from ctlib.datasets import Cohort, Task
from ctlib.io import Volume
from ctlib.visualization.figures.cohorts import CohortTables
from ctlib.visualization.figures.scroller import ClipScores, ScrollerExam, exam_of
from ctlib.visualization.figures.slices import in_turn

SPLIT = "test"
"""Exams whose scores are looked at: none of the runs saw them."""


def sample_exams(
    cohort: CohortTables,
    volume: Callable[[str], Volume],
    clips: pd.DataFrame,
    hu_window: str,
    n: int = 6,
    marks: pd.DataFrame | None = None,
) -> list[ScrollerExam]:
    """Exams with and without disease in turn, as long as there are both.

    Args:
        cohort: its tables.
        volume: a series of the cohort, as acquired: `Cohort.volume`, or `pictures.stored` of a store.
        clips: table `clips`.
        hu_window: name of the HU window that is shown first.
        n: exams at most.
        marks: table `marks`; contours are shown where they are.
    """
    return [
        _exam(cohort, series_uid, volume, clips, hu_window=hu_window, marks=marks)
        for series_uid in in_turn(cohort.series)[:n]
    ]


def samples(
    cohorts: Mapping[str, Cohort], clips: Mapping[str, pd.DataFrame], tasks: Mapping[str, Task], n: int = 3
) -> list[ScrollerExam]:
    """`sample_exams` of several cohorts, each in the HU window of its task.

    Args:
        cohorts: cohorts by name.
        clips: tables `clips` by name.
        tasks: tasks by the name of their cohort.
        n: exams a cohort at most.
    """
    return [
        exam
        for name, cohort in cohorts.items()
        for exam in sample_exams(cohort, cohort.volume, clips[name], tasks[name].hu_window, n, cohort.marks)
    ]


def disagreed_exams(
    cohort: CohortTables,
    volume: Callable[[str], Volume],
    clips: pd.DataFrame,
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    inits: tuple[str, str],
    hu_window: str,
    n: int = 6,
    marks: pd.DataFrame | None = None,
) -> list[ScrollerExam]:
    """The test exams on whose clips two inits disagree most, with the scores of both.

    A score is the mean over the runs of the init, and the disagreement of an exam the largest difference
    of such means over its clips. Runs that differ in anything but the init should be passed in pairs.

    Args:
        cohort: its tables.
        volume: see `sample_exams`.
        clips: table `clips`.
        runs: table `runs`, of one task; the caller picks the networks and the fraction.
        predictions: table `predictions`.
        inits: the two.
        hu_window: name of the HU window that is shown first.
        n: exams at most.
        marks: table `marks`; contours are shown where they are.

    Returns:
        Largest disagreement first; empty where not both inits have scores.
    """
    known = runs.loc[runs["init"].isin(inits), ["run_id", "init"]]
    scores = predictions[predictions["split"] == SPLIT].merge(known, on="run_id")
    means = scores.groupby(["study", "clip", "init"])["score"].mean().unstack("init").reindex(columns=inits)
    apart = (means[inits[1]] - means[inits[0]]).abs().groupby("study").max().dropna()
    n_runs = known[known["run_id"].isin(scores["run_id"])]["init"].value_counts()
    exams: list[ScrollerExam] = []
    for study in apart.sort_values(ascending=False, kind="stable").index:
        series = cohort.series.loc[cohort.series["study_uid"] == study, "series_uid"]
        if len(series) != 1 or len(exams) == n:  # clips of several series are counted through: not shown
            continue
        own = clips[clips["series_uid"] == series.iloc[0]]["clip"].sort_values()
        by_clip = means.loc[study].reindex(own)
        told = [
            ClipScores(f"{i}, mean of {counted(n_runs[i], 'run')}", by_clip[i].tolist(), i) for i in inits
        ]
        exams.append(
            _exam(cohort, series.iloc[0], volume, clips, hu_window=hu_window, marks=marks, scores=told)
        )
    return exams


def _exam(
    cohort: CohortTables, series_uid: str, volume: Callable[[str], Volume], clips: pd.DataFrame, **more: Any
) -> ScrollerExam:
    row = cohort.series[cohort.series["series_uid"] == series_uid].iloc[0]
    label = "no label" if pd.isna(row["label"]) else "disease" if row["label"] == 1 else "no disease"
    title = f"{row['cohort']} {series_uid.removeprefix('series-')[:6]}, {label}"
    upright = (int(row["rows_px"]), int(row["cols_px"]))
    return exam_of(title, volume(series_uid), cohort.slices, clips, marked_px=upright, **more)
