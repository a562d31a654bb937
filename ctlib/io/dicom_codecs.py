"""Encoded pixels: whole, lossless and of one mind with the header, before a decoder sees them.

Decoders are lenient. libjpeg, inside gdcm, only warns where bytes are missing in a stream, and the rest
of the slice is noise; where it warns within a header, gdcm ends the process. pydicom's run-length
decoder takes segments that are too long. So streams are checked here first, as far as their formats
allow: none of them has a checksum, and a changed byte may give a valid stream of another picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import error as StructError
from struct import unpack

import numpy as np
from numpy.typing import NDArray

from ctlib.io.deidentify import SeriesError

END = b"\xff\xd9"
"""Last two bytes of a JPEG, JPEG-LS or JPEG 2000 stream: EOI, EOC (ITU-T T.81 B.1.1.3, T.800 A.4.4)."""
ITEM = b"\xfe\xff\x00\xe0"
"""Tag (FFFE,E000) of an item, little endian (DICOM PS3.5 7.5)."""
SOF_LOSSLESS, SOF_LS, DHT, SOS, DRI, COD, SOT = 0xC3, 0xF7, 0xC4, 0xDA, 0xDD, 0x52, 0x90
"""Second bytes of markers: frame headers of lossless JPEG and of JPEG-LS, Huffman tables, start of
scan, restart interval (T.81 B.1.1.3, T.87 C.1.1); coding style and start of a tile-part of JPEG 2000
(T.800 A.6.1, A.4.2)."""
STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""Beginnings of a JPEG or JPEG-LS stream and of a JPEG 2000 codestream."""
SKIPPED = {*range(0xE0, 0xF0), 0xFE}
"""Application data and comments: nothing that a picture needs, and what gdcm stumbles over."""
KEPT = {0xDB, DHT, DRI, 0xF8}
"""Other segments that may stand before the scan: tables, restart interval, JPEG-LS parameters."""
SIZ = b"\xff\x4f\xff\x51"
"""Beginning of a JPEG 2000 codestream: SOC and SIZ (T.800 A.4.1, A.5.1)."""
NO_END = "PixelData is truncated: its stream has no end"
DAMAGED = "PixelData is a damaged stream"
LOSSY = "PixelData was compressed with loss, but its transfer syntax says without"
REVERSIBLE = 1
"""Transformation of JPEG 2000 that loses nothing, 5-3 (T.800 table A.20)."""


@dataclass(frozen=True)
class Stream:
    """What an encoded stream says of its picture.

    Args:
        rows: rows.
        cols: columns.
        bits: of a sample.
        signed: whether samples are; None where the format does not say.
        clean: the stream without application data and comments, and without what follows its end.
    """

    rows: int
    cols: int
    bits: int
    signed: bool | None
    clean: bytes


def frame(data: bytes) -> bytes:
    """The encoded frame: what the items after the first, the offset table, hold (PS3.5 A.4).

    Args:
        data: value of PixelData without its closing delimiter.

    Raises:
        SeriesError: an item is not as long as it says, or follows none.

    >>> frame(ITEM + bytes(4) + ITEM + bytes([2, 0, 0, 0, 7, 8]))
    b'\\x07\\x08'
    """
    parts, at = [], 0
    while at < len(data):
        if data[at : at + 4] != ITEM or at + 8 > len(data):
            raise SeriesError("PixelData is damaged: its items are not one after the other")
        (length,) = unpack("<I", data[at + 4 : at + 8])
        parts.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    if at != len(data) or len(parts) < 2:
        raise SeriesError("PixelData is truncated: its last item is not complete")
    return b"".join(parts[1:])


def read(stream: bytes) -> Stream:
    """Check a JPEG, JPEG-LS or JPEG 2000 stream, and what it says of its picture.

    Bytes behind its end are padding, whatever they are: a stream of odd length is padded to an even one
    (DICOM PS3.5 A.4), and not every writer pads with one zero.

    Raises:
        SeriesError: it is cut, damaged or not lossless, or another stream follows.
    """
    if END not in stream:
        raise SeriesError(NO_END)
    try:
        return _jpeg2000(stream) if stream.startswith(SIZ) else _jpeg(stream)
    except (StructError, IndexError, KeyError) as error:
        raise SeriesError(DAMAGED) from error


def is_lossless(start: bytes) -> bool:
    """Whether a JPEG-LS or JPEG 2000 stream says that it lost nothing: NEAR is 0, the wavelet is 5-3.

    Args:
        start: the stream, or as much of its beginning as holds its headers.

    >>> is_lossless(SIZ + bytes(40)), is_lossless(b"no stream")
    (False, False)
    """
    try:
        if start.startswith(SIZ):
            return _coding_style(start)[13] == REVERSIBLE
        at, marker = 2, 0
        while start[at + 1] != SOS:
            marker = SOF_LS if start[at + 1] == SOF_LS else marker
            at += 2 + unpack(">H", start[at + 2 : at + 4])[0]
        return start.startswith(STARTS[0]) and marker == SOF_LS and _near(start[at:]) == 0
    except (StructError, IndexError, SeriesError):
        return False


def _near(scan: bytes) -> int:
    """NEAR of the scan header of one JPEG-LS component, the largest error that was allowed (T.87 C.2.3)."""
    return scan[7]


def _until(stream: bytes, marker: int) -> int:
    """Where a marker segment of a JPEG 2000 main header begins (T.800 A.3)."""
    at = 2
    while stream[at] == 0xFF and stream[at + 1] != marker:
        at += 2 + unpack(">H", stream[at + 2 : at + 4])[0]
    return at


def _coding_style(stream: bytes) -> bytes:
    """The stream from its marker segment COD (T.800 A.6.1)."""
    at = _until(stream, COD)
    if stream[at : at + 2] != bytes([0xFF, COD]):
        raise SeriesError(DAMAGED)
    return stream[at : at + 16]


def _jpeg2000(stream: bytes) -> Stream:
    """The marker segments SIZ and COD (T.800 A.5.1, A.6.1), and the end."""
    x1, y1, x0, y0 = unpack(">4I", stream[8:24])
    depth = stream[42]
    if _coding_style(stream)[13] != REVERSIBLE:
        raise SeriesError(LOSSY)
    whole = stream[: _end_of_tiles(stream)]
    return Stream(y1 - y0, x1 - x0, (depth & 0x7F) + 1, bool(depth & 0x80), whole)


def _end_of_tiles(stream: bytes) -> int:
    """Where a codestream ends: behind the marker that follows the last tile-part (T.800 A.4.2, A.4.4)."""
    at = _until(stream, SOT)
    while stream[at : at + 2] == bytes([0xFF, SOT]):
        (length,) = unpack(">I", stream[at + 6 : at + 10])
        at = at + length if length else stream.find(END, at + 12)  # 0: to the end (A.4.2)
    if at > 0 and stream[at : at + 2] == END:
        _is_padding(stream[at + 2 :])
        return at + 2
    if not stream.endswith((END, END + b"\0")):  # some writers count the bytes of a tile-part wrongly
        raise SeriesError(NO_END)
    return len(stream)


def _is_padding(rest: bytes) -> None:
    """Refuse what follows the end of a stream if it is another stream."""
    if any(start in rest for start in STARTS):
        raise SeriesError("PixelData holds several streams, but one frame; export single frames")


def _end_of_scan(data: bytes, escape: int) -> int:
    """Where the scan of a JPEG or JPEG-LS stream ends, which is at the first marker.

    Args:
        data: the stream from its scan on.
        escape: a byte 0xFF is followed by one below this, else it begins a marker: 1 in JPEG (T.81
            B.1.1.5), 0x80 in JPEG-LS (T.87 A.1).
    """
    at = data.find(b"\xff")
    while 0 <= at < len(data) - 1 and data[at + 1] < escape:
        at = data.find(b"\xff", at + 1)
    end = at
    while 0 <= end < len(data) - 1 and data[end + 1] == 0xFF:  # fill bytes (T.81 B.1.1.2)
        end += 1
    if at < 0 or data[end : end + 2] != END:
        missing = END not in data
        raise SeriesError(NO_END if missing else "PixelData is damaged: a marker stands within its scan")
    _is_padding(data[end + 2 :])
    return at


def _jpeg(stream: bytes) -> Stream:
    """The marker segments before the scan, one right after the other (T.81 B.2)."""
    kept, found, at = [stream[:2]], None, 2
    tables: dict[int, tuple[bytes, bytes]] = {}
    while stream[at + 1] != SOS:
        marker, (length,) = stream[at + 1], unpack(">H", stream[at + 2 : at + 4])
        segment = stream[at : at + 2 + length]
        if marker in (SOF_LOSSLESS, SOF_LS) and found is None:
            found = marker, *unpack(">BHH", segment[4:9])
        elif marker == DHT:
            tables |= _tables(segment[4:])
        elif marker not in KEPT | SKIPPED or (marker == DRI and any(segment[4:])):
            raise SeriesError("PixelData is a JPEG stream that is damaged, lossy or has restart intervals")
        if stream[at] != 0xFF or length < 2 or len(segment) != 2 + length:
            raise SeriesError(DAMAGED)
        kept += [segment] if marker not in SKIPPED else []
        at += 2 + length
    scan = stream[at : at + 2 + unpack(">H", stream[at + 2 : at + 4])[0]]
    if stream[at] != 0xFF or found is None or scan[4] != 1:
        raise SeriesError("PixelData is no stream of one grey component")
    marker, bits, rows, cols = found
    data = stream[at + len(scan) :]
    data = data[: _end_of_scan(data, 1 if marker == SOF_LOSSLESS else 0x80)]
    # a point transform drops bits (T.81 H.1.2.1)
    if scan[-1] & 0x0F if marker == SOF_LOSSLESS else _near(scan):
        raise SeriesError(LOSSY)
    if marker == SOF_LOSSLESS:
        counts, values = tables[scan[6] >> 4]
        if not 0 <= bits_left(data, counts, values, rows * cols) < 8:
            raise SeriesError("PixelData is damaged: its stream holds more or fewer samples than its matrix")
    return Stream(rows, cols, bits, None, b"".join([*kept, scan, data, END]))


def _tables(segment: bytes) -> dict[int, tuple[bytes, bytes]]:
    """Huffman tables by their number: codes of each length, values (T.81 B.2.4.2)."""
    tables: dict[int, tuple[bytes, bytes]] = {}
    at = 0
    while at < len(segment):
        counts = segment[at + 1 : at + 17]
        tables[segment[at] & 0x0F] = (counts, segment[at + 17 : at + 17 + sum(counts)])
        at += 17 + sum(counts)
    return tables


def bits_left(data: bytes, counts: bytes, values: bytes, n_samples: int) -> int:
    """Bits of a lossless JPEG's scan after its last sample: 0 to 7 if it is whole (T.81 F.2.2.3, H.1.2.2).

    From every bit, the step to the next sample is looked up for all bits at once; `n_samples` steps
    are then taken by squaring that table. Of gaps of 16 bytes and more all are found, of a few
    bytes most: the rest are valid streams of another picture.

    Args:
        data: the scan, one component without restart intervals.
        counts: Huffman codes of 1 to 16 bits.
        values: their values, the number of extra bits of a sample.
        n_samples: rows x columns.

    Returns:
        Below 0 or above 7 where samples are missing or too many.
    """
    packed = np.frombuffer(data, np.uint8)
    stuffed = np.flatnonzero(packed[:-1] == 0xFF) + 1
    if packed[stuffed].any():
        raise SeriesError("PixelData is damaged: a marker stands within its scan")
    plain = np.delete(packed, stuffed)
    total = 8 * len(plain)
    jump = _jumps(plain, _steps(counts, values), total)
    at = 0
    while n_samples:
        at = int(jump[at]) if n_samples & 1 else at
        n_samples >>= 1
        jump = jump[jump] if n_samples else jump
    return total - at


def _steps(counts: bytes, values: bytes) -> NDArray[np.uint8]:
    """Bits of the sample that begins with each 16 bits; 0 where no code begins so."""
    steps, code, used = np.zeros(1 << 16, np.uint8), 0, 0
    for bits, count in enumerate(counts, start=1):
        for _ in range(count):
            # a value of 16 has no extra bits
            steps[code << (16 - bits) : (code + 1) << (16 - bits)] = bits + values[used] % 16
            code, used = code + 1, used + 1
        code <<= 1
    return steps


def _jumps(plain: NDArray[np.uint8], steps: NDArray[np.uint8], total: int) -> NDArray[np.int32]:
    """From each bit, the bit after its sample; a last one beyond all stands for what cannot be read."""
    padded = np.concatenate([plain, np.full(3, 255, np.uint8)]).astype(np.uint32)
    words = (padded[:-3] << 16) | (padded[1:-2] << 8) | padded[2:-1]
    dead = total + 32
    jump = np.full(total + 33, dead, np.int32)
    for bit in range(8):
        size = steps[(words >> (8 - bit)) & 0xFFFF]
        jump[bit:total:8] = np.where(size > 0, np.arange(bit, total, 8, dtype=np.int32) + size, dead)
    return jump


def check_rle(stream: bytes, rows: int, cols: int) -> None:
    """Refuse a run-length encoded frame that is not exactly rows x cols words (PS3.5 G).

    Rows are encoded one by one (G.3.1), so a run across the end of a row shows that bytes are
    missing before it.

    Raises:
        SeriesError: it is not.

    >>> check_rle(bytes([2, 0, 0, 0, 64, 0, 0, 0, 66]) + bytes(55) + bytes([255, 0]) * 2, rows=1, cols=2)
    """
    if len(stream) < 64:
        raise SeriesError("PixelData is truncated: its stream has no header")
    n, *offsets = unpack("<16I", stream[:64])
    if n != 2 or offsets[0] != 64 or not 64 < offsets[1] < len(stream) or any(offsets[2:]):
        raise SeriesError("PixelData is no run-length encoding of 16-bit words")
    for at, stop in ((64, offsets[1]), (offsets[1], len(stream))):
        n_bytes = 0
        while n_bytes < rows * cols and at < stop:
            head = stream[at]
            run = 0 if head == 128 else (head + 1 if head < 128 else 257 - head)
            at += 1 + (0 if head == 128 else head + 1 if head < 128 else 1)
            if n_bytes % cols + run > cols:
                raise SeriesError("PixelData is damaged: a run crosses the end of a row")
            n_bytes += run
        if n_bytes != rows * cols or not stop - 1 <= at <= stop:
            raise SeriesError("PixelData does not decode to as many bytes as its matrix needs")
