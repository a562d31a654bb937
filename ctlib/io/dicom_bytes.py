"""The bytes of a DICOM file: reading that a damaged length cannot mislead, and elements one by one."""

from __future__ import annotations

import io
import logging
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from struct import unpack
from typing import Any, BinaryIO

from pydicom.config import disable_value_validation
from pydicom.filereader import data_element_generator

DEFLATED = "1.2.840.10008.1.2.1.99"
"""Transfer syntax whose data set is compressed as a whole, with zlib's deflate (PS3.5 A.5)."""
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
"""Transfer syntaxes in which elements look otherwise than in explicit little endian (PS3.5 A)."""
PREAMBLE_BYTES = 132
"""128 bytes and DICM (PS3.10 7.1)."""
TRANSFER_SYNTAX, PIXEL_DATA = 0x00020010, 0x7FE00010
PIXEL_TAGS = 0x7FE00001
"""First tag of the group of PixelData behind its group length, which older files still write."""
MAX_INFLATED_BYTES = 64_000_000
"""Most that is inflated beside the pixels: a header is never as large."""
UNDEFINED = 0xFFFFFFFF
"""Length of a sequence that ends where its delimiter stands (PS3.5 7.5)."""
MAX_HEAD_BYTES = 1 << 20
"""Longer values of a header are read only as far as the file goes."""
LONG_VRS = {bytes(vr, "ascii") for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN")}
LONG_VRS |= {b"UR", b"UT", b"UV"}
"""VRs whose length has four bytes, after two that are reserved (PS3.5 7.1.2)."""


class Bounded(io.BufferedReader):
    """A file of which no more is asked than it has: a damaged length would reserve gigabytes."""

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes, at most those that are left."""
        if size is not None and size > MAX_HEAD_BYTES:
            size = max(self.size - self.tell(), 0)
        return super().read(size)


@contextmanager
def hushed() -> Iterator[None]:
    """Silence pydicom, whose warnings and log lines repeat values; what matters becomes a fault."""
    log = logging.getLogger("pydicom")
    before = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def text_of(value: bytes) -> str:
    """A raw value as text, without its padding."""
    try:
        return value.decode("utf-8").strip("\0 ")
    except UnicodeDecodeError:  # kernel or manufacturer in a national alphabet
        return value.decode("latin-1").strip("\0 ")


def transfer_syntax(file: BinaryIO) -> str | None:
    """Transfer syntax UID of a file that stands at its beginning, behind whose file meta it stands then.

    The preamble may be missing, as in what pydicom 3 writes of a data set that was made from nothing,
    and so may the file meta: the syntax is then implicit, the default (PS3.5 10), or explicit where the
    first element has a VR.

    Returns:
        "" where the file meta names none; None where this is no DICOM file.
    """
    if file.read(PREAMBLE_BYTES)[-4:] != b"DICM":
        file.seek(0)
        first = file.read(6)
        if first[:2] not in (b"\x02\x00", b"\x08\x00") or first[3:4] != b"\0":
            return None
        file.seek(0)
        if first[:2] == b"\x08\x00":
            return EXPLICIT if first[4:].isalpha() and first[4:].isupper() else IMPLICIT
    meta = data_element_generator(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    named = [element.value for element in meta if element.tag == TRANSFER_SYNTAX]
    return text_of(named[0]) if named and isinstance(named[0], bytes) else ""


def elements(file: BinaryIO, syntax: str, tags: Iterable[int]) -> Iterator[Any]:
    """pydicom's elements of some tags, raw, up to PixelData, where the file stands then.

    Args:
        file: stands behind its file meta.
        syntax: transfer syntax UID; "" is taken for explicit little endian.
        tags: tags that are wanted.
    """
    return data_element_generator(
        file,
        syntax == IMPLICIT,
        syntax != BIG_ENDIAN,
        stop_when=lambda tag, vr, length: int.__ge__(tag, PIXEL_TAGS),  # pydicom's own >= is slow
        specific_tags=list(tags),
    )


def next_is_pixels(file: BinaryIO) -> bool:
    """Whether a file stands at an element of the group of PixelData; it stands there still."""
    at = file.tell()
    group = file.read(2)
    file.seek(at)
    return group in (b"\xe0\x7f", b"\x7f\xe0")


def inflated(file: Bounded, start: int, most_bytes: int) -> io.BytesIO:
    """The beginning of a deflated data set (PS3.5 A.5), in explicit little endian.

    Args:
        file: a file.
        start: where its file meta ends, bytes.
        most_bytes: bytes of the data set.
    """
    file.seek(start)
    plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(file.size - start), most_bytes)
    return io.BytesIO(plain)


def next_element(file: BinaryIO, syntax: str) -> tuple[int, bytes, int]:
    """Tag, VR (b"" where it is implicit) and length of the element at which a file stands.

    Args:
        file: stands behind the head of the element afterwards; where it ends before, the tag is 0.
        syntax: transfer syntax UID.
    """
    order = ">" if syntax == BIG_ENDIAN else "<"
    head = file.read(8)
    if len(head) < 8:
        return 0, b"", 0
    group, element = unpack(f"{order}HH", head[:4])
    tag = (group << 16) + element
    if syntax == IMPLICIT:
        return tag, b"", unpack("<I", head[4:])[0]
    if head[4:6] not in LONG_VRS:
        return tag, head[4:6], unpack(f"{order}H", head[6:])[0]
    long = file.read(4)
    return (tag, head[4:6], unpack(f"{order}I", long)[0]) if len(long) == 4 else (0, b"", 0)


def ends_well(file: BinaryIO, last: int, at: int, end: int, syntax: str) -> bool:
    """Whether elements in rising order fill a file to its end: where bytes are missing, they do not.

    Args:
        file: a file.
        last: tag of the element before.
        at: where that element ends, bytes.
        end: where the file does.
        syntax: transfer syntax UID.
    """
    while at < end:
        file.seek(at)
        tag, _, length = next_element(file, syntax)
        if tag <= last:
            return False
        if length == UNDEFINED:
            file.seek(at)
            next(data_element_generator(file, syntax == IMPLICIT, syntax != BIG_ENDIAN))
            length = 0
        at = file.tell() + length
        last = tag
    return at == end
