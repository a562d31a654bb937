"""DICOM series to volumes in HU, and a scan of a tree of files.

What comes back is right, or it is refused with a sentence: what a file must have stands in
`ctlib.dicom`, what the files of a series must have together in `ctlib.geometry`. One file that
fails refuses its series, for without it the volume would have a hole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom import Dataset

from ctlib.dicom import NO_PREAMBLE, SeriesError, Slice, decode, read_header
from ctlib.geometry import Grid, locate, upright

__all__ = ["SeriesError", "Volume", "read_series", "scan", "series_uid", "upright"]

SERIES = (
    *("patient_id", "study_uid", "series_uid", "n_files", "n_slices", "rows_px", "cols_px"),
    *("spacing_z_mm", "spacing_y_mm", "spacing_x_mm", "thickness_mm", "kernel", "manufacturer"),
    *("files", "z_mm", "orientation"),
)
PROBLEMS = ("path", "n_files", "reason")
"""Columns of what `scan` returns."""
COMPANIONS = {".csv", ".json", ".txt", ".xml"}
"""Endings of files that lie beside the slices of a folder (LIDC's readers' XML) and are none."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT series as one array.

    Args:
        hu: int16 `[D, H, W]` in HU within [-1024, 3071]; axes point to Superior, Posterior, Left.
        spacing_mm: distance of voxels along (z, y, x), mm.
        series_uid: SeriesInstanceUID.
        origin_mm: patient coordinates (z, y, x) = (S, P, L) of voxel [0, 0, 0], mm.

    >>> volume = Volume(np.full((3, 4, 5), -1000, np.int16), (2.5, 0.7, 0.7), "1.2.3", (-80.0, 0.0, 0.0))
    >>> volume
    Volume 1.2.3: 3 x 4 x 5 voxels (z, y, x), 2.5 x 0.7 x 0.7 mm, -1000 to -1000 HU, 0.0 MB
    >>> volume.z_mm.tolist()
    [-80.0, -77.5, -75.0]
    """

    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    series_uid: str
    origin_mm: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.hu.ndim != 3 or self.hu.dtype != np.int16 or not self.hu.size:
            raise ValueError(f"Volume: hu is {self.hu.dtype} {self.hu.shape}; give int16 [D, H, W].")
        if len(self.spacing_mm) != 3 or not all(0 < step < math.inf for step in self.spacing_mm):
            raise ValueError(f"Volume: spacing_mm is {self.spacing_mm}; give three distances above 0.")

    @property
    def z_mm(self) -> NDArray[np.float64]:
        """Patient coordinate along Superior of each slice, float64 `[D]`, mm, increasing."""
        return self.origin_mm[0] + self.spacing_mm[0] * np.arange(len(self.hu), dtype=np.float64)

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.hu.shape)
        spacing = " x ".join(f"{step:.3g}" for step in self.spacing_mm)
        return (
            f"Volume {self.series_uid}: {shape} voxels (z, y, x), {spacing} mm, "
            f"{self.hu.min()} to {self.hu.max()} HU, {self.hu.nbytes / 1e6:.1f} MB"
        )


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))


def series_uid(path: Path) -> str:
    """SeriesInstanceUID of a file; "" where it has none or cannot be read."""
    return read_header(path)[0].series_uid


def _plane(header: Dataset, found: Slice) -> NDArray[np.int16]:
    try:
        return decode(header, found)
    except SeriesError as error:
        raise SeriesError(f"{found.path.name}: {error}") from error


def read_series(path_or_files: str | Path | Sequence[str | Path]) -> Volume:
    """Read one series.

    Args:
        path_or_files: a folder (all files under it), a file, or a list of files of one series.

    Returns:
        The volume; slope and intercept are applied slice by slice, non-integers rounded, values
        outside [-1024, 3071] HU clipped (padding is below). Of a folder, `COMPANIONS` that are no
        DICOM files are passed over.

    Raises:
        SeriesError: it cannot be read right; the sentence names series, file and reason.
    """
    given = [path_or_files] if isinstance(path_or_files, str | Path) else path_or_files
    paths = [Path(path) for path in given]
    is_folder = len(paths) == 1 and paths[0].is_dir()
    name = f"in {paths[0].name}" if paths else ""
    slices, planes = [], {}
    try:
        for path in _files(paths[0]) if is_folder else paths:
            found, header = read_header(path, pixels=True)
            if is_folder and found.fault == NO_PREAMBLE and path.suffix.lower() in COMPANIONS:
                continue
            name = found.series_uid or name
            slices.append(found)
            if header is not None and not found.fault:
                planes[path] = _plane(header, found)
        grid = locate(slices)
    except SeriesError as error:
        raise SeriesError(f"Series {name} is refused: {error}.") from error
    hu = np.empty((len(slices), *grid.matrix), np.int16)
    for i, found in enumerate(grid.slices):
        hu[i] = upright(planes.pop(found.path), grid.orientation)
    return Volume(hu, grid.spacing_mm, grid.series_uid, grid.origin_mm)


def _row(grid: Grid) -> dict[str, Any]:
    first = grid.slices[0]
    study = first.study_uid or first.series_uid
    return {
        "patient_id": first.patient_id or study,
        "study_uid": study,
        "series_uid": first.series_uid,
        "n_files": len(grid.slices),
        "n_slices": len(grid.slices),
        "rows_px": grid.matrix[0],
        "cols_px": grid.matrix[1],
        **dict(zip(("spacing_z_mm", "spacing_y_mm", "spacing_x_mm"), grid.spacing_mm, strict=True)),
        "thickness_mm": first.thickness,
        "kernel": first.kernel,
        "manufacturer": first.manufacturer,
        "files": [str(s.path) for s in grid.slices],
        "z_mm": grid.z_mm,
        "orientation": grid.orientation,
    }


def scan(root: str | Path, skip: Collection[Path] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the series under a folder, by their headers; no pixel is read.

    Args:
        root: folder; links to folders are not followed.
        skip: files that are known to be something else; they count nowhere.

    Returns:
        `series`, one row a series that has the geometry of a volume: patient_id (the study where
        the file names no patient), study_uid, series_uid, n_files, n_slices, rows_px and cols_px
        and spacing (z, y, x) of the volume, thickness_mm, kernel, manufacturer, files (inferior to
        superior), z_mm (same order), orientation (see `upright`). `problems`: path relative to
        root, n_files, reason; files of a folder that fail alike share a row. Each file under root
        counts in exactly one of the two.

    Raises:
        FileNotFoundError: root is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; give the folder that holds the DICOM files.")
    groups: dict[str, list[Slice]] = {}
    loose: dict[tuple[Path, str], list[Path]] = {}
    passed_over = {Path(path).resolve() for path in skip}
    names = {path.name for path in passed_over}
    for path in _files(root):
        if path.name in names and path.resolve() in passed_over:
            continue
        found = read_header(path)[0]
        if found.series_uid:
            groups.setdefault(found.series_uid, []).append(found)
        else:
            loose.setdefault((path.parent, found.fault), []).append(path)
    rows, problems = [], []
    for uid, slices in groups.items():
        try:
            rows.append(_row(locate(slices)))
        except SeriesError as error:
            reason = f"Series {uid} is refused: {error}."
            problems.append((_place([s.path for s in slices]), len(slices), reason))
    for (_, fault), paths in loose.items():
        problems.append((_place(paths), len(paths), f"Refused: {fault}."))
    table = [(os.path.relpath(path, root), n, reason) for path, n, reason in problems]
    return pd.DataFrame(rows, columns=list(SERIES)), pd.DataFrame(table, columns=list(PROBLEMS))


def _place(paths: Sequence[Path]) -> Path:
    """The file, or the folder that holds them all."""
    return paths[0] if len(paths) == 1 else Path(os.path.commonpath([path.parent for path in paths]))
