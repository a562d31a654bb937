"""SlowFast, CSN, R3D-18, S3D, both MViT and Swin are the publishers' networks, and what is theirs alone.

What holds for every network of the registry is tested in `test_backbones`.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from pytorchvideo.models.hub import csn_r101, mvit_base_32x3, slowfast_r50
from torch import nn
from torchvision.models.video import mvit_v2_s, r3d_18, s3d, swin3d_t
from torchvision.models.video.mvit import MViT

from ctlib.models.pytorchvideo import Fp32GroupedConv3d
from ctlib.models.registry import BACKBONES, build
from ctlib.models.transformers import TINY_BLOCKS, _tiny_blocks


class Published(NamedTuple):
    """The publisher's network, the names of its head, its features and their number."""

    network: Callable[[], nn.Module]
    head: str
    clip: tuple[int, int, int]
    features: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    n_features: int


def mean(cells):
    return cells.mean(dim=(2, 3, 4))


def slowfast_features(network, clip):
    """Both inputs as pytorchvideo's tutorial packs them (its `PackPathway`)."""
    n = clip.shape[2]
    pathways = [clip.index_select(2, torch.linspace(0, n - 1, n // 4).long()), clip]
    for block in list(network.blocks)[:5]:
        pathways = block(pathways)
    return torch.cat([mean(pathway) for pathway in pathways], dim=1)


def csn_features(network, clip):
    for block in list(network.blocks)[:-1]:
        clip = block(clip)
    return mean(clip)


def before(head):
    """What a network hands to its head, as its own forward computes it."""

    def features(network, clip):
        setattr(network, head, nn.Identity())
        return network(clip)

    return features


def s3d_features(network, clip):
    return mean(network.features(clip))


def mvit_features(network, clip):
    network.head = nn.Identity()
    return network(clip)[:, 0]


PUBLISHED = {
    "slowfast_r50": Published(slowfast_r50, "blocks.6.", (8, 64, 64), slowfast_features, 2048 + 256),
    "csn_r101": Published(csn_r101, "blocks.5.", (8, 64, 64), csn_features, 2048),
    "r3d_18": Published(r3d_18, "fc.", (8, 64, 64), before("fc"), 512),
    "s3d": Published(s3d, "classifier.", (8, 64, 64), s3d_features, 1024),
    "mvit_b": Published(mvit_base_32x3, "head.", (32, 224, 224), mvit_features, 768),
    "mvit_v2_s": Published(mvit_v2_s, "head.", (16, 224, 224), before("head"), 768),
    "swin3d_t": Published(swin3d_t, "head.", (8, 64, 64), before("head"), 768),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(key, in_channels=1):
    torch.manual_seed(0)
    network = build(key, "tiny", in_channels)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)  # some begin at 0, which would hide what is behind them
    return network.eval()


def without_memory(key):
    """Tensors of shapes alone; pytorchvideo's MViT computes with values while it is built."""
    return torch.device("cpu" if key == "mvit_b" else "meta")


def shapes(state, head="no head"):
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith(head)}


@pytest.mark.parametrize("key", PUBLISHED)
def test_full_size_has_the_published_tensors_without_the_head(key):
    published = PUBLISHED[key]
    with without_memory(key):
        theirs = published.network().state_dict()
        ours = build(key, "full", in_channels=3)
        one_channel = shapes(build(key, "full", in_channels=1).state_dict())
    assert any(name.startswith(published.head) for name in theirs)
    assert shapes(ours.state_dict()) == shapes(theirs, published.head)
    assert ours.n_features == published.n_features
    stems = [name for name, shape in shapes(ours.state_dict()).items() if shape != one_channel[name]]
    assert len(stems) == (2 if key == "slowfast_r50" else 1)  # a stem a pathway
    assert all(one_channel[name][1] == 1 for name in stems)


@pytest.mark.parametrize("key", PUBLISHED)
def test_tiny_tensors_have_published_names_and_are_few(key):
    network = build(key, "tiny")
    with without_memory(key):
        theirs = PUBLISHED[key].network().state_dict()
    assert network.state_dict().keys() <= theirs.keys()
    assert sum(p.numel() for p in network.parameters()) < 0.7e6


OF_ONE_SIZE = pytest.param("mvit_v2_s", marks=pytest.mark.slow)
"""The publisher's network takes clips of its full size only."""


@pytest.mark.parametrize("key", [*(k for k in PUBLISHED if k not in ("mvit_b", "mvit_v2_s")), OF_ONE_SIZE])
def test_full_size_computes_what_the_published_network_does_before_its_head(key):
    published = PUBLISHED[key]
    torch.manual_seed(0)
    theirs = published.network().eval()
    ours = build(key, "full", in_channels=3).eval()
    tensors = {k: v for k, v in theirs.state_dict().items() if not k.startswith(published.head)}
    for name, tensor in tensors.items():
        if name.endswith("norm_c.weight"):
            nn.init.ones_(tensor)  # from 0 the residual branches would not be compared
    ours.load_state_dict(tensors)
    clip = torch.rand(1, 3, *published.clip)
    with torch.no_grad():
        features = ours(clip)
        expected = published.features(theirs, clip)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_mvit_computes_what_the_published_network_of_the_clips_size_does():
    """pytorchvideo's MViT takes one size: a second one is made for the clip and given the places read."""
    torch.manual_seed(0)
    ours = build("mvit_b", "full", in_channels=3).eval()
    theirs = mvit_base_32x3(temporal_size=8, spatial_size=64).eval()
    tensors = ours.state_dict()
    places = ours.places([4, 16, 16]).detach()
    first = tensors["cls_positional_encoding.pos_embed_class"]
    cells = places[:, 1:].unflatten(1, (4, 256))
    # Places are a sum of along and plane: what is constant in one may be counted in the other.
    tensors["cls_positional_encoding.pos_embed_temporal"] = cells[:, :, 0]
    tensors["cls_positional_encoding.pos_embed_spatial"] = cells[:, 0] - cells[:, :1, 0]
    head = {name: tensor for name, tensor in theirs.state_dict().items() if name.startswith("head.")}
    theirs.load_state_dict(tensors | head)
    clip = torch.rand(1, 3, 8, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(places[:, :1], first)
        torch.testing.assert_close(ours(clip), mvit_features(theirs, clip), rtol=1e-4, atol=1e-5)


def test_mvits_places_are_the_published_ones_at_the_published_size():
    torch.manual_seed(0)
    ours = build("mvit_b", "full", in_channels=3)
    encoding = ours.cls_positional_encoding
    with torch.no_grad():
        encoding.cls_token.zero_()
        assert torch.equal(ours.places([16, 56, 56]), encoding(torch.zeros(1, 16 * 56 * 56, 96)))


def test_mvit_reads_its_places_between_those_it_learned():
    network = tiny("mvit_b")
    encoding = network.cls_positional_encoding
    along, plane = encoding.pos_embed_temporal, encoding.pos_embed_spatial
    assert (along.shape[1], plane.shape[1]) == (8, 12 * 12)
    with torch.no_grad():  # places that say where they are: d along the slices, 100 h + 1000 w in plane
        h, w = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
        along.copy_(torch.arange(8.0)[None, :, None].expand_as(along))
        plane.copy_((100 * h + 1000 * w).reshape(1, 144, 1).expand_as(plane))
        read = network.places([4, 6, 24])[0, 1:, 0].reshape(4, 6, 24)
    assert read[1, 2, 3] - read[0, 2, 3] == pytest.approx(2)
    assert read[1, 3, 3] - read[1, 2, 3] == pytest.approx(200)
    assert read[1, 2, 4] - read[1, 2, 3] == pytest.approx(500)
    assert read[0, 0, 1].item() == pytest.approx(0.5 + 50 + 250)  # the middle of the cell


def mvit2_of(clip):
    """torchvision's MViTv2 with the structure of our tiny one, of one channel, made for clips (D, H, W)."""
    torch.manual_seed(1)
    network = MViT(
        spatial_size=clip[1:],
        temporal_size=clip[0],
        block_setting=_tiny_blocks(),
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
    )
    network.conv_proj = nn.Conv3d(1, 12, (3, 7, 7), stride=(2, 4, 4), padding=(1, 3, 3))
    return network.eval()


def numbered(name, numbers):
    """The same tensor of the block of another number."""
    return re.sub(r"blocks\.(\d+)", lambda found: f"blocks.{numbers[int(found[1])]}", name)


def test_mvit2_computes_what_torchvisions_does_for_clips_of_its_size():
    theirs, ours = mvit2_of((16, 48, 48)), tiny("mvit_v2_s")
    ours.load_state_dict(
        {
            numbered(name, TINY_BLOCKS): tensor
            for name, tensor in theirs.state_dict().items()
            if not name.startswith("head.")
        }
    )
    theirs.head = nn.Identity()
    clip = torch.rand(2, 1, 16, 48, 48)
    with torch.no_grad():
        assert torch.equal(ours(clip), theirs(clip))


@pytest.mark.parametrize("shape", [(8, 64, 64), (32, 32, 32), (16, 96, 96)])
def test_mvit2_of_another_clip_is_torchvisions_network_of_that_clip_with_its_tables_read_between(shape):
    theirs, ours = mvit2_of(shape), tiny("mvit_v2_s")
    tensors = ours.state_dict()
    cells = [-(-n // stride) for n, stride in zip(shape, (2, 4, 4), strict=True)]
    theirs.pos_encoding.temporal_size, theirs.pos_encoding.spatial_size = cells[0], tuple(cells[1:])
    state = theirs.state_dict()
    place = {number: i for i, number in enumerate(TINY_BLOCKS)}
    for ours_name, tensor in tensors.items():
        name = numbered(ours_name, place)
        if "rel_pos" in name:  # [distances, channels] to as many distances as the other network has
            tensor = nn.functional.interpolate(tensor.T[None], size=len(state[name]), mode="linear")[0].T
        state[name] = tensor
    theirs.load_state_dict(state)
    theirs.head = nn.Identity()
    clip = torch.rand(1, 1, *shape)
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), theirs(clip), rtol=1e-5, atol=1e-5)


def test_mvit2_uses_the_distances_it_learned():
    network, clip = tiny("mvit_v2_s"), torch.rand(1, 1, 16, 48, 48)
    with torch.no_grad():
        before = network(clip)
        for name, tensor in network.named_parameters():
            if "rel_pos_t" in name:
                tensor.mul_(20)
        assert (network(clip) - before).abs().max() > 1e-3


@pytest.mark.parametrize("n_slices", [1, 3, 5, 16, 17, 31, 32])
def test_slowfast_takes_any_number_of_slices(n_slices):
    network = tiny("slowfast_r50")
    seen = []
    network.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    clip = torch.arange(float(n_slices))[None, None, :, None, None].expand(1, 1, n_slices, 32, 32)
    with torch.no_grad():
        assert network(clip).isfinite().all()
    slow = seen[0][0, 0, :, 0, 0].long().tolist()
    assert len(slow) == -(-n_slices // 4) and slow[0] == 0
    assert n_slices < 5 or slow[-1] == n_slices - 1
    assert seen[1].shape[2] == n_slices
    if n_slices == 32:
        assert slow == [0, 4, 8, 13, 17, 22, 26, 31]


def test_slowfast_leaves_the_clip_as_it_is():
    network, clip = tiny("slowfast_r50"), torch.rand(1, 1, 16, 32, 32)
    before = clip.clone()
    with torch.no_grad():
        torch.testing.assert_close(network(clip), network(clip))
    assert torch.equal(clip, before)


@pytest.mark.parametrize("key", [key for key in PUBLISHED if key != "s3d"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (1, 1, 2, 17, 30), (1, 1, 33, 48, 48)])
def test_the_smallest_and_odd_clips_become_features(key, shape):
    with torch.no_grad():
        assert tiny(key)(torch.rand(shape)).isfinite().all()


def test_s3d_says_what_it_needs():
    network = tiny("s3d")
    with torch.no_grad():
        assert network(torch.rand(1, 1, 5, 17, 17)).isfinite().all()
        for shape in ((4, 17, 17), (5, 16, 17), (5, 17, 16)):
            with pytest.raises(ValueError, match=r"s3d needs clips of at least \(5, 17, 17\) .* this one is"):
                network(torch.rand(1, 1, *shape))


@pytest.mark.parametrize("key", PUBLISHED)
def test_gradients_are_finite_in_training(key):
    torch.manual_seed(0)
    network = build(key, "tiny").train()
    network(torch.rand(2, 1, 16, 48, 48)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("key", PUBLISHED)
def test_grouped_convolutions_stay_in_fp32_where_the_record_says_so(key):
    grouped = [m for m in build(key, "tiny").modules() if isinstance(m, nn.Conv3d) and m.groups > 1]
    assert bool(grouped) == BACKBONES[key].fp32_grouped
    assert all(isinstance(module, Fp32GroupedConv3d) for module in grouped)


@pytest.mark.parametrize("key", ["slowfast_r50", "csn_r101"])
def test_residual_branches_count_from_the_first_step_at_tiny_size_only(key):
    def last_norms(size):
        modules = build(key, size).named_modules()
        return [module.weight for name, module in modules if name.endswith("branch2.norm_c")]

    assert last_norms("tiny") and all((weight == 1).all() for weight in last_norms("tiny"))
    assert all((weight == 0).all() for weight in last_norms("full"))
