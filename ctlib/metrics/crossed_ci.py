"""Intervals of a mean over networks and seeds, with patients, seeds and networks as crossed factors.

What may vary, and how it is taken into account:

* Patients: drawn as `ctlib.metrics.bootstrap` says, the same draw for every run. The draws give the covariance of
  any two runs over patients.
* Seeds. A seed draws the training patients of a fraction, the order of clips and the head; a seed's runs of
  all networks and inits share it. A bootstrap of three seeds sees only 2/3 of their variance and cannot know
  how uncertain that variance is. So seeds are handled as radiology handles readers: random, crossed with
  patients (Obuchowski and Rockette 1995, doi:10.1080/03610919508813243; Hillis 2007, doi:10.1002/sim.2532).
* Networks: either those that were run (`for_these`), or random, from networks like these (`for_next`).

A two-way bootstrap of networks and seeds was not taken: with 7 and 3 of them it draws from 6/7 and 2/3 of
the variance, and its percentiles know nothing of their few degrees of freedom. A Bayesian hierarchical model
would rest on its prior of the spread with so few seeds. What is used is the model behind both, an analysis
of variance with the patients' share from the bootstrap (Roe and Metz 1997, doi:10.1016/S1076-6332(97)80210-3,
for readers and cases): the value y[m, s] of network m and seed s is

    y[m, s] = mean + network[m] + seed[s] + rest[m, s] + what the drawn patients do to it

and the variance of the mean over these networks, from its value for each seed, is

    b + c,  b = (variance between seeds) / S,  c = covariance over patients between two seeds

(b holds the seeds' share of the patients' noise too). With random networks it is b1 + b2 + c: b1 = (variance
between networks) / M; b2 = (variance between seeds) / S - (residual mean square) / (M S), not below 0; c the
covariance of runs that share neither network nor seed. A next network adds the variance between networks
beyond seeds and patients: spread^2 = (variance between networks) - (residual mean square) / S - (c2 - c),
c2 the covariance of runs that share only their network, not below 0.

Intervals are Student's t, mean +- t sqrt(variance). The degrees of freedom that Satterthwaite's rule gives
(with one b: (S - 1) (b + c)^2 / b^2) are too many with three seeds: a small b comes with many of them, and
intervals cover 92 % where b is large beside c. Taken is

    B = sum of b_i;  q = c / B
    1 / freedom = sum(b_i / f_i) / (B + c) / (1 + q^2 / (q + 5)) + (c / (B + c))^2 / P

f_i = S - 1 or M - 1, P those of the patients (`Exams.freedom`). Satterthwaite's rule has 1 + q in place of
1 + q^2 / (q + 5): the same where patients prevail. Numerical integration over the distribution of b (c
known; a test repeats it) finds that intervals at 95 % then cover 93.7 to 95.4 % with three seeds and 95.0 to
95.5 % with five, whatever the share of seeds; with two, where b has one degree of freedom, 89 to 95 %: use
three. benchmarks/simulations.py measures the coverage of all of it on simulated scores: with three seeds and
seven networks that of what is asked of it lies within 93 to 97 %; of the interval of the spread, which takes
what seeds and patients add for known, at 91 to 94 %. Where there is no effect, the test at 5 % of an average
over networks rejects 5.1 % where seeds matter, and where they hardly do 4.3 % (7,200 experiments each,
standard error 0.25): it is a little careful there.

A family of comparisons is corrected far out in the tails, and there this t is too short: at the 0.6 % that
one of eight comparisons must reach, it rejects up to 3.2 times too often with three seeds and 1.4 times with
five. So a p-value below `ANCHOR` takes its tail from the distribution of Behrens and Fisher, that of
sqrt(c) Z + sqrt(b) T with T of Student on S - 1 degrees of freedom (Welch 1947,
doi:10.1093/biomet/34.1-2.28, has the problem), scaled to meet the t at `ANCHOR`. By the same integration it
then rejects at 0.6 % at most 1.5 times as often as it should with three seeds and 1.03 times with five, and
mostly less: with three seeds a family finds little, and five are asked for (`families.SEEDS_ASKED`).

Not taken into account: other video weights (each network was pretrained once), other cohorts, and that
networks of different folds share training patients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import chdtrc, chdtri, expit, logit, ndtr, ndtri, stdtr, stdtrit

Array = NDArray[np.float64]
STILL = "no draw of patients or seeds changes the value"
"""Why a value that never varies has no interval: that is no certainty."""
ANCHOR = 0.05
"""P-value below which the tail is that of Behrens and Fisher; see the module."""
VARIANCES = np.exp(np.linspace(math.log(1e-12), math.log(100.0), 800))
"""Chi square over its degrees of freedom, where a tail is integrated: less than 1e-12 of it lies outside."""
DAMPING = 5.0
"""From about which share c / B of the patients on Satterthwaite's rule is followed; see
`ctlib.metrics.crossed_ci`."""
POINTS = 4000
"""Quantiles of s over which is averaged: right to 1e-4 in a test against scipy."""
MOST_FREEDOM = 1e6
"""Degrees of freedom beyond are normal."""


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
class Estimate:
    """A mean with its standard error: interval and test are made of the same two numbers.

    Args:
        value: the mean.
        se: its standard error; NaN with a reason where there is none.
        freedom: degrees of freedom of the standard error.
        reason: why there is none, or ''.
        between: b, the part of se^2 that is between seeds; 0 where the tail is that of the t.
        seeds: degrees of freedom of b.
        patients: degrees of freedom of the rest of se^2.
    """

    value: float
    se: float
    freedom: float
    reason: str = ""
    between: float = 0.0
    seeds: int = 0
    patients: float = math.inf

    def interval(self, level: float = 0.95) -> Interval:
        """Value -+ t x se.

        >>> Estimate(0.1, 0.05, 2.0).interval().half_width.__round__(3)  # 4.303 x 0.05
        0.215
        """
        if self.reason:
            return Interval(self.value, math.nan, math.nan, self.reason)
        half = student(self.freedom, (1 + level) / 2) * self.se
        return Interval(self.value, self.value - half, self.value + half)

    def share_interval(self, level: float = 0.95) -> Interval:
        """The same for a value between 0 and 1, made on the scale of its log odds; inside 0 to 1."""
        value = self.value
        if self.reason or not 0 < value < 1:
            return Interval(value, math.nan, math.nan, self.reason or f"the value is {value:g} in every draw")
        half = student(self.freedom, (1 + level) / 2) * self.se / (value * (1 - value))
        low, high = expit(logit(value) + np.array([-half, half]))
        return Interval(value, float(low), float(high))

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference from 0: below 5 % exactly where the interval at 95 % leaves 0 out."""
        if self.reason:
            return math.nan
        plain = 2 * below(self.freedom, -abs(self.value) / self.se)
        if plain >= ANCHOR or not self.between:
            return plain
        end = student(self.freedom, 1 - ANCHOR / 2) * self.se
        return ANCHOR * self._beyond(abs(self.value)) / self._beyond(end)

    def _beyond(self, x: float) -> float:
        """Probability of Behrens' and Fisher's distribution outside -+ x; see the module."""
        weights = _chi_square(self.seeds)
        spread = np.sqrt(self.se**2 - self.between + self.between / VARIANCES)
        tails = ndtr(-x / spread) if math.isinf(self.patients) else stdtr(self.patients, -x / spread)
        return 2 * float(weights @ tails)

    @property
    def p_above(self) -> float:
        """Probability that what is estimated lies above 0; above (1 + level) / 2 where `low` does."""
        return math.nan if self.reason else below(self.freedom, self.value / self.se)


@lru_cache(maxsize=16)
def _chi_square(freedom: int) -> Array:
    """Weights of `VARIANCES`: chi square over its degrees of freedom, on the scale of its logarithm."""
    size = freedom / 2 * (np.log(VARIANCES) - VARIANCES)
    weights: Array = np.exp(size - size.max())
    return weights / weights.sum()


def student(freedom: float, p: float) -> float:
    """Quantile of Student's t; of the normal distribution for infinite degrees of freedom."""
    return float(ndtri(p) if math.isinf(freedom) else stdtrit(freedom, p))


def below(freedom: float, t: float) -> float:
    """Probability of Student's t below t."""
    return float(ndtr(t) if math.isinf(freedom) else stdtr(freedom, t))


def for_these(values: Array, replicates: Array, patients: float = math.inf) -> Estimate:
    """Mean over networks and seeds: these networks; seeds and patients random.

    With one seed nothing is known of the variation between seeds, and the standard error is over patients.

    Args:
        values: `[M, S]`, one a network and seed, on all patients.
        replicates: `[M, S, n_replicates]`, the same on drawn patients, the same draws for all.
        patients: degrees of freedom of a variance over patients.

    >>> rng = np.random.default_rng(0)
    >>> patients = rng.normal(0, 0.03, size=2000)  # the same for all seeds
    >>> found = for_these(np.array([[0.1, 0.1, 0.1]]), np.tile(0.1 + patients, (1, 3, 1)))
    >>> round(found.interval().half_width, 2)  # patients only: 1.96 x 0.03
    0.06
    >>> found = for_these(np.array([[0.0, 0.1, 0.2]]), np.zeros((1, 3, 2000)))
    >>> round(found.interval().half_width, 3)  # seeds only: Student's t, 4.303 x 0.1 / sqrt(3)
    0.248
    """
    of_seed, n_seeds = values.mean(axis=0), values.shape[1]
    covariance = np.atleast_2d(np.cov(replicates.mean(axis=0)))
    if n_seeds == 1:
        between, shared = 0.0, float(covariance[0, 0])
    else:
        between = float(np.var(of_seed, ddof=1)) / n_seeds
        shared = max(_off_diagonal(covariance), 0.0)
    return _estimate(values, [(between, n_seeds - 1)], shared, patients)


def seeds_alike(values: Array, replicates: Array) -> float:
    """P-value of the seeds of an arm having one true AUROC: that they differ by their patients' noise alone.

    Between two seeds, the noise of the patients is what a run's AUROC varies over draws less what two runs
    vary together; the spread of the seeds over it is compared with chi square.

    Args:
        values: `[S]`, one a seed, on all patients.
        replicates: `[S, n_replicates]`, the same on drawn patients, the same draws for all.

    Returns:
        NaN with one seed, or where draws of the patients change nothing.

    >>> noise = np.random.default_rng(0).normal(0, 0.03, size=(3, 2000))  # of each run its own
    >>> [round(seeds_alike(np.array([0.7, last, 0.72]), noise), 2) for last in (0.74, 0.5)]
    [0.64, 0.0]
    """
    if len(values) < 2:
        return math.nan
    covariance = np.cov(replicates)
    noise = float(np.diag(covariance).mean()) - _off_diagonal(covariance)
    if not noise > 1e-24:
        return math.nan
    return float(chdtrc(len(values) - 1, (len(values) - 1) * values.var(ddof=1) / noise))


def _off_diagonal(matrix: Array) -> float:
    """Mean off the diagonal; 0 of a matrix that has nothing there."""
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (n * (n - 1))) if n > 1 else 0.0


def _estimate(values: Array, parts: list[tuple[float, int]], shared: float, patients: float) -> Estimate:
    variance = sum(part for part, _ in parts) + shared
    if not variance > 1e-24:
        return Estimate(float(values.mean()), math.nan, math.nan, STILL)
    kept = [(part, freedom) for part, freedom in parts if part > 0]
    tail = kept[0] if len(parts) == 1 and kept else (0.0, 0)
    free = freedom_of(kept, shared, patients)
    return Estimate(float(values.mean()), math.sqrt(variance), free, "", *tail, patients)


@dataclass(frozen=True)
class Population:
    """What is known of networks like these.

    Args:
        mean: their mean effect.
        next: the effect of one more of them.
        spread: standard deviation of the effect between networks, beyond seeds and patients.
        low_spread, high_spread: ends of its interval.
        reason: why there is none, or ''.
    """

    mean: Estimate
    next: Estimate
    spread: float
    low_spread: float
    high_spread: float
    reason: str = ""

    @classmethod
    def unknown(cls, value: float, reason: str) -> Population:
        """NaN, and why."""
        nothing = Estimate(value, math.nan, math.nan, reason)
        return cls(nothing, nothing, math.nan, math.nan, math.nan, reason)


def for_next(values: Array, replicates: Array, patients: float = math.inf, level: float = 0.95) -> Population:
    """Mean over networks like these, and a next one: networks, seeds and patients random; see the module.

    The interval of the spread is that of a variance of normal values (chi square, M - 1 degrees of
    freedom) less what seeds and patients add; its lower end is 0 where they could explain all of it.
    With one seed a network cannot be told from its one run, and nothing is said.

    Args:
        values: `[M, S]`, one a network and seed, on all patients.
        replicates: `[M, S, n_replicates]`, the same on drawn patients, the same draws for all.
        patients: degrees of freedom of a variance over patients.
        level: of the interval of the spread.
    """
    m, s = values.shape
    if m < 3 or s < 2:
        return Population.unknown(
            float(values.mean()),
            f"{m} network{'s' * (m > 1)} and {s} seed{'s' * (s > 1)}; networks like these are judged from "
            "3 networks and 2 seeds on",
        )
    _, only_network, _, apart = _covariances(replicates)
    networks = float(np.var(values.mean(axis=1), ddof=1))
    seeds = float(np.var(values.mean(axis=0), ddof=1))
    centred = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    rest = float((centred**2).sum()) / ((m - 1) * (s - 1))
    shared, of_seeds = max(apart, 0.0), max(seeds / s - rest / (m * s), 0.0)
    explained = rest / s + only_network - apart
    spread2 = max(networks - explained, 0.0)
    mean = _estimate(values, [(networks / m, m - 1), (of_seeds, s - 1)], shared, patients)
    further = _estimate(values, [(networks / m + spread2, m - 1), (of_seeds, s - 1)], shared, patients)
    tails = chdtri(m - 1, [(1 - level) / 2, (1 + level) / 2])
    low, high = np.sqrt(np.maximum((m - 1) * networks / tails - explained, 0.0))
    return Population(mean, further, math.sqrt(spread2), float(low), float(high), mean.reason)


def _covariances(replicates: Array) -> tuple[float, float, float, float]:
    """Over patients, of runs that are the same, share a network only, a seed only, and neither."""
    m, s, n = replicates.shape
    centred = replicates - replicates.mean(axis=2, keepdims=True)
    total = _square(centred.sum(axis=(0, 1)), n)
    of_network = sum(_square(row, n) for row in centred.sum(axis=1))
    of_seed = sum(_square(row, n) for row in centred.sum(axis=0))
    same = sum(_square(row, n) for row in centred.reshape(m * s, n))
    network = (of_network - same) / (m * s * (s - 1))
    seed = (of_seed - same) / (m * s * (m - 1))
    return same / (m * s), network, seed, (total - of_network - of_seed + same) / (m * s * (m - 1) * (s - 1))


def _square(row: Array, n: int) -> float:
    return float(row @ row) / (n - 1)


# ---- degrees of freedom


def freedom_of(parts: Sequence[tuple[float, int]], shared: float, patients: float = math.inf) -> float:
    """Degrees of freedom of a variance; see `ctlib.metrics.crossed_ci`.

    Args:
        parts: b_i and f_i: parts of the variance, and the degrees of freedom of their estimates.
        shared: c, the patients' part.
        patients: P, degrees of freedom of c.

    >>> freedom_of([(1.0, 2)], 0.0), round(freedom_of([(1.0, 2)], 1.0), 2), freedom_of([], 1.0, 40)
    (2.0, 4.67, 40.0)
    """
    varied = sum(part for part, _ in parts)
    total = varied + shared
    inverse = (shared / total) ** 2 / patients
    if varied > 0:
        share = shared / varied
        inverse += sum(b / f for b, f in parts) / total / (1 + share**2 / (share + DAMPING))
    return 1 / inverse if inverse > 0 else math.inf


def satterthwaite(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of independent variances (1946, doi:10.2307/3002019).

    Args:
        parts: variances and their degrees of freedom; where all are 0, the latter are summed.

    >>> satterthwaite([(1.0, 9), (1.0, 9)]), satterthwaite([(1.0, 9), (0.0, 99)])
    (18.0, 9.0)
    """
    total = sum(part for part, _ in parts)
    if not total > 0:
        return float(sum(freedom for _, freedom in parts))
    return 1 / sum((part / total) ** 2 / freedom for part, freedom in parts)


# ---- noncentral t


def t_below(t: float, freedom: float, moved: float) -> float:
    """Probability that a t statistic lies below t.

    Args:
        t: a value.
        freedom: degrees of freedom.
        moved: what is estimated, over its standard error (noncentrality).

    >>> round(t_below(2.0, 5.0, 0.0), 4), round(t_below(2.0, 5.0, 2.0), 4)
    (0.949, 0.4637)
    """
    return float(ndtr(t * _spreads(freedom) - moved).mean())


def moved_at(t: float, freedom: float, tail: float) -> float:
    """How far t must be moved, so that the statistic lies below t with the probability `tail`.

    >>> round(moved_at(2.0, 5.0, t_below(2.0, 5.0, 1.3)), 6)
    1.3
    """
    spreads = _spreads(freedom)
    reach = abs(t) * float(spreads.max()) + 9

    def excess(moved: float) -> float:
        return float(ndtr(t * spreads - moved).mean()) - tail

    return float(brentq(excess, -reach, reach))


def _spreads(freedom: float) -> Array:
    """Quantiles of s, `[POINTS]`."""
    known = min(freedom, MOST_FREEDOM)
    return np.sqrt(chdtri(known, (np.arange(POINTS) + 0.5) / POINTS) / known)
