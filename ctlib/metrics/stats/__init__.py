"""AUROCs of runs and arms, and differences between arms, with intervals and tests.

How patients are drawn is said in `ctlib.metrics.stats.bootstrap`, how intervals over patients, seeds and networks are
made in `ctlib.metrics.stats.crossed_ci`. A run that is missing, failed or unscored makes what it belongs to NaN, with a
reason that names it. All of it is tested on simulated experiments: benchmarks/simulations.py.
"""

from __future__ import annotations

import math

import pandas as pd

from ctlib.metrics.stats.contrasts import MEAN_OF, Contrast, contrasts, effects
from ctlib.metrics.stats.crossed_ci import Interval, for_these, seeds_alike
from ctlib.metrics.stats.decision_curves import decision_curves
from ctlib.metrics.stats.decisions import Decision, decide
from ctlib.metrics.stats.delong import DeLong, delong
from ctlib.metrics.stats.injected_effects import injected
from ctlib.metrics.stats.intervals import Bootstrap, auroc_interval
from ctlib.metrics.stats.learned import without_unlearned
from ctlib.metrics.stats.learning_curve import learning_curves, worth
from ctlib.metrics.stats.multiple_testing import SEEDS_ASKED, holm, seeds_apart
from ctlib.metrics.stats.runs_table import KEY, PLAIN, Arm, arms_of, shown, tasks
from ctlib.metrics.stats.weighted_sums import Combination, combination

__all__ = [
    "MEAN_OF",
    "SEEDS_ASKED",
    "Arm",
    "Bootstrap",
    "Combination",
    "Contrast",
    "DeLong",
    "Decision",
    "Interval",
    "arm_aurocs",
    "arms_of",
    "auroc_interval",
    "combination",
    "contrasts",
    "decide",
    "decision_curves",
    "delong",
    "effects",
    "holm",
    "injected",
    "learning_curves",
    "run_aurocs",
    "seeds_apart",
    "without_unlearned",
    "worth",
]


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
