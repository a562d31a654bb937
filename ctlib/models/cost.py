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
  fp32 and casts around them, so that a transformer keeps as much, and PENet more (`gpu_work`).
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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

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
    return cost_of(without_values(key, size, in_channels), (in_channels, *clip))


def without_values(key: str, size: Size, in_channels: int = 1) -> nn.Module:
    """The network of a key on torch's `meta` device, or on the CPU if it looks at values while it is built."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):  # from the beginning: to draw them takes longer than to count
                return build(key, size, in_channels)
        except (RuntimeError, TypeError):  # a network that looks at values while it is built
            return build(key, size, in_channels)


@dataclass(frozen=True)
class GpuWork:
    """What a GPU does in the forward pass of one clip, in training and under bf16 autocast.

    Args:
        saved_mb: million bytes that autograd keeps for the backward pass.
        flops: of operations that arithmetic limits: those with more than `RIDGE` a byte.
        n_bytes: that all other operations read and write.
        kernels: operations, each of which a CPU launches, of a batch.
    """

    saved_mb: float
    flops: float
    n_bytes: float
    kernels: int


RIDGE = 175.0
"""Floating point operations for each byte of memory, above which arithmetic limits an operation: between the A100's
(312e12 a second in bf16 and 2.04e12 bytes, 153) and the H200's (989e12 and 4.8e12, 206), of their data sheets."""


def gpu_work(key: str, size: Size, clip: tuple[int, int, int], in_channels: int = 1) -> GpuWork:
    """What a GPU does in the forward pass of one clip.

    The network runs on fake tensors of device `cuda`: their operations, casts and shapes are those of a GPU, and no GPU
    is needed.

    Args:
        key, size, clip, in_channels: see `network_cost`.

    Raises:
        ValueError: unknown key or size.

    >>> clip = (8, 64, 64)
    >>> [round(gpu_work(key, "tiny", clip).saved_mb / network_cost(key, "tiny", clip).saved_mb, 1)
    ...  for key in ("slow_r50", "mvit_b")]
    [0.5, 0.8]
    """
    network = without_values(key, size, in_channels)
    found = []
    with fake_gpu(network):
        for n in (
            1,
            2,
        ):  # what is there for any number of clips is kept and read once: copies of weights in bf16
            clips, operations = torch.empty(n, in_channels, *clip, device="cuda"), _Operations()
            torch.clear_autocast_cache()
            with operations:
                found.append((_saved(network.train(), clips), operations))
    (one_mb, one), (two_mb, two) = found
    return GpuWork(two_mb - one_mb, two.flops - one.flops, two.n_bytes - one.n_bytes, two.kernels)


class _Operations(TorchDispatchMode):
    """Counts what `GpuWork` has, of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.n_bytes, self.kernels = 0.0, 0.0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        is_view = any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        tensors = [t for t in tree_leaves((args, kwargs, made)) if isinstance(t, torch.Tensor)]
        # what is in `prim` asks where a tensor lies
        if func.namespace == "prim" or is_view or not any(t.device.type == "cuda" for t in tensors):
            return made
        n_bytes = sum(t.numel() * t.element_size() for t in tensors)
        count = flop_registry.get(func.overloadpacket)
        flops = count(*args, **kwargs, out_val=made) if count else 0
        self.kernels += 1
        if flops > RIDGE * n_bytes:
            self.flops += flops
        else:
            self.n_bytes += n_bytes
        return made


@contextlib.contextmanager
def fake_gpu(network: nn.Module, bf16: bool = True) -> Iterator[None]:
    """Within the block a network without values lies on a GPU that is not there, under CUDA's autocast.

    Its tensors are fake: shapes, precisions and devices are those of a GPU. A recurrent layer stands for its product
    with what comes in, since torch knows no fake gradients of one.

    Args:
        network: changed in place.
        bf16: whether autocast is on.
    """
    with FakeTensorMode(), contextlib.ExitStack() as stack:
        if bf16:
            stack.enter_context(_bf16_on_cuda())
            stack.enter_context(_attending(_flash))
        for module in network.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None:
                        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                        held[name] = nn.Parameter(fake) if held is module._parameters else fake  # type: ignore[assignment]
            if isinstance(module, nn.RNNBase):
                module.forward = _no_recurrence(module)
        yield


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
    names = ("weight_ih_l0", "weight_ih_l0_reverse") if module.bidirectional else ("weight_ih_l0",)
    ways = [getattr(module, name)[: module.hidden_size] for name in names]
    return lambda features, *_: (torch.cat([functional.linear(features, way) for way in ways], -1), None)


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


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any = None, *_: Any, **__: Any
) -> Any:
    """The kernel that a GPU takes in bf16, to which autocast brings all; torch takes another where there is no GPU."""
    if attn_mask is not None:
        return _PLAIN(q, k, v, attn_mask)
    return torch.ops.aten._scaled_dot_product_flash_attention(q.bfloat16(), k.bfloat16(), v.bfloat16())[0]


_PLAIN = functional.scaled_dot_product_attention


@contextlib.contextmanager
def _attending(attention: Callable[..., Any]) -> Iterator[None]:
    """Another function in the place of torch's attention."""
    before = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before


def _saved(network: nn.Module, clip: torch.Tensor) -> float:
    """Million bytes that autograd keeps of a clip `[1, C, D, H, W]`; no weight of the network counts."""
    own = {_storage(tensor) for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor  # held, so that no other storage gets its place
        return tensor

    with _attending(_attention), saved_tensors_hooks(keep, lambda tensor: tensor):
        network(clip)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 1e6


def _storage(tensor: torch.Tensor) -> int:
    """What tells the storage of a tensor from others; views share it."""
    return tensor.untyped_storage()._cdata
