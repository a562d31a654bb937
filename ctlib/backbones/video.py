"""The 3D networks of pytorchvideo, without their heads.

Full size: the builders with the settings of pytorchvideo's model zoo (`models/hub`, 0.1.5),
the input channels aside. The last block, the head, is dropped, for its pooling kernel is
fixed to one clip size; all other tensors keep the names of the zoo (`blocks.0...`), so that
public weights fit.

Tiny size: the same builders with fewer channels, and of each stage only the first blocks, so
the names are those of the zoo too, and strides, kernels and stages are the published ones.

Random weights (pytorchvideo's `init_net_weights`): convolutions He-normal by fan-out, biases 0,
batch norm 1 and 0, but 0 and 0 for the last one of a residual block, which so begins as its shortcut.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

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
        depths: residual blocks to keep of each stage, the first ones; None keeps all.
    """

    def __init__(self, net: nn.Module, depths: Sequence[int] | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(list(net.blocks)[:-1])
        for stage, depth in zip(list(self.blocks)[1:], depths or (), strict=bool(depths)):
            del stage.res_blocks[depth:]
        last = self.blocks[-1].res_blocks[-1].branch2.norm_c
        self.n_features: int = last.num_features

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        for block in self.blocks:
            clip = block(clip)
        return clip.mean(dim=(2, 3, 4))


class Fp32GroupedConv3d(nn.Conv3d):
    """A grouped convolution that stays in fp32 under autocast on a CPU.

    Depthwise convolutions in bf16 fall back to a slow kernel there; on a GPU autocast decides.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As `Conv3d.forward`; the result is fp32 on a CPU."""
        if input.device.type != "cpu":
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


def keep_grouped_fp32(network: nn.Module) -> nn.Module:
    """Turn each grouped convolution into `Fp32GroupedConv3d`, in place: same tensors, same names."""
    for module in network.modules():
        if type(module) is nn.Conv3d and module.groups > 1:
            module.__class__ = Fp32GroupedConv3d
    return network


def slow_r50(size: str, in_channels: int) -> nn.Module:
    """Slow: temporal kernels only in the last two stages, no temporal stride."""
    if size == "full":
        return Trunk(create_resnet(input_channel=in_channels, stem_conv_kernel_size=(1, 7, 7)))
    net = create_resnet(input_channel=in_channels, stem_conv_kernel_size=(1, 7, 7), stem_dim_out=8)
    return Trunk(net, depths=(1, 1, 2, 1))


def r2plus1d_r50(size: str, in_channels: int) -> nn.Module:
    """R(2+1)D: each 3 x 3 x 3 kernel split in plane and along the clip; temporal stride 4."""
    if size == "full":
        return Trunk(create_r2plus1d(input_channel=in_channels))
    return Trunk(create_r2plus1d(input_channel=in_channels, stem_dim_out=8), depths=(1, 1, 2, 1))


def x3d_m(size: str, in_channels: int) -> nn.Module:
    """X3D-M: depthwise 3 x 3 x 3 kernels, squeeze and excitation, no temporal stride.

    pytorchvideo's Swish is torch's SiLU, without tensors of its own; the latter is faster.
    """
    settings = {"input_channel": in_channels, "input_clip_length": 16, "inner_act": nn.SiLU}
    if size == "full":
        return keep_grouped_fp32(Trunk(create_x3d(input_crop_size=224, **settings)))
    net = create_x3d(input_crop_size=48, stem_dim_in=8, depth_factor=1.0, **settings)
    return keep_grouped_fp32(Trunk(net, depths=(1, 2, 3, 2)))
