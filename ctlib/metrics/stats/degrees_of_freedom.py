"""Degrees of freedom of variances that are sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

DAMPING = 5.0
"""From about which share c / B of the patients on Satterthwaite's rule is followed; see
`ctlib.metrics.stats.crossed_ci`."""


def freedom_of(parts: Sequence[tuple[float, int]], shared: float, patients: float = math.inf) -> float:
    """Degrees of freedom of a variance; see `ctlib.metrics.stats.crossed_ci`.

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
