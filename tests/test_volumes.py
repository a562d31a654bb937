import tarfile
import warnings

import dicom_writer as writer
import numpy as np
import pydicom
import pytest

from ctlib.geometry import upright, upright_points
from ctlib.volumes import SeriesError, Volume, read_series, scan


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


def test_a_list_of_files_reads_like_their_folder(tmp_path):
    writer.write(tmp_path, writer.slices(writer.volume()))
    files = sorted(tmp_path.iterdir(), reverse=True)
    np.testing.assert_array_equal(read_series(files).hu, read_series(tmp_path).hu)


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
    "shear": (shear, "shift sideways"),
    "matrix": (mix_matrix, r"2 different matrix sizes: 6 x 7 \(4 files\), 7 x 6 \(1 files\)"),
    "orientation": (mix_orientation, "2 different orientations"),
    "spacing": (mix_spacing, "2 different pixel spacings"),
    "patients": (mix_patients, "2 different PatientIDs"),
    "no-position": (put(ImagePositionPatient=None), "ImagePositionPatient is ''"),
    "no-spacing": (put(PixelSpacing=None), "PixelSpacing is ''"),
    "zero-spacing": (put(PixelSpacing=[0, 0.5]), "PixelSpacing is"),
    "no-orientation": (put(ImageOrientationPatient=None), "ImageOrientationPatient is ''"),
    "no-slope": (put(RescaleSlope=None), "RescaleSlope is ''"),
    "zero-slope": (put(RescaleSlope=0), "RescaleSlope 0"),
    "no-intercept": (put(RescaleIntercept=None), "RescaleIntercept is ''"),
    "frames": (put(NumberOfFrames=2), "NumberOfFrames is '2'"),
    "colour": (put(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "SamplesPerPixel is '3'"),
    "palette": (put(PhotometricInterpretation="PALETTE COLOR"), "only grey images"),
    "no-photometric": (put(PhotometricInterpretation=None), "PhotometricInterpretation is ''"),
    "bits": (put(BitsAllocated=8, BitsStored=8, HighBit=7), "BitsAllocated is '8'"),
    "high-bit": (put(BitsStored=12, HighBit=15), "do not fit"),
    "sign": (put(PixelRepresentation=None), "PixelRepresentation is ''"),
    "mr": (put_all(Modality="MR"), "Modality is 'MR'"),
    "no-matrix": (put(Rows=None), "Rows is ''"),
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


PIXELS = {
    "none": (lambda data: None, "no PixelData"),
    "cut": (lambda data: data[:-2], "PixelData has 82 bytes, 84 are needed"),
    "long": (lambda data: data + data, "PixelData has 168 bytes, 84 are needed"),
}


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


def test_a_file_cut_short_is_no_slice(tmp_path):
    writer.write(tmp_path, writer.slices(writer.volume()))
    path = tmp_path / "000.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SeriesError, match=r"000\.dcm"):
        read_series(tmp_path)


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
    assert "empty" in reasons["two/empty.dcm"] and "no preamble" in reasons["two"]
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


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("cut", [0.02, 0.4])
def test_pixels_cut_short_are_refused_in_every_syntax(shared_data, tmp_path, cut):
    for number, path in enumerate(sorted((shared_data / "codec-zoo-chest-slice").glob("CTImage*"))):
        folder = in_series(path, tmp_path / str(number), cut)
        with pytest.raises(SeriesError):
            read_series(folder)


def test_every_real_file_is_accounted_for(shared_data, tmp_path):
    series, problems = scan(shared_data)
    assert series.empty
    assert problems["n_files"].sum() == counted(shared_data)
    for archive in shared_data.glob("ge*/*.tar.xz"):
        with tarfile.open(archive) as tar:
            tar.extractall(tmp_path, filter="data")
    with tarfile.open(shared_data / "geom-failures" / "failing.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    series, problems = scan(tmp_path)
    assert series.empty and problems["n_files"].sum() == counted(tmp_path)
    wanted = {
        "gantrytilting/001": "tilted",
        "notavolume/001": "lie at 1 position",
        "slicecount/001": "'MR'",
        "sliceincrement/001": "5.000 to 10.000 mm apart",
        "sliceincrement/002": "tilted",
        "sliceorientation/001": "'MR'",
        "ge-tilt-varspacing": "GantryDetectorTilt is 18.5",
    }
    for path, reason in wanted.items():
        found = problems[problems["path"].str.contains(path) | problems["path"].eq(".")]["reason"]
        assert found.str.contains(reason, regex=False).any(), path


def test_the_real_scan_reads_like_its_files(lidc_sample):
    volume = read_series(lidc_sample)
    assert volume.hu.shape == (275, 512, 512)
    np.testing.assert_allclose(volume.spacing_mm, (1.0, 0.78125, 0.78125), atol=1e-6)
    for path in sorted(lidc_sample.iterdir())[::60]:
        ds = pydicom.dcmread(path)
        k = int(np.abs(volume.z_mm - float(ds.ImagePositionPatient[2])).argmin())
        hu = np.clip(ds.pixel_array.astype(int) - 1000, -1024, 3071)
        np.testing.assert_array_equal(volume.hu[k], hu)


def test_a_real_scan_without_one_slice_is_refused(lidc_sample, tmp_path):
    for path in sorted(lidc_sample.iterdir()):
        (tmp_path / path.name).symlink_to(path)
    middle = scan(tmp_path)[0]["files"][0][130]
    (tmp_path / middle).unlink()
    series, problems = scan(tmp_path)
    assert series.empty and "1.000 to 2.000 mm apart" in problems["reason"][0]
