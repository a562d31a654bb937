"""Damaged MetaImage and NRRD files.

A source is a volume in one file or in a header and its voxels; a mutant is one of its files, damaged by one of
`KINDS`. Shares no code with the package.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import itk_writer
import numpy as np
from dicom_fuzz import Mutant

SHAPE = (4, 40, 48)
FORMATS = {"metaimage": ("mhd", "mha"), "nrrd": ("nrrd", "nhdr")}
ODD = [
    *(b"", b"0", b"1", b"-1", b"nan", b"inf", b"1e308", b"1e-320", b"2147483648", b"99999999999999999999999"),
    *(
        b"0x10",
        b"1_0",
        b"True",
        b"False",
        b"None",
        b"LOCAL",
        b"LIST",
        b"a",
        b"%s%n%d",
        b"\xff\xfe",
        b"\xc3\xa9",
    ),
    *(
        b"A" * 300,
        b"A" * 5000,
        b"1 " * 3000,
        b"../../etc/passwd",
        b"/dev/zero",
        b"3 3 3",
        b"48 40 5",
        b"48 40 3",
    ),
    *(
        b"4 40 48",
        b"40 48 4",
        b"7680 1 1",
        b"-1 0 0 0 -1 0 0 0 1",
        b"0 1 0 1 0 0 0 0 1",
        b"0 0 0 0 0 0 0 0 0",
    ),
    *(
        b"(1,0,0) (0,1,0) (0,0,1)",
        b"(1,0,0) none (0,0,1)",
        b"((((",
        b'"mm"',
        b"short",
        b"MET_DOUBLE",
        b"double",
    ),
    *(
        b"MET_SHORT_ARRAY",
        b"MET_LONG",
        b"block",
        b"big",
        b"hex",
        b"bzip2",
        b"gzip",
        b"raw",
        b"scanner-xyz",
        b"Scene",
    ),
]
"""Values that a field has not, or that another field has."""


@dataclass
class Source:
    """The files of a volume; the first is the header, with or without the voxels behind it.

    Args:
        name: format and how the voxels are stored.
        names: of the files.
        slices: their contents.
        truth: the volume, HU.
        begin: where the voxels begin in the last file, bytes.
        packed: whether they are compressed.
    """

    name: str
    names: list[str]
    slices: list[bytes]
    truth: np.ndarray
    begin: int
    packed: bool

    @property
    def header(self):
        return self.slices[0][: self.begin] if len(self.slices) == 1 else self.slices[0]

    @property
    def voxels(self):
        return self.slices[-1][self.begin :]

    def with_header(self, header):
        return 0, header + (self.voxels if len(self.slices) == 1 else b"")

    def with_voxels(self, voxels):
        return len(self.slices) - 1, self.slices[-1][: self.begin] + voxels


def sources(which: str, folder: Path) -> Iterator[Source]:
    """A small volume in each form of a format, one of `FORMATS`."""
    z, y, x = np.indices(SHAPE)
    noise = np.random.default_rng(0).integers(-30, 30, SHAPE)
    hu = np.clip(900 * np.sin(0.21 * x + z) * np.cos(0.17 * y) - 300 + noise, -1024, 3071).astype(np.int16)
    write = itk_writer.meta if which == "metaimage" else itk_writer.nrrd
    for ending, packed in itertools.product(FORMATS[which], (False, True)):
        place = folder / f"{ending}-{packed}"
        place.mkdir(parents=True)
        header = write(place / f"a.{ending}", hu, packed=packed)
        files = [header, *(path for path in place.iterdir() if path != header)]
        contents = [path.read_bytes() for path in files]
        begin = 0
        if len(files) == 1:
            mark = b"ElementDataFile = LOCAL\n" if which == "metaimage" else b"\n\n"
            begin = contents[0].index(mark) + len(mark)
        name = f"{ending}/{'compressed' if packed else 'raw'}"
        yield Source(name, [path.name for path in files], contents, hu, begin, packed)


# ---- mutations: place, bytes, what, and whether voxels are missing or must have a checksum ------


def _flipped(data, rng, low=0):
    data = bytearray(data)
    n = int(rng.choice([1, 1, 2, 8, 64]))
    for at in rng.integers(low, len(data), n):
        data[at] = data[at] ^ (1 << int(rng.integers(8))) if rng.random() < 0.5 else int(rng.integers(256))
    return bytes(data), f"{n} bytes flipped"


def flip_header(source, rng):
    header, what = _flipped(source.header, rng)
    return *source.with_header(header), what


def flip_voxels(source, rng):
    voxels, what = _flipped(source.voxels, rng)
    return *source.with_voxels(voxels), what, source.packed


def flip_anywhere(source, rng):
    place = int(rng.integers(len(source.slices)))
    data, what = _flipped(source.slices[place], rng)
    return place, data, what


def cut_voxels(source, rng):
    keep = int(rng.integers(0, len(source.voxels)))
    return *source.with_voxels(source.voxels[:keep]), f"voxels cut to {keep} bytes", True


def cut_tail(source, rng):
    lost = int(rng.choice([1, 2, 3, 4, 7, 8, 16, 100]))
    return *source.with_voxels(source.voxels[:-lost]), f"last {lost} bytes cut", True


def cut_header(source, rng):
    keep = int(rng.integers(0, len(source.header)))
    return 0, source.header[:keep], f"cut in the header, at {keep}", len(source.slices) == 1


def remove_voxels(source, rng):
    voxels = source.voxels
    n = int(rng.choice([1, 2, 96, 1000]))
    at = int(rng.integers(0, len(voxels) - n))
    return *source.with_voxels(voxels[:at] + voxels[at + n :]), f"{n} bytes removed at {at}", True


def insert_voxels(source, rng):
    voxels = source.voxels
    n = int(rng.choice([1, 2, 96, 1000]))
    at = int(rng.choice([0, len(voxels), rng.integers(0, len(voxels))]))
    return *source.with_voxels(voxels[:at] + rng.bytes(n) + voxels[at:]), f"{n} bytes inserted at {at}", True


def blank_voxels(source, rng):
    voxels = bytearray(source.voxels)
    n = int(rng.choice([16, 512, 5000]))
    at = int(rng.integers(0, max(len(voxels) - n, 1)))
    voxels[at : at + n] = bytes(len(voxels[at : at + n]))
    return *source.with_voxels(bytes(voxels)), f"{n} bytes zeroed at {at}", source.packed


def _lines(source):
    return source.header.split(b"\n")


def _joined(source, lines, what):
    return *source.with_header(b"\n".join(lines)), what


def _one(source, rng):
    """Lines, and the number of one that holds a field."""
    lines = _lines(source)
    return lines, int(rng.choice([k for k, line in enumerate(lines) if re.search(rb"[=:]", line)]))


def remove_line(source, rng):
    lines, at = _one(source, rng)
    gone = lines.pop(at)
    return _joined(source, lines, f"without {gone!r}")


def repeat_line(source, rng):
    lines, at = _one(source, rng)
    lines.insert(int(rng.integers(len(lines))), lines[at])
    return _joined(source, lines, f"twice {lines[at]!r}")


def move_line(source, rng):
    lines, at = _one(source, rng)
    moved = lines.pop(at)
    lines.insert(int(rng.integers(len(lines))), moved)
    return _joined(source, lines, f"moved {moved!r}")


def odd_value(source, rng):
    lines, at = _one(source, rng)
    name = re.match(rb"[^=:]*[=:]+ ?", lines[at])[0]
    lines[at] = name + ODD[int(rng.integers(len(ODD)))]
    return _joined(source, lines, f"{lines[at][:80]!r}")


def odd_part(source, rng):
    """One of the numbers or words of a value."""
    lines, at = _one(source, rng)
    parts = re.split(rb"([ ,()])", lines[at])
    k = int(rng.choice([i for i in range(len(parts)) if parts[i].strip(b" ,()")]))
    parts[k] = ODD[int(rng.integers(len(ODD)))]
    lines[at] = b"".join(parts)
    return _joined(source, lines, f"{lines[at][:80]!r}")


def another_digit(source, rng):
    header = bytearray(source.header)
    at = int(rng.choice([k for k, c in enumerate(header) if 48 <= c < 58]))
    header[at] = 48 + (header[at] - 48 + int(rng.integers(1, 10))) % 10
    return *source.with_header(bytes(header)), f"another digit at {at}"


def strange_space(source, rng):
    """Blanks, ends of lines and bytes without a meaning in the text."""
    header = source.header
    new = [b" ", b"\t", b"\r", b"\n", b"\n\n", b"\0", b"#", b"=", b":", b":=", b"\\n", b"\x1a", b"\xa0"][
        int(rng.integers(13))
    ]
    at = int(rng.integers(0, len(header)))
    return *source.with_header(header[:at] + new + header[at:]), f"{new!r} at {at}"


def extra_field(source, rng):
    lines = _lines(source)
    sign = b" = " if source.name.startswith("m") else b": "
    name = [
        b"HeaderSize",
        b"Color",
        b"ElementSize",
        b"SequenceID",
        b"Name",
        b"ParentID",
        b"A" * 400,
        b"axis mins",
    ]
    name += [
        b"spacings",
        b"thicknesses",
        b"byte skip",
        b"measurement frame",
        b"centers",
        b"CompressedDataSize",
    ]
    name += [
        b"ElementNumberOfChannels",
        b"ElementNBits",
        b"Rotation",
        b"space dimension",
        b"number",
        b"a|b:c",
    ]
    field = name[int(rng.integers(len(name)))] + sign + ODD[int(rng.integers(len(ODD)))]
    lines.insert(int(rng.integers(1, len(lines) - 1)), field)
    return _joined(source, lines, f"more: {field[:80]!r}")


KINDS: dict[str, Callable] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(
            flip_header,
            flip_voxels,
            flip_anywhere,
            cut_voxels,
            cut_tail,
            cut_header,
            remove_voxels,
            insert_voxels,
        ),
        *(
            blank_voxels,
            remove_line,
            repeat_line,
            move_line,
            odd_value,
            odd_part,
            another_digit,
            strange_space,
        ),
        extra_field,
    )
}


def mutant(source: Source, kind: str, seed: int) -> Mutant:
    """One of the files of a source, damaged."""
    rng = np.random.default_rng([seed, *kind.encode()])
    place, data, what, *cut = KINDS[kind](source, rng)
    return Mutant(seed, place, kind, what, data, bool(cut and cut[0]))


def mutants(found, n: int, seed: int = 0, kinds=tuple(KINDS)) -> Iterator[tuple[Source, Mutant]]:
    """So many damaged files, of every source and kind in turn."""
    pairs = itertools.cycle(itertools.product(kinds, found))
    for number, (kind, source) in enumerate(itertools.islice(pairs, n), start=seed):
        yield source, mutant(source, kind, number)
