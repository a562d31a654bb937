"""Index a train.csv of RSPECT's real size: labels of 7,279 exams and 1,790,594 slices, without images.

    python benchmarks/rspect_index.py [--repeats 3] [--studies 7279] [--rows 1790594]

Writes such a file into a temporary folder, reads it with `rspect.labels` and with plain
`pandas.read_csv`, each in a process of its own, and prints seconds (median) and peak memory beside
the limits of 60 s and 3 GB. A smaller file gets its share of the limits, beyond what the imports
take. Ends with 1 if a limit is broken. About a minute.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(
    0, str(PROJECT / "tests" / "factories")
)  # the file is shared with tests/datasets/test_rspect_index.py

import rspect_writer  # noqa: E402

MAX_SECONDS, MAX_GB = 60, 3
"""For the file of real size, on two cores; the memory is the whole process."""


def peak_gb() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def child(side: str, path: str) -> None:
    """One side, in a process that does nothing else; prints what it cost as JSON."""
    import pandas as pd

    from ctlib.datasets import rspect

    imports_gb, began = peak_gb(), time.perf_counter()
    if side == "rspect.labels":
        exams, slices = rspect.labels(Path(path))
        counts = len(exams), len(slices)
    else:
        table = pd.read_csv(path)
        counts = table["StudyInstanceUID"].nunique(), len(table)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "gb": peak_gb(), "imports": imports_gb, "counts": counts}))


def run(*arguments: str) -> str:
    """Run this script in a child. A child's peak starts at its parent's memory: the parent stays small."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=PROJECT).stdout


@click.command()
@click.option("--repeats", default=3, show_default=True, help="Processes a side.")
@click.option("--studies", default=rspect_writer.N_STUDIES, show_default=True, help="Exams of the file.")
@click.option("--rows", default=rspect_writer.N_ROWS, show_default=True, help="Slices of the file.")
def main(repeats: int, studies: int, rows: int) -> None:
    """Measure both sides, print them beside the limits."""
    share = rows / rspect_writer.N_ROWS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.csv"
        run("--write", str(path), str(studies), str(rows))
        print(
            f"train.csv: {path.stat().st_size / 1e6:.0f} MB; median seconds, largest peak of {repeats} runs"
        )
        print(f"{'':16}{'seconds':>9}{'peak GB':>9}{'imports':>9}{'exams':>9}{'slices':>12}")
        broken = False
        for side in ("rspect.labels", "pandas.read_csv"):
            found = [json.loads(run("--child", side, str(path))) for _ in range(repeats)]
            seconds = statistics.median(one["seconds"] for one in found)
            peak, imports = max(one["gb"] for one in found), min(one["imports"] for one in found)
            n_exams, n_slices = found[0]["counts"]
            print(f"{side:16}{seconds:9.2f}{peak:9.2f}{imports:9.2f}{n_exams:9,}{n_slices:12,}")
            slow, large = seconds > MAX_SECONDS * share, peak > min(MAX_GB, imports + MAX_GB * share)
            broken |= side == "rspect.labels" and (slow or large)
        print(f"{'limits':16}{MAX_SECONDS * share:9.2f}{min(MAX_GB, imports + MAX_GB * share):9.2f}")
    sys.exit(broken)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    elif sys.argv[1:2] == ["--write"]:
        rspect_writer.write(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
