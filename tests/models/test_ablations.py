"""Each control does what its name says, to tensors and to features, and none touches the head."""

import re

import pytest
import torch

from ctlib.core.workspace import Workspace
from ctlib.models import registry
from ctlib.models.weights import ablations
from ctlib.models.weights.ablations import ADAPTED, ControlError, adapt, split, stage
from ctlib.models.weights.load import Init, InitError, build_network, find, save_weights

RANDOM = Init("random", "drawn from the seed", "none needed", (0.3,), (0.2,))
COHORT = ((0.3,), (0.2,))
CHANGING = [*ADAPTED, "first_1", "first_3"]
KEYS = ["slow_r50", "r2plus1d_r50", "x3d_m", "resnet18", "swin3d_t", "penet"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Weights of each network, saved as pretraining saves them."""
    space = Workspace(tmp_path_factory.mktemp("controls"))
    for key in KEYS:
        trained, _ = build_network(
            key, "tiny", Init("random", "", "", (0.45,), (0.225,)), seed=77, n_outputs=9
        )
        trained.train()(torch.rand(2, 1, 8, 32, 32))  # moves the batch-norm statistics
        save_weights(trained, space.weights("video", key), {"source": "none", "licence": "none"})
    return space


def made(workspace, name, key="slow_r50", seed=0):
    return build_network(key, "tiny", find(name, key, workspace, COHORT), seed)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- tensors ---------------------------------------------------------------------------

KERNEL = torch.arange(2 * 3 * 5 * 2 * 2, dtype=torch.float32).reshape(2, 3, 5, 2, 2) ** 2


def test_meanvar_keeps_mean_and_spread_only():
    weight = torch.randn(40, 50, generator=generator(1)) * 3 + 7
    drawn = adapt("meanvar", {"a.weight": weight}, generator())["a.weight"]
    assert drawn.mean() == pytest.approx(7, abs=0.3) and drawn.std() == pytest.approx(3, abs=0.2)
    assert torch.corrcoef(torch.stack([drawn.flatten(), weight.flatten()]))[0, 1].abs() < 0.1
    constant = adapt("meanvar", {"a.weight": torch.full((4, 4), 2.0)}, generator())["a.weight"]
    assert torch.equal(constant, torch.full((4, 4), 2.0))


def test_shuffled_keeps_the_values_and_not_their_places():
    weight = torch.randn(6, 7, generator=generator(1))
    mixed = adapt("shuffled", {"a.weight": weight}, generator())["a.weight"]
    assert torch.equal(mixed.flatten().sort()[0], weight.flatten().sort()[0]) and not torch.equal(
        mixed, weight
    )


@pytest.mark.parametrize("control", ["meanvar", "shuffled"])
def test_variances_stay_positive_and_counters_stay(control):
    tensors = {"n.running_var": torch.rand(50) * 0.01, "n.num_batches_tracked": torch.tensor(5)}
    left = adapt(control, {**tensors, "n.weight": torch.randn(50)}, generator())
    assert torch.equal(left["n.running_var"].sort()[0], tensors["n.running_var"].sort()[0])
    assert left["n.num_batches_tracked"] == 5


def test_reversed_and_flat_act_along_the_slices_only():
    turned = adapt("reversed", {"a": KERNEL}, generator())["a"]
    assert torch.equal(turned, KERNEL.flip(2)) and not torch.equal(turned, KERNEL)
    flat = adapt("flat", {"a": KERNEL}, generator())["a"]
    torch.testing.assert_close(flat, KERNEL.mean(2, keepdim=True).expand_as(KERNEL))
    for control in ("reversed", "flat"):
        with pytest.raises(ControlError, match="changes nothing"):
            adapt(control, {"a": KERNEL[:, :, :1], "b": torch.rand(3, 3, 7, 7)}, generator())


def test_first_k_keeps_whole_stages(workspace):
    names = list(made(workspace, "video")[0].state_dict())
    backbone = {name: torch.zeros(1) for name in names if name.startswith("backbone.")}
    kept = adapt("first_2", backbone, generator())
    assert {stage(name) for name in kept} == {0, 1} and {stage(name) for name in backbone} == set(range(5))
    with pytest.raises(ControlError, match="first_5 keeps all 5 stages"):
        adapt("first_5", backbone, generator())


@pytest.mark.parametrize(
    ("key", "k", "kept"),
    [
        ("efficientnet_lite0", 1, {"net.conv_stem", "net.bn1"}),
        ("efficientnet_lite0", 3, {"net.conv_stem", "net.bn1", "net.blocks.0", "net.blocks.1"}),
        ("swin3d_t", 2, {"patch_embed", "features.0", "features.1"}),
        ("mvit_b", 1, {"patch_embed", "cls_positional_encoding", "blocks.0"}),
    ],
)
def test_first_k_counts_the_stages_of_networks_with_names_of_their_own(key, k, kept):
    """What comes behind all stages, a last convolution or norm, is no part of the stem."""
    names = [f"backbone.{name}" for name in registry.build(key, "tiny").state_dict()]
    left = adapt(f"first_{k}", dict.fromkeys(names, torch.zeros(1)), generator())
    begins = {re.match(r"backbone\.((?:net\.)?\w+(?:\.\d+)?)", name)[1] for name in left}
    assert begins == kept


def test_kernels_that_a_control_would_not_change_stay_as_they_are():
    same = KERNEL[:, :, :1].expand(-1, -1, 5, -1, -1).clone()
    symmetric = KERNEL + KERNEL.flip(2)
    tensors = {"same": same, "symmetric": symmetric, "kernel": KERNEL}
    turned, flat = (adapt(control, tensors, generator()) for control in ("reversed", "flat"))
    assert turned["same"] is same and turned["symmetric"] is symmetric and turned["kernel"] is not KERNEL
    assert flat["same"] is same and flat["symmetric"] is not symmetric
    for control in ("reversed", "flat"):
        with pytest.raises(ControlError, match="or all are the same along them"):
            adapt(control, {"same": same}, generator())


@pytest.mark.parametrize("name", ["shufled:video", "first_0:video", ":video", "video:shuffled:video"])
def test_unknown_controls_are_named(name):
    with pytest.raises(ControlError, match="is no control; known are meanvar, shuffled"):
        split(name)


# ---- networks --------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("control", CHANGING)
def test_the_ledger_tells_what_became_of_each_tensor_and_the_head_is_untouched(workspace, control, key):
    if key == "resnet18" and control in ("reversed", "flat"):
        with pytest.raises(ControlError, match="changes nothing"):
            made(workspace, f"{control}:video", key)
        return
    plain, _ = made(workspace, "video", key)
    changed, ledger = made(workspace, f"{control}:video", key)
    assert torch.equal(plain.head.weight, changed.head.weight)
    before, after = plain.state_dict(), changed.state_dict()
    rows = ledger.set_index("tensor")
    changed_status = "random" if control.startswith("first") else "adapted"
    assert {"head", changed_status} <= set(rows["status"]) <= {"head", changed_status, "loaded"}
    for name, row in rows.iterrows():
        if row["status"] == "loaded":
            assert torch.equal(before[name], after[name]), name
        elif row["status"] != "head":
            assert row["why"].startswith(f"{control}: ")
    drawn = rows.index[rows["status"] == changed_status]
    weights = [n for n in drawn if before[n].ndim > 1 and before[n].is_floating_point()]  # no index tables
    assert weights and all(not torch.equal(before[name], after[name]) for name in weights)
    clip = torch.rand(1, 1, 8, 32, 32)
    with torch.no_grad():
        features = [net.eval().backbone(clip) for net in (plain, changed)]
    assert features[1].isfinite().all()
    assert (features[0] - features[1]).abs().max() > 1e-3 * features[0].abs().max()


def test_a_reversed_network_sees_clips_the_other_way_round(workspace):
    """Padding is the same at both ends, so features of a clip turned round are those of the plain network."""
    plain, turned = (made(workspace, name)[0].eval() for name in ("video", "reversed:video"))
    clip = torch.rand(2, 1, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(turned.backbone(clip.flip(2)), plain.backbone(clip), rtol=1e-4, atol=1e-5)
        assert (turned.backbone(clip) - plain.backbone(clip)).abs().max() > 1e-4


def test_a_flat_network_does_not_see_the_order_of_slices(workspace):
    net = made(workspace, "flat:video")[0].eval()
    clip = torch.rand(2, 1, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net.backbone(clip.flip(2)), net.backbone(clip), rtol=1e-4, atol=1e-5)


def test_controls_are_a_function_of_the_seed(workspace):
    one, again, other = (made(workspace, "shuffled:video", seed=seed)[0].state_dict() for seed in (0, 0, 1))
    name = "backbone.blocks.1.res_blocks.0.branch2.conv_b.weight"
    assert torch.equal(one[name], again[name]) and not torch.equal(one[name], other[name])


def test_controls_nest_from_the_inside_out(workspace):
    _, ledger = made(workspace, "flat:first_2:video")
    rows = ledger.set_index("tensor")
    assert rows.loc["backbone.blocks.3.res_blocks.0.branch2.conv_b.weight", "status"] == "random"
    assert rows.loc["backbone.blocks.0.conv.weight", "why"].startswith("first_2, then flat: ")


@pytest.mark.parametrize("name", ["frozen:video", "frozen:random", "frozen:shuffled:video"])
def test_a_frozen_backbone_is_not_trained(workspace, name):
    net, _ = made(workspace, name)
    net.train()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.rand(4, 1, 8, 32, 32)).square().mean().backward()
        optimizer.step()
    changed = {key for key, tensor in net.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {"head.weight", "head.bias"}
    assert {key for key, p in net.named_parameters() if p.requires_grad} == changed
    thawed, _ = made(workspace, "video")
    assert all(p.requires_grad for p in thawed.train().parameters()) and thawed.backbone.training


def test_random_weights_have_nothing_to_take_but_may_be_frozen(workspace):
    with pytest.raises(ControlError, match="random weights have nothing for shuffled to take"):
        find("shuffled:random", "slow_r50", workspace, COHORT)
    assert find("frozen:random", "slow_r50", workspace, COHORT).name == "frozen:random"
    with pytest.raises(
        ValueError, match=r"'vidio'; known are random, video, ct_<cohort>, .* and controls of them"
    ):
        find("shuffled:vidio", "slow_r50", workspace, COHORT)


def test_a_damaged_file_is_still_refused(workspace, monkeypatch):
    init = find("shuffled:video", "slow_r50", workspace, COHORT)
    monkeypatch.setattr("ctlib.models.weights.load._tensors", lambda path: {})
    with pytest.raises(InitError, match="missing"):
        build_network("slow_r50", "tiny", init, 0)


def test_every_control_stands_in_the_docstring():
    for name in (*ADAPTED, "first_K", ablations.FROZEN):
        assert f"`{name}`" in ablations.__doc__
