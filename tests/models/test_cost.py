"""Costs are those computed by hand, those published, and those of tensors with values."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torchvision import models
from torchvision.models import video

from ctlib.models.cost import cost_of, network_cost
from ctlib.models.registry import BACKBONES, build
from ctlib.models.slicewise import SliceResNet

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- by hand ---------------------------------------------------------------------------


def test_a_convolution():
    """27 cells, and for each of 2 x 3 kernels 27 products; autograd keeps the clip of 250 floats."""
    made = cost_of(nn.Conv3d(2, 3, 3, bias=False), (2, 5, 5, 5))
    assert made.parameters == 2 * 3 * 27
    assert made.multiply_adds == 27 * 2 * 3 * 27
    assert made.saved_mb == 250 * 4 / 1e6


def test_groups_strides_and_padding_count():
    conv = nn.Conv3d(6, 6, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), groups=6, bias=False)
    assert cost_of(conv, (6, 4, 8, 8)).multiply_adds == (4 * 4 * 4) * 6 * 9


def test_what_is_kept_is_kept_once():
    """ReLU keeps what goes out, and so does the layer behind it: one storage, though seen in two shapes."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv3d(1, 4, 1, bias=False), nn.Linear(8, 2, bias=False)

        def forward(self, clip):
            return self.second(functional.relu(self.first(clip)).flatten(2)[..., :8])

    made = cost_of(Twice(), (1, 2, 2, 2))
    assert made.saved_mb == (8 + 4 * 8) * 4 / 1e6
    assert made.multiply_adds == 8 * 4 + 4 * 8 * 2


def test_weights_are_no_part_of_what_a_clip_costs():
    """A product with the weight itself keeps the weight, 1000 floats, and the clip, 1000 floats."""

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1000))
            self.register_buffer("shift", torch.ones(1000))

        def forward(self, clip):
            return clip * self.weight * self.shift

    assert cost_of(Scale(), (1000,)).saved_mb == 1000 * 4 / 1e6


def test_memory_is_that_of_training():
    """Dropout keeps a factor for each of the 81 numbers that go out, also of a network that evaluates."""
    conv = nn.Conv3d(2, 3, 3, bias=False)
    dropped = cost_of(nn.Sequential(conv, nn.Dropout(0.5)).eval(), (2, 5, 5, 5))
    assert dropped.saved_mb == (250 + 81) * 4 / 1e6


def test_attention_is_counted():
    """Two products of 10 x 10 x 8, in each of 3 heads."""

    class Attention(nn.Module):
        def forward(self, clip):
            x = clip.requires_grad_()
            return functional.scaled_dot_product_attention(x, x, x)

    assert cost_of(Attention(), (3, 10, 8)).multiply_adds == 2 * 3 * 10 * 10 * 8


@pytest.mark.parametrize(("size", "features", "hidden"), [("tiny", 96, 32), ("full", 512, 256)])
def test_grus_are_counted(size, features, hidden):
    """Three gates of a product with what comes in and with the state, in two directions, slice by slice."""
    read, plain = (network_cost(key, size, (7, 64, 64)) for key in ("lrcn_resnet18", "resnet18"))
    gru = 7 * 2 * 3 * hidden * (3 * features + hidden)
    assert read.multiply_adds - plain.multiply_adds == gru
    assert read.parameters - plain.parameters == 2 * 3 * hidden * (3 * features + hidden + 2)


def test_slices_cost_the_same_each():
    one, eight = (network_cost("resnet18", "tiny", (n, 48, 48)) for n in (1, 8))
    assert eight.multiply_adds == 8 * one.multiply_adds and eight.parameters == one.parameters
    # the statistics of batch norms are kept once
    assert 7.5 * one.saved_mb < eight.saved_mb < 8 * one.saved_mb


# ---- published -------------------------------------------------------------------------

PYTORCHVIDEO = {
    # clip, published G, whether it counts normalization too
    "slow_r50": ((8, 256, 256), 54.52, False),
    "slowfast_r50": ((32, 256, 256), 65.71, False),
    "r2plus1d_r50": ((16, 256, 256), 76.45, True),
    "csn_r101": ((32, 256, 256), 75.62, True),
    "x3d_m": ((16, 224, 224), 4.73, False),
    "mvit_b": ((32, 224, 224), 170.37, False),
}
"""pytorchvideo's docs/source/model_zoo.md, Kinetics-400, "Flops (G) x views"; X3D-M: SlowFast's own table."""
NORM = 5
"""Operations for each number that a normalization gives: what those two rows must have counted."""
X3D_HEAD = 192 * 432 * 16 * 7 * 7 + 432 * 2048
"""Its two products before the classifier, which are no part of our backbone."""


@pytest.mark.parametrize("key", PYTORCHVIDEO)
def test_multiply_adds_are_those_of_pytorchvideos_table(key):
    clip, published, counts_norms = PYTORCHVIDEO[key]
    counted = network_cost(key, "full", clip, in_channels=3).multiply_adds
    counted += NORM * norm_outputs(key, clip) if counts_norms else 0
    counted += X3D_HEAD if key == "x3d_m" else 0
    assert counted / 1e9 == pytest.approx(published, rel=0.003 if key == "mvit_b" else 0.0003, abs=0.005)


def norm_outputs(key, clip):
    """How many numbers the batch norms of a network give for a clip."""
    with torch.device("meta"):
        network, shapes = build(key, "full", 3), []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.register_forward_hook(lambda _, inputs, output: shapes.append(output.numel()))
    network(torch.empty(1, 3, *clip, device="meta"))
    return sum(shapes)


TORCHVISION = {
    "r3d_18": ((16, 112, 112), video.R3D_18_Weights),
    "s3d": ((16, 224, 224), video.S3D_Weights),
    "swin3d_t": ((16, 224, 224), video.Swin3D_T_Weights),
    "mvit_v2_s": ((16, 224, 224), video.MViT_V2_S_Weights),
    "resnet18": ((1, 224, 224), models.ResNet18_Weights),
    "resnext101": ((1, 224, 224), models.ResNeXt101_32X8D_Weights),
}


@pytest.mark.parametrize("key", TORCHVISION)
def test_multiply_adds_are_those_torchvision_publishes(key):
    clip, weights = TORCHVISION[key]
    made = network_cost(key, "full", clip, in_channels=3)
    assert made.multiply_adds / 1e9 == pytest.approx(weights.DEFAULT.meta["_ops"], abs=0.003)  # less the head
    assert made.parameters < weights.DEFAULT.meta["num_params"]


# ---- against tensors with values -------------------------------------------------------


@pytest.mark.parametrize("key", BACKBONES)
def test_memory_is_what_autograd_keeps_when_it_computes(key):
    network = build(key, "tiny").train()
    own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        features = network(torch.rand(1, 1, 16, 48, 48))
    made = network_cost(key, "tiny", (16, 48, 48))
    assert features.requires_grad and made.saved_mb > 0
    assert made.saved_mb == pytest.approx(sum(n for n, _ in kept.values()) / 1e6, rel=1e-6)
    assert made.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_counting_leaves_torchs_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    network_cost("swin3d_t", "full", (4, 32, 32))
    assert torch.equal(torch.rand(3), expected)


def test_other_structure_costs_other():
    small, large = (SliceResNet(1, width, (1, 1, 1, 1), "max") for width in (8, 16))
    assert cost_of(small, (1, 4, 32, 32)).multiply_adds < cost_of(large, (1, 4, 32, 32)).multiply_adds


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match="'slow_r5'; the nearest name is 'slow_r50'; known are"):
        network_cost("slow_r5", "full", (8, 224, 224))
