"""Networks by key: clips in, features out, no head.

A backbone maps `[N, C, D, H, W]` to features `[N, F]`; how many, is its attribute
`n_features`. Any clip size that the network's strides allow works: pooling is adaptive.
A new network is one builder and one entry in the `ENTRIES` of its module; `timm:NAME` is any 2D network of timm
(`ctlib.models.slicewise`), `hf:MODEL` a video transformer of the Hugging Face hub (`ctlib.models.foundation`), and a
user's own is one string too (`ctlib.models.custom`).
"""

from __future__ import annotations

from torch import nn

from ctlib.core import nearest_name
from ctlib.models import (
    astra,
    convnets,
    foundation,
    lrcn,
    penet,
    pytorchvideo,
    slicewise,
    transformers,
)
from ctlib.models.custom import OwnNetworkError, code_of, file_name, is_own, record
from ctlib.models.foundation import require_extra
from ctlib.models.record import SIZES, Backbone, Size
from ctlib.models.slicewise import TIMM, timm_backbone

__all__ = [
    "BACKBONES",
    "SIZES",
    "Backbone",
    "OwnNetworkError",
    "Size",
    "build",
    "code_of",
    "file_name",
    "require_extra",
    "spec",
]

BACKBONES: dict[str, Backbone] = {
    entry.key: entry
    for module in (pytorchvideo, convnets, transformers, penet, astra, slicewise, lrcn, foundation)
    for entry in module.ENTRIES
}
"""All networks, by key."""


def spec(key: str) -> Backbone:
    """What is known about the network of a key.

    Args:
        key: a key of `BACKBONES`, `timm:NAME`, `hf:MODEL`, or `module:function`, a user's own network.

    Raises:
        ValueError: no network has that key; the message lists those that there are.
        OwnNetworkError: a ValueError: the user's module or function is missing.
    """
    if key.startswith(TIMM):
        return timm_backbone(key)
    if key.startswith(foundation.HF):
        return foundation.hub_backbone(key)
    if is_own(key):
        return record(key)
    require_extra(key)
    if key not in BACKBONES:
        raise ValueError(
            f"backbone is {key!r}{nearest_name(key, BACKBONES)}; known are {', '.join(BACKBONES)}, timm:NAME, "
            "hf:MODEL, and your own module:function."
        )
    return BACKBONES[key]


def build(key: str, size: Size = "tiny", in_channels: int = 1) -> nn.Module:
    """A network with random weights, drawn from torch's global generator.

    Args:
        key: a key of `BACKBONES`, `timm:NAME`, `hf:MODEL`, or `module:function`, a user's own network.
        size: `tiny` or `full`.
        in_channels: C of the clips.

    Returns:
        A module `[N, C, D, H, W] -> [N, F]` with the attribute `n_features` = F.

    Raises:
        ValueError: unknown key or size.
        OwnNetworkError: a user's own network is missing, or is none.
    """
    backbone = spec(key)
    if size not in SIZES:
        raise ValueError(f"size of {key} is {size!r}; known are {', '.join(SIZES)}.")
    return backbone.build(size, in_channels)
