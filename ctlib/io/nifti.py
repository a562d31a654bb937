"""One NIfTI file of CT: its header checked for all that a volume needs, its voxels in HU.

A file is used if it is a single file (`.nii`, `.nii.gz`, NIfTI-1 or -2) of one volume whose affine
runs along the axes of the patient. NIfTI counts to Right, Anterior, Superior; what comes back has
our axes. It has no Modality, so the voxels themselves must look like HU: see `upright_volume`.
A file is decompressed if it begins as gzip does, whatever its name says: some are only renamed.
nibabel (MIT) knows the fields and the affines; the voxels are read here, because they must be
exactly as many as the header says, and nothing may be allocated before that is likely.
"""

from __future__ import annotations

import gzip
import itertools
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ctlib.io.deidentify import AGAIN, SeriesError
from ctlib.io.formats import GZIP, recognised
from ctlib.io.upright_volume import DEFLATE_RATIO, FARTHEST_MM, place_of, upright_hu

DTYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"},
    **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
"""Datatype codes of nifti1.h that are read, as numpy names; not complex, RGB and 128-bit floats."""
BLOCK = 1 << 20
"""Bytes read of a compressed file at a time."""
UNITS = {1: "metre", 3: "micron"}
"""Space units of nifti1.h other than mm (2) and unknown (0), which is read as mm."""
AFFINE_TOLERANCE = 0.1
"""Largest distance of a corner voxel between sform and qform, in voxels, and of the voxel size
between pixdim and affine, over the whole matrix. Both are float32: honest ones differ by 0.001."""


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """What a header says, in the axes of the volume: Superior, Posterior, Left.

    Args:
        path: the file.
        fault: why it cannot be used, or ""; with a fault all below is empty.
        shape: (D, H, W).
        spacing_mm: (z, y, x), mm.
        origin_mm: patient coordinates (z, y, x) = (S, P, L) of voxel [0, 0, 0], mm.
        axes: which axis of the file goes along S, P, L.
        reversed: whether that axis runs the other way.
        dtype: numpy name of the stored values, with byte order.
        offset: where they begin, bytes.
        slope: HU of one stored unit.
        intercept: HU of the stored value 0.
    """

    path: Path
    fault: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axes: tuple[int, int, int] = (2, 1, 0)
    reversed: tuple[bool, bool, bool] = (False, False, False)
    dtype: str = "<i2"
    offset: int = 0
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)


def _is_zipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path) if _is_zipped(path) else path.open("rb"))


def _raw_header(path: Path) -> Nifti1Header:
    """The header, of either version and byte order, unchecked except for what it is."""
    with _open(path) as file:
        start = file.read(Nifti2Header.template_dtype.itemsize)
    for kind, endianness in itertools.product((Nifti1Header, Nifti2Header), "<>"):
        size = kind.template_dtype.itemsize
        if np.frombuffer(start[:4].ljust(4), f"{endianness}i4") != size:
            continue
        if len(start) < size:
            raise SeriesError(f"the file ends within its header of {size} bytes; {AGAIN}")
        header = kind(start[:size], endianness, check=False)
        magic = bytes(header["magic"].item())[:3]
        if magic in (b"ni1", b"ni2"):
            raise SeriesError("it is half of a pair of .hdr and .img; store both as one .nii file")
        if magic not in (b"n+1", b"n+2"):
            raise SeriesError(
                "it is no NIfTI file, perhaps Analyze 7.5, which has no orientation; convert the original DICOM files"
            )
        return header
    what = recognised(path, start) or f"it does not begin with a header; {AGAIN}"
    raise SeriesError(f"not a NIfTI file: {what}")


def _dims(header: Nifti1Header) -> tuple[int, int, int]:
    """Lengths of the three axes as stored; more than one volume is refused."""
    n, *dims = (int(value) for value in header["dim"])
    if not 1 <= n <= 7 or min(dims[:n]) < 1:
        raise SeriesError(f"its dim field is {[n, *dims]}, which is no shape; {AGAIN}")
    dims = [*dims[:n], *[1] * (7 - n)]
    if (volumes := math.prod(dims[3:])) != 1:
        raise SeriesError(f"it holds {volumes} volumes; store each in its own file")
    return dims[0], dims[1], dims[2]


def _storage(header: Nifti1Header, dims: tuple[int, int, int], path: Path) -> tuple[str, int]:
    """Type and place of the voxels, once the size of the file agrees."""
    code, bits = int(header["datatype"]), int(header["bitpix"])
    if code not in DTYPES:
        raise SeriesError(
            f"its datatype is {code}; integers up to 64 bits, float32 and float64 are read; store int16"
        )
    dtype = np.dtype(f"{header.endianness}{DTYPES[code]}")
    if bits != 8 * dtype.itemsize:
        raise SeriesError(
            f"its datatype is {code} and bitpix {bits}, {8 * dtype.itemsize} is needed; {AGAIN}"
        )
    least = header.single_vox_offset
    offset = float(header["vox_offset"])
    if not (offset >= least and offset.is_integer()):
        raise SeriesError(f"its vox_offset is {offset:g}, {least} or above is needed; {AGAIN}")
    wanted = int(offset) + math.prod(dims) * dtype.itemsize
    size = path.stat().st_size
    shape = " x ".join(map(str, dims))
    if _is_zipped(path):
        # The trailer holds the length before compression, of its last 32 bits (RFC 1952).
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            trailer = int.from_bytes(file.read(4), "little")
        if wanted > DEFLATE_RATIO * size or wanted % (1 << 32) != trailer:
            raise SeriesError(
                f"its header says {shape} voxels, {wanted} bytes, and its gzip trailer {trailer}: it is truncated, "
                "damaged, followed by other data, or compressed in several pieces; compress it again"
            )
    elif wanted != size:
        raise SeriesError(f"its header says {shape} voxels, {wanted} bytes, and the file has {size}; {AGAIN}")
    return dtype.str, int(offset)


def _scaling(header: Nifti1Header) -> tuple[float, float]:
    """HU of one stored unit and of the stored value 0; (1, 0) where the voxels are stored as they are.

    That is a slope of 0 (nifti1.h), and one that is NaN, as nibabel has it in memory and some
    programs write it: nibabel and ITK read such a file unscaled.
    """
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isnan(slope) and (math.isnan(intercept) or intercept == 0):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise SeriesError(
            f"its scl_slope is {slope:g}, scl_inter {intercept:g}; both must be finite; store HU unscaled"
        )
    return (slope, intercept) if slope else (1.0, 0.0)


def _qform(header: Nifti1Header) -> NDArray[Any]:
    if float(header["pixdim"][0]) == 0:  # means 1 (nifti1.h), which nibabel does not take
        header["pixdim"][0] = 1
    try:
        return np.asarray(header.get_qform(), np.float64)
    except (HeaderDataError, ValueError) as error:
        raise SeriesError("its qform is no rotation (quatern_b, c, d or qfac); store it again") from error


def _affine_of(header: Nifti1Header, dims: tuple[int, int, int]) -> NDArray[Any]:
    """Voxel index to patient coordinates (R, A, S), float64 `[4, 4]`, mm; sform before qform.

    Args:
        header: of NIfTI-1 or -2.
        dims: voxels along the file's own axes.

    Raises:
        SeriesError: there is none, two disagree, or it does not fit the voxel size.
    """
    unit = int(header["xyzt_units"]) & 7
    if unit not in (0, 2):
        raise SeriesError(f"its unit of space is {UNITS.get(unit, unit)}, only mm are read; store mm")
    pixdim = np.array(header["pixdim"][1:4], np.float64)
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        raise SeriesError(f"its pixdim is {pixdim.tolist()}, three distances above 0 are needed; store them")
    found = []
    if int(header["sform_code"]) > 0:
        found.append(np.asarray(header.get_sform(), np.float64))
    if int(header["qform_code"]) > 0:
        found.append(_qform(header))
    if not found:
        raise SeriesError("its sform_code and qform_code are 0, its orientation is unknown; store an affine")
    if not all((np.abs(affine) < FARTHEST_MM).all() for affine in found):
        raise SeriesError(
            f"its affine has values that are no numbers below {FARTHEST_MM:g} mm; store it again"
        )
    ends = np.array([(*end, 1) for end in itertools.product(*((0, n - 1) for n in dims))])
    off = float(np.abs(ends @ (found[0] - found[-1]).T).max())
    if off > AFFINE_TOLERANCE * pixdim.min():
        raise SeriesError(f"its sform and qform disagree by up to {off:.3g} mm; store the right one as both")
    sizes = np.linalg.norm(found[0][:3, :3], axis=0)
    if (np.abs(sizes - pixdim) * dims > AFFINE_TOLERANCE * pixdim).any():
        raise SeriesError(
            f"its affine has voxels of {sizes.round(4).tolist()} mm, its pixdim {pixdim.tolist()}; both must agree; "
            "store it again"
        )
    return found[0]


def read_header(path: str | Path) -> NiftiHeader:
    """Read the header of a file; of a compressed one only the beginning is decompressed.

    Args:
        path: any file; it is compressed if it begins as gzip does.

    Returns:
        What it says, with a fault where it cannot be used; a fault names no path and quotes no
        text of the file.
    """
    path = Path(path)
    try:
        if not path.stat().st_size:
            return NiftiHeader(path, "the file is empty")
        header = _raw_header(path)
        dims = _dims(header)
        dtype, offset = _storage(header, dims, path)
        slope, intercept = _scaling(header)
        place = place_of(_affine_of(header, dims), dims)
    except SeriesError as error:
        return NiftiHeader(path, str(error))
    except (EOFError, OSError, zlib.error) as error:
        return NiftiHeader(path, f"it cannot be read ({_kind(error)})")
    return NiftiHeader(path, dtype=dtype, offset=offset, slope=slope, intercept=intercept, **place)


def _kind(error: Exception) -> str:
    """What went wrong; the error's own text may name the path."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _stored(header: NiftiHeader) -> NDArray[Any]:
    """Stored values, `[k, j, i]`: the order of the file's bytes."""
    shape = [0, 0, 0]
    for axis, n in zip(header.axes, header.shape, strict=True):
        shape[2 - axis] = n
    stored = np.empty(shape, header.dtype)
    room = memoryview(cast(Any, stored.reshape(-1).view(np.uint8)))
    try:
        with _open(header.path) as file:
            file.seek(header.offset)
            filled = 0
            while filled < len(room):
                if not (n := cast(Any, file).readinto(room[filled : filled + BLOCK])):
                    raise SeriesError(f"it ends after {filled} of {len(room)} bytes of voxels; {AGAIN}")
                filled += n
            if file.read(1):  # the end must be seen, for there gzip compares the checksum
                raise SeriesError(f"it has more bytes after its last voxel; {AGAIN}")
    except (EOFError, OSError, zlib.error) as error:
        raise SeriesError(f"its voxels cannot be read ({_kind(error)}); {AGAIN}") from error
    return stored


def decode(path: str | Path) -> tuple[NDArray[np.int16], NiftiHeader]:
    """Voxels of a file in HU.

    Args:
        path: see `read_header`.

    Returns:
        int16 `[D, H, W]`, axes to Superior, Posterior, Left; slope and intercept applied,
        non-integers rounded, clipped to [-1024, 3071]; and the header.

    Raises:
        SeriesError: it cannot be read right, or its values are no HU; the reason alone, without
            the name of the file.
    """
    header = read_header(path)
    if header.fault:
        raise SeriesError(header.fault)
    hu = upright_hu(_stored(header), header.axes, header.reversed, header.slope, header.intercept)
    return hu, header
