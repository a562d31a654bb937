"""Draws of patients and the AUROC on each of them."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from sklearn.metrics import roc_auc_score

from ctlib.metrics import auroc
from ctlib.metrics.bootstrap import Exams, components


def exams_of(n=50, n_patients=30, seed=0, folds=1):
    """Patients with several exams; of those with disease a fifth of the exams show none."""
    rng = np.random.default_rng([61, seed])
    patient = rng.integers(0, n_patients, n)
    label = ((patient // folds) % 2 == 0) & (rng.random(n) < 0.8)
    return pd.DataFrame({"patient_id": patient, "label": label.astype(int), "fold": patient % folds})


@pytest.mark.parametrize("levels", [1, 10, 0], ids=["many ties", "some ties", "no ties"])
def test_the_auroc_of_a_draw_is_that_of_the_drawn_exams(levels):
    table = exams_of()
    score = np.random.default_rng(0).random(50)
    score = np.round(score, levels) if levels else score
    exams = Exams(table)
    draws = exams.draw(20, np.random.default_rng(1))
    found = exams.resampled(score, draws)
    for b in range(20):
        times = draws.times[:, b]
        wanted = roc_auc_score(np.repeat(table["label"], times), np.repeat(score, times))
        assert found[b] == pytest.approx(wanted, abs=1e-12)
    assert exams.auroc(score) == pytest.approx(auroc(table["label"], score).value, abs=1e-12)


def test_pairs_too_many_for_float32_are_counted_as_well(monkeypatch):
    table, score = exams_of(), np.random.default_rng(0).random(50).round(1)
    exams = Exams(table)
    draws = exams.draw(20, np.random.default_rng(1))
    found = exams.resampled(score, draws)
    monkeypatch.setattr("ctlib.metrics.bootstrap.EXACT", 0)
    assert (exams.resampled(score, draws) == found).all()


def test_all_exams_of_a_patient_are_drawn_together_and_classes_keep_their_size():
    label = np.array([1, 0, 0, 1, 1, 0, 0, 0, 1])
    patient = np.array(list("aabbbcdde"))
    times = (
        Exams(pd.DataFrame({"patient_id": patient, "label": label})).draw(200, np.random.default_rng(0)).times
    )
    by_patient = [times[patient == p] for p in "abcde"]
    assert all((part == part[:1]).all() for part in by_patient)
    sick = by_patient[0][0] + by_patient[1][0] + by_patient[4][0]
    assert (sick == 2).all() and (by_patient[2][0] + by_patient[3][0] == 1).all()  # n - 1 of each
    assert len(np.unique(times, axis=1).T) > 10


def test_one_drawn_fewer_makes_the_variance_that_of_a_mean():
    """Scores that put each exam above or below all of the other class: the AUROC is a mean over patients."""
    rng = np.random.default_rng(3)
    label = np.r_[np.ones(12, int), np.zeros(400, int)]
    score = np.r_[np.where(rng.random(12) < 0.7, 2.0, -2.0), rng.random(400)]
    exams = Exams(pd.DataFrame({"patient_id": range(412), "label": label}))
    found = exams.resampled(score, exams.draw(20_000, rng)).var(ddof=1)
    assert found == pytest.approx((score[:12] > 1).var(ddof=1) / 12, rel=0.03)  # n of n would give 11/12


def test_blocks_of_draws_do_not_matter_but_to_the_order(monkeypatch):
    monkeypatch.setattr("ctlib.metrics.bootstrap.BLOCK", 64)
    times = Exams(exams_of()).draw(500, np.random.default_rng(1)).times
    assert times.shape == (50, 500) and len(np.unique(times, axis=1).T) == 500


# ---- folds -----------------------------------------------------------------------------


def test_exams_of_different_folds_are_never_ranked_against_each_other():
    table = exams_of(200, 80, folds=4)
    rng = np.random.default_rng(5)
    score = table["label"] + rng.normal(size=200)
    exams = Exams(table)
    shifted = score + 10 * table["fold"]  # each fold's network on a scale of its own
    assert exams.auroc(shifted.to_numpy()) == exams.auroc(score.to_numpy())
    draws = exams.draw(50, rng)
    assert (exams.resampled(shifted.to_numpy(), draws) == exams.resampled(score.to_numpy(), draws)).all()
    assert roc_auc_score(table["label"], shifted) < 0.6 < exams.auroc(score.to_numpy()) - 0.05  # pooled

    parts = [
        (roc_auc_score(p["label"], score[p.index]), p["label"].sum() * (1 - p["label"]).sum())
        for _, p in table.groupby("fold")
    ]
    values, weights = zip(*parts, strict=True)
    assert exams.auroc(score.to_numpy()) == pytest.approx(np.average(values, weights=weights), abs=1e-12)
    for fold in range(4):
        for label in (0, 1):
            members = (exams._patient_fold == fold) & (exams.patient_label == label)
            of_patient = np.stack([draws.times[exams._patient == p][0] for p in np.flatnonzero(members)])
            assert (of_patient.sum(axis=0) == members.sum() - 1).all()


def test_a_fold_without_a_class_is_named():
    table = exams_of(40, 20, folds=2)
    table.loc[table["fold"] == 1, "label"] = 0
    exams = Exams(table)
    assert "of fold 1 are 0" in exams.one_class() and "in fold 1" in exams.few
    with pytest.raises(ValueError, match="of fold 1 are 0"):
        exams.auroc(np.zeros(40))
    with pytest.raises(ValueError, match="in fold 1"):
        exams.draw(5, np.random.default_rng(0))


def test_a_patient_in_two_folds_is_refused():
    table = pd.DataFrame({"patient_id": ["a", "a", "b"], "label": [0, 1, 1], "fold": [0, 1, 0]})
    with pytest.raises(ValueError, match="patient a is in the test split of two folds"):
        Exams(table)


# ---- DeLong's covariance -----------------------------------------------------------------


def delong(labels, scores):
    """AUROCs `[k]` of scores `[k, n]` of the same exams, and their covariance (DeLong et al. 1988)."""
    of_positive, of_negative = components(labels, scores)
    covariance = np.cov(of_positive) / labels.sum() + np.cov(of_negative) / (1 - labels).sum()
    return of_positive.mean(axis=1), np.atleast_2d(covariance)


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
    aurocs, covariance = delong(*ovarian())
    assert aurocs.round(4).tolist() == [0.7258, 0.7366, 0.6478]  # K-G score, albumin, total protein
    assert np.sqrt(np.diag(covariance)).round(4).tolist() == [0.1028, 0.0927, 0.1000]
    contrast = np.array([[-1, 1, 0], [-1, 0, 1]])
    gap, spread = contrast @ aurocs, contrast @ covariance @ contrast.T
    assert gap.round(4).tolist() == [0.0108, -0.0780]
    assert np.sqrt(np.diag(spread)).round(4).tolist() == [0.0953, 0.1046]
    statistic = gap @ np.linalg.solve(spread, gap)
    assert round(statistic, 4) == 2.5340 and round(chi2.sf(statistic, 2), 4) == 0.2817


@pytest.mark.parametrize("levels", [0, 1], ids=["no ties", "ties"])
def test_components_are_shares_of_the_other_class(levels):
    rng = np.random.default_rng(1)
    labels = np.r_[0, 0, 1, 1, rng.integers(0, 2, 60)]
    scores = rng.normal(size=(3, 64)) + labels
    scores = scores.round(levels) if levels else scores
    for score, *found in zip(scores, *components(labels, scores), strict=True):
        apart = score[labels == 1][:, None] - score[labels == 0]
        order = (np.sign(apart) + 1) / 2
        assert found[0] == pytest.approx(order.mean(axis=1), abs=1e-14)
        assert found[1] == pytest.approx(order.mean(axis=0), abs=1e-14)


def test_the_bootstrap_agrees_with_delong_where_patients_have_one_exam():
    rng = np.random.default_rng(2)
    labels = np.arange(300) % 3 // 2
    scores = rng.normal(size=300) + labels + rng.normal(size=(2, 300))
    exams = Exams(pd.DataFrame({"patient_id": range(300), "label": labels}))
    draws = exams.draw(8000, rng)
    found = np.cov([exams.resampled(score, draws) for score in scores])
    # 3 standard errors of a variance over 8,000 draws are 5 %
    assert found == pytest.approx(delong(labels, scores)[1], rel=0.06)


# ---- degrees of freedom by class ---------------------------------------------------------


def test_parts_by_class_are_those_of_delong():
    rng = np.random.default_rng(8)
    label = np.r_[np.ones(7, int), np.zeros(60, int)]
    score = rng.normal(size=67) + 1.3 * label
    exams = Exams(pd.DataFrame({"patient_id": range(67), "label": label}))
    ill, well = (exams.influence(score)[label == one] for one in (1, 0))
    parts = [len(part) * part.var(ddof=1) for part in (ill, well)]
    assert sum(parts) == pytest.approx(delong(label, score[None])[1][0, 0], rel=1e-12)
    wanted = sum(parts) ** 2 / (parts[0] ** 2 / 6 + parts[1] ** 2 / 59)
    assert exams.freedom(exams.influence(score)) == pytest.approx(wanted, rel=1e-12)
    assert 6 <= wanted < 15  # not 65: what is uncertain lies with the seven


def test_exams_of_a_patient_and_folds_are_strata_of_the_draws():
    table = exams_of(300, 90, folds=2)
    score = np.random.default_rng(2).normal(size=300) + table["label"].to_numpy()
    exams = Exams(table)
    influence = exams.influence(score)
    assert influence.sum() == pytest.approx(0, abs=1e-12) and len(influence) == len(exams.patient_label)
    parts = []
    for fold in (0, 1):
        for one in (0, 1):
            of_one = influence[(exams.patient_label == one) & (exams._patient_fold == fold)]
            parts.append(len(of_one) * of_one.var(ddof=1))
    drawn = exams.resampled(score, exams.draw(20_000, np.random.default_rng(3))).var(ddof=1)
    assert sum(parts) == pytest.approx(drawn, rel=0.08)  # of a share, to first order


def test_few_of_a_class_are_warned_of():
    label = np.r_[np.ones(19, int), np.zeros(60, int)]
    exams = Exams(pd.DataFrame({"patient_id": range(79), "label": label}))
    assert exams.warning.startswith("19 test patients with disease and 60 without: below 20")
    more = np.r_[np.ones(20, int), np.zeros(20, int)]
    assert Exams(pd.DataFrame({"patient_id": range(40), "label": more})).warning == ""
