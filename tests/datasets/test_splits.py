"""Patients stay in one split; fractions are nested; validation and test never move."""

import pandas as pd
import pytest

from ctlib.datasets.splits import (
    SplitError,
    apply_splits,
    fraction_patients,
    patient_labels,
    read_splits,
    split_patients,
)

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


# ---- splits from a file ------------------------------------------------------------------

SECRET = "Doe^Jane"  # an original id, which no message may show


def write(path, *rows, header="patient_id,split"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def pseudonym(original):
    return f"p{int(original):03d}"


def test_a_file_of_splits_is_read_as_it_stands(tmp_path):
    path = write(
        tmp_path / "s.csv",
        "2,train,7",
        "0007 , val,7",
        "1e5,test,",
        "",
        "2,train,8",
        header="patient_id,split,age",
    )
    splits = read_splits(path)
    assert splits.values.tolist() == [["0007", "val"], ["1e5", "test"], ["2", "train"]]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))  # as a spreadsheet saves it
    assert read_splits(path).equals(splits)


@pytest.mark.parametrize("fold", range(5))
def test_each_fold_is_test_once_and_the_next_is_val(tmp_path, fold):
    path = write(tmp_path / "f.csv", *(f"{n},{n % 5}" for n in range(20)), header="patient_id,fold")
    splits = read_splits(path, fold).set_index("patient_id")["split"]
    assert {int(n) % 5 for n in splits.index[splits == "test"]} == {fold}
    assert {int(n) % 5 for n in splits.index[splits == "val"]} == {(fold + 1) % 5}
    assert (splits == "train").sum() == 12 and len(splits) == 20


BAD_FILES = {
    "name": (
        ["1,train", f"{SECRET},validation"],
        None,
        r"data row 2: split is a text of 10 characters; give train, val, test",
    ),
    "empty split": (["1,train", f"{SECRET},"], None, "data row 2: split is ''"),
    "empty patient": (["1,train", "", ",test"], None, "data row 3: patient_id is empty"),
    "two splits": (
        ["1,train", f"{SECRET},train", f"{SECRET},test"],
        None,
        r"1 patients in more than one split, the first in data rows 2, 3",
    ),
    "short": (["1,train", SECRET], None, "data row 2: split is ''"),
    "long": (["1,train", f"{SECRET},train,x"], None, "data row 2: 3 cells under a header of 2"),
    "no rows": ([], None, "a header and no rows"),
    "splits as folds": (
        [f"{SECRET},train"],
        0,
        "has no column fold; its columns are patient_id, split. A file of splits is read without",
    ),
}
BAD_FOLDS = {
    "folds as splits": ([f"{SECRET},0"], None, "has no column split"),
    "no number": (
        ["1,0", f"{SECRET},a"],
        0,
        "data row 2: fold is a text of 1 character; give a whole number",
    ),
    "a fraction": (["1,0", f"{SECRET},1.5"], 0, r"data row 2: fold is '1\.5'"),
    "a gap": (["1,0", "2,1", f"{SECRET},3"], 0, "3 folds, the last is 3; number them from 0 without a gap"),
    "two": (["1,0", f"{SECRET},1"], 0, "2 folds, the last is 1"),
    "beyond": (["1,0", "2,1", f"{SECRET},2"], 3, "fold is 3; .* folds 0 to 2"),
    "below": (["1,0", "2,1", f"{SECRET},2"], -1, "fold is -1"),
    "two folds": (["1,0", "2,1", f"{SECRET},2", f"{SECRET},0"], 0, "1 patients in more than one fold"),
}


@pytest.mark.parametrize("case", [*BAD_FILES, *BAD_FOLDS])
def test_bad_files_are_named_without_a_patient(tmp_path, case):
    rows, fold, reason = (BAD_FILES | BAD_FOLDS)[case]
    header = "patient_id,split" if case in BAD_FILES else "patient_id,fold"
    with pytest.raises(SplitError, match=rf"(s\.csv|fold is).*{reason.removeprefix('fold is')}") as error:
        read_splits(write(tmp_path / "s.csv", *rows, header=header), fold)
    assert SECRET not in str(error.value)


def test_a_file_that_is_no_csv_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv is missing"):
        read_splits(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"PK\x03\x04")
    with pytest.raises(SplitError, match=r"b\.csv is an Excel workbook"):
        read_splits(tmp_path / "b.csv")
    (tmp_path / "e.csv").write_text("")
    with pytest.raises(SplitError, match=r"e\.csv is empty"):
        read_splits(tmp_path / "e.csv")


def test_a_spreadsheets_file_is_read(tmp_path):
    (tmp_path / "s.csv").write_bytes("patient_id;split\r\nMüller;train\r\n".encode("utf-16"))
    assert read_splits(tmp_path / "s.csv").to_numpy().tolist() == [["Müller", "train"]]


def given(series, changes=()):
    """Every patient's split by its number, as a file would give it, with original ids."""
    numbers = [int(patient[1:]) for patient in sorted(series["patient_id"].unique())]
    names = {n: ("train", "train", "val", "test")[n % 4] for n in numbers} | dict(changes)
    return pd.DataFrame(
        [(f"{n}", split) for n, split in names.items() if split], columns=["patient_id", "split"]
    )


def test_splits_of_a_file_reach_the_pseudonyms_of_the_tables():
    series = series_of(20)
    splits = apply_splits(given(series, {99: "test"}), series, pseudonym)
    assert set(splits["patient_id"]) == set(series["patient_id"]) and splits["patient_id"].is_unique
    assert splits.set_index("patient_id").loc[["p001", "p002", "p003", "p004"], "split"].tolist() == [
        "train",
        "val",
        "test",
        "train",
    ]
    assert splits["patient_id"].is_monotonic_increasing


def test_validation_and_test_of_a_file_may_lack_a_class():
    series = series_of(8, prevalence=0.25)  # patients 0 and 1
    everyone = {0: "train", 1: "train", 2: "train", 3: "val", 4: "val", 5: "test", 6: "test", 7: "test"}
    assert len(apply_splits(given(series, everyone), series, pseudonym)) == 8
    with pytest.raises(SplitError, match="train has 1 patients and none with label 1"):
        apply_splits(given(series, everyone | {0: "val", 1: "test"}), series, pseudonym)
    with pytest.raises(SplitError, match="train has 0 patients"):
        apply_splits(given(series, dict.fromkeys(range(8), "test")), series, pseudonym)


def test_patients_without_a_split_or_with_two_are_counted_not_named():
    series = series_of(20)
    with pytest.raises(
        SplitError, match=r"^2 of the cohort's 20 patients are not in the splits file"
    ) as error:
        apply_splits(given(series, {3: None, 4: None}), series, pseudonym)
    assert "p003" not in str(error.value) and "None is there" not in str(error.value)
    with pytest.raises(
        SplitError, match=r"^20 of .*None is there: ids in the file must be the dataset's own"
    ):
        apply_splits(given(series), series, lambda original: original)
    twice = pd.concat([given(series), pd.DataFrame({"patient_id": ["003"], "split": ["train"]})])
    with pytest.raises(SplitError, match="1 patients of the cohort are in two splits"):
        apply_splits(twice, series, pseudonym)
    same = pd.concat([given(series), pd.DataFrame({"patient_id": ["003"], "split": ["test"]})])
    assert len(apply_splits(same, series, pseudonym)) == 20
