"""Whether scores are probabilities, what acting on them is worth, and how sure that is."""

import math

import numpy as np
import pytest
from made_up_results import made_up, plain
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from test_runs_table import QUICK, change, grid

from ctlib.metrics import (
    Bootstrap,
    arms_of,
    calibration_intercept,
    calibration_slope,
    decision_curve,
    decision_curves,
    ece,
    ece_floor,
    reliability,
    study_scores,
)

FIVE = ["penet", "mvit_b", "swin3d_t", "slow_r50", "csn_r101"]
VIDEO = arms_of(FIVE, "video")


def forecasts(n=997, slope=1.0, shift=0.0, seed=0):
    """Labels drawn from log odds, and the scores that are wrong by a slope and a shift."""
    rng = np.random.default_rng([13, seed])
    odds = 1.5 * rng.normal(size=n)
    return (rng.random(n) < expit(odds)).astype(int), expit((odds - shift) / slope)


def test_the_floor_is_the_mean_error_of_scores_that_are_right():
    rng = np.random.default_rng(4)
    scores = rng.beta(0.7, 1.5, 88)
    drawn = [ece(rng.random(88) < scores, scores).value for _ in range(400)]
    assert ece_floor(scores).value == pytest.approx(np.mean(drawn), abs=0.005)
    assert ece_floor(scores) == ece_floor(rng.permutation(scores)) != ece_floor(scores, seed=1)
    assert ece_floor(scores, 5).value < ece_floor(scores, 20).value
    assert ece_floor(np.repeat([0.0, 1.0], 20)).value == 0.0  # certain and right
    assert ece_floor([0.5] * 16, n_draws=20_000).value == pytest.approx(
        sum(math.comb(16, k) * abs(k / 16 - 0.5) for k in range(17)) / 2**16, abs=0.003
    )


def test_the_floor_refuses_what_is_no_score():
    assert ece_floor([]).reason == "no case"
    assert ece_floor([0.2, np.nan]).reason == "1 of 2 scores are not finite"
    for wrong, said in (([1.5], "a score is 1.5"), ([0.5], "n_bins is 0")):
        with pytest.raises(ValueError, match=said):
            ece_floor(wrong, n_bins=0 if wrong == [0.5] else 10)


def test_the_reliability_curve_equals_sklearn():
    labels, scores = forecasts(1000)
    observed, score = calibration_curve(labels, scores, n_bins=8, strategy="quantile")
    bins = reliability(labels, scores, 8)
    assert bins["n"].tolist() == [125] * 8
    assert bins["observed"].to_numpy() == pytest.approx(observed, abs=1e-12)
    assert bins["score"].to_numpy() == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("n_bins", [1, 7, 10])
def test_ece_is_the_mean_distance_in_bins_of_equal_mass(n_bins):
    labels, scores = forecasts()
    total, order = 0.0, np.argsort(scores)
    for k in range(n_bins):
        part = order[k * 997 // n_bins : (k + 1) * 997 // n_bins]
        total += len(part) / 997 * abs(sum(labels[part]) / len(part) - sum(scores[part]) / len(part))
    assert ece(labels, scores, n_bins).value == pytest.approx(total, abs=1e-12)


def test_equal_scores_share_a_bin_whatever_the_order_of_rows():
    labels, scores = forecasts()
    rough = scores.round(1)
    bins, shuffle = reliability(labels, rough, 10), np.random.default_rng(0).permutation(997)
    assert bins["n"].sum() == 997 and len(bins) < 11
    assert reliability(labels[shuffle], rough[shuffle], 10).equals(bins)
    assert ece([0, 1], [0.5, 0.5], 10).value == 0.0  # one bin, half of it disease


def test_slope_and_intercept_equal_a_logistic_regression():
    labels, scores = forecasts(slope=0.6, shift=0.4)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit(scores)[:, None], labels)
    assert calibration_slope(labels, scores).value == pytest.approx(model.coef_.item(), abs=1e-5)
    added = calibration_intercept(labels, scores).value
    assert expit(logit(scores) + added).mean() == pytest.approx(labels.mean(), abs=1e-9)


def test_what_was_put_into_scores_is_found_again():
    labels, scores = forecasts(40_000, slope=0.5, shift=0.0)  # twice too extreme
    assert calibration_slope(labels, scores).value == pytest.approx(0.5, abs=0.03)
    labels, scores = forecasts(40_000, shift=0.7)  # too low
    assert calibration_intercept(labels, scores).value == pytest.approx(0.7, abs=0.06)
    assert calibration_slope(labels, scores).value == pytest.approx(1.0, abs=0.05)


def test_a_slope_that_does_not_exist_is_nan_with_a_reason():
    assert calibration_slope([0, 1, 1], [0.1, 0.6, 0.7]).reason == "the scores part the classes"
    assert calibration_slope([0, 1, 0], [0.6, 0.6, 0.7]).reason == "the scores part the classes"
    assert calibration_slope([0, 1], [0.6, 0.6]).reason == "all 2 scores are equal"
    certain = calibration_slope([0, 1, 0, 1], [0.0, 1.0, 1.0, 0.4])  # 0 and 1 have no log odds
    assert np.isfinite(certain.value) and np.isfinite(calibration_intercept([0, 1], [0.0, 1.0]).value)


# ---- decisions -------------------------------------------------------------------------


def test_net_benefit_is_that_of_counting_alarms():
    labels, scores = forecasts()
    curve = decision_curve(labels, scores.round(2), [0.05, 0.2, 0.5, 0.9])
    for t, benefit, everyone, none in curve.values:
        alarm = scores.round(2) >= t
        wanted = np.mean(alarm & (labels == 1)) - np.mean(alarm & (labels == 0)) * t / (1 - t)
        assert benefit == pytest.approx(wanted, abs=1e-12) and none == 0
        assert everyone == pytest.approx(labels.mean() - (1 - labels.mean()) * t / (1 - t), abs=1e-12)
    assert len(decision_curve(labels, scores)) == 99


def test_a_decision_curve_without_scores_has_no_row():
    assert len(decision_curve([], [])) == len(decision_curve([0, 1], [np.nan, 0.5])) == 0
    assert len(reliability([0, 1], [np.nan, 0.5])) == 0
    with pytest.raises(ValueError, match="a threshold is 1"):
        decision_curve([0, 1], [0.2, 0.5], [0.5, 1.0])


# ---- decision curves -------------------------------------------------------------------


def test_decision_curves_are_means_over_seeds_with_intervals_over_patients():
    runs, predictions = grid(seeds=1, n=200, networks=FIVE)
    table = decision_curves(runs, predictions, {"video": VIDEO[:1]}, [0.1, 0.5], Bootstrap(4000, 1))
    assert table["threshold"].tolist() == [0.1, 0.5] and set(table["reason"]) == {""}
    own = study_scores(predictions[predictions["run_id"] == "penet-video-0"])
    wanted = decision_curve(own["label"], own["score"], [0.1, 0.5])
    for column in ("net_benefit", "treat_all", "treat_none"):
        assert table[column].to_numpy() == pytest.approx(wanted[column].to_numpy(), abs=1e-12)
    sick, acted = own["label"] == 1, own["score"] >= 0.5  # a price of 1: two shares of 100 patients each
    spread = np.sqrt(sum(acted[c].var(ddof=1) / 100 for c in (sick, ~sick))) / 2
    assert (table["high"] - table["low"])[1] / 2 == pytest.approx(1.972 * spread, rel=0.05)
    runs, predictions = grid(networks=FIVE)
    three = decision_curves(runs, predictions, {arm[0]: [arm] for arm in VIDEO}, [0.3], QUICK)
    assert len(three) == 5 and (three["low"] < three["net_benefit"]).all() and (three["n_seeds"] == 3).all()
    mean = decision_curves(runs, predictions, {"video": VIDEO}, [0.3], QUICK)
    assert mean["net_benefit"].item() == pytest.approx(three["net_benefit"].mean(), abs=1e-12)
    widths = three["high"] - three["low"]
    assert 0 < (mean["high"] - mean["low"]).item() < widths.max()


def test_the_interval_of_a_decision_curve_holds_what_seeds_do():
    made = made_up(plain({}), ("random",), n_patients=300, tasks=["lidc_nodule"], fractions=[1.0])
    seed = made.predictions["run_id"].map(made.runs.set_index("run_id")["seed"])
    apart = made.predictions.assign(score=made.predictions["score"] ** (4.0 ** (seed - 1)))
    alike, wide = (
        decision_curves(made.runs, scores, {"slow": [("slow_r50", "random")]}, [0.4], QUICK).iloc[0]
        for scores in (made.predictions, apart)
    )
    assert wide["high"] - wide["low"] > 2 * (alike["high"] - alike["low"])


def test_a_decision_curve_with_a_missing_run_is_named():
    runs, predictions = grid(networks=FIVE)
    table = decision_curves(
        change(runs, "penet-video-1", status="failed"),
        predictions,
        {"a": VIDEO[:1], "b": VIDEO[1:2]},
        [0.3],
        QUICK,
    )
    assert table["net_benefit"].isna().tolist() == [True, False]
    assert "run penet-video-1 is failed" in table["reason"][0] and np.isfinite(table["treat_all"]).all()
