"""Profiles of public cohorts, end to end, on files of their layout that are made here."""

import csv
import os
import shutil
import subprocess
import sys

import public_cohorts as made
import pytest

from ctlib.core import tables
from ctlib.core.workspace import PROJECT, Workspace
from ctlib.datasets.synthetic.ct import exam

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(1800)]
QUICK = {
    "pretrained": '["video"]',
    "generated_per_class": "5",
    "pretrain_epochs": "1",
    "pretrain_steps_per_epoch": "2",
    "size": "tiny",
    "backbones": '["slow_r50"]',
    "inits": '["random", "video"]',
    "fractions": "[1.0]",
    "seeds": "[0]",
    "controls": "[]",
    "control_backbones": "[]",
    "folds": "[0]",
    "epochs": "1",
    "steps_per_epoch": "2",
    "lr": '"0.004"',
    "exceptions": "[]",
    "pretrain_exceptions": "[]",
    "averaged": '["slow_r50"]',
    "compared_init": "video",
    "replicates": "500",
    "workers": "2",
    "loader_workers": "0",
}
"""What makes a profile quick: the commands are tested, not what networks learn in the time."""


def write_crops(root):
    made.nodulemnist3d(root, (24, 12, 12))
    return 48


def write_scans(root):
    """Four patients of each of LIDC's folds, two with a nodule; phantoms as their volumes."""
    with (PROJECT / "params/lidc/folds.csv").open() as file:
        fold = {row["patient_id"]: int(row["fold"]) for row in csv.DictReader(file)}
    chosen = {number: [] for number in range(5)}
    for uid, patient in made.lidc_series(200):
        if len(chosen[fold[patient]]) < 4:
            chosen[fold[patient]].append(uid)
    volumes, nodules = {}, []
    for number, uid in enumerate(uid for uids in chosen.values() for uid in uids):
        volumes[uid] = exam("lidc", 0, number).hu
        if number % 2:
            nodules.append((uid, 12.0, -19.0, -80.5 + 2.5 * (len(volumes[uid]) // 2), 20.0))
    made.luna16(root, volumes, nodules, per_subset=10)
    return len(volumes)


CASES = {
    "nodulemnist3d": (write_crops, {}),
    "luna16": (
        write_scans,
        {
            "matrix_px": "38",
            "crop_px": "32",
            "clip_length": "16",
            "video_px": "38",
            "videos_root": "work/luna16/videos",
            "videos_source": "generated",
            "videos_licence": "none",
            "heldout_share": "0.2",
        },
    ),
}


@pytest.mark.parametrize("profile", CASES)
def test_a_profile_runs_from_its_files_to_its_report(tmp_path, profile):
    write, more = CASES[profile]
    root = tmp_path / "project"
    for name in ("ctlib", "notebooks", "params"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    n_series = write(root / "data" / profile)
    sets = [word for key, value in (QUICK | more).items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "ctlib", "run", profile, *sets],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    work = Workspace(root / "work" / profile)
    series = tables.read("series", work.table("series", profile))
    assert len(series) == n_series and series["label"].sum() == n_series // 2
    splits = tables.read("splits", work.table("splits", profile)).set_index("patient_id")["split"]
    assert set(splits) == {"train", "val", "test"} and set(splits.index) == set(series["patient_id"])
    runs = tables.read("runs", work.table("runs"))
    assert (runs["status"] == "finished").all() and set(runs["init"]) == {"random", "video"}
    assert "Traceback" not in (work.reports / "index.html").read_text(encoding="utf-8")
