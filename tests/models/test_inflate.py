"""A 2D network spread over depth computes on equal slices what it computes on one."""

from dataclasses import replace
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from ctlib.core.workspace import Workspace
from ctlib.models.weights import catalog
from ctlib.models.weights.ablations import ControlError
from ctlib.models.weights.load import InitError, build_network, find

pytestmark = pytest.mark.usefixtures("one_thread")
COHORT = ((0.3,), (0.2,))
PLANE = {
    "slow_r50": torchvision.models.resnet50,
    "r3d_18": torchvision.models.resnet18,
    "swin3d_t": torchvision.models.swin_t,
}
"""The 2D networks of the same structure."""


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Files are not the published ones, and none is downloaded."""

    def refused(*_, **__):
        raise URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    monkeypatch.setenv("CTLIB_WEIGHTS", str(tmp_path / "public"))
    for key, record in catalog.PUBLIC["inflated"].items():
        monkeypatch.setitem(catalog.PUBLIC["inflated"], key, replace(record, sha256=""))
    return Workspace(tmp_path / "demo")


def plane(key):
    """A 2D network whose tensors all count: norms of their own, statistics of random pictures."""
    torch.manual_seed(5)
    net = PLANE[key]()
    if key == "r3d_18":
        net.maxpool = nn.Identity()  # R3D-18 has none
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            low, high = (0.05, 0.15) if name.endswith("bn3") else (0.5, 1)
            nn.init.uniform_(module.weight, low, high)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = None
        elif isinstance(module, torchvision.models.swin_transformer.ShiftedWindowAttention):
            nn.init.normal_(module.relative_position_bias_table)
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 64, 64))
    return net.eval()


def inflated(key, workspace, change=dict):
    """The 3D network with the weights of the 2D one, its ledger, and the 2D one."""
    net = plane(key)
    path = catalog.folder(workspace) / catalog.PUBLIC["inflated"][key].file
    path.parent.mkdir(exist_ok=True)
    torch.save(change(net.state_dict()), path)
    made, ledger = build_network(key, "full", find("inflated", key, workspace, COHORT), seed=0)
    return made.eval().backbone, ledger.set_index("tensor"), net


@torch.no_grad()
def last_map(net, picture):
    """What a ResNet gives before it is averaged, `[N, F, H, W]`."""
    net.avgpool = net.fc = nn.Identity()
    return net(picture).reshape(len(picture), -1, *[-(-n // stride_of(net)) for n in picture.shape[2:]])


def stride_of(net):
    return 16 if isinstance(net.maxpool, nn.Identity) else 32


def last_maps(backbone, clip):
    """What the last stage gives of a clip, `[N, F, D, H, W]`."""
    kept = []
    last = backbone.blocks[-1] if hasattr(backbone, "blocks") else backbone.layer4
    with torch.no_grad():
        handle = last.register_forward_hook(lambda _, __, output: kept.append(output))
        backbone(clip)
    handle.remove()
    return kept[0]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "depth"), [("slow_r50", 21), ("r3d_18", 121)])
def test_inner_slices_of_equal_ones_are_what_the_2d_network_makes_of_one(key, depth, workspace):
    """Deep enough that the middle slice does not see the padding at the ends; there, less comes out."""
    backbone, _, net = inflated(key, workspace)
    picture = torch.randn(1, 3, 32, 32)
    expected = last_map(net, picture)
    maps = last_maps(backbone, picture[:, :, None].expand(-1, -1, depth, -1, -1))
    assert expected.std() > 0.01
    torch.testing.assert_close(maps[:, :, maps.shape[2] // 2], expected, rtol=1e-4, atol=1e-4)
    end = (maps[:, :, 0] - expected).abs().max() / expected.abs().max()
    assert end > 0.01, "the ends of a clip see zeros beyond them"


@pytest.mark.slow
@pytest.mark.parametrize("key", ["slow_r50", "r3d_18"])
def test_without_ends_all_features_are_those_of_the_2d_network(key, workspace):
    backbone, _, net = inflated(key, workspace)
    for module in backbone.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            module.register_forward_pre_hook(round_trip)
            module.padding = (0, *module.padding[1:])
    picture = torch.randn(2, 3, 32, 32)
    expected = last_map(net, picture).mean(dim=(2, 3))
    with torch.no_grad():
        found = backbone(picture[:, :, None].expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def round_trip(module, given):
    """Slices before the first are the last ones, and behind the last the first ones."""
    reach = module.kernel_size[0] // 2
    return torch.cat([given[0][:, :, -reach:], given[0], given[0][:, :, :reach]], dim=2)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [16, 32])
def test_swin_of_equal_slices_is_what_the_2d_swin_makes_of_one(depth, workspace):
    """Windows of 8 cells along the slices are filled by 16 slices; by 32 they are shifted there too."""
    backbone, ledger, net = inflated("swin3d_t", workspace)
    net.head = nn.Identity()
    picture = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = net(picture)
        found = backbone(picture[:, :, None].expand(-1, -1, depth, -1, -1))
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    told = ledger[ledger["status"] == "adapted"]["why"].str.split(":").str[0]
    assert told["backbone.patch_embed.proj.weight"] == "repeated over 2 slices, half each"
    tables = told[told.index.str.endswith("bias_table")]
    assert len(tables) == 12 and set(tables) == {"repeated for 15 distances along the slices"}
    places = told[told.index.str.endswith("position_index")]
    assert set(places) == {"places in this network's windows, which are deeper than the file's"}
    assert len(told) == 25


@pytest.mark.slow
@pytest.mark.parametrize("key", ["slow_r50", "r3d_18"])
def test_the_ledger_tells_each_spread_kernel_and_how(key, workspace):
    backbone, ledger, net = inflated(key, workspace)
    held = backbone.state_dict()
    kernels = {f"backbone.{name}" for name, value in held.items() if value.ndim == 5}
    adapted = ledger[ledger["status"] == "adapted"]
    assert set(adapted.index) == kernels
    assert set(ledger["status"]) == {"adapted", "loaded", "head"}
    for name, why in adapted["why"].items():
        depth = held[name.removeprefix("backbone.")].shape[2]
        how = {1: "one slice deep: ", 3: "repeated over 3 slices, a third each: "}[depth]
        assert why.startswith(how + catalog.PUBLIC["inflated"][key].file), name
    stem = held["blocks.0.conv.weight" if key == "slow_r50" else "stem.0.weight"]
    torch.testing.assert_close(stem.sum(dim=2), net.conv1.weight.detach())
    assert len([value for value in held.values() if value.ndim]) == len(
        [v for n, v in net.state_dict().items() if v.ndim and not n.startswith("fc.")]
    )


@pytest.mark.slow
def test_a_2d_tensor_that_does_not_fit_is_refused_by_name(workspace):
    def cut(state):
        return state | {"layer3.0.conv1.weight": state["layer3.0.conv1.weight"][:, :7].clone()}

    def lose(state):
        return {name: value for name, value in state.items() if name != "layer4.2.bn2.bias"}

    name = r"backbone\.blocks\.3\.res_blocks\.0\.branch2\.conv_a\.weight \(256x7x1x1 .* for 256x512x3x1x1"
    with pytest.raises(InitError, match=name):
        inflated("slow_r50", workspace, cut)
    with pytest.raises(
        InitError, match=r"1 missing: backbone\.blocks\.4\.res_blocks\.2\.branch2\.norm_b\.bias"
    ):
        inflated("slow_r50", workspace, lose)


@pytest.mark.slow
def test_what_is_the_same_along_the_slices_has_nothing_for_some_controls(workspace):
    inflated("slow_r50", workspace)
    for control in ("flat", "reversed"):
        init = find(f"{control}:inflated", "slow_r50", workspace, COHORT)
        with pytest.raises(ControlError, match="all are the same along them"):
            build_network("slow_r50", "full", init, seed=0)
    made, _ = build_network(
        "slow_r50", "full", find("first_2:inflated", "slow_r50", workspace, COHORT), seed=0
    )
    assert made.mean.numel() == 3


@pytest.mark.parametrize(
    ("key", "why"), [("csn_r101", "a kernel of its own"), ("slowfast_r50", "lateral"), ("x3d_m", "; it has")]
)
def test_other_networks_are_refused_with_those_that_have_it(key, why, workspace):
    with pytest.raises(InitError, match=rf"no weights for {key}.*{why}.*slow_r50, r3d_18, swin3d_t\."):
        find("inflated", key, workspace, COHORT)


def test_the_tiny_network_is_refused(workspace):
    path = catalog.folder(workspace) / catalog.PUBLIC["inflated"]["slow_r50"].file
    path.parent.mkdir(exist_ok=True)
    torch.save({}, path)
    with pytest.raises(InitError, match="the weights are of the full network"):
        build_network("slow_r50", "tiny", find("inflated", "slow_r50", workspace, COHORT), seed=0)
