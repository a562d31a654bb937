"""PENet has the described structure, layer by layer, takes any clip and sees the order of slices."""

import pytest
import torch
from torch import nn

from ctlib.models.penet import PENet, Pyramid, Residual, penet

LAYERS = (nn.Conv3d, nn.Linear, nn.MaxPool3d)
TABLE = [
    # layers, parameters, strides, channels that go out
    (2, 22_080, (2, 4, 4), 64),  # stem and maximum
    (15 + 1, 258_864, (2, 4, 4), 256),  # 3 units and a shortcut
    (20 + 1, 1_477_760, (4, 8, 8), 512),
    (30 + 1, 8_700_288, (8, 16, 16), 1024),
    (6, 8_062_464, (8, 16, 16), 256),  # pyramid
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def full():
    """Shapes only."""
    with torch.device("meta"):
        return penet("full", 1)


def tiny(seed=0, in_channels=1):
    torch.manual_seed(seed)
    return penet("tiny", in_channels).eval()


def n_layers(module):
    return sum(isinstance(m, LAYERS) for m in module.modules())


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_the_layers_are_77_with_the_maximum_and_a_linear_head(full):
    count = {kind.__name__: sum(isinstance(m, kind) for m in full.modules()) for kind in LAYERS}
    assert count == {"Conv3d": 1 + 13 * 3 + 3 + 6, "Linear": 13 * 2, "MaxPool3d": 1}
    assert n_layers(full) + n_layers(nn.Linear(full.n_features, 1)) == 77


def test_the_table_of_layers_and_parameters(full):
    clip = torch.empty(1, 1, 24, 192, 192, device="meta")
    for block, (layers, parameters, strides, channels) in zip(full.blocks, TABLE, strict=True):
        clip = block(clip)
        assert (n_layers(block), n_parameters(block)) == (layers, parameters)
        assert clip.shape == (1, channels, 24 // strides[0], 192 // strides[1], 192 // strides[2])
    assert n_parameters(full) == sum(row[1] for row in TABLE) == 18_521_456
    assert full.n_features == 256


@pytest.mark.parametrize(("size", "groups", "depths"), [("full", 32, [3, 4, 6]), ("tiny", 4, [1, 1, 1])])
def test_units_have_groups_gates_skips_and_normalization_by_group(size, groups, depths):
    with torch.device("meta"):
        network = penet(size, 1)
    stages = list(network.blocks)[1:-1]
    assert [len(stage) for stage in stages] == depths
    assert isinstance(network.blocks[-1], Pyramid) and len(network.blocks[-1].dilated) == 2
    for stage in stages:
        for i, unit in enumerate(stage):
            assert unit.grouped[0].groups == groups and unit.grouped[0].kernel_size == (3, 3, 3)
            assert isinstance(unit.shortcut, nn.Sequential if i == 0 else nn.Identity)
    norms = {type(m) for m in network.modules() if "Norm" in type(m).__name__}
    assert norms == {nn.GroupNorm}
    widths = [unit.grouped[0].in_channels // groups for stage in stages for unit in stage[:1]]
    assert widths == [4, 8, 16]


def test_the_published_classifier_without_pyramid_is_the_same_class():
    with torch.device("meta"):
        network = PENet(3, 64, depths=(3, 4, 6, 3), groups=32, rates=(), last_norm=0.0)
    assert (network.n_features, n_layers(network) + 1) == (2048, 87)


def test_a_unit_computes_what_is_said_of_it():
    torch.manual_seed(0)
    unit = Residual(8, 16, groups=4, stride=2)
    x = torch.randn(2, 8, 5, 6, 7)
    branch = unit.widen(unit.grouped(unit.narrow(x)))
    assert branch.shape == (2, 32, 3, 3, 4)
    first, _, second, _ = unit.gate.weigh
    narrow = nn.functional.leaky_relu(branch.mean((2, 3, 4)) @ first.weight.T + first.bias, 0.01)
    weights = torch.sigmoid(narrow @ second.weight.T + second.bias)
    expected = torch.einsum("ncdhw,nc->ncdhw", branch, weights) + unit.shortcut(x)
    torch.testing.assert_close(unit(x), torch.where(expected < 0, 0.01 * expected, expected))


def test_the_branches_of_the_pyramid_reach_as_far_as_their_rates():
    """The change of one cell of the map reaches others by each branch alone, after the first convolution."""
    torch.manual_seed(0)
    pyramid = Pyramid(4, 16, rates=(1, 2, 3))
    branches = [pyramid.cell, *pyramid.dilated]
    x = torch.randn(1, 16, 9, 9, 9)
    moved = x.clone()
    moved[0, :, 4, 4, 4] += 1
    for branch, rate in zip(branches, (0, 2, 3), strict=True):
        changed = (branch(moved) - branch(x)).abs().amax(dim=(0, 1)) > 1e-6
        expected = torch.zeros(9, 9, 9, dtype=torch.bool)
        at = [4 - rate, 4, 4 + rate]
        expected[torch.meshgrid(*[torch.tensor(at)] * 3, indexing="ij")] = True
        assert torch.equal(changed, expected)
    assert pyramid(torch.randn(1, 4, 3, 4, 5)).shape == (1, 16, 3, 4, 5)


SHAPES = [(2, 1, 16, 48, 48), (1, 1, 24, 64, 64), (1, 1, 7, 40, 56), (1, 3, 9, 33, 47), (1, 1, 1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_clip_becomes_features(shape):
    network = tiny(in_channels=shape[1])
    with torch.no_grad():
        features = network(torch.rand(shape))
    assert features.shape == (shape[0], network.n_features) == (shape[0], 32)
    assert features.isfinite().all() and features.std() > 0


@pytest.mark.parametrize("shape", [(1, 16, 48, 48), (1, 2, 16, 48, 48), (1, 1, 0, 48, 48)])
def test_what_is_no_clip_of_its_channels_is_refused(shape):
    given = " x ".join(map(str, shape))
    with pytest.raises(
        ValueError, match=rf"^penet was given clips of {given}; it takes N x 1 x D x H x W\.$"
    ):
        tiny()(torch.zeros(shape))


def test_the_order_of_slices_matters():
    clip = torch.rand(1, 1, 16, 48, 48)
    with torch.no_grad():
        forwards, backwards = tiny()(clip), tiny()(clip.flip(2))
    assert (forwards - backwards).abs().max() > 1e-2 * forwards.abs().max()


def test_all_tensors_learn_and_are_few():
    network = tiny().train()
    network(torch.rand(2, 1, 16, 48, 48)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert n_parameters(network) == 195_958


@pytest.mark.parametrize(("size", "begin"), [("tiny", 1), ("full", 0)])
def test_units_begin_as_their_shortcut_at_full_size_only(size, begin):
    network = penet(size, 1)
    scales = [m.widen[1].weight for m in network.modules() if isinstance(m, Residual)]
    assert scales and all((scale == begin).all() for scale in scales)
    others = [m.weight for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert sum(bool((weight == 1).all()) for weight in others) == len(others) - len(scales) * (1 - begin)


def test_weights_are_he_normal_by_fan_out():
    torch.manual_seed(0)
    stem = penet("full", 1).blocks[0][0].weight
    assert stem.std().item() == pytest.approx((2 / (64 * 7**3)) ** 0.5, rel=0.03)


def test_a_step_in_training_is_a_function_of_the_weights_alone():
    """No unit is skipped at random."""
    network, clip = tiny().train(), torch.rand(1, 1, 8, 32, 32)
    assert all(torch.equal(network(clip), network(clip)) for _ in range(5))
