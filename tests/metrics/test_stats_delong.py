"""DeLong's covariance, Holm's family, and what an interval lets one say."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from ctlib.metrics.stats import Bootstrap, delong, holm
from ctlib.metrics.stats.bootstrap import Exams

OVARIAN = """
3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0
2.5 5.7  8 0   1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1
4.1 6.6  5 1   3.6 5.7  5 1   4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0
4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1   3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1
3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1   3.2 5.1  5 1   2.6 4.7  6 1
3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1   3.5 6.2  5 1
2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
3.6 6.6  5 1
"""
"""Albumin, total protein, K-G score and label of 43 patients of DeLong et al. 1988, as SAS/STAT's manual of
PROC LOGISTIC (example 'Comparing Receiver Operating Characteristic Curves') lists and analyses them."""


def ovarian():
    table = np.array(OVARIAN.split(), float).reshape(43, 4)
    return table[:, 3].astype(int), np.stack([10 - table[:, 2], table[:, 0], table[:, 1]])


def test_delong_equals_the_published_worked_example():
    found = delong(*ovarian())
    assert found.aurocs.round(4).tolist() == [0.7258, 0.7366, 0.6478]  # K-G score, albumin, total protein
    assert np.sqrt(np.diag(found.covariance)).round(4).tolist() == [0.1028, 0.0927, 0.1000]
    albumin, protein = found.difference(1, 0), found.difference(2, 0)
    assert (round(albumin.value, 4), round(albumin.se, 4)) == (0.0108, 0.0953)
    assert (round(protein.value, 4), round(protein.se, 4)) == (-0.0780, 0.1046)
    contrast = np.array([[-1, 1, 0], [-1, 0, 1]])
    gap = contrast @ found.aurocs
    statistic = gap @ np.linalg.solve(contrast @ found.covariance @ contrast.T, gap)
    assert round(statistic, 4) == 2.5340 and round(chi2.sf(statistic, 2), 4) == 0.2817


@pytest.mark.parametrize("levels", [0, 1], ids=["no ties", "ties"])
def test_delong_equals_its_definition(levels):
    rng = np.random.default_rng(1)
    labels = np.r_[0, 0, 1, 1, rng.integers(0, 2, 60)]
    scores = rng.normal(size=(3, 64)) + labels
    scores = scores.round(levels) if levels else scores
    components = [[], []]
    for score in scores:
        sick, others = score[labels == 1], score[labels == 0]
        order = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in others] for a in sick])
        components[0].append(order.mean(axis=1))
        components[1].append(order.mean(axis=0))
    wanted = np.cov(components[0]) / labels.sum() + np.cov(components[1]) / (1 - labels).sum()
    found = delong(labels, scores)
    assert found.covariance == pytest.approx(wanted, abs=1e-14)
    assert found.aurocs == pytest.approx(np.mean(components[0], axis=1), abs=1e-14)


def test_the_bootstrap_agrees_with_delong_where_patients_have_one_exam():
    rng = np.random.default_rng(2)
    labels = np.arange(300) % 3 // 2
    scores = rng.normal(size=300) + labels + rng.normal(size=(2, 300))
    exams = Exams(pd.DataFrame({"patient_id": range(300), "label": labels}))
    draws = exams.draw(8000, rng)
    found = np.cov([exams.resampled(score, draws) for score in scores])
    # 3 standard errors of a variance over 8,000 draws are 5 %
    assert found == pytest.approx(delong(labels, scores).covariance, rel=0.06)


def test_intervals_and_what_has_none():
    labels, scores = ovarian()
    found = delong(labels, scores)
    interval = found.interval(1)
    assert 0 < interval.low < found.aurocs[1] < interval.high < 1
    assert found.difference(0, 0).reason and math.isnan(found.difference(0, 0).p_value)
    perfect = delong([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]).interval()
    assert perfect.value == 1.0 and math.isnan(perfect.low) and perfect.reason


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 1, 1], [0.1, 0.2, 0.3], "two of each"),
        ([0, 0, 1, 1], [0.1, 0.2, np.nan, 0.3], "not finite"),
        ([0, 0, 1, 2], [0.1, 0.2, 0.4, 0.3], "neither 0 nor 1"),
        ([0, 0, 1, 1], [0.1, 0.2], "one score a label"),
    ],
)
def test_what_delong_cannot_take_is_refused(labels, scores, words):
    with pytest.raises(ValueError, match=words):
        delong(labels, scores)


# ---- families --------------------------------------------------------------------------


def test_holm_equals_the_worked_example():
    """Four hypotheses, 0.01, 0.04, 0.03, 0.005: 0.03, 0.06, 0.06, 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0] and len(holm([])) == 0


def test_a_comparison_without_a_p_value_is_no_member():
    found = holm([0.02, np.nan, 0.03])
    assert found[[0, 2]] == pytest.approx([0.04, 0.04]) and np.isnan(found[1])


def test_holm_keeps_the_chance_of_any_false_alarm():
    p = np.random.default_rng(3).random((4000, 7))
    assert np.mean([holm(row).min() < 0.05 for row in p]) == pytest.approx(0.05, abs=0.012)
    assert np.mean(p.min(axis=1) < 0.05) > 0.25  # without


def test_the_default_is_ten_thousand_draws():
    assert Bootstrap().n_replicates == 10_000
