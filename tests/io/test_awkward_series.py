"""Series as archives, hospitals and anonymisers really give them: read right, or refused with what to do."""

import os
import shutil
from pathlib import Path

import dicom_fuzz
import dicom_writer as writer
import numpy as np
import pydicom
import pytest

from ctlib.core.pseudonyms import Identity
from ctlib.io import listing
from ctlib.io.listing import scan_under_pseudonyms
from ctlib.io.volume import SeriesError, read_series, scan

JPEG_57, JPEG_70, JPEG_LS, JPEG_LS_NEAR, J2K, J2K_ANY = (
    f"1.2.840.10008.1.2.4.{end}" for end in (57, 70, 80, 81, 90, 91)
)
PLAIN = "1.2.840.10008.1.2.1"


def scanned(folder):
    """Volumes by the place of their first file, and problems by path; each file is counted once."""
    series, problems = scan(folder)
    n_files = sum(len(names) for _, _, names in os.walk(folder))
    assert series["n_files"].sum() + problems["n_files"].sum() == n_files
    return series, dict(zip(problems["path"], problems["reason"], strict=True))


def refusal(folder):
    with pytest.raises(SeriesError) as caught:
        read_series(folder)
    return str(caught.value)


# ---- encoded pixels --------------------------------------------------------------------


def encoded(folder, syntax, change, said=None):
    """A small volume in a transfer syntax, each stream changed; written as `said`."""
    folder.mkdir(parents=True, exist_ok=True)
    hu = np.random.default_rng(0).integers(-1024, 3000, (3, 16, 17)).astype(np.int16)
    for k, ds in enumerate(writer.slices(hu)):
        path = folder / f"{k}.dcm"
        dicom_fuzz.encode(ds, path, syntax)
        written = pydicom.dcmread(path)
        written.file_meta.TransferSyntaxUID = said or syntax
        written.pop("LossyImageCompression", None)
        stream = next(pydicom.encaps.generate_frames(written.PixelData, number_of_frames=1))
        stream = stream[: stream.rindex(b"\xff\xd9") + 2]
        written.PixelData = items(change(stream))
        written.save_as(path)
    return hu


def items(stream):
    """PixelData of one stream, as it is: pydicom's own would pad with a zero."""
    stream += b"\x5a" * (len(stream) % 2)
    item = b"\xfe\xff\x00\xe0"
    return item + bytes(4) + item + len(stream).to_bytes(4, "little") + stream


@pytest.mark.parametrize("padding", [b"", b"\x5a\x01", b"\xff", b"\xff\xd9", b"\0" * 500])
@pytest.mark.parametrize("syntax", [JPEG_57, JPEG_70, JPEG_LS, J2K])
def test_what_follows_the_end_of_a_stream_is_padding(tmp_path, syntax, padding):
    hu = encoded(tmp_path, syntax, lambda stream: stream + padding)
    np.testing.assert_array_equal(read_series(tmp_path).hu, hu)


STREAMS = {
    "no end": (lambda stream: stream[:-2], "truncated: its stream has no end"),
    "cut and padded": (lambda stream: stream[:-40] + bytes(40), "truncated: its stream has no end"),
    "two": (lambda stream: stream + stream, "holds several streams.*; export single frames"),
}


@pytest.mark.parametrize("case", STREAMS)
@pytest.mark.parametrize("syntax", [JPEG_70, JPEG_LS, J2K])
def test_a_stream_without_end_and_a_second_one_are_no_padding(tmp_path, syntax, case):
    change, reason = STREAMS[case]
    encoded(tmp_path, syntax, change)
    with pytest.raises(SeriesError, match=reason):
        read_series(tmp_path)


def near_lossless(stream):
    """The same JPEG-LS stream, which says that values may be off by 2 (T.87 C.2.3)."""
    at = stream.index(b"\xff\xda")
    return stream[: at + 7] + b"\2" + stream[at + 8 :]


def irreversible(stream):
    """The same JPEG 2000 stream with the wavelet 9-7 (T.800 table A.20)."""
    at = stream.index(b"\xff\x52")
    return stream[: at + 13] + b"\0" + stream[at + 14 :]


@pytest.mark.parametrize(
    ("written", "said", "lossy"), [(J2K, J2K_ANY, irreversible), (JPEG_LS, JPEG_LS_NEAR, near_lossless)]
)
def test_where_the_file_does_not_say_whether_it_lost_something_the_stream_does(
    tmp_path, written, said, lossy
):
    hu = encoded(tmp_path / "a", written, lambda stream: stream, said)
    np.testing.assert_array_equal(read_series(tmp_path / "a").hu, hu)
    encoded(tmp_path / "b", written, lossy, said)
    told = refusal(tmp_path / "b")
    assert "nothing says that it lost nothing" in told and "export it again without loss" in told
    assert scanned(tmp_path / "b")[0].empty  # as the stream begins, the scan knows it already
    encoded(tmp_path / "c", written, lossy)  # the transfer syntax says lossless, the stream does not
    assert "compressed with loss" in refusal(tmp_path / "c")


# ---- uncompressed pixels ---------------------------------------------------------------


def with_all(change):
    found = writer.slices(writer.volume())
    for ds in found:
        change(ds)
    return found


def as_unknown(ds):
    ds["PixelData"].VR = "UN"


def without_high_bit(ds):
    del ds.HighBit


def with_padding(ds):
    ds.PixelData += b"\x7f" * 40


@pytest.mark.parametrize("syntax", [PLAIN, "1.2.840.10008.1.2", dicom_fuzz.DEFLATED, dicom_fuzz.BIG_ENDIAN])
@pytest.mark.parametrize("change", [as_unknown, without_high_bit, with_padding], ids=lambda f: f.__name__)
def test_headers_that_the_standard_allows(tmp_path, change, syntax):
    for k, ds in enumerate(with_all(change)):
        dicom_fuzz.encode(ds, tmp_path / f"{k}.dcm", syntax)
    if change is as_unknown and syntax == dicom_fuzz.BIG_ENDIAN:  # UN is little endian (PS3.5 6.2.2)
        assert "another VR than OB, OW and UN" in refusal(tmp_path)
        return
    np.testing.assert_array_equal(read_series(tmp_path).hu, writer.volume())


def test_padding_that_the_file_does_not_hold_is_missing(tmp_path):
    writer.write(tmp_path, with_all(with_padding))
    path = tmp_path / "000.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    assert "truncated, 114 of 124 bytes" in refusal(tmp_path)


# ---- links, locked folders, names ------------------------------------------------------


def test_links_to_folders_are_followed_once(tmp_path):
    disk, root = tmp_path / "disk", tmp_path / "root"
    writer.write(disk / "ct", writer.slices(writer.volume()))
    writer.write(root / "p1" / "own", writer.slices(writer.volume(1), uid="1.2.9"))
    (disk / "up").symlink_to(disk)
    (root / "p1" / "ct").symlink_to(disk)
    (root / "p2").symlink_to(disk / "ct")
    (root / "a").symlink_to(root / "p1")
    (root / "p1" / "loop").symlink_to(root)
    series, problems = scan(root)
    assert sorted(series["series_uid"]) == ["1.2.3", "1.2.9"]
    assert series["n_files"].sum() == 10 and problems["n_files"].tolist() == [0] * 4
    reasons = dict(zip(problems["path"], problems["reason"], strict=True))
    assert {path for path, reason in reasons.items() if "a loop" in reason} == {"p1/loop", "p1/ct/up"}
    assert "read already in another place" in reasons["a"] and set(reasons) - {"a", "p1/loop"} <= {
        *("p1/ct/up", "p1/ct/ct", "p2"),
    }
    np.testing.assert_array_equal(read_series(root / "p2").hu, writer.volume())
    assert "2 different SeriesInstanceUIDs" in refusal(root)


def test_a_tree_without_links_keeps_its_order(tmp_path):
    for name in ("b/2", "b/1", "a", "c/x/y"):
        writer.write(
            tmp_path / name, writer.slices(writer.volume(), uid=f"1.2.{len(name)}{name[-1:].encode().hex()}")
        )
    walked = [(f.path, f.names) for f in listing.folders_under(tmp_path)]
    expected = []
    for folder, folders, names in os.walk(tmp_path):
        folders.sort()
        expected.append((folder, sorted(names)))
    assert walked == expected


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    writer.write(tmp_path / "a", writer.slices(writer.volume()))
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # tests may run as root, whom nothing stops
    series, problems = scan(tmp_path)
    assert len(series) == 1
    ((path, n_files, reason),) = problems.itertuples(index=False)
    assert (path, n_files) == ("locked", 0)
    assert "cannot be opened (Permission denied)" in reason and "see that you may read it" in reason
    assert "locked: the folder cannot be opened" in refusal(tmp_path)


def test_names_that_are_no_utf8_are_read_and_printed(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    odd = folder / os.fsdecode(b"\xfftwo\nlines.dcm")
    writer.write(folder, writer.slices(writer.volume()))
    odd.write_bytes(b"damaged")
    series, problems = scan_under_pseudonyms(tmp_path, Identity(b"key"), paths=True)
    assert series["where"].tolist() == ["caf\\xe9"]
    assert problems["where"].tolist() == ["caf\\xe9/\\xfftwo\\x0alines.dcm"]
    for table in (series, problems):
        table.to_csv().encode("utf-8")
    assert "\\xfftwo\\x0alines.dcm: not a DICOM file" in refusal(folder)
    odd.unlink()
    np.testing.assert_array_equal(read_series(folder).hu, writer.volume())


def test_a_link_to_a_file_that_is_gone_says_so(tmp_path):
    (tmp_path / "a.dcm").symlink_to(tmp_path / "nowhere")
    assert scanned(tmp_path)[1] == {
        "a.dcm": "Refused: it is a link to a file that is not there; mend or remove it."
    }


# ---- what lies beside the slices -------------------------------------------------------


def directory():
    """A DICOMDIR as on a CD (PS3.3 F)."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = PLAIN
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.1.3.10",
        "1.2.3.4",
    )
    ds.FileSetID, ds.DirectoryRecordSequence = "CD", [writer.group(DirectoryRecordType="PATIENT")]
    return ds


BESIDE = {
    ".DS_Store": b"\0\0\0\1Bud1" + bytes(100),
    "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100),
    "README": b"Images of one patient",
    "LIESMICH.TXT": "Größe".encode("latin-1"),
    "autorun.inf": b"[autorun]\r\nopen=viewer.exe\r\n",
    "viewer.exe": b"MZ\x90\0" + bytes(range(256)),
    "index.html": b"<html><body>CD</body></html>",
    "._000.dcm": b"\0\5\x16\7\0" + bytes(100),
    "labels.csv": b"study,label\n",
}


def test_a_hospital_cd_is_one_volume(tmp_path):
    writer.write(tmp_path / "DICOM" / "ST0", writer.slices(writer.volume()), [f"IM{k}" for k in range(5)])
    directory().save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    for name, data in BESIDE.items():
        (tmp_path / name).write_bytes(data)
    np.testing.assert_array_equal(read_series(tmp_path).hu, writer.volume())
    np.testing.assert_array_equal(
        read_series([p for p in tmp_path.rglob("*") if p.is_file()]).hu, writer.volume()
    )
    series, problems = scanned(tmp_path)
    assert series["n_files"].tolist() == [5]
    assert "the index of a CD" in problems["DICOMDIR"]
    assert all("may stay" in reason for reason in problems.values()), problems


@pytest.mark.parametrize("name", ["005.dcm", "IM0005", "1.2.3.5", "5.IMA"])
@pytest.mark.parametrize("data", [b"<html>404 Not Found</html>", b"\x01\x02\x03" * 50], ids=["page", "bytes"])
def test_what_is_called_like_a_slice_and_is_none_refuses_the_folder(tmp_path, name, data):
    """A download that failed must not leave a volume that is one slice short."""
    writer.write(tmp_path, writer.slices(writer.volume()), [f"s{k}" for k in range(5)])
    (tmp_path / name).write_bytes(data)
    assert f"{name}: not a DICOM file" in refusal(tmp_path) and "copy or export it again" in refusal(tmp_path)
    assert scanned(tmp_path)[0]["n_files"].tolist() == [5]


# ---- two reconstructions under one series ----------------------------------------------

FIELDS = {
    "ConvolutionKernel": ("B30f", "B70f"),
    "SeriesDescription": ("arterial", "venous"),
    "ContrastBolusAgent": ("", "Iomeron"),
    "AcquisitionTime": ("100000", "101500"),
    "AcquisitionDateTime": ("20200101100000", "20200101101500"),
    "ImageType": (["ORIGINAL", "PRIMARY", "AXIAL", "PHASE1"], ["ORIGINAL", "PRIMARY", "AXIAL", "PHASE2"]),
    "SliceThickness": ("1.25", "5"),
}


def two(shift, **fields):
    """Slices of two volumes in one series, the second shifted along z, mm; fields have two values."""
    z, *yx = writer.ORIGIN_MM
    found = [writer.slices(writer.volume(k), origin_mm=(z + k * shift, *yx)) for k in range(2)]
    for k, part in enumerate(found):
        for n, ds in enumerate(part):
            ds.SOPInstanceUID = f"1.2.3.{k}.{n}"
            for name, values in fields.items():
                setattr(ds, name, values[k])
    return [*found[0], *found[1]]


@pytest.mark.parametrize("shift", [1.25, 0.0, 0.6], ids=["half a slice", "same places", "uneven"])
@pytest.mark.parametrize("name", FIELDS)
def test_two_reconstructions_are_never_one_volume(tmp_path, name, shift):
    writer.write(tmp_path, two(shift, **{name: FIELDS[name]}))
    series, problems = scanned(tmp_path)
    assert problems == {} and sorted(series["series_uid"]) == ["1.2.3#1", "1.2.3#2"]
    read = [read_series(files).hu for files in series["files"]]
    for wanted in (writer.volume(0), writer.volume(1)):
        assert sum(np.array_equal(hu, wanted) for hu in read) == 1
    assert "it holds 2 volumes" in refusal(tmp_path)


def test_several_fields_together_may_tell_reconstructions_apart(tmp_path):
    """Neither kernel nor description alone does: three reconstructions, two values each."""
    z, *yx = writer.ORIGIN_MM
    found = []
    for k, (kernel, text) in enumerate([("B30f", "thin"), ("B30f", "thick"), ("B70f", "thick")]):
        part = writer.slices(writer.volume(k), origin_mm=(z + k * 2.5 / 3, *yx))
        for n, ds in enumerate(part):
            ds.SOPInstanceUID, ds.ConvolutionKernel, ds.SeriesDescription = f"1.2.3.{k}.{n}", kernel, text
        found += part
    writer.write(tmp_path, found)
    series, problems = scanned(tmp_path)
    assert problems == {} and series["n_slices"].tolist() == [5, 5, 5]


def test_reconstructions_that_cannot_be_taken_apart_are_refused(tmp_path):
    """Every third slice has another kernel: what is left is no even volume."""
    found = writer.slices(np.concatenate([writer.volume(0), writer.volume(1)[:4]]))
    for k, ds in enumerate(found):
        ds.ConvolutionKernel = "B70f" if k % 3 == 2 else "B30f"
    writer.write(tmp_path, found)
    assert "2 different kernels (ConvolutionKernel), which alternate along z; export each" in refusal(
        tmp_path
    )


ONE_VOLUME = {
    "a time a slice": lambda k: {"AcquisitionTime": f"1000{k:02d}.25"},
    "a time a rotation of four slices": lambda k: {"AcquisitionTime": f"1000{k // 4:02d}"},
    "times that repeat without order": lambda k: {"AcquisitionTime": f"1000{k * k % 5:02d}"},
    "a text a slice": lambda k: {"SeriesDescription": f"Slice {k}", "ContrastBolusAgent": f"{k}"},
    "a kernel that two slices lack": lambda k: {"ConvolutionKernel": "" if k in (3, 6) else "B30f"},
    "halves with other texts": lambda k: {"SeriesDescription": "low" if k < 6 else "high"},
    "derived slices at one end": lambda k: {
        "ImageType": ["DERIVED" if k < 3 else "ORIGINAL", "PRIMARY", "AXIAL"]
    },
    "two thicknesses, one after the other": lambda k: {"SliceThickness": "1.25" if k < 6 else "2.5"},
}


@pytest.mark.parametrize("case", ONE_VOLUME)
def test_fields_that_differ_within_one_volume_do_not_split_it(tmp_path, case):
    hu = np.concatenate([writer.volume(k) for k in range(3)])[:12]
    found = writer.slices(hu)
    for k, ds in enumerate(found):
        for name, value in ONE_VOLUME[case](k).items():
            setattr(ds, name, value)
    writer.write(tmp_path, found)
    series, problems = scanned(tmp_path)
    assert problems == {} and series["n_slices"].tolist() == [12]
    np.testing.assert_array_equal(read_series(tmp_path).hu, hu)


@pytest.mark.parametrize("number", [True, False])
def test_a_projection_under_the_same_uid_does_not_take_the_volume_along(tmp_path, number):
    hu = np.concatenate([writer.volume(0), writer.volume(1)])
    thick = writer.slices(
        writer.volume(2)[:3], spacing_mm=(10.0, *writer.SPACING_MM[1:]), origin_mm=(-79.5, -20.25, 10.5)
    )
    found = writer.slices(hu)
    for ds in found:
        ds.ImageType, ds.AcquisitionNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 1
    for n, ds in enumerate(thick):
        ds.SOPInstanceUID, ds.ImageType = f"1.2.3.9.{n}", ["DERIVED", "SECONDARY", "AXIAL", "MIP"]
        if number:
            ds.AcquisitionNumber = 1
    writer.write(tmp_path, [*found, *thick])
    np.testing.assert_array_equal(read_series(tmp_path).hu, hu)
    series, problems = scanned(tmp_path)
    assert series["n_files"].tolist() == [10]
    assert list(problems.values()) == [
        "Refused: it was derived from other slices of its series (ImageType), as a projection is: set aside."
    ]


# ---- copies and UIDs -------------------------------------------------------------------


def again(hu, **options):
    """The same slices exported once more: other SOPInstanceUIDs and numbers."""
    found = writer.slices(hu, **options)
    for n, ds in enumerate(found):
        ds.SOPInstanceUID, ds.InstanceNumber, ds.SeriesDescription = f"1.2.3.77.{n}", 500 + n, "copy"
    return found


@pytest.mark.parametrize("n", [5, 2])
def test_slices_that_are_there_twice_under_new_uids_are_dropped_and_counted(tmp_path, n):
    writer.write(tmp_path / "a", writer.slices(writer.volume()))
    writer.write(tmp_path / "a" / "b", again(writer.volume())[:n])
    np.testing.assert_array_equal(read_series(tmp_path).hu, writer.volume())
    series, problems = scan(tmp_path)
    assert series["n_files"].tolist() == [5] and problems["n_files"].tolist() == [n]
    assert "the position and the pixels of another file" in problems["reason"][0]


def test_two_phases_that_share_a_slice_of_air_keep_it(tmp_path):
    phases = [writer.volume(k) for k in range(2)]
    for hu in phases:
        hu[0] = -1024
    found = writer.slices(phases[0]) + again(phases[1])
    writer.write(tmp_path, found)
    series, problems = scanned(tmp_path)
    assert problems == {} and series["n_slices"].tolist() == [5, 5]


@pytest.mark.parametrize("shift", [0.0, 1.25, 7.0], ids=["same places", "half a slice", "elsewhere"])
def test_a_uid_that_an_anonymiser_gave_to_all_patients_does_not_mix_them(tmp_path, shift):
    z, *yx = writer.ORIGIN_MM
    for k in range(2):
        writer.write(tmp_path / f"p{k}", writer.slices(writer.volume(k), origin_mm=(z + k * shift, *yx)))
    series, problems = scanned(tmp_path)
    assert series["series_uid"].is_unique and series["series_uid"].str.startswith("1.2.3#").all()
    for files in series["files"]:
        number = int(Path(files[0]).parent.name[1:])
        np.testing.assert_array_equal(read_series(files).hu, writer.volume(number))
    ((path, told),) = problems.items()
    assert path == "." and told.startswith("Noted: ") and "UIDs do not tell them apart" in told
    assert "it holds 2 volumes" in refusal(tmp_path)
    names = set(series["series_uid"])
    writer.write(tmp_path / "a", writer.slices(writer.volume(5)))
    assert names < set(scan(tmp_path)[0]["series_uid"])  # a folder more changes no name


@pytest.mark.parametrize("field", ["AcquisitionTime", "PixelSpacing"])
def test_shared_uids_are_told_where_something_else_tells_the_volumes_apart(tmp_path, field):
    for k in range(2):
        found = writer.slices(writer.volume(k))
        for ds in found:
            setattr(ds, field, f"10{k}000" if field == "AcquisitionTime" else [0.75, 0.5 + k / 10])
        writer.write(tmp_path / f"p{k}", found)
    series, problems = scanned(tmp_path)
    assert (
        series["n_slices"].tolist() == [5, 5] and series["series_uid"].str.len().tolist() == [5 + 1 + 32] * 2
    )
    assert problems["."].startswith("Noted: its SeriesInstanceUID is that of 2 volumes")


def test_one_bad_folder_does_not_take_others_of_its_uid_along(tmp_path):
    for k in range(3):
        writer.write(tmp_path / f"p{k}", writer.slices(writer.volume(k)))
    (tmp_path / "p1" / "002.dcm").unlink()
    series, problems = scanned(tmp_path)
    assert {Path(files[0]).parent.name for files in series["files"]} == {"p0", "p2"}
    assert "p1" in problems and "mm apart" in problems["p1"]


def test_a_series_in_several_folders_is_still_one(tmp_path):
    hu = np.concatenate([writer.volume(k) for k in range(2)])
    found = writer.slices(hu)
    for name, part in (("a", found[:5]), ("b", found[5:])):  # each half would be a volume, too
        writer.write(tmp_path / name, part)
    shutil.copytree(tmp_path / "a", tmp_path / "copy of a")
    np.testing.assert_array_equal(read_series(tmp_path).hu, hu)
    series, problems = scanned(tmp_path)
    assert series["series_uid"].tolist() == ["1.2.3"] and series["n_files"].tolist() == [10]
    assert all("byte for byte" in reason for reason in problems.values())


def lone(seed=0):
    found = writer.slices(writer.volume(seed))
    for k, ds in enumerate(found):
        ds.SeriesInstanceUID = f"1.2.3.{seed}.{k}"
    return found


def test_a_uid_a_slice_is_told_and_the_slices_are_one_volume(tmp_path):
    writer.write(tmp_path / "a", lone())
    (tmp_path / "a" / "README").write_text("one scan")
    series, problems = scanned(tmp_path)
    assert "each of its 5 files claims a series of its own (SeriesInstanceUID)" in problems["a"]
    volume = read_series(tmp_path / "a")
    np.testing.assert_array_equal(volume.hu, writer.volume())
    (files,) = series["files"]
    assert read_series(files).series_uid == volume.series_uid == series["series_uid"][0]


def test_slices_of_several_patients_with_a_uid_each_are_no_volume(tmp_path):
    found = lone()
    for k, ds in enumerate(found):
        ds.PatientID = f"P{k}"
    writer.write(tmp_path, found)
    told = refusal(tmp_path)
    assert "each of its 5 files claims a series of its own" in told and "5 different PatientIDs" in told
    assert scanned(tmp_path)[0].empty


# ---- Enhanced CT -----------------------------------------------------------------------

ORDER = [3, 0, 4, 1, 2]


@pytest.mark.parametrize(
    "orientation", [((1, 0, 0), (0, 1, 0)), ((-1, 0, 0), (0, 1, 0)), ((1, 0, 0), (0, -1, 0))]
)
def test_an_enhanced_ct_is_read_whatever_the_order_of_its_frames(tmp_path, orientation):
    hu = writer.volume()
    stored = hu[:, :: orientation[1][1], :: orientation[0][0]]
    ds = writer.enhanced(stored, ORDER)
    x, y = (
        (writer.ORIGIN_MM[2] + (6 * 0.5 if orientation[0][0] < 0 else 0)),
        (writer.ORIGIN_MM[1] + (5 * 0.75 if orientation[1][1] < 0 else 0)),
    )
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [
        *orientation[0],
        *orientation[1],
    ]
    for frame in ds.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [x, y, place.ImagePositionPatient[2]]
    writer.write(tmp_path, [ds], ["ct.dcm"])
    (tmp_path / ".DS_Store").write_bytes(BESIDE[".DS_Store"])
    series, problems = scanned(tmp_path)
    (row,) = series.itertuples()
    assert (row.n_files, row.n_slices, row.series_uid, row.patient_id) == (1, 5, "1.2.3", "P1")
    assert row.files == [str(tmp_path / "ct.dcm")] and list(problems) == [".DS_Store"]
    assert row.z_mm == pytest.approx([-80.5 + 2.5 * k for k in range(5)])
    for given in (tmp_path, tmp_path / "ct.dcm", row.files):
        volume = read_series(given)
        np.testing.assert_array_equal(volume.hu, hu)
        np.testing.assert_allclose(volume.spacing_mm, writer.SPACING_MM)
        np.testing.assert_allclose(volume.origin_mm, writer.ORIGIN_MM)


def test_each_frame_has_its_own_rescale(tmp_path):
    hu = writer.volume() // 8
    writer.write(tmp_path, [writer.enhanced(hu, ORDER, per_frame_rescale=True)])
    np.testing.assert_array_equal(
        read_series(tmp_path).hu, np.clip(hu * 2 + np.arange(5)[:, None, None], -1024, 3071)
    )


def shared(ds, sequence, **values):
    for name, value in values.items():
        setattr(ds.SharedFunctionalGroupsSequence[0][sequence][0], name, value)


def frame(ds, k):
    return ds.PerFrameFunctionalGroupsSequence[k]


UNCERTAIN = {
    "no groups": (
        lambda ds: ds.pop("PerFrameFunctionalGroupsSequence"),
        "has no PerFrameFunctionalGroupsSequence",
    ),
    "a group less": (lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(), "has 4 items"),
    "no position": (
        lambda ds: frame(ds, 1).pop("PlanePositionSequence"),
        "in frame 2, ImagePositionPatient is missing",
    ),
    "two rescales": (
        lambda ds: ds.SharedFunctionalGroupsSequence[0].pop("PixelValueTransformationSequence"),
        "RescaleSlope and RescaleIntercept are missing",
    ),
    "no HU": (
        lambda ds: shared(ds, "PixelValueTransformationSequence", RescaleType="Z_EFF"),
        "RescaleType is a text",
    ),
    "a gap": (
        lambda ds: setattr(
            frame(ds, 0).PlanePositionSequence[0], "ImagePositionPatient", [10.5, -20.25, -60]
        ),
        "mm apart",
    ),
    "a frame turned": (
        lambda ds: setattr(
            frame(ds, 0),
            "PlaneOrientationSequence",
            [writer.group(ImageOrientationPatient=[1, 0, 0, 0, -1, 0])],
        ),
        "it has 1 slice",
    ),
    "a part": (lambda ds: setattr(ds, "ConcatenationUID", "1.2.9"), "ConcatenationUID"),
    "pixels missing": (lambda ds: setattr(ds, "PixelData", ds.PixelData[:-20]), "400 bytes, 420 are needed"),
    "many": (lambda ds: setattr(ds, "NumberOfFrames", 2_000_000_000), "has 5 items"),
}


@pytest.mark.parametrize("case", UNCERTAIN)
def test_a_file_of_frames_that_is_not_certain_is_refused_with_a_converter(tmp_path, case):
    change, reason = UNCERTAIN[case]
    ds = writer.enhanced(writer.volume(), ORDER)
    change(ds)
    writer.write(tmp_path, [ds])
    told = refusal(tmp_path)
    assert reason in told and "dcm2niix" in told and " frames, and " in told
    series, problems = scanned(tmp_path)
    assert series.empty and reason in problems["000.dcm"]


def test_compressed_frames_are_refused(tmp_path):
    ds = writer.enhanced(writer.volume(), ORDER)
    ds.compress("1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False)
    writer.write(tmp_path, [ds])
    assert "its pixels are compressed; convert it" in refusal(tmp_path)


def test_frames_of_two_acquisitions_are_not_mixed(tmp_path):
    ds = writer.enhanced(np.concatenate([writer.volume(0), writer.volume(1)]))
    for k, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        groups.FrameContentSequence = [writer.group(FrameAcquisitionNumber=k % 2)]
    writer.write(tmp_path, [ds])
    assert "its frames are 2 volumes" in refusal(tmp_path)


def test_files_of_frames_under_one_series_are_volumes_of_their_own(tmp_path):
    for k, name in enumerate("ab"):
        ds = writer.enhanced(writer.volume(k), ORDER)
        ds.SOPInstanceUID = f"1.2.3.{k}"
        writer.write(tmp_path, [ds], [f"{name}.dcm"])
    shutil.copy(tmp_path / "a.dcm", tmp_path / "copy.dcm")
    series, problems = scanned(tmp_path)
    assert series["series_uid"].is_unique and len(series) == 2
    assert problems == {"copy.dcm": "Refused: it repeats another file or series byte for byte."}
    read = {Path(files[0]).stem: read_series(files).hu for files in series["files"]}
    np.testing.assert_array_equal(read["b"], writer.volume(1))


def test_a_file_of_frames_lies_beside_slices_of_another_series(tmp_path):
    writer.write(tmp_path, writer.slices(writer.volume(1), uid="1.2.8"))
    writer.write(tmp_path, [writer.enhanced(writer.volume(), ORDER)], ["enhanced"])
    series, problems = scanned(tmp_path)
    assert sorted(series["series_uid"]) == ["1.2.3", "1.2.8"] and problems == {}
    assert "different SeriesInstanceUIDs" in refusal(tmp_path)
