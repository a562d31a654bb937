"""What workers are asked for, here and in a queue; a queue is a folder of stand-ins that run the jobs."""

import contextlib
import mmap
import os
import re
import shlex
import signal
import stat
import sys
import time
from pathlib import Path

import dask
import psutil
import pytest
from dask_site import Site, wait_for

from ctlib.grid import clusters, credentials
from ctlib.grid import worker as worker_process
from ctlib.grid.clusters import Cluster, ClusterError
from ctlib.grid.engine import Engine
from ctlib.grid.worker import own_memory_mb

OPTIONS = ["queue=gpu", "cores=4", "memory=8GB", "walltime=24:00:00"]


# ---- parameters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "options", "said"),
    [
        ("slrm", [], "cluster is 'slrm'; give local, a scheduler's address"),
        ("tcp://host", [], "cluster is 'tcp://host'; give local"),
        ("slurm", ["cores=4"], "cluster is 'slurm'; cluster_options has no memory and no walltime"),
        ("slurm", ["cors=4"], "'cors=4' is not name=value with a known name"),
        ("slurm", ["cores"], "'cores' is not name=value"),
        ("slurm", ["cores=four"], "cores is 'four'; give a whole number"),
        ("slurm", ["cores=4", "cores=8"], "cores is given twice"),
        (
            "slurm",
            ["cores=4", "memory=1GB", "walltime=a day"],
            "walltime is 'a day'; give hours:minutes:seconds",
        ),
        ("slurm", ["gpus=2"], "gpus is 2; give 1, a worker has one GPU, or 0"),
        ("local", ["cores=4"], "cores is for a queue, and cluster is 'local'"),
        ("tls://host:8786", ["queue=gpu"], "queue is for a queue, and cluster is 'tls://host:8786'"),
        (
            "tcp://host:8786",
            [],
            "tcp://host:8786 is a scheduler without credentials: whoever reaches it can run",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(cluster, options, said):
    with pytest.raises(ClusterError, match=re.escape(said)):
        Cluster.of(cluster, options)
    with pytest.raises(ValueError, match=re.escape(said)):
        Engine(1, cluster=cluster, cluster_options=options)


def test_a_cluster_needs_workers_and_one_name():
    with pytest.raises(ValueError, match="cluster is 'slurm', workers is 0; give at least 1 worker"):
        Engine(0, cluster="slurm", cluster_options=OPTIONS)
    with pytest.raises(ValueError, match="cluster is 'tls://a:1'; give the file of its credentials"):
        Engine(1, cluster="tls://a:1")
    with pytest.raises(ClusterError, match="has credentials, and unencrypted is true"):
        Engine(1, cluster="tls://a:1", unencrypted=True)
    plain = Engine(3, cluster="tcp://a:1", unencrypted=True)
    assert str(plain) == "Engine(3 worker processes at tcp://a:1, 1 thread each)"
    asked = {"cluster_options": [*OPTIONS, "gpus=1"], "gpu": True, "unencrypted": True}
    assert "3 worker processes at slurm, a GPU each" in str(Engine(3, cluster="slurm", **asked))


# ---- memory ------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="another way of counting there")
def test_mapped_files_are_not_a_processs_own_memory(tmp_path):
    import numpy as np

    path = tmp_path / "volume.npy"
    np.save(path, np.ones(12 * 2**20))  # 96 MB
    before = own_memory_mb(os.getpid())
    mapped = np.load(path, mmap_mode="r")
    assert mapped.sum() == 12 * 2**20 and own_memory_mb(os.getpid()) - before < 20
    # asked of the system: an array may lie in what the heap has kept from one before
    with mmap.mmap(-1, 96 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(bytes(range(1, 97)) * 2**20)
        assert own_memory_mb(os.getpid()) - before > 80
    assert own_memory_mb(2**22 + 1) == 0


# ---- a queue -----------------------------------------------------------------------------

# Stand-ins for a queue's commands: a job runs here, in the background, as the queue's own process group.
SBATCH = """#!/bin/sh
cp "$1" {queue}/script-$$
setsid sh {queue}/script-$$ > {queue}/out-$$ 2>&1 &
echo $! > {queue}/pid-$$
echo "Submitted batch job $$"
"""
SCANCEL = """#!/bin/sh
echo $1 >> {queue}/cancelled
kill -TERM -- -$(cat {queue}/pid-$1) 2>/dev/null || true
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A folder of submitted scripts; `sbatch` and `scancel` come first in PATH."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is missing: pip install -e '.[cluster]'")
    jobs, tools = tmp_path / "queue", tmp_path / "bin"
    jobs.mkdir()
    tools.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tools / name).write_text(text.format(queue=shlex.quote(str(jobs))))
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield jobs
    for path in jobs.glob("pid-*"):  # a job that was not cancelled would wait a minute for its scheduler
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


SCRIPTS = {
    "slurm": ("#SBATCH -p gpu", "#SBATCH --cpus-per-task=4", "#SBATCH -t 24:00:00", "#SBATCH --gres=gpu:1"),
    "pbs": ("#PBS -q gpu", "#PBS -l select=1:ncpus=4", "#PBS -l walltime=24:00:00", "#PBS --gres=gpu:1"),
    "sge": ("#$ -q gpu", "#$ -l h_rt=24:00:00", "#$ --gres=gpu:1"),
    "lsf": ("#BSUB -q gpu", "#BSUB -n 4", "#BSUB -W 24:00", "#BSUB --gres=gpu:1"),
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_what_a_queue_is_asked_for(kind, tmp_path):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is missing: pip install -e '.[cluster]'")
    asked = ["queue=gpu", "cores=4", "memory=8GB", "walltime=24:00:00", "gpus=1"]
    asked += ["job_extra_directives=--gres=gpu:1", "job_script_prologue=module load cuda", "interface=lo"]
    if kind == "lsf":
        asked[3] = "walltime=24:00"
    credentials.make(tmp_path / "tls.pem")
    security = credentials.read(tmp_path / "tls.pem")
    with clusters.queue(Cluster.of(kind, asked), threads=2, dashboard=True, security=security) as made:
        script = made.job_script()
        address = made.scheduler_address
        assert made.dashboard_link.startswith("http://127.0.0.1:")
    for line in SCRIPTS[kind]:
        assert line in script, script
    command = script.strip().splitlines()[-1]
    assert address.startswith("tls://") and "BEGIN" not in script
    assert command.startswith(f"{sys.executable} -m ctlib worker {address} --name ")
    assert (
        "--threads 2 --gpus 1 --runs-a-gpu 1 --lifetime 86280" in command
        and "--memory-limit 7.45GiB" in command
    )
    assert "--death-timeout 60" in command and "\nmodule load cuda\n" in script
    from click.testing import CliRunner

    from ctlib.cli.data import worker

    refused = CliRunner().invoke(worker, [*shlex.split(command)[4:], "--gpus", "99"], standalone_mode=False)
    assert "--gpus is 99" in str(refused.exception)  # all the other words were understood


def test_runs_that_share_the_gpu_of_a_job_are_its_workers(tmp_path):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is missing: pip install -e '.[cluster]'")
    asked = {"cluster_options": [*OPTIONS, "gpus=1", "interface=lo"], "gpu": True, "unencrypted": True}
    engine = Engine(4, cluster="slurm", runs_a_gpu=3, **asked)
    assert engine.workers == 12 and str(engine).startswith("Engine(12 worker processes at slurm, 3 on a GPU")
    with clusters.queue(engine.cluster, threads=1, dashboard=False, runs=3) as made:
        command = made.job_script().strip().splitlines()[-1]
    assert "--runs-a-gpu 3" in command and "--memory-limit 2.48GiB" in command and "--gpus 1" in command
    asked["cluster_options"][-2] = "gpus=4"
    with pytest.raises(ClusterError, match="gpus is 4; give 1, a worker has one GPU, or 0"):
        Engine(4, cluster="slurm", **asked)
    engine = Engine(2, cluster="slurm", devices=4, **asked)  # one network at a time on all GPUs of a job
    with clusters.queue(engine.cluster, threads=1, dashboard=False, devices=4) as made:
        assert (
            "--gpus 4 --runs-a-gpu 1 --lifetime 86280 --devices 4" in made.job_script()
            and engine.workers == 2
        )
    asked["cluster_options"][-2] = "gpus=1"
    assert Engine(4, cluster="slurm", runs_a_gpu=0, **asked).workers == 4  # nothing was measured there


def test_a_queue_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ClusterError, match=r"cluster is 'slurm', which needs dask-jobqueue: pip install"):
        Engine(1, cluster="slurm", cluster_options=OPTIONS, unencrypted=True).client()


def where(_: int) -> tuple[int, int]:
    time.sleep(0.3)
    return os.getpid(), os.getpgid(os.getppid())


def refused(address: str, folder: Path) -> None:
    """Nobody reaches a scheduler in plain text, nor with credentials that are not its own."""
    credentials.make(folder / "other.pem")
    port = address.rsplit(":", 1)[1]
    for where, security in (
        (f"tcp://127.0.0.1:{port}", None),
        (f"tls://127.0.0.1:{port}", credentials.read(folder / "other.pem")),
    ):
        with pytest.raises(OSError):
            clusters.connected(where, 3.0, security)


def test_a_scheduler_takes_those_who_have_its_credentials_and_nobody_else(tmp_path):
    with Site(tmp_path / "site") as site:
        site.worker("friend")  # it waits for the scheduler, and for the file that this makes
        wait_for(lambda: "Waiting for" in site.log("friend"))
        site.scheduler()
        refused(site.address, tmp_path)
        stranger = [site.address, "--credentials", str(tmp_path / "other.pem"), "--patience", "3"]
        stranger = site.start("stranger", "-m", "ctlib", "worker", *stranger)
        engine = Engine(1, **site.arguments)
        engine.client().wait_for_workers(1, timeout=120)
        assert engine.map(abs, [-1]) == [1]
        tree = [
            p
            for one in site.begun
            for p in (psutil.Process(one.pid), *psutil.Process(one.pid).children(True))
        ]
        listening = [c.laddr for p in tree for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
        (friend,) = engine.client().scheduler_info()["workers"]
        elsewhere = {
            f"tls://127.0.0.1:{port}" for ip, port in listening if ip != "127.0.0.1"
        }  # no web server
        assert len(listening) >= 5 and elsewhere == {friend}
        refused(friend, tmp_path)
        assert stranger.wait(120) == 1 and "no scheduler answers" in site.log("stranger")
        assert [worker["name"] for worker in engine.client().scheduler_info()["workers"].values()] == [
            "friend"
        ]
        engine.close()


def test_workers_of_this_machine_take_nobody_elses_word(tmp_path):
    with Engine(1) as engine:
        refused(engine.client().scheduler.address, tmp_path)
        assert engine.map(abs, [-1]) == [1]


def test_credentials_that_cannot_be_trusted_are_one_sentence(tmp_path, monkeypatch):
    file = tmp_path / "work" / "tls.pem"
    with pytest.raises(
        ValueError, match=r"tls\.pem, credentials of a scheduler, cannot be read \(No such file"
    ):
        credentials.read(file)
    credentials.make(file)
    made = file.read_text()
    credentials.make(file)
    assert file.read_text() == made and list(file.parent.iterdir()) == [file]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and credentials.read(file).require_encryption
    file.chmod(0o640)
    with pytest.raises(ValueError, match=r"may be read by others \(mode 640.*chmod 600"):
        credentials.read(file)
    os.utime(file, (0, 0))
    credentials.make(file)
    assert file.read_text() != made
    file.write_text("key")
    with pytest.raises(ValueError, match="is no file of credentials"):
        credentials.read(file)


@pytest.mark.slow
def test_jobs_of_a_queue_compute_are_submitted_again_and_end(queue, monkeypatch, tmp_path):
    """With the parameters of the README's section; only the memory and the interface are this machine's."""
    monkeypatch.setattr("ctlib.grid.engine.RESTORE_S", 1.0)
    monkeypatch.setitem(worker_process.DASK_CONFIG, "distributed.deploy.lost-worker-timeout", "2s")
    options = ["queue=main", "cores=1", "memory=4GB", "walltime=12:00:00", "interface=lo"]
    with (
        dask.config.set(worker_process.DASK_CONFIG),
        Engine(2, cluster="slurm", cluster_options=options, credentials=tmp_path / "tls.pem") as engine,
    ):
        engine.client().wait_for_workers(2, timeout=300)
        refused(engine.client().cluster.scheduler_address, tmp_path)
        groups = {group for _, group in engine.map(where, range(12))}
        jobs = {int(path.read_text()): path.name.removeprefix("pid-") for path in queue.glob("pid-*")}
        assert groups == jobs.keys() and len(jobs) == 2
        ended, left = sorted(jobs)
        os.killpg(ended, signal.SIGKILL)  # as the end of a job's time, without a word
        outcomes = engine.run(where, range(60))
        assert all(outcome.error is None for outcome in outcomes)
        assert ended not in {outcome.value[1] for outcome in outcomes}
        assert len({outcome.value[1] for outcome in outcomes}) == 2 and len(list(queue.glob("script-*"))) == 3
    assert jobs[left] in (queue / "cancelled").read_text().split()
