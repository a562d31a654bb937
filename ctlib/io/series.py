"""What one series holds: its volumes, and what is set aside or refused, each file once.

A SeriesInstanceUID is no promise of a volume. It may hold localizers, screen captures, sagittal
planes among axial ones, several acquisitions at the same positions, two reconstructions whose slices
alternate, copies of files. So the files of a series are sorted first and judged then:

1. what is no slice (`Slice.aside`) is set aside, and a file that repeats another byte for byte;
2. one damaged slice refuses all that is left: nobody can tell which volume it is missing from;
3. slices of another orientation, matrix or pixel spacing are parts of their own;
4. a slice with the position and the pixels of another is set aside;
5. acquisitions (AcquisitionNumber) that overlap along the normal are parts of their own. Those that follow
   one another are judged together first, for some scanners count every rotation as an acquisition;
6. so are reconstructions, see `_reconstructions`; what was derived from other slices is set aside.

Each part is a volume or is refused by `geometry.locate`. A slice that was sorted out of the middle
of a volume leaves a gap, which is refused there. UIDs, too, may mean nothing: an anonymiser may have given all
series the same one (`judge`), or each file one of its own (`share_no_uid`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctlib.io.deidentify import SeriesError
from ctlib.io.dicom_header import RECONSTRUCTION, Slice
from ctlib.io.dicom_pixels import read_plane
from ctlib.io.geometry import MIN_SLICES, SPACING_DIFFERENCE, Grid, locate, one

COPY = "it repeats another file of its series byte for byte: set aside"
REPEAT = "it has the position and the pixels of another file of its series: set aside"
DERIVED = "it was derived from other slices of its series (ImageType), as a projection is: set aside"
LASTING = ("ImageType", "ConvolutionKernel", "SeriesDescription", "ContrastBolusAgent", "SliceThickness")
"""Fields of `RECONSTRUCTION` that have one value in one volume."""
PASSING = ("AcquisitionTime", "AcquisitionDateTime")
"""Fields of it that may differ from slice to slice of one volume, and mostly do."""
KEYS = (*((name,) for name in LASTING), LASTING, *((name,) for name in PASSING))
"""Fields by which the slices of a part are grouped in turn."""
MIXED = {
    "ConvolutionKernel": "kernels (ConvolutionKernel)",
    "SeriesDescription": "descriptions (SeriesDescription)",
    "ContrastBolusAgent": "contrast agents (ContrastBolusAgent)",
}
"""Fields that one volume cannot have several values of, alternating along z, and what they are."""


@dataclass
class Judged:
    """What became of the files of one series.

    Args:
        volumes: its volumes, from inferior to superior.
        refused: files that are in no volume, with the reason; files of one reason together.
        note: what a reader of its volumes should know, fit for a report, or "".
        by_folder: the files of each folder were judged by themselves.
    """

    volumes: list[Grid] = field(default_factory=list)
    refused: list[tuple[list[Slice], SeriesError]] = field(default_factory=list)
    note: str = ""
    by_folder: bool = False

    def refuse(self, slices: list[Slice], reason: str | SeriesError) -> None:
        """Count files as refused."""
        self.refused.append((slices, SeriesError(reason) if isinstance(reason, str) else reason))


def _grouped(slices: Iterable[Slice], keys: Iterable[Any]) -> list[list[Slice]]:
    """Slices of equal keys together, in the order in which keys come first."""
    groups: dict[Any, list[Slice]] = {}
    for found, value in zip(slices, keys, strict=True):
        groups.setdefault(value, []).append(found)
    return list(groups.values())


def share_no_uid(slices: Iterable[Slice]) -> bool:
    """Whether each of some files claims a series of its own, as after an anonymiser that draws UIDs per file.

    Args:
        slices: headers of the files of one folder; those that are no slices are passed over.
    """
    uids = [s.series_uid for s in slices if not s.aside and (s.series_uid or not s.fault)]
    return len(uids) >= MIN_SLICES and all(uids) and len(set(uids)) == len(uids)


def lone_note(n_files: int) -> str:
    """What is said of files that `share_no_uid`."""
    return (
        f"each of its {n_files} files claims a series of its own (SeriesInstanceUID), as after an anonymiser that "
        "draws UIDs per file; they are judged together, as one series"
    )


def judge(slices: Sequence[Slice]) -> Judged:
    """Sort the files of one series into volumes and what is refused.

    A series may lie in several folders. But where folders that share its UID hold a volume each, and all
    files together do not hold these volumes, it is the UID that is wrong: each folder is judged by itself.

    Args:
        slices: headers of all files that share a SeriesInstanceUID, in any order.
    """
    together = _judge_all(slices)
    folders = _grouped(slices, [s.path.parent for s in slices])
    apart = [_judge_all(folder) for folder in folders] if len(folders) > 1 else []
    n_volumes = sum(len(judged.volumes) for judged in apart)
    if sum(bool(judged.volumes) for judged in apart) < 2 or not _one_uid_for_all(together, apart):
        return together
    note = (
        f"its SeriesInstanceUID is that of {n_volumes} volumes in {len(folders)} folders, each read by itself; if they "
        "are of different patients, give the patient of each in the table of labels, UIDs do not tell them apart"
    )
    return Judged(
        [grid for judged in apart for grid in judged.volumes],
        [refused for judged in apart for refused in judged.refused],
        note,
        by_folder=True,
    )


def _one_uid_for_all(together: Judged, apart: list[Judged]) -> bool:
    """Whether folders hold volumes that all files together do not, or that mix, or that nothing else tells apart."""
    placed = {id(s) for grid in together.volumes for s in grid.slices}
    placed |= {id(s) for files, why in together.refused if why.reason in (COPY, REPEAT) for s in files}
    if any(id(s) not in placed for judged in apart for grid in judged.volumes for s in grid.slices):
        return True
    whole = {grid.slices[0].path.parent for judged in apart for grid in judged.volumes}
    homes = [[s.path.parent for s in grid.slices] for grid in together.volumes]
    if any(len(whole & set(home)) > 1 and _runs(home) > len(set(home)) for home in homes):
        return True
    acquisitions = {s.acquisition for grid in together.volumes for s in grid.slices}
    return len({home[0] for home in homes if len(set(home)) == 1}) > 1 and len(acquisitions) == 1


def _judge_all(slices: Sequence[Slice]) -> Judged:
    """Sort the files of one series, wherever they lie."""
    made = Judged()
    kept, copies = _without_copies([s for s in slices if not s.aside])
    for others in _grouped(aside := [s for s in slices if s.aside], [s.fault for s in aside]):
        fault = others[0].fault
        fault = f"{fault.split('; ')[0]}: set aside" if kept else fault
        made.refuse(others, SeriesError(fault, file=others[0].path.name))
    if copies:
        made.refuse(copies, COPY)
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
            content = content_of(found.path) if len(group) > 1 else ""
            (copies if content in seen else kept).append(found)
            seen.add(content)
    return kept, copies


def content_of(path: Path) -> str:
    """SHA-256 of a file's bytes, 32 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


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
    """One part as a whole, or acquisition by acquisition, or reconstruction by reconstruction."""
    part, repeats = _without_repeats(part)
    if repeats:
        made.refuse(repeats, REPEAT)
    acquisitions = [s.acquisition for s in part]
    overlap = f"its {len(part)} files are of {len(set(acquisitions))} acquisitions that overlap; give one"
    grid, why = None, SeriesError(overlap)
    try:
        grid = locate(part)
    except SeriesError as error:
        why = error
    if grid and not _alternate(part, acquisitions):
        pieces = _reconstructions(part, even=True)
        if not pieces and (mixed := _mixed(part)):
            made.refuse(part, mixed)
        elif not pieces:
            made.volumes.append(grid)
    elif not grid and (original := _without_derived(part, made)):
        pieces = [original]
    else:
        pieces = _grouped(part, acquisitions)
        if len(pieces) == 1 or max(len(piece) for piece in pieces) < MIN_SLICES:
            pieces = _reconstructions(part, even=False)
        if not pieces:
            made.refuse(part, why)
    for piece in pieces:
        _judge_part(piece, made)


def _without_repeats(part: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    """Slices, and those that show the same as another at the same place, under another SOPInstanceUID.

    All files that share positions must be such repeats, or none is taken for one: two phases at the same
    positions may have a slice of nothing but air each.
    """
    repeats: list[Slice] = []
    for first, *others in _grouped(part, [s.position for s in part]):
        if not all(_show_the_same(first, other) for other in others):
            return part, []
        repeats += others
    gone = {id(s) for s in repeats}
    return [s for s in part if id(s) not in gone], repeats


def _show_the_same(one_slice: Slice, other: Slice) -> bool:
    planes = [np.empty(s.matrix, np.int16) for s in (one_slice, other)]
    try:
        for found, plane in zip((one_slice, other), planes, strict=True):
            read_plane(found, plane)
    except SeriesError:  # whoever reads the volume is told
        return False
    return np.array_equal(planes[0], planes[1])


def _without_derived(part: list[Slice], made: Judged) -> list[Slice]:
    """The original slices of a part, where they are a volume without the derived ones, which are set aside.

    A projection of some of the slices (MIP) lies among them, under the same UID.
    """
    sorted_out: tuple[list[Slice], list[Slice]] = ([], [])
    for found in part:
        sorted_out[_value(found, "ImageType").upper().startswith("DERIVED")].append(found)
    original, derived = sorted_out
    if not original or not derived or not _is_volume(original):
        return []
    made.refuse(derived, DERIVED)
    return original


def _value(found: Slice, name: str) -> str:
    return found.reconstruction[RECONSTRUCTION.index(name)]


def _reconstructions(part: list[Slice], even: bool) -> list[list[Slice]]:
    """The reconstructions that a part consists of; [] where nothing shows that there are several.

    They are told by fields of `RECONSTRUCTION`. That a field differs proves nothing: AcquisitionTime
    does in most series. But if slices of one value are a volume by themselves and lie between those of
    another value, or at the same positions, these are two volumes: two phases, say, or a soft and a sharp kernel.

    Args:
        part: slices of equal orientation, matrix and pixel spacing.
        even: whether all of them together look like one volume; then each of its parts must be one too.
    """
    if len({s.reconstruction for s in part}) == 1:
        return []
    for names in KEYS:
        values = [tuple([_value(s, name) for name in names]) for s in part]
        pieces = _grouped(part, values)
        if (
            len(pieces) == 1
            or min(len(piece) for piece in pieces) < MIN_SLICES
            or not _alternate(part, values)
        ):
            continue
        needed = all if even or names[0] in PASSING else any
        if needed(_is_volume(piece) for piece in pieces):
            return pieces
    return []


def _mixed(part: list[Slice]) -> str:
    """Why slices that look like one volume are none: a field has several values that alternate along z."""
    for name, what in MIXED.items():
        values = [_value(s, name) for s in part]
        pieces = _grouped(part, values)
        if len(pieces) > 1 and min(len(piece) for piece in pieces) >= MIN_SLICES and _alternate(part, values):
            return (
                f"its {len(part)} files have {len(pieces)} different {what}, which alternate along z; "
                "export each reconstruction as a series of its own"
            )
    return ""


def _is_volume(slices: list[Slice]) -> bool:
    try:
        locate(slices)
    except SeriesError:
        return False
    return True


def _alternate(part: list[Slice], values: list[Any]) -> bool:
    """Whether slices of different values interleave along the normal or share positions.

    Args:
        part: slices.
        values: of each slice.
    """
    if len(set(values)) == 1:
        return False
    cosines = np.array(part[0].orientation).reshape(2, 3)
    along = np.array([s.position for s in part]) @ np.cross(*cosines)
    return _runs([values[i] for i in np.argsort(along, kind="stable")]) > len(set(values))


def _runs(values: list[Any]) -> int:
    """How many runs of equal values there are."""
    return 1 + sum(a != b for a, b in itertools.pairwise(values))


def named(judged: Judged, series_uid: str) -> list[Grid]:
    """The volumes of a series, each with a name of its own.

    Args:
        judged: from `judge`.
        series_uid: SeriesInstanceUID; where it is "", the bytes of the middle slice stand for it.

    Returns:
        The same volumes; of several in one series, the names end in `#1`, `#2`, ..., or, where folders were
        judged by themselves, in `#` and a hash of the middle slice, which stays when a folder is added.
    """
    grids = []
    for number, grid in enumerate(judged.volumes, start=1):
        middle = grid.slices[len(grid.slices) // 2].path
        content = content_of(middle) if judged.by_folder or not series_uid else ""
        uid = series_uid or f"unnamed-{content}"
        if judged.by_folder and series_uid:
            uid = f"{uid}#{content}"
        elif len(judged.volumes) > 1:
            uid = f"{uid}#{number}"
        grids.append(replace(grid, series_uid=uid))
    return grids
