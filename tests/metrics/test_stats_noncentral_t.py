"""The noncentral t distribution equals scipy's where that is known, and is known where that is not."""

import math

import numpy as np
import pytest
from scipy.stats import nct, norm

from ctlib.metrics.stats.noncentral_t import moved_at, t_below


@pytest.mark.parametrize("freedom", [1.0, 2.0, 4.3, 30.0])
@pytest.mark.parametrize("moved", [0.0, 1.5, 4.0])
def test_it_equals_scipys(freedom, moved):
    for t in (-1.0, 0.0, 2.0, 6.0):
        assert t_below(t, freedom, moved) == pytest.approx(nct.cdf(t, freedom, moved), abs=1e-4)


def test_without_end_of_freedom_it_is_normal():
    assert t_below(1.0, math.inf, 0.3) == pytest.approx(norm.cdf(0.7), abs=1e-4)


@pytest.mark.parametrize("t", [-30.0, -2.4, 0.0, 2.4, 200.0])
@pytest.mark.parametrize("freedom", [1.0, 4.3, math.inf])
def test_a_root_is_found_wherever_it_lies(t, freedom):
    low, high = (moved_at(t, freedom, tail) for tail in (0.975, 0.025))
    assert low < high and np.isfinite([low, high]).all()
    assert [t_below(t, freedom, moved) for moved in (low, high)] == pytest.approx([0.975, 0.025], abs=1e-6)
    assert moved_at(-t, freedom, 0.025) == pytest.approx(-low, abs=1e-6)
