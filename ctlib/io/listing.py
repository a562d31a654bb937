"""What lies under a folder: its series, and every file that is in none, by headers only.

Folders are read one by one, here or on workers, and what a folder holds is judged at once, so that
memory holds the results and not the headers of a million files. Series that turn out to be spread
over several folders are read again together. Links to folders are followed, each folder is read once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ctlib.core import Identity, Map, in_order, printable
from ctlib.io.deidentify import SeriesError
from ctlib.io.dicom_header import Slice, read_header
from ctlib.io.formats import FORMATS, Format, content_uid, format_of
from ctlib.io.geometry import Grid
from ctlib.io.multiframe import frames_of
from ctlib.io.series import content_of, judge, lone_note, named, share_no_uid

SERIES = (
    *("patient_id", "study_uid", "series_uid", "n_files", "n_slices", "rows_px", "cols_px"),
    *("spacing_z_mm", "spacing_y_mm", "spacing_x_mm", "thickness_mm", "kernel", "manufacturer"),
    *("files", "z_mm", "orientation", "source"),
)
PROBLEMS = ("path", "n_files", "reason")
"""Columns of what `scan` returns."""
BATCH_FILES = 1000
"""Files handed to a worker at once, about; a folder is never split."""
SHARED = "its voxels are those of another header in its folder: set aside"
"""Why a second header of one file of voxels is no volume."""


@dataclass(slots=True)
class _Entry:
    """Files that end in one place: a series (`row`) or a problem (`reason`)."""

    uid: str
    paths: list[str]
    row: dict[str, Any] | None = None
    reason: str = ""
    alone: bool = False  # a file with a whole volume: none of another folder belongs to it
    is_note: bool = False  # its files count elsewhere


@dataclass(frozen=True)
class Folder:
    """A folder, the sorted names of its files, and why they are not read, or ""."""

    path: str
    names: list[str]
    fault: str = ""


LOCKED = "the folder cannot be opened"
"""How the fault of a folder begins that may hold files which nobody sees."""


def folders_under(root: Path) -> Iterator[Folder]:
    """A folder and all folders under it, sorted; behind them those to which links lead.

    Each folder is read once: a link to one that was read already, or that the link lies in, is a fault.
    """
    known: set[tuple[int, Any]] = set()
    tops = [str(root)]
    for top in tops:  # links are added to it on the way
        locked: list[OSError] = []
        for folder, folders, names in os.walk(top, onerror=locked.append):
            folders.sort()
            identity = _identity(folder)
            if identity in known and top != tops[0]:
                folders.clear()
                yield Folder(folder, [], _read_already(folder))
                continue
            known.add(identity)
            tops += [str(path) for name in folders if (path := Path(folder, name)).is_symlink()]
            yield Folder(folder, sorted(names))
        for error in locked:
            yield Folder(
                os.fsdecode(error.filename),
                [],
                f"{LOCKED} ({error.strerror}), so nobody knows what is in it; see that you may read it, then try again",
            )


def _identity(folder: str) -> tuple[int, Any]:
    """What a folder has in common with all links to it."""
    status = Path(folder).stat()
    return status.st_dev, status.st_ino or os.path.realpath(folder)  # some file systems have no numbers


def _read_already(link: str) -> str:
    target, home = Path(os.path.realpath(link)), Path(os.path.realpath(Path(link).parent))
    if home.is_relative_to(target):
        return "it is a link to a folder that it lies in, a loop, which is not followed; remove it"
    return "it leads to a folder that is read already in another place: not read again"


def files_under(root: Path) -> Iterator[Path]:
    """All files under a folder, sorted folder by folder; links to folders are followed.

    Raises:
        SeriesError: a folder under it cannot be opened.
    """
    for folder in folders_under(root):
        if folder.fault.startswith(LOCKED):
            raise SeriesError(folder.fault, f"in {root.name}", Path(folder.path).name)
        yield from (Path(folder.path, name) for name in folder.names)


def source_checksum(stamps: Iterable[tuple[int, int]]) -> str:
    """SHA-256 of the sizes and times of change of a series' files; their contents are not read.

    Args:
        stamps: bytes and ns of each file, inferior to superior.
    """
    return hashlib.sha256(json.dumps(list(stamps)).encode()).hexdigest()


def _row(grid: Grid) -> dict[str, Any]:
    first = grid.slices[0]
    study = first.study_uid or grid.series_uid
    stamps = {str(s.path): s.stamp for s in grid.slices}  # slices may be frames of one file
    return {
        "patient_id": first.patient_id or study,
        "study_uid": study,
        "series_uid": grid.series_uid,
        "n_files": len(stamps),
        "n_slices": len(grid.slices),
        "rows_px": grid.matrix[0],
        "cols_px": grid.matrix[1],
        **dict(zip(("spacing_z_mm", "spacing_y_mm", "spacing_x_mm"), grid.spacing_mm, strict=True)),
        "thickness_mm": first.thickness,
        "kernel": first.kernel,
        "manufacturer": first.manufacturer,
        "files": list(stamps),
        "z_mm": grid.z_mm,
        "orientation": grid.orientation,
        "source": source_checksum(stamps.values()),
    }


def _whole_volume(kind: Format, path: Path) -> _Entry:
    """What a file of one of `FORMATS` becomes."""
    header = kind.read_header(path)
    paths = [str(file) for file in header.files]
    if header.fault:
        return _Entry("", paths, reason=header.fault, alone=True)
    uid, stamps = content_uid(kind, header.files), [file.stat() for file in header.files]
    (depth, rows, cols), (z, y, x) = header.shape, header.spacing_mm
    row = {
        **dict.fromkeys(("patient_id", "study_uid", "series_uid"), uid),
        **{"n_files": len(paths), "n_slices": depth, "rows_px": rows, "cols_px": cols},
        **{"spacing_z_mm": z, "spacing_y_mm": y, "spacing_x_mm": x},
        **dict.fromkeys(("thickness_mm", "kernel", "manufacturer")),
        "files": [str(path)],
        "z_mm": [header.origin_mm[0] + z * k for k in range(depth)],
        "orientation": "LP",
        "source": source_checksum((stamp.st_size, stamp.st_mtime_ns) for stamp in stamps),
    }
    return _Entry(uid, paths, row, alone=True)


def _series_entries(uid: str, slices: Sequence[Slice], note: str = "") -> list[_Entry]:
    """What the files of one series become.

    Args:
        uid: SeriesInstanceUID, or "".
        slices: its headers.
        note: what is to be known of its files, or "".
    """
    try:
        judged = judge(slices)
        grids = named(judged, uid)
    except OSError as error:
        reason = f"a file changed while it was read ({error.strerror}); try again"
        return [_Entry(uid, [str(s.path) for s in slices], reason=reason)]
    entries = [_Entry(uid, [], _row(grid)) for grid in grids]
    for entry in entries:
        entry.paths = entry.row["files"] if entry.row else []
    for refused, why in judged.refused:
        entries.append(_Entry(uid, [str(s.path) for s in refused], reason=why.reason))
    if note := note or judged.note:
        entries.append(_Entry(uid, [str(s.path) for s in slices], reason=note, is_note=True))
    return entries


def _read_folders(folders: Sequence[tuple[str, Sequence[str]]]) -> list[list[_Entry]]:
    """What each folder holds, by itself. This is what a worker does."""
    return [_read_files([Path(folder, name) for name in names]) for folder, names in folders]


def _read_files(paths: Sequence[Path]) -> list[_Entry]:
    entries: list[_Entry] = []
    held: set[str] = set()
    for path in paths:
        if kind := format_of(path):
            entry = _whole_volume(kind, path)
            if not held.isdisjoint(entry.paths):
                entry = _Entry("", [str(path)], reason=SHARED, alone=True)
            entries.append(entry)
            held.update(entry.paths)
    slices = []
    for path in paths:
        if str(path) in held:
            continue
        found = read_header(path)
        frames = frames_of(found) if found.n_frames > 1 else [found]
        if len(frames) > 1:
            entries += _frames_entry(frames)
        else:
            slices += frames
    groups: dict[str, list[Slice]] = {}
    loose: dict[str, list[str]] = {}
    lone = share_no_uid(slices)
    for found in slices:
        if found.series_uid or not found.fault:
            uid = "" if lone and not found.aside else found.series_uid
            groups.setdefault(uid, []).append(found if uid else replace(found, series_uid=""))
        else:
            loose.setdefault(found.fault, []).append(str(found.path))
    for uid, group in groups.items():
        entries += _series_entries(uid, group, lone_note(len(group)) if lone and not uid else "")
    return entries + [_Entry("", same, reason=fault) for fault, same in loose.items()]


def _frames_entry(frames: list[Slice]) -> list[_Entry]:
    """What a file of several frames becomes."""
    entries = _series_entries(frames[0].series_uid, frames)
    for entry in entries:
        entry.alone = True
    return entries


def _batches(
    root: Path, skip: Collection[Path], faulty: list[Folder]
) -> Iterator[list[tuple[str, list[str]]]]:
    """Folders with the names of their files, some at a time; folders with a fault are added to a list."""
    passed_over = {Path(path).resolve() for path in skip}
    names_over = {path.name for path in passed_over}
    batch: list[tuple[str, list[str]]] = []
    waiting = 0
    for folder in folders_under(root):
        names = [
            name
            for name in folder.names
            if name not in names_over or Path(folder.path, name).resolve() not in passed_over
        ]
        if folder.fault:
            faulty.append(folder)
        if names:
            batch.append((folder.path, names))
            waiting += len(names)
        if waiting >= BATCH_FILES:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def _together(folders: list[list[_Entry]], run: Map) -> list[_Entry]:
    """All entries; series that lie in several folders are judged by all their files."""
    n_folders = Counter(uid for entries in folders for uid in {e.uid for e in entries} if uid)
    spread: dict[str, list[Path]] = {}
    kept: list[_Entry] = []
    seen: set[str] = set()
    for entry in (entry for entries in folders for entry in entries):
        if n_folders[entry.uid] > 1 and not entry.alone:
            spread.setdefault(entry.uid, []).extend(Path(path) for path in entry.paths)
        else:
            kept.append(entry)
    for entries in run(_read_files, list(spread.values()), "series in several folders"):
        kept += entries
    _name_apart([entry.row for entry in kept if entry.row and entry.alone])
    for entry in kept:
        uid = entry.row["series_uid"] if entry.row else ""
        if uid in seen:
            entry.row, entry.reason = None, "it repeats another file or series byte for byte"
        seen.add(uid or "-")
    return kept


def _name_apart(rows: list[dict[str, Any]]) -> None:
    """Gives files of several frames under one SeriesInstanceUID names of their own, by what is in them."""
    n_files = Counter(row["series_uid"] for row in rows)
    for row in rows:
        if n_files[row["series_uid"]] > 1 and format_of(row["files"][0]) is None:
            row["series_uid"] += f"#{content_of(Path(row['files'][0]))}"


def scan(
    root: str | Path, skip: Collection[Path] = (), run: Map = in_order
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the volumes under a folder, by their headers; no pixel is read.

    Args:
        root: folder; links to folders are followed, each folder once.
        skip: files that are known to be something else; they count nowhere.
        run: spreads the folders over workers.

    Returns:
        `series`, one row a volume: patient_id (the study where the file names no patient),
        study_uid, series_uid (see `series.named`; a file of `FORMATS` has its `content_uid`, for the
        patient and study too), n_files, n_slices, rows_px and cols_px and spacing (z, y, x) of the
        volume, thickness_mm, kernel, manufacturer, files (inferior to superior), z_mm (of each
        slice), orientation (see `geometry.upright`; of a file of `FORMATS` that of its decoded volume),
        source (see `source_checksum`).
        `problems`: path relative to root (as `printable` gives it), n_files, reason; files of a folder or
        series that fail alike share a row. Each file under root counts in exactly one of the two; rows
        with 0 files name folders that are not read, and what else is to be known ("Noted: ..."). Paths and
        identities are as found: what goes to tables is hashed first (`ctlib.core.pseudonyms`).

    Raises:
        FileNotFoundError: root is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        kinds = ", ".join(["DICOM", *(kind.name for kind in FORMATS[:-1])])
        raise FileNotFoundError(
            f"{root} is no folder; give the folder that holds the {kinds} or {FORMATS[-1].name} files."
        )
    faulty: list[Folder] = []
    batches = list(_batches(root, skip, faulty))
    folders = [folder for batch in run(_read_folders, batches, "batches of files") for folder in batch]
    rows = []
    problems = [(_shown(f.path, root), 0, f"Not read: {f.fault}.") for f in faulty]
    for entry in _together(folders, run):
        if entry.row:
            rows.append(entry.row)
        else:
            place = _shown(_place(entry.paths), root)
            told = "Noted" if entry.is_note else "Refused"
            problems.append((place, 0 if entry.is_note else len(entry.paths), f"{told}: {entry.reason}."))
    series = pd.DataFrame(rows, columns=list(SERIES))
    refused = pd.DataFrame(problems, columns=list(PROBLEMS))
    listed = sum(len(names) for batch in batches for _, names in batch)
    if (counted := int(series["n_files"].sum() + refused["n_files"].sum())) != listed:
        raise RuntimeError(
            f"scan: {listed} files were listed and {counted} accounted for; please report this."
        )
    return series, refused


def _shown(path: str, root: Path) -> str:
    """A path relative to the root as a table can hold it; bytes that are no UTF-8 cannot stand there."""
    return printable(os.path.relpath(path, root))


def _place(paths: Sequence[str]) -> str:
    """The file, or the folder that holds them all."""
    return paths[0] if len(paths) == 1 else os.path.commonpath([Path(path).parent for path in paths])


def scan_under_pseudonyms(
    root: Path, identity: Identity, paths: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `scan` finds, as people may see it.

    Args:
        root: folder.
        identity: what stands for patients, UIDs and paths.
        paths: add the column `where`, the real place of each series and problem.

    Returns:
        `series` and `problems` under their pseudonyms, without the lists of files and positions.
    """
    series, problems = scan(root)
    places = [_shown(_place(files), root) for files in series["files"]]
    hidden = series.drop(columns=["files", "z_mm", "source"]).assign(
        patient_id=[identity.patient(name) for name in series["patient_id"]],
        study_uid=[identity.study(uid) for uid in series["study_uid"]],
        series_uid=[identity.series(uid) for uid in series["series_uid"]],
    )
    refused = problems.assign(path=[identity.path(path) for path in problems["path"]])
    if paths:
        return hidden.assign(where=places), refused.assign(where=problems["path"])
    return hidden, refused
