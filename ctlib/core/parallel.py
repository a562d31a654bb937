"""How work is spread: a function over items, here or on workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Map(Protocol):
    """Applies a function to items and returns the results in order, here or on workers.

    `what` is what is counted, in plural, for those who watch.
    """

    def __call__(
        self, function: Callable[[Any], Any], items: Sequence[Any], what: str = "items"
    ) -> list[Any]:
        """The results."""


def in_order(function: Callable[[Any], Any], items: Sequence[Any], what: str = "items") -> list[Any]:
    """The plain `Map`: in this process, one item after the other.

    >>> in_order(len, ["a", "bcd"])
    [1, 3]
    """
    return [function(item) for item in items]
