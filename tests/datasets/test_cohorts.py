import os
import pickle
import re
from functools import partial

import dicom_writer as writer
import numpy as np
import pandas as pd
import pydicom
import pytest

from ctlib.core import tables
from ctlib.core.pseudonyms import Identity
from ctlib.core.workspace import MissingInput, Workspace
from ctlib.datasets import rspect
from ctlib.datasets.cohort import TABLES, TASKS, Cohort, CohortError, load_tables, store_series, task
from ctlib.datasets.store import Store, shrink

COLUMNS = [
    *(
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
        "pe_present_on_image",
        "negative_exam_for_pe",
    ),
    *("qa_motion", "qa_contrast", "flow_artifact", "rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1", "leftsided_pe"),
    *("chronic_pe", "true_filling_defect_not_pe", "rightsided_pe", "acute_and_chronic_pe", "central_pe"),
    "indeterminate",
]
# study: labels of its slices, inferior to superior; negative; indeterminate
EXAMS = {"e1": ([0, 1, 1, 0, 0], 0, 0), "e2": ([0] * 5, 1, 0), "e3": ([0] * 5, 0, 1)}


def rspect_rows(study, labels, negative, indeterminate):
    for k, label in enumerate(labels):
        row = dict.fromkeys(COLUMNS, 0)
        row |= {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": f"{study}s",
            "SOPInstanceUID": f"{study}s.{k + 1}",
        }
        yield row | {
            "pe_present_on_image": label,
            "negative_exam_for_pe": negative,
            "indeterminate": indeterminate,
        }


@pydicom.config.disable_value_validation()
def write_rspect(root, exams=EXAMS, change=lambda table: table):
    """Kaggle's layout; hashed UIDs, no PatientID; file names say nothing about z."""
    rows = []
    for n, (study, exam) in enumerate(exams.items()):
        found = writer.slices(writer.volume(n), uid=f"{study}s")
        for ds in found:
            ds.StudyInstanceUID = study
            del ds.PatientID
            folder = root / "train" / study / f"{study}s"
            folder.mkdir(parents=True, exist_ok=True)
            ds.save_as(folder / f"{ds.SOPInstanceUID}.dcm", enforce_file_format=True)
        rows += rspect_rows(study, *exam)
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)
    change(table).to_csv(root / "train.csv", index=False)
    return root


def n_files(root):
    return sum(len(files) for _, _, files in os.walk(root))


def test_rspect_labels_find_their_slices(tmp_path):
    cohort = rspect.load(write_rspect(tmp_path))
    series = cohort.series.set_index("study_uid")
    assert series["label"].to_dict() == {"e1": 1, "e2": 0}
    assert (series["patient_id"] == series.index).all()
    first = cohort.slices[cohort.slices["series_uid"] == "e1s"]
    assert first["label"].tolist() == EXAMS["e1"][0]
    assert first["slice"].tolist() == list(range(5))
    np.testing.assert_allclose(first["z_mm"], -80.5 + 2.5 * np.arange(5))
    assert [path.stem for path in cohort.files["e1s"]] == [f"e1s.{k + 1}" for k in range(5)]
    assert cohort.problems[["path", "n_files"]].values.tolist() == [["train/e3/e3s", 5]]
    assert "indeterminate" in cohort.problems["reason"][0]
    assert cohort.marks.empty


@pytest.mark.parametrize(("rule", "label"), [("negative", 0), ("positive", 1)])
def test_indeterminate_exams_are_a_parameter(tmp_path, rule, label):
    cohort = rspect.load(write_rspect(tmp_path), indeterminate=rule)
    assert cohort.series.set_index("study_uid")["label"].to_dict() == {"e1": 1, "e2": 0, "e3": label}
    assert cohort.problems.empty


def set_where(study, column, value, n=None):
    def change(table):
        table.loc[table.index[table["StudyInstanceUID"] == study][:n], column] = value
        return table

    return change


REFUSED = {
    "a file without a row": (lambda t: t[t["SOPInstanceUID"] != "e1s.2"], "1 of its 5 files have no row"),
    "no rows": (lambda t: t[t["StudyInstanceUID"] != "e1"], "none of its files has a row"),
    "a row without a file": (
        lambda t: pd.concat([t, t[t["SOPInstanceUID"] == "e1s.1"].assign(SOPInstanceUID="e1s.6")]),
        "lists 6 slices, 5 files",
    ),
    "another series": (set_where("e1", "SeriesInstanceUID", "other", 2), "belong to 2 series"),
    "a contradiction": (set_where("e1", "negative_exam_for_pe", 1), "marks slices"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rspect_labels_that_do_not_fit_are_refused(tmp_path, case):
    change, reason = REFUSED[case]
    cohort = rspect.load(write_rspect(tmp_path, change=change))
    assert cohort.series["study_uid"].tolist() == ["e2"]
    problems = cohort.problems.set_index("path")
    assert reason in problems.loc["train/e1/e1s", "reason"]
    assert cohort.series["n_files"].sum() + problems["n_files"].sum() == n_files(tmp_path / "train")
    assert set(cohort.slices["series_uid"]) == {"e2s"} == set(cohort.files)


def test_rspect_series_without_files_are_counted(tmp_path):
    extra = pd.DataFrame(rspect_rows("e9", [0, 0], 1, 0))
    cohort = rspect.load(write_rspect(tmp_path, change=lambda t: pd.concat([t, extra])))
    row = cohort.problems.iloc[-2]
    assert (
        row["path"] == "train.csv"
        and row["n_files"] == 0
        and row["reason"].startswith("1 series of train.csv")
    )


def test_tables_are_saved_and_loaded(tmp_path):
    work = Workspace(tmp_path / "work" / "x")
    with pytest.raises(MissingInput, match="01_explore_data"):
        load_tables(work, "rspect")
    cohort = rspect.load(write_rspect(tmp_path / "data"))
    cohort.save(work)
    again = load_tables(work, "rspect")
    assert isinstance(again, Cohort) and again.files == {}
    for name in ("series", "slices", "problems", "marks"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(cohort, name))
        assert list(getattr(again, name).columns) == [column.name for column in tables.SCHEMAS[name]]


def item(cohort, uid):
    return uid, cohort.sources[uid], tuple(str(path) for path in cohort.files[uid])


def test_series_are_stored_once_from_the_same_files(tmp_path, monkeypatch):
    cohort = rspect.load(write_rspect(tmp_path / "data"))
    store = Store(tmp_path / "store", 4)
    function = pickle.loads(pickle.dumps(partial(store_series, store=store)))
    assert function(item(cohort, "e1s")) == ""
    np.testing.assert_array_equal(store.read("e1s"), shrink(writer.volume(0), 4))
    path = tmp_path / "store" / "e1s.npy"
    before = path.stat().st_mtime_ns
    with monkeypatch.context() as patch:  # not even read again
        patch.setattr("ctlib.io.read_series", None)
        assert function(item(cohort, "e1s")) == "" and path.stat().st_mtime_ns == before
    os.utime(cohort.files["e1s"][2], ns=(0, 0))
    again = rspect.load(tmp_path / "data")
    assert again.sources["e1s"] != cohort.sources["e1s"]
    assert function(item(again, "e1s")) == "" and path.stat().st_mtime_ns > before


def test_the_record_tells_the_source_by_its_content(tmp_path):
    """A copy with other times of change has another source checksum, and the same content."""
    records = []
    for name in ("a", "b"):
        cohort = rspect.load(write_rspect(tmp_path / name))
        os.utime(cohort.files["e1s"][2], ns=(0, len(records)))
        store = Store(tmp_path / f"store-{name}", 4)
        store_series(item(rspect.load(tmp_path / name), "e1s"), store)
        records.append(store.record("e1s"))
    assert records[0]["source_content"] == records[1]["source_content"] != ""
    assert records[0]["source_checksum"] != records[1]["source_checksum"]


def test_a_series_that_cannot_be_stored_says_why(tmp_path):
    cohort = rspect.load(write_rspect(tmp_path / "data"))
    asked = item(cohort, "e1s")
    assert "below matrix_px 64" in store_series(asked, Store(tmp_path / "store", 64))
    store = Store(tmp_path / "store", 4)
    data = cohort.files["e1s"][1].read_bytes()
    cohort.files["e1s"][1].write_bytes(data[:-8])
    told = store_series(asked, store)
    assert told == "Refused: it is truncated, 76 of 84 bytes of PixelData; copy or export it again."
    cohort.files["e1s"][1].unlink()
    gone = "it is no longer there; put it back, or scan the folder again"
    assert store_series(asked, store) == f"Refused: {gone}."
    assert not store.has("e1s")


def test_a_cohort_is_hidden_as_a_whole(tmp_path):
    cohort = rspect.load(write_rspect(tmp_path))
    hidden = cohort.hidden(Identity(b"key"))
    text = "".join(getattr(hidden, name).to_csv() for name in TABLES) + repr(
        (list(hidden.files), hidden.sources)
    )
    assert not re.search(r"\be[123]s?\b", text)
    assert set(hidden.series["series_uid"]) == set(hidden.files) == set(hidden.sources)
    assert set(hidden.slices["series_uid"]) == set(hidden.files)
    assert hidden.series.drop(columns=["patient_id", "study_uid", "series_uid"]).equals(
        cohort.series.drop(columns=["patient_id", "study_uid", "series_uid"])
    )
    uid = hidden.series["series_uid"].iloc[0]
    assert hidden.volume(uid).series_uid == uid
    hidden.files[uid][0].unlink()
    with pytest.raises(CohortError, match="cannot be read any more") as raised:
        hidden.volume(uid)
    assert str(tmp_path) not in str(raised.value) and raised.value.__suppress_context__


def test_tasks_are_found_by_name():
    assert {t.cohort for t in TASKS.values()} == {
        "rspect",
        "lidc",
        "luna16",
        "nodulemnist3d",
        "nlst501",
        "folder",
    }
    with pytest.raises(ValueError, match="'pe'; known are rspect_pe, lidc_nodule, folder_"):
        task("pe")
