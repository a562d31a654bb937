"""What chance gives when patients exchange: who exchanges with whom, and where a value lies in it.

Patients exchange with those who have as many exams, all of their exams at once, so that what is shared by a
patient's exams stays shared. The band of chance and the p-value are counted from the same exchanges, both
two-sided: a value lies outside the band exactly where its p-value is at most 1 - level.

A value inside the band is not shown to be chance. That takes two one-sided tests, as for any difference
(`ctlib.metrics.stats.decisions`); their standard error is the spread of the exchanges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctlib.metrics.stats.crossed_ci import Array
from ctlib.metrics.stats.decisions import NO_ANSWER, decide

LEAST_OUTSIDE = 1e-9
"""Granted where a share of the draws is a whole number but for rounding."""


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
