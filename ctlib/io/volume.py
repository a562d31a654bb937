"""CT series to volumes in HU, and a scan of a tree of files.

What comes back is right, or it is refused with a sentence: what a file must have stands in
`ctlib.io.dicom_header` and in the modules of `ctlib.io.formats`, what the files of a series must have together
in `ctlib.io.geometry`, how the files of a series are sorted before they are judged in `ctlib.io.series`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctlib.io.deidentify import SeriesError
from ctlib.io.dicom_header import Slice, read_header
from ctlib.io.dicom_pixels import read_plane
from ctlib.io.formats import Format, content_uid, format_of
from ctlib.io.geometry import Grid, Volume, one, upright
from ctlib.io.listing import files_under, scan
from ctlib.io.multiframe import frames_of
from ctlib.io.series import judge, lone_note, named, share_no_uid

__all__ = ["OpenSeries", "SeriesError", "Volume", "open_series", "read_series", "scan", "upright"]


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
    if len(paths) == 1 and paths[0].is_dir():
        paths = list(files_under(paths[0]))
    if len(paths) == 1 and (kind := format_of(paths[0])):
        return _read_whole(kind, paths[0])
    wholes = {path: kind for path in paths if (kind := format_of(path))}
    held = {file for path, kind in wholes.items() for file in kind.read_header(path).files}
    slices = [read_header(path) for path in paths if path not in held]
    n_others = sum(not _is_no_dicom(s) for s in slices)
    if len(wholes) == 1 and not n_others:
        return _read_whole(*wholes.popitem()[::-1])
    if wholes:
        names = " and ".join(sorted({kind.name for kind in wholes.values()}))
        others = f" and {n_others} other files" if n_others else ""
        reason = f"{len(wholes)} volumes as {names}{others} lie there; give the file of one"
        raise SeriesError(reason, f"in {next(iter(wholes)).parent.name}")
    grid = _the_one([frame for s in slices for frame in (frames_of(s) if s.n_frames > 1 else [s])])
    return OpenSeries(grid, grid.series_uid)


def read_series(path_or_files: str | Path | Sequence[str | Path]) -> Volume:
    """Read one series.

    Args:
        path_or_files: a folder (all files under it), a file, or a list of files of one series.

    Returns:
        The volume; slope and intercept are applied slice by slice, non-integers rounded, values
        outside [-1024, 3071] HU clipped (padding is below). Localizers, screen captures, copies, and
        files that are plainly no DICOM (a README, .DS_Store, DICOMDIR) are set aside, as by `scan`.

    Raises:
        SeriesError: it cannot be read right, or there are several volumes; the sentence names
            series, file and reason.
    """
    opened = open_series(path_or_files)
    return opened.read() if isinstance(opened, OpenSeries) else opened


def _is_no_dicom(found: Slice) -> bool:
    """Whether a file is known as something else than a DICOM slice."""
    return found.aside and not found.series_uid


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
    why_together = ""
    if share_no_uid(slices):
        named_after, name = "", f"in {slices[0].path.parent.name}"
        slices = [s if s.aside else replace(s, series_uid="") for s in slices]
        why_together = f"{lone_note(sum(not s.aside for s in slices))}: "
    try:
        if not slices:
            raise SeriesError("there are no DICOM files")
        known = [s for s in slices if not s.aside and (s.series_uid or not s.fault)]
        one(known, "SeriesInstanceUIDs", (s.series_uid for s in known), told=False)
        judged = judge(slices)
        grids = named(judged, named_after)
    except SeriesError as error:
        raise SeriesError(f"{why_together}{error.reason}", name, error.file) from error
    except OSError as error:
        raise SeriesError(f"a file changed while it was read ({error.strerror}); try again", name) from error
    if len(grids) == 1:
        return grids[0]
    if grids:
        parts = "; ".join(f"{len(g.slices)} slices from z {g.z_mm[0]:g} to {g.z_mm[-1]:g} mm" for g in grids)
        raise SeriesError(
            f"it holds {len(grids)} volumes ({parts}); give the files of one, as `scan` lists them", name
        )
    _, why = max(judged.refused, key=lambda refused: (not refused[0][0].aside, len(refused[0])))
    raise SeriesError(f"{why_together}{why.reason}", name, why.file)
