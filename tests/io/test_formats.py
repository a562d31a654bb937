"""A format is a reader and an entry in `FORMATS`: scan, reading and the CSV of labels follow."""

import io
from dataclasses import dataclass
from pathlib import Path

import dicom_writer
import itk_writer
import nifti_writer
import numpy as np
import pytest

from ctlib.datasets.folder import Columns, load
from ctlib.io.deidentify import SeriesError
from ctlib.io.dicom_header import read_header as read_dicom_header
from ctlib.io.formats import FORMATS, UNREAD, Format, content_uid, format_of, recognised
from ctlib.io.volume import Volume, open_series, read_series, scan


@dataclass
class Header:
    """Of a made-up format: a text file with the shape beside a file of voxels."""

    path: Path
    fault: str = ""
    spacing_mm: tuple = (2.5, 0.75, 0.5)
    origin_mm: tuple = (-80.5, -20.25, 10.5)

    @property
    def files(self):
        return [self.path, self.path.with_suffix(".voxels")][: 1 if self.fault else 2]

    @property
    def shape(self):
        return tuple(map(int, self.path.read_text().split()))


def read_header(path):
    return Header(path, "" if path.with_suffix(".voxels").exists() else "its voxels are missing")


def decode(path):
    header = read_header(path)
    if header.fault:
        raise SeriesError(header.fault)
    return np.fromfile(header.files[1], "<i2").reshape(header.shape), header


@pytest.fixture
def made_up():
    FORMATS.append(Format("Pair", (".pair",), read_header, decode))
    yield
    FORMATS.pop()


def write(folder, name="scan"):
    hu = dicom_writer.volume()
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.PAIR").write_text(" ".join(map(str, hu.shape)))
    hu.tofile(folder / f"{name}.voxels")
    return hu


def test_a_format_of_two_files_is_found_and_read(tmp_path, made_up):
    dicom_writer.write(tmp_path / "slices", dicom_writer.slices(dicom_writer.volume(1)))
    nifti_writer.write(tmp_path / "other.nii.gz", nifti_writer.volume(2))
    hu = write(tmp_path / "a")
    series, problems = scan(tmp_path)
    assert problems.empty and series["n_files"].tolist() == [1, 2, 5]
    row = series.iloc[1]
    assert row["series_uid"].startswith("pair-") and row["orientation"] == "LP"
    assert row["n_slices"] == len(hu) == len(row["z_mm"]) and row["files"] == [
        str(tmp_path / "a" / "scan.PAIR")
    ]
    for given in (row["files"], tmp_path / "a", sorted((tmp_path / "a").iterdir())):
        volume = open_series(given)
        assert isinstance(volume, Volume) and volume.series_uid == row["series_uid"]
        np.testing.assert_array_equal(volume.hu, hu)


def test_its_faults_and_copies_count_each_file_once(tmp_path, made_up):
    write(tmp_path / "a")
    write(tmp_path / "b")
    (tmp_path / "lost.pair").write_text("5 6 7")
    series, problems = scan(tmp_path)
    assert series["n_files"].sum() == 2 and sorted(problems["n_files"]) == [1, 2]
    reasons = dict(zip(problems["path"], problems["reason"], strict=True))
    assert reasons == {
        "lost.pair": "Refused: its voxels are missing.",
        "b": "Refused: it repeats another file or series byte for byte.",
    }
    with pytest.raises(SeriesError, match=r"^Series in lost\.pair is refused: .*its voxels are missing\.$"):
        read_series(tmp_path / "lost.pair")
    with pytest.raises(FileNotFoundError, match="the DICOM, NIfTI, MetaImage, NRRD or Pair files"):
        scan(tmp_path / "nowhere")


def test_labels_name_it_with_or_without_its_ending(tmp_path, made_up):
    for name in ("one", "two"):
        write(tmp_path / "data", name)
    (tmp_path / "data" / "two.voxels").write_bytes((tmp_path / "data" / "one.voxels").read_bytes()[::-1])
    (tmp_path / "labels.csv").write_text("study,label\none,1\ntwo.PAIR,0\n")
    cohort = load(tmp_path / "data", tmp_path / "labels.csv", Columns())
    assert sorted(cohort.series["label"]) == [0, 1]


def test_a_file_goes_by_its_content_wherever_it_lies(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(range(256)) * 1024)
    uid = content_uid(format_of(path), [path])
    assert uid == "nifti-be682ab068d4735808103f8b4d0532df"
    assert content_uid(format_of(path), [path.rename(tmp_path / "b.nii")]) == uid
    with (tmp_path / "b.nii").open("r+b") as file:
        file.seek(128 * 1024)
        file.write(b"changed")
    assert content_uid(format_of(path), [tmp_path / "b.nii"]) != uid


# ---- what is known and not read --------------------------------------------------------

STARTS = {
    "study.zip": (b"PK\x03\x04", "a zip archive; unpack it"),
    "study": (b"PK\x03\x04", "a zip archive; unpack it"),
    "arrays.npz": (b"PK\x03\x04", "a NumPy array, which has neither spacing nor orientation; store"),
    "sheet.xlsx": (b"PK\x03\x04", "an Office document"),
    "array.npy": (b"\x93NUMPY\x01\0", "a NumPy array"),
    "a.dcm.gz": (b"\x1f\x8b\x08\0", "a file compressed by gzip; unpack it"),
    "a.tar.gz": (b"\x1f\x8b\x08\0", "a compressed tar archive; unpack it"),
    "a.tgz": (b"\x1f\x8b\x08\0", "a compressed tar archive; unpack it"),
    "a.tar": (bytes(257) + b"ustar\0", "a tar archive; unpack it"),
    "a.rar": (b"Rar!\x1a\x07\0", "a RAR archive; unpack it"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    "a.h5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "a.mat": (b"MATLAB 5.0 MAT-file", "a MATLAB file"),
    "b.mat": (b"\x89HDF\r\n\x1a\n", "a MATLAB file"),
    "a.gipl": (bytes(252) + b"\x2a\xe3\x89\xb8", "a GIPL file; convert it to NIfTI, MetaImage or NRRD"),
    "a.vtk": (b"# vtk DataFile Version 3.0", "a VTK file; convert it"),
    "a.mgz": (b"\x1f\x8b\x08\0", "a FreeSurfer file; convert it"),
    "a.hdr": (
        b"\x5c\x01\0\0" + bytes(340) + b"ni1\0",
        "half of a NIfTI pair of .hdr and .img; store both as one .nii",
    ),
    "b.hdr": (
        b"\x5c\x01\0\0" + bytes(344),
        "half of an Analyze 7.5 pair of .hdr and .img, which has no orientation",
    ),
    "a.png": (b"\x89PNG\r\n\x1a\n", "a picture (PNG), whose HU are lost; export the series as DICOM"),
    "IM0001": (b"\xff\xd8\xff\xe0", "a picture (JPEG), whose HU are lost"),
    "a.tif": (b"II*\0", "a picture (TIFF)"),
    "a.pdf": (b"%PDF-1.4", "a PDF document, which holds no volume and may stay"),
    "a.xml": (b"<?xml version='1.0'?>", "an XML file, which holds no volume"),
    "viewer.exe": (b"MZ\x90\0", "a Windows program"),
    ".DS_Store": (b"\0\0\0\x01Bud1", "the Finder's note on a folder"),
    "._a.dcm": (b"\0\x05\x16\x07\0\x02", "a Mac's note on another file"),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_known_format_is_refused_by_its_name_with_what_to_do(tmp_path, name):
    start, told = STARTS[name]
    (tmp_path / name).write_bytes(start + bytes(1000))
    series, problems = scan(tmp_path)
    assert series.empty and problems["n_files"].tolist() == [1]
    assert problems["reason"][0].startswith(f"Refused: not a DICOM file: it is {told}")


def test_names_tell_a_format_where_bytes_do_not(tmp_path):
    for name, told in (
        ("a.img", "by its name it is the voxels of a pair of .hdr and .img"),
        ("a.zraw", "by its name it is voxels without a header; put the .mhd or .nhdr"),
        ("a.zip", "by its name it is a zip archive"),
        ("a.txt", ""),
        ("a.nii.gz", ""),  # its reader says what is wrong with it
    ):
        assert recognised(tmp_path / name, bytes(600)).startswith(told) and bool(told) == bool(
            recognised(tmp_path / name, bytes(600))
        )


def test_a_readable_file_under_another_name_is_told_how_to_be_named(tmp_path):
    hu = nifti_writer.volume()
    nifti_writer.write(tmp_path / "a.nii", hu).rename(tmp_path / "volume")
    itk_writer.meta(tmp_path / "b.mha", hu).rename(tmp_path / "b.dat")
    itk_writer.nrrd(tmp_path / "c.nrrd", hu).rename(tmp_path / "c.nrd")
    reasons = scan(tmp_path)[1].set_index("path")["reason"]
    for name, told in (
        ("volume", "NIfTI does; rename it to end in .nii"),
        ("b.dat", "MetaImage"),
        ("c.nrd", "NRRD"),
    ):
        assert f"not a DICOM file: it begins as {told}" in reasons[name]


def test_no_file_is_opened_again_to_be_known(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(b"PK\3\4" * 100)
    opened = []
    real = io.FileIO
    monkeypatch.setattr(io, "FileIO", lambda path, *rest: opened.append(path) or real(path, *rest))
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("opened again"))
    assert "zip archive" in read_dicom_header(tmp_path / "a.zip").fault and len(opened) == 1


def test_each_kind_has_its_own_words_and_a_remedy():
    told = [kind.what for kind in UNREAD]
    assert len(told) - len(set(told)) <= 2  # two that differ only in their bytes
    assert all(";" in what or "may stay" in what for what in told)
    assert all(kind.endings or kind.starts for kind in UNREAD)
    assert all(ending == ending.lower() for kind in UNREAD for ending in kind.endings)
