"""Weights are pretrained once for the same settings and videos, fit the init, and survive an interruption."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ctlib import inits, pretraining, tables
from ctlib.engine import Engine
from ctlib.motions import write_video
from ctlib.pretraining import PretrainSettings, fingerprint, pretrain, pretrain_all
from ctlib.workspace import Workspace

SETTINGS = PretrainSettings(
    source="bright and dark noise",
    licence="none needed",
    size="tiny",
    n_frames=4,
    crop_px=12,
    heldout_share=0.25,
    epochs=2,
    steps_per_epoch=3,
    batch_size=4,
    lr=1e-3,
    weight_decay=1e-6,
    precision="fp32",
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    rng = np.random.default_rng(0)
    for low, name in ((0, "dark"), (60, "bright"), (120, "brighter")):
        folder = tmp_path / "videos" / name
        folder.mkdir(parents=True)
        for k in range(8):
            write_video(folder / f"{k}.mkv", rng.integers(low, low + 120, (4, 14, 14)).astype(np.uint8))
    return Workspace(tmp_path)


def weights(workspace: Workspace) -> dict[str, torch.Tensor]:
    return load_file(workspace.weights("video", "resnet18"))


def test_the_weights_are_an_init_with_the_mean_and_std_of_the_videos(workspace):
    record = pretrain(str(workspace.root), "resnet18", SETTINGS)
    assert record["classes"] == ["bright", "brighter", "dark"]
    assert (record["n_train"], record["n_heldout"]) == (18, 6)
    assert 0 <= record["heldout_accuracy"] <= 1 and len(record["curves"]) == 2
    assert record["settings"] == dataclasses.asdict(SETTINGS)
    init = inits.find("video", "resnet18", workspace, (0.0, 1.0))
    assert init.source == "bright and dark noise"
    assert init.mean[0] == pytest.approx((59.5 + 60) / 255, abs=0.02)  # the mean of the three classes
    network, ledger = inits.network("resnet18", "tiny", init, seed=0)
    assert set(ledger["status"]) == {"loaded", "head"}
    assert torch.equal(network.backbone.conv1.weight, weights(workspace)["backbone.conv1.weight"])
    assert weights(workspace)["head.weight"].shape[0] == 3  # one logit a class
    assert [path.name for path in (workspace.root / "weights" / "video").iterdir() if path.is_dir()] == []


def test_the_same_settings_and_videos_are_not_trained_on_again(workspace, monkeypatch):
    first = pretrain(str(workspace.root), "resnet18", SETTINGS)
    fit = pretraining.fit
    monkeypatch.setattr(pretraining, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    assert pretrain(str(workspace.root), "resnet18", SETTINGS) == first
    monkeypatch.setattr(pretraining, "fit", fit)
    other = pretrain(str(workspace.root), "resnet18", dataclasses.replace(SETTINGS, lr=2e-3))
    assert other["made_from"] != first["made_from"]
    rng = np.random.default_rng(1)
    path = workspace.videos / "dark" / "0.mkv"
    write_video(path, rng.integers(0, 120, (4, 14, 14)).astype(np.uint8))
    assert pretrain(str(workspace.root), "resnet18", SETTINGS)["made_from"] != first["made_from"]


def test_videos_are_known_by_name_and_content(workspace):
    before = fingerprint(workspace.videos)
    path = workspace.videos / "dark" / "0.mkv"
    path.write_bytes(path.read_bytes())
    assert fingerprint(workspace.videos) == before
    path.rename(workspace.videos / "bright" / "moved.mkv")
    assert fingerprint(workspace.videos) != before


def test_an_interrupted_pretraining_goes_on_to_the_same_weights(workspace, monkeypatch):
    pretrain(str(workspace.root), "resnet18", SETTINGS)
    expected = weights(workspace)
    workspace.weights("video", "resnet18").unlink()
    fit = pretraining.fit

    def killed(network, train, sampler, heldout, accuracy, *args):
        calls = []

        def metric(logits):
            calls.append(logits)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return accuracy(logits)

        return fit(network, train, sampler, heldout, metric, *args)

    monkeypatch.setattr(pretraining, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(str(workspace.root), "resnet18", SETTINGS)
    [left] = [path for path in (workspace.root / "weights" / "video").iterdir() if path.is_dir()]
    assert (left / "last.ckpt").is_file()
    monkeypatch.setattr(pretraining, "fit", fit)
    pretrain(str(workspace.root), "resnet18", SETTINGS)
    found = weights(workspace)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_table_holds_every_network_and_a_failure_is_said(workspace):
    lines: list[str] = []
    table = pretrain_all(workspace, ["resnet18", "slow_r50"], SETTINGS, Engine(0), lines.append)
    assert table["backbone"].tolist() == ["resnet18"] * 2 + ["slow_r50"] * 2
    assert table["epoch"].tolist() == [1, 2] * 2
    stored = tables.read("pretraining", workspace.table("pretraining"))
    assert stored["heldout_loss"].tolist() == table["heldout_loss"].tolist()
    assert lines[0] == "0 of 2 networks were pretrained before."
    assert lines[1].startswith("resnet18: held-out accuracy ") and "over 3 classes at epoch" in lines[1]
    assert pretrain_all(workspace, ["resnet18", "slow_r50"], SETTINGS, Engine(0), lines.append).equals(table)
    assert lines[3:] == ["2 of 2 networks were pretrained before."]
    record = json.loads(workspace.weights("video", "slow_r50").with_suffix(".json").read_text())
    assert record["backbone"] == "slow_r50"
    bad = dataclasses.replace(SETTINGS, lr=1e30)
    with pytest.raises(
        RuntimeError, match=r"(?s)2 of 2 networks failed; the first:.*lower lr, which is 1e\+30"
    ):
        pretrain_all(workspace, ["resnet18", "slow_r50"], bad, Engine(0), lines.append)
    assert lines[5].startswith("resnet18: failed: ctlib.training.FitError: ")
