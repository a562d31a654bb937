"""A format is a reader and an entry in `FORMATS`: scan, reading and the CSV of labels follow."""

from dataclasses import dataclass
from pathlib import Path

import dicom_writer
import nifti_writer
import numpy as np
import pytest

from ctlib.datasets.folder import Columns, load
from ctlib.io.deidentify import SeriesError
from ctlib.io.formats import FORMATS, Format, content_uid, format_of
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
    with pytest.raises(FileNotFoundError, match="the DICOM or NIfTI or Pair files"):
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
