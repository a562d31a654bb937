"""The published settings are in params/paper, value by value, and heads say what a command found.

The facts are those of docs/protocol.md; each has its section, and the file is read too.
"""

import re
import sys

import numpy as np
import pytest

from ctlib.core.workspace import PROJECT

sys.path.insert(0, str(PROJECT / "tools"))  # what writes the heads

from headers import GRID, PROFILES, plan_without_anything, pretraining_hours, written
from protocol_choices import parameters_of

from ctlib.cli.data import load
from ctlib.core.hu import HU_WINDOWS
from ctlib.core.workspace import Places, Workspace
from ctlib.datasets.cohort import TASKS
from ctlib.grid.estimate_profile import LR_FRACTION, LR_RATES, expected
from ctlib.grid.lr_search import PUBLISHED
from ctlib.models.registry import spec
from ctlib.training.protocol import differences
from ctlib.training.run import clip_settings

SEVEN = ["slow_r50", "slowfast_r50", "r2plus1d_r50", "csn_r101", "mvit_b", "swin3d_t", "penet"]
"""Protocol, "Networks": the seven 3D networks."""
HERE = {"penet": "penet_kinetics"}
"""PENet is the network that its Kinetics weights are of: the published weights fit no other."""
OF_ALL = {
    **{"optimizer": "adam", "weight_decay": 1e-6, "loss": "bce", "epochs": 50, "patience": 5},  # "Training"
    **{
        "schedule": "plateau_5",
        "sampling": "balanced",
        "keep": "best",
        "batch_size": 16,
    },  # "Method, by page"
    **{"dropout": 0.5, "autoaugment": True},  # "Method, by page"
    **{"matrix_px": 256, "crop_px": 224, "rotation_deg": 20.0, "channels": "repeat"},  # "Images"
    **{"flip": False, "jitter_hu": 0.0, "jitter_scale": 0.0},  # "Images": nothing else is augmented
    **{"clip_length": 32, "study_label": "clips"},  # "Tasks"
    **{"size": "full", "steps_per_epoch": 0, "accumulate": 1, "flaws": ()},  # "Its flaws, and what we do"
}
"""Settings of every run, but for those of `ALONE`."""
ALONE = {
    "resnet18": {"batch_size": 32},  # "Method, by page": batch 32 (2D)
    "resnext101": {"batch_size": 8, "accumulate": 4},
    "lrcn_resnext101": {"batch_size": 8, "accumulate": 4},
}
RELEASED = {
    ("rspect_pe", "swin3d_t"): {"batch_size": 3},  # "Training": batch 8 (Swin 3)
    ("lidc_nodule", "swin3d_t"): {"batch_size": 3},
    ("rspect_pe", "mvit_b"): {"optimizer": "sgd"},  # "Learning rates chosen by the authors"
    ("rspect_pe", "penet_kinetics"): {"optimizer": "sgd", "loss": "focal"},
}
"""Exceptions of the released code, which the profiles of one dataset keep."""
SEEN = {"rspect_pe": (400, 1000), "lidc_nodule": (-600, 1500)}
"""Protocol, "Images": centre and width of the HU window of each task."""
RATES = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
"""Protocol, "Training"; tried on a tenth of the training patients."""


def values_of(profile):
    values = load(profile, (), Places())
    return {**values[GRID], **values["01_explore_data"]}


@pytest.fixture(scope="module")
def paper():
    """Parameters of the profile, and its runs, without any data."""
    values = values_of("paper")
    return values, expected(Workspace(PROJECT / "work" / "no-such-profile"), values)


def test_every_run_has_the_published_settings(paper):
    _, found = paper
    for run in {*found.runs, *found.search}:
        wanted = OF_ALL | ALONE.get(run.backbone, {})
        assert {name: getattr(run, name) for name in wanted} == wanted, run
        window = HU_WINDOWS[clip_settings(run).hu_window]
        assert (window.centre, window.width) == SEEN[run.task]


def test_the_grid_is_the_published_one_with_its_controls(paper):
    _, found = paper
    arms = {(run.task, run.backbone, run.init) for run in found.runs}
    for task, other in (("rspect_pe", "ct_lidc"), ("lidc_nodule", "ct_rspect")):
        for key in (HERE.get(key, key) for key in SEVEN):  # with and without video, and from the other's CT
            inits = {init for t, b, init in arms if (t, b) == (task, key)}
            assert inits >= {"random", "kinetics", other, f"kinetics+{other}"}
            assert f"kinetics+ct_{task.split('_')[0]}_ssl" in inits  # the task's own patients, without labels
        for key in ("resnet18", "resnext101"):  # 2D baselines: ImageNet or scratch
            inits = {init for t, b, init in arms if (t, b) == (task, key)}
            assert inits == {"random", "imagenet", other, f"imagenet+{other}"}
        assert (task, "lrcn_resnext101", "random") in arms
    fractions = {(run.task, run.fraction) for run in found.runs}  # "Method, by page"
    assert fractions == {("rspect_pe", 0.01), *((task, share) for task in SEEN for share in (0.1, 1.0))}
    with_ct = {run.init for run in found.runs if run.fraction == 0.01} - {"kinetics+ct_rspect_ssl"}
    assert with_ct == {"random", "kinetics", "imagenet"}  # Table 1: no CT at 1 %
    assert len({run.seed for run in found.runs}) >= 3  # "Its flaws": several seeds
    folds = {task: {run.fold for run in found.runs if run.task == task} for task in SEEN}
    assert folds["lidc_nodule"] == set(range(5)) and folds["rspect_pe"] == {0}  # "Tasks", power
    assert spec("penet_kinetics").title != spec("penet").title


def test_every_arm_is_searched_with_one_budget(paper):
    values, found = paper
    assert values[LR_RATES] == RATES and values[LR_FRACTION] == 0.1 and values["lr"] == "search"
    tried = {}
    for run in found.search:
        tried.setdefault((run.task, run.backbone, run.init), []).append(run.lr)
        assert (run.fraction, run.seed, run.fold) == (0.1, values["seeds"][0], 0)
    assert {tuple(rates) for rates in tried.values()} == {tuple(RATES)}
    assert tried.keys() == {(run.task, run.backbone, run.init) for run in found.runs}


def test_the_data_are_split_and_labelled_as_published(paper):
    values, _ = paper
    assert values["split_shares"] == [0.7, 0.15, 0.15] and values["min_readers"] == 3  # "Tasks"
    assert values["splits_file"] == "lidc=params/lidc/folds.csv" and values["fold"] == 0
    assert {task: known.min_positive_slices for task, known in TASKS.items() if task in SEEN} == {
        "rspect_pe": 4,
        "lidc_nodule": 4,
    }


@pytest.mark.parametrize("profile", ["rspect", "lidc"])
def test_the_profiles_of_one_dataset_are_parts_of_the_published_one(profile, paper):
    values, whole = values_of(profile), paper[0]
    assert values["tasks"] == [f"{profile}_{'pe' if profile == 'rspect' else 'nodule'}"]
    assert values["backbones"] == [HERE.get(key, key) for key in SEVEN]
    own = {"profile", "work_dir", "cohorts", "tasks", "backbones", "inits", "folds", "exceptions", "fold"}
    own |= {"study_label", "rspect_root", "lidc_root", "splits_file", "split_shares", "cluster"}
    own |= {"cluster_options", "protocol", "leave_out", *parameters_of("paper")}
    assert {name: values[name] for name in values.keys() - own} == {
        name: whole[name] for name in values.keys() - own
    }
    for name in ("inits", "folds", "cohorts"):
        assert set(values[name]) <= set(whole[name])
    followed = differences("corrected", {GRID: values})
    assert [choice.name for choice in followed if choice.switches] == FOR_ONE_DATASET[profile]


FOR_ONE_DATASET = {"rspect": ["arms", "optimizer", "folds"], "lidc": ["arms", "optimizer"]}
"""Where the profile of one dataset does not follow the protocol `corrected`: what the other dataset needs."""


def test_the_protocol_says_the_same():
    """The literals above, against the file they were taken from."""
    text = (PROJECT / "docs" / "protocol.md").read_text()
    training = text[text.index("## Training") : text.index("Learning rates chosen")]
    told = re.search(
        r"Adam, weight decay (\S+), batch (\d+) \(Swin (\d+)\), BCE with logits, mixed precision, at most "
        r"(\d+) epochs, early stopping on validation study AUROC \(patience (\d+)\)",
        training,
    )
    names = ("weight_decay", "batch_size", "swin", "epochs", "patience")
    found = dict(zip(names, map(float, told.groups()), strict=True))
    assert found.pop("swin") == RELEASED["rspect_pe", "swin3d_t"]["batch_size"]
    assert found == {name: (OF_ALL | parameters_of("released"))[name] for name in found}
    rates, fraction = re.search(r"from ([\de, .-]+) on (\d+) % of the training data", training).groups()
    assert [float(rate) for rate in rates.split(", ")] == RATES and fraction == "10"
    for part in ("halved on plateau of the validation loss", "clips sampled with equal weight"):
        assert part in training
    side, crop, rotation = re.search(
        r"resized to (\d+) x \1 .*?random (\d+) x \2 crop .*?rotation by up to (\d+) degrees", text
    ).groups()
    assert (int(side), int(crop), float(rotation)) == tuple(
        OF_ALL[name] for name in ("matrix_px", "crop_px", "rotation_deg")
    )
    assert re.search(r"(\d+) slices \(24 for PENet\), non-overlapping", text)[1] == str(OF_ALL["clip_length"])
    assert "Splits: 70 / 15 / 15 % of patients" in text and "Finetuning fractions: 10 % and 100 %" in text
    rows = text[text.index("| key | network |") :].split("\n\n")[0].splitlines()[2:]
    assert [re.match(r"\| `(\w+)`", row)[1] for row in rows] == SEVEN
    table = text[text.index("| network | rspect_pe | lidc_nodule |") :].split("\n\n")[0]
    for row in table.splitlines()[2:]:
        name, pe, _ = (cell.strip() for cell in row.strip("|").split("|"))
        key = HERE.get(name, name)
        alone = RELEASED.get(("rspect_pe", key), {})
        assert ("SGD" in pe) == (alone.get("optimizer") == "sgd")
        assert ("focal" in pe) == (alone.get("loss") == "focal")
    assert all(("rspect_pe", key) in PUBLISHED and ("lidc_nodule", key) in PUBLISHED for key in SEVEN)


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_heads_say_what_the_command_found(profile):
    path = PROJECT / "params" / profile / f"{GRID}.yaml"
    made = plan_without_anything(profile)
    assert path.read_text() == written(path.read_text(), made), "run python tools/headers.py"
    assert made.work_s == pytest.approx(3600 * made.costs["hours"].sum())
    assert np.isfinite(made.power.select_dtypes("number").to_numpy()).all()


@pytest.mark.slow
def test_the_head_of_the_pretraining_says_what_the_command_found():
    told = re.search(
        r"at most (\d+) hours of an A100", (PROJECT / "params/paper/02_pretrain.yaml").read_text()
    )[1]
    assert int(told) == round(pretraining_hours("paper"))
