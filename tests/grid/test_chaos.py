"""A short form of benchmarks/chaos.py: a grid during which everything is killed once."""

import subprocess
import sys

import pytest

from ctlib.core.workspace import PROJECT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by /proc")
def test_a_grid_that_is_hurt_gives_the_tables_of_a_quiet_one_and_finishes_each_run_once(tmp_path):
    command = [sys.executable, str(PROJECT / "benchmarks" / "chaos.py"), "--short", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    blows = (
        "a worker is killed",
        "a worker is stopped",
        "the scheduler is killed",
        "drives the grid is killed",
    )
    assert all(blow in done.stdout for blow in blows)
