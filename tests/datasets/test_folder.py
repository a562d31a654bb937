"""Own data: rows name volumes in any of the ways that are promised; what does not fit is told."""

import os
import re

import dicom_writer as writer
import label_fuzz
import nibabel
import numpy as np
import pandas as pd
import pytest

from ctlib.core import Identity, Workspace, tables
from ctlib.datasets import folder
from ctlib.datasets.clips import clip_table
from ctlib.datasets.cohort import CohortError, load_tables
from ctlib.datasets.folder import Columns
from ctlib.io.volume import read_series

COLUMNS = Columns("study", "label", "patient", "split", "slices")
HEAD = "patient,study,label,split,slices"


def write_nifti(path, seed=0, depth=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    hu = np.random.default_rng(seed).integers(-1000, 100, (6, 7, depth)).astype(np.int16)
    image = nibabel.Nifti1Image(hu, np.diag([-0.7, -0.7, 2.5, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    nibabel.save(image, path)


def series(root, name, uid, study):
    found = writer.slices(writer.volume(len(uid)), uid=uid)
    for ds in found:
        ds.StudyInstanceUID = study
    writer.write(root / name, found)


@pytest.fixture
def root(tmp_path):
    base = tmp_path / "data"
    write_nifti(base / "a" / "one.nii.gz", 1)
    write_nifti(base / "b" / "two.NII", 2)
    series(base, "c/three", "1.2.3", "9.1")
    series(base, "d/four", "1.2.4", "9.2")
    (base / "notes.txt").write_text("nothing")
    return base


def labels(root, *rows, head=HEAD):
    path = root / "labels.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def load(root, *rows, columns=COLUMNS, head=HEAD):
    return folder.load(root, labels(root, *rows, head=head), columns)


def by_place(cohort):
    return {cohort.files[row.series_uid][0].parent.name: row for row in cohort.series.itertuples()}


NAMES = [
    ("a/one.nii.gz", "b/two.NII", "c/three", "1.2.4"),
    ("./a/one", "b/two", "9.1", "9.2"),
    ("one.nii.gz", "two", "three", "d/four/"),
    ("a", "b/", "data/c", "d"),
]


@pytest.mark.parametrize("names", NAMES)
def test_a_row_names_its_volume_in_many_ways(root, names):
    rows = [f"p{i // 2},{name},{i % 2},," for i, name in enumerate(names)]
    cohort = load(root, *rows, columns=Columns("study", "label", "patient"))
    found = by_place(cohort)
    assert [found[place].label for place in ("a", "b", "three", "four")] == [0, 1, 0, 1]
    assert [found[place].patient_id for place in ("a", "b", "three", "four")] == ["p0", "p0", "p1", "p1"]
    assert cohort.series["n_files"].sum() + cohort.problems["n_files"].sum() == 13
    assert cohort.problems["path"].tolist() == ["notes.txt"] and cohort.splits == {}
    for name in ("series", "slices", "problems", "marks"):
        tables.check(getattr(cohort, name), name)
    assert read_series(cohort.files[found["a"].series_uid]).hu.shape == (8, 7, 6)


def test_splits_and_slices_of_the_rows_are_used(root):
    cohort = load(root, "p,one,1,train,2-3 5", "q,two,1,test,", "r,9.1,0,val,", "s,9.2,1,train,0;4")
    assert cohort.splits == {"p": "train", "q": "test", "r": "val", "s": "train"}
    found = by_place(cohort)
    of = {place: cohort.slices[cohort.slices["series_uid"] == row.series_uid] for place, row in found.items()}
    assert of["a"]["label"].tolist() == [0, 0, 1, 1, 0, 1, 0, 0]
    assert of["b"]["label"].isna().all()
    assert of["three"]["label"].tolist() == [0] * 5 and of["four"]["label"].tolist() == [1, 0, 0, 0, 1]
    clips = clip_table(cohort.slices, 4, 2, cohort.series).set_index(["series_uid", "clip"])["label"]
    assert clips[found["a"].series_uid].tolist() == [1, 0]
    assert clips[found["b"].series_uid].tolist() == [1, 1]  # the exam's own
    assert clips[found["three"].series_uid].tolist() == [0, 0]


def test_a_study_of_two_series_gives_both_its_label_unless_slices_are_listed(root):
    series(root, "c/three-b", "1.2.35", "9.1")
    cohort = load(root, "p,9.1,1,train,")
    assert cohort.series["label"].tolist() == [1, 1] and cohort.series["study_uid"].nunique() == 1
    cohort = load(root, "p,9.1,1,train,1-2")
    assert cohort.series.empty
    assert cohort.problems["reason"].str.contains("names several series: name this one").sum() == 2


def test_a_folder_above_names_all_volumes_under_it_where_only_one_has_its_name(root):
    series(root, "site/P1/study/x", "1.2.5", "9.3")
    series(root, "site/P1/study/y", "1.2.6", "9.4")
    series(root, "other/P2/x", "1.2.7", "9.5")
    series(root, "site/P2/x", "1.2.8", "9.6")
    cohort = load(root, "p,P1,1,train,", "q,site/P2,0,test,", "r,P2,1,train,")
    assert dict(zip(cohort.series["series_uid"], cohort.series["label"], strict=True)) == {
        "1.2.5": 1,
        "1.2.6": 1,
        "1.2.8": 0,
    }
    assert "1 rows name no volume" in cohort.problems["reason"].str.cat()


REFUSED = {
    "no row": (["p,two,1,train,"], "no row of the label file names it"),
    "two labels": (["p,one,1,train,", "p,a/one,0,train,"], "data rows 1 and 2 .* differ in their label"),
    "two patients": (["p,one,1,train,", "q,a/one,1,train,"], "differ in their patient"),
    "beyond": (["p,one,1,train,2-8"], "slices holds 2-8, but the volume has slices 0 to 7"),
    "backwards": (["p,one,1,train,5-2"], "slices holds 5-2"),
    "words": (["p,one,1,train,Doe"], "slices holds a text of 3 characters"),
    "contradiction": (["p,one,0,train,2"], "label is 0, yet slices lists some"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_do_not_fit_refuse_their_volume(root, case):
    rows, reason = REFUSED[case]
    cohort = load(root, *rows)
    told = cohort.problems.set_index("path")["reason"]
    assert pd.Series([told["a/one.nii.gz"]]).str.contains(reason, regex=True).all()
    assert cohort.series["n_files"].sum() + cohort.problems["n_files"].sum() == 13
    assert not told.str.contains("Doe").any()


def test_rows_without_a_volume_are_counted(root):
    cohort = load(root, "p,one,1,train,", "q,seven,0,test,", "r,eight,0,test,")
    row = cohort.problems.set_index("path").loc["labels.csv"]
    assert row["n_files"] == 0 and "2 rows name no volume" in row["reason"] and "data row 2" in row["reason"]
    assert set(cohort.splits) == {"p"}


BAD = {
    "label": (
        ["p,one,yes,train,"],
        "labels.csv, data row 1: label is a text of 3 characters; it must be",
    ),
    "split": (["p,one,1,dev,"], "split is a text of 3 characters; it must be train, val, test"),
    "torn": (["p,one,1,train,", "p,two,1,test,"], "its patient is in another split in another row"),
    "study": (["p,,1,train,"], "study is ''; it must name a volume"),
    "patient": ([",one,1,train,"], "patient is ''; it must name a patient"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_csv_is_refused_with_its_row(root, case):
    rows, said = BAD[case]
    with pytest.raises(CohortError, match=said):
        load(root, *rows)


def test_missing_columns_and_files_are_named(root):
    with pytest.raises(CohortError, match=r"labels\.csv has no column outcome; its columns are pati"):
        load(root, "p,one,1,train,", columns=Columns("study", "outcome"))
    with pytest.raises(CohortError, match="column of the label is ''"):
        load(root, "p,one,1,train,", columns=Columns("study", ""))
    with pytest.raises(FileNotFoundError, match=r"none\.csv is missing"):
        folder.load(root, root / "none.csv", COLUMNS)


def test_without_a_patient_column_each_study_is_a_patient(root):
    cohort = load(root, "one,1", "two,0", head="study,label", columns=Columns())
    assert sorted(cohort.series["patient_id"]) == ["one", "two"]


# ---- what the label file says besides --------------------------------------------------------


def test_columns_of_numbers_come_along_and_tell_the_label(root):
    head = "study,label,age,dose"
    path = labels(root, "a/one.nii.gz,1,61,", "b/two.NII,0,40.5,3", "c/three,0,39,2", head=head)
    cohort = folder.load(root, path, Columns(), features=["age", "dose"])
    by_file = {uid: files[0].parent.name for uid, files in cohort.files.items()}
    found = cohort.features.assign(place=cohort.features["series_uid"].map(by_file))
    ages = found[found["name"] == "age"].set_index("place")["value"].to_dict()
    assert ages == {"a": 61.0, "b": 40.5, "three": 39.0}
    doses = found[found["name"] == "dose"].set_index("place")["value"]
    assert np.isnan(doses["a"]) and doses["b"] == 3.0
    # a volume that is refused later takes its numbers along
    [gone] = [uid for uid, place in by_file.items() if place == "b"]
    assert gone not in set(cohort.without({gone: "Refused: empty."}).features["series_uid"])


def test_features_are_kept_with_the_tables_and_go_with_them(root, tmp_path):
    work = Workspace(tmp_path / "work")
    path = labels(root, "a/one.nii.gz,1,61", "b/two.NII,0,40", head="study,label,age")
    folder.load(root, path, Columns(), features=["age"]).save(work)
    assert load_tables(work, "folder").features["value"].tolist() == [61.0, 40.0]
    folder.load(root, path, Columns()).save(work)
    assert load_tables(work, "folder").features.empty


@pytest.mark.parametrize(
    ("cell", "features", "said"),
    [
        (
            "old",
            ["age"],
            "labels.csv, data row 1: age is a text of 3 characters; folder_features names columns of numbers",
        ),
        ("inf", ["age"], "labels.csv, data row 1: age is "),
        ("61", ["years"], "labels.csv has no column years; its columns are study, label, age"),
    ],
)
def test_a_feature_that_is_no_number_is_refused_with_its_row(root, cell, features, said):
    with pytest.raises(CohortError, match=said):
        folder.load(
            root, labels(root, f"a/one.nii.gz,1,{cell}", head="study,label,age"), Columns(), features=features
        )


def test_rows_that_differ_in_a_feature_contradict_each_other(root):
    rows = ("a/one.nii.gz,1,61,p", "a/one,1,62,p", "b/two.NII,0,3,q")
    path = labels(root, *rows, head="study,label,age,patient")
    cohort = folder.load(root, path, Columns(patient="patient"), features=["age"])
    assert cohort.problems["reason"].str.contains("differ in their features").any()


def test_links_odd_names_frames_and_shared_uids_are_labelled(tmp_path):
    root = tmp_path / "data"
    series(tmp_path, "disk/ct", "1.2.3", "9.1")
    series(root, os.fsdecode(b"caf\xe9"), "1.2.4", "9.2")
    (root / "linked").symlink_to(tmp_path / "disk")
    writer.write(root / "frames", [writer.enhanced(writer.volume(), uid="1.2.5")], ["ct.dcm"])
    for name, seed in (("p3", 1), ("p4", 2)):  # an anonymiser gave both the same UIDs
        writer.write(root / name, writer.slices(writer.volume(seed), uid="1.2.6"))
    rows = (
        "p0,linked/ct,0,train,",
        "p1,1.2.4,1,train,",
        "p2,frames/ct,1,train,",
        "p3,p3,0,train,",
        "p4,p4,1,test,",
    )
    cohort = load(root, *rows).hidden(Identity(b"key"))
    assert sorted(cohort.series["label"]) == [0, 0, 1, 1, 1] and cohort.series["patient_id"].nunique() == 5
    assert (
        cohort.problems["reason"].str.startswith("Noted: its SeriesInstanceUID is that of 2 volumes").sum()
        == 1
    )
    cohort.problems.to_csv().encode("utf-8")
    for name in ("series", "slices", "problems"):
        tables.check(getattr(cohort, name), name)
    assert all(read_series(files).hu.shape == writer.SHAPE for files in cohort.files.values())


# ---- tables as they come ----------------------------------------------------------------------

PLAIN = ["study,label,patient", *(f"b/{i:03d},{i % 2},P{i}" for i in range(4))]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four volumes, b/000 to b/003, in a folder named data."""
    root = tmp_path_factory.mktemp("four") / "data"
    for i in range(4):
        write_nifti(root / "b" / f"{i:03d}.nii.gz", i)
    return root


def loaded(root, data):
    """The cohort of a label file of these bytes or lines, which lies beside the folder."""
    path = root.parent / "labels.csv"
    path.write_bytes(data if isinstance(data, bytes) else "\n".join([*data, ""]).encode())
    return folder.load(root, path, Columns(patient="patient"))


def told(root, data):
    with pytest.raises(CohortError) as raised:
        loaded(root, data)
    assert "\n" not in str(raised.value) + raised.value.shown
    return raised.value


def text(lines=PLAIN):
    return "\n".join([*lines, ""])


def rows(row, header=PLAIN[0]):
    """A table whose rows are made of the place, label and patient of each exam."""
    return [header, *(row.format(place=f"b/{i:03d}", label=i % 2, truth=bool(i % 2), i=i) for i in range(4))]


CERTAIN = {
    "plain": lambda root: text().encode(),
    "semicolon": lambda root: text().replace(",", ";").encode(),
    "tab": lambda root: text().replace(",", "\t").encode(),
    "named delimiter": lambda root: ("sep=;\r\n" + text().replace(",", ";")).encode(),
    "UTF-8 with a mark": lambda root: text().encode("utf-8-sig"),
    "UTF-16": lambda root: text().replace("\n", "\r\n").encode("utf-16"),
    "UTF-16, big end first": lambda root: b"\xfe\xff" + text().encode("utf-16-be"),
    "UTF-32": lambda root: text().encode("utf-32"),
    "True and False": lambda root: rows("{place},{truth},P{i}"),
    "own name": lambda root: rows("data/{place},{label},P{i}"),
    "more of its own path": lambda root: rows(f"{root.parent.name}/data/{{place}},{{label}},P{{i}}"),
    "absolute": lambda root: rows(f"{root}/{{place}}.nii.gz,{{label}},P{{i}}"),
    "backslashes": lambda root: [line.replace("/", "\\") for line in PLAIN],
    "bare, quoted": lambda root: rows('"{i:03d}","{label}","P{i}"'),
    "empty columns and rows": lambda root: [line + ",," for line in PLAIN] + [",,,,", ""],
    "blanks": lambda root: rows(" {place} , {label},P{i} ", header=" study, label , patient"),
    "old Mac": lambda root: text().replace("\n", "\r").encode(),
    "Latin-1 where nothing is read": lambda root: "\n".join(
        [PLAIN[0] + ",note", *(line + ",M\xfcller" for line in PLAIN[1:])]
    ).encode("latin-1"),
}


@pytest.mark.parametrize("case", CERTAIN)
def test_a_table_whose_meaning_is_certain_is_read(four, case):
    cohort = loaded(four, CERTAIN[case](four))
    found = {cohort.files[row.series_uid][0].name: row for row in cohort.series.itertuples()}
    assert [found[f"{i:03d}.nii.gz"].label for i in range(4)] == [0, 1, 0, 1]
    assert [found[f"{i:03d}.nii.gz"].patient_id for i in range(4)] == ["P0", "P1", "P2", "P3"]
    assert cohort.problems.empty


def changed(number, line):
    return [*PLAIN[:number], line, *PLAIN[number + 1 :]]


XLSX = b"PK\x03\x04\x14\x00\x06\x00" + bytes(40)
UNCERTAIN = {
    "empty": (b"", r"labels\.csv is empty \(0 bytes\); give a header"),
    "blank": (b"\r\n \r\n", r"labels\.csv is empty \(5 bytes\)"),
    "workbook": (XLSX, r"is an Excel workbook .* save it as 'CSV UTF-8'"),
    "old workbook": (b"\xd0\xcf\x11\xe0" + bytes(60), r"is an old Excel workbook"),
    "web page": (b"<html><table>", "is a web page"),
    "header only": (PLAIN[:1], "has a header and no rows"),
    "too many cells": (
        changed(2, "b/001,1,P1,extra,more"),
        "data row 2: 5 cells under a header of 3; .* double quotes",
    ),
    "open quote": (changed(2, '"b/001,1,P1'), r"labels\.csv, data row 2: its double quotes do not fit"),
    "column twice": ([PLAIN[0] + ",label", *(line + ",1" for line in PLAIN[1:])], "has 2 columns label"),
    "no such column": ([PLAIN[0].replace("label", "Label"), *PLAIN[1:]], "no column label; .* Label"),
    "Latin-1": (text(changed(1, "b/000,0,M\xfcller")).encode("latin-1"), "row 1: patient is not in UTF-8 .*0xfc"),
    "cut UTF-16": (text().encode("utf-16")[:-1], "begins as UTF-16 and is none"),
    "UTF-16 without a mark": (text().encode("utf-16-le"), "holds zero bytes"),
    "lost letter": (changed(1, "b/000,0,M\ufffdller"), "row 1: patient holds the mark of a letter that was lost"),
    "label": (changed(3, "b/002,2,P2"), "row 3: label is '2'; it must be 0 or 1"),
    "column of the header": (["nothing"], "no column study, label, patient; its columns are nothing"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCERTAIN)
def test_a_table_that_is_not_certain_is_refused_with_what_to_do(four, case):
    data, said = UNCERTAIN[case]
    assert re.search(said, told(four, data).shown)


NO_MATCH = {
    "another folder": ("{root}/elsewhere/{place}", "its path is absolute, of another folder or machine"),
    "another machine": (r"C:\ct\{place}", "its path is absolute, of another folder or machine"),
    "capitals": ("B/{i:03d}", "capital letters count"),
    "folders before it": ("site/2020/{place}.nii.gz", "begins with folders that are not in this one"),
    "something else": ("Doe^Jane {i}", "write the path relative to this folder"),
}


@pytest.mark.parametrize("case", NO_MATCH)
def test_where_no_row_names_a_volume_a_valid_name_is_given(four, case):
    row, why = NO_MATCH[case]
    error = told(four, rows(row.replace("{root}", "/mnt") + ",{label},P{i}"))
    assert "none of its 4 rows names a volume under" in error.shown and why in error.shown
    assert "a valid one is 'b/000" in error.shown and "data row 1 has the study" in error.shown
    assert "b/000" not in str(error) and "Doe" not in str(error)  # which may stand in a report


def test_a_row_of_a_refused_volume_is_told_why(tmp_path):
    write_nifti(tmp_path / "data" / "good.nii.gz")
    (tmp_path / "data" / "bad.nii.gz").write_bytes(b"nothing")
    error = told(tmp_path / "data", [PLAIN[0], "bad.nii.gz,1,P"])
    assert (
        "its one row does not name a volume" in error.shown and "is there, but cannot be read" in error.shown
    )


@pytest.mark.parametrize("row", ["{i},{label},{i}", "{i}.0,{label},{i}"])
def test_lost_zeros_are_told_not_filled_in(four, row):
    error = told(four, rows(row))
    assert "data row 1: study is '0" in error.shown and "'000'" not in str(error)
    assert "'000' does: a spreadsheet program has dropped the leading zeros" in error.shown
    some = told(four, [*PLAIN[:3], "2,0,P2", "3,1,P3"])  # half of the rows are right: they are no excuse
    assert "data row 3: study is '2'" in some.shown and "'002' does" in some.shown


def test_zeros_are_not_lost_where_the_volume_has_its_row(four):
    cohort = loaded(four, [*PLAIN, "1,1,P9"])
    assert len(cohort.series) == 4 and "1 rows name no volume" in cohort.problems["reason"].iloc[0]


def test_a_path_with_two_meanings_names_no_volume(tmp_path):
    root = tmp_path / "a" / "a"
    write_nifti(root / "x" / "1.nii", 1)
    write_nifti(root / "a" / "x" / "1.nii", 2)
    error = told(root, [PLAIN[0], "a/a/x/1.nii,1,P"])
    assert "does not name a volume" in error.shown


def test_a_folder_without_a_volume_says_what_its_files_are(tmp_path):
    root = tmp_path / "data"
    (root / "b").mkdir(parents=True)
    assert "no volume can be read under" in told(root, PLAIN).shown
    assert "it holds no files" in told(root, PLAIN).shown
    for i in range(3):
        (root / "b" / f"{i}.dcm").write_text("nothing")
    said = told(root, PLAIN).shown
    assert "3 files are refused, all of them with the reason" in said and "ctlib scan" in said


def test_labels_are_checked_before_anything_is_stored(four):
    """Where all rows are paths that exist, no header is read."""
    values = {
        "folder_labels": str(four.parent / "labels.csv"),
        "folder_columns": ["study", "label", "patient"],
        "folder_features": [],
    }
    (four.parent / "labels.csv").write_text(text())
    folder.check(four, values)
    (four.parent / "labels.csv").write_text(text().replace("b/", "c/"))
    with pytest.raises(CohortError, match="none of its 4 rows"):
        folder.check(four, values)
    for wrong in (["study"], ["study", "label", "patient", "", "", ""], ["study", "study"]):
        with pytest.raises(CohortError, match="folder_columns"):
            folder.check(four, values | {"folder_columns": wrong})


def test_fuzzed_tables_give_the_right_labels_or_a_sentence(four):
    faults, counts = label_fuzz.run(four, 300, seed=1)
    assert faults == [] and counts["right"] > 50 and counts["refused"] > 50
