"""Whether an executed notebook is stale: each input that changes is named, and nothing else is."""

import os
import shutil
from datetime import UTC, datetime

import nbformat
import pytest
from nbformat import v4
from sample_project import markdown, project

from ctlib.cli import staleness
from ctlib.core import parameters
from ctlib.core.workspace import Workspace

WRITES = "# Step 1\n\n**Reads** files.\n\n**Writes** tables `runs`, `series`; `nothing`."
READS = "# Step 2\n\n**Reads** tables `runs` and\n`series` of `01_step`.\n\n**Writes** table `effects`."


def leads(path, text):
    book = nbformat.read(path, as_version=4)
    book.cells[0].source = text
    nbformat.write(book, path)


@pytest.fixture
def places(tmp_path):
    """Two notebooks; the second reads what the first writes."""
    made = project(tmp_path, [markdown("## A")], [markdown("## B")])
    leads(made.notebooks / "01_step.ipynb", WRITES)
    leads(made.notebooks / "02_step.ipynb", READS)
    work = Workspace.at(values(made)["work_dir"])
    for path in (work.table("runs"), work.table("series", "lidc"), work.table("effects")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.stem.encode())
    return made


def values(places):
    return parameters.load_profile("small", (), places)["02_step"]


def executed(places, noted=True):
    """The second notebook as papermill leaves it, now."""
    book = nbformat.read(places.notebooks / "02_step.ipynb", as_version=4)
    injected = v4.new_code_cell("# Parameters\nrate = 0.25", metadata={"tags": ["injected-parameters"]})
    book.cells.insert(3, injected)
    book.metadata["papermill"] = {
        "parameters": values(places), "start_time": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    if noted:
        book.metadata[staleness.KEY] = staleness.note("02_step", values(places), places)
    return book


def reasons(places, book):
    return staleness.reasons("02_step", book, "small", places)


def work(places):
    return Workspace.at(values(places)["work_dir"])


def test_what_has_just_run_is_fresh_and_the_tables_that_it_reads_are_noted(places):
    book = executed(places)
    assert reasons(places, book) == []
    assert sorted(book.metadata[staleness.KEY]["tables"]) == [
        "tables/lidc/series.parquet",
        "tables/runs.parquet",
    ]
    assert staleness.note("01_step", values(places), places)["tables"] == {}


def test_a_table_with_other_content_is_named_one_that_was_only_written_again_is_not(places):
    book = executed(places)
    work(places).table("runs").write_bytes(b"runs")
    assert reasons(places, book) == []
    work(places).table("effects").write_bytes(b"its own")
    assert reasons(places, book) == []
    work(places).table("runs").write_bytes(b"others")
    assert reasons(places, book) == ["table runs has changed"]
    work(places).table("series", "lidc").write_bytes(b"others")
    assert reasons(places, book) == ["table lidc/series, table runs have changed"]


def test_tables_that_come_or_go_are_named(places):
    book = executed(places)
    work(places).table("runs").unlink()
    new = work(places).table("series", "rspect")
    new.parent.mkdir()
    new.write_bytes(b"more")
    assert reasons(places, book) == ["table rspect/series is new", "table runs is gone"]
    shutil.rmtree(work(places).root)
    assert reasons(places, book) == ["table lidc/series, table runs are gone"]


def test_another_notebook_and_other_parameters_are_named(places):
    book = executed(places)
    parameter_file = places.params / "small" / "02_step.yaml"
    others = places.params / "small" / "01_step.yaml"
    for path in (parameter_file, others):
        path.write_text(path.read_text().replace("rate: 0.25", "rate: 0.3"))
    assert reasons(places, book) == ["rate differs from the parameter file"]
    leads(places.notebooks / "02_step.ipynb", READS + "\n\nA line more.")
    assert reasons(places, book) == ["its notebook has changed", "rate differs from the parameter file"]
    parameter_file.write_text("rate: [")
    assert reasons(places, book)[-1] == "the parameter files of the profile cannot be read"


def test_other_code_is_named(places, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("1")
    monkeypatch.setattr(staleness, "PACKAGE", package)
    book = executed(places)
    (package / "page.css").write_text("no code")
    assert reasons(places, book) == []
    (package / "a.py").write_text("2")
    assert reasons(places, book) == ["ctlib's code has changed"]
    book = executed(places)
    (package / "weights.yaml").write_text("a: 1")
    assert reasons(places, book) == ["ctlib's code has changed"]


def test_without_a_note_tables_are_compared_by_time(places):
    book = executed(places, noted=False)
    for path in work(places).root.rglob("*.parquet"):
        os.utime(path, (0, 0))
    assert reasons(places, book) == []
    os.utime(work(places).table("runs"))
    assert reasons(places, book) == ["table runs is newer"]


def test_a_note_is_kept_in_the_executed_copy(places, tmp_path):
    path = tmp_path / "02_step.ipynb"
    staleness.remember(path, {"code": "x"})  # nothing was executed: nothing to write into
    assert not path.exists()
    nbformat.write(executed(places, noted=False), path)
    staleness.remember(path, {"code": "x", "tables": {}})
    assert nbformat.read(path, as_version=4).metadata[staleness.KEY] == {"code": "x", "tables": {}}


@pytest.mark.parametrize(
    ("backbone", "kept"), [("slow_r50", True), ("timm:resnet10t", True), ("mine:net", False)]
)
def test_a_profile_is_never_kept_where_its_network_may_change_unseen(places, backbone, kept):
    """A network of one's own is a module that may lie anywhere; timm's are a package, whose version counts."""
    asked = {"02_step": values(places) | {"backbones": [backbone]}}
    staleness.keep("small", asked, places)
    assert staleness.nothing_changed("small", asked, places) == kept
    other = {"02_step": asked["02_step"] | {"rate": 0.75}}
    assert not staleness.nothing_changed("small", other, places)
