"""2D networks that see a clip slice by slice: the baseline of the 3D networks.

The features of the slices are pooled over the clip, by default by their highest value (the
published 2D baseline takes the highest score of the slices), so their order cannot matter.
Tensors keep the names of torchvision, so that its weights fit; only `fc` is left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from ctlib.backbones.record import Backbone

Pooling = Literal["max", "mean"]


class SliceResNet(nn.Module):
    """A ResNet of basic blocks on each slice, then a maximum or mean over the clip.

    Args:
        in_channels: C of the clips.
        width: channels of the stem and the first stage; each stage doubles them.
        depths: blocks of the four stages.
        pooling: over the slices of a clip, feature by feature.
    """

    def __init__(self, in_channels: int, width: int, depths: tuple[int, ...], pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        n_in = width
        for i, depth in enumerate(depths):
            n_out = width * 2**i
            self.add_module(f"layer{i + 1}", _stage(n_in, n_out, depth, stride=1 if i == 0 else 2))
            n_in = n_out
        self.n_stages = len(depths)
        self.n_features = n_in
        _draw(self)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        n, c, d, h, w = clip.shape
        x = clip.transpose(1, 2).reshape(n * d, c, h, w)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(self.n_stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        x = x.mean(dim=(2, 3)).reshape(n, d, self.n_features)
        return x.amax(dim=1) if self.pooling == "max" else x.mean(dim=1)


def _stage(n_in: int, n_out: int, depth: int, stride: int) -> nn.Sequential:
    """Basic blocks, the first with the stride and, where the shape changes, a shortcut of its own."""
    shortcut = None
    if stride != 1 or n_in != n_out:
        shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
    first = BasicBlock(n_in, n_out, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(n_out, n_out) for _ in range(depth - 1)))


def _draw(network: nn.Module) -> None:
    """Random weights as torchvision draws them: He-normal by fan-out; batch norm is 1 and 0 already."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(size: str, in_channels: int, pooling: Pooling = "max") -> nn.Module:
    """ResNet-18; tiny has a fifth of its channels."""
    if size == "full":
        return SliceResNet(in_channels, width=64, depths=(2, 2, 2, 2), pooling=pooling)
    return SliceResNet(in_channels, width=12, depths=(2, 2, 2, 2), pooling=pooling)


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
    ),
)
