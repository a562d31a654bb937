"""A grid that runs elsewhere can be looked at: what is there is told, and nothing is computed."""

import pytest
from noise_cohort import write_cohort
from test_cross_validation import SETTINGS, runs_of

from ctlib.core import tables
from ctlib.core.workspace import Workspace
from ctlib.grid import maintenance, step_timing
from ctlib.grid.engine import Engine
from ctlib.grid.estimate_profile import plan_of
from ctlib.grid.execute import controlled, learning_rates, run_grid
from ctlib.training.finetune import execute

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "work")
    write_cohort(made, "lidc")
    return made


def test_nothing_is_computed_and_what_is_there_is_told(workspace):
    runs = runs_of(workspace, seeds=[0, 1, 2, 3])
    execute(str(workspace.root), runs[0])
    for run, name in ((runs[1], "error.txt"), (runs[2], "last.ckpt")):
        (workspace.runs / run.run_id).mkdir()
        for each in ("run.json", name):
            (workspace.runs / run.run_id / each).write_text("{}")
    lines = []
    run_grid(workspace, runs, None, lines.append)
    assert lines == [
        "1 of 4 runs are finished, 1 failed, 1 are begun, 1 are missing; nothing is computed here."
    ]
    assert maintenance.states(workspace.runs, [run.run_id for run in runs]) == [
        *("finished", "failed", "begun", "missing")
    ]


def test_a_search_that_goes_on_gives_the_rates_that_are_known(workspace):
    arms = (["lidc_nodule"], ["resnet18"], ["random", "frozen:random"])
    search = ([1e-2, 1e-3], 1.0, 0)
    assert learning_rates(workspace, *arms, "search", *search, None, echo=str, **SETTINGS) == {}
    assert tables.read("search", workspace.table("search")).empty
    for lr in (1e-2, 1e-3):
        (run,) = runs_of(workspace, lr=lr)
        execute(str(workspace.root), run)
    (other,) = runs_of(workspace, lr=1e-2, inits=["frozen:random"])  # one of its two rates
    execute(str(workspace.root), other)
    known = learning_rates(workspace, *arms, "search", *search, None, echo=str, **SETTINGS)
    assert known.keys() == {("lidc_nodule", "resnet18", "random")}
    assert {run.init for run in runs_of(workspace, inits=arms[2], lr=known)} == {"random"}
    whole = learning_rates(workspace, *arms, "search", *search, Engine(0), echo=str, **SETTINGS)
    assert len(whole) == 2 and known.items() <= whole.items()


def test_the_plan_in_the_notebook_counts_what_is_there(workspace, monkeypatch):
    runs = runs_of(workspace, seeds=[0, 1])
    both = [*runs, *controlled(runs, ["permuted_labels"], ["resnet18"])]
    execute(str(workspace.root), runs[0])
    monkeypatch.setattr(step_timing, "measure", lambda *_: pytest.fail("measured"))
    made = plan_of(workspace, both, workers=0, notes=["so"], measuring=False)
    assert (made.workers, made.count("runs"), made.count("finished"), made.n_todo) == (1, 4, 1, 3)
    assert made.notes[0] == "so" and made.power.loc[0, "patients"] == 6
    assert not made.costs["is_measured"].any() and made.wall_s == pytest.approx(made.work_s)
