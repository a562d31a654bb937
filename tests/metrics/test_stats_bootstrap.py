"""Draws of patients and the AUROC on each of them."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ctlib.metrics import auroc
from ctlib.metrics.stats import auroc_interval, delong
from ctlib.metrics.stats.bootstrap import Exams


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
    monkeypatch.setattr("ctlib.metrics.stats.bootstrap.EXACT", 0)
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
    monkeypatch.setattr("ctlib.metrics.stats.bootstrap.BLOCK", 64)
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


# ---- one run ---------------------------------------------------------------------------


def test_the_auroc_of_one_run_has_an_interval_or_a_reason():
    table = pd.DataFrame({"run_id": "r", "split": "test", "patient_id": range(8), "study": range(8)})
    table = table.assign(label=[0, 1] * 4, score=[0.1, 0.3, 0.2, 0.9, 0.8, 0.7, 0.4, 0.6])
    found = auroc_interval(table, 500, seed=0)
    assert 0 < found.low < found.value == 0.75 < found.high < 1 and not found.reason
    assert auroc_interval(table, 500, seed=0) == found != auroc_interval(table, 500, seed=1)
    perfect = auroc_interval(table.assign(score=table["label"]), 500, seed=0)
    assert perfect.value == 1.0 and np.isnan(perfect.low) and "every draw" in perfect.reason
    flat = auroc_interval(table.assign(score=0.5), 500, seed=0)
    assert flat.value == 0.5 and np.isnan(flat.low) and "every draw" in flat.reason
    single = auroc_interval(table.assign(label=1), 500, seed=0)
    assert np.isnan(single.value) and single.reason == "all 8 labels are 1"
    few = auroc_interval(table.assign(patient_id=[0, 1, 0, 1, 0, 1, 0, 1]), 500, seed=0)
    assert few.value == 0.75 and np.isnan(few.low) and "two of each" in few.reason
    with pytest.raises(ValueError, match="one run"):
        auroc_interval(table.assign(run_id=list("abababab")), 500, seed=0)


# ---- degrees of freedom by class ---------------------------------------------------------


def test_parts_by_class_are_those_of_delong():
    rng = np.random.default_rng(8)
    label = np.r_[np.ones(7, int), np.zeros(60, int)]
    score = rng.normal(size=67) + 1.3 * label
    exams = Exams(pd.DataFrame({"patient_id": range(67), "label": label}))
    ill, well = (exams.influence(score)[label == one] for one in (1, 0))
    parts = [len(part) * part.var(ddof=1) for part in (ill, well)]
    assert sum(parts) == pytest.approx(delong(label, score).covariance[0, 0], rel=1e-12)
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
