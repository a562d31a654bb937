"""What one series holds: its volumes, and what is set aside or refused, each file once.

A SeriesInstanceUID is no promise of a volume. It may hold localizers, screen captures, sagittal
planes among axial ones, several acquisitions at the same positions, copies of files. So the files
of a series are sorted first and judged then:

1. what is no slice (`Slice.aside`) is set aside, and a file that repeats another byte for byte;
2. one damaged slice refuses all that is left: nobody can tell which volume it is missing from;
3. slices of another orientation, matrix or pixel spacing are parts of their own;
4. so are acquisitions (AcquisitionNumber) that overlap along the normal. Those that follow one
   another are judged together first, for some scanners count every rotation as an acquisition.

Each part is a volume or is refused by `geometry.locate`. A slice that was sorted out of the middle
of a volume leaves a gap, which is refused there.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ctlib.io.deidentify import SeriesError
from ctlib.io.dicom_header import Slice
from ctlib.io.geometry import MIN_SLICES, SPACING_DIFFERENCE, Grid, locate, one


@dataclass
class Judged:
    """What became of the files of one series.

    Args:
        volumes: its volumes, from inferior to superior.
        refused: files that are in no volume, with the reason; files of one reason together.
    """

    volumes: list[Grid] = field(default_factory=list)
    refused: list[tuple[list[Slice], SeriesError]] = field(default_factory=list)

    def refuse(self, slices: list[Slice], reason: str | SeriesError) -> None:
        """Count files as refused."""
        self.refused.append((slices, SeriesError(reason) if isinstance(reason, str) else reason))


def _grouped(slices: Iterable[Slice], keys: Iterable[Any]) -> list[list[Slice]]:
    """Slices of equal keys together, in the order in which keys come first."""
    groups: dict[Any, list[Slice]] = {}
    for found, value in zip(slices, keys, strict=True):
        groups.setdefault(value, []).append(found)
    return list(groups.values())


def judge(slices: Sequence[Slice]) -> Judged:
    """Sort the files of one series into volumes and what is refused.

    Args:
        slices: headers of all files that share a SeriesInstanceUID, in any order.
    """
    made = Judged()
    for others in _grouped(aside := [s for s in slices if s.aside], [s.fault for s in aside]):
        made.refuse(others, f"{others[0].fault}: set aside")
    kept, copies = _without_copies([s for s in slices if not s.aside])
    if copies:
        made.refuse(copies, "it repeats another file of its series byte for byte: set aside")
    if not kept:
        return made
    damaged = [s for s in kept if s.fault]
    try:
        for first in damaged:
            raise SeriesError(first.fault, file=first.path.name)
        owners = ((s.patient_id, s.study_uid) for s in kept)
        one(kept, "PatientIDs or StudyInstanceUIDs", owners, told=False)
    except SeriesError as error:
        made.refuse(kept, error)
        return made
    parts = _planes(kept)
    for part in parts:
        _judge_part(part, made)
    if len(parts) > 1:
        made.refused = [(s, _among(e, len(parts)) if not s[0].aside else e) for s, e in made.refused]
    made.volumes.sort(key=lambda grid: (grid.z_mm, grid.matrix))
    return made


def _among(error: SeriesError, n_parts: int) -> SeriesError:
    """The same error, which says that the part is not all of its series."""
    return SeriesError(
        f"{error.reason} (its series has {n_parts} kinds of planes, each checked by itself)", file=error.file
    )


def _without_copies(slices: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    """Files, and those that repeat one of them; only files that share a SOPInstanceUID are compared."""
    kept: list[Slice] = []
    copies: list[Slice] = []
    for group in _grouped(slices, [s.sop_uid or str(s.path) for s in slices]):
        seen = set()
        for found in group:
            content = _content(found) if len(group) > 1 else ""
            (copies if content in seen else kept).append(found)
            seen.add(content)
    return kept, copies


def _content(found: Slice) -> str:
    with found.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _planes(slices: list[Slice]) -> list[list[Slice]]:
    """Parts of equal orientation (to 0.6 degrees), matrix and pixel spacing."""
    parts = []
    turned = [(tuple(round(c, 2) + 0.0 for c in s.orientation), s.matrix) for s in slices]
    for part in _grouped(slices, turned):
        spacings = np.array([s.spacing for s in part])
        if np.ptp(spacings, axis=0).max() <= SPACING_DIFFERENCE * spacings.min():
            parts.append(part)
        else:
            parts += _grouped(part, ["{:.4g} {:.4g}".format(*s.spacing) for s in part])
    return parts


def _judge_part(part: list[Slice], made: Judged) -> None:
    """One part as a whole, or acquisition by acquisition."""
    pieces = _grouped(part, [s.acquisition for s in part])
    try:
        grid = locate(part)
        if not _overlap(part):
            made.volumes.append(grid)
            return
        whole = SeriesError(f"its {len(part)} files are of {len(pieces)} acquisitions that overlap; give one")
    except SeriesError as error:
        whole = error
    if len(pieces) == 1 or max(len(piece) for piece in pieces) < MIN_SLICES:
        made.refuse(part, whole)
        return
    for piece in pieces:
        try:
            made.volumes.append(locate(piece))
        except SeriesError as error:
            made.refuse(piece, error)


def _overlap(part: list[Slice]) -> bool:
    """Whether the acquisitions of a part interleave along the normal or share positions."""
    cosines = np.array(part[0].orientation).reshape(2, 3)
    along = np.array([s.position for s in part]) @ np.cross(*cosines)
    names = [part[i].acquisition for i in np.argsort(along, kind="stable")]
    runs = 1 + sum(a != b for a, b in itertools.pairwise(names))
    return runs > len(set(names))


def named(judged: Judged, series_uid: str) -> list[Grid]:
    """The volumes of a series, each with a name of its own.

    Args:
        judged: from `judge`.
        series_uid: SeriesInstanceUID; where it is "", the bytes of the middle slice stand for it.

    Returns:
        The same volumes; of several in one series, the names end in `#1`, `#2`, ...
    """
    grids = []
    for number, grid in enumerate(judged.volumes, start=1):
        uid = series_uid or f"unnamed-{_content(grid.slices[len(grid.slices) // 2])[:32]}"
        grids.append(replace(grid, series_uid=f"{uid}#{number}" if len(judged.volumes) > 1 else uid))
    return grids
