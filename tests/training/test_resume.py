"""A killed run goes on to the same predictions, wherever it was killed; two grids share one folder."""

import math
import os
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from chaos_grid import FINISHES
from noise_cohort import write_cohort
from test_cross_validation import SETTINGS

from ctlib.core import tables
from ctlib.core.workspace import PROJECT, Workspace
from ctlib.grid.execute import expand
from ctlib.training.finetune import execute
from ctlib.training.results import collect, finished
from ctlib.training.run import clips_of_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

NETWORKS = ["slow_r50", "swin3d_t"]
"""A CNN, and a transformer with dropped paths, which draws in training."""
KILLED = """
import os, pickle, signal, sys
import chaos_grid  # notes what is finished
from ctlib.core.parallel import pin_threads
from ctlib.models import Network
from ctlib.training import loop
from ctlib.training.finetune import execute

pin_threads(1)
work, where, call = sys.argv[1], sys.argv[2], int(sys.argv[3])
of, name = (loop, "_log") if where == "between" else (Network, "forward")
method, calls = getattr(of, name), []

def killed(self, *given):
    if where == "between" or self.training == (where == "within"):
        calls.append(given)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
    return method(self, *given)

setattr(of, name, killed)
execute(work, pickle.loads(sys.stdin.buffer.read()))
"""
GRID = """
import pickle, sys
import chaos_grid
from ctlib.grid.engine import Engine
from ctlib.grid.execute import run_grid
from ctlib.training.results import collect
from ctlib.core import tables
from ctlib.core.workspace import Workspace
from pathlib import Path

work, runs = Workspace(Path(sys.argv[1])), pickle.loads(sys.stdin.buffer.read())
run_grid(work, runs, Engine(0))
for name, table in collect(work, runs).items():
    tables.write(table, name, work.table(name))
"""


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "work")
    write_cohort(made, "lidc")
    return made


def runs_of(workspace, **changes):
    asked = {"tasks": ["lidc_nodule"], "backbones": NETWORKS, "inits": ["random"], "fractions": [1.0]}
    settings = SETTINGS | {"epochs": 3, "steps_per_epoch": 3, "rotation_deg": 10.0}
    return expand(workspace, **{**asked, "seeds": [0], "lr": 1e-3, **settings, **changes})


def python(code, *arguments, given):
    import pickle

    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests" / "factories")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(pickle.dumps(given))
    process.stdin.close()
    return process


@pytest.mark.parametrize("where", ["within", "validating", "between"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_killed_run_goes_on_to_the_same_predictions(workspace, tmp_path, network, where):
    (run,) = runs_of(workspace, backbones=[network])
    n_val = math.ceil((clips_of_run(workspace, run)["split"] == "val").sum() / run.batch_size)
    second_batch = {"within": 3 + 2, "validating": n_val + 2, "between": 2}  # of the second epoch, or its end
    killed = python(KILLED, workspace.root, where, second_batch[where], given=run)
    killed.stderr.read()
    assert killed.wait() == -signal.SIGKILL and not finished(workspace, run)
    assert (workspace.runs / run.run_id / "last.ckpt").is_file()  # of the first epoch
    execute(str(workspace.root), run)

    quiet = Workspace(tmp_path / "quiet")
    write_cohort(quiet, "lidc")
    execute(str(quiet.root), run)
    for name in ("curves", "predictions"):
        resumed, whole = (collect(one, [run])[name] for one in (workspace, quiet))
        pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    scores = collect(quiet, [run])["predictions"]["score"]
    assert np.ptp(scores) > 1e-3  # they are no constant, which would agree with anything


def test_two_grids_at_once_compute_no_run_twice_and_leave_whole_tables(workspace):
    runs = runs_of(workspace, backbones=["resnet18"], seeds=[0, 1, 2, 3], epochs=1)
    both = [python(GRID, workspace.root, given=runs) for _ in range(2)]
    for process in both:
        said = process.stderr.read().decode()
        assert process.wait() == 0, said
    counts = Counter((workspace.root / FINISHES).read_text().split())
    assert counts == {run.run_id: 1 for run in runs}
    found = collect(workspace, runs)
    for name in ("runs", "curves", "predictions"):
        assert tables.read(name, workspace.table(name)).equals(found[name])
    assert (found["runs"]["status"] == "finished").all()
