"""Getting the data: the plan, what stops it, and that a killed fetch leaves nothing that only looks whole."""

import http.server
import importlib.util
import io
import os
import sys
import threading
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from ctlib.cli import __main__ as cli
from ctlib.core.workspace import PROJECT
from ctlib.datasets import download as fetching
from ctlib.datasets.download import FetchError, FetchRefused, lidc, rspect

UIDS = sorted(lidc.annotated_series())[:6]
PATIENTS = ["LIDC-IDRI-0003", "LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0001"]
N_FILES, FILE_BYTES = 5, 1000


def row(uid, patient, modality="CT", collection="lidc_idri", mb=N_FILES * FILE_BYTES / 1e6):
    """A row of idc_index.parquet, with the column names of idc-index-data 25.0.5."""
    return {
        "collection_id": collection,
        "analysis_result_id": None,
        "PatientID": patient,
        "SeriesInstanceUID": uid,
        "StudyInstanceUID": f"1.2.{uid[-5:]}",
        "source_DOI": "10.7937/k9/tcia.2015.lo9ql9sx",
        "Modality": modality,
        "instanceCount": N_FILES,
        "license_short_name": "CC BY 3.0",
        "series_aws_url": "s3://idc-open-data/0/*",
        "series_size_MB": mb,
    }


def write_index(folder, rows):
    source = {"source_id": "lidc_idri", "citation": "Armato &amp; al.\n<i>Data From LIDC-IDRI</i>"}
    other = {"source_id": "qin_lungct_seg", "citation": "Somebody else"}
    collections = [{"collection_id": "lidc_idri", "sources": [other, source]}]
    pd.DataFrame(rows).to_parquet(folder / "idc_index.parquet")
    pd.DataFrame(collections).to_parquet(folder / "collections_index.parquet")
    return folder


@pytest.fixture
def index(tmp_path):
    """Four annotated series of three patients, among what is not to be fetched."""
    folder = tmp_path / "index"
    folder.mkdir()
    rows = [row(uid, patient) for uid, patient in zip(UIDS, PATIENTS, strict=False)]
    rows += [row("9.9.1", "LIDC-IDRI-0001", "SEG"), row("9.9.2", "LIDC-IDRI-0004", "DX")]
    rows += [row("9.9.3", "LIDC-IDRI-0005"), row(UIDS[5], "N-1", collection="nlst")]
    return write_index(folder, rows)


class Bucket:
    """A bucket: gives each series whole; `die_at` ends the process at that file, half written."""

    def __init__(self, die_at=None, short=(), cut=(), gone=False):
        self.die_at, self.short, self.cut, self.gone = die_at, short, cut, gone
        self.asked, self.written = [], 0

    def __call__(self, uids, folder):
        self.asked += uids
        if self.gone:
            raise FetchError("dial tcp: no such host")
        for uid in uids:
            (folder / uid).mkdir()
            for i in range(N_FILES - (uid in self.short)):
                self.written += 1
                half = self.written == self.die_at or uid in self.cut
                (folder / uid / f"{i}.dcm").write_bytes(bytes(FILE_BYTES // 2 if half else FILE_BYTES))
                if self.written == self.die_at:
                    os._exit(9)


def in_a_process_of_its_own(work):
    """Exit code of a function that ends its process, as SIGKILL does: no clean-up is run."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tree(folder):
    """Each file with what changes when it is written again."""
    return {
        str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_ino, p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def series_in(to):
    return sorted(p.name for p in to.glob("*/*/*"))


def facts(job):
    return dict(job.facts)


# ---- the plan ----------------------------------------------------------------------------


def test_the_plan_tells_what_the_index_has(tmp_path, index):
    job = lidc.plan(tmp_path / "lidc", index=index, fetcher=Bucket())
    told = facts(job)
    assert (
        told["index"] == "has 4 of the 1,018 annotated CT series"
    )  # the one of another collection is not ours
    assert told["chosen"] == "4 series of 3 of 3 patients"
    assert told["to fetch"].startswith("4 series, 20 files")
    assert told["left out"].endswith("1 CT, 1 DX, 1 SEG")
    assert told["licence"] == "CC BY 3.0" and told["cite"] == "Armato & al. Data From LIDC-IDRI"
    assert job.fetch_bytes == 4 * N_FILES * FILE_BYTES and not (tmp_path / "lidc").exists()


def test_the_plan_tells_room_and_time():
    job = fetching.Job("lidc", Path("/tmp"), (), 128 * 10**9, 128 * 10**9, (), lambda: None)
    assert any("about 1 h 47 min at 20 MB/s (assumed" in text for text in job.lines)
    assert any("needs 128.0 GB" in text and "are free" in text for text in job.lines)


def test_more_patients_only_add(index):
    selection = lidc.select(index / "idc_index.parquet", lidc.annotated_series())
    one, two = selection.first(1), selection.first(2)
    assert {s.patient_id for s in one} == {"LIDC-IDRI-0001"} and len(one) == 2  # both scans of the patient
    assert {s.patient_id for s in two} == {"LIDC-IDRI-0001", "LIDC-IDRI-0002"} and set(one) < set(two)
    assert selection.first(99) == selection.first(None) == selection.series


def test_an_index_of_another_kind_is_refused(tmp_path):
    pd.DataFrame({"collection_id": ["lidc_idri"]}).to_parquet(tmp_path / "idc_index.parquet")
    with pytest.raises(FetchRefused, match=r"idc_index\.parquet is not as in idc-index-data"):
        lidc.select(tmp_path / "idc_index.parquet", {"1"})


@pytest.mark.skipif(
    importlib.util.find_spec("idc_index_data") is None,
    reason="idc-index-data is not installed: it comes with the extra `fetch`",
)
def test_the_real_index_has_all_annotated_series():
    folder = fetching.require_package("idc_index_data", lidc.BRINGS)
    begun = time.monotonic()
    selection = lidc.select(folder / "idc_index.parquet", lidc.annotated_series())
    assert time.monotonic() - begun < 5
    assert len(selection.series) == selection.n_annotated == 1018
    assert len({s.patient_id for s in selection.series}) == 1010
    assert sum(s.n_files for s in selection.series) > 240_000
    assert sum(s.n_bytes for s in selection.series) == pytest.approx(lidc.WHOLE_BYTES, rel=1e-3)
    assert "CT" not in selection.left_out and {"CR", "DX", "SEG", "SR"} <= set(selection.left_out)
    assert "Armato" in lidc.citation(folder / "collections_index.parquet")


# ---- fetched, killed, fetched again --------------------------------------------------------


def test_a_killed_fetch_goes_on_and_leaves_no_half_series(tmp_path, index, monkeypatch, capsys):
    monkeypatch.setattr(lidc, "BATCH", 1)
    to = tmp_path / "lidc"
    halfway = 2 * N_FILES + 3

    def killed():
        fetching.fetch(lidc.plan(to, index=index, fetcher=Bucket(die_at=halfway)), yes=True)

    assert in_a_process_of_its_own(killed) == 9
    before = tree(to)
    assert len(series_in(to)) == 2 and len(before) == 2 * N_FILES  # the third is half, and not here
    assert fetching.part_of(to).is_dir()

    bucket = Bucket()
    fetching.fetch(lidc.plan(to, index=index, fetcher=bucket), yes=True)
    after = tree(to)
    assert series_in(to) == sorted(UIDS[:4]) and len(after) == 4 * N_FILES
    assert {size for size, _, _ in after.values()} == {FILE_BYTES}
    assert all(after[name] == seen for name, seen in before.items())  # not written again
    assert len(bucket.asked) == 2 and not fetching.part_of(to).exists()
    assert "Next: ctlib prepare lidc" in capsys.readouterr().out


def test_nothing_is_asked_for_when_all_is_here(tmp_path, index):
    to, again = tmp_path / "lidc", Bucket()
    fetching.fetch(lidc.plan(to, index=index, fetcher=Bucket()), yes=True)
    fetching.fetch(lidc.plan(to, index=index, fetcher=again))  # nobody is asked to agree either
    assert again.asked == []


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_damaged_series_is_fetched_again_and_no_other(tmp_path, index, damage):
    to, again = tmp_path / "lidc", Bucket()
    fetching.fetch(lidc.plan(to, index=index, fetcher=Bucket()), yes=True)
    file = next(to.glob(f"*/*/{UIDS[2]}/0.dcm"))
    file.unlink() if damage == "removed" else file.write_bytes(bytes(FILE_BYTES // 2))
    fetching.fetch(lidc.plan(to, index=index, fetcher=again), yes=True)
    assert again.asked == [UIDS[2]] and file.stat().st_size == FILE_BYTES


@pytest.mark.parametrize("fault", ["short", "cut"])
def test_a_series_that_did_not_come_whole_is_not_put_in_place(tmp_path, index, fault):
    to = tmp_path / "lidc"
    job = lidc.plan(to, index=index, fetcher=Bucket(**{fault: [UIDS[1]]}))
    with pytest.raises(FetchError, match="1 of 4 series did not come whole") as told:
        fetching.fetch(job, yes=True)
    assert fetching.GOES_ON in str(told.value)
    assert series_in(to) == sorted({*UIDS[:4]} - {UIDS[1]}) and not fetching.part_of(to).exists()


def test_no_network_is_one_sentence(tmp_path, index):
    job = lidc.plan(tmp_path / "lidc", index=index, fetcher=Bucket(gone=True))
    with pytest.raises(FetchError) as told:
        fetching.fetch(job, yes=True)
    assert str(told.value) == f"LIDC-IDRI did not come: dial tcp: no such host. {fetching.GOES_ON}."
    assert not fetching.part_of(tmp_path / "lidc").exists()


def test_two_fetches_into_one_folder_are_refused(tmp_path, index):
    bucket = Bucket()
    with fetching.alone(tmp_path / "lidc"), pytest.raises(FetchRefused, match="Another fetch"):
        fetching.fetch(lidc.plan(tmp_path / "lidc", index=index, fetcher=bucket), yes=True)
    assert bucket.asked == []


# ---- what stops it -------------------------------------------------------------------------


def test_it_does_not_start_when_the_disk_is_too_small(tmp_path):
    index, bucket = write_index(tmp_path, [row(UIDS[0], "LIDC-IDRI-0001", mb=1e12)]), Bucket()
    with pytest.raises(FetchRefused, match=r"free, 1,000,000,000\.0 GB are needed"):
        fetching.fetch(lidc.plan(tmp_path / "lidc", index=index, fetcher=bucket), yes=True)
    assert bucket.asked == [] and not (tmp_path / "lidc").exists()


def test_it_asks_and_takes_no_for_an_answer(tmp_path, index, monkeypatch):
    bucket = Bucket()
    job = lidc.plan(tmp_path / "lidc", index=index, fetcher=bucket)
    with pytest.raises(FetchRefused, match=r"no terminal to ask at\. Agree with --yes"):
        fetching.fetch(job)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(fetching.click, "confirm", lambda question: False)
    with pytest.raises(FetchRefused, match="Nothing was fetched"):
        fetching.fetch(job)
    assert bucket.asked == []
    monkeypatch.setattr(
        fetching.click, "confirm", lambda question: question.startswith("Fetch less than 1 MB")
    )
    fetching.fetch(job)
    assert sorted(bucket.asked) == sorted(UIDS[:4])


def test_a_dry_run_fetches_nothing(tmp_path, index):
    bucket = Bucket()
    fetching.fetch(lidc.plan(tmp_path / "lidc", index=index, fetcher=bucket), yes=True, dry_run=True)
    assert bucket.asked == [] and not (tmp_path / "lidc").exists()


def test_the_target_is_a_folder_in_a_disk(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchRefused, match="is a file"):
        fetching.target("lidc", tmp_path / "file")
    with pytest.raises(FetchRefused, match="top of a disk"):
        fetching.target("lidc", Path("/"))
    (tmp_path / "link").symlink_to(tmp_path / "big", target_is_directory=True)
    assert fetching.target("lidc", tmp_path / "link") == tmp_path / "big"
    assert fetching.target("rspect") == (PROJECT / "data" / "rspect").resolve()


# ---- the command -----------------------------------------------------------------------------


def ctlib(*arguments):
    done = CliRunner().invoke(cli.cli, ["fetch", *arguments])
    assert "Traceback" not in done.output
    return done


def without(monkeypatch, *packages):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in packages else find(name, *rest)
    )


@pytest.mark.parametrize("dataset", ["lidc", "nlst501"])
def test_size_and_licence_are_told_without_the_extra_and_nothing_is_fetched(tmp_path, monkeypatch, dataset):
    without(monkeypatch, "idc_index")
    to, told = str(tmp_path / "to"), {"lidc": ("128.4 GB", "CC BY 3.0"), "nlst501": ("56.0 GB", "CC BY 4.0")}
    for asked, status in (("--dry-run", 0), ("--yes", 2)):
        done = ctlib(dataset, "--to", to, asked)
        assert done.exit_code == status and all(text in done.output for text in told[dataset])
        assert done.output.count("idc_index is not installed") == 1 and ".[fetch]" in done.output
    assert not (tmp_path / "to").exists()


def test_exit_codes_of_the_command(tmp_path, index, monkeypatch):
    monkeypatch.setattr(fetching, "require_package", lambda *_: index)
    monkeypatch.setattr(lidc, "require_package", lambda *_: index)
    monkeypatch.setattr(lidc, "Idc", lambda: Bucket(gone=True))
    to = str(tmp_path / "lidc")
    assert ctlib("lidc", "--to", to, "--dry-run").exit_code == 0
    assert ctlib("lidc", "--to", to).exit_code == 2  # nobody agreed
    assert ctlib("lidc", "--to", to, "--patients", "0").exit_code == 2
    assert ctlib("rspect", "--to", to, "--patients", "3").exit_code == 2
    failed = ctlib("lidc", "--to", to, "--yes", "--patients", "1")
    assert failed.exit_code == 1 and "did not come: dial tcp" in failed.output
    monkeypatch.setattr(lidc, "Idc", Bucket)
    assert ctlib("lidc", "--to", to, "--yes", "--patients", "1").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "lidc").iterdir()) == ["LIDC-IDRI-0001"]


# ---- how far it is -----------------------------------------------------------------------------


def test_where_there_is_no_terminal_progress_is_plain_lines(tmp_path):
    stream, growing = io.StringIO(), tmp_path / "part"
    growing.mkdir()
    (growing / "old").write_bytes(bytes(10**6))
    with fetching.Meter(4 * 10**6, growing, stream, every_s=0.02) as shown:
        (growing / "new").write_bytes(bytes(10**6))
        time.sleep(0.15)
        shown.add(2 * 10**6)
    lines = stream.getvalue().splitlines()
    assert len(lines) >= 2 and "\r" not in stream.getvalue()
    assert lines[0].startswith("2 MB of 4 MB") and "left" in lines[0]
    assert lines[-1].startswith("4 MB of 4 MB") and "left" not in lines[-1]


def test_the_rate_counts_only_what_came_now():
    assert fetching.line(done=30 * 10**6, total=50 * 10**6, begun=10 * 10**6, seconds=2.0).startswith(
        "30 MB of 50 MB, 10 MB/s"
    )


# ---- idc-index -----------------------------------------------------------------------------------


def test_the_reason_of_s5cmd_is_told_without_paths():
    errors = lidc.Errors()
    errors.texts.append(
        "Download process failed with the following errors:\nERROR session: fetching region failed\n"
        'ERROR "cp s3://idc-open-data/37/* /home/somebody/x": RequestError: send request failed caused by: '
        'Get "https://s3.amazonaws.com/?list-type=2": dial tcp: lookup s3.amazonaws.com: no such host\n'
    )
    errors.texts.append("Download process return non-zero exit code: 1")
    assert errors.reason == "dial tcp: lookup s3.amazonaws.com: no such host"


def test_any_answer_is_a_network_and_none_is_said_in_seconds():
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        lidc.require_answer(url)
        server.shutdown()
    with pytest.raises(FetchError, match="there seems to be no network"):
        lidc.require_answer(url)


# ---- RSPECT -------------------------------------------------------------------------------------

SERIES = [f"train/study{i}/series{i}" for i in range(4)]


def write_archive(path, extra=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("train.csv", "StudyInstanceUID\n")
        file.writestr("test/a/b/1.dcm", "hidden label")
        for folder in SERIES:
            for i in range(N_FILES):
                file.writestr(f"{folder}/{i}.dcm", bytes(FILE_BYTES))
        for name in extra:
            file.writestr(name, "x")


@pytest.fixture
def small(monkeypatch):
    """RSPECT, but of a size that any disk has room for."""
    monkeypatch.setattr(rspect, "N_BYTES", 10**6)


def downloaded(folder):
    write_archive(folder / f"{rspect.COMPETITION}.zip")


def test_rspect_tells_the_published_figures_and_what_is_missing(tmp_path, monkeypatch):
    without(monkeypatch, "kaggle")
    job = rspect.plan(tmp_path / "rspect", environ={"HOME": str(tmp_path)})
    told = facts(job)
    assert "7,279 labelled studies, 1,790,594 images, about 900.0 GB" in told["in all"]
    assert told["credentials"] == "none" and job.needs_bytes == 1800 * 10**9  # the archive, and unpacked
    package, credentials = job.lacking
    assert ".[fetch]" in package
    assert all(word in credentials for word in ("an account", "accept the competition's rules", "a token"))
    with pytest.raises(FetchRefused, match="Nothing was fetched"):
        fetching.fetch(job, yes=True)


def test_rspect_without_credentials_is_refused_by_the_command(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = ctlib("rspect", "--to", str(tmp_path / "rspect"), "--yes")
    assert done.exit_code == 2 and "No credentials of Kaggle were found" in done.output
    assert ctlib("rspect", "--to", str(tmp_path / "rspect"), "--dry-run").exit_code == 0


@pytest.mark.parametrize(
    ("environ", "file", "found"),
    [
        ({}, None, ""),
        ({"KAGGLE_USERNAME": "me"}, None, ""),
        ({"KAGGLE_USERNAME": "me", "KAGGLE_KEY": "k"}, None, "KAGGLE_USERNAME and KAGGLE_KEY"),
        ({"KAGGLE_API_TOKEN": "t"}, ".kaggle/kaggle.json", "KAGGLE_API_TOKEN"),
        ({}, ".kaggle/kaggle.json", "kaggle.json"),
        ({}, ".config/kaggle/kaggle.json", "kaggle.json"),
        ({}, ".kaggle/access_token", "~/.kaggle/access_token"),
        ({}, ".kaggle/credentials.json", "~/.kaggle/credentials.json"),
    ],
)
def test_credentials_are_found_where_kaggles_client_looks(tmp_path, environ, file, found):
    if file:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("secret")
    assert rspect.credentials({"HOME": str(tmp_path), **environ}) == found


def test_rspect_is_fetched_unpacked_and_its_archive_deleted(tmp_path, small):
    to = tmp_path / "rspect"
    fetching.fetch(rspect.plan(to, download=downloaded), yes=True)
    assert sorted(p.name for p in to.iterdir()) == ["train", "train.csv"]  # the test images stay packed
    assert len(tree(to)) == 1 + 4 * N_FILES and not fetching.part_of(to).exists()
    again = rspect.plan(to, download=lambda folder: pytest.fail("fetched twice"))
    assert again.fetch_bytes == again.needs_bytes == 0
    fetching.fetch(again)


def test_a_killed_unpacking_goes_on_and_leaves_no_half_series(tmp_path, small, monkeypatch):
    to = tmp_path / "rspect"
    copy, calls = rspect.shutil.copyfileobj, []

    def dies(source, sink):
        calls.append(1)
        if len(calls) == 2 + 2 * N_FILES + 3:
            sink.write(b"half")
            sink.flush()
            os._exit(9)
        copy(source, sink)

    def killed():
        rspect.shutil.copyfileobj = dies
        fetching.fetch(rspect.plan(to, download=downloaded), yes=True)

    assert in_a_process_of_its_own(killed) == 9
    before = tree(to)
    assert [p.name for p in sorted(to.glob("train/*"))] == ["study0", "study1"]
    assert len(before) == 1 + 2 * N_FILES

    job = rspect.plan(to, download=lambda folder: pytest.fail("the archive was here"))
    assert job.needs_bytes == 2 * N_FILES * FILE_BYTES and job.fetch_bytes == 0
    fetching.fetch(job, yes=True)
    after = tree(to)
    assert len(after) == 1 + 4 * N_FILES and all(after[name] == seen for name, seen in before.items())
    assert not fetching.part_of(to).exists()


def test_half_an_archive_is_not_taken_for_one(tmp_path, small):
    to = tmp_path / "rspect"
    archive = rspect.archive_of(to)
    write_archive(archive)
    assert rspect.is_complete(archive)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert not rspect.is_complete(archive)
    archive.write_bytes(whole)
    archive.with_name(f"{archive.name}.kaggle-partial").write_text("{}")
    assert not rspect.is_complete(archive)

    def goes_on(folder):
        archive.with_name(f"{archive.name}.kaggle-partial").unlink()

    fetching.fetch(rspect.plan(to, download=goes_on), yes=True)
    assert len(tree(to)) == 1 + 4 * N_FILES


def test_a_damaged_archive_is_said_and_its_folder_not_put_in_place(tmp_path, small):
    to = tmp_path / "rspect"
    archive = rspect.archive_of(to)
    write_archive(archive)
    content = bytearray(archive.read_bytes())
    content[content.index(b"train/study2/series2/3.dcm") + 100] ^= 1  # a byte of that image
    archive.write_bytes(content)
    with pytest.raises(FetchError, match=r"is damaged \(Bad CRC-32 .*study2.*\): delete it"):
        fetching.fetch(rspect.plan(to), yes=True)
    assert [p.name for p in sorted(to.glob("train/*"))] == ["study0", "study1"]


@pytest.mark.parametrize("name", ["../outside.dcm", "/outside.dcm", "train/../../outside.dcm"])
def test_a_member_that_points_outside_is_refused(tmp_path, small, name):
    to = tmp_path / "a" / "rspect"
    write_archive(rspect.archive_of(to), extra=[name])
    with pytest.raises(FetchError, match="points out of its folder"):
        fetching.fetch(rspect.plan(to), yes=True)
    assert not to.exists() and not list(tmp_path.rglob("outside.dcm"))


def test_unpacking_does_not_start_when_the_disk_is_too_small(tmp_path, small, monkeypatch):
    to = tmp_path / "rspect"
    write_archive(rspect.archive_of(to))
    monkeypatch.setattr(fetching, "free_bytes", lambda folder: fetching.KEEP_FREE_BYTES + 100)
    with pytest.raises(FetchRefused, match="are needed"):
        rspect.unpack(rspect.archive_of(to), to)
    assert not to.exists()


def test_what_kaggle_refuses_is_said_with_what_to_do():
    assert "make a new token" in rspect.refusal(401)
    assert "accept the competition's rules" in rspect.refusal(403)
    assert rspect.refusal(500) == "Kaggle answers with HTTP status 500"
