"""README, "Your own data", "network" and "weights", word for word, on a folder of NIfTI files and a CSV."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
import yaml
from readme_parts import blocks, files, own_commands

from ctlib.cli.reports import remote_addresses
from ctlib.core import tables
from ctlib.core.workspace import NOTEBOOKS, PROJECT, Workspace
from ctlib.datasets.synthetic.ct import exam
from ctlib.models.registry import build

pytestmark = pytest.mark.e2e
N_PATIENTS = 24
CSV = blocks("Your own data")[0].splitlines()
QUICK = {
    "02_pretrain": {"generated_per_class": 5, "pretrain_epochs": 1, "pretrain_steps_per_epoch": 2},
    "03_finetune_grid": {"epochs": 1, "steps_per_epoch": 2},
    "04_analyze": {"replicates": 500},
}
"""What makes the profile quick: the commands are tested, not what networks learn in the time."""
NOT_SAID = (
    "not decided", "told only", "nothing to list", "filled up with air", "of no consequence", "For whom?", "exams ill",
    "hardest", "Where does it look", "slices with disease", "rspect_pe",
)  # fmt: skip
"""Words of ours that readers did not know, and what only the demo's tasks have."""


def write_volume(path, number):
    """A phantom patient as NIfTI: its axes run to Right, Anterior, Superior."""
    drawn = exam("lidc", 0, number)
    z, y, x = drawn.chest.spacing_mm
    path.parent.mkdir(parents=True, exist_ok=True)
    array = drawn.hu.transpose(2, 1, 0)[::-1, ::-1]
    image = nibabel.Nifti1Image(np.ascontiguousarray(array), np.diag([x, y, z, 1.0]))
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    nibabel.save(image, path)
    return int(drawn.ill)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clone of the project with data of its user's."""
    root = tmp_path_factory.mktemp("own") / "project"
    for name in ("ctlib", "notebooks", "params", "reports"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / ".gitignore", root)
    rows = [CSV[0]]
    for number in range(N_PATIENTS):
        name = f"scan-{number:03d}"
        place = name if number % 2 else f"b/{name}"
        label = write_volume(root / "data" / f"{place}.nii.gz", number)
        rows.append(f"{name if number % 2 else place + '.nii.gz'},{label},Patient {number}")
    (root / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    for name, quick in QUICK.items():
        path = root / "params" / "folder" / f"{name}.yaml"
        kept = [line for line in path.read_text().splitlines() if line.split(":")[0] not in quick]
        path.write_text("\n".join([*kept, *(f"{key}: {value}" for key, value in quick.items())]) + "\n")
    for words in ("init --quiet", "add .", "-c user.name=a -c user.email=a@b commit --quiet -m a"):
        subprocess.run(["git", *words.split()], cwd=root, check=True)
    return root


def run(project, arguments, code=0):
    """A command as a user types it; what it said."""
    environment = {**os.environ, "PYTHONPATH": str(project), "HOME": str(project.parent / "home")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stdout + (done.stderr if code else "")


def typed(project, title, which=slice(None)):
    """The commands of a section, one after the other; what they said."""
    return "".join(run(project, arguments) for arguments in own_commands(title)[which])


@pytest.fixture(scope="module")
def studied(project):
    """The project after the commands of "Your own data", and what they said."""
    return project, typed(project, "Your own data")


def finished(work):
    runs = tables.read("runs", work.table("runs"))
    assert (runs["status"] == "finished").all()
    return runs


def test_the_commands_of_the_readme_run_the_whole_study(studied):
    project, said = studied
    assert f"{N_PATIENTS} series in {N_PATIENTS} files" in said and "Refused files: 1\n" in said
    work = Workspace(project / "work" / "folder")
    series = tables.read("series", work.table("series", "folder"))
    assert len(series) == N_PATIENTS and series["patient_id"].nunique() == N_PATIENTS
    assert series["label"].sum() == N_PATIENTS // 2
    assert len(finished(work)) == 12
    effects = tables.read("effects", work.table("effects"))
    assert effects["effect"].notna().all()
    pages = sorted(work.reports.glob("*.html"))
    assert [page.stem for page in pages] == [*NOTEBOOKS[1:], "index"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert remote_addresses(text) == [] and "Traceback" not in text
        assert not [word for word in NOT_SAID if word in text], page
        assert "scan-0" not in text and not re.search(r"Patient \d", text)
    assert (project.parent / "home" / ".config" / "ctlib" / "key").is_file()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=project, capture_output=True, text=True)
    assert status.stdout == "" and f"Read {work.reports.relative_to(project)}/index.html" in said


def test_the_reports_are_written_again_without_computing(studied):
    project, _ = studied
    page = project / "work" / "folder" / "reports" / "04_analyze.html"
    page.unlink()
    assert "04_analyze done" in typed(project, "Reading the reports", slice(1)) and page.is_file()
    if shutil.which("chromium") is None:
        pytest.skip("chromium is missing, so reports are not printed: install chromium")
    typed(project, "Reading the reports", slice(1, None))
    assert page.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_a_network_of_ones_own_is_asked_the_question(studied):
    project, _ = studied
    for name, text in files("Your own network", "python").items():
        (project / name).write_text(text)
    typed(project, "Your own network")
    work = Workspace(project / "work" / "folder")
    runs = finished(work)
    assert len(runs) == 12 and set(runs["backbone"]) == {"my_nets:plain"}
    effects = tables.read("effects", work.table("effects"))
    assert effects["effect"].notna().all() and effects["backbone"].str.contains("my_nets:plain").any()


def test_weights_of_ones_own_are_an_init(studied):
    project, _ = studied
    ((place, text),) = files("Your own weights", "yaml").items()
    record = yaml.safe_load(text)
    theirs = {f"module.encoder.{name}": tensor for name, tensor in build("slow_r50").state_dict().items()}
    theirs |= {"module.fc.weight": torch.zeros(1000, 8), "module.fc.bias": torch.zeros(1000)}
    (project / place).parent.mkdir(parents=True)
    (project / place).write_text(text.replace("module.encoder.", "encoder."))
    torch.save({"state_dict": theirs, "epoch": 90}, (project / place).with_name(record["file"]))
    (arguments,) = own_commands("Your own weights")
    at = arguments.index("04")
    said = run(project, arguments[: at - 1] + arguments[at + 1 :], code=1)
    why = r"InitError: init ours for slow_r50 \(tiny\), .*: tensors do not fit the network; .+"
    told = rf"Error: (\d+) of \d+ runs failed:\n  init ours, network slow_r50: \1 of \1: {why}\n`ctlib runs folder"
    assert "03_finetune_grid done" in said and re.search(told, said), said

    (project / place).write_text(text)
    (again,) = re.findall(r"When the cause is gone: `ctlib (retry .*?)`", said)
    run(project, ["-P", "-m", "ctlib", *shlex.split(again)])
    typed(project, "Your own weights")
    work = Workspace(project / "work" / "folder")
    runs = finished(work)
    assert set(runs["init"]) == {"random", "ours"} and len(runs) == 12
    assert tables.read("effects", work.table("effects"))["effect"].notna().all()
    for run_id in runs.loc[runs["init"] == "ours", "run_id"]:
        ledger = tables.read("ledger", work.runs / run_id / "ledger.parquet")
        loaded = ledger[ledger["status"] != "head"]
        assert len(loaded) == len(theirs) - 2 and (loaded["status"] == "loaded").all()
        assert loaded["why"].str.contains(record["file"], regex=False).all()
