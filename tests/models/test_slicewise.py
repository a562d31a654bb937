"""2D networks have torchvision's tensors; pooled slices have no order, and slices read by a GRU have."""

import hashlib

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import Bottleneck

from ctlib.models.lrcn import Lrcn, lrcn_resnet18, lrcn_resnext101, with_differences
from ctlib.models.slicewise import SliceResNet, resnet18, resnext101

PUBLISHED = {resnet18: models.resnet18, resnext101: models.resnext101_32x8d}
RECURRENT = {lrcn_resnet18: models.resnet18, lrcn_resnext101: models.resnext101_32x8d}
BUILDERS = [*PUBLISHED, *RECURRENT]
GRU = "layer5."


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(builder, seed=0, in_channels=1, **settings):
    torch.manual_seed(seed)
    return builder("tiny", in_channels, **settings).eval()


def shapes(network, without):
    state = network.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith(without)}


@pytest.mark.parametrize("builder", BUILDERS)
def test_full_size_has_torchvisions_tensors_without_the_head(builder):
    with torch.device("meta"):
        published = shapes({**PUBLISHED, **RECURRENT}[builder](), without="fc.")
        ours = builder("full", 3)
    assert shapes(ours, without=GRU) == published
    assert bool(shapes(ours, without=tuple(published))) == (builder in RECURRENT)


@pytest.mark.parametrize("builder", BUILDERS)
def test_tiny_tensors_have_torchvisions_names_and_are_few(builder):
    network = tiny(builder)
    with torch.device("meta"):
        published = {**PUBLISHED, **RECURRENT}[builder]().state_dict()
    assert shapes(network, without=GRU).keys() <= published.keys()
    assert sum(p.numel() for p in network.parameters()) < 0.7e6


@pytest.mark.parametrize(
    ("builder", "n_parameters", "n_features"),
    [(resnet18, 11_176_512, 512), (resnext101, 86_742_336, 2048)],
)
def test_parameters_at_full_size(builder, n_parameters, n_features):
    with torch.device("meta"):
        network = builder("full", 3)
    assert (sum(p.numel() for p in network.parameters()), network.n_features) == (n_parameters, n_features)


def test_the_middle_of_a_bottleneck_has_groups_and_as_many_channels_as_go_out():
    for size, groups in (("full", 32), ("tiny", 8)):
        with torch.device("meta"):
            network = resnext101(size, 1)
        blocks = [m for m in network.modules() if isinstance(m, Bottleneck)]
        assert len(blocks) == (33 if size == "full" else 4)
        assert {block.conv2.groups for block in blocks} == {groups}
        assert all(block.conv2.out_channels == block.conv3.out_channels for block in blocks)


def test_resnext_computes_what_torchvisions_does_before_its_head():
    settings = {"block": Bottleneck, "groups": 4, "group_width": 8}
    torch.manual_seed(0)
    published = models.ResNet(Bottleneck, [1, 2, 1, 1], groups=4, width_per_group=8).eval()
    ours = SliceResNet(3, width=64, depths=(1, 2, 1, 1), pooling="mean", **settings).eval()
    ours.load_state_dict({k: v for k, v in published.state_dict().items() if not k.startswith("fc.")})
    published.fc = nn.Identity()
    clip = torch.rand(2, 3, 3, 48, 48)
    with torch.no_grad():
        expected = torch.stack([published(one.transpose(0, 1)) for one in clip])
        torch.testing.assert_close(ours.slice_features(clip), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours(clip), expected.mean(dim=1), rtol=1e-4, atol=1e-5)


def test_resnet18_draws_the_weights_it_always_drew():
    """Of a state dict before ResNeXt came: runs that are stored stay repeatable."""
    state = tiny(resnet18, seed=5).state_dict()
    assert sum(float(t.double().sum()) for t in state.values()) == pytest.approx(1853.9678719211722, abs=1e-6)
    assert state["conv1.weight"].flatten()[0].item() == pytest.approx(-0.06020418927, abs=1e-9)


SHAPES = [(2, 1, 16, 48, 48), (1, 1, 24, 64, 64), (1, 1, 7, 40, 56), (1, 3, 9, 33, 47), (1, 1, 1, 32, 32)]


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_clip_becomes_features(builder, shape):
    network = tiny(builder, in_channels=shape[1])
    with torch.no_grad():
        features = network(torch.rand(shape))
    assert features.shape == (shape[0], network.n_features)
    assert features.isfinite().all() and features.std() > 0


@pytest.mark.parametrize("builder", PUBLISHED)
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_pooled_slices_have_no_order(builder, pooling):
    network, clip = tiny(builder, pooling=pooling), torch.rand(2, 1, 16, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(network(clip), network(clip.flip(2)), rtol=1e-5, atol=1e-6)
        other = tiny(builder, pooling="mean" if pooling == "max" else "max")
        assert (network(clip) - other(clip)).abs().max() > 1e-2 * network(clip).abs().max()


def test_the_highest_is_what_is_pooled_unless_asked():
    clip = torch.rand(1, 1, 5, 48, 48)
    with torch.no_grad():
        for builder in PUBLISHED:
            assert torch.equal(tiny(builder)(clip), tiny(builder).slice_features(clip).amax(dim=1))


# ---- LRCN ------------------------------------------------------------------------------


@pytest.mark.parametrize("builder", RECURRENT)
def test_slices_that_are_read_have_an_order(builder):
    network, clip = tiny(builder), torch.rand(1, 1, 16, 48, 48)
    mixed = clip[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(1))]
    with torch.no_grad():
        expected = network(clip)
        for other in (clip.flip(2), mixed):
            assert (network(other) - expected).abs().max() > 1e-2 * expected.abs().max()


def test_the_2d_part_still_sees_slices_one_by_one():
    network, clip = tiny(lrcn_resnet18), torch.rand(2, 1, 6, 48, 48)
    with torch.no_grad():
        alone = [network.slice_features(clip[:, :, i : i + 1]) for i in range(6)]
        torch.testing.assert_close(network.slice_features(clip), torch.cat(alone, 1), rtol=1e-5, atol=1e-6)


def test_exams_of_a_batch_do_not_see_each_other():
    """The GRU reads along the slices, not along the batch."""
    network, clip = tiny(lrcn_resnet18), torch.rand(3, 1, 5, 48, 48)
    with torch.no_grad():
        alone = torch.cat([network(clip[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(network(clip), alone, rtol=1e-4, atol=1e-6)


def test_differences_are_to_both_neighbours_and_0_at_the_ends():
    features = torch.tensor([[[1.0, 10.0], [4.0, 20.0], [6.0, 50.0]]])
    expected = [[1, 10, 0, 0, -3, -10], [4, 20, 3, 10, -2, -30], [6, 50, 2, 30, 0, 0]]
    assert with_differences(features).tolist() == [expected]
    assert with_differences(features[:, :1]).tolist() == [[[1, 10, 0, 0, 0, 0]]]


def test_the_gru_reads_in_both_directions_and_its_outputs_are_averaged():
    network, clip = tiny(lrcn_resnet18), torch.rand(2, 1, 4, 48, 48)
    with torch.no_grad():
        read = with_differences(network.slice_features(clip))
        outputs = network.layer5(read)[0]
        torch.testing.assert_close(network(clip), outputs.mean(dim=1))
        backwards = nn.GRU(read.shape[2], 32, batch_first=True)
        state = network.layer5.state_dict()
        backwards.load_state_dict({name: state[f"{name}_reverse"] for name in backwards.state_dict()})
        torch.testing.assert_close(outputs[:, :, 32:], backwards(read.flip(1))[0].flip(1))


def test_full_size_has_256_units_a_direction_and_three_times_the_features():
    for builder, n in ((lrcn_resnet18, 512), (lrcn_resnext101, 2048)):
        with torch.device("meta"):
            network = builder("full", 1)
        assert isinstance(network, Lrcn)
        assert (network.layer5.input_size, network.layer5.hidden_size) == (3 * n, 256)
        assert network.layer5.bidirectional and network.n_features == 512


@pytest.mark.parametrize("builder", BUILDERS)
def test_all_tensors_learn(builder):
    network = tiny(builder).train()
    network(torch.rand(2, 1, 16, 48, 48)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("builder", RECURRENT)
def test_a_finetuned_2d_network_is_taken_over_whole(builder):
    """Every tensor of the slices network has its place, and only the GRU is left."""
    plain = resnet18 if builder is lrcn_resnet18 else resnext101
    source, network = tiny(plain, seed=1), tiny(builder, seed=2)
    missing, unexpected = network.load_state_dict(source.state_dict(), strict=False)
    assert not unexpected and missing and all(name.startswith(GRU) for name in missing)
    clip = torch.rand(1, 1, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(network.slice_features(clip), source.slice_features(clip))


@pytest.mark.parametrize("builder", BUILDERS)
def test_weights_are_a_function_of_torchs_seed(builder):
    def digest(seed):
        values = [t.numpy().tobytes() for t in tiny(builder, seed=seed).state_dict().values()]
        return hashlib.sha256(b"".join(values)).hexdigest()

    assert digest(3) == digest(3) != digest(4)
