"""Many comparisons and many arms at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SEEDS_ASKED = 5
"""Seeds that a family of comparisons asks for: where seeds prevail over patients, the first of eight must be
5.2 standard errors from 0 with five seeds, and 12.6 with three (Student's t at 0.05 / 8)."""
APART = 0.1
"""Spread between seeds, in AUROC, from which on it matters: of networks that learn it is 0.03 to 0.08 in the
demo, and one run of five at chance beside four at 0.8 makes 0.13."""


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
        p_values: of the arms, of `ctlib.metrics.stats.crossed_ci.seeds_alike`; corrected here for their number.
        spreads: standard deviation of the AUROC between the seeds of each.
        level: of the test.

    >>> seeds_apart([0.001, 0.001, 0.2], [0.14, 0.03, 0.14]).tolist()
    [True, False, False]
    """
    return (holm(p_values) < 1 - level) & (np.asarray(spreads, dtype=np.float64) >= APART)
