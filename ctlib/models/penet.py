"""PENet, a 3D network for pulmonary embolism, without its head: our own code, from its description.

What the description gives: a 3D CNN of 77 layers; residual units of three convolutions, the middle
one in groups (cardinality 32), with squeeze and excitation and a skip connection; group normalization;
atrous spatial pyramid pooling before the head; clips of 24 slices; first trained on Kinetics-600.
(Of the paper only the abstract was at hand; the rest is what the plan of this project says of it.)

Numbers that it leaves open were read in the authors' network of encoder, pyramid and head (we found no
licence in their repository, so no line was taken, and names and code are ours): a stem of
7 x 7 x 7 and stride (1, 2, 2), a maximum of 3 x 3 x 3 and stride 2, stages of 3, 4 and 6 units,
128 to 512 channels within a unit
and twice as many behind it, strides 1, 2, 2; 16 channels a normalization group; leaky ReLU of slope
0.01; gates that narrow to a sixteenth; dilations 2, then 6 and 12; a quarter of the channels, 256,
behind the pyramid.

How 77 layers are counted, the description does not say. Here: 1 stem, 1 maximum, 13 units of 3
convolutions and 2 linear layers of the gate (65), 3 convolutions on shortcuts, 6 in the pyramid and
1 linear head. 75 of them with weights are in this backbone; the maximum has none, the head is not here.

What differs from the authors' code:

- No decoder: theirs also segments, behind the same pyramid.
- Convolutions of the pyramid have no bias, as all others: a normalization follows each.
- No unit is skipped at random in training; theirs skips up to nearly half of the steps, the later the more.
- A clip of one channel meets a stem of one channel, not its own copy in three.
- Weights are drawn as in `ctlib.models.pytorchvideo`: He-normal by fan-out, biases 0, normalization 1 and 0,
  and at full size the last normalization of a unit 0 and 0.

What they trained, on Kinetics-600 and on CT, and what the study took that is reproduced here, has no
pyramid but a fourth stage of 3 units, 87 layers by the same count:
`PENet(..., depths=(3, 4, 6, 3), rates=())`. Names of tensors are ours, so such weights need a map of names.

Tiny: an eighth of the channels with groups as wide as at full size, one unit a stage, dilations for
a map of 3 cells, and the last normalization of a unit begins at 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ctlib.models.record import Backbone

NORM_CHANNELS = 16
"""Channels a group of a group normalization: of the authors' code."""
SLOPE = 0.01
"""Of the leaky ReLU below 0: torch's default, as in the authors' code."""
GATE_REDUCTION = 16
"""Hu et al., Squeeze-and-excitation networks, CVPR 2018."""


class PENet(nn.Module):
    """The encoder and the pyramid, then the mean over the clip.

    Args:
        in_channels: C of the clips.
        width: channels of the stem; units of the first stage have twice as many, and each stage doubles them.
        depths: units of each stage.
        groups: of the middle convolution of a unit, the cardinality.
        rates: dilation of the pyramid's first convolution, then of its branches; none for no pyramid.
        last_norm: scale with which the last normalization of each unit begins.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        depths: Sequence[int],
        groups: int,
        rates: Sequence[int],
        last_norm: float,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        stem = _unit(in_channels, width, 7, stride=(1, 2, 2), padding=3)
        stem.append(nn.MaxPool3d(3, stride=2, padding=1))
        blocks: list[nn.Module] = [stem]
        n_in = width
        for i, depth in enumerate(depths):
            n_mid = 2 * width * 2**i
            units = [Residual(n_in, n_mid, groups, stride=1 if i == 0 else 2)]
            units += [Residual(2 * n_mid, n_mid, groups) for _ in range(depth - 1)]
            blocks.append(nn.Sequential(*units))
            n_in = 2 * n_mid
        if rates:
            blocks.append(Pyramid(n_in, n_in // 4, rates))
            n_in //= 4
        self.blocks = nn.ModuleList(blocks)
        self.n_features = n_in
        _draw(self, last_norm)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`; all is padded, so any D, H and W from 1 will do.

        Raises:
            ValueError: the clips have other axes, no voxels, or another number of channels.
        """
        if clip.ndim != 5 or clip.shape[1] != self.in_channels or not clip.numel():
            shape = " x ".join(map(str, clip.shape))
            raise ValueError(
                f"penet was given clips of {shape}; it takes N x {self.in_channels} x D x H x W."
            )
        for block in self.blocks:
            clip = block(clip)
        return clip.mean(dim=(2, 3, 4))


class Residual(nn.Module):
    """Narrow, convolve in groups, widen, weigh the channels, and add what came in.

    Args:
        n_in: channels that come in.
        n_mid: channels of the middle convolution; twice as many go out.
        groups: of the middle convolution.
        stride: of the middle convolution and of the shortcut, along all three axes.
    """

    def __init__(self, n_in: int, n_mid: int, groups: int, stride: int = 1) -> None:
        super().__init__()
        n_out = 2 * n_mid
        self.narrow = _unit(n_in, n_mid, 1)
        self.grouped = _unit(n_mid, n_mid, 3, stride=stride, padding=1, groups=groups)
        self.widen = _unit(n_mid, n_out, 1, is_active=False)
        self.gate = Gate(n_out)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)
        same = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if same else _unit(n_in, n_out, 1, stride=stride, is_active=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, n_in, D, H, W]` to `[N, 2 * n_mid, D / stride, H / stride, W / stride]`, rounded up."""
        branch = self.gate(self.widen(self.grouped(self.narrow(x))))
        return self.act(branch + self.shortcut(x))


class Gate(nn.Module):
    """Squeeze and excitation: each channel times a weight in (0, 1) that the means of all channels give.

    Args:
        n: channels.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        n_narrow = max(1, n // GATE_REDUCTION)
        self.weigh = nn.Sequential(
            nn.Linear(n, n_narrow), nn.LeakyReLU(SLOPE, inplace=True), nn.Linear(n_narrow, n), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, n, D, H, W]` to the same shape."""
        return x * self.weigh(x.mean(dim=(2, 3, 4)))[:, :, None, None, None]


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: branches of one cell, of dilated kernels and of the whole map.

    Args:
        n_in: channels that come in.
        n_out: channels that go out; branches have an equal share each.
        rates: dilation of the first convolution, then of each dilated branch.
    """

    def __init__(self, n_in: int, n_out: int, rates: Sequence[int]) -> None:
        super().__init__()
        first, *others = rates
        n_branch = n_out // (len(others) + 2)
        self.first = _unit(n_in, n_out, 3, padding=first, dilation=first)
        self.cell = nn.Conv3d(n_out, n_branch, 1, bias=False)
        self.dilated = nn.ModuleList(
            nn.Conv3d(n_out, n_branch, 3, padding=rate, dilation=rate, bias=False) for rate in others
        )
        self.map = nn.Conv3d(n_out, n_branch, 1, bias=False)
        self.norm = _norm(n_out)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)
        self.last = _unit(n_out, n_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, n_in, D, H, W]` to `[N, n_out, D, H, W]`."""
        x = self.first(x)
        whole = self.map(x.mean(dim=(2, 3, 4), keepdim=True)).expand(-1, -1, *x.shape[2:])
        branches = [self.cell(x), *(dilated(x) for dilated in self.dilated), whole]
        return self.last(self.act(self.norm(torch.cat(branches, dim=1))))


def _unit(n_in: int, n_out: int, kernel: int, is_active: bool = True, **settings: object) -> nn.Sequential:
    """A convolution, its normalization and, mostly, a leaky ReLU."""
    conv = nn.Conv3d(n_in, n_out, kernel, bias=False, **settings)  # type: ignore[arg-type]
    unit = nn.Sequential(conv, _norm(n_out))
    return unit.append(nn.LeakyReLU(SLOPE, inplace=True)) if is_active else unit


def _norm(n: int) -> nn.GroupNorm:
    """Group normalization; fewer channels than a group has are one group."""
    return nn.GroupNorm(max(1, n // NORM_CHANNELS), n)


def _draw(network: nn.Module, last_norm: float) -> None:
    """Random weights: He-normal by fan-out, biases 0; normalizations are 1 and 0 but the last of a unit."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=SLOPE, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Residual):
            nn.init.constant_(module.widen[1].weight, last_norm)  # type: ignore[arg-type]


def penet(size: str, in_channels: int) -> nn.Module:
    """PENet: strides 8 along the slices and 16 in plane."""
    if size == "full":
        return PENet(in_channels, 64, depths=(3, 4, 6), groups=32, rates=(2, 6, 12), last_norm=0.0)
    return PENet(in_channels, 8, depths=(1, 1, 1), groups=4, rates=(1, 1, 2), last_norm=1.0)


def penet_kinetics(size: str, in_channels: int) -> nn.Module:
    """The network that the authors trained on Kinetics-600: a fourth stage, and no pyramid behind it."""
    if size == "full":
        return PENet(in_channels, 64, depths=(3, 4, 6, 3), groups=32, rates=(), last_norm=0.0)
    return PENet(in_channels, 8, depths=(1, 1, 1, 1), groups=4, rates=(), last_norm=1.0)


CITATION = (
    "Huang et al., PENet: a scalable deep-learning model for automated diagnosis of pulmonary embolism using "
    "volumetric CT imaging, npj Digital Medicine 2020"
)

ENTRIES = (
    Backbone(
        key="penet",
        title="PENet",
        dims=3,
        build=penet,
        licence="MIT (this project's own code, from the description)",
        citation=CITATION,
        clip=(24, 192, 192),
        cpu_precision="bf16",
        cpu_channels_last=True,
    ),
    Backbone(
        key="penet_kinetics",
        title="PENet as trained on Kinetics-600",
        dims=3,
        build=penet_kinetics,
        licence="MIT (this project's own code, from the description)",
        citation=CITATION,
        clip=(24, 192, 192),
        cpu_precision="bf16",
        cpu_channels_last=True,
    ),
)
