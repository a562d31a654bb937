"""What the analysis would see: runs of one init against themselves, with effects of a known size added.

Half of an init's seeds is compared with the other half (A/A): there is nothing to see. Then the scores of one
half are moved so that the AUROC of each of its runs rises by just so much, and the comparison is made again
by the estimator of `ctlib.metrics.comparisons`. How often its interval lies above 0 is what it sees of such an
effect.

Seeds are split anew each time. With fewer than `COMMON` seeds there are too few ways to do so, and each
network is split by itself: what seeds do to all networks alike is then averaged over them, and a mean over
networks sees a little more than it should. Patients are not drawn anew: runs of one init that differ by their
seed share what patients do to both, so the difference between halves already holds all that patients add to
it, and a draw would add it twice.

A half has fewer seeds than the study. `all_seeds` says what two sides with all seeds each would see: the
power of Student's t with S - 1 degrees of freedom, where the variance of the difference is 2 / S of that
between seeds (of the mean over the networks that are averaged).

Not in it: a real init also changes which patients are hard, which makes its effect harder to see; and runs of
a real comparison are paired by seed, which makes it easier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from ctlib.metrics.bootstrap import Bootstrap
from ctlib.metrics.crossed_ci import Array, Estimate, for_these, freedom_of, student, t_below
from ctlib.metrics.discrimination import auroc
from ctlib.metrics.runs_table import PLAIN, Task, arms_of, shown, tasks

SHIFTS = (0.0, 0.03, 0.06, 0.12)
"""Differences in AUROC that are injected."""
SPLITS = 200
"""Times that seeds are split."""
COMMON = 5
"""Seeds from which on all networks are split alike: there are 30 ways then, and 6 with four seeds."""
DRAWS = 2000
"""Draws of the patients at most: a standard error over them is known to 1.6 %."""
ONE = "one network"
"""The row that takes a single network, each in turn."""
COLUMNS = ["task", "fraction", "networks", "shift", "injected", "seen", "estimate", "all_seeds"]
COUNTS = ["n_splits", "n_half", "n_patients", "n_positive", "n_seeds", "n_networks", "level", "reason"]


def shifted(labels: Array, scores: Array, shift: float) -> Array:
    """Scores whose AUROC is higher by as much as is asked, to the nearest pair of exams.

    Scores become normal quantiles of their ranks, and those of exams with disease are moved up together.

    Args:
        labels: `[n]`, 0 or 1, both of them.
        scores: `[n]`, any unit; higher means disease.
        shift: of the AUROC, in [0, 1].

    Returns:
        `[n]` normal quantiles; of an AUROC that cannot rise so far, those with the AUROC 1.

    >>> labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.3, 0.8])
    >>> auroc(labels, scores).value, auroc(labels, shifted(labels, scores, 0.25)).value
    (0.75, 1.0)
    """
    from scipy.stats import rankdata  # here: a viewer's first volume need not wait for it

    normal = ndtri((rankdata(scores) - 0.5) / len(scores))
    target = min(auroc(labels, scores).value + shift, 1.0)

    def reached(by: float) -> float:
        return auroc(labels, normal + by * labels).value

    low, high = 0.0, float(np.ptp(normal)) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < target else (low, middle)
    nearest = min((low, high), key=lambda by: abs(reached(by) - target))
    return normal + nearest * labels


@dataclass(frozen=True)
class _Runs:
    """The runs of one init, as they are and with each shift, and what counts them.

    Args:
        values: `[shifts, networks, seeds]`, AUROCs.
        replicates: `[shifts, networks, seeds, n_replicates]`.
        patients: degrees of freedom of a variance over patients.
    """

    values: Array
    replicates: Array
    patients: float

    @classmethod
    def of(
        cls, task: Task, networks: Sequence[str], init: str, fraction: float, shifts: Sequence[float]
    ) -> _Runs:
        """Of a task whose runs all have an AUROC."""
        names = [[(network, init, fraction, seed) for seed in task.seeds(fraction)] for network in networks]
        moved = [[[_moved(task, task.scores(name), by) for name in row] for row in names] for by in shifts]
        exams = task.exams
        values = [[[exams.auroc(score) for score in row] for row in part] for part in moved]
        drawn = [[[exams.resampled(score, task.draws) for score in row] for row in part] for part in moved]
        arms = [(network, init) for network in networks]
        return cls(np.array(values), np.array(drawn), task.freedom(arms, fraction, task.seeds(fraction)))

    def network(self, place: int) -> _Runs:
        """Of one network."""
        return replace(self, values=self.values[:, [place]], replicates=self.replicates[:, [place]])

    def between(self, alone: bool) -> float:
        """Variance between seeds: of one network (mean over them), or of the mean over networks."""
        values = self.values[0] if alone else self.values[0].mean(axis=0, keepdims=True)
        return float(values.var(axis=1, ddof=1).mean())

    def estimate(self, shift: int, order: Array) -> Estimate:
        """The analysis of one half, shifted, against the other.

        Args:
            shift: its place.
            order: `[networks, 2 k]`, seeds of the first half and of the second.
        """
        half = order.shape[1] // 2
        networks = np.arange(len(order))[:, None]
        first, second = order[:, :half], order[:, half:]
        gain = self.values[shift][networks, first] - self.values[0][networks, second]
        drawn = self.replicates[shift][networks, first] - self.replicates[0][networks, second]
        return for_these(gain, drawn, self.patients)


def _moved(task: Task, score: Array, shift: float) -> Array:
    """Scores with a shift in each fold; as they are without one."""
    if not shift:
        return score
    found = np.empty_like(score)
    for _, members in task.exams.folds:
        found[members] = shifted(task.exams.label[members], score[members], shift)
    return found


def injected(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    init: str,
    networks: Sequence[str],
    how: Bootstrap = PLAIN,
    rule: str = "max",
    shifts: Sequence[float] = SHIFTS,
) -> pd.DataFrame:
    """How often the analysis sees effects of a known size; see the module.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        init: whose runs are split by seed.
        networks: that are averaged; those that the grid lacks from the init are left out.
        how: seed and level, and at most `DRAWS` replicates.
        rule: of `metrics.study_scores`.
        shifts: in AUROC, the first of them 0.

    Returns:
        For each task and fraction a row for each shift of the mean over the networks and of one network:
        task, fraction, networks, shift, injected (mean rise of the AUROC: less than the shift where pairs of
        exams are few or the AUROC is near 1), seen (share of splits whose interval lies above 0; without a
        shift, on either side of it), estimate (mean effect), all_seeds (the same share with all seeds on each
        side), n_splits, n_half (seeds a side), n_patients, n_positive, n_seeds, n_networks, level, reason.

    Raises:
        ValueError: see `run_aurocs`, or the first shift is not 0.
    """
    if not shifts or shifts[0] != 0:
        raise ValueError(f"shifts are {list(shifts)}; the first must be 0: it is the half that is not moved.")
    how = replace(how, n_replicates=min(how.n_replicates, DRAWS))
    own = runs[(runs["init"] == init) & runs["backbone"].isin(networks)]
    rows: list[dict[str, Any]] = []
    for name, task in tasks(own, predictions, rule, how).items():
        for fraction in task.fractions():
            there = {backbone for _, backbone, _ in task.arms(fraction)}
            members = [backbone for backbone in networks if backbone in there]
            part = _rows(task, members, init, fraction, how, shifts)
            rows += [{"task": name, "fraction": fraction} | row for row in part]
    return pd.DataFrame(rows, columns=[*COLUMNS, *COUNTS])


def _rows(
    task: Task, networks: list[str], init: str, fraction: float, how: Bootstrap, shifts: Sequence[float]
) -> list[dict[str, Any]]:
    """The rows of a task and fraction."""
    seeds, n = task.seeds(fraction), len(networks)
    few = "" if len(seeds) > 1 else "one seed; two are needed to compare runs of an init with themselves"
    reason = shown(task.problems(arms_of(networks, init), fraction, seeds)) or task.exams.few or few
    names = [f"mean of {n} networks", ONE] if n > 1 else [networks[0]]
    fixed = task.counts(seeds) | {"n_half": len(seeds) // 2, "level": how.level, "reason": reason}
    if reason:
        blank = dict.fromkeys(("injected", "seen", "estimate", "all_seeds"), math.nan) | {"n_splits": 0}
        return [{"networks": name, "shift": shift} | blank | fixed for name in names for shift in shifts]
    known = _Runs.of(task, networks, init, fraction, shifts)
    rng = np.random.default_rng([how.seed, 2])
    shape = (SPLITS, 1 if len(seeds) >= COMMON else n, len(seeds))
    orders = rng.permuted(np.broadcast_to(np.arange(len(seeds)), shape), axis=2)[..., : 2 * (len(seeds) // 2)]
    orders = np.broadcast_to(orders, (SPLITS, n, orders.shape[2]))
    rows = []
    for name in names:
        alone = name == ONE
        tried = [(known.network(i % n), o[[i % n]]) if alone else (known, o) for i, o in enumerate(orders)]
        fixed |= {"networks": name, "n_networks": 1 if alone else n, "n_splits": SPLITS}
        for place, shift in enumerate(shifts):
            risen = float((known.values[place] - known.values[0]).mean())
            seen = _seen([half.estimate(place, order) for half, order in tried], shift, how.level)
            power = _power(risen, known.between(alone), len(seeds), how.level, known.patients)
            rows.append({"shift": shift, "injected": risen, "all_seeds": power} | seen | fixed)
    return rows


def _seen(estimates: list[Estimate], shift: float, level: float) -> dict[str, float]:
    """Columns seen and estimate."""
    intervals = [estimate.interval(level) for estimate in estimates]
    seen = [found.low > 0 or (shift == 0 and found.high < 0) for found in intervals]
    return {"seen": float(np.mean(seen)), "estimate": float(np.mean([found.value for found in intervals]))}


def _power(shift: float, between: float, n_seeds: int, level: float, patients: float) -> float:
    """Chance that two sides of all seeds each show a shift; 1 - level where there is none.

    >>> round(_power(0.08, 0.005, 16, 0.95, math.inf), 3)  # a paired t-test of 16 pairs, effect size 0.8
    0.848
    """
    if not between > 0:
        return math.nan
    variance = 2 * between / n_seeds
    freedom = freedom_of([(variance, n_seeds - 1)], 0.0, patients)
    least, moved = student(freedom, (1 + level) / 2), shift / math.sqrt(variance)
    below = t_below(-least, freedom, moved) if shift == 0 else 0.0
    return 1 - t_below(least, freedom, moved) + below
