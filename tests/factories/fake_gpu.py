"""A step of a network on a GPU that is not there: fake tensors of device `cuda`, watched operation by operation.

Fake tensors have the shapes, precisions and devices that a GPU's would have, and no values. Torch's own engine asks
the driver for streams in a backward pass, so `backward` here walks the same graph in Python.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
COPIES = (aten._to_copy, aten.copy_, aten._foreach_copy_)
VALUES = (
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
)


@dataclass
class Watch(TorchDispatchMode):
    """What the operations of a step do; `with watch:` is that step.

    Args:
        to_gpu, from_gpu: operations that copy, by what they copy to and from.
        synchronisations: operations that a CPU waits for.
        on_cpu: operations that compute on the CPU, by name.
        peak: most bytes of the GPU that were held at once.
    """

    to_gpu: int = 0
    from_gpu: int = 0
    synchronisations: int = 0
    on_cpu: Counter[str] = field(default_factory=Counter)
    live: int = 0
    peak: int = 0

    def __post_init__(self):
        super().__init__()
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet is aten._local_scalar_dense and args[0].device.type == "cpu":
            return 1.0
        made = func(*args, **kwargs) if packet not in VALUES else 1.0
        given, out = (
            [t for t in tree_leaves(each) if isinstance(t, torch.Tensor)] for each in ((args, kwargs), made)
        )
        for tensor in out:
            self.hold(tensor)
        devices, ends = ({t.device.type for t in some} for some in (given, out))
        if func.namespace == "prim":  # asks where a tensor is
            return made
        if packet in VALUES:
            self.synchronisations += 1
        elif packet in COPIES and devices | ends == {"cpu", "cuda"}:
            self.to_gpu += ends == {"cuda"}
            self.from_gpu += ends == {"cpu"}
        elif any(t.device.type == "cpu" and t.dim() for t in given + out):
            self.on_cpu[str(packet)] += 1
        return made

    def hold(self, tensor):
        """Count the bytes of a tensor's storage for as long as it lives."""
        storage = tensor.untyped_storage()
        if tensor.device.type == "cuda" and storage not in self.known:
            self.known.add(storage)
            self.live += (n := storage.nbytes())
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.free, n)

    def free(self, n):
        """A storage is gone."""
        self.live -= n


class Kept:
    """What autograd keeps for a backward pass; each part goes as its node is done, as torch's engine has it."""

    def __init__(self):
        self.opened = []
        self.hooks = saved_tensors_hooks(lambda tensor: [tensor], self.open)

    def open(self, box):
        """A tensor that a node asks for."""
        self.opened.append(box)
        return box[0]

    def forget(self):
        """The node is done."""
        for box in self.opened:
            box.clear()
        self.opened.clear()

    def backward(self, loss):
        """Gradients of all parameters, as `loss.backward()` gives them."""
        waits, todo = Counter(), [loss.grad_fn]
        seen = set(todo)
        while todo:
            for node, _ in todo.pop().next_functions:
                if node is not None:
                    waits[node] += 1
                    if node not in seen:
                        seen.add(node)
                        todo.append(node)
        gradients = defaultdict(dict)
        gradients[loss.grad_fn][0] = torch.ones_like(loss)
        ready = [loss.grad_fn]
        with torch.no_grad():
            while ready:
                node = ready.pop()
                for after, place, gradient in self.through(node, gradients.pop(node, {})):
                    if gradient is not None:
                        before = gradients[after].get(place)
                        gradients[after][place] = gradient if before is None else before + gradient
                    waits[after] -= 1
                    if not waits[after]:
                        ready.append(after)

    def through(self, node, given):
        """The gradients that a node hands on: to whom, which of its places, and what."""
        if hasattr(node, "variable"):
            node.variable.grad = given[0] if node.variable.grad is None else node.variable.grad + given[0]
            return []
        got = node(*(given.get(i) for i in range(len(node._input_metadata)))) if given else None
        self.forget()
        got = got if isinstance(got, tuple) else (got,) * len(node.next_functions)
        return [
            (after, place, gradient if gradient is None else as_given(after._input_metadata[place], gradient))
            for (after, place), gradient in zip(node.next_functions, got, strict=True)
            if after is not None
        ]


def as_given(wanted, gradient):
    """A gradient in the shape and precision of what it belongs to, as torch's engine brings it there."""
    return gradient.sum_to_size(wanted.shape).to(wanted.dtype)
