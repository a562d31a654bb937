"""Published weights: one record a file. Nothing is fetched here."""

from __future__ import annotations

from pathlib import Path

from ctlib.zoo.weights import Weights


def _pytorchvideo(
    file: str, stem: tuple[str, ...] = ("blocks.0.conv.weight",), head: str = "blocks.5."
) -> Weights:
    """A file of pytorchvideo's model zoo (`models/hub`, 0.1.5); it publishes no checksums."""
    return Weights(
        file=file,
        source="Kinetics-400, labelled video (pytorchvideo's model zoo)",
        licence="Apache-2.0 (pytorchvideo); Kinetics-400 annotations CC BY 4.0",
        mean=(0.45,),
        std=(0.225,),
        url=f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/{file}",
        entry="model_state",
        head=(head,),
        stem=stem,
    )


def _torchvision(
    file: str,
    head: str,
    source: str = "Kinetics-400, labelled video (torchvision)",
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
) -> Weights:
    """A file of torchvision's, with its transform's mean and std; the name says how its SHA-256 begins."""
    return Weights(
        file=file,
        source=source,
        licence="BSD-3-Clause (torchvision); the terms of the dataset may add to it",
        mean=mean,
        std=std,
        channels=3,
        url=f"https://download.pytorch.org/models/{file}",
        sha256=Path(file).stem.rsplit("-", 1)[1],
        head=(head,),
    )


_IMAGENET = "ImageNet-1K, labelled photographs (torchvision, IMAGENET1K_V1)"
_VIDEO_MEAN, _VIDEO_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
"""Defaults of torchvision's `VideoClassification` transform."""
_PATHWAYS = tuple(f"blocks.0.multipathway_blocks.{i}.conv.weight" for i in (0, 1))

PUBLIC: dict[str, dict[str, Weights]] = {
    "kinetics400": {
        "slow_r50": _pytorchvideo("SLOW_8x8_R50.pyth"),
        "slowfast_r50": _pytorchvideo("SLOWFAST_8x8_R50.pyth", _PATHWAYS, head="blocks.6."),
        "r2plus1d_r50": _pytorchvideo("R2PLUS1D_16x4_R50.pyth"),
        "csn_r101": _pytorchvideo("CSN_32x2_R101.pyth"),
        "x3d_m": _pytorchvideo("X3D_M.pyth", ("blocks.0.conv.conv_t.weight",)),
        "mvit_b": _pytorchvideo("MVIT_B_32x3_f294077834.pyth", ("patch_embed.patch_model.weight",), "head."),
        "swin3d_t": _torchvision("swin3d_t-7615ae03.pth", "head."),
        "r3d_18": _torchvision("r3d_18-b3b3357e.pth", "fc.", mean=_VIDEO_MEAN, std=_VIDEO_STD),
        "s3d": _torchvision("s3d-d76dad2f.pth", "classifier.", mean=_VIDEO_MEAN, std=_VIDEO_STD),
    },
    "imagenet": {
        "resnet18": _torchvision("resnet18-f37072fd.pth", "fc.", _IMAGENET),
        "resnext101": _torchvision("resnext101_32x8d-8ba56ff5.pth", "fc.", _IMAGENET),
    },
}
"""Published weights by init and backbone. ResNeXt-101 is the 32x8d with the weights of 2017, as published."""
