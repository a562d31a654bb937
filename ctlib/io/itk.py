"""One MetaImage (.mhd, .mha) or NRRD (.nrrd, .nhdr) file of CT: its header checked, its voxels in HU.

SimpleITK reads both formats, and reads much that is wrong without a word: a missing matrix is identity, a
stream that was cut is filled up. So the header's text is read here as well, strictly: everything that a
volume needs must be said once, the voxels must be as many bytes as that, and SimpleITK must find the same
geometry and type. Compressed voxels must have the checksum that stands at the end of their stream.

A file is used if it holds one volume of three axes that run along those of the patient, in itself or in one
other file of its folder. Both formats may name any file at all as that one; only a bare name with one of
`DATA_ENDINGS` is taken. ITK counts to Left, Posterior, Superior.
"""

from __future__ import annotations

import math
import os
import re
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ctlib.io.deidentify import AGAIN, SeriesError, quoted
from ctlib.io.formats import GZIP, format_of, recognised
from ctlib.io.upright_volume import DEFLATE_RATIO, FARTHEST_MM, place_of, upright_hu

MAX_HEADER_BYTES = 1 << 16
"""A longer text is no header: what SimpleITK writes of a volume from DICOM, with all its tags, has 8,000."""
MAX_LINE_BYTES = 4096
"""A longer line is no header's."""
MAX_META_BYTES, MAX_NRRD_BYTES = 240, 400
"""Longest line of a field. ITK 5.4 ends the process on longer ones: it copies fields into buffers of fixed size
(seen from 300 bytes on in MetaImage's Name, from 500 on in a field that NRRD does not know). Comments, tags of
DICOM (their names have a |) and NRRD's key:=value may be longer."""
DATA_ENDINGS = (".raw", ".zraw", ".raw.gz", ".gz", ".bin", ".dat", ".img")
"""Of files that hold the voxels of a header beside them; a header that names any other file takes nothing
away from those that are read by themselves."""
ITK_TOLERANCE = 1e-6
"""Largest difference of a number as read here and by SimpleITK, relative and in mm: both are float64."""
UNIT_TOLERANCE = 1e-4
"""Largest difference of the length of an axis' direction from 1: some write six digits."""
PIXELS = {
    **{"i1": "Int8", "u1": "UInt8", "i2": "Int16", "u2": "UInt16", "i4": "Int32", "u4": "UInt32"},
    **{"i8": "Int64", "u8": "UInt64", "f4": "Float32", "f8": "Float64"},
}
"""SimpleITK's names of the types that are read."""
CODES = {
    *("MET_LONG", "MET_ULONG", "MET_MOD_MR", "MET_MOD_US", "MET_MOD_NM", "Scene", "Tube", "cm", "um", "m"),
    *("ascii", "text", "txt", "hex", "bzip2", "bz2", "block", "true", "false", "True", "False"),
    *("scanner-xyz", "3D-right-handed", "3D-left-handed", "left-anterior-superior-time"),
    *("right-anterior-superior-time", "left-posterior-superior-time"),
}
"""Words of the formats that a fault may repeat; other text could be a name."""
STORE_AGAIN = "store the volume again (SimpleITK.WriteImage)"


@dataclass(frozen=True, slots=True)
class ItkHeader:
    """What a header says, in the axes of the volume: Superior, Posterior, Left.

    Args:
        path: the file.
        fault: why it cannot be used, or ""; with a fault all below `files` is empty.
        files: the file, and the one with its voxels where that is another, and there.
        shape: (D, H, W).
        spacing_mm: (z, y, x), mm.
        origin_mm: patient coordinates (z, y, x) = (S, P, L) of voxel [0, 0, 0], mm.
        axes: which axis of the file goes along S, P, L.
        reversed: whether that axis runs the other way.
        dtype: numpy name of the stored values, with byte order.
        packed: whether they are compressed.
        offset: where they begin in the last of the files, bytes.
    """

    path: Path
    fault: str = ""
    files: tuple[Path, ...] = ()
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axes: tuple[int, int, int] = (2, 1, 0)
    reversed: tuple[bool, bool, bool] = (False, False, False)
    dtype: str = "<i2"
    packed: bool = False
    offset: int = 0


@dataclass(frozen=True)
class _Claims:
    """What a header's text says of its voxels, in the file's own axes."""

    dims: tuple[int, int, int]
    dtype: str
    spacing: NDArray[np.float64]  # mm
    directions: NDArray[np.float64]  # a row an axis, unit vectors to (L, P, S)
    origin: NDArray[np.float64]  # (L, P, S) of the first voxel, mm
    data: Path
    offset: int  # where the voxels begin in `data`, bytes
    packed: bool


# ---- text ------------------------------------------------------------------------------


class _Text:
    """The fields of a header, asked for one by one; what is missing or wrong raises a reason."""

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields

    def get(self, *names: str) -> str:
        """The value of a field that may have several names, "" where it has none."""
        found = {self.fields[name] for name in names if name in self.fields}
        if len(found) > 1:
            raise SeriesError(f"its {' and '.join(names)} differ; keep the right one")
        return found.pop() if found else ""

    def one_of(self, wanted: tuple[str, ...], *names: str) -> str:
        """A word, compared in lower case."""
        value = self.get(*names)
        if value.lower() not in wanted:
            known = " or ".join(repr(word) if word else "none" for word in wanted)
            raise SeriesError(f"its {names[0]} is {_told(value)}, only {known} is read; {STORE_AGAIN}")
        return value.lower()

    def numbers(self, n: int, *names: str, hint: str = STORE_AGAIN) -> NDArray[np.float64]:
        """Some finite numbers, between blanks."""
        value = self.get(*names)
        if not value:
            raise SeriesError(f"its {names[0]} is missing; {hint}")
        return _floats(names[0], value.split(), n)


def _told(value: str) -> str:
    """A value as a fault may repeat it."""
    if not value:
        return "missing"
    return repr(value) if value in CODES else quoted("\\".join(value.split()))


def _floats(name: str, words: list[str], n: int) -> NDArray[np.float64]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != n or not all(abs(value) < FARTHEST_MM for value in values):
        raise SeriesError(
            f"its {name} is {_told(' '.join(words))}, {n} finite numbers are needed; {STORE_AGAIN}"
        )
    return np.array(values, np.float64)


def _dims(name: str, words: list[str]) -> tuple[int, int, int]:
    if len(words) != 3 or not all(re.fullmatch(r"[1-9]\d{0,6}", word) for word in words):
        raise SeriesError(f"its {name} is {_told(' '.join(words))}, three counts are needed; {STORE_AGAIN}")
    x, y, z = map(int, words)
    return x, y, z


def _dtype(name: str, value: str, codes: dict[str, str], big_endian: Callable[[], bool]) -> str:
    """Numpy name of a type, with byte order; the order is asked for only where it matters."""
    code = codes.get(value)
    if code is None:
        raise SeriesError(
            f"its {name} is {_told(value)}; integers up to 64 bits, float and double are read; store int16"
        )
    return code if code[1:] == "1" else f"{'>' if big_endian() else '<'}{code}"


def _data_file(path: Path, name: str, field: str) -> Path:
    """The file with the voxels, by the name that a header gives."""
    name = name.removeprefix("./")
    if re.match(r"LIST\b", name) or "%" in name:
        raise SeriesError(f"its {field} is a list of files; {STORE_AGAIN} as one file")
    if not name or re.search(r"[/\\:]|^\.", name):
        raise SeriesError(
            f"its {field} lies in another folder; put it beside the header and give its bare name"
        )
    if not name.lower().endswith(DATA_ENDINGS) or format_of(name):
        known = ", ".join(DATA_ENDINGS)
        raise SeriesError(
            f"its {field} has an unusual ending; one of {known} is read; rename it, here and there"
        )
    return path.with_name(name)


# ---- MetaImage -------------------------------------------------------------------------

META_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4"},
    **{
        "MET_UINT": "u4",
        "MET_LONG_LONG": "i8",
        "MET_ULONG_LONG": "u8",
        "MET_FLOAT": "f4",
        "MET_DOUBLE": "f8",
    },
}
"""ElementType of MetaImage, as numpy names; MET_LONG has another size on another system."""
TRUE, FALSE = ("true",), ("false",)


def _meta_fields(start: bytes) -> tuple[dict[str, str], int]:
    """Fields up to ElementDataFile, which is the last one, and where it ends, bytes."""
    fields: dict[str, str] = {}
    for number, line, end in _lines(start):
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals and not line.strip():
            continue
        if not equals or not name:
            raise SeriesError(f"line {number} of its header is no 'Name = value'; {STORE_AGAIN}")
        if name in fields:
            raise SeriesError(f"line {number} of its header repeats a field; keep the right one")
        if len(line) > MAX_META_BYTES and name != "Comment" and "|" not in name:
            raise SeriesError(f"line {number} of its header has over {MAX_META_BYTES} characters; shorten it")
        fields[name] = value.strip()
        if name == "ElementDataFile":
            return fields, end
    raise SeriesError(f"its header has no ElementDataFile, which ends it; {AGAIN}")


def _lines(start: bytes) -> Any:
    """Number, text and end (bytes) of each line."""
    at, number = 0, 0
    while at < len(start):
        end = start.find(b"\n", at)
        end = len(start) if end < 0 else end
        number += 1
        line = start[at:end]
        if len(line) > MAX_LINE_BYTES or b"\0" in line:
            raise SeriesError(f"line {number} of its header is no text; {AGAIN}")
        at = min(end + 1, len(start))
        yield number, os.fsdecode(line).rstrip("\r"), at  # it may hold the name of a file


def _meta_claims(path: Path, start: bytes) -> tuple[_Text, Path, int]:
    """The fields of a MetaImage header, and where its voxels begin."""
    fields, end = _meta_fields(start)
    name = fields["ElementDataFile"]
    if name.upper() == "LOCAL":
        return _Text(fields), path, end
    return _Text(fields), _data_file(path, name, "ElementDataFile"), 0


def _meta(text: _Text, data: Path, offset: int) -> _Claims:
    text.one_of(("image", ""), "ObjectType")
    text.one_of(("3",), "NDims")
    text.one_of(TRUE, "BinaryData")
    text.one_of(("1", ""), "ElementNumberOfChannels")
    text.one_of(("0", ""), "HeaderSize")
    text.one_of(("mm", "?", ""), "DistanceUnits")
    text.one_of(("met_mod_ct", "met_mod_unknown", "met_mod_other", ""), "Modality")
    for name, plain in (("ElementToIntensityFunctionSlope", 1), ("ElementToIntensityFunctionOffset", 0)):
        if text.get(name) and text.numbers(1, name)[0] != plain:
            raise SeriesError(f"its {name} is not {plain}, and readers pass it over; store HU")
    matrix = text.numbers(
        *(9, "TransformMatrix", "Rotation", "Orientation"),
        hint="write TransformMatrix = 1 0 0 0 1 0 0 0 1 into it if its axes run to Left, Posterior, Superior",
    )
    there = data.stat().st_size - offset
    text.one_of((str(there), ""), "CompressedDataSize")
    order = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    return _Claims(
        dims=_dims("DimSize", text.get("DimSize").split()),
        dtype=_dtype(
            "ElementType",
            text.get("ElementType"),
            META_TYPES,
            lambda: text.one_of(TRUE + FALSE, *order) in TRUE,
        ),
        spacing=text.numbers(3, "ElementSpacing"),
        directions=matrix.reshape(3, 3),
        origin=text.numbers(
            3, "Offset", "Position", "Origin", hint="write Offset = 0 0 0 into it if it is not known"
        ),
        data=data,
        offset=offset,
        packed=text.one_of(TRUE + FALSE + ("",), "CompressedData") in TRUE,
    )


# ---- NRRD ------------------------------------------------------------------------------

NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long"), "i8"),
    **dict.fromkeys(("signed long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(
        ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"
    ),
    **{"float": "f4", "double": "f8"},
}
"""Type of NRRD (its format definition, section 4), as numpy names."""
SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
"""Space of NRRD, and what its coordinates are multiplied by to go to Left, Posterior, Superior."""
NRRD_NAMES = {
    **{"spacedirections": "space directions", "spaceorigin": "space origin", "datafile": "data file"},
    **{"lineskip": "line skip", "byteskip": "byte skip", "spaceunits": "space units"},
    **{"oldmin": "old min", "oldmax": "old max", "spacedimension": "space dimension"},
}
"""Fields that may be written with or without the blank."""


def _nrrd_claims(path: Path, start: bytes) -> tuple[_Text, Path, int]:
    """The fields of an NRRD header, and where its voxels begin."""
    fields: dict[str, str] = {}
    ended = 0
    for number, line, end in _lines(start):
        if number == 1 or line.startswith("#"):
            continue
        if not line:
            ended = end
            break
        found = re.fullmatch(r"([^:]+):(=| )(.*)", line)
        if not found:
            raise SeriesError(f"line {number} of its header is no 'name: value'; {STORE_AGAIN}")
        if found[2] == "=":
            continue  # somebody's own key
        if len(line) > MAX_NRRD_BYTES and found[1] != "content":
            raise SeriesError(f"line {number} of its header has over {MAX_NRRD_BYTES} characters; shorten it")
        name = NRRD_NAMES.get(found[1].lower().replace(" ", ""), found[1].lower())
        if name in fields:
            raise SeriesError(f"line {number} of its header repeats a field; keep the right one")
        fields[name] = found[3].strip()
    if "data file" in fields:
        return _Text(fields), _data_file(path, fields["data file"], "data file"), 0
    if not ended:
        raise SeriesError(f"its header has neither an end nor a data file; {AGAIN}")
    return _Text(fields), path, ended


def _vectors(name: str, text: str, n: int) -> NDArray[np.float64]:
    """Vectors of three numbers in brackets."""
    found = re.fullmatch(r"\s*".join([r"\(([^()]*)\)"] * n), text)
    if not found:
        raise SeriesError(f"its {name} is {'not ' if text else 'missing, '}{n} vectors; {STORE_AGAIN}")
    return np.array([_floats(name, group.replace(",", " ").split(), 3) for group in found.groups()])


def _nrrd(text: _Text, data: Path, offset: int) -> _Claims:
    text.one_of(("3",), "dimension")
    text.one_of(("3", ""), "space dimension")
    for name in ("line skip", "byte skip"):
        text.one_of(("0", ""), name)
    for name in ("old min", "old max"):
        if text.get(name):
            raise SeriesError(f"its {name} says that its values are quantized; store HU")
    if any(unit not in ("mm", "") for unit in re.findall(r'"([^"]*)"', text.get("space units"))):
        raise SeriesError("its space units are not all mm, only mm are read; store mm")
    space = text.get("space").lower()
    if space not in SPACES:
        raise SeriesError(
            f"its space is {_told(space)}, so nobody knows where left is; write space: left-posterior-superior into it "
            "if its axes are meant so"
        )
    sign = np.array(SPACES[space], np.float64)
    steps = _vectors("space directions", text.get("space directions"), 3) * sign
    spacing = np.linalg.norm(steps, axis=1)
    packed = text.one_of(("raw", "gzip", "gz"), "encoding") != "raw"
    kind = " ".join(text.get("type").lower().split())
    return _Claims(
        dims=_dims("sizes", text.get("sizes").split()),
        dtype=_dtype("type", kind, NRRD_TYPES, lambda: text.one_of(("little", "big"), "endian") == "big"),
        spacing=spacing,
        directions=steps / np.where(spacing > 0, spacing, 1)[:, None],
        origin=_vectors("space origin", text.get("space origin"), 1)[0] * sign,
        data=data,
        offset=offset,
        packed=packed,
    )


# ---- both ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """One of the two formats."""

    name: str
    begins: re.Pattern[bytes]
    fields: Callable[[Path, bytes], tuple[_Text, Path, int]]
    claims: Callable[[_Text, Path, int], _Claims]
    reader: str


META = _Kind("MetaImage", re.compile(rb"\s*[A-Za-z]\w* *="), _meta_claims, _meta, "MetaImageIO")
NRRD = _Kind("NRRD", re.compile(rb"NRRD000[1-5]\r?\n"), _nrrd_claims, _nrrd, "NrrdImageIO")


def _kind(path: Path) -> _Kind:
    return NRRD if path.suffix.lower() in (".nrrd", ".nhdr") else META


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_HEADER_BYTES)


def _check_size(claims: _Claims) -> None:
    """Refuses voxels that are not as many as the header says, before anything is allocated."""
    wanted = math.prod(claims.dims) * np.dtype(claims.dtype).itemsize
    there = claims.data.stat().st_size - claims.offset
    shape = " x ".join(map(str, claims.dims))
    if claims.packed and wanted > DEFLATE_RATIO * there:
        raise SeriesError(
            f"its header says {shape} voxels, {wanted} bytes, more than its {max(there, 0)} compressed bytes can "
            f"hold; {AGAIN}"
        )
    if not claims.packed and wanted != there:
        raise SeriesError(
            f"its header says {shape} voxels, {wanted} bytes, and there are {max(there, 0)}; {AGAIN}"
        )


def _affine_of(claims: _Claims) -> NDArray[np.float64]:
    """Voxel index to patient coordinates (R, A, S), `[3, 4]`, mm."""
    if not (claims.spacing > 0).all():
        raise SeriesError(
            f"its spacing is {claims.spacing.tolist()}, three distances above 0 are needed; store them"
        )
    lengths = np.linalg.norm(claims.directions, axis=1)
    if (np.abs(lengths - 1) > UNIT_TOLERANCE).any():
        raise SeriesError(f"its directions have lengths {lengths.round(4).tolist()}, not 1; {STORE_AGAIN}")
    lps = np.column_stack([(claims.directions * claims.spacing[:, None]).T, claims.origin])
    return lps * np.array([[-1], [-1], [1]])


def _reader(path: Path, kind: _Kind) -> Any:
    """SimpleITK's reader of a file, whose header it has read."""
    import SimpleITK

    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # SimpleITK would end the process
        raise SeriesError("the name of it or of its folder is not UTF-8; rename it") from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # warnings name files
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(kind.reader)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except Exception as error:  # its own text names the file
        raise SeriesError(f"SimpleITK cannot read its header; {STORE_AGAIN}") from error
    return reader


def _compare(reader: Any, claims: _Claims) -> None:
    """Refuses a header that SimpleITK reads otherwise than it is read here."""
    import SimpleITK

    pixels = {code: getattr(SimpleITK, f"sitk{name}") for code, name in PIXELS.items()}
    numbers = (claims.spacing, claims.origin, claims.directions.T.ravel())
    read = (reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    alike = {
        "shape": tuple(reader.GetSize()) == claims.dims and reader.GetNumberOfComponents() == 1,
        "type": reader.GetPixelID() == pixels[np.dtype(claims.dtype).str[1:]],
        "geometry": all(
            len(a) == len(b) and np.allclose(a, b, ITK_TOLERANCE, ITK_TOLERANCE)
            for a, b in zip(numbers, read, strict=True)
        ),
    }
    if wrong := [name for name, same in alike.items() if not same]:
        raise SeriesError(f"SimpleITK reads another {wrong[0]} than its header says; {STORE_AGAIN}")


def read_header(path: str | Path) -> ItkHeader:
    """Read the header of a file, without its voxels.

    Args:
        path: any file; it is NRRD if its name ends in `.nrrd` or `.nhdr`, else MetaImage.

    Returns:
        What it says, with a fault where it cannot be used; a fault names no path and quotes no
        text of the file.
    """
    path = Path(path)
    files: tuple[Path, ...] = (path,)
    try:
        kind = _kind(path)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return ItkHeader(path, "it is no regular file", files)  # reading a pipe would wait for ever
        if not status.st_size:
            return ItkHeader(path, "the file is empty", files)
        start = _beginning(path)
        if not kind.begins.match(start):
            what = recognised(path, start) or f"it does not begin with a header; {AGAIN}"
            raise SeriesError(f"not a file of {kind.name}: {what}")
        text, data, offset = kind.fields(path, start)
        if data != path:
            if not data.is_file():
                raise SeriesError(
                    "its data file is missing; put it beside the header, under the name that this gives"
                )
            files = (path, data)
        claims = kind.claims(text, data, offset)
        _check_size(claims)
        place = place_of(_affine_of(claims), claims.dims)
        _compare(_reader(path, kind), claims)
    except SeriesError as error:
        return ItkHeader(path, error.reason, files)
    except OSError as error:
        return ItkHeader(path, f"it cannot be read ({error.strerror})", files)
    return ItkHeader(path, files=files, dtype=claims.dtype, packed=claims.packed, offset=offset, **place)


def decode(path: str | Path) -> tuple[NDArray[np.int16], ItkHeader]:
    """Voxels of a file in HU.

    Args:
        path: see `read_header`.

    Returns:
        int16 `[D, H, W]`, axes to Superior, Posterior, Left; non-integers rounded, clipped to
        [-1024, 3071]; and the header.

    Raises:
        SeriesError: it cannot be read right, or its values are no HU; the reason alone, without
            the name of the file.
    """
    header = read_header(path)
    if header.fault:
        raise SeriesError(header.fault)
    import SimpleITK

    try:
        image = _reader(header.path, _kind(header.path)).Execute()
    except SeriesError:
        raise
    except Exception as error:  # its own text names the file
        raise SeriesError(f"SimpleITK cannot read its voxels; {AGAIN}") from error
    stored = SimpleITK.GetArrayViewFromImage(image)  # no copy: the image must live as long
    if header.packed and not _has_checksum(header, stored):
        raise SeriesError(f"its compressed voxels have another checksum than their stream; {AGAIN}")
    return upright_hu(stored, header.axes, header.reversed), header


def _has_checksum(header: ItkHeader, stored: NDArray[Any]) -> bool:
    """Whether voxels have the checksum that ends their compressed stream, which must end the file.

    That is Adler-32 of zlib (RFC 1950), or CRC-32 and the length of gzip (RFC 1952).
    """
    voxels = stored if np.dtype(header.dtype).isnative else stored.byteswap()
    data = memoryview(cast(Any, np.ascontiguousarray(voxels))).cast("B")
    with header.files[-1].open("rb") as file:
        file.seek(header.offset)
        is_gzip = file.read(len(GZIP)) == GZIP
        file.seek(-8, os.SEEK_END)
        trailer = file.read()
    if is_gzip:
        wanted = (zlib.crc32(data), len(data) % (1 << 32))
        return trailer == b"".join(number.to_bytes(4, "little") for number in wanted)
    return trailer[4:] == zlib.adler32(data).to_bytes(4, "big")
