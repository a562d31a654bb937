"""What a newcomer adds, each as a patch of its own in a copy of the project, and run there.

Two of the ten are elsewhere: a dataset in `test_docs` (as docs/growing.md has it), an augmentation in
`test_augmentations`. Each place is the one that docs/architecture.md names.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from ctlib.core.workspace import PROJECT

pytestmark = pytest.mark.slow  # each asks a new process of Python
ARCHITECTURE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (?:an? |the )?([\w' ]+?) \| (.*`.*) \|$", ARCHITECTURE, re.MULTILINE))

FORMAT = '''
"""Volumes of numpy: HU as int16 `[D, H, W]` in our axes, 1 mm cubes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Header:
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    fault: str = ""
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


def read_header(path):
    return Header((path,), np.load(path, mmap_mode="r").shape)


def decode(path):
    return np.load(path), read_header(path)
'''


@dataclass(frozen=True)
class Change:
    """Files to write, texts to put before others, and what must hold then.

    Args:
        new: text by path.
        before: by path, a text that is there once, and what is put in its place.
        then: code that fails where the change does not work.
    """

    then: str
    new: dict[str, str] = field(default_factory=dict)
    put: dict[str, tuple[str, str]] = field(default_factory=dict)


CHANGES = {
    "network": Change(
        put={
            "ctlib/models/slicewise.py": (
                "\nENTRIES = (",
                """

class Mean(nn.Module):
    n_features = 1

    def forward(self, clips):
        return clips.mean(dim=(1, 2, 3, 4))[:, None]


ENTRIES = (
    Backbone(
        key="mean", title="Mean", dims=2, build=lambda size, channels: Mean(), licence="ours", citation="",
        clip=(1, 8, 8), cpu_precision="fp32", cpu_channels_last=False,
    ),""",
            )
        },
        then="import torch; from ctlib.models import build; "
        "assert build('mean')(torch.ones(2, 1, 4, 8, 8)).shape == (2, 1)",
    ),
    "loss": Change(
        put={
            "ctlib/training/losses.py": (
                "LOSSES: dict[str, Loss] = {",
                'LOSSES: dict[str, Loss] = {\n    "hinge": lambda logits, labels: '
                "functional.relu(1 - logits.squeeze(1) * (2 * labels - 1)).mean(),",
            )
        },
        then="import torch; from ctlib.training.losses import LOSSES; "
        "assert LOSSES['hinge'](torch.tensor([[2.0], [0.5]]), torch.tensor([1, 0])) == 0.75",
    ),
    "metric": Change(
        put={
            "ctlib/metrics/summary.py": (
                "METRICS = {",
                'METRICS = {\n    "mean_score": Entry(lambda run: Metric(float(run.scores.mean())), None),',
            )
        },
        then="import pandas as pd; from ctlib.metrics import by_run; "
        "table = pd.DataFrame({'run_id': 'a', 'split': 'test', 'patient_id': list('pq'), 'study': list('pq'), "
        "'clip': 0, 'score': [0.2, 0.6], 'label': [0, 1], 'study_label': [0, 1]}); "
        "assert 'mean_score' in by_run(table), by_run(table)",
    ),
    "figure": Change(
        new={
            "ctlib/visualization/bars.py": "from matplotlib.figure import Figure\n\n"
            "from ctlib.visualization.style import styled\n\n\n@styled\ndef bars(values):\n"
            "    figure = Figure()\n    figure.subplots().bar(range(len(values)), values)\n    return figure\n"
        },
        put={
            "ctlib/visualization/figures.py": (
                "from ctlib.visualization.animation",
                "from ctlib.visualization.bars import bars\nfrom ctlib.visualization.animation",
            )
        },
        then="from ctlib.visualization import figures; assert figures.svg(figures.bars([1, 2])).startswith(b'<?xml')",
    ),
    "look of a report": Change(
        put={
            "ctlib/cli/reports/templates/report/style.css": (
                ":root {\n  color-scheme",
                ":root {\n  --clinic: #123456;\n  color-scheme",
            )
        },
        then="from ctlib.cli.reports.page import exporter; "
        "assert '--clinic' in exporter().environment.loader.get_source(exporter().environment, 'style.css')[0]",
    ),
    "file format": Change(
        new={"ctlib/io/npy.py": FORMAT},
        put={
            "ctlib/io/formats.py": (
                "FORMATS = [",
                'from ctlib.io import npy  # noqa: E402\n\nFORMATS = [Format("NumPy", (".npy",), npy.read_header, '
                "npy.decode), ",
            )
        },
        then="import numpy as np; from pathlib import Path; from ctlib.volumes import read_series, scan; "
        "hu = np.arange(-60, 60, dtype=np.int16).reshape(4, 5, 6); Path('data').mkdir(); np.save('data/a.npy', hu); "
        "assert (read_series('data/a.npy').hu == hu).all(); "
        "found, refused = scan(Path('data')); assert len(found) == 1 and len(refused) == 0, refused",
    ),
    "logger": Change(
        put={
            "ctlib/training/loggers.py": (
                "LOGGERS = {",
                'LOGGERS = {\n    "again": Logger(lambda folder, root: _csv(folder / "again", root)),',
            )
        },
        then="from ctlib.training.loggers import LOGGERS; assert 'again' in LOGGERS",
    ),
    "weights": Change(
        put={
            "ctlib/models/weights/published.yaml": (
                "\nweights:\n",
                """
weights:
  clinic:
    resnet18:
      file: clinic.safetensors
      source: pictures of our clinic
      seen: [*imagenet-1k, {what: pictures of our clinic, kind: other}]
      licence: in-house
      mean: [0.4]
      std: [0.2]
      size: tiny
""",
            )
        },
        then="import os; from pathlib import Path; from safetensors.torch import save_file; "
        "from ctlib.core import Workspace; from ctlib.models import NO_COHORT, build, build_network, find; "
        "os.environ['CTLIB_WEIGHTS'] = str(Path('public').absolute()); Path('public').mkdir(); "
        "tensors = build('resnet18', 'tiny').state_dict(); save_file(tensors, 'public/clinic.safetensors'); "
        "init = find('clinic', 'resnet18', Workspace(Path('work')), NO_COHORT); "
        "network, ledger = build_network('resnet18', 'tiny', init, 0); "
        "assert set(ledger['status']) == {'loaded', 'head'} and len(init.seen) == 2; "
        "assert (network.backbone.conv1.weight == tensors['conv1.weight']).all()",
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """What a process needs of the project, once."""
    made = tmp_path_factory.mktemp("newcomer") / "project"
    shutil.copytree(PROJECT / "ctlib", made / "ctlib", ignore=shutil.ignore_patterns("__pycache__"))
    return made


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_has_one_place_and_works(project, tmp_path, name):
    change = CHANGES[name]
    shutil.copytree(project, tmp_path / "copy")
    for path, text in change.new.items():
        (tmp_path / "copy" / path).write_text(text)
    for path, (old, new) in change.put.items():
        text = (tmp_path / "copy" / path).read_text()
        assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
        (tmp_path / "copy" / path).write_text(text.replace(old, new))
    ask = [sys.executable, "-c", change.then]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "copy")}
    done = subprocess.run(ask, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in change.put:
        assert path.removeprefix("ctlib/") in ROWS[name], f"docs/architecture.md: {name} is in {ROWS[name]}"


def test_none_of_it_holds_without_its_change(project, tmp_path):
    """All in one process: importing the package takes seconds."""
    code = "\n".join(
        f"try:\n    exec({change.then!r}, {{}})\nexcept Exception:\n    pass\nelse:\n    print({name!r})"
        for name, change in CHANGES.items()
    )
    environment = {**os.environ, "PYTHONPATH": str(project)}
    ask = [sys.executable, "-c", code]
    done = subprocess.run(ask, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_ten_changes_are_told():
    ten = {*CHANGES, "dataset", "augmentation"}
    assert len(ten) == 10 and ten <= ROWS.keys(), ten - ROWS.keys()
