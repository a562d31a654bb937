"""The forward check: a network that was loaded gives the features that were stored, on a stored clip.

A ledger says which tensors were copied; this says that they still compute what they computed where they
came from: the right names but another padding, epsilon or order of channels would pass a ledger, and not
this. The clip is a function of its shape, so that nothing has to be kept but the features.

How large a difference is (largest over the largest feature; torch 2.14.1 on one CPU, each network with
statistics of random clips, its last normalization of a block between 0.05 and 0.15 at full size):

| | tiny, 18 networks | full, 11 networks, some tensors |
|---|---|---|
| rounding: channels last or not, one thread or two, oneDNN or not | up to 2.7e-6 | up to 9.8e-6 |
| one tensor left as it was drawn, median of its network | 0.1 to 0.8 | 0.02 to 1.1 |
| the least of those tensors | 1e-3 to 3e-2 | 1e-3 to 0.8 |

Not seen is a tensor that hardly matters for this clip: a table of biases that are still near 0 (Swin3D-T,
1e-5), a kernel of a map of one cell (MViTv2), a running mean near the drawn 0. The ledger has those.
`tests/models/test_load.py` holds both ends.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

SHAPE = (8, 64, 64)
"""(D, H, W) of the stored clip: every network takes it, S3D of five slices of 17 x 17 included."""

TOLERANCE = 3e-4
"""Largest difference over the largest stored feature that passes: thirty times the rounding seen above, and a
quarter of what the least tensor does."""

NOT_STORED = math.nan
"""The difference where no features were stored."""


def clip(channels: int = 1) -> torch.Tensor:
    """The stored clip: sums of three waves, another for each channel, none of them symmetric along an axis.

    Args:
        channels: C; the first channel is the same for every C.

    Returns:
        Float32 `[1, C, 8, 64, 64]` in [0, 1].

    >>> first = clip(3)
    >>> tuple(first.shape), [round(float(v), 4) for v in first[0, :, 2, 3, 5]]
    ((1, 3, 8, 64, 64), [0.4381, 0.4469, 0.8788])
    """
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in SHAPE), indexing="ij")
    planes = []
    for c in range(channels):
        turns = (3 * x + z + c / 3, 5 * y - 2 * z + c / 5, 7 * x * y + z * z + c / 7)
        planes.append(0.5 + sum((torch.sin(2 * math.pi * turn) for turn in turns), torch.zeros(())) / 6)
    return torch.stack(planes)[None].float()


def features(backbone: nn.Module, mean: Sequence[float], std: Sequence[float], channels: int) -> torch.Tensor:
    """Features of the stored clip, in evaluation, in fp32 and on the CPU.

    A copy computes them: the mode of the backbone, its place and memory format stay, and so does torch's
    generator.

    Args:
        backbone: `[N, C, D, H, W] -> [N, F]`.
        mean: of the voxels in [0, 1], one a channel or one for all.
        std: the same.
        channels: of the clip; one channel is repeated where mean and std have more.

    Returns:
        Float32 `[F]`.
    """
    twin = copy.deepcopy(backbone).eval().to("cpu", torch.float32)
    twin = twin.to(memory_format=torch.contiguous_format)
    shift, scale = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1, 1) for v in (mean, std))
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return twin((clip(channels) - shift) / scale)[0]


def stored(backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The features for a record, or why there are none.

    A network that does not take the clip, as a user's own may, is saved all the same: its weights are
    worth more than this check.

    Args:
        backbone: what is saved.
        mean: of the voxels, one a channel.
        std: the same.

    Returns:
        `features`, a list of floats, and `features_why`, empty where there are some.
    """
    try:
        found = features(backbone, mean, std, len(mean))
    except (RuntimeError, ValueError) as error:
        shape = " x ".join(map(str, (1, len(mean), *SHAPE)))
        why = f"the network does not take a clip of {shape}: {' '.join(str(error).split())[:200]}"
        return {"features": [], "features_why": why}
    return {"features": found.tolist(), "features_why": ""}


def difference(found: torch.Tensor, expected: Sequence[float]) -> float:
    """Largest difference of features over the largest stored one; NaN where none are stored.

    Args:
        found: `[F]`.
        expected: the stored features, or the first of them.

    Returns:
        0 or more; infinite where a feature is not finite, or fewer are found than were stored.

    >>> difference(torch.tensor([1.0, -4.0, 9.0]), (1.0, -4.1))
    0.0243902...
    >>> difference(torch.tensor([1.0]), ()), difference(torch.tensor([torch.nan]), (1.0,))
    (nan, inf)
    """
    if not len(expected):
        return NOT_STORED
    known = torch.tensor(expected, dtype=torch.float32)
    if len(found) < len(known) or not found.isfinite().all() or not known.isfinite().all():
        return math.inf
    largest = (found[: len(known)] - known).abs().max() / known.abs().max().clamp(min=1e-12)
    return float(largest)
