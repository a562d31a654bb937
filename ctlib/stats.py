"""Intervals of AUROCs and of differences between inits.

What may vary, and how it is taken into account:

* Patients. The test patients are drawn with replacement, separately among those with and
  without disease, all exams of a patient together, and the same draw serves every run
  (stratified cluster bootstrap; Efron and Tibshirani 1993, chapter 8). Exams drawn one by one
  would count a patient's exams as independent and give intervals that are too short.
* Seeds. A seed draws the training patients of a fraction, the order of clips and the head.
  A bootstrap of three seeds sees only 2/3 of their variance and cannot know how uncertain that
  variance is. So seeds are handled as radiology handles readers: random, crossed with patients
  (Obuchowski and Rockette 1995, doi:10.1080/03610919508813243), with the degrees of freedom of
  Hillis (2007, doi:10.1002/sim.2532). The variance of a mean over S seeds is

      s^2 / S + max(c, 0)

  s^2 the variance between seeds (S - 1 in the denominator; it holds the seeds' share of the
  patients' noise too), c the covariance over patients between two seeds, from the bootstrap.
  The interval is mean +- t sqrt(variance), with (variance)^2 / ((s^2 / S)^2 / (S - 1)) degrees
  of freedom: S - 1 where seeds dominate, many where patients do.
* Not taken into account: other networks (the average is over the networks named), other video
  weights (each network was pretrained once), other cohorts.

With one seed nothing is known of the variation between seeds, and the interval is over
patients only, for the networks as they were trained; `n_seeds` says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from ctlib import tables
from ctlib.metrics import Metric, auroc, study_scores

KEY = ["backbone", "init", "fraction", "seed"]
"""What names a run of a task."""
MEAN_OF = "mean of "
"""How the name of a row that averages networks begins."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval; NaN and why where there is none."""

    value: float
    low: float
    high: float
    reason: str = ""

    @property
    def half_width(self) -> float:
        """Half of high - low."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Args:
        n_replicates: draws of the patients.
        seed: of the draws; the same draws serve all runs of a task.
        level: of the interval, in (0, 1).
    """

    n_replicates: int = 10_000
    seed: int = 0
    level: float = 0.95


class Exams:
    """The test exams that every run of a task scores, and the draws of their patients.

    Args:
        scores: columns patient_id and label; one row an exam, in the order of the score
            vectors that are given later.
    """

    def __init__(self, scores: pd.DataFrame) -> None:
        self.label = scores["label"].to_numpy(np.int64)
        self._patient, patients = pd.factorize(scores["patient_id"], sort=True)
        self.patient_label = np.zeros(len(patients), np.int64)
        np.maximum.at(self.patient_label, self._patient, self.label)

    @property
    def few(self) -> str:
        """Why patients cannot be drawn, or ''."""
        n_positive = int(self.patient_label.sum())
        n_negative = len(self.patient_label) - n_positive
        if min(n_positive, n_negative) < 2:
            return f"{n_positive} test patients with disease and {n_negative} without; two of each are needed"
        return ""

    def draw(self, n_replicates: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """How often each exam with and each exam without disease is drawn.

        Returns:
            `[n_replicates, exams with disease]` and `[n_replicates, exams without]`.
        """
        counts = np.zeros((n_replicates, len(self.patient_label)))
        for label in (0, 1):
            stratum = np.flatnonzero(self.patient_label == label)
            share = np.full(len(stratum), 1 / len(stratum))
            counts[:, stratum] = rng.multinomial(len(stratum), share, size=n_replicates)
        exams = counts[:, self._patient]
        return exams[:, self.label == 1], exams[:, self.label == 0]

    def pairs(self, score: Array) -> Array:
        """`[exams with disease, exams without]`: 1 in the right order, 0.5 equal, 0 wrong.

        The AUROC is its mean, and stays linear in it when exams are weighted: runs are averaged
        here, once, and not in every replicate.
        """
        positive, negative = score[self.label == 1, None], score[None, self.label == 0]
        return (positive > negative) + 0.5 * (positive == negative)


def resampled(pairs: Array, draws: tuple[Array, Array]) -> Array:
    """AUROC of each replicate, `[n_replicates]`, from `Exams.pairs` and `Exams.draw`."""
    positive, negative = draws
    weight = positive.sum(axis=1) * negative.sum(axis=1)
    return np.einsum("bj,bj->b", positive @ pairs, negative) / weight


def auroc_interval(scores: pd.DataFrame, n_replicates: int, seed: int, level: float = 0.95) -> Interval:
    """AUROC of one run over exams, with the percentile interval over patients.

    Args:
        scores: result of `metrics.study_scores` for one run and one split.
        n_replicates: draws of the patients.
        seed: of the draws.
        level: of the interval, in (0, 1).

    Returns:
        NaN with a reason where the AUROC does not exist; a value without ends where there are
        fewer than two patients of a class, or where all pairs are in the right order (every
        replicate is then 1, which says nothing about the next patient).

    Raises:
        ValueError: the table holds more than one run or split.
    """
    if len(scores[["run_id", "split"]].drop_duplicates()) > 1:
        raise ValueError("auroc_interval takes the scores of one run and one split; select them first.")
    metric = auroc(scores["label"], scores["score"])
    exams = Exams(scores)
    reason = metric.reason or exams.few
    if not reason and metric.value in (0.0, 1.0):
        reason = f"the AUROC is {metric.value:g} in every draw of the patients"
    if reason:
        return Interval(metric.value, math.nan, math.nan, reason)
    draws = exams.draw(n_replicates, np.random.default_rng(seed))
    replicates = resampled(exams.pairs(scores["score"].to_numpy(np.float64)), draws)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(metric.value, float(low), float(high))


def crossed_interval(values: Array, replicates: Array, level: float = 0.95) -> Interval:
    """Interval of a mean over seeds, both seeds and patients random (see the module).

    Args:
        values: `[S]`, one a seed, on all patients.
        replicates: `[S, n_replicates]`, the same on drawn patients, the same draws for all.
        level: of the interval, in (0, 1).

    Returns:
        The interval; without ends where nothing varies, which is no certainty.

    >>> rng = np.random.default_rng(0)
    >>> patients = rng.normal(0, 0.03, size=2000)
    >>> found = crossed_interval(np.array([0.1, 0.1, 0.1]), np.tile(0.1 + patients, (3, 1)))
    >>> round(found.half_width, 2)  # patients only: 1.96 * 0.03
    0.06
    >>> found = crossed_interval(np.array([0.0, 0.1, 0.2]), np.zeros((3, 2000)))
    >>> round(found.half_width, 3)  # seeds only: Student's t, 4.303 * 0.1 / sqrt(3)
    0.248
    """
    n_seeds = len(values)
    covariance = np.atleast_2d(np.cov(replicates))
    if n_seeds == 1:
        between, shared = 0.0, float(covariance[0, 0])
    else:
        between = float(np.var(values, ddof=1)) / n_seeds
        shared = max(float(covariance[~np.eye(n_seeds, dtype=bool)].mean()), 0.0)
    mean, variance, tail = float(np.mean(values)), between + shared, (1 + level) / 2
    if variance <= 0:
        return Interval(mean, math.nan, math.nan, "no draw of patients or seeds changes the value")
    if between > 0:
        quantile = float(stdtrit(variance**2 / (between**2 / (n_seeds - 1)), tail))
    else:
        quantile = float(ndtri(tail))
    return Interval(mean, mean - quantile * math.sqrt(variance), mean + quantile * math.sqrt(variance))


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
    runs: pd.DataFrame, predictions: pd.DataFrame, how: Bootstrap = Bootstrap(), rule: str = "max"
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
    how: Bootstrap = Bootstrap(),
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
