"""README, "Your own data": its commands, word for word, on a folder of NIfTI files and a CSV."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from ctlib import tables
from ctlib.cohorts.phantom_exam import exam
from ctlib.reports import remote_addresses
from ctlib.workspace import NOTEBOOKS, PROJECT, Workspace

pytestmark = pytest.mark.e2e
N_PATIENTS = 24
SECTION = re.search(
    r"^## Your own data\n(.*?)^## ", (PROJECT / "README.md").read_text(encoding="utf-8"), re.S | re.M
)[1]
BLOCKS = [block.strip().splitlines() for block in re.findall(r"```\n(.*?)```", SECTION, re.S)]
CSV, COMMANDS = BLOCKS


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
    for name in ("ctlib", "notebooks", "params"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    rows = [CSV[0]]
    for number in range(N_PATIENTS):
        name = f"scan-{number:03d}"
        place = name if number % 2 else f"b/{name}"
        label = write_volume(root / "data" / f"{place}.nii.gz", number)
        rows.append(f"{name if number % 2 else place + '.nii.gz'},{label},Patient {number}")
    (root / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def test_the_commands_of_the_readme_run_the_whole_study(project):
    environment = {**os.environ, "PYTHONPATH": str(project), "HOME": str(project.parent / "home")}
    said = ""
    for command in COMMANDS:
        program, *arguments = shlex.split(command, comments=True)
        assert program == "python"
        done = subprocess.run(
            [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert f"{N_PATIENTS} series in {N_PATIENTS} files" in said and "1 files are refused" in said
    work = Workspace(project / "work" / "folder")
    series = tables.read("series", work.table("series", "folder"))
    assert len(series) == N_PATIENTS and series["patient_id"].nunique() == N_PATIENTS
    assert series["label"].sum() == N_PATIENTS // 2
    runs = tables.read("runs", work.table("runs"))
    assert len(runs) == 12 and (runs["status"] == "finished").all()
    effects = tables.read("effects", work.table("effects"))
    assert effects["effect"].notna().all()
    pages = sorted((project / "reports" / "folder").glob("*.html"))
    assert [page.stem for page in pages] == [*NOTEBOOKS, "index"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert remote_addresses(text) == [] and "Traceback" not in text
        assert "scan-0" not in text and not re.search(r"Patient \d", text)
    assert (project.parent / "home" / ".config" / "ctlib" / "key").is_file()
