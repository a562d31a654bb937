"""An augmentation is one entry of `AUGMENTATIONS`, and a parameter of the notebooks that offer it."""

import ast
import filecmp
import inspect
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from ctlib.core.workspace import PROJECT
from ctlib.datasets.transforms import AUGMENTATIONS, Augmented

NOTEBOOKS = ("02_pretrain", "03_finetune_grid")
TRANSFORMS = "ctlib/datasets/transforms.py"
LAST = re.compile(r"(    jitter_scale: float = augmentation\(\n.*?\n    \)\n)", re.DOTALL)
ENTRY = """    noise_hu: float = augmentation(
        0.0,
        add_noise,
        "standard deviation of noise in training, HU",
        wanted="0 HU or more",
        is_allowed=lambda value: value >= 0,
    )
"""
FUNCTION = """def add_noise(change: Change, sigma: float, rng: np.random.Generator) -> None:
    noise = np.random.default_rng(rng.integers(2**32))
    def add(clip):
        clip += noise.normal(0, sigma / 1500, clip.shape)
    change.on_clip.append(add)


"""
ASKED = """
import json, numpy as np
from ctlib.core import parameters
from ctlib.datasets.transforms import ClipSettings, cut
from ctlib.grid.expand import settings_of
from ctlib.training import CtSource
from ctlib.training.run import Run

loaded = parameters.load_profile("demo")
settings = settings_of(loaded["03_finetune_grid"])
for name in ("exceptions", "leave_out", "modes", "heads", "finetune_best", "frozen_backbones"):
    settings.pop(name)
def run(**changes):
    given = {**settings, **changes}
    return Run("lidc_nodule", "slow_r50", "video", 1.0, 0, lr=0.1, data="d", weights="w", **given)
source = CtSource.of(loaded["02_pretrain"])
told = {"id": run().run_id, "source": source.settings(), "names": sorted(run().augmentations())}
if "noise_hu" in told["names"]:
    told["changed"] = run(noise_hu=20).run_id
    told["changed_source"] = CtSource.of({**loaded["02_pretrain"], "noise_hu": 20.0}).settings()
    volume = np.zeros((4, 8, 8), np.int16)
    def clip(sigma):
        made = ClipSettings(4, 8, "lung", noise_hu=sigma)
        return cut(volume, 0, 4, made, np.random.default_rng(0))
    told["noise"], told["without"] = float(clip(30.0).std() * 1500), float(np.ptp(clip(0.0)))
    try:
        run(noise_hu=-1)
    except ValueError as error:
        told["refused"] = str(error)
print(json.dumps(told))
"""


def ask(project):
    """What the package of a folder says of its augmentations."""
    environment = {**os.environ, "PYTHONPATH": str(project)}
    command = [sys.executable, "-c", ASKED]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def offer(path):
    """Give the parameters cell of a notebook the new parameter, below the last augmentation."""
    text = path.read_text()
    line = next(line for line in text.splitlines(keepends=True) if '"jitter_scale: float' in line)
    path.write_text(text.replace(line, line + '    "noise_hu: float = 0.0  # noise, HU\\n",\n'))


def changed(project):
    """Files of the copy that differ from the project's."""
    files = [
        path.relative_to(project) for path in project.rglob("*") if path.suffix in {".py", ".ipynb", ".yaml"}
    ]
    return sorted(
        str(path) for path in files if not filecmp.cmp(project / path, PROJECT / path, shallow=False)
    )


@pytest.mark.slow  # two processes import the package
def test_an_augmentation_more_changes_three_files(tmp_path):
    for folder in ("ctlib", "notebooks", "params"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / TRANSFORMS
    text, n = LAST.subn(lambda found: found[1] + ENTRY, path.read_text())
    assert n == 1
    path.write_text(text.replace("def augmentation(off", FUNCTION + "def augmentation(off"))
    for notebook in NOTEBOOKS:
        offer(tmp_path / "notebooks" / f"{notebook}.ipynb")
    assert changed(tmp_path) == [TRANSFORMS, *(f"notebooks/{notebook}.ipynb" for notebook in NOTEBOOKS)]
    before, after = ask(PROJECT), ask(tmp_path)
    assert after["names"] == sorted([*before["names"], "noise_hu"])
    assert after["id"] == before["id"] != after["changed"]  # results that are there stay what they are
    assert after["source"] == before["source"] and after["changed_source"]["noise_hu"] == 20
    assert after["noise"] == pytest.approx(30, rel=0.2) and after["without"] == 0
    assert after["refused"] == "noise_hu is -1.0; give 0 HU or more."


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_is_documented_and_offered_by_its_help(name):
    assert f"        {name}: " in inspect.getdoc(Augmented).replace("    ", "        ")
    for notebook in NOTEBOOKS:
        cell = json.loads((PROJECT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"][2]["source"]
        (line,) = [line for line in cell if line.startswith(f"{name}: ")]
        declared, help = line.split("  # ")
        assert type(ast.literal_eval(declared.split(" = ")[1])) is type(AUGMENTATIONS[name].off)
        if notebook == "03_finetune_grid":
            assert help.strip() == AUGMENTATIONS[name].help
