"""The smallest difference is that of the closed formula, of the protocol, and of simulated readers."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from ctlib.metrics.power import (
    ASSUMED,
    CORRELATIONS,
    Design,
    Scored,
    Seeds,
    auroc_variance,
    measured_seeds,
    sentence,
    sheet,
    smallest_difference,
)

RSPECT = Scored(328, 764)
"""1,092 exams at a prevalence of 0.30."""


# the formula, by hand


def test_variance_by_hand():
    # A = 3/4: Q1 = 3/5, Q2 = 2 (9/16) / (7/4) = 9/14; n+ = 3, n- = 5
    by_hand = (3 / 16 + 2 * (3 / 5 - 9 / 16) + 4 * (9 / 14 - 9 / 16)) / 15
    assert auroc_variance(0.75, Scored(3, 5)) == pytest.approx(by_hand, rel=1e-12)


def test_one_patient_of_each_class_is_a_coin():
    assert auroc_variance(0.75, Scored(1, 1)) == pytest.approx(0.75 * 0.25)


def test_more_patients_with_disease_and_more_without_count_differently():
    assert auroc_variance(0.85, Scored(300, 100)) != pytest.approx(
        auroc_variance(0.85, Scored(100, 300)), rel=0.01
    )


@pytest.mark.parametrize(
    ("scored", "best", "worst"),
    [(RSPECT, 0.025, 0.040), (Scored(91, 61), 0.054, 0.085), (Scored(606, 404), 0.021, 0.033)],
)
def test_figures_of_the_protocol(scored, best, worst):
    found = [smallest_difference(scored, Design(correlation=r)) for r in CORRELATIONS]
    assert CORRELATIONS == (0.8, 0.5)
    assert [round(d, 3) for d in found] == [best, worst]


def test_the_closed_formula_of_a_pair():
    design = Design(auroc=0.8, correlation=0.3, power=0.9, alpha=0.01)
    sd = math.sqrt(2 * auroc_variance(0.8, RSPECT) * 0.7)
    assert smallest_difference(RSPECT, design) == pytest.approx((norm.ppf(0.995) + norm.ppf(0.9)) * sd)
    # with one seed, nothing of seeds or of other runs enters
    assert smallest_difference(
        RSPECT, replace(design, excess=0.2, of_seeds=Seeds(1.0, ""))
    ) == smallest_difference(RSPECT, design)


def test_folds_pooled_see_a_little_more_than_their_mean():
    pooled, averaged = auroc_variance(0.85, Scored(606, 404)), auroc_variance(0.85, Scored(606, 404, folds=5))
    assert pooled < averaged < 1.02 * pooled


# networks and seeds


def covariance_of_runs(scored, design):
    """Covariance over patients of all runs: [init, network, seed], from the assumptions and nothing else."""
    n, v = design.networks * design.seeds, auroc_variance(design.auroc, scored)
    across = 0.1  # r3; of no account
    block = np.full((n, n), across + design.excess) + np.eye(n) * (1 - across - design.excess)
    other = np.full((n, n), across) + np.eye(n) * (design.correlation - across)
    return v * np.block([[block, other], [other, block]])


@pytest.mark.parametrize(("networks", "seeds"), [(1, 1), (7, 1), (1, 3), (7, 3), (4, 5)])
def test_variance_of_the_mean_is_that_of_all_runs(networks, seeds):
    design = Design(networks, seeds, correlation=0.6, excess=0.04, of_seeds=Seeds(0.013, ""))
    n = networks * seeds
    weight = np.r_[np.full(n, 1 / n), np.full(n, -1 / n)]
    variance = weight @ covariance_of_runs(RSPECT, design) @ weight
    found = smallest_difference(RSPECT, design)
    if seeds == 1:
        assert found == pytest.approx((norm.ppf(0.975) + norm.ppf(0.8)) * math.sqrt(variance))
        return
    between = design.seed_sd**2 / n + variance - 2 * auroc_variance(0.85, RSPECT) * 0.04
    variance += design.seed_sd**2 / n
    freedom = variance**2 / (between**2 / (seeds - 1))
    assert found == pytest.approx(
        (student.ppf(0.975, freedom) + student.ppf(0.8, freedom)) * math.sqrt(variance)
    )


def test_runs_help_and_never_make_patients_needless():
    pair = smallest_difference(RSPECT, Design(correlation=0.6))
    mean = smallest_difference(RSPECT, Design(7, 5, correlation=0.6))
    endless = smallest_difference(RSPECT, Design(1000, 1000, correlation=0.6))
    floor = (norm.ppf(0.975) + norm.ppf(0.8)) * math.sqrt(2 * auroc_variance(0.85, RSPECT) * 0.05)
    assert pair > mean > endless
    assert endless == pytest.approx(floor, rel=0.01)


def test_where_seeds_share_all_that_varies_only_patients_count():
    design = Design(1, 2, correlation=0.5, excess=0.5, of_seeds=Seeds(0.0, ""))  # all variance is shared
    alone = (norm.ppf(0.975) + norm.ppf(0.8)) * math.sqrt(2 * auroc_variance(0.85, RSPECT) * 0.5)
    assert smallest_difference(RSPECT, design) == pytest.approx(alone)


# simulation


def placements(scores, n_positive):
    """Of each patient, the share of the other class in the right order: `[repeats, patients]`."""
    n_negative = scores.shape[1] - n_positive
    positive, negative = scores[:, :n_positive], scores[:, n_positive:]
    rank = rankdata(scores, axis=1)
    of_positive = (rank[:, :n_positive] - rankdata(positive, axis=1)) / n_negative
    of_negative = 1 - (rank[:, n_positive:] - rankdata(negative, axis=1)) / n_positive
    return of_positive, of_negative


def seen(difference, scored, within, repeats, seed, spread=1.6):
    """Share of DeLong's tests (1988) at 5 % that see a difference, and the correlation of the AUROCs.

    Normal scores, `spread` times as wide with disease; two readings of a patient correlate by `within`.
    """
    rng = np.random.default_rng(seed)
    ill = np.arange(scored.n_patients) < scored.n_positive
    common = rng.normal(size=(repeats, scored.n_patients))
    aurocs, parts = [], []
    for auroc in (0.85 - difference / 2, 0.85 + difference / 2):
        own = rng.normal(size=common.shape)
        noise = math.sqrt(within) * common + math.sqrt(1 - within) * own
        scores = math.hypot(1, spread) * norm.ppf(auroc) * ill + noise * np.where(ill, spread, 1)
        parts.append(placements(scores, scored.n_positive))
        aurocs.append(parts[-1][0].mean(axis=1))
    variance = sum(np.var(b - a, axis=1, ddof=1) / a.shape[1] for a, b in zip(*parts, strict=True))
    return (np.abs(aurocs[1] - aurocs[0]) > 1.96 * np.sqrt(variance)).mean(), np.corrcoef(aurocs)[0, 1]


@pytest.mark.parametrize("within", [0.0, 0.6])
def test_the_power_at_that_difference_is_as_asked(within):
    scored = Scored(180, 270)
    size, correlation = seen(0.0, scored, within, 6000, seed=1)
    correlation = 0.0 if within == 0 else float(correlation)
    assert size == pytest.approx(0.05, abs=0.02)
    difference = smallest_difference(scored, Design(correlation=correlation, excess=0.0))
    assert seen(difference, scored, within, 6000, seed=2)[0] == pytest.approx(0.8, abs=0.03)
    assert seen(0.7 * difference, scored, within, 6000, seed=3)[0] < 0.6


@pytest.mark.parametrize(("scored", "share"), [(RSPECT, 0.77), (Scored(695, 315), 1.18)])
def test_how_much_the_shape_of_scores_matters(scored, share):
    """The figures of the module: the exact variance of normal scores of equal spread, by integration."""
    x = np.linspace(-10, 10, 4001)
    q = np.trapezoid(norm.pdf(x) * norm.cdf(math.sqrt(2) * norm.ppf(0.85) - x) ** 2, x)
    spread = 0.85 * 0.15 + (scored.n_patients - 2) * (q - 0.85**2)
    exact = spread / (scored.n_positive * scored.n_negative)
    assert exact / auroc_variance(0.85, scored) == pytest.approx(share, abs=0.005)


def test_the_power_of_a_mean_over_networks_and_seeds_is_as_asked():
    """Differences of runs drawn with the assumed covariance, tested with the degrees of freedom of Hillis."""
    design = Design(3, 4, correlation=0.5, excess=0.05, of_seeds=Seeds(0.02, ""))
    rng = np.random.default_rng(4)
    n, repeats = design.networks * design.seeds, 4000
    root = np.linalg.cholesky(covariance_of_runs(RSPECT, design) + 1e-15 * np.eye(2 * n))
    arms = (rng.normal(size=(repeats, 2 * n)) @ root.T).reshape(repeats, 2, design.networks, design.seeds)
    gain = arms[:, 1] - arms[:, 0] + design.seed_sd * rng.normal(size=(repeats, *arms.shape[2:]))
    of_seed = smallest_difference(RSPECT, design) + gain.mean(axis=1)
    shared = 2 * auroc_variance(0.85, RSPECT) * design.excess
    between = of_seed.var(axis=1, ddof=1) / design.seeds
    freedom = (between + shared) ** 2 / (between**2 / (design.seeds - 1))
    half = student.ppf(0.975, freedom) * np.sqrt(between + shared)
    assert (of_seed.mean(axis=1) > half).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("networks", [1, 2, 5])
def test_networks_that_score_the_same_patients_share_their_error(networks):
    """Scores of made-up networks; r and e are measured on pairs of them, and give the spread of any mean."""
    scored, repeats, most = Scored(60, 90), 4000, 5
    rng = np.random.default_rng(5)
    shares = {"patient": 0.4, "init": 0.15, "network": 0.15, "own": 0.3}
    shapes = {"patient": (1, 1), "init": (2, 1), "network": (1, most), "own": (2, most)}
    scores = sum(
        math.sqrt(share) * rng.normal(size=(*shapes[name], repeats, scored.n_patients))
        for name, share in shares.items()
    )
    scores[..., : scored.n_positive] += math.sqrt(2) * norm.ppf(0.85)
    flat = scores.reshape(-1, scored.n_patients)
    aurocs = placements(flat, scored.n_positive)[0].mean(axis=1).reshape(2, most, repeats)
    r = np.mean([np.corrcoef(aurocs[:, m])[0, 1] for m in range(most)])
    apart = [(i, j) for i in range(most) for j in range(most) if i != j]
    same, across = (
        np.mean([np.corrcoef(aurocs[0, i], aurocs[init, j])[0, 1] for i, j in apart]) for init in (0, 1)
    )
    assert 0.4 < r < 0.6 and 0.08 < same - across < 0.2
    found = (aurocs[1, :networks] - aurocs[0, :networks]).mean(axis=0).std()
    design = Design(networks, correlation=float(r), excess=float(same - across))
    # equal spreads: V is not that of Hanley and McNeil (see the module), so the share of a pair is compared
    pair = 2 * aurocs.var(axis=2).mean()
    ours = smallest_difference(scored, design) ** 2 / (norm.ppf(0.975) + norm.ppf(0.8)) ** 2
    ours *= pair / (2 * auroc_variance(0.85, scored))
    assert found**2 == pytest.approx(ours, rel=0.06)
    if networks == most:  # were patients drawn anew for each network, it would be a fifth of a pair's
        assert found**2 > 1.5 * pair * (1 - r) / networks


# the sheet, and what is refused


def test_the_sheet_has_a_row_a_task():
    found = sheet({"rspect_pe": RSPECT, "lidc_nodule": Scored(91, 61)}, Design(7, 3))
    assert found.columns.tolist() == [
        *("task", "patients", "with disease"),
        *("pair, r=0.8", "pair, r=0.5", "mean, r=0.8", "mean, r=0.5"),
        *("SD of seeds", "SD from"),
    ]
    assert found["patients"].tolist() == [1092, 152]
    assert found["pair, r=0.5"].round(3).tolist() == [0.040, 0.085]
    assert (found["mean, r=0.5"] < found["pair, r=0.5"]).all()
    assert "7 networks and 3 seeds" in sentence(Design(7, 3))


def test_the_sheet_says_where_the_spread_of_seeds_is_from():
    known = Seeds(0.05, "40 finished runs of this profile")
    design = Design(7, 3, of_seeds=known)
    found = sheet({"rspect_pe": RSPECT}, design)
    assert found.loc[0, ["SD of seeds", "SD from"]].tolist() == [0.05, "40 finished runs of this profile"]
    assert "standard deviation of 0.050 (40 finished runs of this profile), a pair's difference 0.071" in (
        sentence(design)
    )
    assert ASSUMED["tiny"].source in sentence(Design(7, 3, of_seeds=ASSUMED["tiny"]))
    assert smallest_difference(RSPECT, design) > smallest_difference(RSPECT, Design(7, 3))


def test_the_spread_of_seeds_is_pooled_within_arms():
    rng = np.random.default_rng(2)
    arms = pd.DataFrame({"backbone": list("abcdefgh"), "auroc": np.linspace(0.6, 0.9, 8)})
    runs = pd.concat([arms.assign(seed=seed) for seed in range(40)])
    runs = runs.assign(
        task="t", fraction=1.0, init="random", auroc=runs["auroc"] + 0.03 * rng.normal(size=320)
    )
    found = measured_seeds(runs)
    assert found.sd == pytest.approx(0.03, abs=0.003) and found.source == "320 finished runs of this profile"
    lost = runs.assign(auroc=runs["auroc"].where(runs["seed"] > 0))
    assert measured_seeds(lost).source.startswith("312")
    # two folds of a seed are one AUROC, and few runs are not enough
    folds = pd.concat([runs.assign(auroc=runs["auroc"] + shift) for shift in (-0.1, 0.1)])
    assert measured_seeds(folds).sd == pytest.approx(found.sd)
    assert measured_seeds(runs[runs["seed"] < 2]) is None
    assert measured_seeds(runs[(runs["seed"] < 11) & (runs["backbone"] == "a")]) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        *({"networks": 0}, {"seeds": 0}, {"auroc": 1.0}, {"auroc": 0.4}, {"correlation": 1.0}),
        *({"excess": 0.6}, {"excess": -0.1}, {"power": 0.5}, {"alpha": 0.0}),
    ],
)
def test_values_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} is {wrong[name]}"):
        Design(**wrong)


def test_a_spread_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"seed_sd is -1\.\d+; give a correlation .*, a spread from 0"):
        Design(of_seeds=Seeds(-1.0, "made up"))


@pytest.mark.parametrize("wrong", [(0, 5), (5, 0), (5, 4, 5), (5, 5, 0)])
def test_a_test_set_without_a_class_is_refused(wrong):
    with pytest.raises(ValueError, match="an AUROC needs one of each"):
        Scored(*wrong)
