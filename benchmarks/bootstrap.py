"""How fast AUROCs are resampled: ours, drawing included, beside a loop over scikit-learn's `roc_auc_score`.

    OMP_NUM_THREADS=1 python benchmarks/bootstrap.py [--replicates 10000] [--runs 500] [--loop 300]

1,092 exams of as many patients, 328 with disease: RSPECT's test split. The loop draws patients one
replicate after the other and calls `roc_auc_score`; a few of its replicates are timed. Both sides run in this
process, turn about, and what counts is processor time, which other processes do not lengthen much. Limits
(issue 6): 100 times as fast for one run, and 10,000 replicates of 500 runs in seconds.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ctlib.metrics.bootstrap import Draws, Exams

EXAMS, POSITIVE = 1092, 328
MIN_RATIO, MAX_S = 100, 60
REPEATS = 3


def ours(score: NDArray, table: pd.DataFrame, replicates: int) -> tuple[float, NDArray, Exams, Draws]:
    """Processor time of one run, drawing included, s; its replicates, and what drew them."""
    began = time.process_time()
    exams = Exams(table)
    draws = exams.draw(replicates, np.random.default_rng(0))
    found = exams.resampled(score, draws)
    return time.process_time() - began, found, exams, draws


def loop(score: NDArray, label: NDArray, replicates: int) -> float:
    """Processor time of a replicate of the loop, s."""
    rng, classes = np.random.default_rng(0), [np.flatnonzero(label == k) for k in (0, 1)]
    began = time.process_time()
    for _ in range(replicates):
        chosen = np.concatenate([rng.choice(members, size=len(members)) for members in classes])
        roc_auc_score(label[chosen], score[chosen])
    return (time.process_time() - began) / replicates


def main() -> int:
    """Print times and ratio; 1 where a limit is missed or values differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicates", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--loop", type=int, default=300, help="replicates of the loop that are timed")
    asked = parser.parse_args()
    rng = np.random.default_rng(1)
    label = (np.arange(EXAMS) < POSITIVE).astype(int)
    scores = rng.normal(size=(asked.runs, EXAMS)) + label
    table = pd.DataFrame({"patient_id": np.arange(EXAMS), "label": label})
    pairs = []
    for _ in range(REPEATS):
        fast, found, exams, draws = ours(scores[0], table, asked.replicates)
        pairs.append((loop(scores[0], label, asked.loop) * asked.replicates, fast))
    slow, fast = (min(times) for times in zip(*pairs, strict=True))
    began = time.process_time(), time.perf_counter()
    for score in scores:
        exams.resampled(score, draws)
    cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
    times = draws.times[:, 0]
    gap = abs(roc_auc_score(np.repeat(label, times), np.repeat(scores[0], times)) - found[0])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"one run, {asked.replicates} replicates, drawing included: {fast:.3f} s; the loop: {slow:.1f} s")
    print(f"{slow / fast:.0f} times as fast (at least {MIN_RATIO})")
    print(
        f"{asked.runs} runs on the same draws: {cpu:.1f} s of processor time (at most {MAX_S}), {wall:.1f} s"
    )
    print(f"difference to roc_auc_score on the same draw: {gap:.1e}; peak memory {memory:.0f} MB")
    return int(slow / fast < MIN_RATIO or cpu > MAX_S or gap > 1e-12)


if __name__ == "__main__":
    sys.exit(main())
