"""CT series to volumes in HU, and a scan of a tree of files.

What comes back is right, or it is refused with a sentence: what a file must have stands in
`ctlib.io.dicom_header` and in the modules of `ctlib.io.formats`, what the files of a series must have together
in `ctlib.io.geometry`, how the files of a series are sorted before they are judged in `ctlib.io.series`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctlib.io.deidentify import SeriesError
from ctlib.io.dicom_header import NO_DICOM, Slice, read_header
from ctlib.io.dicom_pixels import read_plane
from ctlib.io.formats import Format, content_uid, format_of
from ctlib.io.geometry import Grid, one, upright
from ctlib.io.listing import files_under, scan
from ctlib.io.series import judge, named

__all__ = ["OpenSeries", "SeriesError", "Volume", "open_series", "read_series", "scan", "upright"]

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
    def shape(self) -> tuple[int, ...]:
        """(D, H, W)."""
        return self.hu.shape

    def planes(self) -> Iterator[NDArray[np.int16]]:
        """Slices, int16 `[H, W]`, HU, from the most inferior."""
        return iter(self.hu)

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


@dataclass(frozen=True)
class OpenSeries:
    """A DICOM series whose headers were read and judged, and whose pixels were not.

    Args:
        grid: its files on their grid.
        series_uid: SeriesInstanceUID.
    """

    grid: Grid
    series_uid: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W)."""
        return (len(self.grid.slices), *self.grid.matrix)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of voxels along (z, y, x), mm."""
        return self.grid.spacing_mm

    def _fill(self, planes: Iterable[NDArray[np.int16]]) -> Iterator[NDArray[np.int16]]:
        """Read each file, as acquired, into the next of some planes."""
        for found, plane in zip(self.grid.slices, planes, strict=False):
            try:
                read_plane(found, plane)
            except SeriesError as error:
                raise SeriesError(error.reason, self.series_uid, found.path.name) from error
            yield plane

    def planes(self) -> Iterator[NDArray[np.int16]]:
        """Slices, int16 `[H, W]`, HU, from the most inferior; the next one overwrites the last.

        Raises:
            SeriesError: one cannot be read right.
        """
        buffer = np.empty(self.grid.slices[0].matrix, np.int16)
        for plane in self._fill(itertools.repeat(buffer)):
            yield np.ascontiguousarray(upright(plane, self.grid.orientation))

    def read(self) -> Volume:
        """The whole volume.

        Raises:
            SeriesError: a slice cannot be read right.
        """
        hu = np.empty((len(self.grid.slices), *self.grid.slices[0].matrix), np.int16)
        for _ in self._fill(hu):
            pass
        hu = np.ascontiguousarray(upright(hu, self.grid.orientation))
        return Volume(hu, self.grid.spacing_mm, self.series_uid, self.grid.origin_mm)


def open_series(path_or_files: str | Path | Sequence[str | Path]) -> OpenSeries | Volume:
    """Find one series by its headers, to be read slice by slice; a file of `FORMATS` is read at once.

    Args:
        path_or_files: as for `read_series`.

    Raises:
        SeriesError: as `read_series`, but for what only the pixels show.
    """
    given = [path_or_files] if isinstance(path_or_files, str | Path) else path_or_files
    paths = [Path(path) for path in given]
    is_folder = len(paths) == 1 and paths[0].is_dir()
    paths = list(files_under(paths[0])) if is_folder else paths
    for path in paths:
        kind = format_of(path)
        if kind and (len(paths) == 1 or set(paths) == set(kind.read_header(path).files)):
            return _read_whole(kind, path)
    slices = [read_header(path) for path in paths]
    if is_folder:
        slices = [s for s in slices if not _beside(s)]
    grid = _the_one(slices)
    return OpenSeries(grid, grid.series_uid)


def read_series(path_or_files: str | Path | Sequence[str | Path]) -> Volume:
    """Read one series.

    Args:
        path_or_files: a folder (all files under it), a file, or a list of files of one series.

    Returns:
        The volume; slope and intercept are applied slice by slice, non-integers rounded, values
        outside [-1024, 3071] HU clipped (padding is below). Localizers, screen captures and copies
        among the files are set aside, and of a folder, `COMPANIONS` that are no DICOM files.

    Raises:
        SeriesError: it cannot be read right, or there are several volumes; the sentence names
            series, file and reason.
    """
    opened = open_series(path_or_files)
    return opened.read() if isinstance(opened, OpenSeries) else opened


def _beside(found: Slice) -> bool:
    return found.fault.startswith(NO_DICOM) and found.path.suffix.lower() in COMPANIONS


def _read_whole(kind: Format, path: Path) -> Volume:
    try:
        hu, header = kind.decode(path)
        return Volume(hu, header.spacing_mm, content_uid(kind, header.files), header.origin_mm)
    except SeriesError as error:
        raise SeriesError(error.reason, f"in {path.name}", path.name) from error
    except OSError as error:
        raise SeriesError(f"it cannot be opened ({error.strerror})", f"in {path.name}") from error


def _the_one(slices: Sequence[Slice]) -> Grid:
    """The only volume that files hold."""
    named_after = next((s.series_uid for s in slices if s.series_uid), "")
    name = named_after or (f"in {slices[0].path.parent.name}" if slices else "without files")
    try:
        if not slices:
            raise SeriesError("there are no DICOM files")
        known = [s for s in slices if not s.aside and (s.series_uid or not s.fault)]
        one(known, "SeriesInstanceUIDs", (s.series_uid for s in known), told=False)
        judged = judge(slices)
        grids = named(judged, named_after)
    except SeriesError as error:
        raise SeriesError(error.reason, name, error.file) from error
    except OSError as error:
        raise SeriesError(f"a file changed while it was read ({error.strerror}); try again", name) from error
    if len(grids) == 1:
        return grids[0]
    if grids:
        parts = "; ".join(f"{len(g.slices)} slices from z {g.z_mm[0]:g} to {g.z_mm[-1]:g} mm" for g in grids)
        raise SeriesError(f"it holds {len(grids)} volumes ({parts}); give the files of one", name)
    _, why = max(judged.refused, key=lambda refused: (not refused[0][0].aside, len(refused[0])))
    raise SeriesError(why.reason, name, why.file)
