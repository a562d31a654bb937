"""How work is spread: a function over items, here or on workers, and how many threads a process uses."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Read by the numeric libraries when they are loaded, so they are set before a worker starts."""


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


def pin_threads(threads: int) -> None:
    """Let the numeric libraries of this process use so many threads.

    Those that are not loaded yet read the environment when they are.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    import cv2

    cv2.setNumThreads(0 if threads == 1 else threads)  # 0: no thread pool at all


@contextlib.contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """`pin_threads` for a while; afterwards as before."""
    import cv2

    environment = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    torch = sys.modules.get("torch")
    before = (torch.get_num_threads() if torch else None, cv2.getNumThreads())
    pin_threads(threads)
    try:
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch is not None:
            torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
