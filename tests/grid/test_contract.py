"""What weights ask of a clip: axes, spacing and HU become as asked, or a sentence says why they cannot."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from monai.data import MetaTensor
from monai.transforms import Orientation
from noise_cohort import SETTINGS, write_cohort
from safetensors.torch import save_file

from ctlib.core import PROJECT, Contract, Workspace, read_contract
from ctlib.datasets.clips import ClipDataset, unmet
from ctlib.datasets.transforms import ClipSettings
from ctlib.grid.execute import expand, left_out
from ctlib.models.weights.load import Init, InitError, build_network
from ctlib.models.weights.read import TrainedOn
from ctlib.training.finetune import execute
from ctlib.training.loop import FitError
from ctlib.training.pretraining import job
from ctlib.training.run import clip_settings, clips_of_run, store_of

pytestmark = pytest.mark.usefixtures("one_thread")

CODES = [
    "".join(code)
    for code in itertools.product(*(["LR", "PA", "IS"]))
    for code in itertools.permutations(code)
]


class OneStore:
    """One volume of a spacing."""

    def __init__(self, hu, spacing_mm):
        self.hu, self.spacing_mm = hu, spacing_mm

    def read(self, series_uid, start=0, stop=None):
        return self.hu[start:stop]

    def record(self, series_uid):
        return {"shape": list(self.hu.shape), "spacing_mm": self.spacing_mm}


def phantom():
    """Air with one block in front, above and to the right: no axis can be turned without notice."""
    hu = np.full((12, 20, 20), -1024, np.int16)
    hu[8:11, 2:6, 1:4] = 400
    return hu


def clip_of(hu, contract, spacing_mm=(2.0, 1.0, 1.0), length=12, crop=20, **settings):
    table = pd.DataFrame(
        [("1.2", 0, 0, len(hu), 1, 1)], columns=["series_uid", "clip", "start", "stop", "n_positive", "label"]
    )
    cut = ClipSettings(length, crop, "pe", contract=contract.text if contract else "", **settings)
    return ClipDataset(OneStore(hu, spacing_mm), table, cut, train=False)[0]["clip"].numpy()


@pytest.mark.parametrize("axes", CODES)
def test_axes_point_where_the_contract_says(axes):
    plain = clip_of(phantom(), None)
    ours = np.diag([1.0, -1.0, -1.0, 1.0])[[2, 1, 0, 3]]  # voxel (z, y, x) to right, front, top
    wanted = Orientation(axes)(MetaTensor(torch.from_numpy(plain), affine=torch.from_numpy(ours)))
    np.testing.assert_array_equal(clip_of(phantom(), Contract(axes)), wanted.numpy())
    assert axes == "SPL" or not np.array_equal(wanted.numpy(), plain)


def test_voxels_become_as_large_as_the_contract_says_and_hu_as_it_says():
    z, y, x = np.ogrid[:24, :40, :40]
    inside = ((z - 11.5) * 3) ** 2 + ((y - 19.5) * 1.0) ** 2 + ((x - 19.5) * 1.0) ** 2 < 15**2
    hu = np.where(inside, 500, -500).astype(np.int16)
    clip = clip_of(
        hu, Contract("RAS", (1.5, 1.5, 2.0), (-1000.0, 1000.0)), (3.0, 1.0, 1.0), length=40, crop=30
    )
    assert clip.shape == (1, 30, 30, 40) and clip.max() == pytest.approx(0.75, abs=0.01)
    sizes = [(clip[0] > 0.5).any(axis=tuple({0, 1, 2} - {axis})).sum() for axis in range(3)]
    assert sizes == pytest.approx([30 / 1.5, 30 / 1.5, 30 / 2.0], abs=1.01)
    assert clip[0, 15, 15, 0] == 0  # beyond the volume is air, and air is -1024 HU


@pytest.mark.parametrize(
    ("contract", "settings", "message"),
    [
        (
            Contract(spacing_mm=(1.0, 1.0, 1.0)),
            {},
            r"12 slices of 3 mm, has 36 slices, and clips have 12; .*clip_length 4",
        ),
        (Contract(spacing_mm=(3.0, 1.0, 1.0)), {}, ""),
        (Contract(spacing_mm=(1.0, 1.0, 1.0)), {"spacing_mm": None}, "that of series 1.2 is unknown"),
    ],
)
def test_a_spacing_that_cannot_be_is_said(contract, settings, message):
    store = OneStore(phantom(), settings.get("spacing_mm", (3.0, 1.0, 1.0)))
    table = pd.DataFrame({"series_uid": ["1.2"], "start": [0], "stop": [12]})
    told = unmet(store, table, ClipSettings(12, 20, "pe", contract=contract.text))
    assert bool(told) == bool(message) and pd.Series([told]).str.contains(message).all()


@pytest.mark.parametrize(
    ("contract", "channels", "message"),
    [
        (
            Contract(channels=("neighbours",)),
            "repeat",
            "channels is 'repeat', .* asks for neighbours; set channels",
        ),
        (Contract(hu=(-1.0, 1.0)), "hu_windows", "asks for one range of HU"),
    ],
)
def test_channels_that_are_not_those_asked_for_are_refused(contract, channels, message):
    with pytest.raises(ValueError, match=message):
        ClipSettings(12, 20, "pe", channels=channels, contract=contract.text)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_WEIGHTS", str(tmp_path / "public"))
    made = Workspace(tmp_path / "work")
    write_cohort(made, "lidc")
    return made


def own(workspace, **fields):
    """Weights of a user's, with the record that is given."""
    folder = workspace.root.parent / "public" / "hospital"
    folder.mkdir(parents=True, exist_ok=True)
    made, _ = build_network("r3d_18", "tiny", Init("random", "", "", (0.4,), (0.2,)), seed=9)
    save_file(dict(made.backbone.state_dict()), folder / "w.safetensors")
    record = {"file": "w.safetensors", "source": "ours", "licence": "in-house", "mean": [0.4], "std": [0.2]}
    (folder / "r3d_18.yaml").write_text(yaml.safe_dump(record | {"size": "tiny"} | fields))


def planned(workspace, **fields):
    own(workspace, **fields)
    asked = {"tasks": ["lidc_nodule"], "backbones": ["r3d_18"], "inits": ["hospital"], "fractions": [1.0]}
    (run,) = expand(workspace, **asked, seeds=[0], lr=1e-3, **SETTINGS)
    return run


def test_a_run_sees_the_clips_that_its_starting_weights_ask_for(workspace):
    before = planned(workspace)
    run = planned(workspace, contract={"axes": "SAR", "hu": [-1000, 1000]})
    assert before.contract == "" and run.run_id != before.run_id
    assert replace(run, contract="") == before
    rows, store = clips_of_run(workspace, run), store_of(workspace, run)
    plain, seen = (
        ClipDataset(store, rows, clip_settings(each), train=False)[0]["clip"] for each in (before, run)
    )
    same = ClipDataset(
        store, rows, replace(clip_settings(run), contract="axes=SPL hu=-1000,1000"), train=False
    )
    torch.testing.assert_close(seen, same[0]["clip"].flip(2, 3), rtol=0, atol=0)
    assert not torch.equal(seen, plain)
    (line,) = left_out(workspace, ["lidc_nodule"], ["r3d_18"], ["hospital"])
    assert line == "Init hospital of r3d_18 sees clips cut by its input contract: axes SAR; HU -1000 to 1000."
    execute(str(workspace.root), run)
    own(workspace)
    with pytest.raises(
        FitError, match="input contract of init hospital has changed since this run was planned"
    ):
        execute(str(workspace.root), replace(run, seed=1))


def test_what_the_data_cannot_give_is_refused_before_anything_is_computed(workspace):
    with pytest.raises(
        ValueError, match=r"init hospital for r3d_18, cohort lidc: at 0\.1 mm a clip of series"
    ):
        planned(workspace, contract={"spacing_mm": [0.1, 0.1, 0.1]})
    with pytest.raises(InitError, match=r"r3d_18\.yaml: contract: axes is 'RPX'; give a letter of S or I"):
        planned(workspace, contract={"axes": "RPX"})
    own(workspace, contract={"axes": "RAS"})
    with pytest.raises(
        InitError, match=r"init hospital asks for other clips \(axes RAS\) than 02_pretrain cuts"
    ):
        job(workspace, "hospital+ct_lidc", "r3d_18", None, "")


def test_the_ten_lines_for_a_new_papers_weights_are_a_run(workspace, monkeypatch):
    text = (PROJECT / "docs" / "weights.md").read_text()
    record = re.search(r"```yaml\n# \S+/(\w+)/(\w+)\.yaml\n(.+?)```", text, re.DOTALL)
    init, key, lines = record.groups()
    asked = yaml.safe_load(lines)
    assert len(lines.splitlines()) == 10 and f"CTLIB_LICENCES={init}" in text
    folder = workspace.root.parent / "public" / init
    folder.mkdir(parents=True)
    (folder / f"{key}.yaml").write_text(lines + "size: tiny\n")  # whose file a test can write
    made, _ = build_network(key, "tiny", Init("random", "", "", (0.0,), (1.0,)), seed=9)
    (theirs, ours), head = *asked["names"].items(), asked["head"][0]
    state = {theirs + name.removeprefix(ours): tensor for name, tensor in made.backbone.state_dict().items()}
    torch.save(state | {f"{head}weight": torch.zeros(1)}, folder / asked["file"])
    monkeypatch.setenv("CTLIB_LICENCES", init)
    grid = {"tasks": ["lidc_nodule"], "backbones": [key], "inits": [init], "fractions": [1.0], "seeds": [0]}
    (run,) = expand(workspace, **grid, lr=1e-3, **SETTINGS)
    result = execute(str(workspace.root), run)
    assert [TrainedOn(**each) for each in result["seen"]] == [TrainedOn(**each) for each in asked["seen"]]
    assert read_contract(run.contract) == Contract.of(asked["contract"])
    ledger = pd.read_parquet(workspace.runs / run.run_id / "ledger.parquet").set_index("tensor")
    assert set(ledger["status"].drop(["head.weight", "head.bias"])) == {"loaded"}
