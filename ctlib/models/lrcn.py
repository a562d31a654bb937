"""A 2D network on each slice, then a recurrent network (LRCN) or a layer of attention along them.

The features of each slice are joined by their difference to those of the previous and of the next
slice (0 where there is none), read by a bidirectional GRU, and its outputs are averaged over the clip.
The published baseline does so over 150 slices of an exam, on the stored features of a 2D network that was
finetuned before; it normalizes the average by batch before its head. Here all is one network, for clips
of any number of slices, learnt at once unless its backbone is frozen, and nothing is normalized.

In their records `dims` is 2, for all their convolutions are 2D: it decides the memory format, and weights
that fit them. But other than the networks of `ctlib.models.slicewise` they see the order of slices.

Tensors of the 2D network keep their names. The GRU is the stage behind its last, `layer5` behind ResNet's
`layer4`, for `ctlib.models.weights.ablations` counts stages by their names. Its random weights are
torch's: uniform within 1 / sqrt(units).

Any network of `ctlib.models.slicewise.Slices` can be read: one class of two bases, `Lrcn` and that network.

`lrcn_efficientnetv2_s` is the 2.5D baseline of radiology challenges: with `channels: neighbours` each slice has the one
before and the one after it as channels. `mst_*` see slices with a transformer or ConvNeXt, and attend between them.
Published weights are of the 2D network alone; what is along the slices is then drawn (`over_slices`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ctlib.models.record import Backbone
from ctlib.models.slicewise import (
    LITE0,
    RESNET18,
    RESNEXT101,
    SliceEfficientNet,
    SliceNamed,
    SliceResNet,
    Slices,
)

HIDDEN = {"full": 256, "tiny": 32}
"""Units of the GRU in each direction; 256 are published."""


class Lrcn(Slices):
    """Slice features that are read in order, in both directions; mixed into a network of slices.

    Args:
        in_channels: C of the clips.
        hidden: units of the GRU in each direction.
        structure: of the 2D network, as its class takes it.
    """

    def __init__(self, in_channels: int, hidden: int, **structure: Any) -> None:
        super().__init__(in_channels, pooling="mean", **structure)  # type: ignore[misc, arg-type]
        gru = nn.GRU(3 * self.n_features, hidden, batch_first=True, bidirectional=True)
        self.gru_name = f"layer{self.n_stages + 1}"
        self.add_module(self.gru_name, gru)
        self.n_features = 2 * hidden

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`, read forwards and, the other half, backwards."""
        outputs, _ = self.get_submodule(self.gru_name)(with_differences(self.slice_features(clip)))
        return outputs.mean(dim=1)


class LrcnResNet(Lrcn, SliceResNet):
    """A ResNet or ResNeXt on each slice and a GRU along them."""


class LrcnEfficientNet(Lrcn, SliceEfficientNet):
    """An EfficientNet-Lite on each slice and a GRU along them."""


class LrcnNamed(Lrcn, SliceNamed):
    """A network of timm on each slice and a GRU along them."""

    @property
    def over_slices(self) -> str:
        """Beginning of the names of what weights of single slices do not have; it is then drawn."""
        return f"{self.gru_name}."


class SliceTransformer(SliceNamed):
    """A network of timm on each slice, then one layer of attention between them, and their mean.

    The idea of the Medical Slice Transformer (Mueller-Franzes et al. 2025). Places are sines and cosines of the
    slice's number, added before the layer and taken off behind it: what is averaged is each slice's own features and
    what the layer adds to them, less than they are at first. Its random weights are torch's.

    Args:
        in_channels: C of the clips.
        heads: of the attention.
        structure: as `SliceNamed` takes it.
    """

    def __init__(self, in_channels: int, heads: int, **structure: Any) -> None:
        super().__init__(in_channels, pooling="mean", **structure)
        n = self.n_features
        layer = nn.TransformerEncoderLayer(n, heads, 4 * n, 0.0, "gelu", batch_first=True, norm_first=True)
        self.over_slices = f"layer{self.n_stages + 1}."
        self.add_module(self.over_slices[:-1], layer)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        features = self.slice_features(clip)
        places = sines(features.shape[1], self.n_features, features.device).to(features)
        return (self.get_submodule(self.over_slices[:-1])(features + places) - places).mean(dim=1)


def sines(n_slices: int, n_features: int, device: torch.device | None = None) -> torch.Tensor:
    """Sines, then cosines, of the numbers of slices: `[n_slices, n_features]` (Vaswani et al. 2017).

    >>> [[round(value, 2) for value in row] for row in sines(2, 2).tolist()]
    [[0.0, 1.0], [0.84, 0.54]]
    """
    half = n_features // 2
    every, wave = (torch.arange(n, device=device) for n in (n_slices, half))
    turns = every[:, None] / 10_000 ** (wave / half)
    return torch.cat([turns.sin(), turns.cos()], dim=1)


def with_differences(features: torch.Tensor) -> torch.Tensor:
    """Features of each slice, and what they differ by from the previous and from the next slice.

    Args:
        features: `[N, D, F]`.

    Returns:
        `[N, D, 3 * F]`; the first slice differs from its previous by 0, and the last from its next.

    >>> with_differences(torch.tensor([[[1.0], [4.0], [6.0]]])).tolist()
    [[[1.0, 0.0, -3.0], [4.0, 3.0, -2.0], [6.0, 2.0, 0.0]]]
    """
    step = features.diff(dim=1)
    to_previous = functional.pad(step, (0, 0, 1, 0))
    to_next = functional.pad(-step, (0, 0, 0, 1))
    return torch.cat([features, to_previous, to_next], dim=2)


def lrcn_resnet18(size: str, in_channels: int) -> nn.Module:
    """ResNet-18 on each slice and a GRU along them."""
    return LrcnResNet(in_channels, HIDDEN[size], **RESNET18[size])


def lrcn_resnext101(size: str, in_channels: int) -> nn.Module:
    """ResNeXt-101, 32 x 8d, on each slice and a GRU along them."""
    return LrcnResNet(in_channels, HIDDEN[size], **RESNEXT101[size])


def lrcn_efficientnet_lite0(size: str, in_channels: int) -> nn.Module:
    """EfficientNet-Lite0 on each slice and a GRU along them."""
    return LrcnEfficientNet(in_channels, HIDDEN[size], **LITE0[size])


_VIT = {"embed_dim": 48, "depth": 2, "num_heads": 2}
_ANY = {"dynamic_img_size": True, "init_values": 1.0}
"""A vision transformer whose random blocks count: its publishers' begin at 1e-5 of their sums."""
NAMED: dict[str, dict[str, Any]] = {
    "lrcn_efficientnetv2_s": {
        "name": "tf_efficientnetv2_s",
        "tiny": {"channel_multiplier": 0.15, "depth_multiplier": 0.2},
    },
    "mst_dinov2_s": {"name": "vit_small_patch14_dinov2", "tiny": _VIT, "any": _ANY, "cell_px": 14},
    "mst_dinov3_s": {"name": "vit_small_patch16_dinov3", "tiny": _VIT, "any": _ANY, "cell_px": 16},
    "mst_convnext_t": {
        "name": "convnext_tiny",
        "tiny": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 48), "ls_init_value": 1.0},
    },
}
"""Networks of timm on slices: their names in it, what makes them tiny, what lets them take slices of any size."""


def _named(key: str, size: str, in_channels: int) -> nn.Module:
    """A network of timm on each slice, with a GRU or with attention along them."""
    known = NAMED[key]
    structure = {**known.get("any", {}), **(known["tiny"] if size == "tiny" else {})}
    made = {"name": known["name"], "structure": structure, "cell_px": known.get("cell_px", 1)}
    if key.startswith("lrcn"):
        return LrcnNamed(in_channels, HIDDEN[size], **made)
    return SliceTransformer(in_channels, heads=6 if size == "full" else 2, **made)


MST = "Mueller-Franzes et al., Medical slice transformer, Scientific Reports 2025"
CITATION = "Donahue et al., Long-term recurrent convolutional networks, CVPR 2015"

ENTRIES = (
    Backbone(
        key="lrcn_resnet18",
        title="LRCN, ResNet-18 on slices and a GRU",
        dims=2,
        build=lrcn_resnet18,
        licence="BSD-3-Clause (torchvision)",
        citation=CITATION,
        clip=(150, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
    ),
    Backbone(
        key="lrcn_resnext101",
        title="LRCN, ResNeXt-101 on slices and a GRU",
        dims=2,
        build=lrcn_resnext101,
        licence="BSD-3-Clause (torchvision)",
        citation=CITATION,
        clip=(150, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
    ),
    Backbone(
        key="lrcn_efficientnet_lite0",
        title="LRCN, EfficientNet-Lite0 on slices and a GRU",
        dims=2,
        build=lrcn_efficientnet_lite0,
        licence="Apache-2.0 (timm)",
        citation=CITATION,
        clip=(150, 224, 224),
        cpu_precision="fp32",
        cpu_channels_last=True,
    ),
    *(
        Backbone(
            key=key,
            title=title,
            dims=2,
            build=partial(_named, key),
            licence="Apache-2.0 (timm)",
            citation=citation,
            clip=clip,
            cpu_precision="fp32",
            cpu_channels_last=key != "mst_dinov3_s",
        )
        for key, title, clip, citation in (
            (
                "lrcn_efficientnetv2_s",
                "LRCN, EfficientNetV2-S on slices and a GRU (2.5D)",
                (32, 512, 512),
                "Tan and Le, EfficientNetV2, ICML 2021; with a GRU as in RSNA's challenges",
            ),
            (
                "mst_dinov2_s",
                "DINOv2-S on slices and attention",
                (32, 224, 224),
                f"Oquab et al., DINOv2, TMLR 2024; {MST}",
            ),
            (
                "mst_dinov3_s",
                "DINOv3-S on slices and attention",
                (32, 224, 224),
                f"Simeoni et al., DINOv3, 2025; {MST}",
            ),
            (
                "mst_convnext_t",
                "ConvNeXt-T on slices and attention",
                (32, 224, 224),
                f"Liu et al., A ConvNet for the 2020s, CVPR 2022; {MST}",
            ),
        )
    ),
)

OVER_SLICES = frozenset(entry.key for entry in ENTRIES)
"""Networks of which published weights leave a part to be drawn by the seed: what is along the slices."""
