"""Names of published tensors to ours, where rules make them; `published.yaml` gives their keys as `names`."""

from __future__ import annotations

from collections.abc import Callable

from ctlib.models.foundation import FAMILIES


def _slow() -> dict[str, str]:
    """Names of torchvision's ResNet-50 to those of pytorchvideo's Slow: the same blocks, named otherwise."""
    names = {"conv1.": "blocks.0.conv.", "bn1.": "blocks.0.norm."}
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        for block in range(depth):
            theirs, ours = f"layer{stage}.{block}.", f"blocks.{stage}.res_blocks.{block}."
            names |= {theirs + "downsample.0.": ours + "branch1_conv."}
            names |= {theirs + "downsample.1.": ours + "branch1_norm."}
            for number, letter in enumerate("abc", start=1):
                names[f"{theirs}conv{number}."] = f"{ours}branch2.conv_{letter}."
                names[f"{theirs}bn{number}."] = f"{ours}branch2.norm_{letter}."
    return names


def _r3d() -> dict[str, str]:
    """Names of torchvision's ResNet-18 to those of its R3D-18."""
    names = {"conv1.": "stem.0.", "bn1.": "stem.1."}
    for block in (f"layer{stage}.{i}." for stage in (1, 2, 3, 4) for i in (0, 1)):
        names |= {f"{block}conv{i}.": f"{block}conv{i}.0." for i in (1, 2)}
        names |= {f"{block}bn{i}.": f"{block}conv{i}.1." for i in (1, 2)}
        names[f"{block}downsample."] = f"{block}downsample."
    return names


def _swin() -> dict[str, str]:
    """Names of torchvision's Swin-T to those of its Swin3D-T, whose first part is not counted."""
    names = {f"features.{i}.": f"features.{i - 1}." for i in range(1, 8)}
    return names | {
        "features.0.0.": "patch_embed.proj.",
        "features.0.2.": "patch_embed.norm.",
        "norm.": "norm.",
    }


def _penet() -> dict[str, str]:
    """Names of the authors' PENet classifier to ours, in both versions of their code."""
    names = {"module.in_conv.": "blocks.0."}
    parts = {"se_block.excite.": "gate.weigh.", "down_sample.": "shortcut."}
    for i, part in enumerate(("narrow", "grouped", "widen"), start=1):
        parts |= {f"conv{i}.": f"{part}.0.", f"norm{i}.": f"{part}.1."}
    for stage, depth in enumerate((3, 4, 6, 3)):
        for unit in range(depth):
            for blocks in ("penet_blocks", "xnet_blocks"):
                theirs, ours = f"module.encoders.{stage}.{blocks}.{unit}.", f"blocks.{stage + 1}.{unit}."
                names |= {theirs + part: ours + our for part, our in parts.items()}
    return names


def _lite() -> dict[str, str]:
    """Names of the tensors of efficientnet_lite_pytorch to those of timm, which counts blocks in stages."""
    names = {"_conv_stem.": "net.conv_stem.", "_bn0.": "net.bn1."}
    names |= {"_conv_head.": "net.conv_head.", "_bn1.": "net.bn2."}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    parts = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    parts |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    places = [(stage, i) for stage, depth in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(depth)]
    for block, (stage, i) in enumerate(places):
        for theirs, ours in (parts if block else first).items():
            names[f"_blocks.{block}.{theirs}."] = f"net.blocks.{stage}.{i}.{ours}."
    return names


NAMES: dict[str, Callable[[], dict[str, str]]] = {
    "resnet50_to_slow": _slow,
    "resnet18_to_r3d": _r3d,
    "swin_t_to_swin3d": _swin,
    "penet": _penet,
    "efficientnet_lite0_to_timm": _lite,
    "videomae": lambda: dict(FAMILIES["videomae"].names),
}
"""Beginnings of their names to ours, by what `published.yaml` calls them."""
