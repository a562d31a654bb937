"""More 3D convolutional networks, without their heads: SlowFast and CSN, R3D-18, MC3-18, R(2+1)D-18 and S3D.

Full size: pytorchvideo's builders with the settings of its model zoo (0.1.5) and torchvision's layers,
the input channels aside. All tensors keep the publishers' names, so that public weights fit; features
are means over the clip, which is what the publishers' heads see at the clip size they were made for.

Tiny size: fewer channels, and of each stage the first blocks, as in `ctlib.models.pytorchvideo`; there
too, the last batch norm of a residual block begins at 1. S3D keeps all its blocks, and its batch norms
follow the clips a hundred times faster (momentum 0.1): in some hundred steps they would not arrive.

Random weights. SlowFast and CSN: pytorchvideo's `init_net_weights`, as in `ctlib.models.pytorchvideo`.
R3D-18, MC3-18, R(2+1)D-18: convolutions He-normal by fan-out, batch norm 1 and 0. S3D: torch's own, convolutions
uniform within 1 / sqrt(fan-in), batch norm 1 and 0.

Their late layers see fewer slices than a kernel has; there torch's bf16 on a CPU is wrong, and
`ctlib.training.device` keeps fp32.

Any clip of at least one voxel will do, but S3D needs 5 slices of 17 x 17.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.models.video.resnet import (
    BasicBlock,
    Conv2Plus1D,
    Conv3DNoTemporal,
    Conv3DSimple,
    R2Plus1dStem,
)
from torchvision.models.video.s3d import SepInceptionBlock3D, TemporalSeparableConv
from torchvision.ops.misc import Conv3dNormActivation

from ctlib.models.pytorchvideo import Trunk, keep_grouped_fp32, shrink
from ctlib.models.record import Backbone

with warnings.catch_warnings():
    # As in `ctlib.models.pytorchvideo`.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from pytorchvideo.models.csn import create_csn
    from pytorchvideo.models.slowfast import create_slowfast

ALPHA = 4
"""Slices of the fast pathway for one of the slow (pytorchvideo's zoo and its tutorial)."""


class SlowFast(nn.Module):
    """Both pathways of a SlowFast network, then their means over the clip, side by side.

    The fast pathway sees all D slices, the slow one ceil(D / 4), evenly spread from the first to the
    last. For a D that 4 divides these are the slices of pytorchvideo's transform; for any other D its
    number, D // 4, would not meet the fast pathway's where the two are joined.

    Args:
        net: a network of pytorchvideo's `create_slowfast`; its blocks are taken over.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        blocks = list(net.blocks)[:5]
        self.blocks = nn.ModuleList(blocks)
        pathways = blocks[-1].multipathway_blocks
        self.n_features: int = sum(p.res_blocks[-1].branch2.norm_c.num_features for p in pathways)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        n_slices = clip.shape[2]
        seen = torch.linspace(0, n_slices - 1, -(-n_slices // ALPHA), device=clip.device).long()
        pathways = [clip.index_select(2, seen), clip]  # a new list each time: the blocks write into it
        for block in self.blocks:
            pathways = block(pathways)
        return torch.cat([pathway.mean(dim=(2, 3, 4)) for pathway in pathways], dim=1)


def slowfast_r50(size: str, in_channels: int) -> nn.Module:
    """SlowFast: few slices in many channels, all slices in few; the second informs the first.

    Tiny, the fast pathway has half the slow one's channels, not an eighth, which would be one.
    """
    channels = (in_channels, in_channels)
    if size == "full":
        return SlowFast(create_slowfast(input_channels=channels))
    net = create_slowfast(
        input_channels=channels, stem_dim_outs=(8, 4), slowfast_channel_reduction_ratio=(2,)
    )
    for stage in list(net.blocks)[1:5]:
        for pathway in stage.multipathway_blocks:
            del pathway.res_blocks[1:]
            nn.init.ones_(pathway.res_blocks[0].branch2.norm_c.weight)
    return SlowFast(net)


def csn_r101(size: str, in_channels: int) -> nn.Module:
    """CSN: each channel has a 3 x 3 x 3 kernel of its own, 1 x 1 x 1 kernels mix them; temporal stride 8."""
    settings = {"input_channel": in_channels, "model_depth": 101, "stem_pool": nn.MaxPool3d}
    if size == "full":
        return keep_grouped_fp32(Trunk(create_csn(**settings)))
    net = create_csn(stem_dim_out=8, **settings | {"model_depth": 50})
    return keep_grouped_fp32(Trunk(shrink(net, depths=(1, 1, 1, 1))))


class R3D(nn.Module):
    """A ResNet of 3 x 3 x 3 kernels, basic blocks; temporal stride 8.

    Args:
        in_channels: C of the clips.
        width: channels of the stem and the first stage; each stage doubles them.
        depths: blocks of the four stages.
        kernels: torchvision's convolution of each stage; 3 x 3 x 3 where none is given.
        stem: torchvision's, of 3 channels in and 64 out at full size; none is 3 x 7 x 7.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        depths: tuple[int, ...],
        kernels: Sequence[Any] = (Conv3DSimple,) * 4,
        stem: nn.Sequential | None = None,
    ) -> None:
        super().__init__()
        if stem is None:
            conv = nn.Conv3d(in_channels, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
            stem = nn.Sequential(conv, nn.BatchNorm3d(width), nn.ReLU(inplace=True))
        self.stem = stem
        n_in = width
        for i, depth in enumerate(depths):
            n_out = width * 2**i
            self.add_module(f"layer{i + 1}", _stage(n_in, n_out, depth, 1 if i == 0 else 2, kernels[i]))
            n_in = n_out
        self.n_stages = len(depths)
        self.n_features = n_in
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        clip = self.stem(clip)
        for i in range(self.n_stages):
            clip = self.get_submodule(f"layer{i + 1}")(clip)
        return clip.mean(dim=(2, 3, 4))


def _stage(n_in: int, n_out: int, depth: int, stride: int, kernel: Any) -> nn.Sequential:
    """Basic blocks, the first with the stride and, where the shape changes, a shortcut of its own."""
    shortcut = None
    if stride != 1 or n_in != n_out:
        steps = kernel.get_downsample_stride(stride)
        shortcut = nn.Sequential(nn.Conv3d(n_in, n_out, 1, steps, bias=False), nn.BatchNorm3d(n_out))
    first = BasicBlock(n_in, n_out, kernel, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(n_out, n_out, kernel) for _ in range(depth - 1)))


def r3d_18(size: str, in_channels: int) -> nn.Module:
    """R3D-18; tiny has an eighth of its channels and half of its blocks."""
    if size == "full":
        return R3D(in_channels, width=64, depths=(2, 2, 2, 2))
    return R3D(in_channels, width=8, depths=(1, 1, 1, 1))


def mc3_18(size: str, in_channels: int) -> nn.Module:
    """MC3-18: R3D-18 with 3 x 3 x 3 kernels in the stem and the first stage alone; no temporal stride."""
    kernels = (Conv3DSimple, Conv3DNoTemporal, Conv3DNoTemporal, Conv3DNoTemporal)
    width, depth = (64, 2) if size == "full" else (8, 1)
    return R3D(in_channels, width, (depth,) * 4, kernels)


def r2plus1d_18(size: str, in_channels: int) -> nn.Module:
    """R(2+1)D-18: each 3 x 3 x 3 kernel of R3D-18 split in plane and along the slices."""
    width, depth, between = (64, 2, 45) if size == "full" else (8, 1, 6)
    stem = R2Plus1dStem()
    stem[0] = nn.Conv3d(in_channels, between, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
    if size != "full":
        stem[1], stem[4] = nn.BatchNorm3d(between), nn.BatchNorm3d(width)
        stem[3] = nn.Conv3d(between, width, (3, 1, 1), padding=(1, 0, 0), bias=False)
    return R3D(in_channels, width, (depth,) * 4, (Conv2Plus1D,) * 4, stem)


S3D_BLOCKS = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
"""Channels of the inception blocks' branches, as torchvision's `S3D` and `SepInceptionBlock3D` have them."""
S3D_SMALLEST = (5, 17, 17)
"""Smallest (D, H, W): the last pooling, of two cells and without padding, comes at 4 slices and 16 px."""


class S3D(nn.Module):
    """Inception blocks whose 3 x 3 x 3 kernels are split in plane and along the slices; temporal stride 8.

    Args:
        in_channels: C of the clips.
        divisor: of all numbers of channels.
        momentum: of the batch norms.
    """

    def __init__(self, in_channels: int, divisor: int, momentum: float) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm3d, eps=0.001, momentum=momentum)
        stem = [64 // divisor, 192 // divisor]
        layers: list[nn.Module] = [
            TemporalSeparableConv(in_channels, stem[0], 7, 2, 3, norm),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            Conv3dNormActivation(stem[0], stem[0], kernel_size=1, norm_layer=norm),
            TemporalSeparableConv(stem[0], stem[1], 3, 1, 1, norm),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ]
        n_in = stem[1]
        for i, published in enumerate(S3D_BLOCKS):
            if i == 2:
                layers.append(nn.MaxPool3d(3, 2, 1))
            if i == 7:
                layers.append(nn.MaxPool3d(2, 2))
            channels = [n // divisor for n in published]
            layers.append(SepInceptionBlock3D(n_in, *channels, norm))
            n_in = channels[0] + channels[2] + channels[4] + channels[5]
        self.features = nn.Sequential(*layers)
        self.n_features = n_in

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`.

        Raises:
            ValueError: the clip is smaller than `S3D_SMALLEST`.
        """
        size = tuple(clip.shape[2:])
        if any(n < least for n, least in zip(size, S3D_SMALLEST, strict=True)):
            raise ValueError(f"s3d needs clips of at least {S3D_SMALLEST} slices and px; this one is {size}.")
        return self.features(clip).mean(dim=(2, 3, 4))


def s3d(size: str, in_channels: int) -> nn.Module:
    """S3D; tiny has an eighth of its channels."""
    if size == "full":
        return S3D(in_channels, divisor=1, momentum=0.001)
    return S3D(in_channels, divisor=8, momentum=0.1)


ENTRIES = (
    Backbone(
        key="slowfast_r50",
        title="SlowFast, ResNet-50",
        dims=3,
        build=slowfast_r50,
        licence="Apache-2.0 (pytorchvideo)",
        citation="Feichtenhofer et al., SlowFast networks for video recognition, ICCV 2019",
        clip=(32, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
    ),
    Backbone(
        key="csn_r101",
        title="CSN, ResNet-101",
        dims=3,
        build=csn_r101,
        licence="Apache-2.0 (pytorchvideo)",
        citation="Tran et al., Video classification with channel-separated convolutional networks, ICCV 2019",
        clip=(32, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
        fp32_grouped=True,
    ),
    Backbone(
        key="r3d_18",
        title="R3D-18",
        dims=3,
        build=r3d_18,
        licence="BSD-3-Clause (torchvision)",
        citation="Tran et al., A closer look at spatiotemporal convolutions, CVPR 2018",
        clip=(16, 112, 112),
        cpu_precision="bf16",
        cpu_channels_last=True,
    ),
    *(
        Backbone(
            key=key,
            title=title,
            dims=3,
            build=build,
            licence="BSD-3-Clause (torchvision)",
            citation="Tran et al., A closer look at spatiotemporal convolutions, CVPR 2018",
            clip=(16, 112, 112),
            cpu_precision="bf16",
            cpu_channels_last=True,
        )
        for key, title, build in (
            ("mc3_18", "MC3-18", mc3_18),
            ("r2plus1d_18", "R(2+1)D-18", r2plus1d_18),
        )
    ),
    Backbone(
        key="s3d",
        title="S3D",
        dims=3,
        build=s3d,
        licence="BSD-3-Clause (torchvision)",
        citation="Xie et al., Rethinking spatiotemporal feature learning, ECCV 2018",
        clip=(128, 224, 224),
        cpu_precision="fp32",
        cpu_channels_last=True,
    ),
)
