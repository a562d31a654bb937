"""The header of one DICOM file of CT, read from its bytes and checked for all that a slice needs.

A file is used if it has one frame of 16 bits (or several, see `ctlib.io.multiframe`), one grey sample, a
transfer syntax that decodes without loss, Modality CT where it is named, matrix, position, orientation,
pixel spacing, slope and intercept. Anything else is a fault, in words. No SOP Class is asked for: RSPECT hashes it.
Values are taken raw, so that hashed UIDs raise no warnings. Faults reach tables and reports, so they
never repeat free text of a header, nor a file's name: see `ctlib.io.deidentify`.

Headers are read by pydicom, element by element and raw, from the beginning of the file. Where pixels
are not encoded, there must be as many bytes of them as the matrix wants, or padding behind them (PS3.5
8.1.1), and what follows them must be elements to the end of the file: so a file that was cut is noticed
before any pixel is read.
"""

from __future__ import annotations

import io
import math
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import unpack
from typing import Any, BinaryIO

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement

from ctlib.io import dicom_codecs
from ctlib.io.deidentify import AGAIN, SeriesError, known_kernel, known_maker, quoted
from ctlib.io.dicom_bytes import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    MAX_INFLATED_BYTES,
    PIXEL_DATA,
    UNDEFINED,
    Bounded,
    elements,
    ends_well,
    hushed,
    inflated,
    next_element,
    next_is_pixels,
    text_of,
    transfer_syntax,
)
from ctlib.io.formats import NO_VOLUME, recognised

HEAD_BYTES = 16_384
"""Beginning of a file in which most headers end; a longer one is read from the file itself."""
STRAY = f"what follows PixelData is no DICOM element, bytes are missing or too many; {AGAIN}"
NO_DICOM = "not a DICOM file"
DIRECTORY = b"\x04\0"
"""Group of the first element of a DICOMDIR, behind the file meta (PS3.3 F.3)."""
SLICE_ENDINGS = {".dcm", ".dicom", ".ima", ".dic"}
"""Endings of names of slices. A file so called that is no DICOM file may be a slice that was damaged."""
TEXT_ENDINGS = {".csv", ".json", ".txt", ".xml"}
"""Endings of files that lie beside the slices of a folder (LIDC's readers' XML) and are none."""
TEXT_BYTES = 512
INDEX = f"it is DICOMDIR, the index of a CD, {NO_VOLUME}"
NATIVE = {IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED}
"""Uncompressed transfer syntaxes, and deflated, which is inflated first (PS3.5 A)."""
RLE = "1.2.840.10008.1.2.5"
LOSSLESS = {RLE, *(f"1.2.840.10008.1.2.4.{end}" for end in (57, 70, 80, 90))}
"""RLE, JPEG lossless (two), JPEG-LS lossless, JPEG 2000 lossless (PS3.5 A.4)."""
NO_LOSS = "only lossless ones are read; export it again without loss"
EITHER = {f"1.2.840.10008.1.2.4.{end}" for end in (81, 91)}
"""JPEG-LS and JPEG 2000 with or without loss: read where the file says that it lost nothing, or says neither
and its stream does."""
STREAM_BYTES = 65_536
"""Beginning of a stream, which holds its headers."""
NO_PLACE = (
    "it has neither ImagePositionPatient nor ImageOrientationPatient, like a screen capture; "
    "give the original slices"
)
COMPLETE = "export the series again with all of its tags"
HU_ALREADY = (
    "so its values may be no HU; if they are, write RescaleSlope 1 and RescaleIntercept 0 into its files "
    "(for instance with dcmodify of DCMTK), else export the series again"
)
TILT_TOLERANCE_DEG = 0.1
"""Largest GantryDetectorTilt of a straight slice."""
MAX_MATRIX_PX = 4096
"""More rows or columns than any CT has (256 to 2048): a damaged header."""
PIXEL_SPACINGS_MM = (0.01, 10.0)
"""From beyond micro-CT to beyond the widest field of view; CT of a chest has 0.4 to 1.0 mm."""
SLOPES = (0.01, 100.0)
"""RescaleSlope of CT is 1, seldom a fraction; outside of this no 12 bits make a range of HU."""
MAX_INTERCEPT_HU, MAX_POSITION_MM = 32_768, 100_000
"""Farther from 0 than 16 bits and any scanner's table can be: a damaged header."""
LOCALIZER = "LOCALIZER"

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
    *("RescaleSlope", "LossyImageCompression", "ImageType", "AcquisitionNumber", "SeriesDescription"),
    *("ContrastBolusAgent", "AcquisitionTime", "AcquisitionDateTime"),
)
KEYWORDS = {int(tag_for_keyword(name) or 0): name for name in SHORTS + STRINGS}
"""All that is read of a header, by tag."""

ONE_FRAME = (
    "only single frames and Enhanced CT are read; convert it to single frames or to NIfTI, "
    "for instance with dcm2niix"
)
GREY = "only grey images are read; give the original slices"
ELSE = (
    ("Modality", ("CT", ""), "only CT has HU; give a series of CT"),
    ("NumberOfFrames", ("1", "0", ""), ONE_FRAME),
    ("SamplesPerPixel", ("1", ""), GREY),
    ("PhotometricInterpretation", ("MONOCHROME2", "MONOCHROME1", ""), GREY),
)
"""Fields, the values of a slice, and why: a file with another value is something else than a slice."""
WANTED = (
    ("SamplesPerPixel", ("1",), GREY),
    ("PhotometricInterpretation", ("MONOCHROME2", "MONOCHROME1"), GREY),
    ("BitsAllocated", ("16",), "CT has 16 bits; give the original slices"),
    ("PixelRepresentation", ("0", "1"), f"the sign of the pixels must be known; {COMPLETE}"),
)
"""Fields, the values that are read, and why."""


RECONSTRUCTION = (
    *("ImageType", "ConvolutionKernel", "SeriesDescription", "ContrastBolusAgent", "SliceThickness"),
    *("AcquisitionTime", "AcquisitionDateTime"),
)
"""What tells reconstructions of one series apart, apart from AcquisitionNumber."""


@dataclass(slots=True)
class Slice:
    """What a header says; `read_header` fills it, nobody changes it afterwards.

    Args:
        path: the file.
        fault: why it cannot be used, or ""; with a fault all below the UIDs is empty.
        aside: with a fault: it is something else than a slice (a localizer, a screen, a report), so
            the volume is whole without it.
        patient_id: PatientID; this and the UIDs are "" where the file has none.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        sop_uid: SOPInstanceUID.
        acquisition: AcquisitionNumber.
        reconstruction: values of `RECONSTRUCTION`, which tell the reconstructions of one series apart; they
            may hold free text, so nobody repeats them.
        n_frames: NumberOfFrames, where that is why it is set aside.
        syntax: transfer syntax UID.
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
        offset: where uncompressed pixels begin in the file, bytes; -1 where they are encoded.
        stamp: size of the file and time of its last change, bytes and ns.
    """

    path: Path
    fault: str = ""
    aside: bool = False
    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    acquisition: str = ""
    reconstruction: tuple[str, ...] = ()
    n_frames: int = 1
    syntax: str = ""
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
    offset: int = -1
    stamp: tuple[int, int] = (0, 0)


def _fields_of(read: Iterable[Any]) -> dict[str, str]:
    """Raw values of `KEYWORDS` as text; several are joined by a backslash, as in the file.

    Args:
        read: pydicom's elements, raw; others are passed over.
    """
    fields = dict.fromkeys(KEYWORDS.values(), "")
    for element in read:
        name = KEYWORDS.get(int(element.tag))
        value = element.value
        if name is None or value is None or not isinstance(element, RawDataElement):
            continue
        if name in SHORTS:
            order = "<H" if element.is_little_endian else ">H"
            fields[name] = str(*unpack(order, value)) if len(value) == 2 else f"{len(value)} bytes"
        else:
            fields[name] = text_of(value)
    return fields


def _said(fields: dict[str, str], name: str) -> str:
    """A field and its value as a fault may repeat it; a value that is not there is missing."""
    return f"{name} is {quoted(fields[name]) if fields[name] else 'missing'}"


def _numbers(fields: dict[str, str], name: str, n: int = 1) -> tuple[float, ...]:
    if not fields[name]:
        raise SeriesError(f"{name} is missing; {COMPLETE}")
    try:
        values = tuple(float(part) for part in fields[name].split("\\"))
    except ValueError:
        values = ()
    if len(values) != n or not all(math.isfinite(value) for value in values):
        needed = f"{n} finite number{'s are' if n > 1 else ' is'} needed"
        raise SeriesError(f"{_said(fields, name)}, {needed}; export the series again")
    return values


def _rescale(fields: dict[str, str]) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept."""
    gone = [name for name in ("RescaleSlope", "RescaleIntercept") if not fields[name]]
    if gone:
        raise SeriesError(f"{' and '.join(gone)} {'are' if gone[1:] else 'is'} missing, {HU_ALREADY}")
    return _numbers(fields, "RescaleSlope")[0], _numbers(fields, "RescaleIntercept")[0]


def _within(name: str, values: Sequence[float], low: float, high: float) -> None:
    for value in values:
        if not low <= value <= high:
            raise SeriesError(
                f"{name} is {value:g}, {low:g} to {high:g} is plausible; export the series again"
            )


def _claimed(text: str) -> float | None:
    """A number that nothing is computed from; None where the file does not give one."""
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None


def _something_else(fields: dict[str, str]) -> str:
    """Why a file is no slice at all, or ""."""
    for name, values, why in ELSE:
        if fields[name] not in values:
            return f"{_said(fields, name)}, {why}"
    if LOCALIZER in fields["ImageType"].upper().split("\\"):
        return "it is a localizer; give the axial slices"
    if not fields["ImagePositionPatient"] and not fields["ImageOrientationPatient"]:
        return NO_PLACE
    return ""


def _check_pixels(fields: dict[str, str], syntax: str) -> None:
    """Refuses what does not decode right."""
    lost = fields["LossyImageCompression"]
    if syntax not in NATIVE | LOSSLESS and not (syntax in EITHER and lost in ("00", "")):
        said = f" and LossyImageCompression {quoted(lost)}" if syntax in EITHER else ""
        raise SeriesError(f"its transfer syntax is {_name_of(syntax)}{said}, {NO_LOSS}")
    for name, values, why in WANTED:
        if fields[name] not in values:
            raise SeriesError(f"{_said(fields, name)}, {why}")
    stored = _numbers(fields, "BitsStored")[0]
    high = _numbers(fields, "HighBit")[0] if fields["HighBit"] else stored - 1
    if not 2 <= stored <= 16 or high != stored - 1:
        raise SeriesError(
            f"BitsStored is {stored:g}, HighBit {high:g}; 2 to 16 and BitsStored - 1 are needed; "
            "give the original slices"
        )


def _name_of(syntax: str) -> str:
    """A transfer syntax as a fault may repeat it."""
    name = pydicom.uid.UID(syntax).name if syntax else "not named"
    return "unknown" if name == syntax else f"{name} ({syntax})"


def slice_of(fields: dict[str, str], path: Path, syntax: str) -> Slice:
    """The slice of a header; a value that is missing or cannot be used becomes the fault.

    Args:
        fields: `KEYWORDS` as text, "" where there is no value.
        path: the file.
        syntax: transfer syntax UID.
    """
    names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    patient, study, series, sop = (fields[name] for name in names)
    if other := _something_else(fields):
        frames = fields["NumberOfFrames"] if fields["Modality"] == "CT" and other.endswith(ONE_FRAME) else ""
        n_frames = int(frames) if frames.isascii() and frames.isdigit() else 1
        return Slice(path, other, True, patient, study, series, sop, n_frames=n_frames)
    try:
        _check_pixels(fields, syntax)
        found = Slice(
            path,
            "",
            False,
            patient,
            study,
            series,
            sop,
            acquisition=fields["AcquisitionNumber"],
            reconstruction=tuple([fields[name] for name in RECONSTRUCTION]),
            syntax=syntax,
            matrix=(int(_numbers(fields, "Rows")[0]), int(_numbers(fields, "Columns")[0])),
            bits=int(fields["BitsStored"]),
            signed=fields["PixelRepresentation"] == "1",
            spacing=_numbers(fields, "PixelSpacing", 2),
            orientation=_numbers(fields, "ImageOrientationPatient", 6),
            position=_numbers(fields, "ImagePositionPatient", 3),
            thickness=_claimed(fields["SliceThickness"]),
            kernel=known_kernel(fields["ConvolutionKernel"]),
            manufacturer=known_maker(fields["Manufacturer"]),
        )
        found.slope, found.intercept = _rescale(fields)
        _within("Rows", found.matrix[:1], 1, MAX_MATRIX_PX)
        _within("Columns", found.matrix[1:], 1, MAX_MATRIX_PX)
        _within("PixelSpacing", found.spacing, *PIXEL_SPACINGS_MM)
        _within("RescaleSlope", [found.slope], *SLOPES)
        _within("RescaleIntercept", [found.intercept], -MAX_INTERCEPT_HU, MAX_INTERCEPT_HU)
        _within("ImagePositionPatient", found.position, -MAX_POSITION_MM, MAX_POSITION_MM)
        tilt = _numbers(fields, "GantryDetectorTilt")[0] if fields["GantryDetectorTilt"] else 0.0
        if abs(tilt) > TILT_TOLERANCE_DEG:
            raise SeriesError(
                f"GantryDetectorTilt is {tilt:g} degrees, not 0: a tilted volume is sheared; convert it to NIfTI "
                "with a program that straightens it, for instance dcm2niix"
            )
        return found
    except SeriesError as error:
        return Slice(path, error.reason, False, patient, study, series, sop)


def _refused(found: Slice, fault: str) -> Slice:
    """The same file with a fault."""
    names = (found.patient_id, found.study_uid, found.series_uid, found.sop_uid)
    return Slice(found.path, fault, False, *names)


def _with_pixels(found: Slice, source: BinaryIO, file: Bounded) -> Slice:
    """The slice with the place of its uncompressed pixels, or with the fault that they do not fit.

    Args:
        found: a slice without a fault.
        source: stands at the element PixelData.
        file: the whole file.
    """
    found.offset, fault = pixels_at(source, file, found.syntax, 2 * math.prod(found.matrix))
    return _refused(found, fault) if fault else found


def pixels_at(source: BinaryIO, file: Bounded, syntax: str, expected: int) -> tuple[int, str]:
    """Where uncompressed pixels begin in a file, bytes, and why they do not fit, or "".

    Args:
        source: stands at the element PixelData; as far as it goes, it has the same bytes as the file.
        file: the whole file.
        syntax: transfer syntax UID.
        expected: bytes of all pixels.
    """
    tag, vr, length = next_element(source, syntax)
    # UN: a program did not know the VR; the bytes of its value are little endian (PS3.5 6.2.2)
    if tag != PIXEL_DATA or vr not in (b"OW", b"OB", b"", *([] if syntax == BIG_ENDIAN else [b"UN"])):
        return -1, f"it has no PixelData, or PixelData of another VR than OB, OW and UN; {AGAIN}"
    offset = source.tell()
    if not has_pixels(length, expected):
        return -1, f"PixelData has {length} bytes, {expected} are needed for its matrix; {AGAIN}"
    there = file.size - offset
    if there < length:
        return -1, f"it is truncated, {there} of {length} bytes of PixelData; {AGAIN}"
    if there > length and not ends_well(file, PIXEL_DATA, offset + length, file.size, syntax):
        return -1, STRAY
    return offset, ""


def has_pixels(length: int, expected: int) -> bool:
    """Whether PixelData of a length holds as many bytes as are expected, and at most padding behind them.

    Padding is to be accepted (PS3.5 8.1.1). Twice as many bytes are no padding: they could be another
    frame, or pixels of 32 bits.

    >>> has_pixels(84, 84), has_pixels(100, 84), has_pixels(82, 84), has_pixels(168, 84)
    (True, True, False, False)
    """
    return expected <= length < 2 * expected


def _said_by_stream(found: Slice, source: BinaryIO, file: Bounded) -> Slice:
    """The slice, or with a fault if its stream does not say that it lost nothing.

    Args:
        found: a slice without a fault whose transfer syntax is in `EITHER`.
        source: stands at the element PixelData.
        file: the whole file.
    """
    file.seek(source.tell())
    tag, _, length = next_element(file, found.syntax)
    if (tag, length) == (PIXEL_DATA, UNDEFINED):
        for _ in range(2):  # the item of the offset table, and the first of the stream (PS3.5 A.4)
            start = file.read(min(next_element(file, IMPLICIT)[2], STREAM_BYTES))
        if dicom_codecs.is_lossless(start):
            return found
    name = _name_of(found.syntax)
    return _refused(found, f"its transfer syntax is {name}, and nothing says that it lost nothing, {NO_LOSS}")


def read_header(path: Path) -> Slice:
    """What a file's header says, with a fault where it cannot be used; no pixel is read.

    Args:
        path: any file, also one that is no DICOM file, or no regular file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Slice(path, "it is no regular file; leave it out")  # reading a pipe would wait for ever
        if not status.st_size:
            return Slice(path, f"the file is empty; {AGAIN}")
        with Bounded(io.FileIO(path)) as file, hushed():
            found = _read(path, file)
            found.stamp = (status.st_size, status.st_mtime_ns)
            return found
    except OSError as error:
        return Slice(path, _not_opened(path, error))
    except Exception as error:  # damaged files raise many kinds; each ends as a sentence
        return Slice(path, f"its header cannot be read ({type(error).__name__}); {AGAIN}")


def _not_opened(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return "it is a link to a file that is not there; mend or remove it"
    if isinstance(error, FileNotFoundError):
        return "it is no longer there; put it back, or scan the folder again"
    return f"it cannot be opened ({error.strerror}); see that you may read it, then try again"


def _no_dicom(path: Path, start: bytes) -> Slice:
    """A file that is no DICOM file: set aside where it is known as something else and not called like a slice.

    Args:
        path: the file.
        start: its first bytes.
    """
    ending, kind = path.suffix.lower(), recognised(path, start)
    numbered = ending[1:].isdigit() or (not ending and any(letter.isdigit() for letter in path.name))
    if (ending in SLICE_ENDINGS or numbered) and not path.name.startswith("._"):
        known, may_stay, _ = kind.partition(f", {NO_VOLUME}")
        told = f"{NO_DICOM}: {known}" if known else NO_DICOM
        return Slice(path, told if known and not may_stay else f"{told}; {AGAIN}")
    if not kind and (ending in TEXT_ENDINGS or _is_text(start)):
        kind = f"it is a text, {NO_VOLUME}"
    return Slice(path, f"{NO_DICOM}: {kind}" if kind else f"{NO_DICOM}; leave it out", bool(kind))


def _is_text(start: bytes) -> bool:
    """Whether a file begins with printable characters and blanks."""
    try:
        text = start[:TEXT_BYTES].decode("utf-8", "ignore" if len(start) > TEXT_BYTES else "strict")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _header(file: Bounded, head: io.BytesIO, syntax: str) -> tuple[BinaryIO, dict[str, str]]:
    """The fields of a header and what they were read from, which stands behind them.

    Args:
        file: the whole file.
        head: its beginning, behind the file meta; mostly that is enough.
        syntax: transfer syntax UID.
    """
    start = head.tell()
    short: BinaryIO = inflated(file, start, HEAD_BYTES) if syntax == DEFLATED else head
    with suppress(Exception):  # of what was cut off here; a real fault shows in the whole file again
        fields = _fields_of(elements(short, syntax, KEYWORDS))
        if next_is_pixels(short):
            return short, fields
    long: BinaryIO = inflated(file, start, MAX_INFLATED_BYTES) if syntax == DEFLATED else file
    long.seek(0 if syntax == DEFLATED else start)
    return long, _fields_of(elements(long, syntax, KEYWORDS))


def fields_and_pixels(file: Bounded) -> tuple[BinaryIO, dict[str, str], str]:
    """The fields of a DICOM file, what stands behind them at its pixels, and the transfer syntax.

    Args:
        file: stands at its beginning.

    Raises:
        SeriesError: it is no DICOM file.
    """
    head = io.BytesIO(file.read(min(file.size, HEAD_BYTES)))
    syntax = transfer_syntax(head)
    if syntax is None:
        raise SeriesError(NO_DICOM)
    return *_header(file, head, syntax), syntax


def _read(path: Path, file: Bounded) -> Slice:
    head = io.BytesIO(file.read(min(file.size, HEAD_BYTES)))
    syntax = transfer_syntax(head)
    if syntax is None:
        return _no_dicom(path, head.getvalue())
    if head.getbuffer()[head.tell() : head.tell() + 2] == DIRECTORY:
        return Slice(path, INDEX, True)
    source, fields = _header(file, head, syntax)
    found = slice_of(fields, path, syntax)
    if found.fault == NO_PLACE and not next_is_pixels(source):
        return _refused(found, f"it is truncated, or it is no image; {AGAIN}")  # and so no screen capture
    if found.fault:
        return found
    if syntax in EITHER and not fields["LossyImageCompression"]:
        return _said_by_stream(found, source, file)
    return _with_pixels(found, source, file) if syntax in NATIVE - {DEFLATED} else found
