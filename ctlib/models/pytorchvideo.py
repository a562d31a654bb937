"""The 3D networks of pytorchvideo, without their heads.

Full size: the builders with the settings of pytorchvideo's model zoo (`models/hub`, 0.1.5),
the input channels aside. The last block, the head, is dropped, for its pooling kernel is
fixed to one clip size; all other tensors keep the names of the zoo (`blocks.0...`), so that
public weights fit.

Tiny size: the same builders with fewer channels, and of each stage only the first blocks, so
names, strides and stages are those of the zoo. Two things differ, for a network of this size
learns no motion in some hundred steps without them (300 steps of 16 clips of nine motions, share
right on held-out clips, chance 0.11):

- Slow's stem sees five slices, not one: its first temporal kernels otherwise meet cells of 8 of 48 px,
  wider than what an object moves from slice to slice (0.16 without, 0.52 with).
- The last batch norm of a residual block begins at 1, not 0 (R(2+1)D: 0.24 from 0 in 400 steps,
  0.44 from 1 in 300).

Random weights (pytorchvideo's `init_net_weights`): convolutions He-normal by fan-out, biases 0,
batch norm 1 and 0; at full size the last batch norm of a residual block has 0 and 0, so that the
block begins as its shortcut.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ctlib.models.record import Backbone

with warnings.catch_warnings():
    # pytorchvideo 0.1.5 scripts a function at import that we never call; torch warns about it.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from pytorchvideo.models.r2plus1d import create_r2plus1d
    from pytorchvideo.models.resnet import create_resnet
    from pytorchvideo.models.x3d import create_x3d


class Trunk(nn.Module):
    """All blocks of a pytorchvideo network but its head, then the mean over the clip.

    Args:
        net: a network of pytorchvideo's builders; its blocks are taken over.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        blocks = list(net.blocks)[:-1]
        self.blocks = nn.ModuleList(blocks)
        self.n_features: int = blocks[-1].res_blocks[-1].branch2.norm_c.num_features

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        for block in self.blocks:
            clip = block(clip)
        return clip.mean(dim=(2, 3, 4))


def shrink(net: Any, depths: Sequence[int]) -> Any:
    """Keep the first blocks of each stage, and let every residual branch count from the first step."""
    for stage, depth in zip(list(net.blocks)[1:-1], depths, strict=True):
        del stage.res_blocks[depth:]
        for block in stage.res_blocks:
            nn.init.ones_(block.branch2.norm_c.weight)
    return net


class Fp32GroupedConv3d(nn.Conv3d):
    """A depthwise convolution that stays in fp32 under autocast on a CPU; on a GPU autocast decides.

    In bf16 a CPU has only slow kernels for it. A kernel along the slices alone, as in the stem, is
    computed as a 2D convolution of [D, H * W]: the same sums, for which there are fast kernels.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As `Conv3d.forward`; the result is fp32 on a CPU."""
        if input.device.type != "cpu":
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            clip = input.float()
            if self.kernel_size[1:] != (1, 1) or self.stride != (1, 1, 1):
                return super().forward(clip)
            padding = (int(self.padding[0]), 0)
            flat = functional.conv2d(
                clip.flatten(3), self.weight.squeeze(4), self.bias, padding=padding, groups=self.groups
            )
            return flat.unflatten(3, clip.shape[3:])


def keep_grouped_fp32(network: nn.Module) -> nn.Module:
    """Turn each grouped convolution into `Fp32GroupedConv3d`, in place: same tensors, same names."""
    for module in network.modules():
        if type(module) is nn.Conv3d and module.groups > 1:
            module.__class__ = Fp32GroupedConv3d
    return network


def slow_r50(size: str, in_channels: int) -> nn.Module:
    """Slow: temporal kernels only in the last two stages (and, tiny, in the stem), no temporal stride."""
    if size == "full":
        return Trunk(create_resnet(input_channel=in_channels, stem_conv_kernel_size=(1, 7, 7)))
    net = create_resnet(input_channel=in_channels, stem_conv_kernel_size=(5, 7, 7), stem_dim_out=8)
    return Trunk(shrink(net, depths=(1, 1, 1, 1)))


def r2plus1d_r50(size: str, in_channels: int) -> nn.Module:
    """R(2+1)D: each 3 x 3 x 3 kernel split in plane and along the slices; temporal stride 4."""
    if size == "full":
        return Trunk(create_r2plus1d(input_channel=in_channels))
    return Trunk(shrink(create_r2plus1d(input_channel=in_channels, stem_dim_out=8), depths=(1, 1, 1, 1)))


def x3d_m(size: str, in_channels: int) -> nn.Module:
    """X3D-M: depthwise 3 x 3 x 3 kernels, squeeze and excitation, no temporal stride.

    torch's SiLU takes the place of pytorchvideo's Swish: the same function, without tensors, faster.
    """
    settings = {"input_channel": in_channels, "input_clip_length": 16, "inner_act": nn.SiLU}
    if size == "full":
        return keep_grouped_fp32(Trunk(create_x3d(input_crop_size=224, **settings)))
    net = create_x3d(input_crop_size=48, stem_dim_in=8, width_factor=1.0, depth_factor=1.0, **settings)
    return keep_grouped_fp32(Trunk(shrink(net, depths=(1, 1, 2, 1))))


ENTRIES = (
    Backbone(
        key="slow_r50",
        title="Slow, ResNet-50",
        dims=3,
        build=slow_r50,
        licence="Apache-2.0 (pytorchvideo)",
        citation="Feichtenhofer et al., SlowFast networks for video recognition, ICCV 2019",
        clip=(8, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
    ),
    Backbone(
        key="r2plus1d_r50",
        title="R(2+1)D, ResNet-50",
        dims=3,
        build=r2plus1d_r50,
        licence="Apache-2.0 (pytorchvideo)",
        citation="Tran et al., A closer look at spatiotemporal convolutions, CVPR 2018",
        clip=(16, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
    ),
    Backbone(
        key="x3d_m",
        title="X3D-M",
        dims=3,
        build=x3d_m,
        licence="Apache-2.0 (pytorchvideo)",
        citation="Feichtenhofer, X3D: expanding architectures for efficient video recognition, CVPR 2020",
        clip=(16, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
        fp32_grouped=True,
    ),
)
