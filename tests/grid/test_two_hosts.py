"""A grid on two hosts that share nothing but the project and the work folder, and a network of one cable.

The hosts are namespaces of this machine: each has a network, a name, processes and a folder of its own, and
sees neither the other's processes nor its folder. The scheduler and the process that drives the grid are on
one, the worker on the other, started by the commands of the README. The cable is pulled while a run computes.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter

import pandas as pd
import pytest
from chaos_grid import FINISHES, HOSTS, content, prepare, runs_of
from dask_site import wait_for

from ctlib.core.workspace import PROJECT, Workspace
from ctlib.training import finetune
from ctlib.training.results import finished

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SEEDS = 1
PULLED_S = 4.0
UNSHARE = ("unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Host:
    """A host of its own, as far as its processes can tell.

    Args:
        name: of the host, and of its network namespace.
        address: its own.
        folder: its own; hidden from others.
        hidden: the other's folder.
    """

    def __init__(self, name: str, address: str, folder, hidden):
        self.name, self.address, self.folder, self.hidden, self.begun = name, address, folder, hidden, []
        folder.mkdir()
        ip("netns", "add", name)

    def start(self, command: str) -> subprocess.Popen:
        """A command of the README on this host, in its folder."""
        inside = f"""
            hostname {self.name}
            mount -t tmpfs none {shlex.quote(str(self.hidden))}
            exec {command}
        """
        words = ["ip", "netns", "exec", self.name, *UNSHARE, "sh", "-c", inside]
        paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests" / "factories")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder)}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(words, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.begun.append(process)
        return process

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def close(self) -> None:
        for process in self.begun:
            process.kill()  # unshare, whose children end with it
            process.wait()
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "delete", self.name)


@pytest.fixture
def hosts(tmp_path):
    """A head and a node, with a cable between them."""
    if not (shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("ip or unshare is missing: two hosts cannot be made here")
    number = os.getpid() % 250
    names = [f"ctlib-{part}-{os.getpid()}" for part in ("head", "node")]
    addresses = [f"10.231.{number}.{i}" for i in (1, 2)]
    made = []
    with contextlib.ExitStack() as closing:
        try:
            for i in (0, 1):
                folders = tmp_path / names[i], tmp_path / names[1 - i]
                made.append(Host(names[i], addresses[i], *folders))
                closing.callback(made[-1].close)
            ip("link", "add", "cable0", "netns", names[0], "type", "veth", "peer", "name", "cable1")
            ip("link", "set", "cable1", "netns", names[1])
            for i, host in enumerate(made):
                ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", f"cable{i}")
                for device in ("lo", f"cable{i}"):
                    ip("-n", host.name, "link", "set", device, "up")
            ip("netns", "exec", names[0], *UNSHARE, "true")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"namespaces are not permitted here: {error.stderr}")
        yield made


def commands_of_the_readme() -> list[str]:
    """The three commands for machines without a queue."""
    section = (PROJECT / "docs" / "cluster.md").read_text().split("## On a cluster")[1].split("\n## ")[0]
    block = re.search(r"```\n(ctlib scheduler.*?)```", section, re.DOTALL)[1]
    return [line.split("#")[0].strip() for line in block.splitlines()]


def test_two_hosts_that_share_only_the_work_folder_compute_one_grid(hosts, tmp_path):
    head, node = hosts
    quiet, shared = Workspace(tmp_path / "quiet"), Workspace(tmp_path / "shared")
    prepare(quiet)
    shutil.copytree(quiet.root, shared.root)
    runs = runs_of(shared, SEEDS)

    def on(command: str) -> str:
        work = command.replace("work/PROFILE", str(shared.root)).replace("HEAD", head.address)
        return f"{sys.executable} -m {work}"

    scheduler, worker, run = commands_of_the_readme()
    address = re.search(r"cluster=(\S+)", run)[1].replace("HEAD", head.address)
    head.start(on(scheduler))
    node.start(on(worker))
    script = PROJECT / "tests" / "factories" / "chaos_grid.py"
    drive = f"{sys.executable} {script} {shared.root} {SEEDS} {address}"
    driver = head.start(drive)
    try:
        wait_for(lambda: any(finished(shared, one) for one in runs) or driver.poll() is not None, 300)
        assert driver.poll() is None
        ip("-n", node.name, "link", "set", "cable1", "down")
        time.sleep(PULLED_S)
        ip("-n", node.name, "link", "set", "cable1", "up")
        assert driver.wait(600) == 0
    except AssertionError:
        pytest.fail(f"head:\n{head.log()[-3000:]}\nnode:\n{node.log()[-3000:]}")

    for one in runs:
        finetune.execute(str(quiet.root), one)
    there, here = content(shared, runs), content(quiet, runs)
    for name, table in here.items():
        pd.testing.assert_frame_equal(table, there[name], check_exact=True)
    counts = Counter((shared.root / FINISHES).read_text().split())
    assert counts == {one.run_id: 1 for one in runs}
    assert set((shared.root / HOSTS).read_text().split()) == {node.name}  # none was computed at the head
    assert not {head.name, node.name} & set((quiet.root / HOSTS).read_text().split())
