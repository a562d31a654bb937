"""The header cell of a notebook, and notebooks as the command line executes them."""

import copy
import platform
import sys

import nbformat
import papermill
import pytest
from sample_project import code, markdown, project

from ctlib.cli import notebooks
from ctlib.core.parameters import ParameterError, declared_parameters, load_profile
from ctlib.core.workspace import PROJECT


@pytest.fixture
def places(tmp_path):
    return project(tmp_path, [], [])


# ---- the header cell ---------------------------------------------------------------------


def given(places, **changes):
    return {
        name: p.default for name, p in declared_parameters(places.notebooks / "01_step.ipynb").items()
    } | changes


def test_the_header_shows_parameters_versions_commit_and_device(places, capsys):
    notebooks.header("01_step", given(places), places)
    shown = capsys.readouterr().out
    assert "rate = 0.5  # per step" in shown
    assert f"Python {platform.python_version()}" in shown and "torch" in shown
    assert "commit: " in shown and "device: " in shown


def test_the_header_refuses_what_plain_papermill_lets_pass(places):
    cells = ["import os", "# Parameters\nsedes = [1]\nrate = 1.0\n"]
    with pytest.raises(ParameterError, match=r"01_step.sedes is no parameter of that notebook.*'seeds'"):
        notebooks.header("01_step", given(places, In=cells), places)
    with pytest.raises(ParameterError, match=r"01_step.rate: it is 'fast', which is str"):
        notebooks.header("01_step", given(places, rate="fast"), places)


def test_reports_that_are_being_written_do_not_make_the_commit_dirty(tmp_path):
    git = ("-c", "user.name=a", "-c", "user.email=a@b")
    notebooks._git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("1")
    notebooks._git(tmp_path, "add", ".")
    notebooks._git(tmp_path, *git, "commit", "--quiet", "-m", "a")
    clean = notebooks.commit(tmp_path)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "x.html").write_text("1")
    assert notebooks.commit(tmp_path) == clean and len(clean) == 10
    (tmp_path / "code.py").write_text("2")
    assert notebooks.commit(tmp_path) == f"{clean} + changes"


def test_a_folder_without_git_says_so(tmp_path):
    assert notebooks.commit(tmp_path / "nothing") == "unknown (no git repository)"


# ---- execution ---------------------------------------------------------------------------

LOOK = "import os, sys\nprint([sys.executable, os.getcwd(), os.environ['CTLIB_PROGRESS'], rate, seeds])"

TALK = "import time\nfor i in range(5):\n    print(i)\n    time.sleep(1)"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Notebooks that end well, raise, lose their kernel, and hang: sections and failures by name."""
    bodies = (
        [markdown("## Where"), code(LOOK)],
        [code("print('before')"), markdown("## Break"), code("1 / 0"), code("print('after')")],
        [markdown("## Die"), code("os = __import__('os')\nos._exit(9)")],
        [markdown("## Talk"), code(TALK), markdown("## Hang"), code("print('last')\ntime.sleep(600)")],
    )
    places = project(tmp_path_factory.mktemp("ran"), *bodies)
    values, seen, failed = load_profile("small", (), places), {}, {}
    for name in places.names:
        seen[name] = []
        try:
            notebooks.execute(name, values[name], seen[name].append, places, limits=notebooks.Limits(60, 3))
        except notebooks.NotebookFailed as error:
            failed[name] = str(error)
    books = {n: nbformat.read(notebooks.executed_path(n, values[n]), 4) for n in places.names}
    return values, seen, failed, books


def outputs(book):
    return [output for cell in book.cells for output in cell.get("outputs", [])]


def test_a_notebook_runs_in_this_python_in_the_projects_folder(ran):
    values, seen, failed, books = ran
    executable, folder, progress, rate, seeds = eval(outputs(books["01_step"])[-1].text)
    assert executable == sys.executable and folder == str(PROJECT)
    assert progress == str(notebooks.progress_path("01_step", values["01_step"]))
    assert (rate, seeds) == (0.25, [0, 1])
    assert seen["01_step"][-1] == "Where" and "01_step" not in failed


def test_a_path_with_braces_stays_as_it_is(ran):
    values, *_ = ran
    assert notebooks.executed_path("01_step", values["01_step"]).parent.parent.name == "work {rate}"


def test_the_header_leaves_its_facts_for_the_report(ran):
    found = [o.data[notebooks.HEADER_TYPE] for o in outputs(ran[3]["01_step"]) if "data" in o]
    assert found[0]["parameters"][2] == ["rate", "0.25", "per step"] and "torch" in found[0]["versions"]


def test_a_notebook_that_raises_says_where_and_keeps_what_was_shown(ran):
    _, _, failed, books = ran
    assert failed["02_step"].startswith("02_step failed in cell [")
    assert failed["02_step"].endswith("of section 'Break': ZeroDivisionError: division by zero.")
    texts = [output.get("text") for output in outputs(books["02_step"])]
    assert "before\n" in texts and "after\n" not in texts


def test_a_kernel_that_dies_is_a_failure_of_its_cell(ran):
    _, _, failed, books = ran
    assert "of section 'Die': DeadKernelError" in failed["03_step"]
    assert "because memory was full" in failed["03_step"]
    assert notebooks.failure(books["03_step"]).section == "Die"


def test_a_cell_that_shows_nothing_for_too_long_is_ended_and_one_that_talks_is_not(ran):
    _, _, failed, books = ran
    assert (
        "of section 'Hang': DeadKernelError: it showed nothing for 3 s (--silence-limit)" in failed["04_step"]
    )
    texts = [output.get("text") for output in outputs(books["04_step"])]
    assert [text for text in texts if text][-6:] == ["0\n", "1\n", "2\n", "3\n", "4\n", "last\n"]


def test_a_kernel_that_does_not_start_is_one_sentence(tmp_path, monkeypatch, places):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    values = load_profile("small", (), places)["01_step"]
    with pytest.raises(
        notebooks.NotebookFailed, match=r"01_step failed: its kernel did not start within 2 s \(--st"
    ):
        notebooks.execute("01_step", values, None, places, limits=notebooks.Limits(2))


# ---- the parameters of a profile in JupyterLab -------------------------------------------


def test_one_line_takes_a_profile_and_what_papermill_injects_stays(tmp_path):
    """In a kernel, with the line at the end of the parameters cell, and in a cell of its own."""
    places = project(tmp_path, [code("print([rate, seeds, limit, profile])")])
    path, told = places.notebooks / "01_step.ipynb", tmp_path / "log"
    where = ", ".join(
        f"Path({str(folder)!r})" for folder in (places.notebooks, places.params, places.reports)
    )
    line = f"notebooks.use('small', Places({where}, ('01_step',)), seeds=[7], limit=3)"
    plain, seen = nbformat.read(path, 4), papermill.inspect_notebook(path)
    for place in ("last line", "next cell"):
        book = copy.deepcopy(plain)
        if place == "last line":
            book.cells[2].source += f"\n{line}"
        else:
            book.cells.insert(3, nbformat.v4.new_code_cell(line))
        nbformat.write(book, path)
        assert papermill.inspect_notebook(path) == seen and len(declared_parameters(path)) == 5
        for given, shown in (({}, [0.25, [7], 3]), ({"rate": 9.0, "limit": None}, [9.0, [7], None])):
            with told.open("wb") as log:
                manager = notebooks._kernel_manager({}, log, lambda: None, 0)
                made = papermill.execute_notebook(
                    path, tmp_path / "out.ipynb", given, kernel_manager_class=manager, progress_bar=False
                )
            assert eval(outputs(made)[-1].text) == [*shown, "small"], place


def test_what_no_profile_can_give_is_refused(places):
    names = {"notebooks": notebooks, "places": places, **given(places)}
    for call, said in (
        ("'small', places, sedes=[1]", "no notebook has the parameter 'sedes'; the nearest name is 'seeds'"),
        ("'small', places, seeds='x'", r"01_step.seeds in --set: it is 'x'"),
        ("'smal', places", "no profile 'smal'; the nearest name is 'small'"),
    ):
        with pytest.raises(ParameterError, match=said):
            exec(f"notebooks.use({call})", names)
    with pytest.raises(ParameterError, match="this is no parameters cell, or not its last line"):
        exec("notebooks.use('small', places)", {"notebooks": notebooks, "places": places})
