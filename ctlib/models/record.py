"""What is known about a network: one record a network, kept beside its builder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

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
            Both come from `python benchmarks/backbone_precision.py`.
        fp32_grouped: its grouped convolutions stay in fp32 under autocast on a CPU.
        sees_order: whether the order of slices can change its features; None where nobody knows,
            of a user's own network.
        is_flat: its kernels are 2D though it sees clips as a whole.
        extra: of this project's, that installs what builds it; empty: nothing more is needed.
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
    sees_order: bool | None = True
    extra: str = ""
    is_flat: bool = False

    @property
    def sees(self) -> str:
        """What it sees at once, for tables."""
        if self.dims == 3:
            return "whole clips (3D)"
        return "slices in order (2D)" if self.sees_order else "slices (2D)"

    @property
    def channels_last(self) -> torch.memory_format:
        """The memory format with the channels last, for `network.to(memory_format=...)`."""
        return torch.channels_last_3d if self.dims == 3 and not self.is_flat else torch.channels_last
