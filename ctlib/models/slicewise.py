"""2D networks that see a clip slice by slice: the baseline of the 3D networks.

The features of the slices are pooled over the clip, by default by their highest value (the
published 2D baseline takes the highest score of the slices), so their order cannot matter.

- ResNet-18 and ResNeXt-101 have the names of torchvision's tensors, so that its weights fit; only `fc` is left
  out. Convolutions are drawn He-normal by fan-out.
- EfficientNet-Lite0 is timm's: inverted residual blocks, ReLU6, no squeeze and excitation, TensorFlow's "same"
  padding. `ctlib.models.weights` knows the names of the publisher's tensors. Batch norms take 1 % of each batch
  into their statistics, as published; at tiny size 10 %: in some hundred steps they would not arrive. Training
  at full size skips blocks at random, up to 0.2 x 15 / 16 of the last, as published; at tiny size none.
  Convolutions are drawn normal by fan-out, which is the kernel's cells where every channel has a kernel of its
  own (the publishers' `conv_kernel_initializer`).
- `timm:NAME` is any network of timm, as timm draws it, without its classifier. A ResNet, ConvNeXt, DenseNet or
  vision transformer has a tiny size; of all others both sizes are the published network.

`Slices` is what all of them share: a network of one more kind says what it makes of slices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from ctlib.core import nearest
from ctlib.models.record import Backbone

Pooling = Literal["max", "mean"]


class Slices(nn.Module, ABC):
    """A 2D network on each slice, then a maximum or mean over the clip.

    Its `n_features` is a slice's number of features, `n_stages` the number of the last stage that
    names of tensors count.

    Args:
        pooling: over the slices of a clip, feature by feature.
    """

    n_features: int
    n_stages: int

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling

    @abstractmethod
    def features_of(self, slices: torch.Tensor) -> torch.Tensor:
        """Slices `[N, C, H, W]` to their features `[N, F]`."""

    def slice_features(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features of each slice `[N, D, F]`, before any pooling over the clip."""
        n, c, d, h, w = clip.shape
        slices = clip.transpose(1, 2).reshape(n * d, c, h, w)
        return self.features_of(slices).unflatten(0, (n, d))

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        x = self.slice_features(clip)
        return x.amax(dim=1) if self.pooling == "max" else x.mean(dim=1)


class SliceResNet(Slices):
    """A ResNet or ResNeXt on each slice, then a maximum or mean over the clip.

    Args:
        in_channels: C of the clips.
        width: channels of the stem and the first stage; each stage doubles them.
        depths: blocks of the four stages.
        pooling: over the slices of a clip, feature by feature.
        block: two convolutions, or a bottleneck that goes out with four times as many channels.
        groups: of the middle convolution of a bottleneck, the cardinality.
        group_width: channels of each such group for every 64 of the stage, torchvision's `width_per_group`.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        depths: tuple[int, ...],
        pooling: Pooling,
        block: type[BasicBlock | Bottleneck] = BasicBlock,
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        super().__init__(pooling)
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        n_in = width
        for i, depth in enumerate(depths):
            n_block, stride = width * 2**i, 1 if i == 0 else 2
            stage = _stage(block, n_in, n_block, depth, stride, groups=groups, base_width=group_width)
            self.add_module(f"layer{i + 1}", stage)
            n_in = n_block * block.expansion
        self.n_stages = len(depths)
        self.n_features = n_in
        _draw(self)

    def features_of(self, slices: torch.Tensor) -> torch.Tensor:
        """Slices `[N, C, H, W]` to their features `[N, F]`, the means of the last maps."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(slices))))
        for i in range(self.n_stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x.mean(dim=(2, 3))


def _stage(
    block: type[BasicBlock | Bottleneck], n_in: int, n_block: int, depth: int, stride: int, **grouping: int
) -> nn.Sequential:
    """Blocks, the first with the stride and, where the shape changes, a shortcut of its own."""
    n_out = n_block * block.expansion
    shortcut = None
    if stride != 1 or n_in != n_out:
        shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
    first = block(n_in, n_block, stride, shortcut, **grouping)
    return nn.Sequential(first, *(block(n_out, n_block, **grouping) for _ in range(depth - 1)))


def _draw(network: nn.Module) -> None:
    """Random weights as torchvision draws them: He-normal by fan-out; batch norm is 1 and 0 already."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


RESNET18: dict[str, dict[str, Any]] = {
    "full": {"width": 64, "depths": (2, 2, 2, 2)},
    "tiny": {"width": 12, "depths": (2, 2, 2, 2)},
}
"""Structure of ResNet-18 by size; tiny has a fifth of its channels."""

RESNEXT101: dict[str, dict[str, Any]] = {
    "full": {"width": 64, "depths": (3, 4, 23, 3), "block": Bottleneck, "groups": 32, "group_width": 8},
    "tiny": {"width": 8, "depths": (1, 1, 1, 1), "block": Bottleneck, "groups": 8, "group_width": 32},
}
"""Structure of ResNeXt-101, 32 x 8d, by size.

Tiny has an eighth of the stem's channels, one block a stage, and a quarter of the groups, of half their
width: as at full size, the middle convolution has as many channels as the block gives.
"""


def resnet18(size: str, in_channels: int, pooling: Pooling = "max") -> nn.Module:
    """ResNet-18 on each slice."""
    return SliceResNet(in_channels, pooling=pooling, **RESNET18[size])


def resnext101(size: str, in_channels: int, pooling: Pooling = "max") -> nn.Module:
    """ResNeXt-101, 32 x 8d, on each slice."""
    return SliceResNet(in_channels, pooling=pooling, **RESNEXT101[size])


class SliceTimm(Slices):
    """A network of timm on each slice, then a maximum or mean over the clip.

    Args:
        net: of timm, without a classifier: slices `[N, C, H, W]` to features `[N, F]`.
        pooling: over the slices of a clip, feature by feature.
    """

    net: Any

    def __init__(self, net: nn.Module, pooling: Pooling) -> None:
        super().__init__(pooling)
        self.net = net
        self.n_features = int(getattr(self.net, "head_hidden_size", None) or self.net.num_features)

    def features_of(self, slices: torch.Tensor) -> torch.Tensor:
        """Slices `[N, C, H, W]` to their features `[N, F]`, pooled over the slice as the network does."""
        return self.net(slices)


class SliceNamed(SliceTimm):
    """A network of timm by its name on each slice, then a maximum or mean over the clip.

    Args:
        in_channels: C of the clips.
        pooling: over the slices of a clip, feature by feature.
        name: of the network in timm.
        structure: what it is asked for beside its name.
        cell_px: sides of slices become a multiple of it (bilinear).
    """

    def __init__(
        self, in_channels: int, pooling: Pooling, name: str, structure: dict[str, Any], cell_px: int = 1
    ) -> None:
        import timm

        net = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=0, **structure)
        super().__init__(net, pooling)
        self.cell_px = cell_px
        self.n_stages = len(getattr(net, "stages", None) or net.get_submodule("blocks"))  # type: ignore[arg-type]

    def features_of(self, slices: torch.Tensor) -> torch.Tensor:
        """Slices `[N, C, H, W]` to their features `[N, F]`, pooled over the slice as the network does."""
        size = [-(-n // self.cell_px) * self.cell_px for n in slices.shape[2:]]
        if size != list(slices.shape[2:]):
            slices = functional.interpolate(slices, size=size, mode="bilinear")
        return self.net(slices)


class SliceEfficientNet(SliceTimm):
    """An EfficientNet-Lite of timm on each slice, then a maximum or mean over the clip.

    Args:
        in_channels: C of the clips.
        pooling: over the slices of a clip, feature by feature.
        width: channels of the stem.
        stages: each in timm's words: kind, blocks (r), kernel (k), stride (s), expansion (e), channels (c).
        n_features: channels of the last convolution.
        skipped: chance that training passes over a block behind the last; less for earlier ones.
        momentum: of the batch norms.
    """

    def __init__(
        self,
        in_channels: int,
        pooling: Pooling,
        width: int,
        stages: Sequence[str],
        n_features: int,
        skipped: float,
        momentum: float,
    ) -> None:
        from timm.models import efficientnet

        with torch.random.fork_rng(devices=[]):  # drawn below
            net = efficientnet.EfficientNet(
                efficientnet.decode_arch_def([[stage] for stage in stages]),
                num_classes=0,
                num_features=n_features,
                in_chans=in_channels,
                stem_size=width,
                fix_stem=True,
                pad_type="same",
                round_chs_fn=int,
                act_layer=nn.ReLU6,
                norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=momentum),
                drop_path_rate=skipped,
            )
        super().__init__(net, pooling)
        self.n_stages = len(stages)
        convolutions = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        for conv in convolutions:
            conv.reset_parameters()  # takes from the generator what building one takes: seeds keep their weights
        for conv in convolutions:
            fan_out = conv.out_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]
            nn.init.normal_(conv.weight, std=(2 / fan_out) ** 0.5)


LITE0: dict[str, dict[str, Any]] = {
    "full": {
        "width": 32,
        "stages": (
            "ds_r1_k3_s1_e1_c16",
            "ir_r2_k3_s2_e6_c24",
            "ir_r2_k5_s2_e6_c40",
            "ir_r3_k3_s2_e6_c80",
            "ir_r3_k5_s1_e6_c112",
            "ir_r4_k5_s2_e6_c192",
            "ir_r1_k3_s1_e6_c320",
        ),
        "n_features": 1280,
        "skipped": 0.2,
        "momentum": 0.01,
    },
    "tiny": {
        "width": 8,
        "stages": (
            "ds_r1_k3_s1_e1_c4",
            "ir_r1_k3_s2_e6_c8",
            "ir_r1_k5_s2_e6_c12",
            "ir_r2_k3_s2_e6_c20",
            "ir_r1_k5_s1_e6_c28",
            "ir_r1_k5_s2_e6_c48",
            "ir_r1_k3_s1_e6_c80",
        ),
        "n_features": 256,
        "skipped": 0.0,
        "momentum": 0.1,
    },
}
"""Structure of EfficientNet-Lite0 by size (full: timm's `tf_efficientnet_lite0`).

Tiny has about a quarter of its channels, mostly one block a stage; timm makes six times as many within a block a
multiple of 8.
"""


def efficientnet_lite0(size: str, in_channels: int, pooling: Pooling = "max") -> nn.Module:
    """EfficientNet-Lite0 on each slice."""
    return SliceEfficientNet(in_channels, pooling, **LITE0[size])


TIMM = "timm:"
"""What the key of a network of timm begins with: `timm:resnet50`, or with a tag, `timm:resnet50.a1_in1k`."""

TIMM_TINY: dict[str, dict[str, Any]] = {
    "resnet": {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)},
    "convnext": {"depths": (1, 1, 1, 1), "dims": (16, 32, 64, 128)},
    "densenet": {"growth_rate": 8, "block_config": (1, 1, 1, 1)},
    "vision_transformer": {"embed_dim": 48, "depth": 2, "num_heads": 2},
}
"""Structure of the tiny size, by timm's module; only there a network can be asked for fewer channels and blocks."""

TIMM_ANY_SIZE: dict[str, dict[str, Any]] = {
    "vision_transformer": {"dynamic_img_size": True, "dynamic_img_pad": True},
}
"""What makes a network take slices of any size, by timm's module."""


def timm_name(key: str) -> str:
    """The name of a network in timm.

    Args:
        key: `timm:NAME`.

    Raises:
        ValueError: timm has no network of that name; the message lists some that are like it.

    >>> timm_name("timm:resnet18.a1_in1k")
    'resnet18.a1_in1k'
    """
    import timm

    name = key.removeprefix(TIMM)
    bare, _, tag = name.partition(".")
    if not timm.is_model(bare) or ":" in name or "/" in name:
        near = ", ".join(nearest(bare, timm.list_models(), 3)) or "none"
        raise ValueError(
            f"backbone is {key!r}; timm {timm.__version__} has no network {bare}; like it: {near}."
        )
    if tag and tag not in (tags := [each.partition(".")[2] for each in timm.list_pretrained(bare)]):
        raise ValueError(
            f"backbone is {key!r}; {bare} has no weights {tag}, but {', '.join(tags) or 'none'}."
        )
    return name


def timm_network(name: str, size: str, in_channels: int, pooling: Pooling = "max") -> nn.Module:
    """A network of timm on each slice, its weights drawn as timm does; nothing is downloaded.

    Args:
        name: of the network in timm.
        size: `tiny` or `full`.
        in_channels: C of the clips.
        pooling: over the slices of a clip.
    """
    import timm

    settings: dict[str, Any] = {}
    for given in (TIMM_ANY_SIZE, TIMM_TINY if size == "tiny" else {}):
        for module, values in given.items():
            settings |= values if timm.models.is_model_in_modules(name, [module]) else {}
    net = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=0, **settings)
    return SliceTimm(net, pooling)


def timm_backbone(key: str) -> Backbone:
    """What is known about a network of timm.

    Args:
        key: `timm:NAME`.

    Raises:
        ValueError: timm has no network of that name.
    """
    import timm

    name = timm_name(key)
    published = timm.get_pretrained_cfg(name, allow_unregistered=True)
    height, width = published.input_size[1:] if published else (224, 224)
    return Backbone(
        key=key,
        title=f"{name} of timm on slices, highest",
        dims=2,
        build=partial(timm_network, name),
        licence="Apache-2.0 (timm)",
        citation=f"Wightman, PyTorch image models, 2019; {name} as in timm {timm.__version__}",
        clip=(1, height, width),
        cpu_precision="fp32",
        cpu_channels_last=True,
        sees_order=False,
    )


ENTRIES = (
    Backbone(
        key="resnet18",
        title="ResNet-18 on slices, highest",
        dims=2,
        build=resnet18,
        licence="BSD-3-Clause (torchvision)",
        citation="He et al., Deep residual learning for image recognition, CVPR 2016",
        clip=(1, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
        sees_order=False,
    ),
    Backbone(
        key="resnext101",
        title="ResNeXt-101 on slices, highest",
        dims=2,
        build=resnext101,
        licence="BSD-3-Clause (torchvision)",
        citation="Xie et al., Aggregated residual transformations for deep neural networks, CVPR 2017",
        clip=(1, 224, 224),
        cpu_precision="bf16",
        cpu_channels_last=True,
        sees_order=False,
    ),
    Backbone(
        key="efficientnet_lite0",
        title="EfficientNet-Lite0 on slices, highest",
        dims=2,
        build=efficientnet_lite0,
        licence="Apache-2.0 (timm)",
        citation="Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, ICML "
        "2019; the Lite variants are TensorFlow's (2020)",
        clip=(1, 224, 224),
        cpu_precision="fp32",
        cpu_channels_last=True,
        sees_order=False,
    ),
)
