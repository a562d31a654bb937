"""Damaged DICOM files.

A source is a series of four slices in one transfer syntax; a mutant is one of them, the second or the
last, damaged by one of `KINDS`. Shares no code with the package: elements are found by a walk of its
own (PS3.5 7.1), and encoded pixels by their items (PS3.5 A.4).
"""

import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dicom_writer as writer
import gdcm
import numpy as np
import pydicom

DEFLATED, BIG_ENDIAN, IMPLICIT = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2"
RLE = "1.2.840.10008.1.2.5"
SYNTAXES = {
    IMPLICIT: "implicit",
    "1.2.840.10008.1.2.1": "explicit",
    BIG_ENDIAN: "big-endian",
    DEFLATED: "deflated",
    RLE: "rle",
    "1.2.840.10008.1.2.4.57": "jpeg-57",
    "1.2.840.10008.1.2.4.70": "jpeg-70",
    "1.2.840.10008.1.2.4.80": "jpeg-ls-80",
    "1.2.840.10008.1.2.4.90": "jpeg2000-90",
}
PLAIN = [syntax for syntax in SYNTAXES if "1.2.4." not in syntax and syntax != RLE]
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
"""VRs with a length of four bytes (PS3.5 7.1.2)."""
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
PIXELS = (0x7FE0, 0x0010)
UNDEFINED = 0xFFFFFFFF
N_SLICES = 4
"""Enough that three would still be a volume, if a damaged one were left out."""


@dataclass
class Element:
    """Where an element lies in the bytes of a data set; `end` is after its value."""

    tag: tuple[int, int]
    start: int
    value: int
    end: int
    wide: bool  # whether its length has four bytes; those lie just before the value

    @property
    def length_at(self):
        return self.value - (4 if self.wide else 2)


@dataclass
class File:
    """One DICOM file: what comes before the data set, and the data set, not deflated."""

    head: bytes
    body: bytes
    syntax: str

    @classmethod
    def of(cls, data, syntax):
        n = 144 + struct.unpack("<I", data[140:144])[0]
        body = data[n:]
        return cls(data[:n], zlib.decompress(body, -zlib.MAX_WBITS) if syntax == DEFLATED else body, syntax)

    @property
    def order(self):
        return ">" if self.syntax == BIG_ENDIAN else "<"

    @property
    def encoded(self):
        return "1.2.840.10008.1.2.4" in self.syntax or self.syntax == RLE

    def bytes(self):
        if self.syntax != DEFLATED:
            return self.head + self.body
        packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
        packed = packer.compress(self.body) + packer.flush()
        return self.head + packed + b"\0" * (len(packed) % 2)

    def elements(self):
        """All elements of the top level."""
        found, at = [], 0
        while at + 8 <= len(self.body):
            element = self._element(at)
            found.append(element)
            at = element.end
        return found

    def _element(self, at):
        tag = struct.unpack(f"{self.order}HH", self.body[at : at + 4])
        if tag[0] == 0xFFFE or self.syntax == IMPLICIT:
            value, wide = at + 8, True
        else:
            wide = self.body[at + 4 : at + 6] in LONG
            value = at + (12 if wide else 8)
        form, size = (f"{self.order}I", 4) if wide else (f"{self.order}H", 2)
        (length,) = struct.unpack(form, self.body[value - size : value])
        end = value + length
        if wide and length == UNDEFINED:
            end = self._end(value, SEQUENCE_END if tag != ITEM else ITEM_END)
        return Element(tag, at, value, end, wide)

    def _end(self, at, delimiter):
        while True:
            element = self._element(at)
            if element.tag == delimiter:
                return element.end
            at = element.end

    def find(self, tag):
        return next((element for element in self.elements() if element.tag == tag), None)

    def splice(self, start, end, new):
        self.body = self.body[:start] + new + self.body[end:]

    def new(self, tag, value, vr=b"UN", length=None):
        """Bytes of an element; a false length may be given."""
        length = len(value) if length is None else length
        head = struct.pack(f"{self.order}HH", *tag)
        if self.syntax == IMPLICIT:
            return head + struct.pack("<I", length & UNDEFINED) + value
        if vr in LONG:
            return head + vr + b"\0\0" + struct.pack(f"{self.order}I", length & UNDEFINED) + value
        return head + vr + struct.pack(f"{self.order}H", length & 0xFFFF) + value

    def put(self, tag, value, vr):
        """Give an element another value, or add it where its tag belongs."""
        value += (b"\0" if vr in (b"UI", b"OB", b"UN") else b" ") * (len(value) % 2)
        at = self.find(tag)
        if at:
            self.splice(at.start, at.end, self.new(tag, value, vr))
            return
        after = next((e.start for e in self.elements() if e.tag > tag), len(self.body))
        self.splice(after, after, self.new(tag, value, vr))

    def set_length(self, element, length):
        form, mask = ("I", UNDEFINED) if element.wide else ("H", 0xFFFF)
        new = struct.pack(f"{self.order}{form}", length & mask)
        self.splice(element.length_at, element.value, new)

    def fragments(self):
        """Items of encoded pixels; the first is the table of offsets."""
        return list(self._items())

    def _items(self):
        at = self.find(PIXELS).value
        while (element := self._element(at)).tag == ITEM:
            yield element
            at = element.end

    def set_stream(self, stream):
        """Give encoded pixels another stream, in one item, with right lengths."""
        stream += b"\0" * (len(stream) % 2)
        items = b"".join(
            struct.pack("<HHI", *tag, len(value)) + value
            for tag, value in ((ITEM, b""), (ITEM, stream), (SEQUENCE_END, b""))
        )
        at = self.find(PIXELS)
        self.splice(at.value, at.end, items)

    def stream(self):
        return b"".join(self.body[item.value : item.end] for item in self.fragments()[1:])


# ---- sources ---------------------------------------------------------------------------


@dataclass
class Source:
    """Slices in one transfer syntax, inferior to superior, and the volume that they are."""

    name: str
    slices: list[bytes]
    truth: np.ndarray

    @property
    def syntax(self):
        return next(s for s, short in SYNTAXES.items() if short == self.name.split("/")[-1])


def zoo_sources(zoo: Path, folder: Path) -> Iterator[Source]:
    """One source for each lossless file of the codec zoo; the truth comes from its plain file."""
    native = pydicom.dcmread(zoo / "CTImage.dcm")
    stored = np.frombuffer(native.PixelData, "<i2").reshape(native.Rows, native.Columns).astype(np.int32)
    truth = np.clip(stored * int(native.RescaleSlope) + int(native.RescaleIntercept), -1024, 3071)
    for path in sorted(zoo.glob("CTImage.dcm_*")):
        found = pydicom.dcmread(path)
        short = SYNTAXES.get(str(found.file_meta.TransferSyntaxUID))
        if short is None:
            continue
        slices = []
        for k in range(N_SLICES):
            x, y, z = native.ImagePositionPatient
            found.ImagePositionPatient = [x, y, z + 5 * k]
            found.SOPInstanceUID = f"1.2.3.{k + 1}"
            found.save_as(folder / "slice.dcm")
            slices.append((folder / "slice.dcm").read_bytes())
        yield Source(f"zoo/{short}", slices, np.repeat(truth[None].astype(np.int16), N_SLICES, axis=0))


def made_sources(folder: Path, shape=(N_SLICES, 40, 48)) -> Iterator[Source]:
    """The same small volume in each syntax; needs no files. gdcm encodes, so its JPEG is its own."""
    z, y, x = np.indices(shape)
    noise = np.random.default_rng(0).integers(-30, 30, shape)
    hu = np.clip(900 * np.sin(0.21 * x + z) * np.cos(0.17 * y) - 300 + noise, -1024, 3071).astype(np.int16)
    for syntax, short in SYNTAXES.items():
        slices = []
        for ds in writer.slices(hu):
            encode(ds, folder / "slice.dcm", syntax)
            slices.append((folder / "slice.dcm").read_bytes())
        yield Source(f"made/{short}", slices, hu)
        # something behind the pixels, which a reader may take for pixels (PS3.3 C.12.3)
        padded = [File.of(data, syntax) for data in slices]
        for file in padded:
            file.body += file.new((0xFFFC, 0xFFFC), bytes(126), b"OB")
        yield Source(f"padded/{short}", [file.bytes() for file in padded], hu)


def encode(ds, path, syntax):
    """Write a data set of plain pixels in any syntax."""
    if syntax not in PLAIN and syntax != RLE:
        ds.save_as(path, enforce_file_format=True)
        _encode_by_gdcm(path, syntax)
        return
    if syntax == RLE:
        ds.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    if syntax == BIG_ENDIAN:
        ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True)


def _encode_by_gdcm(path, syntax):
    """Encode a plain file in its place."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change(), syntax
    image = gdcm.ImageWriter()
    image.SetFileName(str(path))
    image.SetFile(reader.GetFile())
    image.SetImage(change.GetOutput())
    assert image.Write(), syntax


# ---- mutations -------------------------------------------------------------------------

DS, IS, US, CS, UI, LO = b"DS", b"IS", b"US", b"CS", b"UI", b"LO"
ABSURD = {
    (0x0028, 0x0010): (US, [0, 1, 2, 65535, 32768, "+1", "-1"]),
    (0x0028, 0x0011): (US, [0, 1, 2, 65535, 32768, "+1", "-1"]),
    (0x0028, 0x0002): (US, [0, 2, 3, 65535]),
    (0x0028, 0x0100): (US, [0, 1, 8, 12, 32, 64, 65535]),
    (0x0028, 0x0101): (US, [0, 1, 8, 12, 99, 65535]),
    (0x0028, 0x0102): (US, [0, 7, 11, 99, 65535]),
    (0x0028, 0x0103): (US, [0, 1, 2, 65535]),
    (0x0028, 0x0004): (CS, [b"RGB", b"", b"PALETTE COLOR", b"MONOCHROME1", b"YBR_FULL", b"\xff\xfe"]),
    (0x0028, 0x0008): (IS, [b"1000000000", b"0", b"-1", b"2", b"nan", b"1e9", b""]),
    (0x0028, 0x0030): (
        DS,
        [b"0\\0", b"-1\\-1", b"nan\\nan", b"inf\\inf", b"1e308\\1e308", b"1", b"1e-300\\1"],
    ),
    (0x0028, 0x1052): (DS, [b"nan", b"inf", b"-1e308", b"1e308", b"abc", b"", b"1\\2", b"0x10", b"1_0"]),
    (0x0028, 0x1053): (
        DS,
        [b"nan", b"inf", b"-1e308", b"1e308", b"abc", b"", b"0", b"1e-320", b"1\\2", b"-1"],
    ),
    (0x0020, 0x0032): (
        DS,
        [b"inf\\inf\\inf", b"nan\\0\\0", b"0\\0\\1e308", b"0\\0", b"a\\b\\c", b"", b"0\\0\\0"],
    ),
    (0x0020, 0x0037): (
        DS,
        [b"0\\0\\0\\0\\0\\0", b"1\\0\\0\\1\\0\\0", b"nan\\0\\0\\0\\1\\0", b"1\\0\\0", b"2\\0\\0\\0\\2\\0"],
    ),
    (0x0020, 0x000E): (UI, [b"", b"1.2.3.4.5", b"\0\0\0\0", b"x" * 5000, b"\xff" * 8]),
    (0x0020, 0x000D): (UI, [b"", b"9.9.9"]),
    (0x0010, 0x0020): (LO, [b"", b"other", b"\x1b$B\x00", b"A" * 70000]),
    (0x0008, 0x0005): (CS, [b"ISO 2022 IR 87", b"nonsense", b"ISO_IR 192\\x", b""]),
    (0x0008, 0x0008): (CS, [b"LOCALIZER", b"\\\\\\\\", b""]),
    (0x0008, 0x0018): (UI, [b"", b"1.2.3.1", b"\0"]),
    (0x0008, 0x0060): (CS, [b"MR", b"", b"\xff\xff"]),
    (0x0018, 0x0050): (DS, [b"nan", b"1e308", b"abc"]),
    (0x0018, 0x1120): (DS, [b"nan", b"15", b"abc", b"1e308"]),
    (0x0020, 0x0012): (IS, [b"2", b"abc", b"99999999999999999999"]),
    (0x0020, 0x0013): (IS, [b"abc", b""]),
    (0x0028, 0x0120): (US, [0, 65535]),
    (0x0028, 0x2110): (CS, [b"00", b"01", b"xx"]),
}
"""Tags, with values that no slice has, or that a slice might have and this one has not."""


@dataclass
class Mutant:
    """A damaged file.

    Args:
        number: the seed it was made from.
        place: which slice it replaces.
        kind: how it was damaged.
        what: in words.
        data: its bytes.
        cut: whether bytes of pixels are missing, so that other voxels may not come out.
    """

    number: int
    place: int
    kind: str
    what: str
    data: bytes
    cut: bool = False


def flip_anywhere(file, rng):
    data = bytearray(file.bytes())
    return _flipped(data, 0, len(data), rng)


def flip_header(file, rng):
    data = bytearray(file.bytes())
    pixels = len(file.head) + file.find(PIXELS).value
    return _flipped(data, 128, len(data) if file.syntax == DEFLATED else pixels, rng)


def flip_near_pixels(file, rng):
    """The element PixelData itself, the items, and the headers of the encoded stream."""
    at = file.find(PIXELS)
    file.body, what = _flipped(bytearray(file.body), at.start, min(at.value + 100, len(file.body)), rng)
    return file.bytes(), what


def _flipped(data, low, high, rng):
    n = int(rng.choice([1, 1, 2, 8, 64]))
    for at in rng.integers(low, high, n):
        data[at] = data[at] ^ (1 << int(rng.integers(8))) if rng.random() < 0.5 else int(rng.integers(256))
    return bytes(data), f"{n} bytes flipped"


def cut_file(file, rng):
    data = file.bytes()
    keep = int(rng.integers(0, len(data)))
    return data[:keep], f"cut to {keep} of {len(data)} bytes", True


def cut_tail(file, rng):
    data = file.bytes()
    lost = int(rng.choice([1, 2, 3, 4, 7, 8, 9, 10, 12, 16, 20, 50, 200, 1000]))
    return data[:-lost], f"last {lost} bytes cut", True


def _span(file, rng):
    """A random run within the pixels: start and end in the data set."""
    at = file.find(PIXELS)
    n = int(rng.choice([1, 2, 3, 4, 16, 512, 1024, 5000]))
    first = int(rng.integers(at.value, max(at.end - n, at.value + 1)))
    return first, min(first + n, at.end)


def remove_pixels(file, rng):
    first, last = _span(file, rng)
    file.splice(first, last, b"")
    return file.bytes(), f"{last - first} bytes of pixels removed", True


def insert_pixels(file, rng):
    first, last = _span(file, rng)
    file.splice(first, first, rng.bytes(last - first))
    return file.bytes(), f"{last - first} bytes inserted into the pixels"


def blank_pixels(file, rng):
    first, last = _span(file, rng)
    file.splice(first, last, bytes(last - first))
    return file.bytes(), f"{last - first} bytes of pixels zeroed"


def shorten_pixels(file, rng):
    """Pixels lose their end, or their middle, and every length says so."""
    stream, middle = _stream(file), bool(rng.random() < 0.5)
    n = min(int(rng.choice([2, 4, 16, 300, 2000, len(stream) // 2, len(stream)])), len(stream) - 2)
    first = int(rng.integers(0, len(stream) - n + 1)) if middle else len(stream) - n
    _set_stream(file, stream[:first] + stream[first + n :])
    what = f"pixels without {n} bytes at {first}, lengths as they should be"
    return file.bytes(), what, not another_image(file)


def shorten_stream(file, rng):
    """A stream loses bytes, ends with its end marker, and every length says so."""
    stream = _stream(file)
    n = min(int(rng.choice([1, 2, 3, 5, 16, 100, 300, 2000, len(stream)])), len(stream) // 2)
    first = int(rng.integers(min(200, len(stream) - n - 4), len(stream) - n - 2))
    first = len(stream) - n - 4 if rng.random() < 0.5 else first
    stream = stream[:first] + stream[first + n :]
    if file.encoded and file.syntax != RLE and b"\xff\xd9" not in stream[-4:]:
        stream += b"\xff\xd9"
    _set_stream(file, stream)
    what = f"pixels without {n} bytes at {first}, ended with an end marker"
    return file.bytes(), what, not another_image(file)


def another_image(file):
    """Whether a lossless JPEG that lost bytes is by chance a whole stream again, of another image.

    Huffman codes fall into step again after a gap. If as many symbols as pixels are left and end in
    the last byte, no reader can know; of three bytes that are missing that happens one time in ten.
    """
    if not SYNTAXES[file.syntax].startswith("jpeg-5") and not SYNTAXES[file.syntax].startswith("jpeg-7"):
        return False
    rows, cols = (
        struct.unpack("<H", file.body[e.value : e.end])[0]
        for e in (file.find((0x0028, 0x0010)), file.find((0x0028, 0x0011)))
    )
    try:
        return 0 <= _bits_left(file.stream(), rows * cols) < 8
    except (IndexError, KeyError, ValueError, struct.error):  # no stream any more
        return False


def _bits_left(stream, n):
    """Bits behind the n-th symbol of a lossless JPEG of one component (T.81 C, F.2.2.3, H.1.2.2)."""
    at, codes = 2, {}
    while stream[at + 1] != 0xDA:
        length = struct.unpack(">H", stream[at + 2 : at + 4])[0]
        if stream[at + 1] == 0xC4:
            counts, value, code = stream[at + 5 : at + 21], at + 21, 0
            for bits, count in enumerate(counts, start=1):
                for _ in range(count):
                    codes[bits, code] = stream[value]
                    value, code = value + 1, code + 1
                code <<= 1
        at += 2 + length
    at += 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
    packed = stream[at : stream.rindex(b"\xff\xd9")]
    if any(packed[i + 1] for i in range(len(packed) - 1) if packed[i] == 0xFF):
        return -1  # a marker within
    bits = "".join(f"{byte:08b}" for byte in packed.replace(b"\xff\0", b"\xff"))
    at = 0
    for _ in range(n):
        length = next(k for k in range(1, 18) if k == 17 or (k, int(bits[at : at + k], 2)) in codes)
        category = codes[length, int(bits[at : at + length], 2)]
        at += length + (category if category < 16 else 0)
    return len(bits) - at


def lengthen_pixels(file, rng):
    stream = _stream(file)
    _set_stream(file, stream + rng.bytes(int(rng.choice([2, 4, 512, 100_000]))))
    return file.bytes(), "pixels with more behind them"


def _stream(file):
    at = file.find(PIXELS)
    return file.stream() if file.encoded else file.body[at.value : at.end]


def _set_stream(file, stream):
    if file.encoded:
        file.set_stream(stream)
    else:
        at = file.find(PIXELS)
        file.splice(at.start, at.end, file.new(PIXELS, stream, b"OW"))


LENGTHS = [
    0,
    1,
    2,
    3,
    7,
    255,
    65534,
    65535,
    1 << 20,
    0x7FFFFFFF,
    0x80000000,
    UNDEFINED - 1,
    UNDEFINED - 3,
    UNDEFINED,
]


def pixel_length(file, rng):
    at = file.find(PIXELS)
    length = _some_length(at.end - at.value, rng)
    file.set_length(at, length)
    return file.bytes(), f"length of PixelData {length & UNDEFINED:#x}", True


def _some_length(now, rng):
    near = [now + d for d in (-2, -1, 1, 2, -now // 2, now, 512, -512)]
    return int(rng.choice(np.array(LENGTHS + near * 2, np.int64)))


def item_length(file, rng):
    if not file.encoded:
        return pixel_length(file, rng)
    items = file.fragments()
    item = items[int(rng.integers(len(items)))]
    length = _some_length(item.end - item.value, rng)
    file.set_length(item, length)
    return file.bytes(), f"length of an item {length & UNDEFINED:#x}", True


def items_moved(file, rng):
    """The stream in pieces, in other order, with a false table of offsets, twice, or without its end."""
    if not file.encoded:
        return remove_pixels(file, rng)
    stream, at = file.stream(), file.find(PIXELS)
    half = len(stream) // 4 * 2
    how = int(rng.integers(7))
    pieces = [
        [stream[:half], stream[half:]],
        [stream[half:], stream[:half]],
        [stream, stream],
        [stream[:half]],
        [stream],
        [],
        [b"", stream],
    ][how]
    table = [b"", struct.pack("<I", int(rng.choice([0, 4, 1 << 20, UNDEFINED]))), bytes(8)][
        int(rng.integers(3))
    ]
    items = b"".join(struct.pack("<HHI", *ITEM, len(p)) + p for p in [table, *pieces])
    end = struct.pack("<HHI", *SEQUENCE_END, 0) if how != 4 else b""
    file.splice(at.value, at.end, items + end)
    return file.bytes(), f"items of the stream, form {how}, table of {len(table)} bytes", how in (1, 3, 5)


def stream_header(file, rng):
    """One byte among the first 200 of the stream, or a size in it, gets another value."""
    stream = bytearray(_stream(file))
    at = int(rng.integers(0, 200))
    if file.encoded and rng.random() < 0.4:  # sizes: SIZ of JPEG 2000, frame headers, offsets of RLE
        at = int(rng.choice([8, 12, 16, 20, 24, 28, 32, 36, 40, 42, 43, 44, max(_frame(stream), 0) + 4]))
    stream[at : at + 1] = bytes([int(rng.choice([0, 1, 2, 127, 128, 254, 255, stream[at] ^ 1]))])
    _set_stream(file, bytes(stream))
    return file.bytes(), f"byte {at} of the stream"


def _frame(stream):
    return max(stream.find(b"\xff\xc3"), stream.find(b"\xff\xf7"))


def remove_tag(file, rng):
    known = [e for e in file.elements() if e.tag in ABSURD or e.tag == PIXELS]
    every = known if rng.random() < 0.6 else file.elements()
    gone = every[int(rng.integers(len(every)))]
    file.splice(gone.start, gone.end, b"")
    return file.bytes(), f"without {gone.tag[0]:04x},{gone.tag[1]:04x}", gone.tag == PIXELS


def absurd_value(file, rng):
    tags = list(ABSURD)
    tag = tags[int(rng.integers(len(tags)))]
    vr, values = ABSURD[tag]
    value = values[int(rng.integers(len(values)))]
    raw = value
    if vr == US:
        at = file.find(tag)
        now = struct.unpack(f"{file.order}H", file.body[at.value : at.end])[0] if at else 0
        raw = struct.pack(f"{file.order}H", now + int(value) if isinstance(value, str) else value)
    file.put(tag, raw, vr)
    return file.bytes(), f"{tag[0]:04x},{tag[1]:04x} is {value[:40] if isinstance(value, bytes) else value!r}"


def tag_length(file, rng):
    every = file.elements()
    known = [e for e in every if e.tag in ABSURD]
    element = (known if rng.random() < 0.5 else every)[int(rng.integers(len(known)))]
    length = _some_length(element.end - element.value, rng)
    file.set_length(element, length)
    return file.bytes(), f"length of {element.tag[0]:04x},{element.tag[1]:04x} {length & UNDEFINED:#x}"


def wrong_vr(file, rng):
    every = [e for e in file.elements() if e.tag in ABSURD or e.tag == PIXELS]
    element = every[int(rng.integers(len(every)))]
    names = [b"UN", b"SQ", b"US", b"OB", b"XX", b"\0\0", b"FD", b"UT", b"AT", b"PN", b"OW"]
    vr = names[int(rng.integers(len(names)))]
    if file.syntax == IMPLICIT or rng.random() < 0.5:  # in its place, so that the length may be misread
        file.splice(element.start + 4, element.start + 6, vr)
    else:
        file.splice(
            element.start, element.end, file.new(element.tag, file.body[element.value : element.end], vr)
        )
    return file.bytes(), f"VR of {element.tag[0]:04x},{element.tag[1]:04x} {vr!r}"


def nested_sequences(file, rng):
    """Sequences within sequences, with and without lengths, closed or not."""
    depth, closed = int(rng.choice([1, 10, 300, 3000, 20_000])), bool(rng.random() < 0.5)
    tag = (0x0008, 0x1140)
    item = struct.pack(f"{file.order}HHI", *ITEM, UNDEFINED)
    opened = (file.new(tag, b"", b"SQ", UNDEFINED) + item) * depth
    ends = b"".join(struct.pack(f"{file.order}HHI", *end, 0) for end in (ITEM_END, SEQUENCE_END)) * depth
    at = next(e.start for e in file.elements() if e.tag > tag)
    file.splice(at, at, opened + (ends if closed else b""))
    return file.bytes(), f"{depth} nested sequences{'' if closed else ', not closed'}"


def other_syntax(file, rng):
    others = [*SYNTAXES, *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91, 100, 201)), "1.2.3", ""]
    syntax = others[int(rng.integers(len(others)))]
    name = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(name)) + name
    at = file.head.index(struct.pack("<HH2s", 2, 0x10, b"UI"))
    end = at + 8 + struct.unpack("<H", file.head[at + 6 : at + 8])[0]
    head = bytearray(file.head[:at] + element + file.head[end:])
    head[140:144] = struct.pack("<I", len(head) - 144)
    data = bytes(head) + file.bytes()[len(file.head) :]
    return data, f"transfer syntax {syntax or 'empty'}"


def repeated_tag(file, rng):
    """A tag twice, with two values; in its place or at the end."""
    tags = [t for t in ABSURD if file.find(t)]
    tag = tags[int(rng.integers(len(tags)))]
    element, (vr, values) = file.find(tag), ABSURD[tag]
    value = values[int(rng.integers(len(values)))]
    raw = struct.pack(f"{file.order}H", value) if isinstance(value, int) else value
    raw = raw if isinstance(raw, bytes) else b"\1\1"
    again = file.new(tag, raw + b" " * (len(raw) % 2), vr)
    place = [element.start, element.end, file.find(PIXELS).start][int(rng.integers(3))]
    file.splice(place, place, again)
    return file.bytes(), f"{tag[0]:04x},{tag[1]:04x} twice"


def damaged_start(file, rng):
    """The preamble and the file meta information."""
    data = bytearray(file.bytes())
    how = int(rng.integers(4))
    if how == 0:
        return bytes(data[int(rng.integers(1, 140)) :]), "without its beginning"
    if how == 1:
        data[140:144] = struct.pack("<I", int(rng.choice([0, 1, 4, 1000, 1 << 31, UNDEFINED])))
        return bytes(data), "another length of the meta information"
    if how == 2:
        return bytes(data[:132]) + bytes(data[len(file.head) :]), "without meta information"
    return _flipped(data, 128, len(file.head), rng)


KINDS: dict[str, Callable] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(flip_anywhere, flip_header, flip_near_pixels, cut_file, cut_tail, remove_pixels, insert_pixels),
        *(blank_pixels, shorten_pixels, shorten_stream, lengthen_pixels, pixel_length, item_length),
        *(items_moved, stream_header, remove_tag, absurd_value, tag_length, wrong_vr, nested_sequences),
        *(other_syntax, repeated_tag, damaged_start),
    )
}


def mutant(source: Source, kind: str, seed: int) -> Mutant:
    """The second or the last slice of a source, damaged."""
    rng = np.random.default_rng([seed, *kind.encode()])
    place = int(rng.choice([1, N_SLICES - 1]))
    data, what, *cut = KINDS[kind](File.of(source.slices[place], source.syntax), rng)
    return Mutant(seed, place, kind, what, data, bool(cut and cut[0]))


def mutants(sources, n: int, seed: int = 0, kinds=tuple(KINDS)) -> Iterator[tuple[Source, Mutant]]:
    """So many damaged files, of every source and kind in turn."""
    pairs = itertools.cycle(itertools.product(kinds, sources))
    for number, (kind, source) in enumerate(itertools.islice(pairs, n), start=seed):
        yield source, mutant(source, kind, number)
