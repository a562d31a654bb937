"""A short form of benchmarks/fuzz_dicom.py: a few hundred damaged files, and whether damage is noticed."""

import itertools
import os
import signal
import time
from dataclasses import replace

import dicom_fuzz
import dicom_writer as writer
import fuzz_pool
import itk_fuzz
import pydicom
import pytest
from dicom_fuzz import SYNTAXES, File, Mutant, mutants

from ctlib.io import volume

pytestmark = pytest.mark.slow  # processes and seconds: not among the tests of two minutes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sources that need no files."""
    return list(dicom_fuzz.made_sources(tmp_path_factory.mktemp("made")))


def faults(pairs, folder):
    return [
        f"{verdict.outcome}: {source.name} {mutant.kind} {mutant.number}: {mutant.what}: {verdict.reason}"
        for source, mutant, verdict in fuzz_pool.judge_all(pairs, folder)
        if verdict.outcome not in fuzz_pool.GOOD
    ]


def test_damaged_files_made_here_are_refused_or_read_right(made, tmp_path):
    assert {source.name.split("/")[1] for source in made} == set(SYNTAXES.values())
    assert faults(mutants(made, len(made) * len(dicom_fuzz.KINDS), seed=1), tmp_path) == []


@pytest.mark.parametrize("which", itk_fuzz.FORMATS)
def test_damaged_metaimage_and_nrrd_are_refused_or_read_right(tmp_path, which):
    sources = list(itk_fuzz.sources(which, tmp_path / "sources"))
    assert len(sources) == 4
    assert faults(itk_fuzz.mutants(sources, 2 * len(sources) * len(itk_fuzz.KINDS), seed=1), tmp_path) == []


@pytest.mark.nightly
def test_damaged_real_files_are_refused_or_read_right(shared_data, tmp_path):
    sources = list(dicom_fuzz.zoo_sources(shared_data / "codec-zoo-chest-slice", tmp_path))
    assert {source.name.split("/")[1] for source in sources} == set(SYNTAXES.values())
    every_second = itertools.islice(mutants(sources, 207, seed=2), 0, None, 2)
    assert faults(every_second, tmp_path) == []


HEADERS = {  # each makes libjpeg warn as it reads the header, where gdcm ends the process
    "jfif": (b"\xff\xd8", b"\xff\xd8\xff\xe0\0\x10JFIF\0\2\1\0\0\1\0\1\0\0"),
    "gap": (b"\xff\xc4", b"\0\0\xff\xc4"),
    "marker": (b"\xff\xc4", b"\xff\x01"),
}


@pytest.mark.parametrize("name", ["made/jpeg-57", "made/jpeg-70"])
def test_a_strange_jpeg_header_does_not_end_the_process(made, tmp_path, name):
    source = next(s for s in made if s.name == name)
    pairs = []
    for case, (old, new) in HEADERS.items():
        file = File.of(source.slices[1], source.syntax)
        file.set_stream(file.stream().replace(old, new, 1))
        pairs.append((source, Mutant(0, 1, case, "header of the stream", file.bytes())))
    assert faults(pairs, tmp_path) == []


# ---- the harness notices ---------------------------------------------------------------


def crash(folder, truth):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(folder, truth):
    time.sleep(60)


def fail(folder, truth):
    raise KeyError("PatientID")


def devour(folder, truth):
    return "same", str(len(bytearray(1 << 30)))


@pytest.mark.parametrize(
    ("work", "outcome", "reason"),
    [
        (crash, "crash", "SIGSEGV"),
        (hang, "hang", "nothing after 0.5 s"),
        (fail, "exception", "KeyError: 'PatientID'"),
        (devour, "exception", "MemoryError"),
    ],
)
def test_what_goes_wrong_in_the_child_is_noticed(made, tmp_path, work, outcome, reason):
    reader = fuzz_pool.Reader(tmp_path, work, hang_s=0.5, memory_bytes=1 << 28)
    whole = Mutant(0, 1, "none", "", made[0].slices[1])
    for _ in range(2):  # the second by a child that was started again
        verdict = reader.judge(made[0], whole)
        assert verdict.outcome == outcome and reason in verdict.reason
    reader.stop()


def test_other_voxels_are_noticed(made, tmp_path):
    reader = fuzz_pool.Reader(tmp_path)
    source = next(s for s in made if s.name == "made/explicit")
    whole = Mutant(0, 3, "none", "", source.slices[3], cut=True)
    assert reader.judge(source, whole).outcome == "same"
    other = bytearray(whole.data)
    other[-2] ^= 1
    changed = replace(whole, data=bytes(other))
    assert reader.judge(source, changed).outcome == "wrong"
    assert reader.judge(source, replace(changed, cut=False)).outcome == "changed"
    assert reader.judge(source, replace(whole, data=b"")).outcome == "refused"
    reader.stop()


def test_files_that_are_not_counted_are_noticed(made, tmp_path, monkeypatch):
    for k, data in enumerate(made[0].slices):
        (tmp_path / f"{k}.dcm").write_bytes(data)
    truth = made[0].truth, writer.SPACING_MM, writer.ORIGIN_MM
    assert fuzz_pool.judge_folder(tmp_path, truth) == ("same", "")
    moved = truth[0], writer.SPACING_MM, (0.0, 0.0, 0.0)
    assert fuzz_pool.judge_folder(tmp_path, moved)[0] == "changed"
    series, problems = volume.scan(tmp_path)
    monkeypatch.setattr(volume, "scan", lambda root: (series.iloc[:0], problems))
    assert fuzz_pool.judge_folder(tmp_path, truth) == ("unaccounted", "scan counts 0 of 4 files")


# ---- the damage is what it says --------------------------------------------------------


@pytest.mark.parametrize("name", SYNTAXES.values())
def test_elements_are_found_as_pydicom_finds_them(made, tmp_path, name):
    source = next(s for s in made if s.name == f"padded/{name}")
    path = tmp_path / "a.dcm"
    path.write_bytes(source.slices[0])
    file = File.of(source.slices[0], source.syntax)
    ds = pydicom.dcmread(path)
    assert [e.tag for e in file.elements()] == [(tag.group, tag.element) for tag in sorted(ds.keys())]
    if source.syntax != dicom_fuzz.DEFLATED:
        assert file.bytes() == source.slices[0]
    assert file.elements()[-1].end == len(file.body)


@pytest.mark.parametrize("kind", dicom_fuzz.KINDS)
def test_every_kind_changes_files(made, kind):
    found = [(s, dicom_fuzz.mutant(s, kind, seed)) for s in made for seed in range(3)]
    same = sum(mutant.data == source.slices[mutant.place] for source, mutant in found)
    assert same < 0.3 * len(found)


@pytest.mark.parametrize("gap", [0, 1, 16, 300])
def test_a_stream_without_some_bytes_is_told_from_a_whole_one(made, gap):
    source = next(s for s in made if s.name == "made/jpeg-70")
    file = File.of(source.slices[0], source.syntax)
    stream = file.stream()
    file.set_stream(stream[:1000] + stream[1000 + gap :])
    assert dicom_fuzz.another_image(file) == (gap == 0)
