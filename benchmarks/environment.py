"""The environment of a process that is measured: so many threads, and numeric libraries as they come."""

from __future__ import annotations

import os
import sys

TUNED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Settings of a machine that make OpenBLAS work as on another; a benchmark does without both."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def begin_anew(threads: int) -> None:
    """Start this script again, with this number of threads, unless it was started so.

    Libraries read the environment when they are loaded, which is before a script is.
    """
    wanted = {name: value for name, value in os.environ.items() if name not in TUNED}
    wanted |= dict.fromkeys(THREADS, str(threads))
    if wanted != dict(os.environ):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)
