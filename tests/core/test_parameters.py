import json
import platform
import sys

import click
import nbformat
import pytest
from sample_project import code, markdown, project

from ctlib.cli import grid, notebooks
from ctlib.core.parameters import ParameterError, conform, declared, load, resolved
from ctlib.core.workspace import HOME, NOTEBOOKS, PROJECT


@pytest.fixture
def places(tmp_path):
    return project(tmp_path, [], [])


def rewrite(places, notebook, old, new):
    path = places.params / "small" / f"{notebook}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def problems(places, *overrides):
    with pytest.raises(ParameterError) as caught:
        load("small", overrides, places)
    return caught.value.problems


# ---- parameters --------------------------------------------------------------------------


def test_a_parameters_cell_is_read_with_types_and_comments(places):
    found = declared(places.notebooks / "01_step.ipynb")
    assert list(found) == ["profile", "work_dir", "rate", "seeds", "limit"]
    assert (found["seeds"].annotation, found["seeds"].default) == ("list[int]", [0, 1])
    assert found["limit"].comment == "steps; None for no limit"


def test_a_cell_that_is_no_literal_is_refused(tmp_path):
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": [code("a: int = 1  # x\nb = a + 1  # y", "parameters")]}))
    with pytest.raises(ParameterError, match="'b = a \\+ 1  # y' in the parameters cell is not"):
        declared(path)


def test_the_right_parameters_come_out_as_declared(places):
    values = load("small", ["02.seeds=[5]", "rate=1", "work_dir=elsewhere"], places)
    assert list(values) == ["01_step", "02_step"]
    assert values["01_step"]["seeds"] == [0, 1] and values["02_step"]["seeds"] == [5]
    assert [v["rate"] for v in values.values()] == [1.0, 1.0] and type(values["01_step"]["rate"]) is float
    assert values["01_step"]["work_dir"] == "elsewhere"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("01_step.sedes=[0]", ["01_step.sedes", "'seeds'"]),
        ("02.ratee=1", ["02_step.ratee", "'rate'"]),
        ("sedes=[0]", ["no notebook has the parameter 'sedes'", "'seeds'"]),
        ("02_stepp.seeds=[0]", ["no notebook is called '02_stepp'", "'02_step'"]),
        ("seeds", ["'seeds' is not NOTEBOOK.KEY=VALUE"]),
        ("=1", ["'=1' is not NOTEBOOK.KEY=VALUE"]),
        ("01.seeds=[0", ["01_step.seeds", "'[0' is no literal of type list[int]", "[0, 1]"]),
        ("01.seeds=[0.5]", ["01_step.seeds", "[0.5], which is list, but must be list[int]"]),
        ("01.rate=True", ["01_step.rate", "True, which is bool, but must be float"]),
        ("01.limit=many", ["01_step.limit", "no literal of type int | None"]),
    ],
)
def test_a_wrong_override_is_named(places, override, said):
    found = " ".join(problems(places, override))
    assert all(part in found for part in said), found


def test_a_misspelt_key_of_a_file_is_one_problem_not_two(places):
    rewrite(places, "02_step", "seeds", "seedz")
    assert problems(places) == [
        "02_step.seedz is no parameter of that notebook; the nearest name is 'seeds' (01_step has 'seeds')."
    ]


def test_what_a_file_does_not_give_is_the_notebooks_default(places):
    rewrite(places, "02_step", "rate: 0.25\n", "")
    assert problems(places) == [
        "02_step.rate is 0.5, which is its default, but 01_step.rate is 0.25: a key that notebooks share has "
        "one value in profile 'small'; give it in both files."
    ]
    rewrite(places, "01_step", "rate: 0.25\n", "")
    found = resolved("small", ["01.seeds=[7]"], places)
    assert found.values["02_step"]["rate"] == 0.5 and found.sources["02_step"]["rate"] == "the notebook"
    assert found.values["01_step"]["seeds"] == [7] and found.sources["01_step"]["seeds"] == "--set"
    assert found.sources["02_step"]["seeds"].endswith("params/small/02_step.yaml")


def test_a_changed_profile_is_shown_with_where_it_comes_from(capsys):
    group = click.Group(commands={"params": grid.params})
    group.main(["params", "folder", "--changed", "--set", "03.seeds=[4]"], standalone_mode=False, obj=HOME)
    told = capsys.readouterr().out
    assert '  tasks: ["folder_lung"]  (params/folder/03_finetune_grid.yaml)' in told
    assert "  seeds: [4]  (--set)" in told and "optimizer" not in told
    group.main(["params", "demo", "--json"], standalone_mode=False, obj=HOME)
    assert json.loads(capsys.readouterr().out)["03_finetune_grid"]["optimizer"] == "adamw"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rate: 1e-3", "YAML reads 1e-3 as text, write it as 0.001"),
        ("rate: true", "it is True, which is bool, but must be float (per step)"),
        ("rate: 0.3", "02_step.rate is 0.3, but 01_step.rate is 0.25"),
        ("rate: 0.25\nrate: 0.25", "rate is given twice"),
        ("rate: [", "is no YAML"),
    ],
)
def test_a_wrong_line_of_a_file_is_named(places, line, said):
    rewrite(places, "02_step", "rate: 0.25", line)
    assert said in " ".join(problems(places))


def test_all_problems_are_told_at_once(places):
    rewrite(places, "01_step", "seeds: [0, 1]", "seeds: zero")
    rewrite(places, "02_step", "seeds: [0, 1]", "seeds: zero")
    assert len(problems(places, "01.rate=x")) == 3


def test_a_profile_of_another_folder_and_a_file_of_no_notebook_are_refused(places):
    rewrite(places, "01_step", "profile: small", "profile: large")
    (places.params / "small" / "03_stepp.yaml").write_text("a: 1\n")
    found = " ".join(problems(places))
    assert "01_step.profile is 'large', but its file lies in profile 'small'" in found
    assert "03_stepp.yaml belongs to no notebook" in found


def test_an_unknown_profile_is_named(places):
    with pytest.raises(ParameterError, match="no profile 'smal'; the nearest name is 'small'"):
        load("smal", (), places)


def test_an_override_of_a_notebook_outside_the_profile_is_refused(places):
    (places.params / "small" / "02_step.yaml").unlink()
    assert list(load("small", (), places)) == ["01_step"]
    assert "has no parameters for 02_step" in " ".join(problems(places, "02.rate=1"))


@pytest.mark.parametrize("profile", sorted(path.name for path in HOME.params.iterdir()))
def test_the_profiles_of_the_project_fit_its_notebooks(profile):
    assert set(load(profile)) <= set(NOTEBOOKS)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_that_is_run_by_hand_is_the_committed_report(notebook):
    """Else Run All in JupyterLab computes other runs than `make demo` did."""
    found = {n: p.default for n, p in declared(HOME.notebooks / f"{notebook}.ipynb").items()}
    assert found["profile"] in ("demo", "published") and found == load(found["profile"])[notebook]


@pytest.mark.parametrize(
    ("value", "annotation"), [(1, "bool"), ("a", "list[str]"), (None, "str"), (2.0, "int")]
)
def test_types_are_not_bent(value, annotation):
    with pytest.raises(TypeError, match=f"must be {annotation}".replace("[", r"\[")):
        conform(value, annotation)


# ---- the header cell ---------------------------------------------------------------------


def given(places, **changes):
    return {name: p.default for name, p in declared(places.notebooks / "01_step.ipynb").items()} | changes


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


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Notebooks that end well, raise, and lose their kernel: sections and failures by name."""
    bodies = (
        [markdown("## Where"), code(LOOK)],
        [code("print('before')"), markdown("## Break"), code("1 / 0"), code("print('after')")],
        [markdown("## Die"), code("os = __import__('os')\nos._exit(9)")],
    )
    places = project(tmp_path_factory.mktemp("ran"), *bodies)
    values, seen, failed = load("small", (), places), {}, {}
    for name in places.names:
        seen[name] = []
        try:
            notebooks.execute(name, values[name], seen[name].append, places)
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
    assert "lack of memory" in failed["03_step"]
    assert notebooks.failure(books["03_step"]).section == "Die"
