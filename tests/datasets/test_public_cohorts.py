"""Public cohorts that need no account: files of their exact layout are read, damaged ones refused with what to do."""

import hashlib

import dicom_writer
import numpy as np
import pandas as pd
import public_cohorts as made
import pytest
from test_download import row as index_row

from ctlib.core import tables
from ctlib.core.workspace import PROJECT
from ctlib.datasets import download as fetching
from ctlib.datasets import luna16, nlst501, nodulemnist3d
from ctlib.datasets.cohort import COHORTS, CohortError, same_patients
from ctlib.datasets.download import FetchError, FetchRefused
from ctlib.datasets.download import nlst501 as fetch_nlst501
from ctlib.datasets.download import nodulemnist3d as fetch_nodulemnist3d
from ctlib.datasets.splits import read_splits
from ctlib.io.volume import read_series


def checked(cohort):
    for name in ("series", "slices", "problems", "marks"):
        tables.check(getattr(cohort, name), name)
    return cohort


def by_name(cohort):
    return {cohort.files[row.series_uid][0].stem: row for row in cohort.series.itertuples()}


# ---- NoduleMNIST3D ----------------------------------------------------------------------------


def test_crops_are_read_with_their_labels_split_and_values(tmp_path):
    path = made.nodulemnist3d(tmp_path)
    cohort = checked(nodulemnist3d.load(tmp_path))
    found = by_name(cohort)
    assert len(found) == 26 and set(found) >= {"train-0000", "val-0005", "test-0007"}
    with np.load(path) as arrays:
        for name, number in (("train", 7), ("test", 0)):
            row = found[f"{name}-{number:04d}"]
            assert row.label == arrays[f"{name}_labels"][number, 0]
            volume = read_series(cohort.files[row.series_uid])
            wanted = np.rint(arrays[f"{name}_images"][number] * np.float32(1424 / 255) - 1024.0)
            assert np.abs(volume.hu - wanted).max() <= 1  # axes 0, 1, 2 as Superior, Posterior, Left
            assert volume.spacing_mm == (1.0, 1.0, 1.0)
            assert cohort.splits[row.patient_id] == name
    labels = cohort.slices.set_index("series_uid")["label"]
    assert (
        labels[found["train-0000"].series_uid].eq(0).all()
        and labels[found["train-0001"].series_uid].isna().all()
    )


def test_the_larger_crops_show_the_same_field(tmp_path):
    made.nodulemnist3d(tmp_path, (2, 2, 2), side=64)
    assert nodulemnist3d.load(tmp_path).series["spacing_z_mm"].tolist() == [28 / 64] * 6


def test_crops_are_unpacked_once(tmp_path):
    made.nodulemnist3d(tmp_path)
    first = nodulemnist3d.load(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "volumes").iterdir()}
    assert nodulemnist3d.load(tmp_path).sources == first.sources
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "volumes").iterdir()} == stamps
    images, labels = made.crops(12, seed=9)
    made.nodulemnist3d(tmp_path, train_images=images, train_labels=labels)
    assert nodulemnist3d.load(tmp_path).sources != first.sources


def test_a_crop_that_is_there_twice_is_refused_and_counted(tmp_path):
    images, labels = made.crops(12)
    images[5] = images[3]
    made.nodulemnist3d(tmp_path, train_images=images, train_labels=labels)
    cohort = nodulemnist3d.load(tmp_path)
    assert len(cohort.series) == 25 and "repeats another file" in cohort.problems["reason"].iloc[0]


def patients(root, rows):
    text = "\n".join(["split,index,patient", *(f"{split},{i},{who}" for split, i, who in rows), ""])
    (root / "patients.csv").write_text(text)


def test_a_list_of_patients_keeps_them_whole(tmp_path):
    made.nodulemnist3d(tmp_path, (4, 2, 2))
    crops = [("train", i) for i in range(4)] + [(s, i) for s in ("val", "test") for i in range(2)]
    patients(tmp_path, [(s, i, f"{s}{i // 2}") for s, i in crops])
    cohort = nodulemnist3d.load(tmp_path)
    assert cohort.splits == {"train0": "train", "train1": "train", "val0": "val", "test0": "test"}
    patients(tmp_path, [(s, i, f"P{i}") for s, i in crops])  # patient P0 is in all three
    cohort = nodulemnist3d.load(tmp_path)
    assert cohort.splits == {} and cohort.series["patient_id"].nunique() == 4
    patients(tmp_path, [(s, i, "P") for s, i in crops[:-1]])
    with pytest.raises(CohortError, match="names 7 of 8 crops"):
        nodulemnist3d.load(tmp_path)
    patients(tmp_path, [("train", 4, "P")])
    with pytest.raises(CohortError, match=r"patients\.csv, data row 1: give the columns"):
        nodulemnist3d.load(tmp_path)


BAD_ARRAYS = {
    "missing": ({"val_labels": None}, "has no array val_labels"),
    "another side": (
        {"train_images": np.zeros((2, 27, 28, 28), np.uint8)},
        "train_images is uint8 of 2 x 27 x 28",
    ),
    "floats": ({"train_images": np.zeros((2, 28, 28, 28))}, "train_images is float64"),
    "labels": ({"test_labels": np.full((8, 1), 3, np.uint8)}, "test_labels is not a 0 or 1 for each of 8"),
    "too few labels": ({"test_labels": np.zeros((7, 1), np.uint8)}, "test_labels is not a 0 or 1"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_another_layout_is_refused_with_its_array(tmp_path, case):
    changed, said = BAD_ARRAYS[case]
    made.nodulemnist3d(tmp_path, **changed)
    with pytest.raises(CohortError, match=said):
        nodulemnist3d.load(tmp_path)


def test_a_missing_double_or_cut_npz_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="ctlib fetch nodulemnist3d"):
        nodulemnist3d.load(tmp_path)
    path = made.nodulemnist3d(tmp_path)
    for n in (0, 100, path.stat().st_size - 50):
        path.write_bytes(path.read_bytes()[:n])
        with pytest.raises(CohortError, match=r"cannot be read .* fetch it again"):
            nodulemnist3d.load(tmp_path)
    made.nodulemnist3d(tmp_path, (2, 2, 2), side=64)
    with pytest.raises(CohortError, match="keep the one"):
        nodulemnist3d.load(tmp_path)


def test_the_npz_comes_whole_or_not_at_all(tmp_path, monkeypatch):
    data = b"whole file"
    monkeypatch.setitem(fetch_nodulemnist3d.MD5, 28, hashlib.md5(data).hexdigest())
    job = fetch_nodulemnist3d.plan(tmp_path / "n", getter=lambda address, path: path.write_bytes(data))
    told = dict(job.facts)
    assert told["licence"].startswith("CC BY 4.0") and "at most 36 MB" in told["to fetch"]
    wrong = fetch_nodulemnist3d.plan(tmp_path / "n", getter=lambda address, path: path.write_bytes(b"half"))
    with pytest.raises(FetchError, match="came with 4 bytes and not the published MD5"):
        wrong.start()
    assert not (tmp_path / "n").exists() and not list(tmp_path.iterdir())
    job.start()
    assert (tmp_path / "n" / "nodulemnist3d.npz").read_bytes() == data
    again = fetch_nodulemnist3d.plan(tmp_path / "n")
    assert again.fetch_bytes == 0 and dict(again.facts)["to fetch"] == "nothing"
    with pytest.raises(FetchRefused, match="names no patients"):
        fetch_nodulemnist3d.plan(tmp_path, patients=3)
    with pytest.raises(FetchRefused, match="--side is of nodulemnist3d"):
        fetching.plan("lidc", tmp_path / "lidc", side=64)


# ---- LUNA16 -----------------------------------------------------------------------------------


def chest(seed, depth=9):
    return np.random.default_rng(seed).integers(-1000, 300, (depth, 6, 7)).astype(np.int16)


@pytest.fixture
def luna(tmp_path):
    """Four scans of LIDC in two subsets; z runs from -80.5 in steps of 2.5 mm."""
    known = made.lidc_series(4)
    volumes = {uid: chest(i) for i, (uid, _) in enumerate(known)}
    uids = list(volumes)
    nodules = [
        (uids[0], 12.0, -19.0, -70.5, 6.0),
        (uids[0], 12.0, -19.0, -63.0, 1.0),
        (uids[2], 11, -19, -80.5, 4),
    ]
    made.luna16(tmp_path / "luna", volumes, nodules)
    return tmp_path / "luna", known, volumes


def test_luna16_labels_scans_and_slices_and_has_lidcs_patients(luna):
    root, known, volumes = luna
    cohort = checked(luna16.load(root))
    found = by_name(cohort)
    assert [found[uid].label for uid, _ in known] == [1, 0, 1, 0]
    assert [found[uid].patient_id for uid, _ in known] == [patient for _, patient in known]
    of = {
        uid: cohort.slices.loc[cohort.slices["series_uid"] == found[uid].series_uid, "label"].tolist()
        for uid in found
    }
    first, second, third, _ = (of[uid] for uid, _ in known)
    assert first == [
        0,
        0,
        0,
        1,
        1,
        1,
        0,
        1,
        0,
    ]  # centre at slice 4 and 3 mm to each side; slice 7, thinner than a slice
    assert second == [0] * 9 and third == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    uid = known[0][0]
    assert np.array_equal(read_series(cohort.files[found[uid].series_uid]).hu, volumes[uid])
    assert cohort.problems.empty
    folds = set(read_splits(PROJECT / "params/lidc/folds.csv", 0)["patient_id"])
    assert set(cohort.series["patient_id"]) <= folds


def test_luna16_counts_what_is_missing_elsewhere_or_there_twice(luna):
    root, known, volumes = luna
    uids = [uid for uid, _ in known]
    made.luna16(root, {}, [(uids[1], 0, 0, 500.0, 4), ("1.2.3", 0, 0, 0, 4)])
    made.metaimage(root / "subset1" / f"{uids[0]}.mhd", volumes[uids[0]])
    (root / "candidates.csv").write_text("seriesuid\n")
    made.metaimage(root / "seg-lungs-LUNA16" / f"{uids[0]}.mhd", volumes[uids[0]])
    cohort = checked(luna16.load(root))
    reasons = dict(zip(cohort.problems["path"], cohort.problems["reason"], strict=True))
    assert len(cohort.series) == 3 and len(reasons) == 3
    assert "a nodule lies at z 500 mm" in reasons[f"subset0/{uids[1]}.mhd"]
    assert "in another subset, too" in reasons[f"subset1/{uids[0]}.mhd"]
    assert "1 series of annotations.csv have no files" in reasons["annotations.csv"]


def test_luna16_without_its_files_says_what_to_do(luna, tmp_path):
    root, _, _ = luna
    with pytest.raises(FileNotFoundError, match=r"annotations\.csv is missing"):
        luna16.load(tmp_path / "nowhere")
    for text, said in {
        "seriesuid,x\n": "has no column coordX, coordY, coordZ, diameter_mm",
        "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,1,2,3\n": "data row 1",
        "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,1,2,3,4\n1.2,1,2,nan,4\n": "data row 2",
        "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,1,2,3,900\n": "data row 1",
    }.items():
        (root / "annotations.csv").write_text(text)
        with pytest.raises(CohortError, match=said):
            luna16.load(root)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "annotations.csv").write_text(
        "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,1,2,3,4\n"
    )
    with pytest.raises(FileNotFoundError, match="no folder subset0"):
        luna16.load(tmp_path / "empty")


def test_cohorts_of_the_same_patients_are_known():
    assert same_patients("luna16", "lidc") and same_patients("nodulemnist3d", "luna16")
    assert not same_patients("nlst501", "lidc") and COHORTS["luna16"].patients_of == "lidc"


# ---- LIDC-annot-NLST501 -----------------------------------------------------------------------

SHAPE = (6, 12, 14)


def ball(centre, radius):
    z, y, x = np.indices(SHAPE)
    return (np.hypot(y - centre[1], x - centre[2]) <= radius) & (abs(z - centre[0]) <= 1)


def exam(root, number, reads, columns=(1, 0, 0), rows=(0, 1, 0), **more):
    """A CT series and the masks of its reads: a list of segments each."""
    hu = np.random.default_rng(number).integers(-1000, 300, SHAPE).astype(np.int16)
    ct = dicom_writer.slices(hu, columns, rows, uid=f"1.2.{number}")
    for ds in ct:
        ds.StudyInstanceUID, ds.PatientID = f"1.3.{number}", f"{100000 + number}"
    folder = root / f"{100000 + number}"
    dicom_writer.write(folder / "ct", ct)
    for read, masks in enumerate(reads):
        planes = [made.as_acquired(mask, columns, rows) for mask in masks]
        made.segmentation(folder / f"seg{read}" / "1-1.dcm", ct, planes, seed=read, **more)
    return hu


A, B = (2, 4, 3), (4, 8, 10)


def test_reads_are_labelled_by_the_rule_of_lidc(tmp_path):
    one, other = ball(A, 1.5), ball(B, 1)
    exam(tmp_path, 1, [[one], [one, other], [one], []])  # three of four readers
    exam(tmp_path, 2, [[one], [one, other], [other], []])  # two, twice
    exam(tmp_path, 3, [[], [], [], []], keep_empty=True)
    exam(tmp_path, 4, [[other]] * 4, columns=(0, -1, 0), rows=(-1, 0, 0), keep_empty=True)
    cohort = checked(nlst501.load(tmp_path))
    found = {row.patient_id: row for row in cohort.series.itertuples()}
    assert {patient: row.label for patient, row in found.items()} == {
        "100001": 1,
        "100002": 0,
        "100003": 0,
        "100004": 1,
    }
    of = {
        p: cohort.slices.loc[cohort.slices["series_uid"] == r.series_uid, "label"].tolist()
        for p, r in found.items()
    }
    assert (
        of["100001"] == [0, 1, 1, 1, 0, 0] and of["100002"] == [0] * 6 and of["100004"] == [0, 0, 0, 1, 1, 1]
    )
    marks = cohort.marks.groupby("series_uid")["reader"].nunique()
    assert marks[found["100001"].series_uid] == 3 and marks[found["100004"].series_uid] == 4
    assert cohort.problems.empty and cohort.series["n_files"].tolist() == [6] * 4
    assert (nlst501.load(tmp_path, min_readers=2).series["label"].sum()) == 3


@pytest.mark.parametrize("orientation", dicom_writer.AXIAL)
def test_masks_lie_on_their_voxels_in_every_axial_orientation(tmp_path, orientation):
    exam(tmp_path, 1, [[ball(A, 1.5)]] * 4, *orientation)
    marks = nlst501.load(tmp_path).marks
    points = np.array([point.split(",") for text in marks["contour"] for point in text.split()], int)
    assert points.min(axis=0).tolist() == [A[1] - 1, A[2] - 1] and points.max(axis=0).tolist() == [
        A[1] + 1,
        A[2] + 1,
    ]
    assert sorted(set(marks["slice"])) == [1, 2, 3]


def test_segmentations_that_do_not_fit_are_told(tmp_path):
    one = [ball(A, 1.5)]
    exam(tmp_path, 1, [one] * 3)
    exam(tmp_path, 2, [one] * 4)
    exam(tmp_path, 3, [one] * 4)
    for path in (tmp_path / "100003" / "ct").iterdir():
        path.unlink()
    shifted = dicom_writer.pydicom.dcmread(tmp_path / "100002" / "seg0" / "1-1.dcm")
    place = shifted.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    place.ImagePositionPatient = [place.ImagePositionPatient[0] + 1, *place.ImagePositionPatient[1:]]
    shifted.save_as(tmp_path / "100002" / "seg0" / "1-1.dcm")
    fractional = dicom_writer.pydicom.dcmread(tmp_path / "100003" / "seg0" / "1-1.dcm")
    fractional.SegmentationType = "FRACTIONAL"
    fractional.save_as(tmp_path / "100003" / "seg0" / "1-1.dcm")
    cohort = checked(nlst501.load(tmp_path))
    told = cohort.problems.groupby("reason")["n_files"].sum()
    assert cohort.series.empty
    assert told["Not used: it has 3 segmentations, one of each of 4 reads is needed."] == 6
    assert told["Not used: a segmentation has another matrix, corner or orientation than its CT."] == 6
    assert told["Not used: it is the segmentation of a CT series that is not here."] == 3
    assert told["Refused: it is no binary segmentation; export the masks as binary DICOM SEG."] == 1


def test_the_index_says_which_ct_belongs_to_a_segmentation(tmp_path):
    def entry(uid, patient, modality, description, result=None, study="1.1"):
        found = index_row(uid, patient, modality, "nlst")
        return found | {
            "SeriesDescription": description,
            "analysis_result_id": result,
            "StudyInstanceUID": study,
        }

    ours = fetch_nlst501.RESULT
    rows = [
        *(entry(f"1.{i}", "100002", "SEG", "SEG,0,OPA,B50f", ours) for i in range(4)),
        entry("1.5", "100002", "CT", "0,OPA,B50f"),
        entry("1.6", "100002", "CT", "0,OPA,B30f"),
        entry("1.7", "100002", "CT", "0,OPA,B50f", study="9.9"),
        *(entry(f"2.{i}", "100001", "SEG", "SEG,1,OPA,LUNG", ours, "2.2") for i in range(4)),
        entry("2.5", "100001", "CT", "1,OPA,LUNG", study="2.2"),
        entry("2.6", "100001", "CT", "1,OPA,LUNG", ours, "2.2"),
        entry("3.1", "100003", "CT", "0,OPA,B50f", study="3.3"),
        entry("3.2", "100003", "SEG", "SEG,0,OPA,B50f", "nlstseg", "3.3"),
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "idc_index.parquet")
    cited = [{"analysis_result_id": ours, "citation": "Renoust &amp; al.\n<i>NLST501</i>"}]
    pd.DataFrame(cited).to_parquet(tmp_path / "analysis_results_index.parquet")
    fetched = []
    job = fetch_nlst501.plan(
        tmp_path / "to", index=tmp_path, fetcher=lambda uids, folder: fetched.extend(uids)
    )
    told = dict(job.facts)
    assert "10 series" in told["chosen"] and "2 of 2 patients" in told["chosen"]
    assert told["cite"] == "Renoust & al. NLST501" and told["licence"] == "CC BY 3.0"
    with pytest.raises(FetchError, match="NLST501 did not come"):
        job.start()
    assert fetched[:5] == ["2.6", *(f"2.{i}" for i in range(4))]  # the one that was made again
    one = fetch_nlst501.plan(tmp_path / "to", 1, tmp_path, lambda uids, folder: None)
    assert "5 series" in dict(one.facts)["chosen"]
    pd.DataFrame(rows[-2:]).to_parquet(tmp_path / "idc_index.parquet")
    with pytest.raises(FetchRefused, match="does not have lidc_annot_nlst501"):
        fetch_nlst501.plan(tmp_path / "to", index=tmp_path)
