"""How work is spread: a function over items, here or on workers, and how many threads a process uses."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Read by the numeric libraries when they are loaded, so they are set before a worker starts."""


GPU_SHARE = "CTLIB_GPU_SHARE"
"""Variable of a worker that shares its GPU: the part of the GPU's memory that its tensors may fill; 0 or '' is all."""


class GpuError(ValueError):
    """A GPU that cannot be used, or not any more: a sentence. `ctlib.grid.engine` gives the work to another."""


def listed_gpus() -> tuple[str, ...] | None:
    """Names in CUDA_VISIBLE_DEVICES, up to the first -1; none for SLURM's NoDevFiles; None where it is not set.

    Raises:
        GpuError: it holds anything else.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return None
    names = [name for part in listed.split(",") if (name := part.strip())]
    names = names[: next((i for i, name in enumerate(names) if name in ("-1", "NoDevFiles")), None)]
    for name in names:
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name):
            raise GpuError(
                f"CUDA_VISIBLE_DEVICES is {listed!r}; {name!r} is no number and no UUID of a GPU (`nvidia-smi -L` "
                "lists them). Correct it, or set it to '' to compute without."
            )
    return tuple(names)


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
