"""Networks have the published structure, take any clip, and only the 3D ones see the order of slices."""

import pytest
import torch
from pytorchvideo.models.hub import r2plus1d_r50, slow_r50, x3d_m
from torch import nn
from torchvision.models import resnet18

from ctlib.models.check import CHANGED
from ctlib.models.pytorchvideo import Fp32GroupedConv3d
from ctlib.models.registry import BACKBONES, build, code_of, file_name, spec
from ctlib.models.slicewise import SliceResNet

KEYS = list(BACKBONES)
KEYS_3D = [key for key, entry in BACKBONES.items() if entry.dims == 3]
PUBLISHED = {"slow_r50": slow_r50, "r2plus1d_r50": r2plus1d_r50, "x3d_m": x3d_m, "resnet18": resnet18}


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(key, seed=0, in_channels=1):
    """A tiny network whose residual branches count: they begin at 0 in some, which would hide them."""
    torch.manual_seed(seed)
    network = build(key, "tiny", in_channels)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.ones_(module.weight)
    return network.eval()


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("key", PUBLISHED)
def test_full_size_has_the_published_tensors_without_the_head(key):
    with torch.device("meta"):
        published = shapes(PUBLISHED[key]().state_dict())
        ours = shapes(build(key, "full", in_channels=3).state_dict())
    head = "fc." if key == "resnet18" else "blocks.5."
    assert any(name.startswith(head) for name in published)
    assert ours == {name: shape for name, shape in published.items() if not name.startswith(head)}


@pytest.mark.parametrize("key", PUBLISHED)
def test_tiny_tensors_have_published_names_and_are_few(key):
    network = build(key, "tiny")
    with torch.device("meta"):
        published = PUBLISHED[key]().state_dict()
    assert network.state_dict().keys() <= published.keys()
    assert sum(p.numel() for p in network.parameters()) < 0.7e6


@pytest.mark.parametrize("key", ["slow_r50", "r2plus1d_r50", "x3d_m"])
def test_residual_branches_count_from_the_first_step_at_tiny_size_only(key):
    def last_norms(size):
        modules = build(key, size).named_modules()
        return [module.weight for name, module in modules if name.endswith("branch2.norm_c")]

    assert last_norms("tiny") and all((weight == 1).all() for weight in last_norms("tiny"))
    assert all((weight == 0).all() for weight in last_norms("full"))


@pytest.mark.parametrize("key", ["slow_r50", "r2plus1d_r50", "x3d_m"])
def test_full_size_computes_what_the_published_network_does_before_its_head(key):
    torch.manual_seed(0)
    published = PUBLISHED[key]().eval()
    ours = build(key, "full", in_channels=3).eval()
    ours.load_state_dict({k: v for k, v in published.state_dict().items() if not k.startswith("blocks.5.")})
    clip = torch.rand(1, 3, 4, 64, 64)
    expected = clip
    with torch.no_grad():
        for block in list(published.blocks)[:-1]:
            expected = block(expected)
        torch.testing.assert_close(ours(clip), expected.mean(dim=(2, 3, 4)), rtol=1e-4, atol=1e-5)


def test_the_2d_network_computes_what_torchvisions_does_before_its_head():
    torch.manual_seed(0)
    published = resnet18().eval()
    ours = build("resnet18", "full", in_channels=3).eval()
    ours.load_state_dict({k: v for k, v in published.state_dict().items() if not k.startswith("fc.")})
    published.fc = nn.Identity()
    clip = torch.rand(1, 3, 3, 64, 64)
    with torch.no_grad():
        expected = published(clip[0].transpose(0, 1)).amax(dim=0, keepdim=True)
        torch.testing.assert_close(ours(clip), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("shape", [(2, 1, 16, 48, 48), (1, 1, 5, 40, 56), (1, 3, 16, 64, 64)])
def test_any_clip_becomes_features(key, shape):
    network = tiny(key, in_channels=shape[1])
    with torch.no_grad():
        features = network(torch.rand(shape))
    assert features.shape == (shape[0], network.n_features)
    assert features.isfinite().all() and features.std() > 0


@pytest.mark.parametrize("key", KEYS_3D)
def test_3d_networks_see_the_order_of_slices(key):
    network, clip = tiny(key), torch.rand(1, 1, 16, 48, 48)
    with torch.no_grad():
        forwards, backwards = network(clip), network(clip.flip(2))
    assert (forwards - backwards).abs().max() > CHANGED * forwards.abs().max()


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_2d_networks_do_not(pooling):
    torch.manual_seed(0)
    network = SliceResNet(1, width=8, depths=(1, 1, 1, 1), pooling=pooling).eval()
    clip = torch.rand(2, 1, 16, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(network(clip), network(clip.flip(2)), rtol=1e-5, atol=1e-6)
        alone = torch.stack([network(clip[:, :, i : i + 1]) for i in range(16)])
        pooled = alone.amax(dim=0) if pooling == "max" else alone.mean(dim=0)
        torch.testing.assert_close(network(clip), pooled, rtol=1e-5, atol=1e-6)


UNREAD = {f"blocks.15.attn.{name}" for name in ("rel_pos_h", "rel_pos_w", "rel_pos_t", "pool_q.pool.weight")}
"""Of MViTv2, as published: its last block's cells are not read, only the class token; these act on cells."""


@pytest.mark.parametrize("key", KEYS)
def test_all_tensors_learn(key):
    torch.manual_seed(0)
    network = build(key, "tiny").train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.ones_(module.weight)
    network(torch.rand(2, 1, 16, 48, 48)).square().sum().backward()
    unread = UNREAD if key == "mvit_v2_s" else set()
    assert {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()} == unread


@pytest.mark.parametrize("key", KEYS)
def test_weights_are_a_function_of_torchs_seed(key):
    torch.manual_seed(3)
    first = build(key, "tiny").state_dict()
    torch.manual_seed(3)
    second = build(key, "tiny").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("key", KEYS)
def test_autocast_with_channels_last_stays_near_fp32(key):
    network, clip = tiny(key), torch.rand(2, 1, 16, 48, 48)
    with torch.no_grad():
        exact = network(clip)
        network.to(memory_format=spec(key).channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            fast = network(clip)
    assert (fast.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_grouped_convolutions_stay_in_fp32_and_equal_torchs():
    network = tiny("x3d_m")
    grouped = [m for m in network.modules() if isinstance(m, nn.Conv3d) and m.groups > 1]
    assert grouped and all(isinstance(m, Fp32GroupedConv3d) for m in grouped)
    for module in grouped:
        x = torch.rand(1, module.in_channels, 6, 9, 7)
        expected = nn.Conv3d.forward(module, x)
        torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            assert module(x).dtype == torch.float32
            torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", KEYS)
def test_records_are_complete(key):
    entry = BACKBONES[key]
    assert entry.key == key == file_name(key) and code_of(key) == ""
    assert all(getattr(entry, name).strip() for name in ("title", "licence", "citation"))
    assert len(entry.clip) == 3 and all(type(n) is int and n > 0 for n in entry.clip)
    assert entry.dims in (2, 3) and entry.cpu_precision in ("fp32", "bf16")
    assert all(type(each) is bool for each in (entry.cpu_channels_last, entry.fp32_grouped, entry.sees_order))
    assert entry.sees_order or entry.dims == 2
    assert entry.sees in ("whole clips (3D)", "slices (2D)", "slices in order (2D)")


def test_no_two_networks_share_a_key_or_a_title():
    assert len({entry.title for entry in BACKBONES.values()}) == len(BACKBONES)
    assert len({file_name(key).lower() for key in BACKBONES}) == len(BACKBONES)


@pytest.mark.parametrize("key", KEYS)
def test_tiny_networks_are_tiny_and_have_another_size_that_is_not(key):
    def n_parameters(size):
        return sum(parameter.numel() for parameter in build(key, size).parameters())

    with torch.device("cpu" if key == "mvit_b" else "meta"):  # MViT-B computes while it is built
        assert n_parameters("tiny") < 0.7e6 < 2e6 < n_parameters("full")


@pytest.mark.parametrize("key", [key for key, entry in BACKBONES.items() if entry.dims == 2])
def test_2d_networks_see_the_order_of_slices_as_their_record_says(key):
    network, clip = tiny(key), torch.rand(1, 1, 16, 48, 48)
    with torch.no_grad():
        forwards, backwards = network(clip), network(clip.flip(2))
    difference = float((forwards - backwards).abs().max() / forwards.abs().max())
    assert difference > CHANGED if BACKBONES[key].sees_order else difference < 1e-5


def test_unknown_keys_and_sizes_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'slow_r5'; the nearest name is 'slow_r50'; known are slow_r50"):
        build("slow_r5")
    with pytest.raises(ValueError, match=r"'small'; known are tiny, full"):
        build("slow_r50", "small")
