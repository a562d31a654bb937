"""The published recipe, against which the store is measured, and the series that both sides read.

The recipe: `pydicom.dcmread` and `pixel_array`, float64 rescale, `cv2.resize` INTER_AREA, float32
HDF5 with `chunks=True`; a clip is read by a list of its slices. Used by the scripts beside this one.
"""

from __future__ import annotations

import shutil
import statistics
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import cv2
import h5py
import numpy as np
import pydicom
from numpy.typing import NDArray

PROJECT = Path(__file__).resolve().parent.parent
ARCHIVE = PROJECT.parent / "shared" / "data" / "lidc-idri-0314" / "series.tar.xz"
"""LIDC-IDRI-0314: 275 slices of 512 x 512, thin, uncompressed."""
MATRIX_PX = 256


@contextmanager
def workplace(archive: Path) -> Iterator[tuple[Path, list[Path]]]:
    """A temporary folder, and the files of the archive's series in it.

    Args:
        archive: tar of the DICOM files of one series.
    """
    folder = Path(mkdtemp(prefix="ctlib-benchmark-"))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "series", filter="data")
        yield folder, sorted((folder / "series").rglob("*.dcm"))
    finally:
        shutil.rmtree(folder)


def ingest(files: list[Path], target: Path) -> int:
    """One series to HDF5 by the recipe, ordered by position; returns the number of slices."""
    planes = []
    for path in files:
        read = pydicom.dcmread(path)
        hu = read.pixel_array.astype(np.float64) * float(read.RescaleSlope) + float(read.RescaleIntercept)
        small = cv2.resize(hu, (MATRIX_PX, MATRIX_PX), interpolation=cv2.INTER_AREA)
        planes.append((float(read.ImagePositionPatient[2]), small))
    write(target, np.stack([plane for _, plane in sorted(planes, key=lambda item: item[0])]))
    return len(planes)


def write(target: Path, volume: NDArray[Any]) -> None:
    """HDF5 by the recipe."""
    with h5py.File(target, "w") as file:
        file.create_dataset("volume", data=volume.astype(np.float32), chunks=True)


def read(target: Path, start: int, stop: int) -> NDArray[np.float32]:
    """A run of slices by the recipe."""
    with h5py.File(target, "r") as file:
        return file["volume"][list(range(start, stop))]


def median(values: list[float]) -> float:
    """The median; the machine may be busy with something else."""
    return statistics.median(values)
