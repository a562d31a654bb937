"""Networks by key: clips in, features out, no head.

A backbone maps `[N, C, D, H, W]` to features `[N, F]`; how many, is its attribute
`n_features`. Any clip size that the network's strides allow works: pooling is adaptive.
A new network is one builder and one entry in the `ENTRIES` of its module.
"""

from __future__ import annotations

from torch import nn

from ctlib.backbones import convnets, penet, recurrent, slices, transformers, video
from ctlib.backbones.record import SIZES, Backbone, Size

__all__ = ["REGISTRY", "SIZES", "Backbone", "Size", "build", "spec"]

REGISTRY: dict[str, Backbone] = {
    entry.key: entry
    for module in (video, convnets, transformers, penet, slices, recurrent)
    for entry in module.ENTRIES
}
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
