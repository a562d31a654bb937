"""LRCN: a 2D network on each slice, then a recurrent network along them.

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
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ctlib.models.record import Backbone
from ctlib.models.slicewise import LITE0, RESNET18, RESNEXT101, SliceEfficientNet, SliceResNet, Slices

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
)
