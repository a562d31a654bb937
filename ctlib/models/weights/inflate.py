"""Weights of fewer dimensions or channels than the network, spread over more of them.

Over depth, as I3D does (Carreira and Zisserman, Quo vadis, action recognition?, CVPR 2017): a kernel of a
2D network is repeated along the slices and divided by their number, so that a clip of equal slices gives
what the 2D network gives on one. Kernels along the slices are padded with 0 at the ends of a clip, so there
it gives less: the first and last slices of a map see part of the kernel only. Of the mean over 32 equal
slices that is 1 % of Slow's features, and 24 % of R3D-18's, which has such kernels everywhere (random
weights; twice as much over 16 slices). `tests/models/test_inflate.py` holds that the inner slices are exact.

Windows of attention are spread as Video Swin does (Liu et al., CVPR 2022): the biases of places in the plane
are repeated for every distance along the slices. That is exact where slices fill whole windows: 16 or 32 do.

Over channels: a stem of one channel, repeated, a share each. Three equal channels then give what one gave.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

Tensors = dict[str, torch.Tensor]

_BIASES, _PLACES = "relative_position_bias_table", "relative_position_index"


def over_depth(
    given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> tuple[Tensors, dict[str, str]]:
    """Tensors of a 2D network as those of a 3D network of the same structure.

    Args:
        given: the 2D network's tensors under the names of the 3D network.
        wanted: the 3D network's, whose shapes say how many slices a kernel has.

    Returns:
        All of `given`, and how those were made that are not as given. A tensor that does not become one
        of the wanted shape is left as it is, to be refused by name.

    >>> kernel = torch.tensor([[[[6.0]]]])
    >>> spread, how = over_depth({"a": kernel}, {"a": torch.zeros(1, 1, 3, 1, 1)})
    >>> spread["a"].flatten().tolist(), how
    ([2.0, 2.0, 2.0], {'a': 'repeated over 3 slices, a third each'})
    """
    spread, how = dict(given), {}
    for name, tensor in given.items():
        target = wanted.get(name)
        if target is None:
            continue
        if target.ndim == 5 and tensor.ndim == 4 and _without(target, 2) == tensor.shape:
            depth = target.shape[2]
            spread[name] = (tensor.unsqueeze(2) / depth).expand(-1, -1, depth, -1, -1).contiguous()
            how[name] = (
                f"repeated over {depth} slices, {_share(depth)} each" if depth > 1 else "one slice deep"
            )
        elif name.endswith(_PLACES) and target.shape != tensor.shape:
            spread[name] = target
            how[name] = "places in this network's windows, which are deeper than the file's"
        elif name.endswith(_BIASES) and target.shape[1:] == tensor.shape[1:]:
            times, rest = divmod(len(target), len(tensor))
            if times > 1 and not rest:
                spread[name] = tensor.repeat(times, 1)
                how[name] = f"repeated for {times} distances along the slices"
    return spread, how


def over_channels(
    given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> tuple[Tensors, dict[str, str]]:
    """Kernels of one input channel as those of more, where the network has more.

    Args:
        given: tensors by name.
        wanted: the network's.

    Returns:
        All of `given`, and how those were made that are not as given.

    >>> spread, how = over_channels({"stem": torch.tensor([[[6.0]]])}, {"stem": torch.zeros(1, 3, 1)})
    >>> spread["stem"].tolist(), how
    ([[[2.0], [2.0], [2.0]]], {'stem': 'repeated over 3 input channels, a third each'})
    """
    spread, how = dict(given), {}
    for name, tensor in given.items():
        target = wanted.get(name)
        if target is None or target.ndim != tensor.ndim or tensor.ndim < 3:
            continue
        channels = target.shape[1]
        if tensor.shape[1] == 1 and channels > 1 and _without(target, 1) == _without(tensor, 1):
            spread[name] = (tensor / channels).expand_as(target).contiguous()
            how[name] = f"repeated over {channels} input channels, {_share(channels)} each"
    return spread, how


def _without(tensor: torch.Tensor, dim: int) -> torch.Size:
    """The shape without one dimension."""
    return tensor.shape[:dim] + tensor.shape[dim + 1 :]


def _share(parts: int) -> str:
    """One part in words.

    >>> _share(3), _share(7)
    ('a third', '1/7')
    """
    return {2: "half", 3: "a third"}.get(parts, f"1/{parts}")
