"""The 3D transformers, without their heads: MViT-B of pytorchvideo, MViTv2-S and Swin3D-T of torchvision.

Full size: the publishers' networks, the input channels aside; all tensors keep their names, so that
public weights fit. Features are what the published head sees: MViT's class token, Swin's mean over the
clip. Any clip of at least one voxel will do:

- MViT adds to each cell an embedding of its place, learned on a grid: 16 x 56 x 56 cells for the
  published 32 x 224 x 224. For a clip of another size they are read between the grid's places
  (linear along the slices, bilinear in plane), so public weights fit unchanged, and compute at the
  published size exactly what was published.
- MViTv2 adds to the attention of two cells what it learned for their distance, along each axis: a table of
  2 n - 1 distances for n cells, made for 16 x 224 x 224. For a clip of another size each table is read
  between its places (linear), so that its ends still are the two ends of the clip: torchvision's own way,
  which its network never uses, for it fixes the grid of cells. Here the grid is the clip's; at the published
  size nothing is read between places, and the features are exactly the published ones.
- Swin pads to whole windows. Where a side has fewer cells than a window (below 224 px in the last stage),
  torchvision makes the window smaller, but then takes the biases of other distances than the true ones:
  trained weights lose some of their meaning there. We leave that as it is published.

Tiny size: narrower, and shallower: MViT's blocks 0, 1, 2, 3, 13, 14 and 15, in which all four changes of
scale happen (of MViTv2, 0, 1, 2, 3, 4, 14 and 15), and two blocks a stage of Swin, with
windows of 4 x 3 x 3, which fit the cells of 48 px.

Random weights, by the publishers' scheme: linear layers and embeddings truncated normal with standard
deviation 0.02, biases 0, layer norm 1 and 0, convolutions as torch draws them (uniform within
1 / sqrt(fan-in)).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.video import mvit as torchvision_mvit
from torchvision.models.video.swin_transformer import PatchEmbed3d, SwinTransformer3d

from ctlib.models.pytorchvideo import keep_grouped_fp32
from ctlib.models.record import Backbone

with warnings.catch_warnings():
    # As in `ctlib.models.pytorchvideo`.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from pytorchvideo.models.hub.vision_transformers import mvit_base_32x3


class MViT(nn.Module):
    """A multiscale transformer of pytorchvideo without its head, for clips of any size.

    Args:
        net: a network of pytorchvideo's `create_multiscale_vision_transformers`; its parts are taken over.
        kept: numbers of the blocks that are kept; they keep their numbers. None keeps all.
    """

    def __init__(self, net: Any, kept: Sequence[int] | None = None) -> None:
        super().__init__()
        self.patch_embed = net.patch_embed
        self.cls_positional_encoding = net.cls_positional_encoding
        numbers = range(len(net.blocks)) if kept is None else kept
        self.blocks = nn.ModuleDict({str(i): net.blocks[i] for i in numbers})
        self.norm_embed = net.norm_embed
        self.n_features: int = net.norm_embed.normalized_shape[0]

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        cells = self.patch_embed.patch_model(clip)
        grid = list(cells.shape[2:])
        tokens = cells.flatten(2).transpose(1, 2)
        first = self.cls_positional_encoding.cls_token.expand(len(clip), -1, -1)
        tokens = torch.cat([first, tokens], dim=1) + self.places(grid)
        for block in self.blocks.values():
            tokens, grid = block(tokens, grid)
        return self.norm_embed(tokens[:, 0])

    def places(self, grid: Sequence[int]) -> torch.Tensor:
        """Embeddings of the class token and of a grid (D, H, W) of cells: `[1, 1 + D * H * W, channels]`."""
        encoding = self.cls_positional_encoding
        made_for = list(encoding.patch_embed_shape)
        along, plane = encoding.pos_embed_temporal, encoding.pos_embed_spatial
        if grid[0] != made_for[0]:
            along = functional.interpolate(along.transpose(1, 2), size=grid[0], mode="linear").transpose(1, 2)
        if grid[1:] != made_for[1:]:
            plane = plane.transpose(1, 2).unflatten(2, made_for[1:])
            plane = functional.interpolate(plane, size=tuple(grid[1:]), mode="bilinear")
            plane = plane.flatten(2).transpose(1, 2)
        cells = along.unsqueeze(2) + plane.unsqueeze(1)
        return torch.cat([encoding.pos_embed_class, cells.flatten(1, 2)], dim=1)


def mvit_b(size: str, in_channels: int) -> nn.Module:
    """MViT-B, 32 x 3: attention over cells that become fewer and richer in three steps."""
    if size == "full":
        return keep_grouped_fp32(MViT(mvit_base_32x3(input_channels=in_channels)))
    net = mvit_base_32x3(input_channels=in_channels, temporal_size=16, spatial_size=48, patch_embed_dim=12)
    return keep_grouped_fp32(MViT(net, kept=(0, 1, 2, 3, 13, 14, 15)))


class MViT2(nn.Module):
    """A multiscale transformer of torchvision without its head, for clips of any size.

    Args:
        in_channels: C of the clips.
        net: a network of torchvision's with distances (`rel_pos_embed`); its parts are taken over.
        numbers: of its blocks, in their names.
    """

    def __init__(self, in_channels: int, net: torchvision_mvit.MViT, numbers: Sequence[int]) -> None:
        super().__init__()
        made: Any = net.conv_proj  # of three channels; drawn anew for those of the clips
        shape = {"kernel_size": made.kernel_size, "stride": made.stride, "padding": made.padding}
        self.conv_proj = nn.Conv3d(in_channels, made.out_channels, **shape)
        self.pos_encoding = net.pos_encoding
        self.blocks = nn.ModuleDict(dict(zip(map(str, numbers), net.blocks, strict=True)))
        self.norm = net.norm
        self.n_features: int = net.norm.normalized_shape[0]

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        cells = self.conv_proj(clip)
        grid = tuple(cells.shape[2:])
        tokens = self.pos_encoding(cells.flatten(2).transpose(1, 2))
        # torchvision's blocks count distances on torch's default device: on the CPU, so that a GPU would wait for each
        with contextlib.nullcontext() if clip.device.type == "cpu" else clip.device:
            for block in self.blocks.values():
                tokens, grid = block(tokens, grid)
        return self.norm(tokens)[:, 0]


TINY_BLOCKS = (0, 1, 2, 3, 4, 14, 15)
"""Numbers of MViTv2's blocks that the tiny network is like."""


def _tiny_blocks() -> list[torchvision_mvit.MSBlockConfig]:
    """Structure of `TINY_BLOCKS`: an eighth of the channels, and half the strides of keys and values."""
    channels = ((12, 12), (12, 24), (24, 24), (24, 48), (48, 48), (48, 96), (96, 96))
    strides = ((1, 4), (2, 2), (1, 2), (2, 1), (1, 1), (2, 1), (1, 1))
    return [
        torchvision_mvit.MSBlockConfig(
            num_heads=n_out // 12,
            input_channels=n_in,
            output_channels=n_out,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, query, query],
            stride_kv=[1, key, key],
        )
        for (n_in, n_out), (query, key) in zip(channels, strides, strict=True)
    ]


def mvit_v2_s(size: str, in_channels: int) -> nn.Module:
    """MViTv2-S, 16 x 4: MViT with distances for places, and queries added to what they find."""
    if size == "full":
        return keep_grouped_fp32(MViT2(in_channels, torchvision_mvit.mvit_v2_s(), range(16)))
    net = torchvision_mvit.MViT(
        spatial_size=(48, 48),
        temporal_size=16,
        block_setting=_tiny_blocks(),
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
    )
    return keep_grouped_fp32(MViT2(in_channels, net, TINY_BLOCKS))


def swin3d_t(size: str, in_channels: int) -> nn.Module:
    """Video Swin-T: attention within windows of cells, every second time shifted by half a window."""
    full = size == "full"
    net: Any = SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=96 if full else 12,
        depths=[2, 2, 6, 2] if full else [2, 2, 2, 2],
        num_heads=[3, 6, 12, 24] if full else [1, 2, 4, 8],
        window_size=[8, 7, 7] if full else [4, 3, 3],
        stochastic_depth_prob=0.1 if full else 0.0,
        patch_embed=partial(PatchEmbed3d, in_channels=in_channels),
    )
    net.head = nn.Identity()
    net.n_features = net.num_features
    return net


ENTRIES = (
    Backbone(
        key="mvit_b",
        title="MViT-B",
        dims=3,
        build=mvit_b,
        licence="Apache-2.0 (pytorchvideo)",
        citation="Fan et al., Multiscale vision transformers, ICCV 2021",
        clip=(32, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
        fp32_grouped=True,
    ),
    Backbone(
        key="mvit_v2_s",
        title="MViTv2-S",
        dims=3,
        build=mvit_v2_s,
        licence="BSD-3-Clause (torchvision)",
        citation="Li et al., MViTv2: improved multiscale vision transformers, CVPR 2022",
        clip=(16, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
        fp32_grouped=True,
    ),
    Backbone(
        key="swin3d_t",
        title="Video Swin-T",
        dims=3,
        build=swin3d_t,
        licence="BSD-3-Clause (torchvision)",
        citation="Liu et al., Video Swin transformer, CVPR 2022",
        clip=(32, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=False,
    ),
)
