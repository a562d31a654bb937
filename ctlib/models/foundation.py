"""Networks of 2025 by the libraries that publish them: video transformers (transformers), CT networks (MONAI).

Nothing of a network is written here but how a clip goes in and which features come out; tensors keep the names of
the library behind `net.`, so that public weights fit.

- V-JEPA 2: mean of the last cells. Its places are turned into the attention (rotary), one cell a place, as far as the
  clip reaches, so any size works; at the published size they are the published ones.
- VideoMAE: mean of the last cells, normalized. Its fixed embeddings of places are made for 16 x 224 x 224; for another
  clip they are read between their places (trilinear).
- TimeSformer: the class token. Its library reads the embeddings for another clip from the nearest place.
- SegResNet's encoder, of CT-FM and of VISTA3D: mean of the deepest maps.
- MedicalNet's ResNets: mean of the last maps. The stem has stride 2, as the authors' own; their last two stages are
  dilated in place of strided, for maps of segmentation, and MONAI's are strided.

A side of a clip that is no multiple of a transformer's cell is stretched to the next one (trilinear). `hf:MODEL` opens
any V-JEPA 2, VideoMAE or TimeSformer: a repository of the Hugging Face hub, or a folder with `config.json`.

Tiny size: the same classes, narrower and of two blocks. Random weights are the libraries' own: truncated normal 0.02
(V-JEPA 2), normal 0.02 (VideoMAE, TimeSformer), convolutions He-normal (MedicalNet) or torch's own (SegResNet). One
thing differs: TimeSformer's embeddings of the slices' order begin truncated normal 0.1, not 0.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ctlib.models.record import Backbone

HF = "hf:"
"""What the key of a network of the hub begins with: `hf:facebook/vjepa2-vith-fpc64-256`."""
EXTRA = "foundation"
"""The extra of this project that installs transformers."""


def require_extra(key: str) -> None:
    """Refuse a network whose extra is not installed.

    Args:
        key: of any network.

    Raises:
        ValueError: transformers is missing.
    """
    needed = key.startswith(HF) or any(entry.key == key and entry.extra for entry in ENTRIES)
    if needed and importlib.util.find_spec("transformers") is None:
        raise ValueError(f"{key} needs the package transformers: pip install -e '.[{EXTRA}]'.")


def _transformers() -> Any:
    """The library, which is an extra, loaded when a network of it is built."""
    import transformers

    return transformers


class Cells(nn.Module):
    """A video transformer on a clip of any size.

    Args:
        net: of transformers.
        cell: (D, H, W) of the voxels that become a token.
        made_for: (D, H, W) in cells that it was published with.
    """

    def __init__(self, net: Any, cell: tuple[int, int, int], made_for: tuple[int, int, int]) -> None:
        super().__init__()
        self.net: Any = net
        self.cell, self.made_for = cell, made_for
        self.n_features = int(net.config.hidden_size)

    def frames(self, clip: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """A clip `[N, C, D, H, W]` as `[N, D, C, H, W]`, stretched to whole cells, and their number on each side."""
        grid = tuple(-(-n // cell) for n, cell in zip(clip.shape[2:], self.cell, strict=True))
        size = tuple(n * cell for n, cell in zip(grid, self.cell, strict=True))
        if size != tuple(clip.shape[2:]):
            clip = functional.interpolate(clip, size=size, mode="trilinear")
        return clip.transpose(1, 2), grid


class VJepa2(Cells):
    """The encoder of V-JEPA 2, mean of its cells."""

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        frames, (d, h, w) = self.frames(clip)
        side = max(self.made_for[1], h, w)
        at = [torch.arange(n, device=clip.device) for n in (d, h, w)]
        places = (at[0][:, None, None] * side + at[1][:, None]) * side + at[2]
        tokens = self.net.embeddings(frames)
        for layer in self.net.layer:
            layer.attention.grid_size = side
            tokens = layer(tokens, places.reshape(1, -1).expand(len(clip), -1))[0]
        return self.net.layernorm(tokens).mean(dim=1)


class VideoMAE(Cells):
    """The encoder of VideoMAE, mean of its cells, then the norm that its published head has."""

    places: torch.Tensor

    def __init__(self, net: Any, cell: tuple[int, int, int], made_for: tuple[int, int, int]) -> None:
        super().__init__(net, cell, made_for)
        table = net.embeddings.position_embeddings.detach()
        self.register_buffer("places", table.transpose(1, 2).unflatten(2, made_for), persistent=False)
        self.fc_norm = nn.LayerNorm(self.n_features)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        frames, grid = self.frames(clip)
        tokens = self.net.embeddings.patch_embeddings.projection(frames.transpose(1, 2))
        places = self.places
        if grid != self.made_for:
            places = functional.interpolate(places, size=grid, mode="trilinear")
        tokens = (tokens + places).flatten(2).transpose(1, 2)
        return self.fc_norm(self.net.encoder(tokens).last_hidden_state.mean(dim=1))


class TimeSformer(Cells):
    """TimeSformer with its class token."""

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        frames, (d, _, w) = self.frames(clip)
        self.net.config.num_frames = d  # its layers take the clip's shape from there
        self.net.config.image_size = w * self.cell[2]
        return self.net(pixel_values=frames).last_hidden_state[:, 0]


@dataclass(frozen=True)
class Family:
    """Networks of one class of transformers.

    Args:
        title: for people.
        config: name of its configuration's class.
        made: the network of a configuration.
        size: name of the field with the side of its frames, px.
        frames: name of the field with their number.
        tiny: fields of the tiny size.
        names: beginnings of the library's names of tensors to ours.
        heads: beginnings of those that are not used.
        mean: of the channels in [0, 1], of its publishers' preprocessing.
        std: the same.
    """

    title: str
    config: str
    made: Callable[[Any], nn.Module]
    size: str
    frames: str
    tiny: Mapping[str, Any]
    names: Mapping[str, str]
    heads: tuple[str, ...]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


def _vjepa2(config: Any) -> nn.Module:
    config.pred_num_hidden_layers = 1  # the predictor is not used
    cell = (config.tubelet_size, config.patch_size, config.patch_size)
    side = config.crop_size // config.patch_size
    encoder = _transformers().VJEPA2Model(config).encoder
    return VJepa2(encoder, cell, (config.frames_per_clip // config.tubelet_size, side, side))


def _videomae(config: Any) -> nn.Module:
    config.use_mean_pooling = True  # its own last norm is behind the mean: fc_norm
    cell = (config.tubelet_size, config.patch_size, config.patch_size)
    side = config.image_size // config.patch_size
    return VideoMAE(_transformers().VideoMAEModel(config), cell, (config.num_frames // cell[0], side, side))


TIME_STD = 0.1
"""Spread of TimeSformer's random embeddings of order: that of its cells, which its library's zeros are not."""


def _timesformer(config: Any) -> nn.Module:
    side = config.image_size // config.patch_size
    cell = (1, config.patch_size, config.patch_size)
    net = _transformers().TimesformerModel(config)
    nn.init.trunc_normal_(net.embeddings.time_embeddings, std=TIME_STD)
    return TimeSformer(net, cell, (config.num_frames, side, side))


_TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
FAMILIES: dict[str, Family] = {
    "vjepa2": Family(
        title="V-JEPA 2",
        config="VJEPA2Config",
        made=_vjepa2,
        size="crop_size",
        frames="frames_per_clip",
        tiny={**_TINY, "crop_size": 48, "pred_hidden_size": 24, "pred_num_attention_heads": 2},
        names={"encoder.": "net.", "vjepa2.encoder.": "net."},
        heads=("predictor.", "vjepa2.predictor.", "pooler.", "classifier."),
    ),
    "videomae": Family(
        title="VideoMAE",
        config="VideoMAEConfig",
        made=_videomae,
        size="image_size",
        frames="num_frames",
        tiny={**_TINY, "image_size": 48, "intermediate_size": 192},
        names={
            "videomae.": "net.",
            "fc_norm.": "fc_norm.",
            **{
                f"videomae.{layer}.{old}": f"net.{layer}.{new}"
                for layer in (
                    f"encoder.layer.{i}.attention.attention" for i in range(48)
                )  # its files are older than these names of the library
                for old, new in (("q_bias", "query.bias"), ("v_bias", "value.bias"))
            },
        },
        heads=("classifier.", "decoder.", "encoder_to_decoder.", "mask_token"),
    ),
    "timesformer": Family(
        title="TimeSformer",
        config="TimesformerConfig",
        made=_timesformer,
        size="image_size",
        frames="num_frames",
        tiny={**_TINY, "image_size": 48, "intermediate_size": 192},
        names={"timesformer.": "net."},
        heads=("classifier.",),
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
    ),
}
"""By the `model_type` of their configurations."""


def _video(family: str, full: Mapping[str, Any], size: str, in_channels: int) -> nn.Module:
    """A network of a family, with random weights."""
    known = FAMILIES[family]
    asked = {**full, **(known.tiny if size == "tiny" else {})}
    channels = "in_chans" if family == "vjepa2" else "num_channels"
    config = getattr(_transformers(), known.config)(**{**asked, channels: in_channels})
    return known.made(config)


@cache
def opened(model: str) -> Any:
    """The configuration of a model of the hub, or of a folder; of the hub's cache where there is no network.

    Args:
        model: `owner/name`, or a folder with `config.json`.

    Raises:
        ValueError: the extra or the model is missing, or it is of no class that is known here.
    """
    require_extra(HF + model)
    library = _transformers()
    try:
        config = library.AutoConfig.from_pretrained(str(Path(model).expanduser()))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"backbone is {HF + model!r}: its config.json was not read ({' '.join(str(error).split())[:160]}); give "
            "owner/name of a model of the hub, with a network or in its cache, or a folder with config.json and "
            "model.safetensors."
        ) from error
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"backbone is {HF + model!r}, a {config.model_type}; known are {', '.join(FAMILIES)}; a network of another "
            "class is a module:function of your own."
        )
    return config


def hub_backbone(key: str) -> Backbone:
    """What is known about a network `hf:MODEL`.

    Raises:
        ValueError: see `opened`.
    """
    config = opened(model := key.removeprefix(HF))
    family = FAMILIES[config.model_type]
    side = int(getattr(config, family.size))
    full = {k: v for k, v in config.to_diff_dict().items() if k not in ("transformers_version", "model_type")}
    return _entry(
        key,
        f"{family.title}, {model}",
        config.model_type,
        full,
        (int(getattr(config, family.frames)), side, side),
    )


def _entry(
    key: str, title: str, family: str, full: Mapping[str, Any], clip: tuple[int, int, int], cites: str = ""
) -> Backbone:
    return Backbone(
        key=key,
        title=title,
        dims=3,
        build=partial(_video, family, full),
        licence="Apache-2.0 (transformers)",
        citation=cites or "its authors, on its page of the hub",
        clip=clip,
        cpu_precision="fp32",
        cpu_channels_last=False,
        extra=EXTRA,
        is_flat=family == "timesformer",
    )


class SegRes(nn.Module):
    """MONAI's encoder of SegResNet, mean of its deepest maps.

    Args:
        in_channels: C of the clips.
        filters: of the first level; each level doubles them.
        blocks: of each level.
        norm: `batch` or `instance`.
    """

    def __init__(self, in_channels: int, filters: int, blocks: tuple[int, ...], norm: str) -> None:
        super().__init__()
        from monai.networks.nets.segresnet_ds import SegResEncoder

        self.net: Any = SegResEncoder(
            init_filters=filters, in_channels=in_channels, norm=norm, blocks_down=blocks
        )
        self.n_features = filters * 2 ** (len(blocks) - 1)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        return self.net(clip)[-1].mean(dim=(2, 3, 4))


def _segres(filters: int, norm: str, size: str, in_channels: int) -> nn.Module:
    if size == "full":
        return SegRes(in_channels, filters, (1, 2, 2, 4, 4), norm)
    return SegRes(in_channels, 4, (1, 1, 1, 1, 1), norm)


class MedicalNet(nn.Module):
    """MONAI's 3D ResNet, mean of its last maps.

    Args:
        net: of MONAI, without its last layer.
        n_features: of a clip.
    """

    def __init__(self, net: nn.Module, n_features: int) -> None:
        super().__init__()
        self.net = net
        self.n_features = n_features

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, C, D, H, W]` to features `[N, F]`."""
        return self.net(clip)


def _medicalnet(depth: int, size: str, in_channels: int) -> nn.Module:
    from monai.networks.nets import resnet

    biased, shortcut = resnet.get_medicalnet_pretrained_resnet_args(depth)
    block, layers = {18: ("basic", [2, 2, 2, 2]), 50: ("bottleneck", [3, 4, 6, 3])}[depth]
    widths = [64, 128, 256, 512]
    if size == "tiny":
        layers, widths = [1, 1, 1, 1], [8, 16, 32, 64]
    net = resnet.ResNet(
        block,
        layers,
        widths,
        n_input_channels=in_channels,
        conv1_t_stride=2,
        shortcut_type=shortcut,
        bias_downsample=biased,
        feed_forward=False,
    )
    return MedicalNet(net, widths[-1] * (4 if block == "bottleneck" else 1))


def _monai(
    key: str, title: str, clip: tuple[int, int, int], build: Callable[..., nn.Module], cites: str
) -> Backbone:
    return Backbone(
        key=key,
        title=title,
        dims=3,
        build=build,
        licence="Apache-2.0 (MONAI)",
        citation=cites,
        clip=clip,
        cpu_precision="fp32",
        cpu_channels_last=True,
    )


_MAE = "Tong et al., VideoMAE: masked autoencoders are data-efficient learners, NeurIPS 2022"
_MED = "Chen et al., Med3D: transfer learning for 3D medical image analysis, arXiv 1904.00625"
_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}

ENTRIES = (
    _entry(
        "vjepa2_l",
        "V-JEPA 2, ViT-L",
        "vjepa2",
        {},
        (64, 256, 256),
        "Assran et al., V-JEPA 2: self-supervised video models enable understanding, prediction and planning, 2025",
    ),
    _entry("videomae_s", "VideoMAE, ViT-S", "videomae", _SMALL, (16, 224, 224), _MAE),
    _entry("videomae_b", "VideoMAE, ViT-B", "videomae", {}, (16, 224, 224), _MAE),
    _entry(
        "timesformer_b",
        "TimeSformer, ViT-B",
        "timesformer",
        {},
        (8, 224, 224),
        "Bertasius et al., Is space-time attention all you need for video understanding?, ICML 2021",
    ),
    _monai(
        "segresnet_ct_fm",
        "SegResNet's encoder of CT-FM",
        (32, 128, 128),  # for its cost alone: we found no statement of what it was published with
        partial(_segres, 32, "batch"),
        "Pai et al., Vision foundation models for computed tomography, arXiv 2501.09001",
    ),
    _monai(
        "segresnet_vista3d",
        "SegResNet's encoder of VISTA3D",
        (128, 128, 128),
        partial(_segres, 48, "instance"),
        "He et al., VISTA3D: a unified segmentation foundation model for 3D medical imaging, CVPR 2025",
    ),
    _monai("medicalnet_r18", "MedicalNet, ResNet-18", (56, 448, 448), partial(_medicalnet, 18), _MED),
    _monai("medicalnet_r50", "MedicalNet, ResNet-50", (56, 448, 448), partial(_medicalnet, 50), _MED),
)
