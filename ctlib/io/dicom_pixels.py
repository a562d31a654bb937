"""The pixels of one DICOM file, in HU.

Uncompressed pixels are read straight into the volume and rescaled there: a slice is touched three
times, and never copied. Encoded ones are decoded by gdcm (RLE by pydicom), after `ctlib.io.dicom_codecs` saw
that the stream is whole, and that it says the same as the header.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate

from ctlib.core import HU_MAX, HU_MIN
from ctlib.io import dicom_codecs
from ctlib.io.deidentify import AGAIN, SeriesError
from ctlib.io.dicom_bytes import (
    BIG_ENDIAN,
    DEFLATED,
    MAX_INFLATED_BYTES,
    PIXEL_DATA,
    Bounded,
    elements,
    ends_well,
    hushed,
    inflated,
    next_element,
    transfer_syntax,
)
from ctlib.io.dicom_header import RLE, STRAY, Slice, has_pixels


def read_plane(found: Slice, out: NDArray[np.int16]) -> None:
    """Pixels of one file, in HU.

    Args:
        found: its header, without a fault.
        out: int16 `[rows, cols]`, C order, filled as acquired: HU by slope and intercept of this
            file, non-integers rounded, clipped to [-1024, 3071].

    Raises:
        SeriesError: pixels are missing, too few, too many, or do not decode. `out` is then undefined.
    """
    raw = out.view(np.int16 if found.signed else np.uint16)
    if found.offset >= 0:
        _read_native(found, raw)
    else:
        raw[...] = _decoded(found)
    if found.bits < 16:
        # bits above BitsStored may hold anything (PS3.5 8.1.1): shift them out, keep the sign
        raw <<= 16 - found.bits
        raw >>= 16 - found.bits
    _rescale(raw, out, found.slope, found.intercept)


def _read_native(found: Slice, raw: NDArray[Any]) -> None:
    try:
        with found.path.open("rb", buffering=0) as file:
            file.seek(found.offset)
            there = file.readinto(raw.reshape(-1).view(np.uint8).data) or 0
    except OSError as error:
        raise SeriesError(f"it cannot be read ({error.strerror})") from error
    if there != raw.nbytes:
        raise SeriesError(f"it is truncated, {there} of {raw.nbytes} bytes of PixelData; {AGAIN}")
    if found.syntax == BIG_ENDIAN:
        raw.byteswap(inplace=True)


def _rescale(raw: NDArray[Any], out: NDArray[np.int16], slope: float, intercept: float) -> None:
    """HU of stored values; `raw` and `out` are the same memory."""
    limits = np.iinfo(raw.dtype)
    low, high = HU_MIN - intercept, HU_MAX - intercept
    simple = slope == 1 and intercept.is_integer() and abs(intercept) < 2**15
    if simple and limits.min <= high < 2**15:
        # clipped first, so that adding cannot overflow 16 bits
        np.clip(raw, max(int(low), limits.min), int(high), out=raw)
        out += np.int16(intercept)
        return
    np.clip(np.rint(raw * np.float64(slope) + intercept), HU_MIN, HU_MAX, out=out, casting="unsafe")


def _decoded(found: Slice) -> NDArray[Any]:
    """Stored values of an encoded or deflated file, 16 bits `[rows, cols]`, in the machine's byte order."""
    try:
        with hushed():
            if found.syntax == DEFLATED:
                return _inflated(found)
            # from memory: of a file, pydicom would reserve whatever length a damaged header claims
            header = pydicom.dcmread(io.BytesIO(found.path.read_bytes()), force=True)  # no preamble
            data = header.get_item("PixelData").value if "PixelData" in header else None
            if not data:
                raise SeriesError("it has no PixelData")
            stream = dicom_codecs.frame(data)
            if found.syntax == RLE:
                dicom_codecs.check_rle(stream, *found.matrix)
            else:
                header.PixelData = encapsulate([_checked(dicom_codecs.read(stream), found)])
                header.pixel_array_options(decoding_plugin="gdcm")
            stored = header.pixel_array
    except SeriesError:
        raise
    except Exception as error:  # each decoder has errors of its own
        raise SeriesError(f"PixelData cannot be decoded ({type(error).__name__}); {AGAIN}") from error
    if stored.shape != found.matrix or stored.dtype.itemsize != 2:
        raise SeriesError(f"PixelData decodes to {stored.shape}, {found.matrix} is needed")
    if (stored.dtype.kind == "i") != found.signed:
        raise SeriesError("PixelData decodes to values of another sign than PixelRepresentation says")
    return stored


def _inflated(found: Slice) -> NDArray[Any]:
    """Stored values of a deflated file, checked as those of an uncompressed one are."""
    expected = 2 * math.prod(found.matrix)
    with Bounded(io.FileIO(found.path)) as compressed:
        transfer_syntax(compressed)
        file = inflated(compressed, compressed.tell(), expected + MAX_INFLATED_BYTES)
    plain = file.getvalue()
    for _ in elements(file, DEFLATED, []):
        pass
    tag, _, length = next_element(file, DEFLATED)
    at = file.tell()
    if tag != PIXEL_DATA or not has_pixels(length, expected) or len(plain) < at + length:
        raise SeriesError(f"PixelData has {length} bytes, {expected} are needed for its matrix; {AGAIN}")
    if not ends_well(file, PIXEL_DATA, at + length, len(plain), DEFLATED):
        raise SeriesError(STRAY)
    values = np.frombuffer(plain, "<i2" if found.signed else "<u2", count=expected // 2, offset=at)
    return values.reshape(found.matrix)


def _checked(stream: dicom_codecs.Stream, found: Slice) -> bytes:
    """The stream, if it says the same as the header; decoders follow either."""
    if (stream.rows, stream.cols) != found.matrix:
        raise SeriesError(f"PixelData is a stream of {stream.rows} x {stream.cols} px, unlike Rows x Columns")
    if not 2 <= stream.bits <= 16 or (stream.signed is not None and stream.bits > found.bits):
        raise SeriesError(f"PixelData is a stream of {stream.bits} bits, BitsStored is {found.bits}")
    if stream.signed not in (None, found.signed):
        raise SeriesError("the stream of PixelData has another sign than PixelRepresentation says")
    return stream.clean
