"""What people read besides the reports: the README's claims and examples, help pages, the reference."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import click
import nibabel
import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from readme_parts import README, blocks, commands, commands_in_prose, files, own_commands, section

import ctlib
from ctlib.cli.__main__ import cli
from ctlib.core.parameters import declared_parameters
from ctlib.core.workspace import HOME, NOTEBOOKS, PROJECT
from ctlib.datasets.cohort import COHORTS
from ctlib.datasets.download import DATASETS
from ctlib.io.formats import FORMATS, UNREAD

FIRST_SCREEN_LINES = 46
"""Lines above the first figure: what is asked, to be typed, found."""
WORDS_BEFORE_A_COMMAND = 120
"""Words above the first command."""
PICTURE_BYTES = 300_000


# ---- the first screen --------------------------------------------------------------------


def test_the_first_screen_asks_answers_and_says_what_to_do():
    before = README.split("![")[0]
    assert len(before.splitlines()) <= FIRST_SCREEN_LINES
    order = ["The question.", "make demo", "make lab", "PHANTOMS, NOT PATIENTS", "reports/demo/index.html"]
    places = [before.index(part) for part in order]
    assert places == sorted(places)
    assert len(before.split("make demo")[0].split()) <= WORDS_BEFORE_A_COMMAND


def test_the_answer_comes_with_intervals_networks_seeds_and_patients():
    said, table = README.split("![")[0].split("PHANTOMS, NOT PATIENTS")[1].split("| question |")
    assert re.search(r"\d+ networks, \d+ seeds, \d+ test patients, \d+ with disease", " ".join(said.split()))
    for line in table.split("\n\n")[0].splitlines()[2:]:
        assert re.search(r"\| .\d\.\d+ \(.\d\.\d+ to .\d\.\d+\) \|", line), line


def test_pictures_are_small_and_told_in_words():
    marked = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", README)
    tags = re.findall(r"<img [^>]*>", README)
    marked += [(re.search(r'alt="([^"]*)"', tag)[1], re.search(r'src="([^"]+)"', tag)[1]) for tag in tags]
    assert marked
    for told, path in marked:
        assert len(told) > 20, path
        assert (PROJECT / path).stat().st_size < PICTURE_BYTES, path


def test_links_within_the_page_lead_somewhere():
    headings = re.findall(r"^## (.*)$", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    asked = set(re.findall(r"\]\(#([\w-]+)\)", README))
    assert asked and asked <= anchors, asked - anchors


# ---- what the README names ---------------------------------------------------------------


CTLIB = [words[1:] for words in commands() + commands_in_prose() if words[0] == "ctlib"]


@pytest.mark.parametrize("arguments", CTLIB, ids=" ".join)
def test_commands_have_these_arguments(arguments):
    """Parsed as click does, and not executed."""
    name, *rest = arguments
    if name == "--help":
        return
    context = click.Context(cli, info_name="ctlib", obj=HOME)
    cli.commands[name].make_context(name, rest, parent=context)


def test_overrides_and_profiles_are_those_of_the_parameters():
    from ctlib.core import parameters

    for arguments in commands():
        if arguments[:2] == ["ctlib", "run"] and arguments[2] != "PROFILE":
            overrides = [arguments[i + 1] for i, part in enumerate(arguments) if part == "--set"]
            parameters.load_profile(arguments[2], overrides)


PARAMETERS = {
    name
    for notebook in NOTEBOOKS
    for name in declared_parameters(PROJECT / "notebooks" / f"{notebook}.ipynb")
}


def test_parameters_that_the_readme_sets_exist():
    named = set(re.findall(r"`(\w+): [^`]+`", README))
    for block in blocks("On a cluster", "yaml"):
        named |= yaml.safe_load(block).keys()
    assert "videos_labelled" in named and named <= PARAMETERS, named - PARAMETERS


def test_files_that_the_readme_names_exist():
    named = re.findall(r"`((?:ctlib|params|notebooks|tests|benchmarks|tools|docs)/[\w/.-]*)`", README)
    assert len(set(named)) > 5
    for path in named:
        assert (PROJECT / path).exists(), path


def test_extras_that_the_readme_installs_exist():
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"'\.\[(\w+)\]'", README))
    assert named and named <= extras.keys()


def test_inits_that_the_readme_lists_are_known():
    from ctlib.models.weights import ablations, catalog

    table, controls = section("All values of `inits`"), section("Your own weights")
    named = set(re.findall(r"`([a-z]+\w*)`", " ".join(re.findall(r"^\| (.*?) \|", table, re.M)[1:])))
    here = {"random", "video", "video_ssl", "efficientnet_lite0", "timm"}
    assert catalog.PUBLIC.keys() == named - here
    for prefix in re.findall(r"`(\w+):`", controls):
        ablations.split(f"{prefix}:video")


# ---- help pages --------------------------------------------------------------------------


def data_table(title):
    """The rows of the first table of a section of docs/data.md, as cells."""
    lines = section(title).split("\n|", 1)[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_cohort_stands_in_the_table_with_its_terms():
    rows = {row[0].strip("`"): row for row in data_table("Cohorts")}
    assert set(rows) == set(COHORTS)
    for name, dataset in COHORTS.items():
        assert all(len(cell) > 2 for cell in rows[name])
        if licence := re.match(r"CC BY \d\.\d", dataset.terms):
            assert rows[name][4].startswith(licence[0]), name
        if dataset.patients_of:
            assert f"the patients of `{dataset.patients_of}`" in rows[name][6]
        assert (f"`fetch {name}`" in rows[name][2]) == (name in DATASETS)


def test_every_format_stands_in_the_table_with_its_endings():
    rows = data_table("Formats")
    for known in FORMATS:
        (row,) = [row for row in rows if row[0] == known.name]
        assert all(f"`{ending}`" in row[1] for ending in known.endings)
    told = "\n".join(row[0] + row[1] for row in rows)
    for other in UNREAD:
        first = re.split(r"[;,]", other.what)[0]
        assert (
            all(f"`{ending}`" in told for ending in other.endings) and first.split()[-1].strip("()") in told
        ), first


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_papermill_tells_every_parameter_with_type_and_meaning(notebook):
    """`papermill --help-notebook`: its reader leaves out a line with a second = sign, comment included."""
    path = PROJECT / "notebooks" / f"{notebook}.ipynb"
    seen = papermill.inspect_notebook(path)
    assert list(seen) == list(declared_parameters(path))
    for name, parameter in seen.items():
        assert parameter["inferred_type_name"] != "None" and len(parameter["help"]) > 4, name
        ast.literal_eval(parameter["default"])


def every_command():
    return [("", cli), *cli.commands.items()]


@pytest.mark.parametrize(
    ("name", "command"), every_command(), ids=[name or "ctlib" for name, _ in every_command()]
)
def test_help_pages_say_what_each_option_does(name, command):
    if name:
        assert command.get_short_help_str(200).endswith(".")
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help and option.help.endswith((".", "]", ")")), f"{name} {option.opts}"
    assert len(command.help.split("\n")[0]) <= 110


# ---- the reference -----------------------------------------------------------------------

OFFLINE = (
    "import runpy, socket, sys\n"
    "def refuse(*_): raise OSError('no network here')\n"
    "socket.socket.connect = socket.getaddrinfo = refuse\n"
    "sys.argv[0] = 'pdoc'\n"
    "runpy.run_module('pdoc', run_name='__main__')\n"
)


def reference(folder, *modules):
    """What `make docs` writes, of some modules or of all, with the network cut."""
    recipe = re.search(r"-m pdoc (.*)", (PROJECT / "Makefile").read_text())[1].replace("'", "").split()
    at = recipe.index("--docformat")
    arguments = [*(modules or recipe[:at]), *recipe[at:-1], str(folder)]
    assert recipe[-1] == "docs/reference"
    command = [sys.executable, "-c", OFFLINE, *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)


def test_the_first_page_leads_to_modules_that_exist():
    named = re.findall(r"`(ctlib\.\w+)`", ctlib.__doc__)
    assert len(named) == 10 + 2  # rooms and doors
    for name in named:
        assert importlib.util.find_spec(name), name


def test_the_reference_has_sections_and_examples(tmp_path):
    reference(tmp_path, "ctlib.datasets.splits")
    page = (tmp_path / "ctlib" / "datasets" / "splits.html").read_text()
    assert ">Arguments:<" in page and "Args:" not in page
    assert "&gt;&gt;&gt;" in page


@pytest.mark.slow
def test_the_reference_has_every_module_and_needs_no_network(tmp_path):
    from ctlib.cli.reports import remote_addresses

    done = reference(tmp_path)
    # pdoc tells that it kept the standard library from asking `uname`
    assert [line for line in done.stderr.splitlines() if "Suppressed execution" not in line] == []
    names = set()  # of packages, and of modules that no package keeps behind its own names
    for package in (PROJECT / "ctlib").rglob("__init__.py"):
        names.add(package.parent.name)
        if "__all__" not in package.read_text():
            names |= {path.stem for path in package.parent.glob("[!_]*.py")}
    pages = sorted(tmp_path.rglob("*.html"))
    assert names - {"worker"} <= {page.stem for page in pages}
    for page in pages:
        assert remote_addresses(page.read_text()) == [], page


# ---- examples ----------------------------------------------------------------------------


def typed(arguments, folder, project=PROJECT):
    """A command of the README, in a folder of its user's."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(project), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_network_of_ones_own_is_tried(tmp_path):
    """The rest of that section is typed in `test_own_data`."""
    for name, text in files("Your own network", "python").items():
        (tmp_path / name).write_text(text)
    done = typed(own_commands("Your own network")[0], tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "my_nets:plain" in line]
    assert len(rows) == 2 and all(row.count("finite") == 2 for row in rows)


@pytest.mark.slow
def test_a_dataset_more_is_read_as_any_other(tmp_path):
    from ctlib.core import tables
    from ctlib.core.workspace import Workspace
    from ctlib.datasets.synthetic.ct import write_patient

    project = tmp_path / "project"
    for name in ("ctlib", "notebooks", "params"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    given = files("What can be added", "python")
    (line,) = [text for text in given.values() if text.startswith("clinic_root")]
    for first, text in given.items():
        if first.startswith("ctlib/datasets/"):
            path, _, of_registry = first.partition(", an entry of ")
            path, begin = project / path, f"{of_registry} = {{\n"
            path.write_text(path.read_text().replace(begin, begin + text) if of_registry else text)
    notebook = project / "notebooks" / "01_explore_data.ipynb"
    book = json.loads(notebook.read_text())
    book["cells"][2]["source"] += ["\n", line.strip()]
    notebook.write_text(json.dumps(book))
    old = (project / "params" / "folder" / "01_explore_data.yaml").read_text()
    new = old.replace('cohorts: ["folder"]', 'cohorts: ["clinic"]').replace("work/folder", "work/clinic")
    (project / "params" / "clinic").mkdir()
    (project / "params" / "clinic" / "01_explore_data.yaml").write_text(
        new.replace('profile: "folder"', 'profile: "clinic"') + '\nclinic_root: "data"\n'
    )
    for number in range(3):
        write_patient("lidc", str(tmp_path / "phantoms"), 0, number)
    series = {path.parent for path in (tmp_path / "phantoms").rglob("*.dcm")}
    for number, folder in enumerate(sorted(series)):
        shutil.copytree(folder, project / "data" / f"p{number}" / "ct")
    (project / "data" / "ill.txt").write_text("p1\n")
    (project / "data" / "p2" / "notes.md").write_text("no volume")

    done = typed(["-m", "ctlib", "prepare", "clinic", "--set", "split_shares=[]"], project, project)
    assert done.returncode == 0, done.stderr
    work = Workspace(project / "work" / "clinic")
    read = tables.read("series", work.table("series", "clinic"))
    assert sorted(read["label"]) == [0, 0, 1] and read["patient_id"].nunique() == 3
    refused = tables.read("problems", work.table("problems", "clinic"))
    n_files = sum(1 for path in (project / "data").rglob("*") if path.is_file())
    assert read["n_files"].sum() + refused["n_files"].sum() == n_files - 1  # the labels are no data
    told = typed(
        ["-c", "from ctlib.datasets.cohort import task; print(task('clinic_nodule').cohort)"],
        project,
        project,
    )
    assert told.stdout.strip() == "clinic"


def test_a_volume_is_shown(tmp_path, monkeypatch, capsys):
    affine = np.diag([0.8, 0.8, 2.0, 1.0])
    image = nibabel.Nifti1Image(np.full((8, 8, 4), -900, np.int16), affine)
    image.set_sform(affine, 1)
    (tmp_path / "data").mkdir()
    nibabel.save(image, tmp_path / "data" / "scan-001.nii.gz")
    monkeypatch.chdir(tmp_path)
    (source,) = blocks("Viewing a volume", "python")
    exec(source, {})
    assert "three planes" in capsys.readouterr().out


def test_a_figure_more_is_a_function(tmp_path):
    (source,) = [text for name, text in files("What can be added", "python").items() if "spacings" in name]
    names = {}
    exec(source, names)
    series = pd.DataFrame({"spacing_z_mm": [1.0, 1.0, 2.5, 5.0], "label": pd.array([0, 1, 1, 0], "Int64")})
    figure = names["spacings"](series)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["no disease", "disease"]
    assert sum(bar.get_height() for bar in figure.axes[0].containers[0]) == 2
    figure.savefig(tmp_path / "figure.png")
