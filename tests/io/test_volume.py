import io
import os
import pickle
import struct
import tarfile
import warnings
from pathlib import Path

import dicom_writer as writer
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import CTImageStorage

from ctlib.io.dicom_header import read_header
from ctlib.io.dicom_pixels import read_plane
from ctlib.io.geometry import upright, upright_points
from ctlib.io.volume import SeriesError, Volume, read_series, scan


def name_of(orientation):
    return "-".join(
        "".join("xyz"[i] if d[i] > 0 else "XYZ"[i] for i in range(3) if d[i]) for d in orientation
    )


def counted(folder):
    return sum(1 for path in folder.rglob("*") if path.is_file())


# ---- geometry --------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", writer.AXIAL, ids=name_of)
def test_axial_volumes_come_back_upright(tmp_path, orientation):
    hu = writer.volume()
    writer.write(tmp_path, writer.slices(hu, *orientation))
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    np.testing.assert_allclose(volume.spacing_mm, writer.SPACING_MM, rtol=1e-12)
    np.testing.assert_allclose(volume.origin_mm, writer.ORIGIN_MM, atol=1e-9)
    np.testing.assert_allclose(volume.z_mm, -80.5 + 2.5 * np.arange(5), atol=1e-9)
    series, problems = scan(tmp_path)
    row = series.iloc[0]
    assert problems.empty and row["n_files"] == row["n_slices"] == 5
    assert (row["rows_px"], row["cols_px"]) == hu.shape[1:]
    np.testing.assert_allclose(
        row[["spacing_z_mm", "spacing_y_mm", "spacing_x_mm"]].astype(float), writer.SPACING_MM
    )
    np.testing.assert_allclose(row["z_mm"], volume.z_mm, atol=1e-9)
    for file, plane in zip(row["files"], hu, strict=True):
        stored = pydicom.dcmread(file).pixel_array
        np.testing.assert_array_equal(upright(stored, row["orientation"]), plane)


@pytest.mark.parametrize(
    "orientation", [o for o in writer.ORIENTATIONS if o not in writer.AXIAL], ids=name_of
)
def test_other_planes_are_refused(tmp_path, orientation):
    writer.write(tmp_path, writer.slices(writer.volume(), *orientation))
    with pytest.raises(SeriesError, match=r"sagittal|coronal"):
        read_series(tmp_path)
    assert scan(tmp_path)[1]["n_files"].sum() == counted(tmp_path)


@pytest.mark.parametrize("orientation", ["LP", "RP", "LA", "RA", "PL", "AL", "PR", "AR"])
def test_points_move_with_their_pixels(orientation):
    acquired = np.arange(20).reshape(4, 5)
    turned = upright(acquired, orientation)
    points = np.argwhere(acquired >= 0)
    moved = upright_points(points, orientation, turned.shape)
    np.testing.assert_array_equal(turned[tuple(moved.T)], acquired[tuple(points.T)])


def test_positions_may_be_rounded(tmp_path):
    found = writer.slices(writer.volume(), spacing_mm=(0.625, 0.75, 0.5))
    for ds in found:
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], round(float(ds.ImagePositionPatient[2]), 1)]
    writer.write(tmp_path, found)
    assert read_series(tmp_path).spacing_mm[0] == pytest.approx(0.625, abs=0.02)


# ---- Hounsfield units ------------------------------------------------------------------


def test_slope_and_intercept_belong_to_the_slice(tmp_path):
    hu = writer.volume()
    found = writer.slices(hu)
    rescale = [(1, 0), (1, -1024), (2, -1000), (0.5, -24.5), (1.25, 3)]
    for ds, (slope, intercept) in zip(found, rescale, strict=True):
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    writer.write(tmp_path, found)
    volume = read_series(tmp_path)
    for plane, stored, (slope, intercept) in zip(volume.hu, hu, rescale, strict=True):
        wanted = np.clip(np.rint(stored.astype(float) * slope + intercept), -1024, 3071)
        np.testing.assert_array_equal(plane, wanted)


def test_stored_values_keep_their_sign_and_lose_their_unused_bits(tmp_path):
    hu = np.clip(writer.volume(), -1024, 1000)
    found = writer.slices(hu)
    for k, (ds, plane) in enumerate(zip(found, hu, strict=True)):
        if k % 2:  # unsigned, 12 bits, an overlay above them
            ds.PixelRepresentation, ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 0, 12, 11, -1024
            ds.PixelData = ((plane.astype(np.int32) + 1024).astype("<u2") | 0x3000).tobytes()
        else:  # signed, 12 bits, zeros above them
            ds.BitsStored, ds.HighBit = 12, 11
            ds.PixelData = (plane.astype("<u2") & 0x0FFF).tobytes()
    writer.write(tmp_path, found)
    np.testing.assert_array_equal(read_series(tmp_path).hu, hu)


def test_padding_is_clipped_to_air(tmp_path):
    found = writer.slices(np.full(writer.SHAPE, -3024, np.int16))
    writer.write(tmp_path, found)
    assert np.unique(read_series(tmp_path).hu).tolist() == [-1024]


# ---- refusals --------------------------------------------------------------------------


def drop_slice(found):
    del found[2]


def drop_all_but_two(found):
    del found[2:]


def repeat_position(found):
    found[3].ImagePositionPatient = found[2].ImagePositionPatient


def move_slice(found):
    x, y, z = found[2].ImagePositionPatient
    found[2].ImagePositionPatient = [x, y, z + 0.5]


def tilt(found):
    for ds in found:
        ds.ImageOrientationPatient = [1, 0, 0, 0, 0.970295726276, -0.2419218955997]


def shear(found):
    for k, ds in enumerate(found):
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y + 0.2 * k, z]


def mix_matrix(found):
    found[1].Rows, found[1].Columns = found[1].Columns, found[1].Rows


def mix_orientation(found):
    found[4].ImageOrientationPatient = [1, 0, 0, 0, -1, 0]


def mix_spacing(found):
    found[0].PixelSpacing = [0.76, 0.5]


def mix_patients(found):
    found[0].PatientID = "P2"


def put(**values):
    """Sets values of one slice; None deletes."""

    def change(found):
        for name, value in values.items():
            if value is None:
                delattr(found[1], name)
            else:
                setattr(found[1], name, value)

    return change


def put_all(**values):
    def change(found):
        for ds in found:
            for name, value in values.items():
                setattr(ds, name, value)

    return change


REFUSALS = {
    "gap": (drop_slice, r"2\.500 to 5\.000 mm apart"),
    "uneven": (move_slice, r"2\.000 to 3\.000 mm apart"),
    "two": (drop_all_but_two, "has 2 slices, at least 3"),
    "duplicate": (repeat_position, r"5 files lie at 4 positions.*both at z -75\.5 mm"),
    "tilt": (tilt, r"tilted or turned by about 14\.0 degrees"),
    "tilt-tag": (put_all(GantryDetectorTilt="18.5"), r"GantryDetectorTilt is 18\.5 degrees"),
    "shear": (shear, "shifted sideways"),
    "patients": (mix_patients, "2 different PatientIDs"),
    "no-position": (put(ImagePositionPatient=None), "ImagePositionPatient is missing"),
    "no-spacing": (put(PixelSpacing=None), "PixelSpacing is missing"),
    "zero-spacing": (put(PixelSpacing=[0, 0.5]), "PixelSpacing is"),
    "no-orientation": (put(ImageOrientationPatient=None), "ImageOrientationPatient is missing"),
    "no-slope": (
        put(RescaleSlope=None),
        "RescaleSlope is missing, so its values may be no HU; .*write RescaleSlope 1",
    ),
    "zero-slope": (put(RescaleSlope=0), "RescaleSlope is 0, 0.01 to 100 is plausible"),
    "no-intercept": (put(RescaleIntercept=None), "RescaleIntercept is missing, so its values may be no HU"),
    "frames": (put_all(NumberOfFrames=2), "a file of 2 frames, .*; convert it .* dcm2niix"),
    "colour": (put_all(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "SamplesPerPixel is '3'"),
    "palette": (put_all(PhotometricInterpretation="PALETTE COLOR"), "only grey images"),
    "no-photometric": (put(PhotometricInterpretation=None), "PhotometricInterpretation is missing"),
    "bits": (put(BitsAllocated=8, BitsStored=8, HighBit=7), "BitsAllocated is '8'"),
    "high-bit": (put(BitsStored=12, HighBit=15), "HighBit 15; 2 to 16 and BitsStored - 1 are needed"),
    "sign": (put(PixelRepresentation=None), "PixelRepresentation is missing"),
    "mr": (put_all(Modality="MR"), "Modality is 'MR'"),
    "no-matrix": (put(Rows=None), "Rows is missing"),
    "huge-matrix": (put(Rows=65535), "Rows is 65535, 1 to 4096 is plausible"),
    "huge-slope": (put(RescaleSlope="1e308"), r"RescaleSlope is 1e\+308, 0\.01 to 100 is plausible"),
    "far-away": (put(ImagePositionPatient=[0, 0, 1e9]), r"ImagePositionPatient is 1e\+09"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_volume_is_refused(tmp_path, case):
    change, reason = REFUSALS[case]
    found = writer.slices(writer.volume())
    change(found)
    writer.write(tmp_path / "a", found)
    with pytest.raises(SeriesError, match=rf"^Series 1\.2\.3 is refused: .*{reason}"):
        read_series(tmp_path / "a")
    series, problems = scan(tmp_path)
    assert series.empty and problems["n_files"].sum() == len(found)
    assert problems["path"].tolist() == ["a"]
    assert problems["reason"].str.contains(reason, regex=True).all()


@pytest.mark.parametrize("name", ["Modality", "GantryDetectorTilt", "Manufacturer", "ConvolutionKernel"])
def test_what_a_file_need_not_say_may_be_absent(tmp_path, name):
    found = writer.slices(writer.volume())
    for ds in found:
        setattr(ds, name, None)
    writer.write(tmp_path, found)
    np.testing.assert_array_equal(read_series(tmp_path).hu, writer.volume())


# ---- what else a series may hold --------------------------------------------------------


def judged(folder):
    """The volume of a folder, and the refused files of its scan by reason."""
    series, problems = scan(folder)
    assert series["n_files"].sum() + problems["n_files"].sum() == counted(folder)
    return read_series(folder), dict(zip(problems["reason"], problems["n_files"], strict=True))


def beside(hu, **values):
    """A slice somewhere else, with other values: a localizer, a capture."""
    ds = writer.slices(hu)[0]
    ds.SOPInstanceUID = "1.2.3.99"
    for name, value in values.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


BESIDE = {
    "localizer": (dict(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "it is a localizer"),
    "capture": (
        dict(SamplesPerPixel=3, PhotometricInterpretation="RGB", ImagePositionPatient=None),
        "only grey images are read",
    ),
    "no place": (
        dict(ImagePositionPatient=None, ImageOrientationPatient=None),
        "neither ImagePositionPatient nor",
    ),
    "report": (dict(Modality="SR"), "Modality is 'SR', only CT has HU"),
    "frames": (dict(NumberOfFrames=9), "a file of 9 frames"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_what_is_no_slice_is_set_aside(tmp_path, case):
    values, reason = BESIDE[case]
    hu = writer.volume()
    writer.write(tmp_path, [*writer.slices(hu), beside(hu, **values)])
    volume, refused = judged(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    ((told, n),) = refused.items()
    assert n == 1 and reason in told and told.endswith("set aside.")


def test_planes_of_another_kind_are_judged_apart(tmp_path):
    hu = writer.volume()
    sagittal = writer.slices(writer.volume(1), (0, 1, 0), (0, 0, -1))
    for k, ds in enumerate(sagittal):
        ds.SOPInstanceUID = f"1.2.3.5{k}"
    small = writer.slices(writer.volume(2)[:2, :4, :4], origin_mm=(50.0, 0.0, 0.0))
    for k, ds in enumerate(small):
        ds.SOPInstanceUID = f"1.2.3.7{k}"
    writer.write(tmp_path, [*writer.slices(hu), *sagittal, *small])
    volume, refused = judged(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    assert sorted(refused.values()) == [2, 7]
    assert any("sagittal" in reason for reason in refused)
    assert any("it has 2 slices, at least 3" in reason for reason in refused)


@pytest.mark.parametrize("change", [mix_matrix, drop_slice], ids=["another matrix", "missing"])
def test_a_slice_sorted_out_of_the_middle_leaves_a_gap(tmp_path, change):
    found = writer.slices(writer.volume())
    change(found)
    writer.write(tmp_path, found)
    with pytest.raises(SeriesError, match=r"2\.500 to 5\.000 mm apart"):
        read_series(tmp_path)
    assert scan(tmp_path)[1]["n_files"].sum() == len(found)


@pytest.mark.parametrize(("change", "place"), [(mix_orientation, 4), (mix_spacing, 0)])
def test_an_odd_slice_at_an_end_leaves_a_volume_and_is_told(tmp_path, change, place):
    found = writer.slices(writer.volume())
    change(found)
    writer.write(tmp_path, found)
    volume, refused = judged(tmp_path)
    np.testing.assert_array_equal(volume.hu, np.delete(writer.volume(), place, axis=0))
    assert list(refused.values()) == [1]


def acquired(hu, number, uid_from, **options):
    found = writer.slices(hu, **options)
    for k, ds in enumerate(found):
        ds.AcquisitionNumber, ds.SOPInstanceUID = number, f"1.2.3.{uid_from + k}"
    return found


def test_acquisitions_at_the_same_positions_are_two_volumes(tmp_path):
    one, two = writer.volume(1), writer.volume(2)
    writer.write(tmp_path, [*acquired(one, 1, 10), *acquired(two, 2, 20)])
    with pytest.raises(SeriesError, match="it holds 2 volumes"):
        read_series(tmp_path)
    series, problems = scan(tmp_path)
    assert problems.empty and sorted(series["series_uid"]) == ["1.2.3#1", "1.2.3#2"]
    read = [read_series(files).hu for files in series["files"]]
    assert all(any(np.array_equal(hu, wanted) for hu in read) for wanted in (one, two))


def test_acquisitions_that_interleave_evenly_are_not_mixed(tmp_path):
    """All ten slices are evenly spaced, yet they are of two breaths."""
    one, two = writer.volume(1), writer.volume(2)
    z, y, x = writer.ORIGIN_MM
    shifted = acquired(two, 2, 20, origin_mm=(z + writer.SPACING_MM[0] / 2, y, x))
    writer.write(tmp_path, [*acquired(one, 1, 10), *shifted])
    series, problems = scan(tmp_path)
    assert problems.empty and series["n_slices"].tolist() == [5, 5]


def test_acquisitions_that_follow_one_another_are_one_volume(tmp_path):
    found = writer.slices(writer.volume())
    for k, ds in enumerate(found):
        ds.AcquisitionNumber = k
    writer.write(tmp_path, found)
    np.testing.assert_array_equal(judged(tmp_path)[0].hu, writer.volume())


def test_a_copy_is_set_aside_and_another_slice_at_its_place_is_not(tmp_path):
    writer.write(tmp_path, writer.slices(writer.volume()))
    first = (tmp_path / "000.dcm").read_bytes()
    (tmp_path / "copy.dcm").write_bytes(first)
    volume, refused = judged(tmp_path)
    np.testing.assert_array_equal(volume.hu, writer.volume())
    assert list(refused.values()) == [1] and "byte for byte" in next(iter(refused))
    (tmp_path / "copy.dcm").write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
    with pytest.raises(SeriesError, match="6 files lie at 5 positions"):
        read_series(tmp_path)


def test_series_without_uids_go_by_their_folders(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        found = writer.slices(writer.volume(seed))
        for ds in found:
            ds.SeriesInstanceUID, ds.SOPInstanceUID = "", ""
        writer.write(tmp_path / name, found)
    series, problems = scan(tmp_path)
    assert problems.empty and series["series_uid"].is_unique
    assert all(uid.startswith("unnamed-") for uid in series["series_uid"])
    volume = read_series(tmp_path / "b")
    assert volume.series_uid in set(series["series_uid"])
    np.testing.assert_array_equal(volume.hu, writer.volume(2))


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    writer.write(tmp_path, writer.slices(writer.volume()))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    series, problems = scan(tmp_path)
    assert len(series) == 1
    assert sorted(problems["path"]) == ["broken", "pipe"]
    assert problems["reason"].str.contains("no regular file").sum() == 1


def test_reasons_tell_nothing_that_could_be_a_name(tmp_path):
    secret = "Doe^Jane"
    for k, name in enumerate(["Modality", "ImageType", "PhotometricInterpretation", "RescaleSlope"]):
        found = writer.slices(writer.volume(), uid=f"1.2.{k}")
        for ds in found:
            ds[name] = pydicom.DataElement(ds[name].tag if name in ds else name, "LO", secret)
        writer.write(tmp_path / secret / str(k), found)
    (tmp_path / secret / f"{secret}.dcm").write_text(secret)
    series, problems = scan(tmp_path)
    assert len(series) == 1 and len(problems) == 4
    assert not problems["reason"].str.contains("Doe|Jane").any()
    assert problems["reason"].str.contains("a text of 8 characters").sum() == 3


def test_folders_are_read_by_any_map(tmp_path):
    for k in range(4):
        writer.write(tmp_path / str(k), writer.slices(writer.volume(k), uid=f"1.2.{k}"))
    spread = writer.slices(writer.volume(9), uid="1.2.9")
    writer.write(tmp_path / "8", spread[:2])
    writer.write(tmp_path / "9", spread[2:])
    asked = []

    def pickling(function, items, what):
        asked.append(len(items))
        return [pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(item))) for item in items]

    series, problems = scan(tmp_path, run=pickling)
    pd.testing.assert_frame_equal(series, scan(tmp_path)[0])
    assert problems.empty and len(series) == 5 and asked == [1, 1]


PIXELS = {
    "none": (lambda data: None, "no PixelData"),
    "cut": (lambda data: data[:-2], "PixelData has 82 bytes, 84 are needed"),
    "long": (lambda data: data + data, "PixelData has 168 bytes, 84 are needed"),
}
SHORT = "truncated, 74 of 84 bytes"


@pytest.mark.parametrize("case", PIXELS)
def test_pixels_must_be_as_many_as_the_matrix(tmp_path, case):
    change, reason = PIXELS[case]
    found = writer.slices(writer.volume())
    data = change(found[2].PixelData)
    if data is None:
        del found[2].PixelData
    else:
        found[2].PixelData = data
    writer.write(tmp_path, found)
    with pytest.raises(SeriesError, match=reason):
        read_series(tmp_path)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_a_group_length_before_the_pixels_is_passed_over(tmp_path, syntax):
    """Retired in 2007, written to this day; pydicom leaves it out of what it writes."""
    hu = writer.volume()
    found = writer.slices(hu)
    order, implicit = (">" if syntax.endswith(".2.2") else "<"), syntax == "1.2.840.10008.1.2"
    pixels = struct.pack(f"{order}HH", 0x7FE0, 0x0010)
    length = struct.pack(f"{order}HH", 0x7FE0, 0) + (b"" if implicit else b"UL")
    length += struct.pack(f"{order}{'I' if implicit else 'H'}I", 4, 96)
    for k, ds in enumerate(found):
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(f"{order}i2").tobytes()
        written = io.BytesIO()
        pydicom.dcmwrite(
            written, ds, implicit_vr=implicit, little_endian=order == "<", enforce_file_format=True
        )
        assert written.getvalue().count(pixels) == 1
        (tmp_path / f"{k}.dcm").write_bytes(written.getvalue().replace(pixels, length + pixels))
    np.testing.assert_array_equal(read_series(tmp_path).hu, hu)


@pytest.mark.parametrize("meta", [True, False], ids=["no preamble", "nor file meta"])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"])
def test_a_missing_preamble_is_no_loss(tmp_path, syntax, meta):
    hu, implicit = writer.volume(), syntax == "1.2.840.10008.1.2"
    for k, ds in enumerate(writer.slices(hu)):
        if syntax.endswith(".2.5"):
            ds.compress(syntax)
        ds.file_meta.TransferSyntaxUID = syntax
        if not meta:
            del ds.file_meta
        ds.save_as(tmp_path / f"{k}.dcm", implicit_vr=implicit, little_endian=True)
    assert (tmp_path / "0.dcm").read_bytes()[128:132] != b"DICM"
    if syntax.endswith(".2.5") and not meta:  # nobody can tell how it is encoded
        with pytest.raises(SeriesError, match=r"PixelData"):
            read_series(tmp_path)
        return
    np.testing.assert_array_equal(read_series(tmp_path).hu, hu)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"])
def test_long_headers_are_read_wherever_they_are_cut(tmp_path, syntax):
    """The beginning of a file is read first; what is cut off there must not be taken for damage."""
    hu = writer.volume()
    found = writer.slices(hu)
    for k, size in enumerate([15_000, 15_350, 15_500, 16_000, 100_000]):
        ds = found[k]
        ds.file_meta.TransferSyntaxUID = syntax
        block = ds.private_block(0x0009, "MAKER", create=True)
        block.add_new(1, "OB", b"\1" * size)
        block.add_new(2, "SQ", [pydicom.Dataset() for _ in range(30)])
        block[2].is_undefined_length = True
        with pydicom.config.disable_value_validation():
            how = {"implicit_vr": syntax == "1.2.840.10008.1.2", "little_endian": True}
            ds.save_as(tmp_path / f"{k}.dcm", **how, enforce_file_format=True)
    np.testing.assert_array_equal(read_series(tmp_path).hu, hu)
    template = (tmp_path / "0.dcm").read_bytes()
    if syntax.endswith("99"):
        return
    rows = template.index(b"\x28\x00\x10\x00")  # moved over the end of what is read first, byte by byte
    at = template.index(b"\1" * 15_000)
    for size in range(16_384 - rows + 15_000 - 12, 16_384 - rows + 15_000 + 12, 2):
        data = bytearray(template[:at] + b"\1" * size + template[at + 15_000 :])
        data[at - 4 : at] = size.to_bytes(4, "little")
        (tmp_path / "0.dcm").write_bytes(data)
        assert read_header(tmp_path / "0.dcm").fault == "", size


def test_sequences_behind_the_pixels_are_no_stray_bytes(tmp_path):
    found = writer.slices(writer.volume())
    for ds in found:
        ds.add_new(0xFFFAFFFA, "SQ", [pydicom.Dataset()])  # a digital signature
        ds[0xFFFAFFFA].is_undefined_length = True
        ds.add_new(0xFFFCFFFC, "OB", bytes(10))
    writer.write(tmp_path, found)
    np.testing.assert_array_equal(read_series(tmp_path).hu, writer.volume())
    path = tmp_path / "000.dcm"
    path.write_bytes(path.read_bytes() + b"\0\0")
    with pytest.raises(SeriesError, match="what follows PixelData is no DICOM element"):
        read_series(tmp_path)


def test_a_file_cut_short_is_no_slice(tmp_path):
    writer.write(tmp_path, writer.slices(writer.volume()))
    path = tmp_path / "000.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SeriesError, match=rf"000\.dcm: .*{SHORT}"):
        read_series(tmp_path)
    series, problems = scan(tmp_path)  # it is noticed before any pixel is read
    assert series.empty and SHORT in problems["reason"][0]


def test_two_series_are_not_read_as_one(tmp_path):
    hu = writer.volume()
    writer.write(tmp_path, writer.slices(hu[:3]))
    upper = writer.slices(hu[3:], origin_mm=(-73.0, *writer.ORIGIN_MM[1:]), uid="1.2.4")
    writer.write(tmp_path, upper, names=["a", "b"])
    with pytest.raises(SeriesError, match="2 different SeriesInstanceUIDs"):
        read_series(tmp_path)


# ---- scanning --------------------------------------------------------------------------


def test_scan_finds_series_by_their_uids_and_accounts_for_each_file(tmp_path):
    whole = writer.slices(writer.volume(), uid="1.2.3")
    writer.write(tmp_path / "one", whole[:2])
    writer.write(tmp_path / "two", whole[2:])
    writer.write(tmp_path / "two", writer.slices(writer.volume(1), uid="1.2.5"), names=list("abcde"))
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "two" / "empty.dcm").touch()
    for n in range(3):
        (tmp_path / "two" / f"{n}.log").write_text("no DICOM")
    series, problems = scan(tmp_path)
    assert sorted(series["series_uid"]) == ["1.2.3", "1.2.5"]
    assert series["n_files"].sum() + problems["n_files"].sum() == counted(tmp_path) == 15
    reasons = dict(zip(problems["path"], problems["reason"], strict=True))
    assert set(reasons) == {"notes.txt", "two/empty.dcm", "two"}
    assert "empty" in reasons["two/empty.dcm"] and "not a DICOM file" in reasons["two"]
    spread = series.set_index("series_uid").loc["1.2.3"]
    np.testing.assert_array_equal(read_series(spread["files"]).hu, writer.volume())
    assert scan(tmp_path, skip=[tmp_path / "notes.txt"])[1]["n_files"].sum() == 4


def test_what_lies_beside_the_slices_of_a_folder_is_passed_over(tmp_path):
    writer.write(tmp_path, writer.slices(writer.volume()))
    (tmp_path / "readers.xml").write_text("<marks/>")
    assert read_series(tmp_path).hu.shape == writer.SHAPE
    (tmp_path / "slice.dcm").write_text("damaged")
    with pytest.raises(SeriesError, match=r"slice\.dcm: not a DICOM file"):
        read_series(tmp_path)


def test_an_empty_tree_gives_empty_tables(tmp_path):
    series, problems = scan(tmp_path)
    assert series.empty and problems.empty
    with pytest.raises(SeriesError, match="no DICOM files"):
        read_series(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        scan(tmp_path / "nowhere")


def test_hashed_uids_raise_no_warnings(tmp_path):
    with pydicom.config.disable_value_validation():
        found = writer.slices(writer.volume())
        for k, ds in enumerate(found):
            ds.SOPClassUID, ds.SOPInstanceUID = "9f2c41e07a1b", f"{k}d83fd9aa17c4"
            ds.SeriesInstanceUID, ds.StudyInstanceUID = "fa0112d8cc34", "52ab77e1a03f"
            del ds.PatientID
        writer.write(tmp_path, found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_series(tmp_path).series_uid == "fa0112d8cc34"
        series, problems = scan(tmp_path)
    assert problems.empty and series["patient_id"].tolist() == ["52ab77e1a03f"]


def test_a_volume_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match="int16"):
        Volume(np.zeros((2, 2, 2), np.float32), (1, 1, 1), "1", (0, 0, 0))
    with pytest.raises(ValueError, match="spacing"):
        Volume(np.zeros((2, 2, 2), np.int16), (1, 0, 1), "1", (0, 0, 0))


# ---- real files ------------------------------------------------------------------------

LOSSLESS = {"1.2", "1.2.1", "1.2.2", "1.2.1.99", "1.2.5", "1.2.4.57", "1.2.4.70", "1.2.4.80", "1.2.4.90"}
LOSSY = {"1.2.4.50", "1.2.4.51", "1.2.4.53", "1.2.4.55", "1.2.4.81", "1.2.4.91"}


def in_series(source, folder, cut=0.0):
    """Three slices with the pixels of one file, in its transfer syntax; the second may be cut."""
    folder.mkdir()
    for k in range(3):
        ds = pydicom.dcmread(source)
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, z + 5 * k]
        ds.save_as(folder / f"{k}.dcm")
    if cut:
        path = folder / "1.dcm"
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * (1 - cut))])
    return folder


def test_every_lossless_syntax_decodes_to_the_same_hu(shared_data, tmp_path):
    seen = {}
    zoo = shared_data / "codec-zoo-chest-slice"
    truth = read_series(in_series(zoo / "CTImage.dcm", tmp_path / "truth")).hu
    native = pydicom.dcmread(zoo / "CTImage.dcm")
    stored = np.frombuffer(native.PixelData, "<i2").reshape(512, 512).astype(int) - 1024
    np.testing.assert_array_equal(truth[1], np.clip(stored, -1024, 3071))
    for number, path in enumerate(sorted(zoo.glob("CTImage*"))):
        syntax = str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        short = syntax.removeprefix("1.2.840.10008.")
        folder = in_series(path, tmp_path / str(number))
        try:
            np.testing.assert_array_equal(read_series(folder).hu, truth, err_msg=short)
            seen[short] = "read"
        except SeriesError as error:
            assert "transfer syntax" in str(error)
            seen[short] = "refused"
    assert seen == dict.fromkeys(LOSSLESS, "read") | dict.fromkeys(LOSSY, "refused")


def test_every_lossless_file_is_a_slice_as_it_lies_there(shared_data):
    """Not only after pydicom wrote it anew: the originals hold what it leaves out."""
    planes = {}
    for path in sorted((shared_data / "codec-zoo-chest-slice").glob("CTImage*")):
        found = read_header(path)
        syntax = str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        assert (found.fault == "") == (syntax.removeprefix("1.2.840.10008.") in LOSSLESS), path.name
        if not found.fault:
            plane = np.empty(found.matrix, np.int16)
            read_plane(found, plane)
            planes[path.name] = plane
    truth = planes["CTImage.dcm"]
    assert len(planes) == 10 and np.ptp(truth) > 1500  # nine syntaxes, one of them twice
    for name, plane in planes.items():
        np.testing.assert_array_equal(plane, truth, err_msg=name)


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("cut", [0.02, 0.4])
def test_pixels_cut_short_are_refused_in_every_syntax(shared_data, tmp_path, cut):
    for number, path in enumerate(sorted((shared_data / "codec-zoo-chest-slice").glob("CTImage*"))):
        folder = in_series(path, tmp_path / str(number), cut)
        with pytest.raises(SeriesError):
            read_series(folder)


REAL = {
    # folder of ../shared/data: what becomes of its files; None is a volume
    "totalseg-j2k20": None,
    "lidc-idri-0314": None,
    "ge-tilt-varspacing": "GantryDetectorTilt is 18.5 degrees, not 0: a tilted volume is sheared",
    "gantrytilting/001": "its planes are tilted or turned by about 14.0 degrees",
    "notavolume/001": "its 4 files lie at 1 position",
    "slicecount/001": "Modality is 'MR', only CT has HU",
    "sliceincrement/001": "its slices are 5.000 to 10.000 mm apart",
    "sliceincrement/002": "its planes are tilted or turned by about 15.5 degrees",
    "sliceorientation/001": "Modality is 'MR', only CT has HU",
    "no-pixel-data.dcm": "Modality is 'SR', only CT has HU",
    "no-pixel-spacing.dcm": "Modality is 'US', only CT has HU",
    "CT1_J2KR": "it has 1 slice, at least 3 are needed",
}


@pytest.fixture(scope="session")
def real_files(shared_data, lidc_sample, tmp_path_factory):
    """All real files, each series in a folder of its own."""
    root = tmp_path_factory.mktemp("real")
    for path in shared_data.rglob("*"):
        if path.is_file() and path.suffix != ".xz":
            target = root / path.relative_to(shared_data)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    for archive in ("ge-tilt-varspacing/series.tar.xz", "geom-failures/failing.tar.xz"):
        with tarfile.open(shared_data / archive) as tar:
            tar.extractall((root / archive).parent, filter="data")
    for path in lidc_sample.iterdir():
        (root / "lidc-idri-0314" / path.name).symlink_to(path)
    return root


def test_every_real_file_is_accounted_for(real_files):
    series, problems = scan(real_files)
    assert series["n_files"].sum() + problems["n_files"].sum() == counted(real_files) > 350
    read = {str(Path(files[0]).parent.relative_to(real_files)) for files in series["files"]}
    assert read == {name for name, reason in REAL.items() if reason is None}
    for name, reason in REAL.items():
        if reason:
            told = problems[problems["path"].str.contains(name, regex=False)]["reason"]
            assert told.str.contains(reason, regex=False).any(), name


@pytest.mark.parametrize("name", ["totalseg-j2k20", "lidc-idri-0314"])
def test_good_series_equal_what_simpleitk_reads(real_files, tmp_path, name):
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK, the other reader, is not installed")
    files = scan(real_files / name)[0]["files"][0]
    volume = read_series(files)
    names = []
    for k, file in enumerate(files):  # SimpleITK wants UIDs
        ds = pydicom.dcmread(file)
        ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = CTImageStorage, f"1.2.3.{k}", "1.2.3"
        names.append(str(tmp_path / f"{k:04d}.dcm"))
        ds.save_as(names[-1])
    reader = itk.ImageSeriesReader()
    reader.SetFileNames(names)
    image = reader.Execute()
    assert image.GetDirection() == pytest.approx(np.eye(3).ravel())
    np.testing.assert_array_equal(volume.hu, np.clip(itk.GetArrayFromImage(image), -1024, 3071))
    np.testing.assert_allclose(volume.spacing_mm, image.GetSpacing()[::-1], atol=1e-6)
    np.testing.assert_allclose(volume.origin_mm, image.GetOrigin()[::-1], atol=1e-3)
