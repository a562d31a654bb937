"""The noncentral t distribution: a t statistic where there is an effect.

t = (z + moved) / s, z normal and s^2 chi square over its degrees of freedom; its distribution is the mean of
that of a normal value over s. scipy's own (1.17) is NaN far from the middle, where a root is looked for.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr

from ctlib.metrics.stats.crossed_ci import Array

POINTS = 4000
"""Quantiles of s over which is averaged: right to 1e-4 in a test against scipy."""
MOST_FREEDOM = 1e6
"""Degrees of freedom beyond are normal."""


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
