"""The section about clusters, followed word for word with stand-ins for the commands of a queue."""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys

import pytest
import yaml
from dask_site import Site, wait_for
from noise_cohort import LENGTH, SIDE, write_cohort
from test_clusters import queue  # noqa: F401  (a fixture)

from ctlib.core import parameters, tables
from ctlib.core.workspace import PROJECT, Workspace
from ctlib.grid import clusters, credentials

pytestmark = pytest.mark.slow

HERE = {"cores=4": "cores=1", "memory=32GB": "memory=4GB", "gpus=1": "gpus=0"}
"""What this machine has of what is asked for; jobs reach it by `interface=lo`, as the section says."""
SMALL = {
    **{"tasks": ["lidc_nodule"], "backbones": ["resnet18"], "inits": ["random"], "fractions": [1.0]},
    **{"seeds": [0, 1, 2], "matrix_px": SIDE, "clip_length": LENGTH, "crop_px": SIDE - 2, "epochs": 1},
    **{"steps_per_epoch": 2, "controls": []},
}
RUN = """
import sys
from pathlib import Path
from ctlib.__main__ import main
from ctlib.core.workspace import Places

main(sys.argv[2:], Places(params=Path(sys.argv[1]) / "params", reports=Path(sys.argv[1]) / "reports"))
"""


@pytest.fixture
def section():
    return (PROJECT / "docs" / "cluster.md").read_text().split("## On a cluster")[1].split("\n## ")[0]


def in_queue(section, tmp_path, notebook: str, **given) -> None:
    """Run a notebook of a profile with what the section says; only values of this machine differ."""
    asked = yaml.safe_load(re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1])
    assert set(asked["cluster_options"]) >= HERE.keys() and "interface=ib0" in section
    asked["cluster_options"] = [HERE.get(one, one) for one in asked["cluster_options"]] + ["interface=lo"]
    asked["workers"] = 2
    command = re.search(r"`(ctlib run PROFILE --only 03)`", section)[1].replace("03", notebook[:2])
    given = {**given, **asked, "profile": "queued"}
    folder = tmp_path / "params" / "queued"
    folder.mkdir(parents=True)
    declared = parameters.declared_parameters(PROJECT / "notebooks" / f"{notebook}.ipynb")
    values = {name: given.get(name, parameter.default) for name, parameter in declared.items()}
    assert given.keys() <= values.keys()
    (folder / f"{notebook}.yaml").write_text(yaml.safe_dump(values))

    _, *words = shlex.split(command.replace("PROFILE", "queued"))
    ran = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), *words], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_section_of_a_queue_starts_workers_that_compute_the_grid(queue, section, tmp_path):  # noqa: F811
    work = Workspace(tmp_path / "work")
    write_cohort(work, "lidc")
    for name in ("slices", "problems", "marks"):  # which a notebook reads with the others
        tables.write(tables.empty(name), name, work.table(name, "lidc"))
    in_queue(section, tmp_path, "03_finetune_grid", **SMALL, work_dir=str(work.root))
    scripts = [path.read_text() for path in queue.glob("script-*")]
    assert len(scripts) == 2 and all("#SBATCH --gres=gpu:1" in one and "-p main" in one for one in scripts)
    assert all(re.search(r"-m ctlib worker tls://127\.0\.0\.1:\d+ ", one) for one in scripts)
    assert stat.S_IMODE(work.credentials.stat().st_mode) == 0o600
    runs = tables.read("runs", work.table("runs"))
    assert runs["status"].tolist() == ["finished"] * 3
    assert (queue / "cancelled").read_text().split()  # the jobs end with the notebook


def test_networks_are_pretrained_in_the_same_jobs(queue, section, tmp_path):  # noqa: F811
    work = Workspace(tmp_path / "work")
    small = {"pretrained": ["video"], "backbones": ["resnet18", "r3d_18"], "work_dir": str(work.root)}
    small |= {"videos_root": str(work.videos), "generated_per_class": 4, "heldout_share": 0.25}
    small |= {"pretrain_epochs": 1, "pretrain_steps_per_epoch": 2, "pretrain_exceptions": []}
    in_queue(section, tmp_path, "02_pretrain", **small)
    assert len(list(queue.glob("script-*"))) >= 2 and (queue / "cancelled").read_text().split()
    assert tables.read("pretraining", work.table("pretraining"))["backbone"].tolist() == small["backbones"]


SRUN = (
    '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nshift\nexec '
    + sys.executable
    + ' -m ctlib "$@"\n'
)
SBATCH = (
    '#!/bin/bash\nfor SLURM_ARRAY_TASK_ID in 0 1; do export SLURM_ARRAY_TASK_ID; bash "$1" & done\nwait\n'
)
"""Stand-ins: options of `srun` are dropped, and of an array there are two tasks."""


def tool(folder, name, text):
    (folder / name).write_text(text)
    (folder / name).chmod(stat.S_IRWXU)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_the_first_command_checks_a_gpu(section, tmp_path):
    (command,) = re.findall(r"^srun .*$", section, re.MULTILINE)
    words = [*shlex.split(command), "--seconds", "1"]
    subprocess.run(words, cwd=tmp_path, env=tool(tmp_path, "srun", SRUN), capture_output=True, check=True)
    told = json.loads((tmp_path / "gpu-check.json").read_text())
    assert len(told["checks"]) == 11 and told["checks"][-1]["verdict"] == "not reached"


def test_an_array_joins_the_scheduler_and_ends_before_its_time(section, tmp_path):
    script = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1]
    asked = dict(re.findall(r"^#SBATCH --(\S+)=(\S+)$", script, re.MULTILINE))
    assert asked["array"] == "0-7" and asked["gres"] == "gpu:1" and "`sbatch worker.sh`" in section
    memory, lifetime = re.search(r"--memory (\d+)GB --lifetime (\d+)", script).groups()
    assert int(memory) < int(asked["mem"].rstrip("G")) and int(lifetime) < clusters.seconds(asked["time"])
    with Site(tmp_path) as site:
        site.scheduler()
        for theirs, ours in (
            ("tls://HEAD:8786", site.address),
            ("work/PROFILE/tls.pem", str(site.credentials)),
            ("exec ctlib", f"exec {sys.executable} -m ctlib"),
        ):
            assert theirs in script
            script = script.replace(theirs, ours)
        (tmp_path / "worker.sh").write_text(script)
        environment = tool(tmp_path, "sbatch", SBATCH) | {"PYTHONPATH": site.environment["PYTHONPATH"]}
        job = subprocess.Popen(["sbatch", "worker.sh"], cwd=tmp_path, env=environment, start_new_session=True)
        try:
            with clusters.connected(site.address, security=credentials.read(site.credentials)) as client:
                wait_for(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2)
        finally:
            os.killpg(job.pid, signal.SIGTERM)
            job.wait()
