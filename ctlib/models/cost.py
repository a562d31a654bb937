"""What a network costs: parameters, multiply-adds of a clip, and the memory that its training keeps.

All is counted on tensors without values (torch's `meta` device), so that a clip of any size costs no memory
and little time.

- Parameters are those of the network without a head; all are trained.
- Multiply-adds are those of a forward pass, by torch's formulas: convolutions and products of matrices, which
  GRUs and attention consist of. Additions, norms, activations and pooling are not counted, as is usual. In
  papers and model zoos they are often called FLOPs; torch counts two floating point operations for each.
- Memory is what autograd keeps of one clip in fp32 for the backward pass: activations, the clip itself, and
  what operations store for themselves, each storage once. Weights, their gradients and the optimizer come on
  top, once and not for each clip (16 bytes a parameter with Adam), and so does what a pass needs for a
  moment. Mixed precision halves most of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ctlib.models.registry import Size, build


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Args:
        parameters: without a head.
        multiply_adds: of the forward pass of one clip.
        saved_mb: million bytes that autograd keeps of one clip for the backward pass, in fp32.
    """

    parameters: int
    multiply_adds: int
    saved_mb: float


def network_cost(key: str, size: Size, clip: tuple[int, int, int], in_channels: int = 1) -> Cost:
    """What the network of a key costs.

    Args:
        key: a key of `ctlib.models.registry.BACKBONES`, or a user's `module:function`.
        size: `tiny` or `full`.
        clip: (D, H, W) of a clip.
        in_channels: C of a clip.

    Raises:
        ValueError: unknown key or size.

    >>> network_cost("resnet18", "full", (1, 224, 224), in_channels=3).multiply_adds
    1813561344
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device(
                "meta"
            ):  # without values from the beginning: to draw them takes longer than to count
                network = build(key, size, in_channels)
        except (RuntimeError, TypeError):  # a network that looks at values while it is built
            network = build(key, size, in_channels)
    return cost_of(network, (in_channels, *clip))


def cost_of(network: nn.Module, clip: tuple[int, ...]) -> Cost:
    """What a network costs; it loses its values, for it is moved to the `meta` device.

    Args:
        network: clips `[N, *clip]` to features.
        clip: shape of one clip, C first.

    >>> cost_of(nn.Conv3d(2, 3, kernel_size=3, bias=False), (2, 5, 5, 5))
    Cost(parameters=162, multiply_adds=4374, saved_mb=0.001)
    """
    network = network.to("meta").train()
    own = {_storage(tensor) for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor  # held, so that no other storage gets its place
        return tensor

    counter = FlopCounterMode(display=False)
    with torch.random.fork_rng(devices=[]), saved_tensors_hooks(keep, lambda tensor: tensor), counter:
        network(torch.empty(1, *clip, device="meta"))
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.get_total_flops() // 2, saved / 1e6)


def _storage(tensor: torch.Tensor) -> int:
    """What tells the storage of a tensor from others; views share it."""
    return tensor.untyped_storage()._cdata
