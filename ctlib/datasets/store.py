"""Volumes on disk at the training matrix: written once, read fast, checked as they are read.

One series is two files: its voxels, int16 HU `[D, matrix, matrix]`, and `<name>.json`, its record
(see `Store.record`). The record is written last: a series without one was never finished, and is
written again. Each byte of both stands under a checksum, which the reader compares at first touch,
and `verify` always. XXH3 finds damage and tells volumes apart; it is no proof against forgery, for
which SHA-256 would cost more than all other steps of `put` together.

Two formats were chosen by measurement (`benchmarks/formats.py`: a chest of 275 slices at 256 px, two
cores, medians of one run on a busy machine; ms to read a random run of 32 slices into memory):

    format                                          kB a slice   slices/s written   ms a run
    HDF5 float32 chunks=True (published recipe)          274.8              1,033        4.4
    HDF5 int16, gzip, shuffle                             61.6                300       14.3
    npz (zlib)                                            74.0                 82      129.4
    npy, memory-mapped                                   131.1             54,745        0.7
    blosc2, zstd 1, bitshuffle, 8 slices a chunk          64.4              1,918        2.9
    blosc2, zstd 1, bytedelta                             61.2              1,409        3.8
    blosc2, zstd 5, bitshuffle                            63.5                475        2.9
    blosc2, lz4 9, bitshuffle                             70.3              2,191        1.3
    blosc2, lz4hc 5, bitshuffle                           67.2                419        1.3

Codec "none" is npy: nothing writes or reads faster, workers share its pages, and every tool opens it.
Codec "blosc2" is for small disks: zstd at level 1 with bitshuffle is the fastest to write and to
read of what takes less than a quarter of the 262 kB of a float32 slice; lz4 reads faster and takes
more; higher levels save 1 %. Its chunks stand in a file without the frame that was measured here:
without it they take 0.13 ms a slice to write where a b2nd takes 0.21.

Nothing is flushed to the disk (fsync): that would make ingest wait for the disk. A process killed at
any moment leaves whole series or none. After a power cut, voxels may be missing whose record is
there: `verify` names such series, and the reader refuses them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray

from ctlib.core import HU_MIN, Map, in_order, replacing
from ctlib.datasets.store_codecs import CODECS, Codec, Part, StoreError, content, digests
from ctlib.datasets.volume_checks import examine

if TYPE_CHECKING:
    from ctlib.io import OpenSeries, Volume

Stamp = tuple[int, int, int]
"""Size, time of change in ns, inode: a file with the same three is taken to be the same."""


def save(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, its last entry a checksum of all bytes before."""
    text = json.dumps(record).encode()[:-1]
    write(path, [text + _seal(text)])


def load(path: Path) -> dict[str, Any]:
    """A record, if each of its bytes is as it was written.

    Raises:
        StoreError: one is not, or it is no record of this version.
    """
    data, n = path.read_bytes(), len(_seal(b""))
    if data[-n:] != _seal(data[:-n]):
        raise StoreError(f"{path.name} is damaged, or of another version: store its series again.")
    return json.loads(data)


def _seal(text: bytes) -> bytes:
    return b', "seal": "%s"}\n' % xxhash.xxh3_128_hexdigest(text).encode()


def stamps_of(paths: Sequence[Path]) -> tuple[Stamp, ...]:
    """The stamps of files as they are now."""
    stats = [os.stat(path) for path in paths]  # noqa: PTH116 - twice as fast as Path.stat
    return tuple((s.st_size, s.st_mtime_ns, s.st_ino) for s in stats)


def write(path: Path, parts: Sequence[Part]) -> int:
    """Write a file under a temporary name, then rename it; returns its size, bytes."""
    size = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
    with replacing(path) as temporary, temporary.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            # A third faster than a file that grows. Where it cannot be done, the write tells why.
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, size)
        for part in parts:
            file.write(part)
    return size


def delete_leftovers(folder: Path, endings: tuple[str, ...], before_s: float) -> int:
    """Delete temporary files, and files of voxels without a record, that are older than a time.

    Args:
        folder: of a store; it need not exist.
        endings: of files of voxels.
        before_s: seconds since the epoch.

    Returns:
        The number of files.
    """
    n_deleted = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        unfinished = path.suffix in endings and not path.with_suffix(".json").is_file()
        if path.name.startswith(".") or unfinished:
            with suppress(FileNotFoundError):  # another process has just finished it
                if path.stat().st_mtime <= before_s:
                    path.unlink()
                    n_deleted += 1
    return n_deleted


def shrink(hu: NDArray[np.int16], matrix_px: int) -> NDArray[np.int16]:
    """Slices of any matrix to square ones, each pixel the mean of the area it covers.

    Args:
        hu: int16 `[D, H, W]`, HU; a side that is shorter is padded with air at both ends.
        matrix_px: rows and columns of the result.

    Returns:
        int16 `[D, matrix_px, matrix_px]`, HU, rounded.

    Raises:
        StoreError: the slices are smaller than the result would be.

    >>> shrink(np.array([[[-1000, -900, 0, 0], [-1000, -900, 40, 40]]], np.int16), 2).tolist()
    [[[-987, -512], [-987, -492]]]
    """
    return shrink_planes(hu, hu.shape, matrix_px)


def shrink_planes(
    planes: Iterable[NDArray[np.int16]], shape: tuple[int, ...], matrix_px: int
) -> NDArray[np.int16]:
    """`shrink`, slice by slice: a series need not be in memory as a whole.

    Args:
        planes: int16 `[H, W]`, HU, one after the other; each is used before the next is taken.
        shape: (D, H, W).
        matrix_px: rows and columns of the result.

    Returns:
        int16 `[D, matrix_px, matrix_px]`, HU, rounded.

    Raises:
        StoreError: the slices are smaller than the result would be.
    """
    depth, rows, cols = shape
    side = max(rows, cols)
    if side < matrix_px:
        raise StoreError(f"slices of {rows} x {cols} px are below matrix_px {matrix_px}")
    top, left = (side - rows) // 2, (side - cols) // 2
    bottom, right = side - rows - top, side - cols - left
    small = np.empty((depth, matrix_px, matrix_px), np.int16)
    for plane, target in zip(planes, small, strict=True):
        square: Any = plane
        if rows != cols:
            square = cv2.copyMakeBorder(plane, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(HU_MIN,))
        cv2.resize(square, (matrix_px, matrix_px), dst=target, interpolation=cv2.INTER_AREA)
    return small


SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Series UIDs that serve as file names; any other is hashed."""
N_OPEN = 64
"""Volumes that a store keeps open: each holds a file, and a process may have 256 (macOS) or 1,024."""
STEADY_NS = 2_000_000_000
"""A file that was changed less than this before it was opened is not remembered: a further change might
leave their time as it is (2 s on FAT, 10 ms and less elsewhere)."""
LEFT_S = 3600.0
"""What was written and not finished for an hour is left over: a volume takes a second, s."""
RECORD_BYTES = 64
"""A slice's share of the records, rounded up: checksums, and what `examine` found."""


@dataclass(frozen=True)
class _Opened:
    """A volume that was opened, and the files as they were then: record and voxels."""

    paths: tuple[Path, Path]
    stamps: tuple[Stamp, ...]
    is_steady: bool
    n_slices: int
    voxels: Codec

    def is_current(self) -> bool:
        try:
            return self.stamps == stamps_of(self.paths)
        except FileNotFoundError:
            return False


def _hashed(planes: Iterable[NDArray[np.int16]], whole: xxhash.xxh3_128) -> Iterator[NDArray[np.int16]]:
    """The same planes, which pass by a checksum."""
    for plane in planes:
        whole.update(plane.data)
        yield plane


@dataclass(frozen=True)
class Store:
    """A folder of volumes. It may be pickled: what it remembers of open files stays behind.

    Args:
        folder: where they lie; made when the first is put.
        matrix_px: rows and columns of a stored slice.
        codec: how `put` writes, a key of `CODECS`; what is there is read whatever its codec.
    """

    folder: Path
    matrix_px: int
    codec: str = "none"
    _opened: dict[str, _Opened] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.matrix_px < 1:
            raise StoreError(f"matrix_px is {self.matrix_px}; give a number above 0.")
        if self.codec not in CODECS:
            raise StoreError(f"store codec is {self.codec!r}; known are {', '.join(CODECS)}.")
        object.__setattr__(self, "folder", Path(self.folder))

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.folder, self.matrix_px, self.codec)

    def _path(self, series_uid: str, ending: str) -> Path:
        safe = SAFE_NAME.fullmatch(series_uid)
        name = series_uid if safe else f"uid-{xxhash.xxh3_128_hexdigest(series_uid.encode())}"
        return self.folder / f"{name}{ending}"

    def put(self, volume: Volume | OpenSeries, source_checksum: str = "") -> Path:
        """Store a volume, unless it is there already with the same matrix, codec and source.

        Args:
            volume: any matrix of `matrix_px` or more; one that is not read yet is read slice by slice.
            source_checksum: of what the volume was made from; "" stores it anew.

        Returns:
            The file of its voxels.

        Raises:
            StoreError: its slices are smaller than `matrix_px`.
            SeriesError: a slice cannot be read; nothing was written.
        """
        uid, codec = volume.series_uid, CODECS[self.codec]
        path = self._path(uid, codec.ending)
        if source_checksum and self.has(uid, source_checksum):
            return path
        source = xxhash.xxh3_128()
        hu = shrink_planes(_hashed(volume.planes(), source), volume.shape, self.matrix_px)
        hu = hu.astype("<i2", copy=False)
        scale = max(volume.shape[1:]) / self.matrix_px
        z, y, x = volume.spacing_mm
        parts, fields = codec.encode(hu)
        record = {
            "series_uid": uid,
            "shape": list(hu.shape),
            "spacing_mm": [z, y * scale, x * scale],
            "codec": self.codec,
            "content": content(hu),
            "slices": digests(plane.data for plane in hu),
            "source_checksum": source_checksum,
            "source_content": source.hexdigest(),
            "checks": examine(hu),
            **fields,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        # An old record must never stand beside new voxels: it goes first, the new one comes last.
        for ending in (".json", *(known.ending for known in CODECS.values())):
            self._path(uid, ending).unlink(missing_ok=True)
        n_bytes = write(path, parts)
        save(self._path(uid, ".json"), record | {"n_bytes": n_bytes})
        return path

    def record(self, series_uid: str) -> dict[str, Any]:
        """The record of a series.

        Returns:
            series_uid; shape; spacing_mm (z, y, x) as stored; codec; n_bytes of the file; content,
            the checksum of the voxels; slices, those of each slice; source_checksum as given;
            source_content, XXH3-128 of the HU at the source's own matrix; checks, see
            `ctlib.datasets.volume_checks.examine`.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        path = self._path(series_uid, ".json")
        if not path.is_file():
            raise StoreError(f"Series {series_uid} is not in the store {self.folder.name}: store it first.")
        record = load(path)
        if record["series_uid"] != series_uid:
            raise StoreError(f"{path.name} is damaged: it is the record of another series.")
        return record

    def has(self, series_uid: str, source_checksum: str = "") -> bool:
        """Whether a series is stored, undamaged by its size, at this matrix and codec, from this source.

        Args:
            series_uid: series.
            source_checksum: of what it must have been made from; "" accepts any.
        """
        try:
            record = self.record(series_uid)
            return (
                record["shape"][1:] == [self.matrix_px] * 2
                and record["codec"] == self.codec
                and source_checksum in ("", record["source_checksum"])
                and self._path(series_uid, CODECS[self.codec].ending).stat().st_size == record["n_bytes"]
            )
        except (StoreError, FileNotFoundError):
            return False

    def read(self, series_uid: str, start: int = 0, stop: int | None = None) -> NDArray[np.int16]:
        """A run of slices of a volume, or all of it, read-only; only its own bytes are read.

        Args:
            series_uid: series.
            start: first slice.
            stop: slice after the last; None for all that follow.

        Returns:
            int16 `[stop - start, matrix_px, matrix_px]`, HU; memory-mapped where the codec is "none".

        Raises:
            StoreError: it is not there, it has no such slices, its matrix differs, or a byte of its
                record, its header or these slices is not as it was written.
        """
        opened = self._open(series_uid)
        stop = opened.n_slices if stop is None else stop
        if not 0 <= start <= stop <= opened.n_slices:
            raise StoreError(f"series {series_uid} has {opened.n_slices} slices, not {start} to {stop}.")
        try:
            voxels = opened.voxels.read(start, stop)
        except (StoreError, RuntimeError) as error:
            raise self._damaged(opened.paths[1], error, series_uid) from error
        # Kept only now: a volume in use is nobody else's, which makes reading safe in threads.
        if opened.is_steady:
            self._opened[series_uid] = opened
            if len(self._opened) > N_OPEN:
                self._opened.pop(list(self._opened)[0], None)  # noqa: RUF015 - `next` fails in threads
        return voxels

    def _open(self, series_uid: str) -> _Opened:
        """A volume whose files are as they were when it was opened."""
        known = self._opened.pop(series_uid, None)
        if known is not None and known.is_current():
            return known
        record = self.record(series_uid)
        codec = CODECS[record["codec"]]
        paths = self._path(series_uid, ".json"), self._path(series_uid, codec.ending)
        if record["shape"][1:] != [self.matrix_px] * 2:
            wrong = f"slices of {record['shape'][1:]} px, matrix_px is {self.matrix_px}"
            raise StoreError(f"{paths[1].name} has {wrong}.")
        try:
            now, stamps = time.time_ns(), stamps_of(paths)
            if stamps[1][0] != record["n_bytes"]:
                raise StoreError(f"{stamps[1][0]} bytes, {record['n_bytes']} were written")
            is_steady = all(now - changed > STEADY_NS for _, changed, _ in stamps)
            return _Opened(paths, stamps, is_steady, record["shape"][0], codec(paths[1], record))
        except (OSError, StoreError, RuntimeError) as error:
            raise self._damaged(paths[1], error, series_uid) from error

    @staticmethod
    def _damaged(path: Path, error: Exception, series_uid: str) -> StoreError:
        why = "it is gone" if isinstance(error, FileNotFoundError) else str(error)
        return StoreError(f"{path.name} is damaged ({why}): store series {series_uid} again.")

    def checksum(self, series_uid: str) -> str:
        """XXH3-128 of the voxels of a stored volume and their shape, 32 hex digits.

        The same whatever the codec; it tells volumes apart and finds damage, but is no proof
        against forgery, for which SHA-256 would take longer than all other steps of `put`.

        Raises:
            StoreError: it is not there, or its record is damaged.
        """
        return str(self.record(series_uid)["content"])

    def estimate_bytes(self, n_slices: int) -> int:
        """What so many slices will take on disk, rounded up; typical chests where they are compressed.

        >>> Store(Path("store"), 256).estimate_bytes(1_000)
        131136000
        """
        voxels = n_slices * self.matrix_px**2
        return ceil(voxels * CODECS[self.codec].bytes_per_voxel) + n_slices * RECORD_BYTES

    def verify(self, run: Map = in_order) -> pd.DataFrame:
        """Read every byte and compare it with the records.

        Args:
            run: applies a function to each series, here or on workers.

        Returns:
            One row a damaged series: series_uid (its file's name where the record is damaged too)
            and reason; no rows if all is sound. Leftovers of an interrupted write are no damage.
        """
        names = sorted(path.name for path in self.folder.glob("*.json"))
        rows = [row for row in run(self._damage, names) if row]
        return pd.DataFrame(rows, columns=["series_uid", "reason"])

    def _damage(self, name: str) -> tuple[str, str] | None:
        """Name and fault of the series of a record, if there is one."""
        path, uid = self.folder / name, name.removesuffix(".json")
        try:
            uid = str(load(path)["series_uid"])
            if self._path(uid, ".json") != path:
                raise StoreError(f"{name} is the record of another series.")
            fresh = replace(self)  # which remembers nothing
            if content(fresh.read(uid)) != fresh.checksum(uid):
                raise StoreError(f"{name} has the checksum of another volume: store series {uid} again.")
        except StoreError as error:
            return uid, str(error)
        return None

    def tidy(self, older_than_s: float = LEFT_S) -> int:
        """Delete what interrupted writes left: temporary files, and voxels without a record.

        Args:
            older_than_s: only what was not touched for so long, s: another process may be writing.

        Returns:
            The number of files.
        """
        endings = tuple(codec.ending for codec in CODECS.values())
        return delete_leftovers(self.folder, endings, time.time() - older_than_s)
