import gzip
import struct
import zlib

import nifti_writer as writer
import numpy as np
import pytest

from ctlib.io.deidentify import SeriesError
from ctlib.io.nifti import decode, read_header


def name_of(orientation):
    return "".join(("RAS" if sign > 0 else "LPI")[axis] for axis, sign in orientation)


def check(path, hu):
    """Reads a file as the volume that was written."""
    read, header = decode(path)
    assert header == read_header(path) and header.fault == ""
    assert read.dtype == np.int16 and read.flags.c_contiguous
    np.testing.assert_array_equal(read, hu)
    assert header.shape == hu.shape
    np.testing.assert_allclose(header.spacing_mm, writer.SPACING_MM, rtol=1e-6)
    np.testing.assert_allclose(header.origin_mm, writer.ORIGIN_MM, atol=1e-4)


def refused(path, reason):
    """Refused for a reason that holds neither the path nor the free text of the header."""
    with pytest.raises(SeriesError, match=reason) as caught:
        decode(path)
    assert "secret" not in str(caught.value) and path.name not in str(caught.value)
    assert str(path.parent) not in str(caught.value)
    return read_header(path).fault


# ---- orientation -----------------------------------------------------------------------


@pytest.mark.parametrize("forms", [(1, 1), (2, 0), (0, 1)], ids=["both", "sform", "qform"])
@pytest.mark.parametrize("orientation", writer.ORIENTATIONS, ids=name_of)
def test_every_orientation_comes_back_upright(tmp_path, orientation, forms):
    hu = writer.volume()
    check(writer.write(tmp_path / "a.nii", hu, orientation, sform=forms[0], qform=forms[1]), hu)


@pytest.mark.parametrize("name", ["scan_slices.nii", "scan.nii.gz"])
def test_simpleitk_reads_the_same(tmp_path, name):
    sitk = pytest.importorskip("SimpleITK")
    hu = writer.volume()
    orientation = ((1, 1), (2, -1), (0, 1))
    path = writer.write(tmp_path / name, hu, orientation)
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    read, header = decode(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), read)
    np.testing.assert_allclose(image.GetSpacing()[::-1], header.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin()[::-1], header.origin_mm, atol=1e-4)


# ---- stored values ---------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_and_byte_orders_are_read(tmp_path, version, order):
    hu = writer.volume()
    check(writer.write(tmp_path / "a.nii", hu, order=order, version=version), hu)
    check(writer.write(tmp_path / "a.NII.GZ", hu, order=order, version=version), hu)


@pytest.mark.parametrize("dtype", ["i2", "i4", "i8", "f4", "f8"])
def test_signed_types_hold_hu(tmp_path, dtype):
    hu = writer.volume()
    check(writer.write(tmp_path / "a.nii", hu, dtype=dtype), hu)
    check(writer.write(tmp_path / "b.nii", hu, dtype=dtype, scl_slope=0.0, scl_inter=7.0), hu)
    for inter in (np.nan, 0.0):  # what nibabel has in memory of an unscaled volume
        check(writer.write(tmp_path / "c.nii", hu, dtype=dtype, scl_slope=np.nan, scl_inter=inter), hu)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "u4", "u8"])
def test_slope_and_intercept_make_hu(tmp_path, dtype):
    stored = np.random.default_rng(0).integers(0, 128, writer.SHAPE).astype(np.int16)
    path = writer.write(tmp_path / "a.nii", stored, dtype=dtype, scl_slope=16.0, scl_inter=-1024.0)
    check(path, 16 * stored - 1024)


def test_non_integers_are_rounded_and_the_rest_is_clipped(tmp_path):
    stored = writer.volume()
    wanted = np.clip(np.rint(stored * 1.25 - 300.5), -1024, 3071).astype(np.int16)
    assert (wanted == -1024).any() and (wanted == 3071).any()
    check(writer.write(tmp_path / "a.nii", stored, scl_slope=1.25, scl_inter=-300.5), wanted)
    path = writer.write(tmp_path / "b.nii", stored, dtype="f4", scl_slope=1.25, scl_inter=-300.5)
    check(path, wanted)


def test_one_volume_of_a_series_in_time_is_read(tmp_path):
    hu = writer.volume()
    check(writer.write(tmp_path / "a.nii", hu, dim=(4, 7, 6, 5, 1, 1, 1, 1)), hu)
    check(writer.write(tmp_path / "b.nii", hu, dim=(3, 7, 6, 5, 9, 0, 0, 0)), hu)  # what dim[0] leaves out


def test_extensions_are_passed_over(tmp_path):
    hu = writer.volume()
    path = writer.write(tmp_path / "a.nii", hu, vox_offset=368)
    data = path.read_bytes()
    path.write_bytes(data[:348] + b"\1\0\0\0" + struct.pack("<ii", 16, 6) + b"comment!" + data[352:])
    check(path, hu)


def test_qfac_may_be_zero_and_units_unknown(tmp_path):
    hu = writer.volume()
    pixdim = (0, *writer.SPACING_MM[::-1], 1, 1, 1, 1)
    check(writer.write(tmp_path / "a.nii", hu, sform=0, pixdim=pixdim, xyzt_units=0), hu)
    check(writer.write(tmp_path / "b.nii", hu, xyzt_units=2 + 8), hu)  # time in seconds


# ---- refusals --------------------------------------------------------------------------

PIXDIM = (1, 0.5, 0.75, 2.5, 1, 1, 1, 1)
TURNED = {  # 2 degrees about the long axis, in the rows of the default orientation
    "srow_x": (-0.5 * np.cos(0.035), 0.75 * np.sin(0.035), 0, 0),
    "srow_y": (-0.5 * np.sin(0.035), -0.75 * np.cos(0.035), 0, 0),
}
REFUSALS = {
    "no-orientation": ({"sform": 0, "qform": 0}, "sform_code and qform_code are 0"),
    "negative-codes": ({"sform": -1, "qform": 0}, "sform_code and qform_code are 0"),
    "forms-disagree": ({"qoffset": (0.0, 20.25, -80.5)}, r"sform and qform disagree by up to 10\.5 mm"),
    "forms-flipped": ({"quatern": (0.0, 0.0, 0.0)}, "sform and qform disagree"),
    "oblique": ({**TURNED, "qform": 0}, r"turned by about 2\.0 degrees"),
    "no-rotation": ({"quatern": (0.9, 0.9, 0.0), "sform": 0}, "qform is no rotation"),
    "qfac": ({"pixdim": (3, *PIXDIM[1:]), "sform": 0}, "qform is no rotation"),
    "quatern-nan": ({"quatern": (np.nan, 0.0, 0.0), "sform": 0}, "no numbers below|no rotation"),
    "singular": ({"srow_y": (0, 0, 0, 0), "qform": 0}, r"voxels of \[0\.5, 0\.0, 2\.5\] mm"),
    "parallel": (
        {"srow_x": (-0.5, -0.75, 0, 0), "srow_y": (0, 0, 0, 0), "qform": 0},
        "singular, two of its axes run along one line",
    ),
    "affine-nan": ({"srow_x": (np.nan, 0, 0, 0)}, "no numbers below"),
    "affine-inf": ({"srow_z": (0, 0, 2.5, np.inf)}, "no numbers below"),
    "affine-huge": ({"srow_z": (0, 0, 2.5, 1e38)}, "no numbers below"),
    "other-spacing": ({"srow_z": (0, 0, 2.6, -80.5), "qform": 0}, r"voxels of \[0\.5, 0\.75, 2\.6\] mm"),
    "zero-pixdim": ({"pixdim": (1, 0.5, 0, 2.5, 1, 1, 1, 1)}, "pixdim is"),
    "negative-pixdim": ({"pixdim": (1, -0.5, 0.75, 2.5, 1, 1, 1, 1)}, "pixdim is"),
    "nan-pixdim": ({"pixdim": (1, 0.5, 0.75, np.nan, 1, 1, 1, 1)}, "pixdim is"),
    "metre": ({"xyzt_units": 1}, "unit of space is metre"),
    "micron": ({"xyzt_units": 3}, "unit of space is micron"),
    "unit": ({"xyzt_units": 5}, "unit of space is 5"),
    "slope": ({"scl_slope": np.nan, "scl_inter": -1024.0}, "scl_slope is nan, scl_inter -1024"),
    "slope-inf": ({"scl_slope": np.inf}, "scl_slope is inf"),
    "intercept": ({"scl_inter": np.inf}, "scl_inter inf"),
    "4d": ({"dim": (4, 7, 6, 1, 5, 1, 1, 1)}, "holds 5 volumes"),
    "5d": ({"dim": (5, 7, 6, 1, 1, 5, 1, 1)}, "holds 5 volumes"),
    "no-dim": ({"dim": (0, 7, 6, 5, 1, 1, 1, 1)}, "no shape"),
    "many-dim": ({"dim": (9, 7, 6, 5, 1, 1, 1, 1)}, "no shape"),
    "zero-dim": ({"dim": (3, 7, 0, 5, 1, 1, 1, 1)}, "no shape"),
    "negative-dim": ({"dim": (3, -7, -6, 5, 1, 1, 1, 1)}, "no shape"),
    "huge": ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "32767 x 32767 x 32767 voxels, 7036"),
    "fewer": ({"dim": (3, 7, 6, 4, 1, 1, 1, 1)}, "7 x 6 x 4 voxels, 688 bytes"),
    "complex": ({"datatype": 32, "bitpix": 64}, "datatype is 32"),
    "rgb": ({"datatype": 128, "bitpix": 24}, "datatype is 128"),
    "float128": ({"datatype": 1536, "bitpix": 128}, "datatype is 1536"),
    "bitpix": ({"bitpix": 32}, "datatype is 4 and bitpix 32"),
    "offset": ({"vox_offset": 348}, "vox_offset is 348"),
    "pair": ({"magic": b"ni1"}, r"half of a pair of \.hdr and \.img"),
    "pair-2": ({"version": 2, "magic": b"ni2"}, "half of a pair"),
    "analyze": ({"magic": b""}, "no NIfTI file, perhaps Analyze"),
    "no-header": ({"sizeof_hdr": 300}, "does not begin with a header"),
}


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_volume_is_refused(tmp_path, case, ending):
    values, reason = REFUSALS[case]
    path = writer.write(tmp_path / f"secret.{ending}", writer.volume(), **values)
    assert refused(path, reason)


@pytest.mark.parametrize("order", "<>")
def test_a_claim_of_exabytes_allocates_nothing(tmp_path, order):
    values = {"version": 2, "order": order, "dim": (3, 1 << 40, 1 << 40, 1 << 40, 1, 1, 1, 1)}
    for name in ("a.nii", "a.nii.gz"):
        assert refused(writer.write(tmp_path / name, writer.volume(), **values), "voxels, ")


def test_a_claim_that_the_trailer_repeats_is_held_against_the_size(tmp_path):
    dims = (3, 32767, 32767, 32767, 1, 1, 1, 1)
    path = writer.write(tmp_path / "a.nii.gz", writer.volume(), dim=dims)
    lie = (352 + 2 * 32767**3) % (1 << 32)
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<I", lie))
    assert refused(path, "32767 x 32767 x 32767 voxels")


@pytest.mark.parametrize("depth", [1, 2])
def test_few_slices_along_superior_are_refused(tmp_path, depth):
    path = writer.write(tmp_path / "a.nii", writer.volume(shape=(depth, 6, 7)), ((2, 1), (1, 1), (0, 1)))
    assert refused(path, f"{depth} slices along Superior")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_voxels_are_finite(tmp_path, dtype, value):
    hu = writer.volume().astype(np.float64)
    hu[2, 3, 4] = value
    refused(writer.write(tmp_path / "a.nii", hu, dtype=dtype), "no finite numbers")


def test_what_overflows_is_refused(tmp_path):
    hu = writer.volume() * 1e300
    refused(writer.write(tmp_path / "a.nii", hu, dtype="f8", scl_slope=1e30), "no finite numbers")


NOT_HU = {
    "mask": lambda hu: hu % 6,
    "offset": lambda hu: hu + 1024,
    "offset-padding": lambda hu: np.where(hu < -600, -2000, hu + 1024),
    "unit": lambda hu: (hu + 1024) / 4095 * 2 - 1,
    "constant": lambda hu: hu * 0 - 3024,
}


@pytest.mark.parametrize("case", NOT_HU)
def test_what_is_no_hu_is_refused(tmp_path, case):
    hu = NOT_HU[case](writer.volume().astype(np.float64))
    path = writer.write(tmp_path / "a.nii", hu, dtype="f4")
    assert refused(path, f"lowest value is {np.rint(hu.min()):g} .*HU has air near -1000; store HU") == ""


def test_plain_files_are_as_long_as_they_say(tmp_path):
    path = writer.write(tmp_path / "secret.nii", writer.volume())
    data = path.read_bytes()
    for length in (0, 1, 3, 4, 100, 347, 348, 351, 352, 353, len(data) - 1):
        path.write_bytes(data[:length])
        assert refused(path, "empty|does not begin|ends within its header|772 bytes, and the file has")
    path.write_bytes(data + b"\0")
    assert refused(path, "772 bytes, and the file has 773")


def test_compressed_files_are_whole(tmp_path):
    path = writer.write(tmp_path / "secret.nii.gz", writer.volume())
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path, "empty|cannot be read|gzip trailer|does not begin|ends within")
    for tail in (b"\0", b"garbage", data, gzip.compress(b"")):
        path.write_bytes(data + tail)
        refused(path, "cannot be read|gzip trailer|more bytes")
    whole = gzip.decompress(data)
    for other in (whole[:-1], whole + b"\0", whole[:348]):
        path.write_bytes(gzip.compress(other))
        assert refused(path, "gzip trailer|ends within")


def test_damage_within_a_compressed_file_is_noticed(tmp_path):
    hu = writer.volume()
    path = writer.write(tmp_path / "secret.nii.gz", hu)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    same = 0
    for place in rng.integers(10, len(data), 200):  # not the file time and system of the gzip header
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        try:  # a few bits are in no use: those that fill the last byte
            np.testing.assert_array_equal(decode(path)[0], hu)
            same += 1
        except SeriesError as error:
            assert "secret" not in str(error)
    assert same < 5


def test_a_false_trailer_is_noticed_by_the_voxels(tmp_path):
    path = writer.write(tmp_path / "a.nii.gz", writer.volume())
    whole = gzip.decompress(path.read_bytes())
    for wrong, reason in (
        (whole[:-8], "ends after 412 of 420"),
        (whole + bytes(8), "cannot be read|more bytes"),
    ):
        zipped = gzip.compress(wrong)
        path.write_bytes(zipped[:-4] + struct.pack("<I", len(whole)))
        assert read_header(path).fault == ""
        refused(path, reason + "|cannot be read")
    zipped = gzip.compress(whole)
    path.write_bytes(zipped[:-8] + struct.pack("<I", zlib.crc32(whole) ^ 1) + zipped[-4:])
    assert refused(path, "cannot be read") == ""


def test_only_the_beginning_of_a_compressed_file_is_read(tmp_path, monkeypatch):
    path = writer.write(tmp_path / "a.nii.gz", writer.volume(shape=(40, 50, 60)))
    taken = []
    whole = zlib.decompressobj(31).decompress(path.read_bytes())
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n=-1: taken.append(n) or read(self, n))
    assert read_header(path).fault == "" and sum(taken) == 540 < len(whole)


def test_a_file_that_is_not_there_is_a_fault_without_its_path(tmp_path):
    assert (
        refused(tmp_path / "secret.nii", "cannot be read") == "it cannot be read (No such file or directory)"
    )


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_renamed_file_is_read_as_what_it_is(tmp_path, ending):
    hu = writer.volume()
    path = writer.write(tmp_path / ("a.nii" if ending == "nii.gz" else "a.nii.gz"), hu)
    check(path.rename(tmp_path / f"b.{ending}"), hu)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_file_of_another_format_is_told_by_its_beginning(tmp_path, ending):
    path = tmp_path / f"secret.{ending}"
    for start, told in (
        (b"<!DOCTYPE html>", "it is a web page"),
        (b"PK\3\4", "it is a zip archive; unpack it"),
        (b"NRRD0004\n", r"it begins as NRRD does; rename it to end in \.nrrd"),
        (b"plain", "it does not begin with a header"),
    ):
        path.write_bytes(start * 100)
        assert refused(path, f"not a NIfTI file: {told}")
