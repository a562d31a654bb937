"""Volumes written as MetaImage and NRRD in any axis-aligned orientation, field by field from their descriptions.

Shares no code with the package and none with ITK: voxels and affine are those of `nifti_writer.place`.
"""

import gzip
import zlib

import nifti_writer
import numpy as np

META_TYPES = {
    **{"i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT"},
    **{
        "u4": "MET_UINT",
        "i8": "MET_LONG_LONG",
        "u8": "MET_ULONG_LONG",
        "f4": "MET_FLOAT",
        "f8": "MET_DOUBLE",
    },
}
NRRD_TYPES = {
    **{"i1": "signed char", "u1": "uint8", "i2": "short", "u2": "unsigned short", "i4": "int32"},
    **{"u4": "uint", "i8": "long long int", "u8": "uint64_t", "f4": "float", "f8": "double"},
}
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "LAS": (1, -1, 1),
}
DEFAULT = ((0, -1), (1, -1), (2, 1))  # to Left, Posterior, Superior: what ITK calls identity


def numbers(values):
    return " ".join(f"{float(value):.17g}" for value in values)


def placed(hu, orientation=DEFAULT, dtype=None, order="<", spacing_mm=None, origin_mm=None):
    """Bytes of the voxels, i fastest; and dims, numpy name, directions (rows, LPS), spacing and origin."""
    spacing_mm, origin_mm = spacing_mm or nifti_writer.SPACING_MM, origin_mm or nifti_writer.ORIGIN_MM
    stored, affine = nifti_writer.place(hu, orientation, spacing_mm, origin_mm)
    stored = stored if dtype is None else stored.astype(dtype)
    lps = affine[:3] * [[-1], [-1], [1]]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    voxels = stored.astype(stored.dtype.newbyteorder(order)).transpose().tobytes()
    return voxels, stored.shape, stored.dtype.str[1:], (lps[:, :3] / spacing).T, spacing, lps[:, 3]


def _text(fields, values, line):
    """Fields as lines, in order; `values` replace them, and None leaves one out."""
    merged = {**fields, **{name.replace("__", " "): value for name, value in values.items()}}
    return "".join(line(name, value) for name, value in merged.items() if value is not None)


def meta(path, hu, orientation=DEFAULT, packed=False, dtype=None, order="<", data=None, replace=(), **values):
    """Write .mhd and .raw (.zraw where it is `packed`), or .mha.

    `data` is the name of the file of voxels; `replace` are pairs of bytes of the header, old and new.
    """
    voxels, dims, code, directions, spacing, origin = placed(hu, orientation, dtype, order)
    stream = zlib.compress(voxels) if packed else voxels
    local = path.suffix.lower() == ".mha" if data is None else data == "LOCAL"
    data = "LOCAL" if local else data or path.with_suffix(".zraw" if packed else ".raw").name
    fields = {
        **{"ObjectType": "Image", "NDims": "3", "BinaryData": "True"},
        **{"BinaryDataByteOrderMSB": str(order == ">"), "CompressedData": str(packed)},
        **({"CompressedDataSize": str(len(stream))} if packed else {}),
        **{"TransformMatrix": numbers(directions.ravel()), "Offset": numbers(origin)},
        **{"CenterOfRotation": "0 0 0", "AnatomicalOrientation": "RAI", "Comment": "secret Mustermann"},
        **{"ElementSpacing": numbers(spacing), "DimSize": " ".join(map(str, dims))},
        **{"ElementType": META_TYPES[code]},
    }
    fields = {**fields, **values, "ElementDataFile": values.get("ElementDataFile", data)}
    head = _text(fields, {}, lambda name, value: f"{name} = {value}\n").encode()
    for old, new in replace:
        assert old in head, old
        head = head.replace(old, new)
    path.write_bytes(head + stream * local)
    if not local:
        path.with_name(data).write_bytes(stream)
    return path


def nrrd(
    path, hu, orientation=DEFAULT, packed=False, dtype=None, order="<", space="left-posterior-superior",
    data=None, replace=(), **values,
):  # fmt: skip
    """Write .nrrd, or .nhdr and its voxels; `__` in names of `values` stands for a blank."""
    voxels, dims, code, directions, spacing, origin = placed(hu, orientation, dtype, order)
    stream = gzip.compress(voxels, 1, mtime=0) if packed else voxels
    sign = np.array(SPACES.get(space, (1, 1, 1)))
    vectors = " ".join(
        f"({','.join(numbers([v]) for v in row)})" for row in directions * spacing[:, None] * sign
    )
    if data is None and path.suffix.lower() == ".nhdr":
        data = path.with_suffix(".raw.gz" if packed else ".raw").name
    fields = {
        **{"type": NRRD_TYPES[code], "dimension": "3", "space": space, "sizes": " ".join(map(str, dims))},
        **{
            "space directions": vectors,
            "kinds": "domain domain domain",
            "endian": "big" if order == ">" else "little",
        },
        **{"encoding": "gzip" if packed else "raw"},
        **{
            "space origin": f"({','.join(numbers([v]) for v in origin * sign)})",
            "content": "secret Mustermann",
        },
        **({"data file": data} if data else {}),
    }
    head = (
        b"NRRD0004\n# secret comment\n"
        + _text(fields, values, lambda name, value: f"{name}: {value}\n").encode()
    )
    head += b"patient:=secret\n"
    for old, new in replace:
        assert old in head, old
        head = head.replace(old, new)
    path.write_bytes(head if data else head + b"\n" + stream)
    if data:
        path.with_name(data).write_bytes(stream)
    return path
