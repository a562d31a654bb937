"""One DICOM file of CT: its header checked for all that a slice needs, its pixels in HU.

A file is used if it has one frame of 16 bits, one grey sample, a transfer syntax that decodes
without loss, Modality CT where it is named, matrix, position, orientation, pixel spacing, slope
and intercept. Anything else is a fault, in words. No SOP Class is asked for: RSPECT hashes it.
Headers are read by pydicom; values are taken raw, so that hashed UIDs raise no warnings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from struct import unpack
from textwrap import shorten
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError

from ctlib.hu import HU_MAX, HU_MIN

BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", BIG_ENDIAN, "1.2.840.10008.1.2.1.99"}
"""Uncompressed transfer syntaxes, and deflated, which pydicom inflates as it reads (PS3.5 A)."""
RLE = "1.2.840.10008.1.2.5"
LOSSLESS = {RLE, *(f"1.2.840.10008.1.2.4.{end}" for end in (57, 70, 80, 90))}
"""RLE, JPEG lossless (two), JPEG-LS lossless, JPEG 2000 lossless (PS3.5 A.4)."""
EITHER = {f"1.2.840.10008.1.2.4.{end}" for end in (81, 91)}
"""JPEG-LS and JPEG 2000 with or without loss: read only where the file says it lost nothing."""
NO_PREAMBLE = "not a DICOM file, it has no preamble"
TILT_TOLERANCE_DEG = 0.1
"""Largest GantryDetectorTilt of a straight slice."""

SHORTS = (
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
STRINGS = (
    *("SOPInstanceUID", "Modality", "Manufacturer", "PatientID", "SliceThickness", "GantryDetectorTilt"),
    *("ConvolutionKernel", "StudyInstanceUID", "SeriesInstanceUID", "ImagePositionPatient", "PixelSpacing"),
    *("ImageOrientationPatient", "PhotometricInterpretation", "NumberOfFrames", "RescaleIntercept"),
    *("RescaleSlope", "LossyImageCompression"),
)
KEYWORDS = {int(tag_for_keyword(name) or 0): name for name in SHORTS + STRINGS}
"""All that is read of a header, by tag."""
WANTED = (
    ("Modality", ("CT", ""), "only CT has HU"),
    ("NumberOfFrames", ("1", "0", ""), "only single frames are read"),
    ("SamplesPerPixel", ("1",), "only grey images are read"),
    ("PhotometricInterpretation", ("MONOCHROME2", "MONOCHROME1"), "only grey images are read"),
    ("BitsAllocated", ("16",), "CT has 16 bits"),
    ("PixelRepresentation", ("0", "1"), "the sign of the pixels must be known"),
)
"""Fields, the values that are read, and why."""


class SeriesError(ValueError):
    """A series that cannot be read right: one sentence with series, file and reason."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What a header says.

    Args:
        path: the file.
        fault: why it cannot be used, or ""; with a fault all below the UIDs is empty.
        patient_id: PatientID; this and the UIDs are "" where the file has none.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        sop_uid: SOPInstanceUID.
        matrix: rows, columns.
        bits: BitsStored.
        signed: whether stored values are.
        spacing: distance between rows, between columns, mm.
        orientation: direction of columns (x, y, z), of rows (x, y, z), in patient coordinates.
        position: patient coordinates (x, y, z) of the first pixel's centre, mm.
        slope: HU of one stored unit.
        intercept: HU of the stored value 0.
        thickness: SliceThickness, mm.
        kernel: ConvolutionKernel.
        manufacturer: Manufacturer.
    """

    path: Path
    fault: str = ""
    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    matrix: tuple[int, int] = (0, 0)
    bits: int = 16
    signed: bool = False
    spacing: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    position: tuple[float, ...] = ()
    slope: float = 1.0
    intercept: float = 0.0
    thickness: float | None = None
    kernel: str | None = None
    manufacturer: str | None = None


def _line(error: Exception) -> str:
    """Kind and text of an error of pydicom's or of a decoder's, on one line."""
    return shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")


def _fields(header: pydicom.Dataset) -> dict[str, str]:
    """Raw values of `KEYWORDS` as text; several are joined by a backslash, as in the file."""
    fields = dict.fromkeys(KEYWORDS.values(), "")
    for element in header.elements():
        name = KEYWORDS.get(element.tag)
        value = element.value
        if name is None or value is None or not isinstance(element, RawDataElement):
            continue
        if name in SHORTS:
            order = "<H" if element.is_little_endian else ">H"
            fields[name] = str(*unpack(order, value)) if len(value) == 2 else repr(value)
        else:
            try:
                fields[name] = value.decode("utf-8").strip("\0 ")
            except UnicodeDecodeError:  # kernel or manufacturer in a national alphabet
                fields[name] = value.decode("latin-1").strip("\0 ")
    return fields


def _numbers(fields: dict[str, str], name: str, n: int = 1) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in fields[name].split("\\"))
    except ValueError:
        values = ()
    if len(values) != n or not all(math.isfinite(value) for value in values):
        raise SeriesError(
            f"{name} is {fields[name]!r}, {n} finite number{'s are' if n > 1 else ' is'} needed"
        )
    return values


def _claimed(text: str) -> float | None:
    """A number that nothing is computed from; None where the file does not give one."""
    try:
        return float(text)
    except ValueError:
        return None


def _check_pixels(fields: dict[str, str], syntax: str) -> None:
    """Refuses what is no slice of CT, or does not decode right."""
    lost = fields["LossyImageCompression"]
    if syntax not in NATIVE | LOSSLESS and not (syntax in EITHER and lost == "00"):
        name = pydicom.uid.UID(syntax).name if syntax else "not named"
        said = f", LossyImageCompression {lost!r}" if syntax in EITHER else ""
        raise SeriesError(f"its transfer syntax is {name} ({syntax}{said}), only lossless ones are decoded")
    for name, values, why in WANTED:
        if fields[name] not in values:
            raise SeriesError(f"{name} is {fields[name]!r}, {why}")
    stored, high = _numbers(fields, "BitsStored")[0], _numbers(fields, "HighBit")[0]
    if not 2 <= stored <= 16 or high != stored - 1:
        raise SeriesError(f"BitsStored is {stored:g} and HighBit {high:g}, which do not fit each other")


def _parse(fields: dict[str, str], path: Path, syntax: str) -> Slice:
    """What a header says; a value that is missing or cannot be used becomes the fault."""
    names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    patient, study, series, sop = (fields[name] for name in names)
    try:
        if not series:
            raise SeriesError("it has no SeriesInstanceUID")
        _check_pixels(fields, syntax)
        found = Slice(
            path,
            "",
            patient,
            study,
            series,
            sop,
            matrix=(int(_numbers(fields, "Rows")[0]), int(_numbers(fields, "Columns")[0])),
            bits=int(fields["BitsStored"]),
            signed=fields["PixelRepresentation"] == "1",
            spacing=_numbers(fields, "PixelSpacing", 2),
            orientation=_numbers(fields, "ImageOrientationPatient", 6),
            position=_numbers(fields, "ImagePositionPatient", 3),
            slope=_numbers(fields, "RescaleSlope")[0],
            intercept=_numbers(fields, "RescaleIntercept")[0],
            thickness=_claimed(fields["SliceThickness"]),
            kernel=fields["ConvolutionKernel"] or None,
            manufacturer=fields["Manufacturer"] or None,
        )
        for name, value in (("Rows", found.matrix[0]), ("Columns", found.matrix[1])):
            if value < 1:
                raise SeriesError(f"{name} is {value}, a number above 0 is needed")
        if min(found.spacing) <= 0 or found.slope == 0:
            raise SeriesError(
                f"PixelSpacing is {found.spacing} mm, RescaleSlope {found.slope:g}; not 0 or below"
            )
        tilt = _numbers(fields, "GantryDetectorTilt")[0] if fields["GantryDetectorTilt"] else 0.0
        if abs(tilt) > TILT_TOLERANCE_DEG:
            raise SeriesError(f"GantryDetectorTilt is {tilt:g} degrees, a tilted volume is sheared")
        return found
    except SeriesError as error:
        return Slice(path, str(error), patient, study, series, sop)


def read_header(path: Path, pixels: bool = False) -> tuple[Slice, pydicom.Dataset | None]:
    """Read a file, with or without its pixels.

    Args:
        path: any file.
        pixels: whether `decode` follows.

    Returns:
        What its header says, with a fault where it cannot be used, and pydicom's data set,
        None where the file is no DICOM file or pydicom stumbles over it.
    """
    try:
        if not path.stat().st_size:
            return Slice(path, "the file is empty"), None
        header = pydicom.dcmread(
            path, stop_before_pixels=not pixels, specific_tags=None if pixels else list(KEYWORDS)
        )
        syntax = str(getattr(header.file_meta, "TransferSyntaxUID", ""))
        return _parse(_fields(header), path, syntax), header
    except InvalidDicomError:
        return Slice(path, NO_PREAMBLE), None
    except Exception as error:  # damaged files raise many kinds; each ends as a sentence
        return Slice(path, f"it cannot be read ({_line(error)})"), None


def _stored(header: pydicom.Dataset, found: Slice) -> NDArray[Any]:
    """Stored values of one file, 16 bits `[rows, cols]`, in the machine's byte order."""
    syntax = str(header.file_meta.TransferSyntaxUID)
    data = header.get_item("PixelData").value if "PixelData" in header else None
    if not data:
        raise SeriesError("it has no PixelData")
    if syntax in NATIVE:
        expected = 2 * math.prod(found.matrix)
        if len(data) != expected:
            raise SeriesError(f"PixelData has {len(data)} bytes, {expected} are needed")
        order = ">" if syntax == BIG_ENDIAN else "<"
        stored = np.frombuffer(data, f"{order}{'i' if found.signed else 'u'}2").reshape(found.matrix)
        # Bits above BitsStored may hold anything (PS3.5 8.1.1): shift them out, keep the sign.
        return (stored.astype(stored.dtype.newbyteorder("=")) << (16 - found.bits)) >> (16 - found.bits)
    if syntax != RLE:
        header.pixel_array_options(decoding_plugin="gdcm")
    try:
        with disable_value_validation():
            return header.pixel_array
    except Exception as error:  # each decoder has errors of its own
        raise SeriesError(f"PixelData does not decode ({_line(error)})") from error


def decode(header: pydicom.Dataset, found: Slice) -> NDArray[np.int16]:
    """Pixels of one file in HU.

    Args:
        header: from `read_header(path, pixels=True)`.
        found: from the same call, without a fault.

    Returns:
        int16 `[rows, cols]` as acquired, HU by slope and intercept of this file, non-integers
        rounded, clipped to [-1024, 3071].

    Raises:
        SeriesError: pixels are missing, too few, too many, or do not decode.
    """
    stored = _stored(header, found)
    if stored.shape != found.matrix:
        raise SeriesError(f"PixelData decodes to {stored.shape}, {found.matrix} is needed")
    if found.slope == 1 and found.intercept.is_integer():
        hu = stored.astype(np.int32) + int(found.intercept)
    else:
        hu = np.rint(stored * found.slope + found.intercept)
    return np.clip(hu, HU_MIN, HU_MAX).astype(np.int16)
