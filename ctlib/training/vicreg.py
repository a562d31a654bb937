"""Learning without labels: two views of each clip, an expander in place of the head, a score for people.

A clip is drawn twice in a row, at two positions of the epoch, so a data set augments it in two ways as it
augments every draw; nothing else has to know that they are a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ctlib.datasets import Draw
from ctlib.training.loaders import Clips, EpochSampler

EMBEDDING = 256
"""Outputs of the expander, E. The paper has 8192 for ImageNet; for some thousand clips fewer do."""


class Paired:
    """Each row that a sampler draws, twice: rows 2 i and 2 i + 1 of an epoch are two views of one clip.

    Args:
        sampler: draws the clips.
    """

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return 2 * len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Draw as in this epoch."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Draw]:
        for pair, row in enumerate(self.sampler):
            yield Draw(int(row), position=2 * pair)
            yield Draw(int(row), position=2 * pair + 1)


class Views(torch.utils.data.Dataset[Mapping[str, Any]]):
    """Each clip of a data set that augments, twice, in order: for the held-out clips, always the same two.

    Args:
        clips: a data set in training mode.
    """

    def __init__(self, clips: Clips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return 2 * len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Augment as in this epoch."""
        self.clips.set_epoch(epoch)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """View `index % 2` of clip `index // 2`."""
        return self.clips[Draw(index // 2, position=index)]


def expander(n_features: int, generator: torch.Generator) -> nn.Sequential:
    """What stands in place of the head, features `[N, F]` to embeddings `[N, E]`: VICReg's expander, shorter.

    Args:
        n_features: F.
        generator: draws its weights, N(0, 1 / fan-in).
    """
    layers = nn.Sequential(
        nn.Linear(n_features, EMBEDDING, bias=False),
        nn.BatchNorm1d(EMBEDDING),
        nn.ReLU(inplace=True),
        nn.Linear(EMBEDDING, EMBEDDING, bias=False),
    )
    for layer in (layers[0], layers[3]):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)  # type: ignore[arg-type, operator]
    return layers


def found_again(embeddings: NDArray[np.float32]) -> float:
    """Share of clips whose second view is nearer (cosine) to their first than any other clip's is.

    Args:
        embeddings: `[2 * n, E]`, two views of each clip one after the other; n at least 1.

    >>> found_again(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32))
    1.0
    >>> found_again(np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.float32))
    0.0
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
    likeness = unit[0::2] @ unit[1::2].T
    own = likeness.diagonal()[:, None]
    # an embedding that is the same for all clips finds none: equals do not count as nearer
    nearer = (own > likeness) | np.eye(len(own), dtype=bool)
    return float(nearer.all(axis=1).mean())
