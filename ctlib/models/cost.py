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
  moment. Mixed precision halves what convolutions keep; CUDA's autocast leaves LayerNorm, softmax and GroupNorm in
  fp32 and casts around them, so that a transformer keeps as much, and PENet more (`saved_mb_in_bf16`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
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
    return cost_of(_without_values(key, size, in_channels), (in_channels, *clip))


def _without_values(key: str, size: Size, in_channels: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):  # from the beginning: to draw them takes longer than to count
                return build(key, size, in_channels)
        except (RuntimeError, TypeError):  # a network that looks at values while it is built
            return build(key, size, in_channels)


def saved_mb_in_bf16(key: str, size: Size, clip: tuple[int, int, int], in_channels: int = 1) -> float:
    """Million bytes that autograd keeps of one clip on a GPU, under bf16 autocast.

    The network runs on fake tensors of device `cuda`: their operations, casts and shapes are those of a GPU, and no GPU
    is needed. A recurrent layer, which keeps little, runs on none and counts nothing.

    Args:
        key, size, clip, in_channels: see `network_cost`.

    Raises:
        ValueError: unknown key or size.

    >>> clip = (8, 64, 64)
    >>> [round(saved_mb_in_bf16(key, "tiny", clip) / network_cost(key, "tiny", clip).saved_mb, 1)
    ...  for key in ("slow_r50", "mvit_b")]
    [0.6, 0.9]
    """
    network = _without_values(key, size, in_channels)
    with FakeTensorMode(), _bf16_on_cuda():
        for module in network.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None:
                        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                        held[name] = nn.Parameter(fake) if held is module._parameters else fake  # type: ignore[assignment]
            if isinstance(module, nn.RNNBase):
                module.forward = _no_recurrence(module)
        return _saved(network.train(), torch.empty(1, in_channels, *clip, device="cuda"))


@contextlib.contextmanager
def _bf16_on_cuda() -> Iterator[None]:
    """CUDA's autocast, which `torch.autocast` switches off where there is no GPU."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def _no_recurrence(module: nn.RNNBase) -> Callable[..., tuple[torch.Tensor, None]]:
    width = module.hidden_size * (2 if module.bidirectional else 1)
    return lambda features, *_: (features.new_zeros(*features.shape[:-1], width), None)


def cost_of(network: nn.Module, clip: tuple[int, ...]) -> Cost:
    """What a network costs; it loses its values, for it is moved to the `meta` device.

    Args:
        network: clips `[N, *clip]` to features.
        clip: shape of one clip, C first.

    >>> cost_of(nn.Conv3d(2, 3, kernel_size=3, bias=False), (2, 5, 5, 5))
    Cost(parameters=162, multiply_adds=4374, saved_mb=0.001)
    """
    network = network.to("meta").train()
    counter = FlopCounterMode(display=False)
    with torch.random.fork_rng(devices=[]), counter:
        saved_mb = _saved(network, torch.empty(1, *clip, device="meta"))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.get_total_flops() // 2, saved_mb)


class _Attention(torch.autograd.Function):
    """Attention that keeps what the fused kernels of CPUs and GPUs keep: not the attention of each two cells, which
    torch's `meta` device, without such kernels, would."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        found = (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        found = torch.empty_like(q).copy_(found)  # it lies in memory as q does, as the kernels leave it
        ctx.save_for_backward(q, k, v, found, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return found


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return _Attention.apply(q, k, v)


def _saved(network: nn.Module, clip: torch.Tensor) -> float:
    """Million bytes that autograd keeps of a clip `[1, C, D, H, W]`; no weight of the network counts."""
    own = {_storage(tensor) for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor  # held, so that no other storage gets its place
        return tensor

    plain = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = _attention  # type: ignore[assignment]
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            network(clip)
    finally:
        functional.scaled_dot_product_attention = plain
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 1e6


def _storage(tensor: torch.Tensor) -> int:
    """What tells the storage of a tensor from others; views share it."""
    return tensor.untyped_storage()._cdata
