"""Maps are where the network looked: cell by cell, network by network, and back in the stored volume."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ctlib.analysis.gradcam import ClassActivation, exam_map, has_maps, stages, stride_of
from ctlib.datasets.clips import ClipDataset, ClipSettings
from ctlib.models.network import Network
from ctlib.models.registry import BACKBONES
from ctlib.models.weights.load import Init, build_network

pytestmark = pytest.mark.usefixtures("one_thread")
DRAWN = Init("random", "drawn", "none", (0.3,), (0.3,))
SHAPE = (1, 16, 48, 48)


def made(key: str) -> Network:
    return build_network(key, "tiny", DRAWN, seed=0)[0]


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))


WITHOUT_MAPS = {"vjepa2_l", "videomae_s", "videomae_b", "timesformer_b", "lrcn_efficientnetv2_s"}
WITHOUT_MAPS |= {"mst_dinov2_s", "mst_dinov3_s", "mst_convnext_t"}


def test_networks_without_maps_are_known():
    assert {
        key for key in ("slow_r50", "segresnet_ct_fm", *WITHOUT_MAPS) if not has_maps(key)
    } == WITHOUT_MAPS


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in BACKBONES if key not in WITHOUT_MAPS])
def test_every_network_has_maps_and_a_clip_has_its_own(key, clips):
    activation = ClassActivation(made(key), SHAPE)
    maps = activation.maps(clips)
    assert maps.shape == (2, 16, 48, 48) and np.isfinite(maps).all() and maps.min() >= 0
    assert maps.max() > 0
    alone = activation.maps(clips[1:])
    np.testing.assert_allclose(alone[0], maps[1], atol=1e-5 * maps.max())


SIDES = {"swin3d_t": (160, 2), "efficientnet_lite0": (192, 2)}
KEYS = ["slow_r50", "slowfast_r50", "csn_r101", "s3d", "mvit_b", "i3_resnet152", "penet", "resnet18", *SIDES]


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_cell_is_where_its_gradient_is(key):
    """The centre of |d cell / d voxel| of random networks against what is claimed, in plane.

    The cell is the one that is claimed to lie in the middle of the clip, for what a network sees of a clip
    is more of its middle. The wrong rule of the three would be off by half a cell, 8 or 16 px.
    """
    side, cell = SIDES.get(key, (128, None))
    net, kept = made(key), {}
    activation = ClassActivation(net, (1, 8, side, side))
    rules, layer = activation.stages, net.get_submodule(activation.layer)
    layer.register_forward_hook(lambda _m, _i, output: kept.update(cells=rules.to_map(output)))
    share = torch.zeros(side, side, dtype=torch.float64)
    for seed in range(3):
        clip = torch.rand(1, 1, 8, side, side, generator=torch.Generator().manual_seed(seed))
        clip.requires_grad_(True)
        net(clip)
        cells = kept["cells"].abs().sum(dim=1)
        cell = cell or cells.shape[-1] // 2
        cells[..., cell, cell].sum().backward()
        share += clip.grad[0, 0].abs().double().sum(dim=0)
    share /= share.sum()
    places = torch.arange(side, dtype=torch.float64)
    found = [float((share.sum(dim=1 - axis) * places).sum()) for axis in (0, 1)]
    stride = stride_of(side, cells.shape[-1])
    corner = stride * cell
    expected = {"swin3d_t": corner + (stride - 1) / 2, "efficientnet_lite0": corner + stride - 1}
    claimed = expected.get(key, corner)
    assert rules.plane(side, cells.shape[-1])[cell] == claimed
    others = {corner, corner + (stride - 1) / 2, corner + stride - 1}
    if rules.is_turned:
        found = [side - 1 - value for value in found]
    for value in found:
        assert min(others, key=lambda other: abs(other - value)) == claimed


class _Bright(nn.Module):
    """A network whose features are its voxels, in blocks as pytorchvideo's."""

    n_features = 1

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv3d(1, 1, 1)])
        nn.init.ones_(self.blocks[0].weight)
        nn.init.zeros_(self.blocks[0].bias)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](clip).mean(dim=(2, 3, 4))


@pytest.fixture
def bright(monkeypatch) -> Network:
    from ctlib.analysis import gradcam

    monkeypatch.setattr(gradcam, "Trunk", _Bright)
    net = Network(_Bright(), 1, (0.0,), (1.0,))
    nn.init.ones_(net.head.weight)
    return net


class _Store:
    """One volume of air with a bright voxel in a place of its own."""

    def __init__(self, shape, bright) -> None:
        self.hu = np.full(shape, -1024, np.int16)
        self.hu[bright] = 400

    def read(self, series_uid, start=0, stop=None):
        return self.hu[start:stop]

    def record(self, series_uid):
        return {"shape": list(self.hu.shape)}


@pytest.mark.parametrize(("matrix_px", "crop_px"), [(20, 16), (13, 16), (16, 16)])
def test_a_map_lies_in_the_stored_volume_where_the_voxel_is(bright, matrix_px, crop_px):
    """Ten slices in clips of four: the last clip is short, the crop smaller or larger than the slice."""
    place = (9, 5, 8)
    store = _Store((10, matrix_px, matrix_px), place)
    table = pd.DataFrame({"series_uid": "s", "clip": range(3), "start": [0, 4, 8], "stop": [4, 8, 10]})
    clips = ClipDataset(store, table.assign(label=0), ClipSettings(4, crop_px, "pe"), train=False)
    found = exam_map(ClassActivation(bright, (1, 4, crop_px, crop_px)), clips, 10, matrix_px, batch_size=2)
    assert np.unravel_index(np.nanargmax(found), found.shape) == place
    assert np.nansum(found > 0) == 1
    assert np.isnan(found).sum() == 10 * (matrix_px**2 - min(matrix_px, crop_px) ** 2)


def test_a_map_is_of_the_logit_of_disease(bright):
    clip = torch.rand(1, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    activation = ClassActivation(bright, clip.shape[1:])
    np.testing.assert_allclose(activation.maps(clip)[0] * clip.numel(), clip[0, 0], rtol=1e-5)
    with torch.no_grad():
        bright.head.weight.neg_()
    assert activation.maps(clip).max() == 0  # bright now speaks against disease


def test_a_frozen_network_has_maps_too(clips):
    net = made("slow_r50")
    net.is_frozen = True
    assert ClassActivation(net, SHAPE).maps(clips).max() > 0


def test_maps_are_computed_where_training_computes(monkeypatch):
    activation = ClassActivation(made("slow_r50"), SHAPE, torch.device("meta"))
    assert {tensor.device.type for tensor in activation.network.state_dict().values()} == {"meta"}
    asked = []
    monkeypatch.setattr(
        activation, "_cam", lambda clips, class_idx: asked.append(clips) or torch.zeros(clips.shape)
    )
    activation.maps(torch.zeros(1, *SHAPE))
    assert asked[0].device.type == "meta"


def test_what_cannot_be_placed_is_refused(bright):
    store = _Store((8, 16, 16), (0, 0, 0))
    table = pd.DataFrame({"series_uid": ["s", "t"], "clip": 0, "start": 0, "stop": 4, "label": 0})
    activation = ClassActivation(bright, (1, 4, 16, 16))
    with pytest.raises(ValueError, match="takes the clips of one series"):
        exam_map(activation, ClipDataset(store, table, ClipSettings(4, 16, "pe"), train=False), 8, 16)
    shuffled = ClipSettings(4, 16, "pe", shuffle_seed=0)
    with pytest.raises(ValueError, match="slices in a random order have no place"):
        exam_map(activation, ClipDataset(store, table[:1], shuffled, train=False), 8, 16)


def test_a_network_of_the_users_own_is_named():
    with pytest.raises(ValueError, match="nothing is known of the stages of a _Bright"):
        stages(_Bright())
