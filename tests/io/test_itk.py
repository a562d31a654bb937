import gzip
import os
import struct
import zlib

import dicom_writer
import itk_writer as writer
import nifti_writer
import numpy as np
import pandas as pd
import pytest
import SimpleITK

from ctlib.datasets.folder import Columns, load
from ctlib.io import listing
from ctlib.io.deidentify import SeriesError
from ctlib.io.itk import decode, read_header
from ctlib.io.volume import open_series, read_series, scan

ENDINGS = ("mhd", "mha", "nrrd", "nhdr")
WRITERS = {ending: writer.meta if ending.startswith("m") else writer.nrrd for ending in ENDINGS}


def check(path, hu):
    """Reads a file as the volume that was written."""
    read, header = decode(path)
    assert header == read_header(path) and header.fault == ""
    assert read.dtype == np.int16 and read.flags.c_contiguous
    np.testing.assert_array_equal(read, hu)
    assert header.shape == hu.shape
    np.testing.assert_allclose(header.spacing_mm, nifti_writer.SPACING_MM, rtol=1e-6)
    np.testing.assert_allclose(header.origin_mm, nifti_writer.ORIGIN_MM, atol=1e-4)


def refused(path, reason):
    """Refused for a reason that holds neither the path nor the free text of the header."""
    with pytest.raises(SeriesError, match=reason) as caught:
        decode(path)
    told = str(caught.value)
    assert "secret" not in told and path.name not in told and str(path.parent) not in told
    return read_header(path).fault


# ---- orientation -----------------------------------------------------------------------


@pytest.mark.parametrize("orientation", nifti_writer.ORIENTATIONS, ids=str)
def test_every_orientation_comes_back_upright(tmp_path, orientation):
    hu = nifti_writer.volume()
    for ending, write in WRITERS.items():
        check(write(tmp_path / f"a.{ending}", hu, orientation, packed=ending == "nhdr"), hu)
    for space in writer.SPACES:
        check(writer.nrrd(tmp_path / "b.nrrd", hu, orientation, space=space), hu)


def axial(orientation):
    """Columns and rows of DICOM planes for the axes i, j of a file; None where they are not axial."""
    if orientation[2][0] != 2:
        return None
    lps = np.array([-1, -1, 1])
    vectors = [np.eye(3, dtype=int)[axis] * sign * lps for axis, sign in orientation]
    return tuple(map(int, vectors[0])), tuple(map(int, vectors[1]))


@pytest.mark.parametrize("orientation", nifti_writer.ORIENTATIONS, ids=str)
def test_one_volume_is_equal_in_every_format(tmp_path, orientation):
    """DICOM has the eight orientations that are axial, in either order of its files; the others all 48."""
    hu = nifti_writer.volume(3)
    paths = [write(tmp_path / f"a.{ending}", hu, orientation) for ending, write in WRITERS.items()]
    paths.append(nifti_writer.write(tmp_path / "a.nii.gz", hu, orientation))
    if planes := axial(orientation):
        paths.append(dicom_writer.write(tmp_path / "dicom", dicom_writer.slices(hu, *planes)))
    for path in paths:
        volume = read_series(path)
        np.testing.assert_array_equal(volume.hu, hu, err_msg=path.name)
        np.testing.assert_allclose(volume.spacing_mm, nifti_writer.SPACING_MM, rtol=1e-6)
        np.testing.assert_allclose(volume.origin_mm, nifti_writer.ORIGIN_MM, atol=1e-4)


@pytest.mark.parametrize("ending", ENDINGS)
def test_simpleitk_reads_the_same(tmp_path, ending):
    path = WRITERS[ending](tmp_path / f"a.{ending}", nifti_writer.volume(), ((1, 1), (2, -1), (0, 1)))
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")
    read, header = decode(path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), read)
    np.testing.assert_allclose(image.GetSpacing()[::-1], header.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin()[::-1], header.origin_mm, atol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_simpleitk_writes_is_read(tmp_path, ending, packed):
    """Also with the tags of DICOM that it copies into a header."""
    hu = nifti_writer.volume()
    image = SimpleITK.GetImageFromArray(hu)
    image.SetSpacing(nifti_writer.SPACING_MM[::-1])
    image.SetOrigin(nifti_writer.ORIGIN_MM[::-1])
    for tag, text in (("0010|0010", "secret"), ("0028|0030", "0.5\\0.75"), ("0008|103e", "a = b: c")):
        image.SetMetaData(tag, text)
    for name, orientation in (("a", "LPS"), ("b", "IAR"), ("c", "RPI")):
        path = tmp_path / f"{name}.{ending}"
        SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, orientation), str(path), packed)
        check(path, hu)


# ---- stored values ---------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_types_and_byte_orders_are_read(tmp_path, ending, packed, order):
    hu = nifti_writer.volume()
    for dtype in ("i2", "i4", "i8", "f4", "f8"):
        path = tmp_path / f"{dtype}.{ending}"
        check(WRITERS[ending](path, hu, packed=packed, order=order, dtype=dtype), hu)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "u4", "u8"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_types_that_hold_no_hu_are_refused_for_their_values(tmp_path, ending, dtype):
    hu = np.abs(nifti_writer.volume()) % 100
    refused(WRITERS[ending](tmp_path / f"a.{ending}", hu, dtype=dtype), "HU has air near -1000; store HU")


@pytest.mark.parametrize("ending", ENDINGS)
def test_floats_are_rounded_and_clipped_and_must_be_finite(tmp_path, ending):
    hu = nifti_writer.volume() * 1.25 - 300.5
    wanted = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    check(WRITERS[ending](tmp_path / f"a.{ending}", hu, dtype="f4"), wanted)
    hu[2, 3, 4] = np.nan
    refused(WRITERS[ending](tmp_path / f"a.{ending}", hu, dtype="f4"), "no finite numbers")


def test_headers_may_be_written_otherwise(tmp_path):
    hu = nifti_writer.volume()
    lying = {"AnatomicalOrientation": "LPS", "Modality": "MET_MOD_CT", "ObjectType": None}
    check(writer.meta(tmp_path / "a.mha", hu, **lying), hu)  # the matrix decides, as in ITK
    renamed = [(b"Offset", b"Position"), (b"TransformMatrix", b"Rotation")]
    check(writer.meta(tmp_path / "b.mhd", hu, replace=renamed), hu)
    check(writer.meta(tmp_path / "c.mhd", hu, replace=[(b"\n", b"\r\n")]), hu)
    check(writer.meta(tmp_path / "d.mhd", hu, data="some name.RAW"), hu)
    check(writer.meta(tmp_path / "e.mha", hu, data="e.raw"), hu)
    check(writer.meta(tmp_path / "f.mhd", hu, data="LOCAL"), hu)
    check(writer.meta(tmp_path / "g.mhd", hu, packed=True, CompressedDataSize=None), hu)
    check(writer.nrrd(tmp_path / "h.NHDR", hu, data="h.bin", data__file="./h.bin"), hu)
    renamed = [(b"space directions", b"spacedirections"), (b"encoding: gzip", b"encoding: gz")]
    check(
        writer.nrrd(tmp_path / "i.nrrd", hu, packed=True, space__units='"mm" "mm" "mm"', replace=renamed), hu
    )
    check(writer.nrrd(tmp_path / "j.nrrd", hu, replace=[(b"\n", b"\r\n")], data="j.raw"), hu)


# ---- refusals --------------------------------------------------------------------------

META = {
    "2d": ({"NDims": "2"}, "NDims is '2'"),
    "scene": ({"ObjectType": "Scene"}, "ObjectType is 'Scene'"),
    "ascii": ({"BinaryData": "False"}, "BinaryData is 'False'"),
    "channels": ({"ElementNumberOfChannels": "3"}, "ElementNumberOfChannels is '3'"),
    "skip": ({"HeaderSize": "-1"}, "HeaderSize is '-1'"),
    "cm": ({"DistanceUnits": "cm"}, "DistanceUnits is 'cm'"),
    "mr": ({"Modality": "MET_MOD_MR"}, "Modality is 'MET_MOD_MR'"),
    "slope": ({"ElementToIntensityFunctionSlope": "2"}, "Slope is not 1, .*store HU"),
    "no-matrix": ({"TransformMatrix": None}, "TransformMatrix is missing; write TransformMatrix = 1 0 0"),
    "short-matrix": ({"TransformMatrix": "1 0 0 0 1 0 0 0"}, "TransformMatrix is '1 0 0 0 1 0 0 0', 9 finite"),
    "long-axes": ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, r"lengths \[2\.0, 1\.0, 1\.0\], not 1"),
    "singular": ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "singular"),
    "oblique": ({"TransformMatrix": "0.8 0.6 0 -0.6 0.8 0 0 0 1"}, "turned by about 36.9 degrees.*resample it"),
    "no-offset": ({"Offset": None}, "Offset is missing; write Offset = 0 0 0"),
    "two-offsets": ({"Position": "0 0 0"}, "Offset and Position and Origin differ"),
    "nan": ({"Offset": "0 nan 0"}, "Offset is a text of 7 characters, 3 finite numbers"),
    "no-spacing": ({"ElementSpacing": None}, "ElementSpacing is missing"),
    "zero-spacing": ({"ElementSpacing": "0.5 0 2.5"}, "three distances above 0"),
    "underscore": ({"ElementSpacing": "0_5 0.75 2.5"}, "SimpleITK reads another geometry"),
    "no-dims": ({"DimSize": None}, "DimSize is missing, three counts"),
    "negative-dims": ({"DimSize": "-7 6 5"}, "DimSize is '-7 6 5'"),
    "huge": ({"DimSize": "9999999 9999999 9999999"}, "9999999 voxels, 1999999400000059999998 bytes, and there are 420"),
    "fewer": ({"DimSize": "7 6 4"}, "7 x 6 x 4 voxels, 336 bytes, and there are 420"),
    "few": ({"DimSize": "7 15 2"}, "2 slices along Superior"),
    "long": ({"ElementType": "MET_LONG"}, "ElementType is 'MET_LONG'"),
    "no-type": ({"ElementType": None}, "ElementType is missing"),
    "no-order": ({"BinaryDataByteOrderMSB": None}, "BinaryDataByteOrderMSB is missing"),
    "compressed": ({"CompressedData": "perhaps"}, "CompressedData is a text of 7 characters"),
    "not-compressed": ({"CompressedData": "True"}, "SimpleITK cannot read its voxels|checksum"),
    "twice": ({"replace": [(b"NDims = 3", b"NDims = 3\nNDims = 3")]}, "line 3 of its header repeats"),
    "no-field": ({"replace": [(b"NDims = 3", b"NDims = 3\nsecret")]}, "line 3 of its header is no 'Name = value'"),
    "null": ({"replace": [(b"secret", b"sec\0ret")]}, "line 10 of its header is no text"),
    "no-end": ({"replace": [(b"ElementDataFile", b"ElementDataFyle")]}, "no ElementDataFile|of its header is no"),
    "long-line": ({"Name": "A" * 300}, "line 14 of its header has over 240 characters; shorten it"),
    "stream-size": ({"CompressedDataSize": "77"}, "CompressedDataSize is '77', only '420' or none is read"),
    "words": ({"replace": [(b"ObjectType =", b"Object")]}, "it does not begin with a header"),
}  # fmt: skip


@pytest.mark.parametrize("case", META)
def test_metaimage_that_is_no_volume_is_refused(tmp_path, case):
    values, reason = META[case]
    for name in ("secret.mhd", "secret.mha"):
        fault = refused(writer.meta(tmp_path / name, nifti_writer.volume(), **values), reason)
        assert fault or case == "not-compressed"


NRRD = {
    "2d": ({"dimension": "2"}, "dimension is '2'"),
    "skip": ({"byte__skip": "-1"}, "byte skip is '-1'"),
    "lines": ({"line__skip": "1"}, "line skip is '1'"),
    "quantized": ({"old__min": "-1024"}, "quantized; store HU"),
    "units": ({"space__units": '"mm" "mm" "cm"'}, "only mm are read"),
    "no-space": ({"space": None, "space__dimension": "3"}, "space is missing, so nobody knows where left is"),
    "scanner": ({"space": "scanner-xyz"}, "space is 'scanner-xyz'"),
    "4d": ({"space": "left-posterior-superior-time"}, "space is 'left-posterior-superior-time'"),
    "hex": ({"encoding": "hex"}, "encoding is 'hex', only 'raw' or 'gzip'"),
    "bzip2": ({"encoding": "bzip2"}, "encoding is 'bzip2'"),
    "no-endian": ({"endian": None}, "endian is missing"),
    "type": ({"type": "block"}, "type is 'block'"),
    "no-directions": ({"space__directions": None, "spacings": "1 1 1"}, "space directions is missing, 3 vectors"),
    "none": ({"space__directions": "(1,0,0) none (0,0,1)"}, "space directions is not 3 vectors"),
    "zero": ({"space__directions": "(1,0,0) (0,0,0) (0,0,1)"}, "three distances above 0"),
    "oblique": ({"space__directions": "(0.8,0.6,0) (-0.6,0.8,0) (0,0,1)"}, "turned by about 36.9 degrees"),
    "no-origin": ({"space__origin": None}, "space origin is missing"),
    "huge": ({"sizes": "9999999 9999999 9999999"}, "9999999 voxels, 1999999400000059999998 bytes"),
    "fewer": ({"sizes": "7 6 4"}, "7 x 6 x 4 voxels, 336 bytes, and there are 420"),
    "channels": ({"kinds": "RGB-color domain domain"}, "SimpleITK"),
    "twice": ({"replace": [(b"dimension: 3", b"dimension: 3\ndimension: 3")]}, "line 5 of its header repeats"),
    "no-field": ({"replace": [(b"dimension: 3", b"dimension: 3\nsecret")]}, "line 5 of its header is no 'name: value'"),
    "long-line": ({"labels": "A" * 400}, "line 1[34] of its header has over 400 characters; shorten it"),
    "unknown": ({"replace": [(b"content:", b"secret:")]}, "SimpleITK cannot read its header"),
    "version": ({"replace": [(b"NRRD0004", b"NRRD0009")]}, "it does not begin with a header"),
}  # fmt: skip


@pytest.mark.parametrize("case", NRRD)
def test_nrrd_that_is_no_volume_is_refused(tmp_path, case):
    values, reason = NRRD[case]
    for name in ("secret.nrrd", "secret.nhdr"):
        assert refused(writer.nrrd(tmp_path / name, nifti_writer.volume(), **values), reason)


@pytest.mark.parametrize("case", ["mask", "offset", "unit"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_no_hu_is_refused(tmp_path, ending, case):
    hu = nifti_writer.volume().astype(np.float64)
    hu = {"mask": hu % 6, "offset": hu + 1024, "unit": (hu + 1024) / 4095 * 2 - 1}[case]
    refused(WRITERS[ending](tmp_path / f"a.{ending}", hu, dtype="f4"), "HU has air near -1000; store HU")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_cut_file_is_refused(tmp_path, ending, packed):
    """Of a header beside its voxels, the end of the last line may be missing, or a comment."""
    hu = nifti_writer.volume()
    header = WRITERS[ending](tmp_path / f"secret.{ending}", hu, packed=packed)
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        for length in {*range(0, len(data), 23), *range(len(data) - 10, len(data))}:
            path.write_bytes(data[:length])
            if path == header and ending in ("mhd", "nhdr"):
                assert read_header(path).fault or np.array_equal(decode(path)[0], hu)
            else:
                refused(header, None)
        if path != header or ending in ("mha", "nrrd"):
            path.write_bytes(data + b"\0")
            refused(header, "there are 421|CompressedDataSize is|checksum|cannot read its voxels")
        path.write_bytes(data)
    check(header, hu)


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_damage_within_compressed_voxels_is_noticed(tmp_path, ending):
    hu = nifti_writer.volume()
    path = WRITERS[ending](tmp_path / f"secret.{ending}", hu, packed=True)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    same = 0
    for place in rng.integers(
        data.index(b"\x78\x9c" if ending == "mha" else b"\x1f\x8b") + 10, len(data), 60
    ):
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        try:  # a few bits are in no use: those that fill the last byte
            np.testing.assert_array_equal(decode(path)[0], hu)
            same += 1
        except SeriesError as error:
            assert "secret" not in str(error)
    assert same < 5


def test_compressed_voxels_may_be_fewer_or_more_than_the_header_says(tmp_path):
    """The stream is whole and has its own checksum, but is another's."""
    for shape in ((5, 6, 8), (5, 6, 6), (500, 60, 70)):
        other = nifti_writer.volume(shape=shape).tobytes()
        for ending, stream in (("mhd", zlib.compress(other)), ("nhdr", gzip.compress(other))):
            path = WRITERS[ending](
                tmp_path / f"a.{ending}", nifti_writer.volume(), packed=True, CompressedDataSize=None
            )
            read_header(path).files[1].write_bytes(stream)
            refused(path, "checksum|cannot read its voxels")


def test_a_small_stream_is_not_a_huge_volume(tmp_path):
    values = {"DimSize": "4000 4000 4000", "CompressedDataSize": None}
    path = writer.meta(tmp_path / "a.mha", nifti_writer.volume(), packed=True, **values)
    assert refused(path, r"128000000000 bytes, more than its \d+ compressed bytes can hold")


def test_a_named_file_holds_the_voxels_only_if_it_is_of_the_folder_and_of_no_other_format(tmp_path):
    hu = nifti_writer.volume()
    (tmp_path / "raw").mkdir()
    for name in ("../a.raw", "/tmp/a.raw", "raw/a.raw", "..", "C:\\a.raw", "raw\\a.raw"):
        path = writer.meta(tmp_path / "a.mhd", hu, ElementDataFile=name)
        assert refused(path, "lies in another folder; put it beside the header")
        path = writer.nrrd(tmp_path / "a.nhdr", hu, data__file=name)
        assert refused(path, "lies in another folder; put it beside the header")
    for name in ("b.nii", "b.nii.gz", "b.mhd", "a.mhd", "b.dcm", "b"):
        path = writer.meta(tmp_path / "a.mhd", hu, ElementDataFile=name)
        assert refused(path, "unusual ending; one of .raw, ")
    for name in ("LIST", "LIST 2", "slice%03d.raw 0 4 1"):
        path = writer.meta(tmp_path / "a.mhd", hu, ElementDataFile=name)
        assert refused(path, "a list of files; store the volume again")
        path = writer.nrrd(tmp_path / "a.nhdr", hu, data__file=name)
        assert refused(path, "a list of files; store the volume again")
    for name in ("lost.raw", "raw.raw"):
        (tmp_path / "raw.raw").mkdir(exist_ok=True)
        path = writer.meta(tmp_path / "a.mhd", hu, ElementDataFile=name)
        assert refused(path, "its data file is missing; put it beside the header")
        assert read_header(path).files == (path,)


# ---- in a tree of files ----------------------------------------------------------------


def test_scan_counts_a_header_and_its_voxels_together(tmp_path):
    hu = [nifti_writer.volume(seed) for seed in range(6)]
    (tmp_path / "a").mkdir()
    writer.meta(tmp_path / "a" / "one.mhd", hu[0])
    writer.meta(tmp_path / "a" / "two.mhd", hu[1], packed=True)
    writer.nrrd(tmp_path / "a" / "three.nhdr", hu[2])
    writer.meta(tmp_path / "four.mha", hu[3])
    writer.nrrd(tmp_path / "five.nrrd", hu[4])
    cut = writer.meta(tmp_path / "six.mhd", hu[5]).with_suffix(".raw")
    cut.write_bytes(cut.read_bytes()[:-1])
    (tmp_path / "lost.raw").write_bytes(b"1234")
    series, problems = scan(tmp_path)
    assert sorted(series["n_files"]) == [1, 1, 2, 2, 2] and set(series["n_slices"]) == {5}
    assert series["series_uid"].str.split("-").str[0].value_counts().to_dict() == {"metaimage": 3, "nrrd": 2}
    assert dict(zip(problems["n_files"], problems["reason"], strict=True)) == {
        2: "Refused: its header says 7 x 6 x 5 voxels, 420 bytes, and there are 419; copy or export it again.",
        1: "Refused: not a DICOM file: by its name it is voxels without a header; put the .mhd or .nhdr that names it "
        "into its folder.",
    }
    for _, row in series.iterrows():
        volume = read_series(row["files"])
        assert volume.series_uid == row["series_uid"]
        assert any(np.array_equal(volume.hu, wanted) for wanted in hu)
        np.testing.assert_allclose(volume.z_mm, row["z_mm"])
    assert open_series(tmp_path / "a" / "one.mhd").shape == (5, 6, 7)
    with pytest.raises(SeriesError, match=r"^Series in six\.mhd is refused: six\.mhd: its header says"):
        read_series(tmp_path / "six.mhd")


def test_two_headers_of_the_same_voxels_are_one_volume(tmp_path):
    path = writer.meta(tmp_path / "a.mhd", nifti_writer.volume())
    (tmp_path / "b.mhd").write_bytes(path.read_bytes().replace(b"Mustermann", b"Somebody"))
    series, problems = scan(tmp_path)
    assert series["n_files"].tolist() == [2]
    assert problems["path"].tolist() == ["b.mhd"] and listing.SHARED in problems["reason"][0]


def test_a_changed_file_of_voxels_is_another_source(tmp_path):
    path = writer.meta(tmp_path / "a.mhd", nifti_writer.volume())
    before = scan(tmp_path)[0].loc[0, ["source", "series_uid"]]
    path.with_suffix(".raw").write_bytes(nifti_writer.volume(1).tobytes())
    after = scan(tmp_path)[0].loc[0, ["source", "series_uid"]]
    assert (before != after).all()


@pytest.mark.parametrize("ending", ENDINGS)
def test_labels_name_such_a_file(tmp_path, ending):
    for k in range(2):
        WRITERS[ending](tmp_path / f"p{k}.{ending}", nifti_writer.volume(k))
    rows = pd.DataFrame({"study": ["p0", f"p1.{ending}"], "label": [1, 0]})
    rows.to_csv(tmp_path / "labels.csv", index=False)
    cohort = load(tmp_path, tmp_path / "labels.csv", Columns())
    assert sorted(cohort.series["label"]) == [0, 1]


def test_nothing_is_found_of_a_pipe_or_a_lost_file(tmp_path):
    assert refused(tmp_path / "secret.mhd", "it cannot be read \\(No such file")
    (tmp_path / "secret.mha").write_bytes(b"")
    assert refused(tmp_path / "secret.mha", "the file is empty")


@pytest.mark.parametrize("ending", ENDINGS)
def test_names_may_have_any_letters_if_they_are_utf_8(tmp_path, ending):
    hu = nifti_writer.volume()
    (tmp_path / "Müller %d").mkdir()
    check(WRITERS[ending](tmp_path / "Müller %d" / f"ä b.{ending}", hu), hu)
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    folder.mkdir()
    assert refused(WRITERS[ending](folder / f"a.{ending}", hu), "not UTF-8; rename it")


def test_a_false_length_of_gzip_is_noticed(tmp_path):
    path = writer.nrrd(tmp_path / "a.nrrd", nifti_writer.volume(), packed=True)
    data = path.read_bytes()
    path.write_bytes(data[:-4] + struct.pack("<I", 421))
    refused(path, "checksum|cannot read its voxels")
