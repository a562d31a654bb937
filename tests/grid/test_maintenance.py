"""Folders of runs: told as they are, tried again, and emptied of nothing that a table needs."""

import json
import subprocess
import sys

import pytest

from ctlib.core.workspace import Workspace
from ctlib.grid import maintenance
from ctlib.grid.maintenance import HousekeepingError, delete, listed, reason, retry, states, waste

ARM = {"task": "rspect_pe", "backbone": "slow_r50", "init": "video"}
SETTINGS = ARM | {"fraction": 0.25, "seed": 0, "lr": 1e-3}
KEPT = {"run.json", "result.json", "curves.parquet", "predictions.parquet", "ledger.parquet", "weights.json"}


def write(workspace, run_id, *names, **settings):
    """A run with these files; what a file holds matters for json and txt only."""
    folder = workspace.runs / run_id
    folder.mkdir(parents=True)
    given = {"run.json": {**SETTINGS, **settings}, "result.json": {"val_auroc": 0.75, "seconds": 3.5}}
    for name in ("run.json", *names):
        error = "Traceback ...\nFitError: the loss is nan.\n"
        (folder / name).write_text(error if name.endswith("txt") else json.dumps(given.get(name)))
    return folder


def files(workspace):
    return {str(path.relative_to(workspace.runs)) for path in workspace.runs.rglob("*") if path.is_file()}


@pytest.fixture
def workspace(tmp_path):
    """One run of each kind."""
    work = Workspace(tmp_path / "small")
    write(work, "a-finished", "result.json", "weights.safetensors", *KEPT - {"run.json", "result.json"})
    write(work, "b-failed", "error.txt", "last.ckpt", "weights.safetensors", seed=1)
    write(work, "c-begun", "last.ckpt", seed=2)
    write(work, "d-failed", "error.txt", seed=3)
    return work


def test_the_names_of_files_are_those_that_are_written():
    from ctlib.core import locks
    from ctlib.training import loop, results

    assert (results.RESULT, results.ERROR) == (maintenance.RESULT, maintenance.ERROR)
    assert (loop.CHECKPOINT, loop.WEIGHTS) == (maintenance.CHECKPOINT, maintenance.WEIGHTS)
    assert locks._PREFIX == maintenance.CLAIM


def test_torch_is_not_needed():
    code = "import sys, ctlib.grid.maintenance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# looking


def test_states_are_in_the_order_of_the_ids(workspace):
    ids = ["nowhere", "c-begun", "d-failed", "a-finished", "b-failed"]
    assert states(workspace.runs, ids) == ["missing", "begun", "failed", "finished", "failed"]
    assert states(workspace.root / "no runs", ids) == ["missing"] * 5


def test_only_folders_that_are_there_are_looked_into(workspace, monkeypatch):
    looked = []
    scan = maintenance.os.scandir
    monkeypatch.setattr(maintenance.os, "scandir", lambda path: looked.append(str(path)) or scan(path))
    states(workspace.runs, [f"{n:012x}" for n in range(1000)] + ["c-begun"])
    assert looked == [str(workspace.runs), str(workspace.runs / "c-begun")]


def test_all_runs_are_listed(workspace):
    table = listed(workspace)
    assert tuple(table.columns) == maintenance.COLUMNS
    assert table["run_id"].tolist() == ["a-finished", "b-failed", "c-begun", "d-failed"]
    assert table["status"].tolist() == ["finished", "failed", "begun", "failed"]
    assert table.loc[0, ["val_auroc", "seconds", "lr"]].tolist() == [0.75, 3.5, 1e-3]
    assert table.loc[1:, "val_auroc"].isna().all()
    assert table["error"].fillna("").tolist() == ["", "FitError: the loss is nan."] * 2
    failed = listed(workspace, only_failed=True)
    assert failed["run_id"].tolist() == ["b-failed", "d-failed"]
    rows = json.loads(failed.to_json(orient="records"))
    assert rows[1]["seed"] == 3 and rows[1]["val_auroc"] is None


def test_nothing_is_listed_where_nothing_ran(tmp_path):
    assert listed(Workspace(tmp_path)).empty and waste(Workspace(tmp_path)) == []


def test_a_damaged_file_stops_no_list(workspace):
    (workspace.runs / "c-begun" / "run.json").write_text("{")
    (workspace.runs / "a-finished" / "result.json").write_text("[]")
    (workspace.runs / "d-failed" / "error.txt").write_text("")
    (workspace.runs / "a file").write_text("no run")
    (workspace.runs / "no run").mkdir()
    table = listed(workspace).set_index("run_id")
    assert table.loc["c-begun", "error"] == "run.json cannot be read (JSONDecodeError)"
    assert len(table) == 4 and table.loc["d-failed", "error"] == ""
    assert reason(workspace.runs / "gone") == ""


# trying again


def test_failed_runs_are_tried_again_from_their_last_epoch(workspace):
    before = files(workspace)
    assert retry(workspace)["run_id"].tolist() == ["b-failed", "d-failed"]
    assert states(workspace.runs, ["b-failed", "d-failed"]) == ["begun", "begun"]
    assert {name.replace("error.previous.txt", "error.txt") for name in files(workspace)} == before
    assert "nan" in (workspace.runs / "b-failed" / "error.previous.txt").read_text()
    assert retry(workspace).empty


def test_one_run_is_tried_again_from_the_beginning(workspace):
    assert len(retry(workspace, ["b-failed"], from_start=True)) == 1
    assert not (workspace.runs / "b-failed" / "last.ckpt").exists()
    assert states(workspace.runs, ["b-failed", "d-failed"]) == ["begun", "failed"]


@pytest.mark.parametrize(
    ("run_id", "found"), [("a-finished", "finished"), ("c-begun", "begun"), ("zz", "missing")]
)
def test_what_did_not_fail_is_not_tried_again(workspace, run_id, found):
    before = files(workspace)
    with pytest.raises(HousekeepingError, match=f"run {run_id} is {found}, not failed; .* small --failed"):
        retry(workspace, ["b-failed", run_id])
    assert files(workspace) == before


# making room


def test_what_no_table_needs_is_deleted_and_nothing_else(workspace):
    (workspace.runs / "a-finished" / "last.ckpt").write_text("12345")
    (workspace.runs / "a-finished" / ".last.ckpt").write_text("123")
    before = files(workspace)
    kinds = waste(workspace)
    assert [kind.what for kind in kinds] == ["checkpoints of finished runs", "weights of finished runs"]
    assert kinds[0].n_bytes == 8 and len(kinds[0].paths) == 2
    assert files(workspace) == before  # looking deletes nothing
    delete(kinds)
    gone = {"last.ckpt", ".last.ckpt", "weights.safetensors", "weights.json"}
    assert before - files(workspace) == {f"a-finished/{name}" for name in gone}
    assert waste(workspace) == []
    delete(kinds)  # already gone


def test_weights_are_kept_where_they_are_wanted(workspace):
    assert waste(workspace, keep_weights=True) == []


def test_runs_that_are_not_in_the_grid_lose_what_they_would_go_on_from(workspace):
    before = files(workspace)
    kinds = waste(workspace, keep_weights=True, needed={"c-begun"})
    delete(kinds)
    assert before - files(workspace) == {"b-failed/last.ckpt", "b-failed/weights.safetensors"}


def test_nothing_is_deleted_of_a_run_that_is_computed(workspace):
    for name in ("a-finished", "b-failed"):
        (workspace.runs / name / "claim.0").write_text("{}")
    assert [kind.paths for kind in waste(workspace, needed=())] == [
        (workspace.runs / "c-begun" / "last.ckpt",)
    ]


def test_links_are_not_followed(workspace, tmp_path):
    elsewhere = write(Workspace(tmp_path / "other"), "e", "result.json", "weights.safetensors")
    (workspace.runs / "e").symlink_to(elsewhere)
    weights = workspace.runs / "a-finished" / "weights.safetensors"
    weights.unlink()
    weights.symlink_to(elsewhere / "weights.safetensors")
    delete(waste(workspace))
    assert (elsewhere / "weights.safetensors").is_file() and weights.is_symlink()
