"""Networks by key: clips in, features out, no head.

A backbone maps `[N, C, D, H, W]` to features `[N, F]`; how many, is its attribute
`n_features`. Any clip size that the network's strides allow works: pooling is adaptive.
A new network is one builder and one entry in `REGISTRY`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ctlib.backbones import slices, video

Size = Literal["tiny", "full"]
SIZES: tuple[Size, ...] = ("tiny", "full")
"""`full` is the published network; `tiny` is its structure, narrower and shallower, for a CPU."""


@dataclass(frozen=True)
class Backbone:
    """What is known about a network.

    Args:
        key: its name in parameters and tables.
        title: its name for people.
        dims: 3 where it sees a clip as a whole, 2 where it sees slices one by one.
        build: `(size, in_channels)` to the network, weights drawn from torch's generator.
        licence: of the code that defines it.
        citation: who published it.
        clip: (D, H, W) that the full size was published with.
        cpu_precision: `fp32` or `bf16` (autocast), the faster at `tiny` size on one CPU thread.
        cpu_channels_last: whether its convolutions are faster with the channels last in memory.
            Both come from `python -m ctlib.backbones.measure`.
        fp32_grouped: its grouped convolutions stay in fp32 under autocast on a CPU.
    """

    key: str
    title: str
    dims: Literal[2, 3]
    build: Callable[[Size, int], nn.Module]
    licence: str
    citation: str
    clip: tuple[int, int, int]
    cpu_precision: Literal["fp32", "bf16"]
    cpu_channels_last: bool
    fp32_grouped: bool = False

    @property
    def channels_last(self) -> torch.memory_format:
        """The memory format with the channels last, for `network.to(memory_format=...)`."""
        return torch.channels_last_3d if self.dims == 3 else torch.channels_last


_ENTRIES = (
    Backbone(
        key="slow_r50",
        title="Slow, ResNet-50",
        dims=3,
        build=video.slow_r50,
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
        build=video.r2plus1d_r50,
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
        build=video.x3d_m,
        licence="Apache-2.0 (pytorchvideo)",
        citation="Feichtenhofer, X3D: expanding architectures for efficient video recognition, CVPR 2020",
        clip=(16, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
        fp32_grouped=True,
    ),
    Backbone(
        key="resnet18",
        title="ResNet-18 on slices, highest",
        dims=2,
        build=slices.resnet18,
        licence="BSD-3-Clause (torchvision)",
        citation="He et al., Deep residual learning for image recognition, CVPR 2016",
        clip=(1, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
    ),
)

REGISTRY: dict[str, Backbone] = {entry.key: entry for entry in _ENTRIES}
"""All networks, by key."""


def spec(key: str) -> Backbone:
    """What is known about the network of a key.

    Raises:
        ValueError: no network has that key; the message lists those that there are.
    """
    if key not in REGISTRY:
        raise ValueError(f"backbone is {key!r}; known are {', '.join(REGISTRY)}.")
    return REGISTRY[key]


def build(key: str, size: Size = "tiny", in_channels: int = 1) -> nn.Module:
    """A network with random weights, drawn from torch's global generator.

    Args:
        key: a key of `REGISTRY`.
        size: `tiny` or `full`.
        in_channels: C of the clips.

    Returns:
        A module `[N, C, D, H, W] -> [N, F]` with the attribute `n_features` = F.

    Raises:
        ValueError: unknown key or size.
    """
    backbone = spec(key)
    if size not in SIZES:
        raise ValueError(f"size of {key} is {size!r}; known are {', '.join(SIZES)}.")
    return backbone.build(size, in_channels)
