"""The header of one DICOM file of CT, from its bytes; `ctlib.io.dicom_slice` says what it must hold.

Headers are read by pydicom, element by element and raw, from the beginning of the file. Where pixels
are not encoded, there must be as many bytes of them as the matrix wants, and what follows them must be
elements to the end of the file: so a file that was cut is noticed before any pixel is read.
"""

from __future__ import annotations

import io
import math
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ctlib.io.dicom_bytes import (
    DEFLATED,
    MAX_INFLATED_BYTES,
    PIXEL_DATA,
    Bounded,
    elements,
    ends_well,
    hushed,
    inflated,
    next_element,
    next_is_pixels,
    transfer_syntax,
)
from ctlib.io.dicom_slice import KEYWORDS, NATIVE, NO_PLACE, Slice, fields_of, parse, refused

HEAD_BYTES = 16_384
"""Beginning of a file in which most headers end; a longer one is read from the file itself."""
STRAY = "what follows PixelData is no element, bytes are missing or too many"
NO_DICOM = "not a DICOM file"


def _with_pixels(found: Slice, source: BinaryIO, file: Bounded) -> Slice:
    """The slice with the place of its uncompressed pixels, or with the fault that they do not fit.

    Args:
        found: a slice without a fault.
        source: stands at the element PixelData.
        file: the whole file.
    """
    tag, vr, length = next_element(source, found.syntax)
    if tag != PIXEL_DATA or vr not in (b"OW", b"OB", b""):
        return refused(found, "it has no PixelData of bytes or words")
    expected, offset = 2 * math.prod(found.matrix), source.tell()
    if length != expected:
        return refused(found, f"PixelData has {length} bytes, {expected} are needed")
    there = file.size - offset
    if there < expected:
        return refused(found, f"it is cut short, {there} of {expected} bytes of PixelData are there")
    if there > expected and not ends_well(file, PIXEL_DATA, offset + expected, file.size, found.syntax):
        return refused(found, STRAY)
    found.offset = offset
    return found


def read_header(path: Path) -> Slice:
    """What a file's header says, with a fault where it cannot be used; no pixel is read.

    Args:
        path: any file, also one that is no DICOM file, or no regular file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Slice(path, "it is no regular file")  # reading a pipe would wait for ever
        if not status.st_size:
            return Slice(path, "the file is empty")
        with Bounded(io.FileIO(path)) as file, hushed():
            found = _read(path, file)
            found.stamp = (status.st_size, status.st_mtime_ns)
            return found
    except OSError as error:
        return Slice(path, f"it cannot be opened ({error.strerror})")
    except Exception as error:  # damaged files raise many kinds; each ends as a sentence
        return Slice(path, f"its header cannot be read ({type(error).__name__})")


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
        fields = fields_of(elements(short, syntax, KEYWORDS))
        if next_is_pixels(short):
            return short, fields
    long: BinaryIO = inflated(file, start, MAX_INFLATED_BYTES) if syntax == DEFLATED else file
    long.seek(0 if syntax == DEFLATED else start)
    return long, fields_of(elements(long, syntax, KEYWORDS))


def _read(path: Path, file: Bounded) -> Slice:
    head = io.BytesIO(file.read(min(file.size, HEAD_BYTES)))
    syntax = transfer_syntax(head)
    if syntax is None:
        return Slice(path, NO_DICOM)
    source, fields = _header(file, head, syntax)
    found = parse(fields, path, syntax)
    if found.fault == NO_PLACE and not next_is_pixels(source):
        return refused(found, "it is cut short, or it is no image")  # and so no screen capture
    if found.fault or syntax not in NATIVE - {DEFLATED}:
        return found
    return _with_pixels(found, source, file)
