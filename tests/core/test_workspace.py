"""Paths are the same from anywhere; a missing input names its writer; progress leaves the kernel."""

import pytest

from ctlib.core import progress, workspace
from ctlib.core.workspace import MissingInput, Workspace


def test_relative_paths_are_the_projects(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Workspace.at("work/demo").root == workspace.PROJECT / "work" / "demo"
    assert workspace.project_path("../shared").parent == workspace.PROJECT.parent
    assert workspace.project_path(tmp_path) == tmp_path


def test_a_missing_input_names_the_notebook_that_writes_it(tmp_path):
    space = Workspace(tmp_path / "demo")
    with pytest.raises(MissingInput, match=r"series\.parquet is missing; notebook 01_explore_data writes it"):
        space.require(space.table("series", "lidc"), "01_explore_data")


def test_a_text_file_is_never_half_written(tmp_path):
    path = workspace.write_json(tmp_path / "deep" / "a.json", {"b": 1})
    assert workspace.read_json(path) == {"b": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_write_that_is_interrupted_leaves_the_old_text(tmp_path, monkeypatch):
    path = workspace.write_text(tmp_path / "a.txt", "old")

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workspace.write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_progress_leaves_the_kernel_only_when_asked(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    progress.report("runs", 1, 4)
    assert progress.read(path) is None
    monkeypatch.setenv(progress.VARIABLE, str(path))
    progress.report("runs", 1, 4, started_s=10.0, note="first")
    state = progress.read(path)
    assert state is not None and (state.done, state.total, state.note) == (1, 4, "first")
    assert state.left_s(now_s=20.0) == 30.0
    assert progress.State("runs", 0, 4, 10.0).left_s(20.0) is None
