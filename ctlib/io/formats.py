"""File formats: those of a whole volume that are read, and those that are known and refused by name.

To add one, write a module with its `read_header` and `decode`, and give it an entry in `FORMATS`: the scan of
a folder (`ctlib.io.listing`), `read_series` and `open_series` (`ctlib.io.volume`), and the names in a user's
CSV of labels ask here. A file without one of these endings is read as DICOM, in which a volume is many files.
Formats are told by names alone: to look into each of a million DICOM files first would open all of them twice.
A file that turns out to be no DICOM file is known by the bytes that were read of it then, see `recognised`.
Readers are imported when a file asks for them, so that reading DICOM does not load theirs.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE_BYTES = 65_536
"""Bytes at each of three places of a file by which it is known: two noisy volumes differ in the middle one."""


class VolumeHeader(Protocol):
    """What a header says of its volume, in our axes: Superior, Posterior, Left."""

    @property
    def fault(self) -> str:
        """Why it cannot be used, fit for a report (`ctlib.io.deidentify`), or ""; then all else is empty."""

    @property
    def files(self) -> Sequence[Path]:
        """The file itself, and those of the same folder that hold its voxels."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of voxels along (z, y, x), mm."""

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """Patient coordinates (z, y, x) = (S, P, L) of voxel [0, 0, 0], mm."""


@dataclass(frozen=True)
class Format:
    """A format of files that hold a whole volume each.

    Args:
        name: what people read.
        endings: of the names of its files, in lower case; names may have any.
        read_header: the header of a file, without its voxels; what is wrong is its fault.
        decode: voxels, int16 `[D, H, W]` in HU within [-1024, 3071], axes to Superior, Posterior, Left, and
            the header. Raises `SeriesError` with the reason alone, without the name of the file.
        starts: place and bytes by which a file of it is known that has another ending.
    """

    name: str
    endings: tuple[str, ...]
    read_header: Callable[[Path], VolumeHeader]
    decode: Callable[[Path], tuple[NDArray[np.int16], VolumeHeader]]
    starts: tuple[tuple[int, bytes], ...] = ()


def _of(module: str) -> tuple[Callable[[Path], Any], Callable[[Path], Any]]:
    """`read_header` and `decode` of a module of this room, which is imported at their first call."""

    def header(path: Path) -> Any:
        return importlib.import_module(f"ctlib.io.{module}").read_header(path)

    def voxels(path: Path) -> Any:
        return importlib.import_module(f"ctlib.io.{module}").decode(path)

    return header, voxels


FORMATS = [
    Format("NIfTI", (".nii", ".nii.gz"), *_of("nifti"), ((344, b"n+1\0"), (4, b"n+2\0\r\n"))),
    Format("MetaImage", (".mhd", ".mha"), *_of("itk"), ((0, b"ObjectType = Image"),)),
    Format("NRRD", (".nrrd", ".nhdr"), *_of("itk"), ((0, b"NRRD000"),)),
]
"""What is read."""

UNPACK = "unpack it"
WITH_GEOMETRY = "which has neither spacing nor orientation; store the volume with both, as NIfTI or MetaImage"
LOST_HU = "whose HU are lost; export the series as DICOM"
CONVERT = "convert it to NIfTI, MetaImage or NRRD"
NO_VOLUME = "which holds no volume and may stay"
ZIP, GZIP, OLE, HDF5 = b"PK\3\4", b"\x1f\x8b\x08", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Unread:
    """A format that is known and not read.

    Args:
        what: what a file of it is, and what to do: the end of a sentence that begins with "it is".
        endings: of the names of its files, in lower case.
        starts: place and bytes of which each file of it has at least one; () where it has none.
    """

    what: str
    endings: tuple[str, ...] = ()
    starts: tuple[tuple[int, bytes], ...] = ()


UNREAD = [
    Unread(f"a zip archive; {UNPACK}", (".zip",), ((0, ZIP), (0, b"PK\5\6"))),
    Unread(f"a tar archive; {UNPACK}", (".tar",), ((257, b"ustar"),)),
    Unread(f"a RAR archive; {UNPACK}", (".rar",), ((0, b"Rar!\x1a\7"),)),
    Unread(f"a 7z archive; {UNPACK}", (".7z",), ((0, b"7z\xbc\xaf\x27\x1c"),)),
    Unread(f"a file compressed by gzip; {UNPACK}", (), ((0, GZIP),)),
    Unread(f"a file compressed by bzip2; {UNPACK}", (), ((0, b"BZh"),)),
    Unread(f"a file compressed by xz; {UNPACK}", (), ((0, b"\xfd7zXZ\0"),)),
    Unread(f"a file compressed by zstd; {UNPACK}", (), ((0, b"\x28\xb5\x2f\xfd"),)),
    Unread(f"a compressed tar archive; {UNPACK}", (".tar.gz", ".tgz"), ((0, GZIP),)),
    Unread(f"a compressed tar archive; {UNPACK}", (".tar.xz", ".tar.bz2", ".tar.zst")),
    Unread(f"a NumPy array, {WITH_GEOMETRY}", (".npy", ".npz"), ((0, b"\x93NUMPY"), (0, ZIP))),
    Unread(f"an HDF5 file, {WITH_GEOMETRY}", (".h5", ".hdf5", ".hdf"), ((0, HDF5),)),
    Unread(f"a MATLAB file, {WITH_GEOMETRY}", (".mat",), ((0, b"MATLAB "), (0, HDF5))),
    Unread(f"a MINC file; {CONVERT}", (".mnc",), ((0, b"CDF\1"), (0, HDF5))),
    Unread(f"a GIPL file; {CONVERT}", (".gipl",), ((252, b"\x2a\xe3\x89\xb8"), (252, b"\xef\xff\xe9\xb0"))),
    Unread(f"a VTK file; {CONVERT}", (".vtk", ".vti"), ((0, b"# vtk DataFile"), (0, b"<VTKFile"))),
    Unread(f"a FreeSurfer file; {CONVERT}", (".mgh", ".mgz"), ((0, GZIP),)),
    Unread(
        "half of a NIfTI pair of .hdr and .img; store both as one .nii file",
        (".hdr",),
        ((344, b"ni1\0"), (4, b"ni2\0\r\n")),
    ),
    Unread(
        "half of an Analyze 7.5 pair of .hdr and .img, which has no orientation; convert the original "
        "DICOM files to NIfTI",
        (".hdr",),
        ((0, b"\x5c\1\0\0"), (0, b"\0\0\1\x5c")),
    ),
    Unread(
        "the voxels of a pair of .hdr and .img, Analyze 7.5 or NIfTI; store both as one .nii file", (".img",)
    ),
    Unread("voxels without a header; put the .mhd or .nhdr that names it into its folder", (".raw", ".zraw")),
    Unread(f"a picture (PNG), {LOST_HU}", (".png",), ((0, b"\x89PNG\r\n"),)),
    Unread(f"a picture (JPEG), {LOST_HU}", (".jpg", ".jpeg"), ((0, b"\xff\xd8\xff"),)),
    Unread(f"a picture (TIFF), {LOST_HU}", (".tif", ".tiff"), ((0, b"II*\0"), (0, b"MM\0*"))),
    Unread(f"a picture (GIF), {LOST_HU}", (".gif",), ((0, b"GIF8"),)),
    Unread(f"a picture (BMP), {LOST_HU}", (".bmp",)),
    Unread(
        f"a picture (JPEG 2000), {LOST_HU}", (".jp2", ".j2k"), ((4, b"jP  \r\n"), (0, b"\xff\x4f\xff\x51"))
    ),
    Unread(f"a PDF document, {NO_VOLUME}", (".pdf",), ((0, b"%PDF"),)),
    Unread(f"an XML file, {NO_VOLUME}", (".xml",), ((0, b"<?xml"), (0, b"\xef\xbb\xbf<?xml"))),
    Unread(
        f"a web page, {NO_VOLUME}", (".html", ".htm"), ((0, b"<!DOCTYPE"), (0, b"<!doctype"), (0, b"<html"))
    ),
    Unread(f"an Office document, {NO_VOLUME}", (".xlsx", ".docx", ".pptx"), ((0, ZIP),)),
    Unread(f"an Office document, {NO_VOLUME}", (".xls", ".doc", ".ppt"), ((0, OLE),)),
    Unread(f"a folder's thumbnails (Thumbs.db), {NO_VOLUME}", ("thumbs.db",), ((0, OLE),)),
    Unread(
        f"the Finder's note on a folder (.DS_Store), {NO_VOLUME}", (".ds_store",), ((0, b"\0\0\0\1Bud1"),)
    ),
    Unread(f"a Mac's note on another file (AppleDouble), {NO_VOLUME}", (), ((0, b"\0\5\x16\7\0"),)),
    Unread(f"a Windows program, {NO_VOLUME}", (".exe", ".dll"), ((0, b"MZ\x90\0"),)),
    Unread(f"a Parquet table, {NO_VOLUME}", (".parquet",), ((0, b"PAR1"),)),
]
"""What is known and not read. The bytes are those of the `file` command; where two formats share theirs (a
spreadsheet is a zip archive), the ending decides, and without it the first of the list."""


def recognised(path: str | Path, start: bytes) -> str:
    """What a file is that its reader does not take, and what to do; "" where nobody knows.

    Args:
        path: the file, which is not opened.
        start: its first bytes; 512 are enough.

    Returns:
        The end of a sentence, fit for a report (`ctlib.io.deidentify`).

    >>> recognised("study.zip", b"PK\\3\\4"), recognised("a", b"%PDF-1.4"), recognised("a.txt", b"Hello")
    ('it is a zip archive; unpack it', 'it is a PDF document, which holds no volume and may stay', '')
    >>> recognised("a.npz", b"PK\\3\\4")[:23], recognised("a.tar.gz", b"")
    ('it is a NumPy array, wh', 'by its name it is a compressed tar archive; unpack it')
    """
    name = Path(path).name.lower()
    for kind in FORMATS:
        if _begins(start, kind.starts) and not name.endswith(kind.endings):
            return f"it begins as {kind.name} does; rename it to end in {kind.endings[0]}"
    fits = [other for other in UNREAD if _begins(start, other.starts)]
    called = [] if format_of(path) else [other for other in UNREAD if name.endswith(other.endings)]
    if fits:
        return f"it is {next((other for other in called if other in fits), fits[0]).what}"
    return f"by its name it is {called[0].what}" if called else ""


def _begins(start: bytes, starts: tuple[tuple[int, bytes], ...]) -> bool:
    return any(start.startswith(wanted, place) for place, wanted in starts)


def format_of(path: str | Path) -> Format | None:
    """The format that the name of a file says; None for all others, which may be DICOM. Nothing is opened.

    >>> [kind and kind.name for kind in map(format_of, ["chest.NII.gz", "chest.mha", "chest.hdr", "nii"])]
    ['NIfTI', 'MetaImage', None, None]
    """
    name = Path(path).name.lower()
    return next((kind for kind in FORMATS if name.endswith(kind.endings)), None)


def content_uid(kind: Format, files: Sequence[Path]) -> str:
    """What stands for the series UID of a volume: a hash of the size and of three samples of its files.

    The same file has the same name wherever it lies and whatever it is called.
    """
    whole = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        whole.update(str(size).encode())
        with path.open("rb") as file:
            for place in (0, max(size // 2 - SAMPLE_BYTES // 2, 0), max(size - SAMPLE_BYTES, 0)):
                file.seek(place)
                whole.update(file.read(SAMPLE_BYTES))
    return f"{kind.name.lower()}-{whole.hexdigest()[:32]}"
