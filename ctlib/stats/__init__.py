"""AUROCs of runs and arms, and what an init gains over another, with intervals.

Intervals are over patients and seeds; how and why is said in `ctlib.stats.intervals`. A run
that is missing, failed or unscored makes what it belongs to NaN, with a reason that names it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ctlib import tables
from ctlib.metrics import Metric, auroc, study_scores
from ctlib.stats.intervals import (
    Array,
    Bootstrap,
    Exams,
    Interval,
    auroc_interval,
    crossed_interval,
    resampled,
)

__all__ = ["MEAN_OF", "Bootstrap", "Interval", "arm_aurocs", "auroc_interval", "effects", "run_aurocs"]

KEY = ["backbone", "init", "fraction", "seed"]
"""What names a run of a task."""
MEAN_OF = "mean of "
"""How the name of a row that averages networks begins."""
PLAIN = Bootstrap()
"""Intervals as they are made where nothing else is asked for."""


class _Task:
    """The runs of one task, and the exams of the test split that they score."""

    def __init__(self, runs: pd.DataFrame, predictions: pd.DataFrame, rule: str) -> None:
        self.runs = runs
        self._row = {tuple(row[name] for name in KEY): row for row in runs.to_dict("records")}
        chosen = predictions["run_id"].isin(set(runs["run_id"])) & (predictions["split"] == "test")
        wide = study_scores(predictions[chosen], rule).pivot(
            index=["patient_id", "study", "label"], columns="run_id", values="score"
        )
        self.exams = Exams(wide.index.to_frame(index=False))
        self._score = {str(name): wide[name].to_numpy(np.float64) for name in wide}
        self._draws: tuple[Array, Array] | None = None

    def seeds(self, fraction: float) -> list[int]:
        """All seeds that any run of a fraction has: what each arm is held to."""
        return sorted(set(self.runs.loc[self.runs["fraction"] == fraction, "seed"]))

    def problems(self, backbones: Sequence[str], init: str, fraction: float) -> list[str]:
        """One entry a run without an AUROC."""
        keys = [(b, init, fraction, seed) for b in backbones for seed in self.seeds(fraction)]
        whys = [(key, self._why_not(key)) for key in keys]
        return [f"{key[0]} from {init}, seed {key[3]}: {why}" for key, why in whys if why]

    def _why_not(self, key: tuple[str, str, float, int]) -> str:
        if key not in self._row:
            return "not in the grid"
        run_id, status = str(self._row[key]["run_id"]), self._row[key]["status"]
        if status != "finished":
            return f"run {run_id} is {status}"
        if run_id not in self._score:
            return f"run {run_id} has no test predictions"
        absent = int(np.isnan(self._score[run_id]).sum())
        if absent:
            return f"run {run_id} has no score for {absent} of {len(self.exams.label)} test exams"
        return auroc(self.exams.label, self._score[run_id]).reason

    def auroc_of(self, key: tuple[str, str, float, int]) -> Metric:
        """AUROC of one run over the test exams."""
        why = self._why_not(key)
        return (
            Metric(math.nan, why) if why else auroc(self.exams.label, self._score[self._row[key]["run_id"]])
        )

    def arms(self) -> list[tuple[float, str, str]]:
        """Fraction, network and init of every arm, in the order of the grid."""
        rows = self.runs[["fraction", "backbone", "init"]].drop_duplicates()
        return list(rows.itertuples(index=False, name=None))

    def pairs(self, backbones: Sequence[str], init: str, fraction: float) -> Array:
        """`[seeds, exams with disease, exams without]`: pairs, averaged over networks."""
        rows = [[self._row[(b, init, fraction, s)] for b in backbones] for s in self.seeds(fraction)]
        scores = [[self._score[str(row["run_id"])] for row in of_seed] for of_seed in rows]
        return np.stack([np.mean([self.exams.pairs(score) for score in part], axis=0) for part in scores])

    def interval(self, pairs: Array, how: Bootstrap) -> Interval:
        """`crossed_interval` of the mean of `[seeds, exams with disease, exams without]`."""
        values = pairs.mean(axis=(1, 2))
        if self.exams.few:
            return Interval(float(values.mean()), math.nan, math.nan, self.exams.few)
        if self._draws is None:
            self._draws = self.exams.draw(how.n_replicates, np.random.default_rng(how.seed))
        replicates = np.stack([resampled(matrix, self._draws) for matrix in pairs])
        return crossed_interval(values, replicates, how.level)

    def counts(self, fraction: float) -> dict[str, int]:
        """Columns n_patients, n_positive and n_seeds."""
        n_positive = int(self.exams.patient_label.sum())
        return {"n_patients": len(self.exams.patient_label), "n_positive": n_positive} | {
            "n_seeds": len(self.seeds(fraction))
        }


def _tasks(runs: pd.DataFrame, predictions: pd.DataFrame, rule: str) -> dict[str, _Task]:
    twice = runs.duplicated(["task", *KEY])
    if twice.any():
        row = runs.loc[twice].iloc[0]
        raise ValueError(
            f"runs: {row['task']}, {row['backbone']} from {row['init']}, fraction {row['fraction']:g}, seed "
            f"{row['seed']} is there twice (run {row['run_id']}, lr {row['lr']:g}); choose one of them first."
        )
    return {str(name): _Task(part, predictions, rule) for name, part in runs.groupby("task", sort=False)}


def _shown(problems: Sequence[str]) -> str:
    """Why a row is empty: at most three runs by name, the others counted."""
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def run_aurocs(runs: pd.DataFrame, predictions: pd.DataFrame, rule: str = "max") -> pd.DataFrame:
    """Test AUROC over exams of each run.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        rule: of `metrics.study_scores`.

    Returns:
        Columns run_id, task, fraction, backbone, init, seed, auroc, reason; a row a run. Runs
        that failed or are missing have NaN and say so.

    Raises:
        ValueError: two runs differ by nothing that the columns name (a learning rate, say).
    """
    tasks, rows = _tasks(runs, predictions, rule), []
    for row in runs.to_dict("records"):
        found = tasks[row["task"]].auroc_of(tuple(row[name] for name in KEY))
        names = {name: row[name] for name in ("run_id", "task", *KEY)}
        rows.append(names | {"auroc": found.value, "reason": found.reason})
    return pd.DataFrame(rows, columns=["run_id", "task", *KEY, "auroc", "reason"])


def arm_aurocs(
    runs: pd.DataFrame, predictions: pd.DataFrame, how: Bootstrap = PLAIN, rule: str = "max"
) -> pd.DataFrame:
    """Mean test AUROC over seeds of each task, fraction, network and init, with its interval.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.

    Returns:
        Columns task, fraction, backbone, init, auroc, low, high (cut at 0 and 1), n_patients,
        n_positive, n_seeds, reason; one row an arm, NaN and named where a run is missing.

    Raises:
        ValueError: see `run_aurocs`.
    """
    rows = []
    for name, task in _tasks(runs, predictions, rule).items():
        for fraction, backbone, init in task.arms():
            problems = task.problems([backbone], init, fraction)
            found = Interval(math.nan, math.nan, math.nan, _shown(problems))
            if not problems:
                found = task.interval(task.pairs([backbone], init, fraction), how)
            rows.append(
                {"task": name, "fraction": fraction, "backbone": backbone, "init": init}
                | {"auroc": found.value, "low": max(found.low, 0.0), "high": min(found.high, 1.0)}
                | task.counts(fraction)
                | {"reason": found.reason}
            )
    return pd.DataFrame(rows)


def effects(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    baseline: str = "random",
    init: str = "video",
    averaged: Sequence[str] = (),
    how: Bootstrap = PLAIN,
    rule: str = "max",
) -> pd.DataFrame:
    """What an init gains over another in test AUROC, network by network and averaged.

    Both arms are scored on the same draws of patients and paired by seed (same training
    patients, batches and head), so what they share cancels.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        baseline: init that is subtracted.
        init: init that is looked at.
        averaged: networks over which the last row of a task and fraction averages; () for none.
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.

    Returns:
        Table `effects`: a row for each network that the grid holds from both inits, then one
        'mean of N networks'. A missing, failed or unscored run leaves its row and the mean NaN
        and is named in `reason`.

    Raises:
        ValueError: see `run_aurocs`.
    """
    rows = []
    for name, task in _tasks(runs, predictions, rule).items():
        for fraction in sorted(set(task.runs["fraction"])):
            arms = task.arms()
            both = [b for f, b, i in arms if f == fraction and i == init and (f, b, baseline) in arms]
            groups = [(b, [b]) for b in both]
            groups += [(f"{MEAN_OF}{len(averaged)} networks", list(averaged))] if averaged else []
            for title, members in groups:
                rows.append(
                    {
                        "task": name,
                        "fraction": fraction,
                        "backbone": title,
                        "baseline": baseline,
                        "init": init,
                    }
                    | _effect(task, members, baseline, init, fraction, how)
                    | task.counts(fraction)
                    | {"n_networks": len(members)}
                )
    return tables.check(pd.DataFrame(rows), "effects") if rows else tables.empty("effects")


def _effect(
    task: _Task, members: list[str], baseline: str, init: str, fraction: float, how: Bootstrap
) -> dict[str, float | str]:
    """The columns of a row of `effects` that are estimated."""
    row: dict[str, float | str] = {"effect": math.nan, "low": math.nan, "high": math.nan}
    problems, pairs = [], []
    for column, arm in (("auroc_baseline", baseline), ("auroc_init", init)):
        wrong = task.problems(members, arm, fraction)
        problems += wrong
        pairs.append(np.zeros(0) if wrong else task.pairs(members, arm, fraction))
        row[column] = math.nan if wrong else float(pairs[-1].mean())
    if problems:
        return row | {"reason": _shown(problems)}
    found = task.interval(pairs[1] - pairs[0], how)
    return row | {"effect": found.value, "low": found.low, "high": found.high, "reason": found.reason}
