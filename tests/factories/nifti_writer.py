"""Volumes written as NIfTI in any axis-aligned orientation, field by field from nifti1.h and nifti2.h.

Shares no code with the package and none with nibabel: each voxel is found by its patient coordinates.
"""

import gzip
import itertools
import struct

import numpy as np
from scipy.spatial.transform import Rotation

SHAPE = (5, 6, 7)  # S, P, L
SPACING_MM = (2.5, 0.75, 0.5)
ORIGIN_MM = (-80.5, -20.25, 10.5)  # z, y, x (S, P, L) of voxel [0, 0, 0]
# For the axes i, j, k of the file: which of x, y, z (to Right, Anterior, Superior) and which way.
ORIENTATIONS = [
    tuple(zip(axes, signs, strict=True))
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
CODES = {
    "u1": 2,
    "i2": 4,
    "i4": 8,
    "f4": 16,
    "f8": 64,
    "i1": 256,
    "u2": 512,
    "u4": 768,
    "i8": 1024,
    "u8": 1280,
}
# Offset and format of fields: nifti1.h, then nifti2.h.
FIELDS = {
    **{"sizeof_hdr": ((0, "i"), (0, "i")), "dim": ((40, "8h"), (16, "8q"))},
    **{"datatype": ((70, "h"), (12, "h")), "bitpix": ((72, "h"), (14, "h"))},
    **{"pixdim": ((76, "8f"), (104, "8d")), "vox_offset": ((108, "f"), (168, "q"))},
    **{"scl_slope": ((112, "f"), (176, "d")), "scl_inter": ((116, "f"), (184, "d"))},
    **{"xyzt_units": ((123, "b"), (500, "i")), "descrip": ((148, "80s"), (240, "80s"))},
    **{"qform_code": ((252, "h"), (344, "i")), "sform_code": ((254, "h"), (348, "i"))},
    **{"quatern": ((256, "3f"), (352, "3d")), "qoffset": ((268, "3f"), (376, "3d"))},
    **{"srow_x": ((280, "4f"), (400, "4d")), "srow_y": ((296, "4f"), (432, "4d"))},
    **{"srow_z": ((312, "4f"), (464, "4d")), "magic": ((344, "4s"), (4, "8s"))},
}


def volume(seed=0, shape=SHAPE):
    """Noise: no flip, turn, shift or transposition of it equals it."""
    return np.random.default_rng(seed).integers(-1024, 3072, shape).astype(np.int16)


def place(hu, orientation, spacing_mm=SPACING_MM, origin_mm=ORIGIN_MM):
    """Voxels `[i, j, k]` of a volume [S, P, L], and their affine to (R, A, S), mm."""
    step = np.array(spacing_mm[::-1])  # x, y, z of our own axes: L, P, S
    extent = np.array(hu.shape[::-1])
    ras = np.array([-1, -1, 1])  # L, P, S to R, A, S
    low = np.minimum(ras * origin_mm[::-1], ras * (origin_mm[::-1] + (extent - 1) * step))
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[:3, 3] = low
    for column, (axis, sign) in enumerate(orientation):
        affine[axis, column] = sign * step[axis]
        if sign < 0:
            affine[axis, 3] += (extent[axis] - 1) * step[axis]
    stored = np.empty([extent[axis] for axis, _ in orientation], hu.dtype)
    for index in np.ndindex(*stored.shape):
        right, anterior, superior = (affine @ (*index, 1))[:3]
        at = (np.array([-right, -anterior, superior]) - origin_mm[::-1]) / step
        x, y, z = np.rint(at).astype(int)
        stored[index] = hu[z, y, x]
    return stored, affine


def header(stored, affine, order="<", version=1, sform=1, qform=1):
    """Fields of a file; `sform` and `qform` are their codes."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / sizes
    handed = 1.0 if np.linalg.det(cosines) > 0 else -1.0
    turn = Rotation.from_matrix(cosines * [1, 1, handed]).as_quat(canonical=True)[:3]
    return {
        "sizeof_hdr": 348 if version == 1 else 540,
        "dim": (stored.ndim, *stored.shape, *[1] * (7 - stored.ndim)),
        "datatype": CODES[stored.dtype.str[1:]],
        "bitpix": 8 * stored.dtype.itemsize,
        "pixdim": (handed, *sizes, 1, 1, 1, 1),
        "vox_offset": 352 if version == 1 else 544,
        "scl_slope": 1.0,
        "scl_inter": 0.0,
        "xyzt_units": 2,
        "descrip": b"secret Mustermann",
        "qform_code": qform,
        "sform_code": sform,
        "quatern": tuple(turn),
        "qoffset": tuple(affine[:3, 3]),
        **{f"srow_{name}": tuple(row) for name, row in zip("xyz", affine, strict=False)},
        "magic": b"n+1" if version == 1 else b"n+2\0\r\n\x1a\n",
    }


def encode(stored, fields, order="<", version=1):
    """Bytes of a file."""
    data = bytearray(348 if version == 1 else 540)
    for name, value in fields.items():
        offset, form = FIELDS[name][version - 1]
        struct.pack_into(order + form, data, offset, *(value if isinstance(value, tuple) else (value,)))
    data += bytes(352 - 348)
    voxels = stored.astype(stored.dtype.newbyteorder(order)).transpose().tobytes()  # i runs fastest
    return bytes(data) + voxels


def write(path, hu, orientation=((0, -1), (1, -1), (2, 1)), order="<", version=1, dtype=None, **values):
    """Write a volume [S, P, L]; `values` replace fields of the header."""
    spacing, origin = values.pop("spacing_mm", SPACING_MM), values.pop("origin_mm", ORIGIN_MM)
    stored, affine = place(hu, orientation, spacing, origin)
    stored = stored if dtype is None else stored.astype(dtype)
    codes = {name: values.pop(name) for name in ("sform", "qform") if name in values}
    fields = header(stored, affine, order, version, **codes) | values
    data = encode(stored, fields, order, version)
    path.write_bytes(gzip.compress(data, 1) if path.name.lower().endswith("gz") else data)
    return path
