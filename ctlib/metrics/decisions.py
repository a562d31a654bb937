"""What a difference and its standard error let one say: of an effect, of a gain, of a null.

Two tests are made of the same two numbers, both at the level of the interval. That of a difference from 0 is
two-sided: its interval at 95 % leaves 0 out. That of equivalence is two one-sided tests, of the difference
being above -margin and below +margin, each at 1 - level (Schuirmann 1987, doi:10.1007/BF01068419): the
interval at 90 % lies inside -+ margin. An interval that holds 0 shows nothing by itself.

The words, by what is asked; the first column that is true counts, and of a null equivalence is looked at
first:

| asked | differs, above 0 | differs, below 0 | equivalent | neither | no standard error |
|---|---|---|---|---|---|
| `effect` | shown | refuted | refuted | not decided | no answer |
| `gain` | gain | loss | equivalent | not decided | no answer |
| `trend` | rising | falling | not decided | not decided | no answer |
| `null` | different | different | equivalent (first) | not decided | no answer |

An effect that differs from 0 by less than the margin is shown; a null that does so is equivalent.

Where chance is counted (`beside_chance`), patients exchange with those who have as many exams, all of their
exams at once, so that what is shared by a patient's exams stays shared. The band of chance and the p-value are
counted from the same exchanges, both two-sided: a value lies outside the band exactly where its p-value is at
most 1 - level.

A value inside the band is not shown to be chance. That takes two one-sided tests, as for any difference
(`decide`); their standard error is the spread of the exchanges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from ctlib.metrics.crossed_ci import Array, Estimate, below

SHOWN, REFUTED, GAIN, LOSS = "shown", "refuted", "gain", "loss"
RISING, FALLING = "rising", "falling"
EQUIVALENT, DIFFERENT, NOT_DECIDED, NO_ANSWER = "equivalent", "different", "not decided", "no answer"
WORDS = {
    "effect": (SHOWN, REFUTED, REFUTED),
    "gain": (GAIN, LOSS, EQUIVALENT),
    "trend": (RISING, FALLING, NOT_DECIDED),
    "null": (DIFFERENT, DIFFERENT, EQUIVALENT),
}
"""By what is asked: words for above 0, below 0, equivalent."""
SEEDS_ASKED = 5
"""Seeds that a family of comparisons asks for: where seeds prevail over patients, the first of eight must be
5.2 standard errors from 0 with five seeds, and 12.6 with three (Student's t at 0.05 / 8)."""
APART = 0.1
"""Spread between seeds, in AUROC, from which on it matters: of networks that learn it is 0.03 to 0.08 in the
demo, and one run of five at chance beside four at 0.8 makes 0.13."""
LEAST_OUTSIDE = 1e-9
"""Granted where a share of the draws is a whole number but for rounding."""


@dataclass(frozen=True)
class Decision:
    """What can be said of a difference; all but the word and the effect NaN where it has no standard error.

    Args:
        word: by the table of the module.
        effect: the difference.
        low, high: its interval at the level; the test of a difference from 0.
        low_equivalence, high_equivalence: its interval at 2 level - 1; the test of equivalence.
        p_value: two-sided, of no difference from 0.
        p_equivalence: the larger of the two one-sided p-values.
        margin: a difference that would not matter.
        level: of the interval.
    """

    word: str
    effect: float
    low: float
    high: float
    low_equivalence: float
    high_equivalence: float
    p_value: float
    p_equivalence: float
    margin: float
    level: float

    @property
    def equivalent(self) -> bool:
        """Whether both one-sided tests exclude a difference as large as the margin."""
        return self.p_equivalence < 1 - self.level


def decide(
    effect: float,
    se: float,
    freedom: float,
    margin: float,
    level: float = 0.95,
    asked: str = "effect",
    corrected: float | None = None,
) -> Decision:
    """Whether a difference is shown, refuted, equivalent to 0, different from it or not decided.

    Args:
        effect: the difference.
        se: its standard error; NaN where there is none.
        freedom: degrees of freedom of the standard error; infinite for a normal distribution.
        margin: a difference that would not matter, in the unit of the effect; 0 for none, and nothing is then
            equivalent.
        level: of the interval, from 0.5 to below 1.
        asked: "effect", "gain", "trend" or "null"; see the module.
        corrected: p-value of the difference after the correction of its family; its own where it is None.

    Raises:
        ValueError: `asked` is unknown, the level is not from 0.5 to below 1, the margin is negative, or the
            standard error is not above 0.

    >>> [decide(effect, 0.02, 20, 0.05).word for effect in (0.08, 0.01, 0.03)]
    ['shown', 'refuted', 'not decided']
    >>> found = decide(0.01, 0.02, 20, 0.05, asked="null")
    >>> found.word, round(found.high_equivalence, 4), round(found.p_equivalence, 4)
    ('equivalent', 0.0445, 0.0296)
    """
    if asked not in WORDS:
        raise ValueError(f"asked is {asked!r}; give one of {', '.join(WORDS)}.")
    if not 0.5 <= level < 1 or margin < 0 or se <= 0:
        raise ValueError(
            f"level {level:g}, margin {margin:g}, standard error {se:g}: give a level from 0.5 to below 1, "
            "a margin of 0 or more and a standard error above 0."
        )
    if math.isnan(effect) or math.isnan(se):
        nan = math.nan
        return Decision(NO_ANSWER, effect, nan, nan, nan, nan, nan, nan, margin, level)
    estimate = Estimate(effect, se, freedom)
    wide, narrow = estimate.interval(level), estimate.interval(2 * level - 1)
    p_equivalence = max(below(freedom, -(effect + margin) / se), below(freedom, (effect - margin) / se))
    p_value = estimate.p_value
    differs = (p_value if corrected is None else corrected) < 1 - level
    word = _word(asked, effect, differs, p_equivalence < 1 - level)
    ends = (wide.low, wide.high, narrow.low, narrow.high)
    return Decision(word, effect, *ends, p_value, p_equivalence, margin, level)


def decide_auroc(estimate: Estimate, margin: float, level: float = 0.95) -> str:
    """Whether an AUROC is that of chance: the word of the null that it is 0.5, on the scale of log odds.

    Args:
        estimate: of the AUROC, whose `share_interval` then holds 0.5 where it is not different.
        margin: a difference from 0.5 that would not matter, below 0.5; 0 for none.
        level: of the interval.

    >>> [decide_auroc(Estimate(0.51, se, 40), 0.05) for se in (0.02, 0.05)]
    ['equivalent', 'not decided']
    """
    value = estimate.value
    if estimate.reason or not 0 < value < 1:
        return NO_ANSWER
    se = estimate.se / (value * (1 - value))
    return decide(float(logit(value)), se, estimate.freedom, float(logit(0.5 + margin)), level, "null").word


def _word(asked: str, effect: float, differs: bool, equivalent: bool) -> str:
    """By the table of the module."""
    above, under, same = WORDS[asked]
    if equivalent and (asked == "null" or not differs):
        return same
    if differs:
        return above if effect > 0 else under
    return NOT_DECIDED


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values of a family, adjusted by Holm (1979, Scandinavian Journal of Statistics 6:65-70).

    The chance to call any true null false stays below the level, whatever the dependence. A NaN stays NaN
    and is no member of the family.

    >>> holm([0.01, 0.04, 0.03, float("nan")]).round(3).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    members = np.flatnonzero(~np.isnan(p))
    order = members[np.argsort(p[members], kind="stable")]
    left = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(left * p[order]), 1.0)
    return adjusted


def seeds_apart(p_values: ArrayLike, spreads: ArrayLike, level: float = 0.95) -> NDArray[np.bool_]:
    """Which arms of a table have seeds that differ more than their patients explain, and by much.

    Such an arm may have runs that learned and runs that did not, and its few seeds tell neither how often.
    Where a run learns nothing with a probability of 0.2, intervals at 95 % of single arms covered 82 to 86 %
    of simulated experiments, those of differences 92 to 98 % (benchmarks/simulations.py).

    Args:
        p_values: of the arms, of `ctlib.metrics.crossed_ci.seeds_alike`; corrected here for their number.
        spreads: standard deviation of the AUROC between the seeds of each.
        level: of the test.

    >>> seeds_apart([0.001, 0.001, 0.2], [0.14, 0.03, 0.14]).tolist()
    [True, False, False]
    """
    return (holm(p_values) < 1 - level) & (np.asarray(spreads, dtype=np.float64) >= APART)


@dataclass(frozen=True)
class Chance:
    """A value beside what chance gives.

    Args:
        mean: of the exchanges.
        low, high: ends of the band that holds the level of them.
        p_value: two-sided, the value counted as one of the exchanges (Phipson and Smyth 2010,
            doi:10.2202/1544-6115.1585).
        word: "equivalent", "different", "not decided" or, where exchanges change nothing, "no answer".
    """

    mean: float
    low: float
    high: float
    p_value: float
    word: str

    @property
    def reason(self) -> str:
        """Why there is no answer, or ''."""
        return "no exchange of patients changes the value" if self.word == NO_ANSWER else ""


def beside_chance(value: float, drawn: Array, margin: float = 0.0, level: float = 0.95) -> Chance:
    """Where a share lies in what exchanges gave.

    Args:
        value: of the patients as they are, in [0, 1].
        drawn: `[n]`, the same after exchanges.
        margin: a difference from chance that would not matter; 0 for none.
        level: share of the exchanges inside the band, from 0.5 to below 1.

    >>> drawn = np.linspace(0.4, 0.6, 999)
    >>> found = beside_chance(0.62, drawn)
    >>> found.word, round(found.low, 3), round(found.high, 3), found.p_value
    ('different', 0.405, 0.595, 0.002)
    >>> beside_chance(0.51, drawn).word, beside_chance(0.51, drawn, margin=0.15).word
    ('not decided', 'equivalent')
    """
    n, ordered = len(drawn), np.sort(drawn)
    outside = math.floor((1 - level) / 2 * (n + 1) + LEAST_OUTSIDE) - 1
    low, high = (float(ordered[outside]), float(ordered[-1 - outside])) if outside >= 0 else (0.0, 1.0)
    as_high, as_low = 1 + int((drawn >= value - 1e-12).sum()), 1 + int((drawn <= value + 1e-12).sum())
    p_value = min(2 * min(as_high, as_low) / (n + 1), 1.0)
    mean, spread = float(drawn.mean()), float(drawn.std(ddof=1))
    if not spread > 1e-12:
        return Chance(mean, low, high, p_value, NO_ANSWER)
    corrected = 0.0 if p_value <= 1 - level + LEAST_OUTSIDE else 1.0
    found = decide(value - mean, spread, math.inf, margin, level, "null", corrected)
    return Chance(mean, low, high, p_value, found.word)


def exchanged_rows(patients: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Whose exam each exam gets, `[n, exams]`: patients with as many exams exchange theirs.

    Args:
        patients: `[exams]`, from 0 without a gap.
        n: number of exchanges.
        rng: what decides.

    >>> rows = exchanged_rows(np.array([0, 1, 1, 2, 2]), 50, np.random.default_rng(0))
    >>> sorted({tuple(map(int, row)) for row in rows})
    [(0, 1, 2, 3, 4), (0, 3, 4, 1, 2)]
    """
    order = np.argsort(patients, kind="stable")
    sizes = np.bincount(patients)
    starts = np.cumsum(sizes) - sizes
    drawn = np.empty((n, len(patients)), np.int64)
    for size in np.unique(sizes):
        rows = order[starts[sizes == size][:, None] + np.arange(size)]  # [patients, exams of each]
        donors = rng.permuted(np.tile(np.arange(len(rows)), (n, 1)), axis=1)
        drawn[:, rows] = rows[donors]
    return drawn
