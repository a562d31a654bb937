"""How many threads the numeric libraries of a process use: the one place for it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Read by the numeric libraries when they are loaded, so they are set before a worker starts."""


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
