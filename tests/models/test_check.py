"""The check sees what a network does: it passes the good, and names what is wrong with the broken."""

from dataclasses import replace

import pytest
import torch
from readme_parts import README
from torch import nn

from ctlib.models.check import HEADER, Checked, check, check_all, row
from ctlib.models.cost import network_cost
from ctlib.models.registry import BACKBONES, spec

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """A 3D convolution that sees the order of slices."""

    n_features = 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm3d(4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, clip):
        return self.norm(self.conv(clip)).relu().mean(dim=(2, 3, 4)) * self.scale


def seen_of(network, **changes):
    record = replace(spec("slow_r50"), key="mine", build=lambda size, in_channels: network(), **changes)
    return check(record, "tiny")


@pytest.mark.parametrize(
    "key", ["slow_r50", "x3d_m", "s3d", "mvit_v2_s", "penet", "resnet18", "lrcn_resnet18"]
)
def test_a_good_network_passes_with_all_that_was_seen(key):
    seen = check(spec(key), "tiny")
    assert (seen.problem, seen.features_finite, seen.gradients_finite) == ("", True, True)
    assert seen.order_changes == spec(key).sees_order
    assert seen.cost == network_cost(key, "tiny", (16, 48, 48)) and seen.clip == (16, 48, 48)
    assert seen.n_features == spec(key).build("tiny", 1).n_features


def nightly(key):
    """The largest takes as long as five others, which hold both its parts."""
    return pytest.param(key, marks=pytest.mark.nightly) if key == "lrcn_resnext101" else key


@pytest.mark.slow  # 1 to 10 s each: full size
@pytest.mark.parametrize("key", [nightly(key) for key in BACKBONES])
def test_every_network_passes_at_full_size_and_costs_what_the_readme_says(key):
    """In one test, for a full-size network is built for it."""
    seen = check(spec(key), "full")
    assert seen.problem == "" and seen.order_changes == spec(key).sees_order
    assert seen.clip == spec(key).clip
    assert row(seen) in README.splitlines()


def test_what_is_behind_a_normalization_that_begins_at_0_is_seen():
    class Begins(Net):
        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.norm.weight)

    assert seen_of(Begins).problem == ""


def test_the_weights_are_those_of_seed_0_and_torchs_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    assert seen_of(Net) == seen_of(Net)
    assert torch.equal(torch.rand(2), expected)


def test_a_3d_network_that_does_not_see_order_is_noticed():
    class Blind(Net):
        def forward(self, clip):
            return super().forward(clip.mean(dim=2, keepdim=True).expand_as(clip))

    seen = seen_of(Blind)
    assert seen.problem == "Slices in reverse order do not change its features." and not seen.order_changes


def test_a_2d_network_that_sees_order_is_noticed():
    seen = seen_of(Net, dims=2, sees_order=False)
    assert seen.problem == "Slices in reverse order change its features." and seen.order_changes


def test_nobody_knows_whether_a_users_network_sees_order():
    assert seen_of(Net, sees_order=None).problem == ""


def test_features_that_are_not_finite_are_noticed():
    class Endless(Net):
        def forward(self, clip):
            return super().forward(clip) / 0

    seen = seen_of(Endless)
    assert seen.problem == "Features are not finite." and not seen.features_finite


def test_features_that_are_all_0_are_noticed():
    class Nothing(Net):
        def forward(self, clip):
            return super().forward(clip) * 0

    assert seen_of(Nothing, sees_order=False, dims=2).problem == "Features are all 0."


def test_a_gradient_that_is_not_finite_is_noticed():
    class Root(Net):
        def forward(self, clip):
            return super().forward(clip) + (self.scale - 1).abs().sqrt()

    seen = seen_of(Root)
    assert seen.features_finite and not seen.gradients_finite
    assert seen.problem == "1 gradients are missing or not finite, the first that of scale."


def test_a_parameter_without_gradient_is_noticed():
    class Spare(Net):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(2, 2)

    assert "2 gradients are missing" in seen_of(Spare).problem


def test_a_change_too_small_to_tell_is_noticed():
    class Almost(Net):
        def forward(self, clip):
            same = clip.mean(dim=2, keepdim=True).expand_as(clip)
            return super().forward(same) + 0.003 * (clip[0, 0, 0].mean() - clip[0, 0, -1].mean())

    assert seen_of(Almost).problem.startswith("Reverse order changes features by ")


def test_another_number_of_features_than_told_is_noticed():
    class MetadataAccuracy(Net):
        n_features = 5

    assert seen_of(MetadataAccuracy).problem == "It made 1 x 4 of one clip, but has n_features 5."


def test_a_network_that_raises_is_a_row_that_fails():
    class Raises(Net):
        def forward(self, clip):
            raise RuntimeError("no\nway")

    seen = seen_of(Raises)
    assert seen.problem == "It raised RuntimeError: no way" and seen.cost is None
    assert row(seen).startswith("| `mine` | tiny | whole clips (3D) | 16 x 48 x 48 | - | - | - | - | - | - |")


def test_all_networks_are_gone_through_unless_some_are_named():
    asked = check_all(["penet", "resnet18"], ["tiny"])
    assert [(seen.backbone, seen.size) for seen in asked] == [("penet", "tiny"), ("resnet18", "tiny")]
    with pytest.raises(ValueError, match="'penett'; the nearest name is 'penet'; known are"):
        check_all(["penett"], ["tiny"])


def test_the_rows_fit_the_head():
    seen = Checked(
        "a",
        "tiny",
        "slices (2D)",
        (1, 2, 3),
        network_cost("penet", "tiny", (16, 48, 48)),
        3,
        True,
        True,
        False,
    )
    assert row(seen).count("|") == HEADER.splitlines()[0].count("|") == HEADER.splitlines()[1].count("|")
    assert row(seen).endswith("| 0.196 M | 0.0347 G | 2.35 MB | finite | finite | not seen |")
