"""Patients stay in one split; fractions are nested; validation and test never move."""

import pandas as pd
import pytest

from ctlib.splits import SplitError, fraction_patients, patient_labels, split_patients

SHARES = (0.5, 0.2, 0.3)


def series_of(n_patients: int, prevalence: float = 0.4, exams: int = 2) -> pd.DataFrame:
    rows = [
        {
            "patient_id": f"p{patient:03d}",
            "series_uid": f"p{patient:03d}.{exam}",
            "label": int(patient < prevalence * n_patients and exam == 0),
        }
        for patient in range(n_patients)
        for exam in range(exams)
    ]
    return pd.DataFrame(rows)


def test_each_patient_lies_in_one_split_and_classes_are_kept():
    series = series_of(100)
    splits = split_patients(series, SHARES, seed=3)
    assert splits["patient_id"].is_unique
    assert set(splits["patient_id"]) == set(series["patient_id"])
    labels = patient_labels(series)
    for split, share in zip(("train", "val", "test"), SHARES, strict=True):
        patients = splits.loc[splits["split"] == split, "patient_id"]
        assert len(patients) == round(100 * share)
        assert labels[patients].mean() == pytest.approx(0.4, abs=0.02)


def test_split_depends_on_the_seed_only():
    series = series_of(60)
    again = split_patients(series.sample(frac=1, random_state=1), SHARES, seed=3)
    assert split_patients(series, SHARES, seed=3).equals(again)
    assert not split_patients(series, SHARES, seed=4).equals(again)


def test_fractions_are_nested_stratified_and_from_training_only():
    series = series_of(100)
    splits = split_patients(series, SHARES, seed=0)
    train = set(splits.loc[splits["split"] == "train", "patient_id"])
    labels = patient_labels(series)
    before: set[str] = set()
    for fraction in (0.1, 0.25, 0.5, 1.0):
        patients = fraction_patients(splits, series, fraction, seed=5)
        assert len(patients) == len(set(patients))
        assert abs(len(patients) - fraction * len(train)) <= 1  # each class is rounded
        assert before <= set(patients) <= train
        assert labels[patients].mean() == pytest.approx(0.4, abs=0.05)
        before = set(patients)
    assert before == train
    assert fraction_patients(splits, series, 0.25, seed=6) != fraction_patients(splits, series, 0.25, seed=5)


def test_a_fraction_keeps_both_classes_however_small():
    series = series_of(40)
    splits = split_patients(series, SHARES, seed=0)
    patients = fraction_patients(splits, series, 0.001, seed=0)
    assert sorted(patient_labels(series)[patients]) == [0, 1]


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.0), (0.5, 0.3, 0.3), (0.5, 0.5)])
def test_bad_shares_are_refused(shares):
    with pytest.raises(SplitError, match="split_shares"):
        split_patients(series_of(40), shares, seed=0)


def test_a_split_without_a_class_is_refused():
    with pytest.raises(SplitError, match="label 1"):
        split_patients(series_of(10, prevalence=0.1), SHARES, seed=0)


def test_unknown_labels_are_refused():
    series = series_of(20)
    series["label"] = series["label"].astype("Int64")
    series.loc[3, "label"] = pd.NA
    with pytest.raises(SplitError, match="1 of 40 exams have no label"):
        split_patients(series, SHARES, seed=0)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_bad_fractions_are_refused(fraction):
    series = series_of(40)
    with pytest.raises(SplitError, match="fraction"):
        fraction_patients(split_patients(series, SHARES, seed=0), series, fraction, seed=0)


def test_without_shares_every_patient_is_in_test():
    splits = split_patients(series_of(3), (), seed=0)
    assert splits["split"].tolist() == ["test"] * 3 and splits["patient_id"].is_unique
