"""2D networks that see a clip slice by slice: the baseline of the 3D networks.

The features of the slices are pooled over the clip, by default by their highest value (the
published 2D baseline takes the highest score of the slices), so their order cannot matter.
Tensors keep the names of torchvision, so that its weights fit; only `fc` is left out.

`Slices` is what all of them share: a network of one more kind says what it makes of slices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from ctlib.models.record import Backbone

Pooling = Literal["max", "mean"]


class Slices(nn.Module, ABC):
    """A 2D network on each slice, then a maximum or mean over the clip.

    Its `n_features` is a slice's number of features, `n_stages` the number of the last stage that
    names of tensors count.

    Args:
        pooling: over the slices of a clip, feature by feature.
    """

    n_features: int
    n_stages: int

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling

    @abstractmethod
    def maps(self, slices: torch.Tensor) -> torch.Tensor:
        """Slices `[N, C, H, W]` to the last maps of features `[N, F, h, w]`."""

    def slice_features(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features of each slice `[N, D, F]`, before any pooling over the clip."""
        n, c, d, h, w = clip.shape
        slices = clip.transpose(1, 2).reshape(n * d, c, h, w)
        return self.maps(slices).mean(dim=(2, 3)).unflatten(0, (n, d))

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        x = self.slice_features(clip)
        return x.amax(dim=1) if self.pooling == "max" else x.mean(dim=1)


class SliceResNet(Slices):
    """A ResNet or ResNeXt on each slice, then a maximum or mean over the clip.

    Args:
        in_channels: C of the clips.
        width: channels of the stem and the first stage; each stage doubles them.
        depths: blocks of the four stages.
        pooling: over the slices of a clip, feature by feature.
        block: two convolutions, or a bottleneck that goes out with four times as many channels.
        groups: of the middle convolution of a bottleneck, the cardinality.
        group_width: channels of each such group for every 64 of the stage, torchvision's `width_per_group`.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        depths: tuple[int, ...],
        pooling: Pooling,
        block: type[BasicBlock | Bottleneck] = BasicBlock,
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        super().__init__(pooling)
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        n_in = width
        for i, depth in enumerate(depths):
            n_block, stride = width * 2**i, 1 if i == 0 else 2
            stage = _stage(block, n_in, n_block, depth, stride, groups=groups, base_width=group_width)
            self.add_module(f"layer{i + 1}", stage)
            n_in = n_block * block.expansion
        self.n_stages = len(depths)
        self.n_features = n_in
        _draw(self)

    def maps(self, slices: torch.Tensor) -> torch.Tensor:
        """Slices `[N, C, H, W]` to the last maps of features `[N, F, h, w]`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(slices))))
        for i in range(self.n_stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x


def _stage(
    block: type[BasicBlock | Bottleneck], n_in: int, n_block: int, depth: int, stride: int, **grouping: int
) -> nn.Sequential:
    """Blocks, the first with the stride and, where the shape changes, a shortcut of its own."""
    n_out = n_block * block.expansion
    shortcut = None
    if stride != 1 or n_in != n_out:
        shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
    first = block(n_in, n_block, stride, shortcut, **grouping)
    return nn.Sequential(first, *(block(n_out, n_block, **grouping) for _ in range(depth - 1)))


def _draw(network: nn.Module) -> None:
    """Random weights as torchvision draws them: He-normal by fan-out; batch norm is 1 and 0 already."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


RESNET18: dict[str, dict[str, Any]] = {
    "full": {"width": 64, "depths": (2, 2, 2, 2)},
    "tiny": {"width": 12, "depths": (2, 2, 2, 2)},
}
"""Structure of ResNet-18 by size; tiny has a fifth of its channels."""

RESNEXT101: dict[str, dict[str, Any]] = {
    "full": {"width": 64, "depths": (3, 4, 23, 3), "block": Bottleneck, "groups": 32, "group_width": 8},
    "tiny": {"width": 8, "depths": (1, 1, 1, 1), "block": Bottleneck, "groups": 8, "group_width": 32},
}
"""Structure of ResNeXt-101, 32 x 8d, by size.

Tiny has an eighth of the stem's channels, one block a stage, and a quarter of the groups, of half their
width: as at full size, the middle convolution has as many channels as the block gives.
"""


def resnet18(size: str, in_channels: int, pooling: Pooling = "max") -> nn.Module:
    """ResNet-18 on each slice."""
    return SliceResNet(in_channels, pooling=pooling, **RESNET18[size])


def resnext101(size: str, in_channels: int, pooling: Pooling = "max") -> nn.Module:
    """ResNeXt-101, 32 x 8d, on each slice."""
    return SliceResNet(in_channels, pooling=pooling, **RESNEXT101[size])


ENTRIES = (
    Backbone(
        key="resnet18",
        title="ResNet-18 on slices, highest",
        dims=2,
        build=resnet18,
        licence="BSD-3-Clause (torchvision)",
        citation="He et al., Deep residual learning for image recognition, CVPR 2016",
        clip=(1, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
        sees_order=False,
    ),
    Backbone(
        key="resnext101",
        title="ResNeXt-101 on slices, highest",
        dims=2,
        build=resnext101,
        licence="BSD-3-Clause (torchvision)",
        citation="Xie et al., Aggregated residual transformations for deep neural networks, CVPR 2017",
        clip=(1, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
        sees_order=False,
    ),
)
