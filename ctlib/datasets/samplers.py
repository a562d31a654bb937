"""Which clips an epoch draws, and in which order: a function of (seed, epoch) only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

_SAMPLE = 1  # stream of the seed; `ctlib.datasets.clips` augments from another


class Draw(int):
    """A row that a sampler drew: an int that knows its position in the epoch.

    So a row that is drawn twice in an epoch is augmented in two ways.

    >>> rows = ["a", "b"]
    >>> rows[Draw(1, position=7)], Draw(1, position=7).position
    ('b', 7)
    """

    position: int

    # pickle calls it with the row alone and restores the position afterwards
    def __new__(cls, row: int, position: int = 0) -> Draw:  # noqa: D102
        draw = super().__new__(cls, row)
        draw.position = position
        return draw


class BalancedSampler(Sampler[int]):
    """Rows drawn with replacement, each class with the same weight.

    Each is a `Draw`, a function of (seed, epoch, position) only.

    Args:
        labels: class of each row.
        n: draws an epoch.
        seed: of the draws.
        classes: the classes that there must be.

    Raises:
        ValueError: a class has no row, or a row is of no class.
    """

    def __init__(self, labels: Sequence[int], n: int, seed: int, classes: Sequence[int] = (0, 1)) -> None:
        values = np.asarray(labels)
        self._rows = [np.flatnonzero(values == c) for c in classes]
        absent = [c for c, rows in zip(classes, self._rows, strict=True) if not len(rows)]
        if absent or sum(map(len, self._rows)) != len(values):
            raise ValueError(
                f"labels of {len(values)} clips are {sorted(set(values.tolist()))}, classes are "
                f"{list(classes)}; each class needs a clip and each clip a class: "
                "take more patients or another fraction."
            )
        self.n = n
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, _SAMPLE, self.epoch])
        for position, c in enumerate(rng.integers(len(self._rows), size=self.n)):
            yield Draw(int(rng.choice(self._rows[c])), position)


class ShuffledSampler(Sampler[int]):
    """Rows in random order, each once before any comes again, so classes are as frequent as they are.

    Each is a `Draw`, a function of (seed, epoch, position) only.

    Args:
        labels: class of each row; only their number matters.
        n: draws an epoch.
        seed: of the order.

    >>> sorted(ShuffledSampler([0, 0, 1], n=3, seed=0))
    [0, 1, 2]
    """

    def __init__(self, labels: Sequence[int], n: int, seed: int) -> None:
        self.n_rows, self.n, self.seed, self.epoch = len(labels), n, seed, 0

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, _SAMPLE, self.epoch])
        rounds = [rng.permutation(self.n_rows) for _ in range(-(-self.n // self.n_rows))]
        for position, row in enumerate(np.concatenate(rounds)[: self.n]):
            yield Draw(int(row), position)


SAMPLERS = {"balanced": BalancedSampler, "shuffled": ShuffledSampler}
"""By the names that settings use."""
