"""Runs of a table and their AUROCs: who scored which exam, and what keeps a run from having one.

A run that is missing, failed or unscored makes what it belongs to NaN, with a reason that names it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.metrics.bootstrap import Bootstrap, Draws, Exams
from ctlib.metrics.crossed_ci import Array, Interval, for_these, seeds_alike
from ctlib.metrics.discrimination import Metric, auroc
from ctlib.metrics.exam_scores import study_scores

KEY = ["backbone", "init", "fraction", "seed"]
"""What names a run of a task; with a column `fold` in table `runs`, the runs of all folds."""
PLAIN: Bootstrap = Bootstrap()
"""Intervals as they are made where nothing else is asked for."""
Arm = tuple[str, str]
"""A network and an init."""
Name = tuple[str, str, float, int]
"""Values of `KEY`."""


def arms_of(backbones: Sequence[str], init: str) -> tuple[Arm, ...]:
    """The arms of some networks from one init.

    >>> arms_of(["penet", "mvit_b"], "video")
    (('penet', 'video'), ('mvit_b', 'video'))
    """
    return tuple((backbone, init) for backbone in backbones)


class Task:
    """The runs of one task, and the exams of the test split that they score.

    `table` holds the exams: patient_id, study, label, fold.

    Args:
        runs: rows of table `runs` of one task; a column `fold` is optional.
        predictions: table `predictions`.
        rule: of `metrics.study_scores`.
        how: draws of the patients; they are made when first asked for, and serve all runs.

    Raises:
        ValueError: a patient is tested in two folds.
    """

    def __init__(self, runs: pd.DataFrame, predictions: pd.DataFrame, rule: str, how: Bootstrap) -> None:
        self.runs, self._how = with_fold(runs), how
        self.folds = sorted(set(self.runs["fold"]))
        rows = self.runs.to_dict("records")
        self._row = {(*(row[name] for name in KEY), row["fold"]): row for row in rows}
        chosen = predictions["run_id"].isin(set(runs["run_id"])) & (predictions["split"] == "test")
        self._studies = study_scores(predictions[chosen], rule)
        self._studies["fold"] = self._studies["run_id"].map(self.runs.set_index("run_id")["fold"])
        one_exam = ["patient_id", "study", "label", "fold"]
        exam = self._studies.groupby(one_exam).ngroup().to_numpy()
        self._where = {str(run): at for run, at in self._studies.groupby("run_id").indices.items()}
        self._exam, self._value = exam, self._studies["score"].to_numpy(np.float64)
        self.table = self._studies[one_exam].drop_duplicates().sort_values(one_exam, ignore_index=True)
        self.exams, self._inside = Exams(self.table), np.full(len(self.table), True)
        self._draws: Draws | None = None
        self._replicates: dict[Name, Array] = {}
        self._influence: dict[Name, Array] = {}

    def fractions(self) -> list[float]:
        """All fractions, in order."""
        return sorted(set(self.runs["fraction"]))

    def seeds(self, fraction: float) -> list[int]:
        """All seeds that any run of a fraction has: what each arm is held to."""
        return sorted(set(self.runs.loc[self.runs["fraction"] == fraction, "seed"]))

    def arms(self, fraction: float | None = None) -> list[tuple[float, str, str]]:
        """Fraction, network and init of every arm, in the order of the grid."""
        rows = self.runs if fraction is None else self.runs[self.runs["fraction"] == fraction]
        names = rows[["fraction", "backbone", "init"]].drop_duplicates()
        return list(names.itertuples(index=False, name=None))

    def problems(self, arms: Sequence[Arm], fraction: float, seeds: Sequence[int]) -> list[str]:
        """One entry a run without an AUROC."""
        found = []
        for backbone, init in arms:
            for seed in seeds:
                why = self._why_not((backbone, init, fraction, seed))
                found += [f"{backbone} from {init}, seed {seed}: {why}"] if why else []
        return found

    def _why_not(self, name: Name) -> str:
        missing = [fold for fold in self.folds if (*name, fold) not in self._row]
        if len(missing) == len(self.folds):
            return "not in the grid"
        if missing:
            return f"fold {missing[0]} is not in the grid"
        reasons = [self.why_no_score(self._row[(*name, fold)]) for fold in self.folds]
        return next(filter(None, reasons), "") or self.exams.one_class()

    def why_no_score(self, row: dict) -> str:
        """Why a run, a row of the table, has no score for all its test exams, or ''."""
        run_id = str(row["run_id"])
        if row["status"] != "finished":
            return f"run {run_id} is {row['status']}"
        if run_id not in self._where:
            return f"run {run_id} has no test predictions"
        members = dict(self.exams.folds)[row["fold"]]
        absent = len(members) - int(np.isfinite(self._value[self._where[run_id]]).sum())
        return f"run {run_id} has no score for {absent} of {len(members)} test exams" if absent else ""

    def auroc_of(self, row: dict) -> Metric:
        """AUROC of one run, a row of the table, over the test exams of its fold."""
        why = self.why_no_score(row)
        if why:
            return Metric(math.nan, why)
        at = self._where[str(row["run_id"])]
        return auroc(self._studies["label"].to_numpy()[at], self._value[at])

    def scores(self, name: Name) -> Array:
        """`[exams]`: each exam's score by the run of its fold."""
        score = np.full(len(self._inside), np.nan)
        for fold in self.folds:
            at = self._where[str(self._row[(*name, fold)]["run_id"])]
            score[self._exam[at]] = self._value[at]
        return score[self._inside]

    def values(self, arms: Sequence[Arm], fraction: float, seeds: Sequence[int]) -> Array:
        """AUROCs, `[arms, seeds]`; every run must have one (see `problems`)."""
        return np.array(
            [[self.exams.auroc(self.scores((*arm, fraction, seed))) for seed in seeds] for arm in arms]
        )

    def replicates(self, arms: Sequence[Arm], fraction: float, seeds: Sequence[int]) -> Array:
        """The same on drawn patients, `[arms, seeds, n_replicates]`."""
        return np.stack([np.stack([self._drawn((*arm, fraction, seed)) for seed in seeds]) for arm in arms])

    def freedom(
        self, arms: Sequence[Arm], fraction: float, seeds: Sequence[int], other: Sequence[Arm] = ()
    ) -> float:
        """Degrees of freedom over patients of the mean AUROC of arms, less that of others where given."""
        influence = self._mean_influence(arms, fraction, seeds)
        if other:
            influence = influence - self._mean_influence(other, fraction, seeds)
        return self.exams.freedom(influence)

    def _mean_influence(self, arms: Sequence[Arm], fraction: float, seeds: Sequence[int]) -> Array:
        names: list[Name] = [(*arm, fraction, seed) for arm in arms for seed in seeds]
        for name in names:
            if name not in self._influence:
                self._influence[name] = self.exams.influence(self.scores(name))
        return np.mean([self._influence[name] for name in names], axis=0)

    def among(self, inside: NDArray[np.bool_]) -> Task:
        """The same runs on some of the exams, `[exams]`; patients are drawn as among all exams.

        A draw that holds no exam of a class has no AUROC: NaN.
        """
        part = copy.copy(self)
        part.table, part._inside = self.table[inside].reset_index(drop=True), inside
        part.exams = Exams(part.table)
        part._draws = part.exams.draws_of(self.draws.times[inside])
        part._replicates, part._influence = {}, {}
        return part

    @property
    def draws(self) -> Draws:
        """Draws of the patients, the same for all runs."""
        if self._draws is None:
            self._draws = self.exams.draw(self._how.n_replicates, np.random.default_rng(self._how.seed))
        return self._draws

    def _drawn(self, name: Name) -> Array:
        if name not in self._replicates:
            self._replicates[name] = self.exams.resampled(self.scores(name), self.draws)
        return self._replicates[name]

    def counts(self, seeds: Sequence[int]) -> dict[str, int]:
        """Columns n_patients, n_positive and n_seeds."""
        n_positive = int(self.exams.patient_label.sum())
        return {"n_patients": len(self.exams.patient_label), "n_positive": n_positive, "n_seeds": len(seeds)}


def with_fold(runs: pd.DataFrame) -> pd.DataFrame:
    """Table `runs` with a column `fold`: what it has, 0 where it has none."""
    fold = runs["fold"].fillna(0) if "fold" in runs else pd.Series(0, index=runs.index)
    return runs.assign(fold=fold.astype(np.int64))


def tasks(
    runs: pd.DataFrame, predictions: pd.DataFrame, rule: str, how: Bootstrap = PLAIN
) -> dict[str, Task]:
    """The tasks of table `runs`, in its order.

    Raises:
        ValueError: two runs differ by nothing that the columns name, or a patient is tested in two folds.
    """
    runs = with_fold(runs)
    twice = runs.duplicated(["task", *KEY, "fold"])
    if twice.any():
        row = runs.loc[twice].iloc[0]
        raise ValueError(
            f"runs: {row['task']}, {row['backbone']} from {row['init']}, fraction {row['fraction']:g}, seed "
            f"{row['seed']} is there twice (run {row['run_id']}, lr {row['lr']:g}); choose one of them first."
        )
    return {str(name): Task(part, predictions, rule, how) for name, part in runs.groupby("task", sort=False)}


def shown(problems: Sequence[str]) -> str:
    """Why a row is empty: at most three runs by name, the others counted."""
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def run_aurocs(runs: pd.DataFrame, predictions: pd.DataFrame, rule: str = "max") -> pd.DataFrame:
    """Test AUROC over exams of each run; of a run of one fold, over the exams of that fold.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        rule: of `metrics.study_scores`.

    Returns:
        Columns run_id, task, fraction, backbone, init, seed, auroc, reason; a row a run. Runs
        that failed or are missing have NaN and say so.

    Raises:
        ValueError: two runs differ by nothing that the columns name (a learning rate, say), or a patient is
            in the test split of two folds.
    """
    rows = []
    by_task = tasks(runs, predictions, rule)
    for task, part in by_task.items():
        for row in part.runs.to_dict("records"):
            found = part.auroc_of(row)
            names = {name: row[name] for name in ("run_id", *KEY)} | {"task": task}
            rows.append(names | {"auroc": found.value, "reason": found.reason})
    table = pd.DataFrame(rows, columns=["run_id", "task", *KEY, "auroc", "reason"])
    return table.set_index("run_id").loc[runs["run_id"]].reset_index()


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
        Columns task, fraction, backbone, init, auroc, low, high (made on the scale of log odds, inside 0
        to 1), seed_sd (spread of the AUROC between seeds), p_seeds (of its being noise of the patients, see
        `seeds_apart`), warning (that a class has few test patients, or ''), n_patients, n_positive, n_seeds,
        reason; one row an arm, NaN and named where a run is missing.

    Raises:
        ValueError: see `run_aurocs`.
    """
    rows = []
    for name, task in tasks(runs, predictions, rule, how).items():
        for fraction, backbone, init in task.arms():
            arm, seeds = [(backbone, init)], task.seeds(fraction)
            found = Interval(math.nan, math.nan, math.nan, shown(task.problems(arm, fraction, seeds)))
            if not found.reason:
                values = task.values(arm, fraction, seeds)
                found = Interval(float(values.mean()), math.nan, math.nan, task.exams.few)
            apart = {"seed_sd": math.nan, "p_seeds": math.nan}
            if not found.reason:
                drawn = task.replicates(arm, fraction, seeds)
                freedom = task.freedom(arm, fraction, seeds)
                estimate = for_these(values, drawn, freedom)
                found = estimate.share_interval(how.level)
                if len(seeds) > 1:
                    apart["seed_sd"] = float(values[0].std(ddof=1))
                    apart["p_seeds"] = seeds_alike(values[0], drawn[0])
            rows.append(
                {"task": name, "fraction": fraction, "backbone": backbone, "init": init}
                | {"auroc": found.value, "low": found.low, "high": found.high}
                | apart
                | {"warning": task.exams.warning}
                | task.counts(seeds)
                | {"reason": found.reason}
            )
    return pd.DataFrame(rows)
