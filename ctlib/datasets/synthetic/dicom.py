"""The scanner of a phantom: noise and blur, then DICOM files with the habits of real scanners.

Makers differ in how they store a slice (sign, intercept, padding outside the field of view), in
which way rows and columns run, and in how they number instances. Each of these variants is written
right, so that a reader that goes by the standard gets the volume back.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from ctlib.core import HU_MAX, HU_MIN

IMPLEMENTATION_UID = "2.25.267733498370251213905270349203127403751"
"""Implementation Class UID of this writer: a random UUID as an OID (DICOM PS3.5 B.2)."""

STORAGE = (
    # RescaleIntercept, PixelRepresentation (1 = signed), padding in HU, PixelPaddingValue is written
    (-1024, 0, -1024, False),
    (-1024, 1, -2000, True),
    (-1024, 1, -3024, False),
    (-1000, 0, -1000, False),
    (0, 1, -1024, True),
    (0, 1, -2000, False),
)
"""How makers store HU; padding is what lies outside the field of view."""

KERNELS = {"SMOOTH": (14.0, 2), "STANDARD": (20.0, 1), "SHARP": (32.0, 0)}
"""Reconstruction kernels: standard deviation of the noise in HU, passes of the 3-tap blur."""

ORIENTATIONS = (
    # PatientPosition, cosines of the columns, cosines of the rows, how often
    ("HFS", (1, 0, 0), (0, 1, 0), 0.70),
    ("HFS", (1, 0, 0), (0, -1, 0), 0.10),
    ("FFS", (-1, 0, 0), (0, 1, 0), 0.10),
    ("FFS", (1, 0, 0), (0, 1, 0), 0.10),
)
"""How slices lie in patient coordinates, which are the same for head-first and feet-first."""


def _blur(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Binomial 1-2-1 blur in plane, edges kept."""
    out = volume.copy()
    out[:, 1:-1] = 0.5 * volume[:, 1:-1] + 0.25 * (volume[:, :-2] + volume[:, 2:])
    again = out.copy()
    again[:, :, 1:-1] = 0.5 * out[:, :, 1:-1] + 0.25 * (out[:, :, :-2] + out[:, :, 2:])
    return again


def acquire(hu: NDArray[np.float32], kernel: str, rng: np.random.Generator) -> NDArray[np.int16]:
    """The scanner: blur of the kernel and its noise, rounded to whole HU in [-1024, 3071].

    Args:
        hu: float32 [D, H, W].
        kernel: a key of `KERNELS`.
        rng: of this patient only.
    """
    noise_hu, passes = KERNELS[kernel]
    noise_hu *= rng.uniform(0.8, 1.25)
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    for _ in range(passes):
        hu = _blur(hu)
        noise = _blur(noise) * np.float32(
            1.6
        )  # 1 / 0.625: keeps about the height of the noise, not its grain
    return np.clip(np.rint(hu + noise * np.float32(noise_hu)), HU_MIN, HU_MAX).astype(np.int16)


@dataclass(frozen=True)
class Scanner:
    """How one series is stored.

    Args:
        intercept: RescaleIntercept, HU.
        signed: PixelRepresentation.
        padding_hu: value outside the circular field of view.
        tag_padding: whether PixelPaddingValue says so.
        position: PatientPosition.
        columns: direction in which the column index grows, patient coordinates (x, y, z).
        rows: direction in which the row index grows.
        descending: InstanceNumber runs opposite to z.
        manufacturer: Manufacturer, "" for none.
        kernel: ConvolutionKernel.
        origin_mm: patient coordinates (x, y, z) of voxel [0, 0, 0].
    """

    intercept: int
    signed: int
    padding_hu: int
    tag_padding: bool
    position: str
    columns: tuple[int, int, int]
    rows: tuple[int, int, int]
    descending: bool
    manufacturer: str
    kernel: str
    origin_mm: tuple[float, float, float]

    def as_stored(self, points: NDArray[np.float64], n_px: int) -> NDArray[np.float64]:
        """Points [n, 2] of (row, column) of a volume's slice, px, as (row, column) of its file."""
        flip = np.array([self.rows[1] < 0, self.columns[0] < 0])
        return np.where(flip, n_px - 1 - points, points)


def scanner(rng: np.random.Generator, kernel: str, manufacturers: tuple[str, ...]) -> Scanner:
    """Draw a scanner.

    Args:
        rng: of this patient only.
        kernel: ConvolutionKernel.
        manufacturers: names to draw from.
    """
    storage = STORAGE[rng.integers(len(STORAGE))]
    position, columns, rows, _ = ORIENTATIONS[
        rng.choice(len(ORIENTATIONS), p=[row[3] for row in ORIENTATIONS])
    ]
    origin = rng.uniform((-175, -175, -900), (-135, -135, 400)).round(3)
    descending = bool(rng.random() < 0.8)
    maker = manufacturers[rng.integers(len(manufacturers))]
    x, y, z = (float(value) for value in origin)
    return Scanner(*storage, position, columns, rows, descending, maker, kernel, (x, y, z))


def _template(
    made: Scanner, spacing_mm: tuple[float, float, float], shape: tuple[int, ...]
) -> pydicom.Dataset:
    """What all slices of a series have in common."""
    header = pydicom.Dataset()
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.Modality = "CT"
    if made.manufacturer:
        header.Manufacturer = made.manufacturer
    header.BodyPartExamined = "CHEST"
    header.SliceThickness = str(spacing_mm[0])
    header.KVP = "120"
    header.GantryDetectorTilt = "0"
    header.ConvolutionKernel = made.kernel
    header.PatientPosition = made.position
    header.SeriesNumber = "2"
    header.ImageOrientationPatient = [str(value) for value in (*made.columns, *made.rows)]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = shape[1:]
    header.PixelSpacing = [str(spacing_mm[1]), str(spacing_mm[2])]
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = made.signed
    if made.tag_padding:
        header.add_new("PixelPaddingValue", "SS" if made.signed else "US", made.padding_hu - made.intercept)
    header.WindowCenter, header.WindowWidth = ["40", "-600"], ["400", "1500"]
    header.RescaleIntercept, header.RescaleSlope = str(made.intercept), "1"
    return header


def stored_pixels(hu: NDArray[np.int16], made: Scanner) -> NDArray[np.int16] | NDArray[np.uint16]:
    """HU [D, H, W] as the values of the files: padded, turned, shifted; the same order of slices."""
    half = (hu.shape[1] - 1) / 2
    off = np.arange(hu.shape[1]) - half
    outside = off[:, None] ** 2 + off[None] ** 2 > (half + 0.5) ** 2
    planes = np.where(outside, np.int32(made.padding_hu), hu)
    planes = planes[:, :: made.rows[1], :: made.columns[0]] - made.intercept
    limits = np.iinfo(np.int16 if made.signed else np.uint16)
    return np.clip(planes, limits.min, limits.max).astype("<i2" if made.signed else "<u2")


def write_series(
    folder: Path,
    names: list[str],
    hu: NDArray[np.int16],
    spacing_mm: tuple[float, float, float],
    made: Scanner,
    uids: dict[str, str],
    sop_uids: list[str],
    patient_id: str = "",
) -> list[float]:
    """Write a volume as one file a slice; a file that is there already is written over.

    Args:
        folder: of the series; made if need be.
        names: file names, from the most inferior slice.
        hu: int16 [D, H, W], HU, axes Superior, Posterior, Left.
        spacing_mm: (z, y, x).
        made: how it is stored.
        uids: StudyInstanceUID, SeriesInstanceUID, FrameOfReferenceUID, SOPClassUID by keyword;
            they need not be valid UIDs, as in RSPECT.
        sop_uids: SOPInstanceUID, from the most inferior slice.
        patient_id: PatientID, "" writes none.

    Returns:
        z of the slices, mm, as the files say it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = _template(made, spacing_mm, hu.shape)
    planes = stored_pixels(hu, made)
    x0, y0, z0 = made.origin_mm
    x = x0 if made.columns[0] > 0 else x0 + (hu.shape[2] - 1) * spacing_mm[2]
    y = y0 if made.rows[1] > 0 else y0 + (hu.shape[1] - 1) * spacing_mm[1]
    heights = [round(z0 + k * spacing_mm[0], 3) for k in range(len(hu))]
    first = [f"{x:.3f}", f"{y:.3f}", _ANY_Z]
    template = _encoded(header, uids, patient_id, "9" * len(sop_uids[0]), first, planes[0].nbytes)
    for k, name in enumerate(names):
        number = len(hu) - k if made.descending else k + 1
        head = _replaced(template, "9" * len(sop_uids[0]), sop_uids[k], 2)
        head = _replaced(head, _ANY_NUMBER, f"{number:05d}", 1)
        head = _replaced(head, _ANY_Z, f"{heights[k]:+09.3f}", 1)
        (folder / name).write_bytes(head + planes[k].tobytes())
    return heights


_ANY_NUMBER, _ANY_Z = "+5555", "+8888.888"
"""InstanceNumber and z in the template, with signs that no UID has; their values have the same length."""


def _replaced(head: bytes, old: str, new: str, times: int) -> bytes:
    if len(old) != len(new) or head.count(old.encode()) != times:
        raise ValueError(f"phantom header: {old!r} cannot become {new!r}; use values of equal length.")
    return head.replace(old.encode(), new.encode())


def _encoded(
    header: pydicom.Dataset,
    uids: dict[str, str],
    patient_id: str,
    sop_uid: str,
    position: list[str],
    n_bytes: int,
) -> bytes:
    """The file of a slice up to its pixels: explicit little endian, with preamble and file meta.

    pydicom takes 2 ms a file, so it encodes one file a series, and the rest are copies of its
    bytes with three values changed.
    """
    buffer = io.BytesIO()
    with disable_value_validation():
        meta = FileMetaDataset()
        meta.FileMetaInformationVersion = b"\x00\x01"
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
        header.file_meta = meta
        for keyword, uid in uids.items():
            setattr(header, keyword, uid)
        if patient_id:
            header.PatientID = patient_id
        header.SOPInstanceUID = sop_uid
        header.InstanceNumber = _ANY_NUMBER
        header.ImagePositionPatient = position
        header.PixelData = bytes(n_bytes)
        pydicom.dcmwrite(buffer, header, enforce_file_format=True)
    return buffer.getvalue()[:-n_bytes]
