"""Volumes on disk at the training matrix: written once, memory-mapped, checked.

One series is two files: `<name>.npy`, int16 HU `[D, matrix, matrix]`, and `<name>.json`, its
record: shape, spacing, the SHA-256 of the npy file, and the checksum of the files it was made
from. The record is written last, so a series without one was never finished and is written
again. A plain npy is memory-mapped: a clip touches only its own bytes, workers share them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.hu import HU_MIN
from ctlib.volumes import Volume

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Series UIDs that serve as file names; any other is hashed."""


class StoreError(ValueError):
    """A stored volume that is missing or damaged, or one that cannot be stored."""


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
    side = max(hu.shape[1:])
    if side < matrix_px:
        raise StoreError(f"slices of {hu.shape[1]} x {hu.shape[2]} px are below matrix_px {matrix_px}")
    top, left = ((side - n) // 2 for n in hu.shape[1:])
    bottom, right = side - hu.shape[1] - top, side - hu.shape[2] - left
    small = np.empty((len(hu), matrix_px, matrix_px), np.int16)
    for i, plane in enumerate(hu):
        square = cv2.copyMakeBorder(plane, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(HU_MIN,))
        small[i] = cv2.resize(square, (matrix_px, matrix_px), interpolation=cv2.INTER_AREA)
    return small


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _header(shape: Sequence[int]) -> bytes:
    """What stands before the voxels in an npy file of int16 in C order."""
    buffer = BytesIO()
    fields = {"descr": "<i2", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def _seal(record: dict[str, Any]) -> str:
    """Checksum of a record, which guards the record itself."""
    return _sha256(json.dumps({k: v for k, v in record.items() if k != "seal"}, sort_keys=True).encode())


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` if all went well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Store:
    """A folder of volumes.

    Args:
        folder: where they lie; made when the first is put.
        matrix_px: rows and columns of a stored slice.
    """

    folder: Path
    matrix_px: int

    def __post_init__(self) -> None:
        if self.matrix_px < 1:
            raise StoreError(f"matrix_px is {self.matrix_px}; give a number above 0.")
        object.__setattr__(self, "folder", Path(self.folder))

    def _path(self, series_uid: str, ending: str) -> Path:
        name = series_uid if SAFE_NAME.fullmatch(series_uid) else f"uid-{_sha256(series_uid.encode())[:32]}"
        return self.folder / f"{name}{ending}"

    def put(self, volume: Volume, source_checksum: str = "") -> Path:
        """Store a volume, unless it is there already with the same matrix and source.

        Args:
            volume: any matrix of `matrix_px` or more.
            source_checksum: of what the volume was made from; "" stores it anew.

        Returns:
            The npy file.

        Raises:
            StoreError: its slices are smaller than `matrix_px`.
        """
        path = self._path(volume.series_uid, ".npy")
        if source_checksum and self.has(volume.series_uid, source_checksum):
            return path
        hu = shrink(volume.hu, self.matrix_px)
        scale = max(volume.hu.shape[1:]) / self.matrix_px
        data = _header(hu.shape) + hu.astype("<i2").tobytes()
        z, y, x = volume.spacing_mm
        record = {
            "series_uid": volume.series_uid,
            "shape": list(hu.shape),
            "spacing_mm": [z, y * scale, x * scale],
            "n_bytes": len(data),
            "sha256": _sha256(data),
            "source_checksum": source_checksum,
        }
        record["seal"] = _seal(record)
        self.folder.mkdir(parents=True, exist_ok=True)
        # An old record must never stand beside new voxels: it goes first, the new one comes last.
        self._path(volume.series_uid, ".json").unlink(missing_ok=True)
        with _replacing(path) as temporary:
            temporary.write_bytes(data)
        with _replacing(self._path(volume.series_uid, ".json")) as temporary:
            temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return path

    def record(self, series_uid: str) -> dict[str, Any]:
        """The record of a series: shape, spacing_mm (z, y, x) as stored, sha256, source_checksum.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        path = self._path(series_uid, ".json")
        if not path.is_file():
            raise StoreError(f"Series {series_uid} is not in the store {self.folder}: store it first.")
        try:
            record = json.loads(path.read_bytes())
            sound = record["seal"] == _seal(record) and record["series_uid"] == series_uid
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise StoreError(f"{path} is damaged: delete it and store series {series_uid} again.")
        return record

    def has(self, series_uid: str, source_checksum: str = "") -> bool:
        """Whether a series is stored, undamaged by its size, at this matrix, from this source.

        Args:
            series_uid: series.
            source_checksum: of what it must have been made from; "" accepts any.
        """
        try:
            record = self.record(series_uid)
            path = self._path(series_uid, ".npy")
            return (
                record["shape"][1:] == [self.matrix_px] * 2
                and source_checksum in ("", record["source_checksum"])
                and path.stat().st_size == record["n_bytes"]
            )
        except (StoreError, FileNotFoundError):
            return False

    def read(self, series_uid: str) -> np.memmap[Any, np.dtype[np.int16]]:
        """A volume, read-only and memory-mapped: bytes are read as they are touched.

        Returns:
            int16 `[D, matrix_px, matrix_px]`, HU.

        Raises:
            StoreError: it is not there, its size or header is damaged, or its matrix differs.
                Bytes of voxels are checked by `verify`, not here.
        """
        record, path = self.record(series_uid), self._path(series_uid, ".npy")
        if record["shape"][1:] != [self.matrix_px] * 2:
            raise StoreError(f"{path} has slices of {record['shape'][1:]} px, matrix_px is {self.matrix_px}.")
        try:
            if path.stat().st_size != record["n_bytes"]:
                raise ValueError(f"{path.stat().st_size} bytes, {record['n_bytes']} were written")
            header = _header(record["shape"])
            with path.open("rb") as file:
                if file.read(len(header)) != header:
                    raise ValueError(f"its header is not that of int16 {record['shape']}")
            return np.memmap(path, "<i2", mode="r", offset=len(header), shape=tuple(record["shape"]))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is damaged ({error}): store series {series_uid} again.") from error

    def checksum(self, series_uid: str) -> str:
        """SHA-256 of a stored volume's file, as it was written, 64 hex digits.

        Raises:
            StoreError: it is not there, or its record is damaged.
        """
        return str(self.record(series_uid)["sha256"])

    def verify(self) -> pd.DataFrame:
        """Read every byte and compare it with the records.

        Returns:
            One row a damaged series: series_uid (its file's name where the record is damaged too)
            and reason; no rows if all is sound. Leftovers of an interrupted write are no damage.
        """
        rows = []
        for path in sorted(self.folder.glob("*.json")):
            uid = path.stem
            try:
                text = path.read_bytes()
                uid = str(json.loads(text)["series_uid"])
                record = self.record(uid)
                if self._path(uid, ".json") != path:
                    raise StoreError(f"{path} is the record of another series.")
                self.read(uid)
                if _sha256(self._path(uid, ".npy").read_bytes()) != record["sha256"]:
                    raise StoreError(f"{self._path(uid, '.npy')} has other bytes than were written.")
            except (ValueError, KeyError, TypeError) as error:
                rows.append((uid, str(error) if isinstance(error, StoreError) else f"{path} is damaged."))
        return pd.DataFrame(rows, columns=["series_uid", "reason"])
