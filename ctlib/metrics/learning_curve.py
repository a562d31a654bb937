"""Learning curves, and how many labelled exams an init is worth.

The error 1 - AUROC falls with the number n of training exams about as a power law, error = a n^-b + c
(Hestness et al. 2017, arXiv:1712.00409; Viering and Loog 2023, doi:10.1109/TPAMI.2022.3220744). Two or three
fractions cannot tell c from b, so c is 0 there, and a and b are those of a straight line of log error on
log n (through both points where there are two); from four on all three are fitted by least squares of the
error.

One side is worth r times as many exams as another where, trained on n exams, it reaches the AUROC that the
other's curve reaches with r n. There is no such number where the other's curve does not rise, or ends below.
The interval of r is made of draws of all AUROCs of both sides at once: what the patients do to them (normal,
with the covariance that runs of two seeds share over the draws of patients) plus what the seeds do (Student's
t with S - 1 degrees of freedom in the directions in which seeds differ). In a draw whose curve never gets
there, r is infinite; where the curve does not rise and lies above all along, 0. So an interval may end at
infinity: then the data do not say how much it is worth at most, the curve is too flat to read a number from,
and only the lower end is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ctlib.metrics.bootstrap import Bootstrap
from ctlib.metrics.crossed_ci import Array, Interval, for_these
from ctlib.metrics.runs_table import PLAIN, Arm, Task, shown, tasks

EXPONENTS = np.geomspace(0.02, 4.0, 200)
"""Values of b that are tried where c is fitted."""
FURTHEST = 1000.0
"""Ratios beyond are given as infinite: no curve of a few fractions reaches so far."""
WITHIN = f"with {FURTHEST:g} times as many exams"
FLAT = "its AUROC does not rise with the number of exams"
OPEN = "its interval has no upper end: the second side's curve is too flat to say how much at most"
PERFECT = "it orders all exams rightly at some fraction, and has no error to fall"


def power_law(n: Array, error: Array) -> tuple[Array, Array, Array]:
    """a, b and c of error = a n^-b + c, of many curves at once.

    Args:
        n: `[k]`, exams; two values at least that differ.
        error: `[..., k]`, above 0.

    Returns:
        `[...]` each. b (below four points) or a (from four on) is not above 0 where the error does not fall.

    >>> a, b, c = power_law(np.array([10.0, 100.0]), np.array([0.4, 0.2]))
    >>> round(float(b), 3), float(c), round(float(a * 1000**-b), 3)
    (0.301, 0.0, 0.1)
    """
    if len(n) < 4:
        x, y = np.log(n), np.log(error)
        x = x - x.mean()
        b = -(y @ x) / (x @ x)
        return np.exp(y.mean(axis=-1) + b * np.log(n).mean()), b, np.zeros_like(b)
    best: Array = np.full((4, *error.shape[:-1]), np.inf)
    for b in EXPONENTS:
        x = n**-b
        a = ((error - error.mean(axis=-1, keepdims=True)) @ (x - x.mean())) / (
            (x - x.mean()) @ (x - x.mean())
        )
        c = error.mean(axis=-1) - a * x.mean()
        a = np.where(c < 0, (error @ x) / (x @ x), a)
        c = np.maximum(c, 0.0)
        loss = ((a[..., None] * x + c[..., None] - error) ** 2).sum(axis=-1)
        best = np.where(loss < best[0], np.stack([loss, a, np.full_like(a, b), c]), best)
    return best[1], best[2], best[3]


def exams_for(error: Array, a: Array, b: Array, c: Array, lowest: Array | float = 0.0) -> Array:
    """Exams at which a curve has an error: infinite where it never gets so low.

    Args:
        error: that is asked for.
        a, b, c: of `power_law`.
        lowest: error that a curve which does not rise had at its best: above it, no exams are needed.

    >>> float(exams_for(np.array(0.1), np.array(0.8), np.array(0.5), np.array(0.0)).round())
    64.0
    """
    above = np.maximum(error - c, 0.0)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        found = np.where(above > 0, np.exp((np.log(a) - np.log(above)) / b), np.inf)
    return np.where((a > 0) & (b > 0), found, np.where(error < lowest, np.inf, 0.0))


class _Curve:
    """AUROCs of one side at several fractions, averaged over its networks."""

    def __init__(self, task: Task, arms: Sequence[Arm], fractions: list[float], seeds: list[int]) -> None:
        self.problems = [why for f in fractions for why in task.problems(arms, f, seeds)]
        self.reason = shown(self.problems)
        rows = task.runs[
            [arm in set(arms) for arm in zip(task.runs["backbone"], task.runs["init"], strict=True)]
        ]
        exams = rows.groupby("fraction")["n_studies"].mean().reindex(fractions)
        self.n = exams.to_numpy(np.float64, na_value=np.nan)
        if not self.reason and not (np.isfinite(self.n).all() and (self.n > 0).all()):
            self.reason = "table runs does not say how many studies its runs were trained on"
        self._task, self._arms, self._fractions, self._seeds = task, arms, fractions, seeds

    def values(self) -> Array:
        """`[fractions, networks, seeds]`."""
        return np.stack([self._task.values(self._arms, f, self._seeds) for f in self._fractions])

    def replicates(self) -> Array:
        """`[fractions, networks, seeds, n_replicates]`."""
        return np.stack([self._task.replicates(self._arms, f, self._seeds) for f in self._fractions])

    def freedoms(self) -> list[float]:
        """Degrees of freedom over patients at each fraction."""
        return [self._task.freedom(self._arms, f, self._seeds) for f in self._fractions]


def _fit(n: Array, auroc: Array) -> tuple[tuple[Array, Array, Array] | None, str]:
    """The power law of one curve, or why there is none."""
    if len(n) < 2:
        return None, "one fraction makes no curve"
    if (auroc >= 1).any():
        return None, PERFECT
    a, b, c = power_law(n, 1 - auroc)
    return ((a, b, c), "") if a > 0 and b > 0 else (None, FLAT)


def learning_curves(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    sides: Mapping[str, Sequence[Arm]],
    how: Bootstrap = PLAIN,
    rule: str = "max",
) -> pd.DataFrame:
    """Test AUROC by training exams of each side, averaged over its networks and seeds, with its power law.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        sides: arms by the name of the side.
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.

    Returns:
        One row for each task, side and fraction that the grid holds: task, side, fraction, n_exams (mean
        training studies), auroc, low, high, fitted (AUROC of the power law), a, b, c, n_networks, n_seeds,
        reason (why the AUROC or the curve is NaN, or ''). A run without an AUROC leaves its side NaN and is
        named.

    Raises:
        ValueError: see `run_aurocs`.
    """
    rows: list[dict[str, Any]] = []
    for name, task in tasks(runs, predictions, rule, how).items():
        for side, arms in sides.items():
            fractions = [f for f in task.fractions() if _planned(task, arms, f)]
            seeds = sorted({seed for f in fractions for seed in task.seeds(f)})
            curve = _Curve(task, arms, fractions, seeds)
            fixed = {
                "task": name,
                "side": side,
                "n_networks": len({b for b, _ in arms}),
                "n_seeds": len(seeds),
            }
            rows += [fixed | row for row in _points(task, curve, fractions, how.level)]
    columns = ["task", "side", "fraction", "n_exams", "auroc", "low", "high", "fitted", "a", "b", "c"]
    return pd.DataFrame(rows, columns=[*columns, "n_networks", "n_seeds", "reason"])


def _planned(task: Task, arms: Sequence[Arm], fraction: float) -> bool:
    """Whether the grid has a run of the side at a fraction."""
    return bool({(backbone, init) for _, backbone, init in task.arms(fraction)} & set(arms))


def _points(task: Task, curve: _Curve, fractions: list[float], level: float) -> list[dict[str, Any]]:
    """The columns of a side that are estimated."""
    fitted = np.full((4, len(fractions)), np.nan)
    found = [Interval(math.nan, math.nan, math.nan, curve.reason)] * len(fractions)
    reason = curve.reason
    if not reason and fractions:
        values = curve.values()
        law, reason = _fit(curve.n, values.mean(axis=(1, 2)))
        if law:
            fitted[0] = 1 - (law[0] * curve.n ** -law[1] + law[2])
            fitted[1:] = np.array(law)[:, None]
        found = [Interval(float(v.mean()), math.nan, math.nan, task.exams.few) for v in values]
        if not task.exams.few:
            parts = zip(values, curve.replicates(), curve.freedoms(), strict=True)
            found = [for_these(v, r, freedom).share_interval(level) for v, r, freedom in parts]
    return [
        {"fraction": f, "n_exams": n, "auroc": at.value, "low": at.low, "high": at.high}
        | dict(zip(("fitted", "a", "b", "c"), law, strict=True))
        | {"reason": "; ".join(dict.fromkeys(filter(None, (at.reason, reason))))}
        for f, n, at, law in zip(fractions, curve.n, found, fitted.T, strict=True)
    ]


def worth(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    first: Sequence[Arm],
    second: Sequence[Arm],
    how: Bootstrap = PLAIN,
    rule: str = "max",
) -> pd.DataFrame:
    """How many exams the second side needs for the AUROC that the first has at each fraction.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        first: arms of the side that is looked at (from video, say).
        second: arms whose exams are counted (from random weights).
        how: replicates, seed and level.
        rule: of `metrics.study_scores`.

    Returns:
        One row for each task and fraction that the grid holds from both sides: task, fraction, n_exams (of
        the first), auroc_first, auroc_second, equal_exams (of the second's curve), ratio (equal_exams /
        n_exams; NaN where high is infinite), low, high (of the ratio; may be 0 or infinite), extra_exams
        (equal_exams - n_exams),
        low_extra, high_extra, extrapolated (equal_exams lies outside the second's fractions), reason (why
        the ratio or its interval is NaN, or '').

    Raises:
        ValueError: see `run_aurocs`.
    """
    rows: list[dict[str, Any]] = []
    for name, task in tasks(runs, predictions, rule, how).items():
        fractions = [f for f in task.fractions() if _planned(task, first, f) and _planned(task, second, f)]
        seeds = sorted({seed for f in fractions for seed in task.seeds(f)})
        curves = [_Curve(task, arms, fractions, seeds) for arms in (first, second)]
        table = _worth(task, curves, how) if fractions else []
        rows += [{"task": name, "fraction": f} | row for f, row in zip(fractions, table, strict=True)]
    columns = ["n_exams", "auroc_first", "auroc_second", "equal_exams", "ratio", "low", "high"]
    columns += ["extra_exams", "low_extra", "high_extra", "extrapolated", "reason"]
    return pd.DataFrame(rows, columns=["task", "fraction", *columns])


def _worth(task: Task, curves: list[_Curve], how: Bootstrap) -> list[dict[str, Any]]:
    """One row a fraction."""
    one, two = curves
    blank = dict.fromkeys(("auroc_first", "auroc_second", "equal_exams", "ratio", "low", "high"), math.nan)
    blank |= dict.fromkeys(("extra_exams", "low_extra", "high_extra"), math.nan)
    reason = shown(one.problems + two.problems) or one.reason or two.reason
    if reason:
        return [blank | {"n_exams": n, "extrapolated": False, "reason": reason} for n in one.n]
    values = np.stack([one.values().mean(axis=1), two.values().mean(axis=1)])  # [2, fractions, seeds]
    mean = values.mean(axis=2)
    law, reason = _fit(two.n, mean[1])
    reason = f"of the second side: {reason}" if reason else ""
    ends = np.full((2, len(one.n)), np.nan)
    if not reason and not task.exams.few:
        replicates = np.stack([one.replicates().mean(axis=1), two.replicates().mean(axis=1)])
        ends = _ends(values, replicates, one.n, two.n, how)
    rows = []
    for k, n in enumerate(one.n):
        equal = float(exams_for(1 - mean[0, k], *law)) if law else math.nan
        far = law is not None and equal > FURTHEST * n
        low, high = ends[:, k]
        unbounded = OPEN if math.isinf(high) else ""
        why = f"the second side's curve does not reach it {WITHIN}" if far else task.exams.few or unbounded
        equal = math.nan if far or unbounded else equal
        rows.append(
            {"n_exams": n, "auroc_first": mean[0, k], "auroc_second": mean[1, k], "equal_exams": equal}
            | {"ratio": equal / n, "low": low, "high": high, "extra_exams": equal - n}
            | {"low_extra": n * (low - 1), "high_extra": n * (high - 1)}
            | {"extrapolated": bool(equal < two.n.min() or equal > two.n.max()), "reason": reason or why}
        )
    return rows


def _ends(values: Array, replicates: Array, n_first: Array, n_second: Array, how: Bootstrap) -> Array:
    """`[2, fractions]`: ends of the interval of the ratio; see the module."""
    rng = np.random.default_rng([how.seed, 1])
    _, k, s = values.shape
    flat = values.reshape(2 * k, s)
    drawn = np.moveaxis(replicates.reshape(2 * k, s, -1), 1, 0)  # [seeds, sides x fractions, n_replicates]
    own = np.mean([np.cov(part) for part in drawn], axis=0)
    shared = (s * np.cov(drawn.mean(axis=0)) - own) / (s - 1) if s > 1 else own
    size, direction = np.linalg.eigh(shared)
    root = direction * np.sqrt(np.maximum(size, 0.0))
    moved = flat.mean(axis=1)[:, None] + root @ rng.normal(size=(2 * k, how.n_replicates))
    if s > 1:
        apart = (flat - flat.mean(axis=1, keepdims=True)) / math.sqrt(s * (s - 1))
        scale = np.sqrt((s - 1) / rng.chisquare(s - 1, size=how.n_replicates))
        moved = moved + (apart @ rng.normal(size=(s, how.n_replicates))) * scale
    error = 1 - np.clip(moved.reshape(2, k, -1), 1e-6, 1 - 1e-6)
    a, b, c = power_law(n_second, error[1].T)
    lowest = error[1].min(axis=0)
    ratios = np.stack([exams_for(error[0, i], a, b, c, lowest) / n_first[i] for i in range(k)])
    ratios = np.where(ratios > FURTHEST, np.inf, ratios)
    tails = [(1 - how.level) / 2, (1 + how.level) / 2]
    return np.quantile(ratios, tails, axis=1, method="inverted_cdf")
