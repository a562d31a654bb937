"""The bytes of a DICOM file: reading that a damaged length cannot mislead, and elements one by one."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from struct import unpack
from typing import BinaryIO

from pydicom.config import disable_value_validation

IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
"""Transfer syntaxes in which elements look otherwise than in explicit little endian (PS3.5 A)."""
MAX_HEAD_BYTES = 1 << 20
"""Longer values of a header are read only as far as the file goes."""
LONG_VRS = {bytes(vr, "ascii") for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN")}
LONG_VRS |= {b"UR", b"UT", b"UV"}
"""VRs whose length has four bytes, after two that are reserved (PS3.5 7.1.2)."""


class Bounded(io.BufferedReader):
    """A file of which no more is asked than it has: a damaged length would reserve gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes, at most those that are left."""
        if size is not None and size > MAX_HEAD_BYTES:
            size = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
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
        at = file.tell() + length
        if tag <= last:
            return False
        last = tag
    return at == end
