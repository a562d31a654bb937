import json

import click
import pytest
from sample_project import code, project

from ctlib.cli import grid
from ctlib.core.parameters import ParameterError, conform, declared_parameters, load_profile, resolve_profile
from ctlib.core.workspace import HOME, NOTEBOOKS


@pytest.fixture
def places(tmp_path):
    return project(tmp_path, [], [])


def rewrite(places, notebook, old, new):
    path = places.params / "small" / f"{notebook}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def problems(places, *overrides):
    with pytest.raises(ParameterError) as caught:
        load_profile("small", overrides, places)
    return caught.value.problems


# ---- parameters --------------------------------------------------------------------------


def test_a_parameters_cell_is_read_with_types_and_comments(places):
    found = declared_parameters(places.notebooks / "01_step.ipynb")
    assert list(found) == ["profile", "work_dir", "rate", "seeds", "limit"]
    assert (found["seeds"].annotation, found["seeds"].default) == ("list[int]", [0, 1])
    assert found["limit"].comment == "steps; None for no limit"


def test_a_cell_that_is_no_literal_is_refused(tmp_path):
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": [code("a: int = 1  # x\nb = a + 1  # y", "parameters")]}))
    with pytest.raises(ParameterError, match="'b = a \\+ 1  # y' in the parameters cell is not"):
        declared_parameters(path)


def test_the_right_parameters_come_out_as_declared(places):
    values = load_profile("small", ["02.seeds=[5]", "rate=1", "work_dir=elsewhere"], places)
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
    found = resolve_profile("small", ["01.seeds=[7]"], places)
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


def test_an_override_of_a_notebook_outside_the_profile_is_refused(places):
    (places.params / "small" / "02_step.yaml").unlink()
    assert list(load_profile("small", (), places)) == ["01_step"]
    assert "has no parameters for 02_step" in " ".join(problems(places, "02.rate=1"))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_that_is_run_by_hand_is_the_committed_report(notebook):
    """Else Run All in JupyterLab computes other runs than `make demo` did."""
    found = {n: p.default for n, p in declared_parameters(HOME.notebooks / f"{notebook}.ipynb").items()}
    assert found["profile"] in ("demo", "published") and found == load_profile(found["profile"])[notebook]


@pytest.mark.parametrize(
    ("value", "annotation"), [(1, "bool"), ("a", "list[str]"), (None, "str"), (2.0, "int")]
)
def test_types_are_not_bent(value, annotation):
    with pytest.raises(TypeError, match=f"must be {annotation}".replace("[", r"\[")):
        conform(value, annotation)
