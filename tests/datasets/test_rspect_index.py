"""RSPECT's train.csv to tables without images: the label contract, and a file of some size."""

import csv
import subprocess
import sys

import dicom_writer
import numpy as np
import pandas as pd
import pydicom
import pytest
import rspect_writer

from ctlib.core.workspace import PROJECT
from ctlib.datasets import rspect
from ctlib.datasets.cohort import CohortError

N_STUDIES, N_ROWS = 407, 100_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file of 100,000 rows, and the table it was written from."""
    path = tmp_path_factory.mktemp("rspect") / "train.csv"
    return rspect_writer.write(path, N_STUDIES, N_ROWS), rspect_writer.columns(N_STUDIES, N_ROWS)


def by_hand(columns, indeterminate):
    """Labels by the contract, exam by exam, with the standard library's reader and dictionaries."""
    exams = {}
    for row in zip(*(columns[name].tolist() for name in columns), strict=True):
        row = dict(zip(columns, row, strict=True))
        exam = exams.setdefault(row["SeriesInstanceUID"], [row, 0, 0])
        exam[1] += 1
        exam[2] += row["pe_present_on_image"]
    for series, (row, n_slices, n_positive) in exams.items():
        label = 1 - row["negative_exam_for_pe"]
        if row["indeterminate"]:
            label = {"drop": None, "negative": 0, "positive": 1}[indeterminate]
        yield row["StudyInstanceUID"], series, n_slices, n_positive, label


@pytest.mark.parametrize("indeterminate", ["drop", "negative", "positive"])
def test_exams_follow_the_contract(made, indeterminate):
    path, columns = made
    exams, slices = rspect.labels(path, indeterminate)
    assert list(exams.columns) == ["study_uid", "series_uid", "n_slices", "n_positive", "label", "reason"]
    expected = list(by_hand(columns, indeterminate))
    found = [
        tuple(None if value is pd.NA else value for value in row[:5]) for row in exams.itertuples(index=False)
    ]
    assert found == expected
    refused = exams["label"].isna()
    assert (exams.loc[refused, "reason"].str.contains("dropped by parameter")).all()
    assert (exams.loc[~refused, "reason"] == "").all()
    assert refused.any() == (indeterminate == "drop")
    assert len(slices) == N_ROWS and slices["label"].dtype == np.int8


def test_uids_stay_text_in_the_file_s_order(made):
    """The first look like numbers: 000123456789 and 1e5000000000 would lose their zeros, or their digits."""
    path, columns = made
    exams, slices = rspect.labels(path)
    assert slices["sop"].tolist() == columns["SOPInstanceUID"].tolist()
    assert slices["series_uid"].tolist() == columns["SeriesInstanceUID"].tolist()
    assert slices["label"].tolist() == columns["pe_present_on_image"].tolist()
    assert exams["series_uid"].tolist()[:3] == ["002123456789", "1e5000000002", "000000000002"]
    assert exams["study_uid"].tolist()[:2] == ["001123456789", "1e5000000001"]
    assert slices["sop"].tolist()[:3] == ["003123456789", "1e5000000003", "000000000003"]


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["StudyInstanceUID", "qa_motion", *list(rows[0])[1:]])
        writer.writeheader()
        writer.writerows(row | {"qa_motion": 0} for row in rows)
    return path


def rows_of(study, labels, negative=0, indeterminate=0, series=None):
    return [
        {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series or f"{study}s",
            "SOPInstanceUID": f"{study}{series or ''}.{k}",
            "pe_present_on_image": label,
            "negative_exam_for_pe": negative,
            "indeterminate": indeterminate,
        }
        for k, label in enumerate(labels)
    ]


def test_000123456789_and_1e5000000000_are_no_numbers(tmp_path):
    rows = [
        *rows_of("000123456789", [0, 1]),
        *rows_of("1e5000000000", [0, 0], negative=1),
        *rows_of("NA", [0], 1),
    ]
    rows[0]["SOPInstanceUID"], rows[1]["SOPInstanceUID"], rows[2]["SOPInstanceUID"] = "0001", "1", "nan"
    exams, slices = rspect.labels(write(tmp_path / "train.csv", rows))
    assert exams["study_uid"].tolist() == ["000123456789", "1e5000000000", "NA"]
    assert exams["label"].tolist() == [1, 0, 0]
    assert slices["sop"].tolist()[:3] == ["0001", "1", "nan"]


def test_refusals_name_their_reason(tmp_path):
    varying = [*rows_of("b", [0, 0, 1]), *rows_of("b", [0], series="second")]
    varying[0]["negative_exam_for_pe"] = 1
    rows = [
        *rows_of("a", [0, 1]),
        *varying,
        *rows_of("c", [0, 1], negative=1),
        *rows_of("d", [0, 0], negative=1, indeterminate=1),
        *rows_of("e", [0, 0], indeterminate=1),
        *rows_of("f", [0], series="shared"),
        *rows_of("g", [0], series="shared"),
        *rows_of("h", [0, 0]),
    ]
    exams, _ = rspect.labels(write(tmp_path / "train.csv", rows))
    reasons = exams.set_index("series_uid")["reason"].to_dict()
    assert reasons["as"] == reasons["hs"] == ""
    assert "vary within its study" in reasons["bs"] and reasons["second"] == reasons["bs"]
    assert "marks slices" in reasons["cs"] and reasons["ds"] == reasons["cs"]
    assert "dropped by parameter" in reasons["es"] and "several studies" in reasons["shared"]
    labels = exams.set_index("series_uid")["label"]
    assert labels[["as", "hs"]].tolist() == [1, 1] and labels.isna().sum() == 6
    kept = rspect.labels(tmp_path / "train.csv", "positive")[0].set_index("series_uid")
    assert (
        kept.loc["es", ["label", "reason"]].tolist() == [1, ""] and "marks slices" in kept.loc["ds", "reason"]
    )


def changed(column, value, row=2):
    def change(rows):
        rows[row][column] = value
        return rows

    return change


BAD = {
    "two": (changed("pe_present_on_image", 2), "data row 3: pe_present_on_image is '2'; it must be 0 or 1"),
    "half": (changed("indeterminate", 0.5), r"data row 3: indeterminate is '0\.5'"),
    "gap": (changed("negative_exam_for_pe", "", 1), "data row 2: negative_exam_for_pe is ''"),
    "word": (changed("negative_exam_for_pe", "NA", 0), "data row 1: negative_exam_for_pe is 'NA'"),
    "no study": (changed("StudyInstanceUID", ""), "data row 3: StudyInstanceUID is empty"),
    "no series": (changed("SeriesInstanceUID", "", 3), "data row 4: SeriesInstanceUID is empty"),
    "no slice": (changed("SOPInstanceUID", ""), "data row 3: SOPInstanceUID is empty"),
    "twice": (changed("SOPInstanceUID", "a.0"), r"data rows 1 and 3: SOPInstanceUID a\.0 has two rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_value_is_named_with_its_row_and_column(tmp_path, case):
    change, message = BAD[case]
    path = write(tmp_path / "train.csv", change([*rows_of("a", [0, 1]), *rows_of("b", [0, 0])]))
    with pytest.raises(CohortError, match=rf"train\.csv, {message}"):
        rspect.labels(path)


def test_a_bad_value_far_down_is_named_with_its_row(made, tmp_path):
    lines = made[0].read_bytes().split(b"\n")
    lines[90_000] = lines[90_000].rpartition(b",")[0] + b",7"
    (tmp_path / "train.csv").write_bytes(b"\n".join(lines))
    with pytest.raises(CohortError, match="data row 90000: indeterminate is '7'"):
        rspect.labels(tmp_path / "train.csv")
    lines[90_000] = lines[90_000].rpartition(b",")[0]
    (tmp_path / "train.csv").write_bytes(b"\n".join(lines))
    with pytest.raises(CohortError, match="data row 90000: 16 cells under a header of 17"):
        rspect.labels(tmp_path / "train.csv")


def test_labels_written_as_floats_are_labels(tmp_path):
    rows = rows_of("a", ["0.0", "1.0"], "0.0", "0.0")
    assert rspect.labels(write(tmp_path / "train.csv", rows))[0]["label"].tolist() == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks StudyInstanceUID"),
        (b"a,b\n1,2\n", "lacks StudyInstanceUID, .*, indeterminate; its columns are a, b"),
        ("StudyInstanceUID".encode("utf-16"), "no CSV like Kaggle's"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, content, message):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(CohortError, match=rf"train\.csv.*{message}"):
        rspect.labels(tmp_path / "train.csv")


def test_a_missing_file_and_an_unknown_rule_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.csv is missing"):
        rspect.labels(tmp_path / "train.csv")
    with pytest.raises(ValueError, match="indeterminate is 'keep'; known are drop, negative, positive"):
        rspect.labels(tmp_path / "train.csv", "keep")


@pydicom.config.disable_value_validation()
def test_a_row_that_two_files_would_share_refuses_the_series(tmp_path):
    """Five files, five rows, but two files of one name: the slice of the other would get a wrong label."""
    for k, ds in enumerate(dicom_writer.slices(dicom_writer.volume(), uid="as")):
        folder = tmp_path / "train" / ("other" if k == 1 else "a")
        folder.mkdir(parents=True, exist_ok=True)
        ds.save_as(folder / f"a.{0 if k == 1 else k}.dcm", enforce_file_format=True)
    write(tmp_path / "train.csv", rows_of("a", [0, 1, 1, 0, 0]))
    cohort = rspect.load(tmp_path)
    assert cohort.series.empty
    assert cohort.problems["n_files"].sum() == 5
    assert cohort.problems["reason"].str.contains("its 5 files have 4 names").any()


def test_a_file_of_100_000_rows_is_indexed_within_its_share_of_the_limits():
    """The benchmark on an eighteenth of the real file: 60 s and 3 GB become 3.35 s and 0.17 GB."""
    command = [sys.executable, PROJECT / "benchmarks" / "rspect_index.py", "--repeats=1"]
    command += [f"--studies={N_STUDIES}", f"--rows={N_ROWS}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sides = {line.split()[0]: line.split()[-2:] for line in done.stdout.splitlines()[2:4]}
    assert set(sides) == {"rspect.labels", "pandas.read_csv"}
    assert all(counts == [f"{N_STUDIES}", "100,000"] for counts in sides.values())
