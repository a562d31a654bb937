"""Controls: pretrained weights from which something was taken, to see what it was that helped.

A control is a prefix of an init, `shuffled:video`; several may be nested, and the innermost is applied
first. None touches the head, and each says in the ledger what became of every tensor.

| prefix | what is left of the weights | asks |
|---|---|---|
| `meanvar` | mean and variance of each tensor, normally drawn anew | is it only the scale? |
| `shuffled` | the values of each tensor, permuted within it | is it only the distribution? |
| `first_K` | the first K stages, the stem being one; the rest is random | how deep does it go? |
| `reversed` | all, with kernels turned round along the slices | does the direction of time matter? |
| `flat` | all, with each kernel its mean along the slices | does motion matter at all? |
| `frozen` | all, and the backbone is not trained: a linear probe | are the features there already? |
| `linear`, `attention`, `knn` | all, and features are computed once, for a head (`ctlib.training.heads`) | the same |

Running statistics of batch norms are permuted where other tensors are drawn or permuted: a variance
must stay positive. `meanvar` is the control of Raghu et al., Transfusion (NeurIPS 2019), "mean var init".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch

FROZEN = "frozen"
HEADS = ("linear", "attention", "knn")
"""What is fitted to the features of a frozen backbone; such a prefix is the outermost."""
UNTOUCHED = (FROZEN, *HEADS)
"""Prefixes that leave all of the weights."""
FIRST = re.compile(r"first_([1-9])")
STAGE = re.compile(r"\b(?:blocks\.|layer|features\.)(\d+)\.")
"""Number of a stage in the names of pytorchvideo's and torchvision's tensors; the stem may have none."""
TIMM_STAGE = re.compile(r"^backbone\.net\.(?:encoder\.)?(?:blocks|stages|layers?)\.(\d+)\.")
"""Number of a stage in the names of timm, transformers and MONAI, from 0 behind the stem."""
LAST = re.compile(r"^backbone\.(norm|norm_embed|fc_norm|net\.(conv_head|bn2|norm|fc_norm|head|layernorm))\.")
"""What is behind all blocks: EfficientNet's last convolution, the transformers' last norm."""
BEHIND_ALL = 99
"""Stage of what is behind all numbered ones; no `first_K` reaches it."""
RUNNING = ("running_mean", "running_var")

Tensors = dict[str, torch.Tensor]


class ControlError(ValueError):
    """A control that is unknown, or that changes nothing of the weights it is asked for: one sentence."""


def split(init_name: str) -> tuple[list[str], str]:
    """Controls of an init, innermost first, and the init that they are applied to.

    Raises:
        ControlError: a prefix is no control.

    >>> split("frozen:shuffled:video"), split("random")
    ((['shuffled', 'frozen'], 'video'), ([], 'random'))
    """
    *prefixes, base = init_name.split(":")
    for place, prefix in enumerate(prefixes):
        is_known = prefix in (*ADAPTED, FROZEN) or (prefix in HEADS and place == 0)
        if not is_known and not FIRST.fullmatch(prefix):
            known = ", ".join(
                (*ADAPTED, "first_1 to first_9", FROZEN, f"and before all others {', '.join(HEADS)}")
            )
            raise ControlError(f"init is {init_name!r}, {prefix!r} is no control; known are {known}.")
    return prefixes[::-1], base


def headed(init_name: str) -> tuple[str, str]:
    """The head that is fitted to frozen features, "" where the network is trained, and the init without it.

    >>> headed("linear:shuffled:video"), headed("frozen:video")
    (('linear', 'shuffled:video'), ('', 'frozen:video'))
    """
    head, _, bare = init_name.partition(":")
    return (head, bare) if bare and head in HEADS else ("", init_name)


def adapt_all(
    controls: Sequence[str], tensors: Mapping[str, torch.Tensor], generator: torch.Generator
) -> Tensors:
    """`adapt` by several controls, one after the other; those that leave all are passed over."""
    adapted = dict(tensors)
    for control in controls:
        adapted = adapted if control in UNTOUCHED else adapt(control, adapted, generator)
    return adapted


def adapt(control: str, tensors: Mapping[str, torch.Tensor], generator: torch.Generator) -> Tensors:
    """What a control leaves of a backbone's weights.

    Args:
        control: a control but `frozen`, which leaves all.
        tensors: weights and buffers by name.
        generator: of what is drawn or permuted.

    Returns:
        The tensors that are loaded, by name; others stay as they were drawn.

    Raises:
        ControlError: it would change nothing: all stages are kept, or no kernel reaches along the slices or
            differs along them, as those of `inflated` weights do not.
    """
    if first := FIRST.fullmatch(control):
        kept = {name: tensor for name, tensor in tensors.items() if stage(name) < int(first[1])}
        if len(kept) == len(tensors):
            n_stages = max(map(stage, tensors)) + 1
            raise ControlError(f"{control} keeps all {n_stages} stages; give fewer.")
        return kept
    adapted = {name: ADAPTED[control](name, tensor, generator) for name, tensor in tensors.items()}
    if all(adapted[name] is tensor for name, tensor in tensors.items()):
        raise ControlError(
            f"{control} changes nothing: no kernel of these weights reaches along the slices, or all are the "
            "same along them."
        )
    return adapted


def stage(name: str) -> int:
    """Number of the stage that a tensor is in; 0 is the stem.

    >>> stage("backbone.blocks.3.res_blocks.0.branch2.conv_a.weight"), stage("backbone.layer2.0.conv1.weight")
    (3, 2)
    >>> stage("backbone.conv1.weight"), stage("backbone.net.blocks.0.0.bn1.weight")
    (0, 1)
    >>> stage("backbone.net.encoder.layer.2.output.dense.bias"), stage("backbone.norm.weight")
    (3, 99)
    """
    if block := TIMM_STAGE.match(name):
        return 1 + int(block[1])
    if LAST.match(name):
        return BEHIND_ALL
    found = STAGE.search(name)
    return int(found[1]) if found else 0


def _shuffled(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor)


def _meanvar(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point() or name.endswith(RUNNING):
        return _shuffled(name, tensor, generator)
    drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return drawn * tensor.std(correction=0) + tensor.mean()


def _reversed(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not _reaches_along_slices(tensor):
        return tensor
    turned = tensor.flip(2)
    return tensor if torch.equal(turned, tensor) else turned


def _flat(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not _reaches_along_slices(tensor) or torch.equal(tensor, tensor[:, :, :1].expand_as(tensor)):
        return tensor
    return tensor.mean(dim=2, keepdim=True).expand_as(tensor).clone()


def _reaches_along_slices(tensor: torch.Tensor) -> bool:
    """Whether a tensor is the kernel of a 3D convolution over several slices, `[out, in, D, H, W]`."""
    return tensor.ndim == 5 and tensor.shape[2] > 1


ADAPTED: dict[str, Callable[[str, torch.Tensor, torch.Generator], torch.Tensor]] = {
    "meanvar": _meanvar,
    "shuffled": _shuffled,
    "reversed": _reversed,
    "flat": _flat,
}
"""Controls that change tensors one by one."""
