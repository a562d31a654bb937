"""Intervals with patients, seeds and networks as crossed factors."""

import math

import numpy as np
import pytest
from scipy.special import chdtri, ndtr, stdtrit
from scipy.stats import nct, norm

from ctlib.metrics.crossed_ci import (
    Estimate,
    _covariances,
    for_next,
    for_these,
    freedom_of,
    moved_at,
    seeds_alike,
    t_below,
)


def crossed(rng, m, s, sds, n=4000):
    """Values and replicates of a mean of 0 with normal factors: networks, seeds, rest, and patients' four."""
    network, seed, rest = (
        sd * rng.normal(size=k) for sd, k in zip(sds[:3], ((m, 1), (1, s), (m, s)), strict=True)
    )
    shapes = ((m, s), (m, 1), (1, s), (1, 1))  # of the same run, a network's, a seed's, all runs
    noise = [sd * rng.normal(size=(*shape, n + 1)) for sd, shape in zip(sds[3:], shapes, strict=True)]
    patients = sum(np.broadcast_to(part, (m, s, n + 1)) for part in noise)
    values = network + seed + rest + patients[..., 0]
    return values, values[..., None] + patients[..., 1:]


# ---- degrees of freedom ----------------------------------------------------------------


def coverage(n_seeds, ratio, satterthwaite=False):
    """Of an interval whose true b is `ratio` times the c that is known: integral over estimates of b."""
    quantiles = (np.arange(2000) + 0.5) / 2000
    f = n_seeds - 1
    b = ratio * chdtri(f, 1 - quantiles) / f
    freedom = f * (b + 1) ** 2 / b**2 if satterthwaite else np.array([freedom_of([(x, f)], 1.0) for x in b])
    return float((2 * ndtr(stdtrit(freedom, 0.975) * np.sqrt((b + 1) / (ratio + 1))) - 1).mean())


def test_degrees_of_freedom_cover_whatever_the_share_of_seeds():
    """The figures of the module."""
    three, five = ([coverage(s, r) for r in np.geomspace(0.01, 100, 13)] for s in (3, 5))
    assert min(three) > 0.9365 and max(three) < 0.9545
    assert min(five) > 0.9495 and max(five) < 0.9555
    assert min(coverage(2, r) for r in (5, 10, 30)) == pytest.approx(0.893, abs=0.005)
    assert coverage(3, 10, satterthwaite=True) == pytest.approx(0.922, abs=0.002)


def test_patients_alone_have_their_own_degrees_of_freedom():
    assert freedom_of([], 2.0) == math.inf and freedom_of([], 2.0, 39) == 39
    assert freedom_of([(1.0, 6), (1.0, 2)], 0.0) == pytest.approx(2 / (1 / 6 + 1 / 2))
    assert 2 < freedom_of([(1.0, 2)], 1.0, 5) < freedom_of([(1.0, 2)], 1.0, 500)


# ---- these networks --------------------------------------------------------------------


def test_seeds_that_agree_by_chance_do_not_bring_the_patients_variance_down():
    rng = np.random.default_rng(2)
    shared = 0.03 * rng.normal(size=5000)
    found = for_these(np.array([[0.1, 0.1001, 0.0999]]), np.tile(shared, (1, 3, 1)))
    assert found.interval().half_width == pytest.approx(1.96 * 0.03, rel=0.05)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_where_seeds_alone_vary_they_less_one_are_the_degrees_of_freedom(n_seeds):
    values = np.arange(2.0 * n_seeds).reshape(2, n_seeds)
    assert for_these(values, np.zeros((2, n_seeds, 100))).freedom == pytest.approx(n_seeds - 1)


def test_one_seed_gives_the_interval_over_patients():
    replicates = 0.2 + 0.05 * np.random.default_rng(3).normal(size=(1, 1, 5000))
    found = for_these(np.array([[0.2]]), replicates).interval()
    assert found.value == pytest.approx(0.2) and found.half_width == pytest.approx(1.96 * 0.05, rel=0.05)


def test_what_never_varies_has_no_interval_and_no_p_value():
    found = for_these(np.ones((2, 3)), np.ones((2, 3, 100)))
    assert (
        np.isnan(found.interval().low)
        and found.reason
        and np.isnan(found.p_value)
        and np.isnan(found.p_above)
    )


def test_the_variance_is_that_of_the_mean():
    """Estimated without bias, for these networks and for random ones."""
    rng = np.random.default_rng(4)
    sds = (0.5, 0.3, 0.4, 0.3, 0.2, 0.25, 0.3)
    fixed, population, spread2 = [], [], []
    for _ in range(800):
        values, replicates = crossed(rng, 7, 3, sds, 40)
        fixed.append(for_these(values, replicates).se ** 2)
        found = for_next(values, replicates)
        population.append(found.mean.se**2)
        spread2.append(found.spread**2)
    n, s, r, p1, p2, p3, p4 = (sd**2 for sd in sds)
    patients = p1 / 21 + p2 / 7 + p3 / 3 + p4
    assert np.mean(fixed) == pytest.approx(s / 3 + r / 21 + patients, rel=0.06)
    assert np.mean(population) == pytest.approx(n / 7 + s / 3 + r / 21 + patients, rel=0.06)
    assert np.mean(spread2) == pytest.approx(n, rel=0.08)


# ---- other networks --------------------------------------------------------------------


def test_covariances_are_those_of_the_pairs_of_runs():
    _, replicates = crossed(np.random.default_rng(5), 3, 2, (0, 0, 0, 0.3, 0.2, 0.5, 0.4), 50)
    matrix = np.cov(replicates.reshape(6, 50))
    network, seed = np.divmod(np.arange(6), 2)
    same_network, same_seed = network[:, None] == network, seed[:, None] == seed
    wanted = [
        matrix[(same_network == a) & (same_seed == b)].mean()
        for a, b in ((True, True), (True, False), (False, True), (False, False))
    ]
    assert _covariances(replicates) == pytest.approx(wanted, rel=1e-9)


def test_networks_that_differ_widen_the_interval_of_the_next():
    rng = np.random.default_rng(6)
    alike = for_next(*crossed(rng, 7, 3, (0.0, 0, 0.01, 0.01, 0, 0, 0.01)))
    unlike = for_next(*crossed(rng, 7, 3, (0.5, 0, 0.01, 0.01, 0, 0, 0.01)))
    assert unlike.spread == pytest.approx(0.5, rel=0.6) and alike.spread < 0.02
    assert unlike.low_spread < unlike.spread < unlike.high_spread
    widths = [part.interval().half_width for part in (alike.next, unlike.mean, unlike.next)]
    assert widths[0] < widths[1] < widths[2]
    assert widths[2] == pytest.approx(stdtrit(6, 0.975) * unlike.spread * math.sqrt(8 / 7), rel=0.1)


def test_p_values_and_intervals_agree():
    for value in np.linspace(-0.3, 0.3, 61):
        found = Estimate(value, 0.07, 3.7)
        for level in (0.9, 0.95):
            interval = found.interval(level)
            assert (found.p_value < 1 - level) == (interval.low > 0 or interval.high < 0)
            assert (found.p_above > (1 + level) / 2) == (interval.low > 0)


@pytest.mark.parametrize(
    ("m", "s", "words"), [(2, 3, "2 networks and 3 seeds"), (7, 1, "7 networks and 1 seed;")]
)
def test_too_few_networks_or_seeds_say_nothing_of_others(m, s, words):
    found = for_next(np.zeros((m, s)), np.zeros((m, s, 10)))
    assert words in found.reason and np.isnan([found.spread, found.mean.se, found.next.p_above]).all()


def test_shares_stay_between_0_and_1():
    found = Estimate(0.97, 0.05, 2.0).share_interval()
    assert 0 < found.low < 0.97 < found.high < 1
    assert np.isnan(Estimate(1.0, 0.0, 2.0).share_interval().low)
    assert Estimate(0.97, 50.0, 1.0).share_interval().high == 1.0


# ---- tails of a family -------------------------------------------------------------------


def rejected(n_seeds, ratio, alpha):
    """Share of true nulls with a p-value below alpha; b is `ratio` times the c that is known."""
    f, quantiles = n_seeds - 1, (np.arange(60) + 0.5) / 60
    shares = []
    for b in ratio * chdtri(f, 1 - quantiles) / f:
        se, freedom = math.sqrt(b + 1), freedom_of([(b, f)], 1.0)
        low, high = 0.0, 1e4
        for _ in range(40):
            middle = (low + high) / 2
            too_small = Estimate(middle, se, freedom, "", b, f).p_value > alpha
            low, high = (middle, high) if too_small else (low, middle)
        shares.append(2 * ndtr(-low / math.sqrt(ratio + 1)))
    return float(np.mean(shares))


def test_a_p_value_of_a_family_is_not_too_small_where_seeds_are_few():
    """The figures of the module; the t alone rejects 3.2 times too often."""
    assert max(rejected(3, ratio, 0.05 / 8) for ratio in (0.5, 2, 20)) < 1.6 * 0.05 / 8
    assert max(rejected(5, ratio, 0.05 / 8) for ratio in (0.5, 20)) < 1.06 * 0.05 / 8


def test_a_p_value_is_below_five_percent_exactly_where_the_interval_leaves_0_out():
    rng = np.random.default_rng(2)
    values = [
        Estimate(x, 1.0, freedom_of([(0.6, 2)], 0.4, 80), "", 0.6, 2, 80) for x in rng.uniform(0, 6, 300)
    ]
    for one in values:
        assert (one.p_value < 0.05) == (one.interval().low > 0)
    ordered = [one.p_value for one in sorted(values, key=lambda one: one.value)]
    assert (np.diff(ordered) <= 1e-12).all()


def test_seeds_that_differ_by_their_patients_alone_are_alike():
    rng = np.random.default_rng(6)
    p_values = []
    for _ in range(400):
        values, drawn = 0.7 + rng.normal(0, 0.03, 5), rng.normal(0, 0.03, (5, 400))
        shared = rng.normal(0, 0.1, 401)
        p_values.append(seeds_alike(values + shared[0], drawn + shared[1:]))
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.033)  # three standard errors
    apart = np.array([0.85, 0.84, 0.86, 0.5, 0.85])
    assert seeds_alike(apart, drawn) < 1e-6
    assert math.isnan(seeds_alike(apart[:1], drawn[:1])) and math.isnan(seeds_alike(apart, 0 * drawn))


# ---- noncentral t ------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [1.0, 2.0, 4.3, 30.0])
@pytest.mark.parametrize("moved", [0.0, 1.5, 4.0])
def test_the_noncentral_t_equals_scipys(freedom, moved):
    for t in (-1.0, 0.0, 2.0, 6.0):
        assert t_below(t, freedom, moved) == pytest.approx(nct.cdf(t, freedom, moved), abs=1e-4)


def test_without_end_of_freedom_the_noncentral_t_is_normal():
    assert t_below(1.0, math.inf, 0.3) == pytest.approx(norm.cdf(0.7), abs=1e-4)


@pytest.mark.parametrize("t", [-30.0, -2.4, 0.0, 2.4, 200.0])
@pytest.mark.parametrize("freedom", [1.0, 4.3, math.inf])
def test_a_root_is_found_wherever_it_lies(t, freedom):
    low, high = (moved_at(t, freedom, tail) for tail in (0.975, 0.025))
    assert low < high and np.isfinite([low, high]).all()
    assert [t_below(t, freedom, moved) for moved in (low, high)] == pytest.approx([0.975, 0.025], abs=1e-6)
    assert moved_at(-t, freedom, 0.025) == pytest.approx(-low, abs=1e-6)
