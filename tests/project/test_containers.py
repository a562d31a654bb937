"""The recipes of containers: what they copy is there and is enough, and what they run runs. None was built here."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from ctlib.core.workspace import PROJECT

FOLDER = PROJECT / "containers"
HOME = "/ctlib"


def dockerfile():
    """Steps of the Dockerfile, `(instruction, words)`."""
    text = re.sub(r"#.*\n", "", (FOLDER / "Dockerfile").read_text()).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def definition():
    """Sections of Apptainer's definition, lines by name; what is above them is its header."""
    parts = re.split(r"^%(\w+)\n", re.sub(r"#.*\n", "", (FOLDER / "ctlib.def").read_text()), flags=re.M)
    lines = [[line.strip() for line in part.splitlines() if line.strip()] for part in parts[::2]]
    return dict(zip(["header", *parts[1::2]], lines, strict=True))


def copied():
    """Files and folders of the project, by recipe."""
    docker = [word for step, words in dockerfile() if step == "COPY" for word in words.split()[:-1]]
    pairs = [line.split() for line in definition()["files"]]
    assert all(target == f"{HOME}/{source}" for source, target in pairs)
    return {"Dockerfile": docker, "ctlib.def": [source for source, _ in pairs]}


def test_both_recipes_install_the_lock_on_the_same_python():
    steps, sections = dockerfile(), definition()
    assert sections["header"] == ["Bootstrap: docker", f"From: {dict(steps)['FROM']}"]
    run = [command.strip() for step, words in steps if step == "RUN" for command in words.split("&&")]
    assert run == [line for line in sections["post"] if line.split()[0] in ("pip", "uv")]
    pin = shlex.split(run[0].replace("$(grep ^uv== requirements.lock)", "uv==1"))
    assert (
        pin[-1] == "uv==1" and "-r requirements.lock" in run[1] and run[2].endswith("--no-deps --editable .")
    )
    assert re.search(r"^uv==[\d.]+$", (PROJECT / "requirements.lock").read_text(), re.M)
    assert sorted(copied()["Dockerfile"]) == sorted(copied()["ctlib.def"])
    let_in = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in let_in if line.startswith("!")} == set(copied()["Dockerfile"])


@pytest.mark.parametrize("recipe", ["Dockerfile", "ctlib.def"])
def test_what_is_copied_is_enough_for_what_is_run(recipe, tmp_path):
    for name in copied()[recipe]:
        source = PROJECT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    runs = dict(dockerfile())["ENTRYPOINT"] if recipe == "Dockerfile" else definition()["runscript"][0]
    assert runs == ('["ctlib"]' if recipe == "Dockerfile" else 'exec ctlib "$@"')
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for words, told in (
        (["--help"], "gpu-check"),
        (["params", "demo"], "work_dir"),
        (["gpu-check", "-h"], "--seconds"),
    ):
        command = [sys.executable, "-P", "-m", "ctlib", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert told in done.stdout
