"""File formats that hold a whole volume: which there are, and who reads them.

To add one, write a module with its `read_header` and `decode`, and give it an entry in `FORMATS`: the scan of
a folder (`ctlib.io.listing`), `read_series` and `open_series` (`ctlib.io.volume`), and the names in a user's
CSV of labels ask here. A file without one of these endings is read as DICOM, in which a volume is many files.
Formats are told by names alone: to look into each of a million DICOM files first would open all of them twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctlib.io import nifti

SAMPLE_BYTES = 65_536
"""Bytes at each of three places of a file by which it is known: two noisy volumes differ in the middle one."""


class VolumeHeader(Protocol):
    """What a header says of its volume, in our axes: Superior, Posterior, Left."""

    @property
    def fault(self) -> str:
        """Why it cannot be used, fit for a report (`ctlib.io.deidentify`), or ""; then all else is empty."""

    @property
    def files(self) -> Sequence[Path]:
        """The file itself, and those of the same folder that hold its voxels."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of voxels along (z, y, x), mm."""

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """Patient coordinates (z, y, x) = (S, P, L) of voxel [0, 0, 0], mm."""


@dataclass(frozen=True)
class Format:
    """A format of files that hold a whole volume each.

    Args:
        name: what people read.
        endings: of the names of its files, in lower case; names may have any.
        read_header: the header of a file, without its voxels; what is wrong is its fault.
        decode: voxels, int16 `[D, H, W]` in HU within [-1024, 3071], axes to Superior, Posterior, Left, and
            the header. Raises `SeriesError` with the reason alone, without the name of the file.
    """

    name: str
    endings: tuple[str, ...]
    read_header: Callable[[Path], VolumeHeader]
    decode: Callable[[Path], tuple[NDArray[np.int16], VolumeHeader]]


FORMATS = [Format("NIfTI", (".nii", ".nii.gz"), nifti.read_header, nifti.decode)]


def format_of(path: str | Path) -> Format | None:
    """The format that the name of a file says; None for all others, which may be DICOM. Nothing is opened.

    >>> [kind and kind.name for kind in map(format_of, ["chest.NII.gz", "chest.nii", "chest.hdr", "nii"])]
    ['NIfTI', 'NIfTI', None, None]
    """
    name = Path(path).name.lower()
    return next((kind for kind in FORMATS if name.endswith(kind.endings)), None)


def content_uid(kind: Format, files: Sequence[Path]) -> str:
    """What stands for the series UID of a volume: a hash of the size and of three samples of its files.

    The same file has the same name wherever it lies and whatever it is called.
    """
    whole = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        whole.update(str(size).encode())
        with path.open("rb") as file:
            for place in (0, max(size // 2 - SAMPLE_BYTES // 2, 0), max(size - SAMPLE_BYTES, 0)):
                file.seek(place)
                whole.update(file.read(SAMPLE_BYTES))
    return f"{kind.name.lower()}-{whole.hexdigest()[:32]}"
