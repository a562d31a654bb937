"""Scan a tree of 100,000 small DICOM files: files a second on two workers, and memory.

    python benchmarks/scan_tree.py [--files 100000]

The other side is pydicom alone in one process, which reads each header and keeps nothing. Memory is
the highest resident size of the process that scans and of its largest worker, at a quarter of the
files and at all of them. Limits (issue 3): 500 files a second, memory flat.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PER_SERIES = 100
"""Slices of each series; a folder each."""
MIN_FILES_S = 500
MAX_GROWTH = 0.3
"""Memory for the paths and positions of four times as many files, as a share of what it was."""


def write(series: int, root: Path, first: int = 0) -> None:
    """Write series of small slices, as the phantom scanner does."""
    from ctlib.datasets.synthetic.dicom import KERNELS, scanner, write_series

    hu = np.zeros((PER_SERIES, 8, 8), np.int16)
    for number in range(first, first + series):
        made = scanner(np.random.default_rng(number), next(iter(KERNELS)), ("Phantom Alpha",))
        uid = f"1.2.826.0.{number + 10_000}"
        uids = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "FrameOfReferenceUID": f"{uid}.2"}
        names = [f"{k:06d}.dcm" for k in range(PER_SERIES)]
        sops = [f"{uid}.9.{k:06d}" for k in range(PER_SERIES)]
        write_series(root / f"{number:06d}", names, hu, (2.5, 0.7, 0.7), made, uids, sops, f"P{number}")


def scan(root: Path) -> None:
    """One side, in a process of its own: prints its figures as JSON."""
    from ctlib.grid.engine import Engine
    from ctlib.io.volume import scan as scan_tree

    with Engine(2) as engine:
        engine.client()
        begun = time.perf_counter()
        series, problems = scan_tree(root, run=engine.map)
        seconds = time.perf_counter() - begun
    sizes = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    n_files = int(series["n_files"].sum() + problems["n_files"].sum())
    print(
        json.dumps({"files": n_files, "series": len(series), "s": seconds, "mb": [n / 1024 for n in sizes]})
    )


def alone(root: Path) -> None:
    """The other side: pydicom reads each header."""
    import pydicom

    begun, n_files = time.perf_counter(), 0
    for folder, _, names in os.walk(root):
        for name in names:
            pydicom.dcmread(Path(folder, name), stop_before_pixels=True)
            n_files += 1
    print(json.dumps({"files": n_files, "s": time.perf_counter() - begun}))


def measured(side: str, root: Path) -> dict:
    """Run a side in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--root", str(root)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Write, measure, print; exits 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--side", choices=["scan", "alone"], help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        return {"scan": scan, "alone": alone}[asked.side](asked.root)
    with tempfile.TemporaryDirectory() as folder:
        root, n_series = Path(folder), asked.files // PER_SERIES
        write(n_series // 4, root)
        quarter = measured("scan", root)
        write(n_series - n_series // 4, root, n_series // 4)
        whole, other = measured("scan", root), measured("alone", root)
    rate = whole["files"] / whole["s"]
    print(f"scan, 2 workers:    {whole['files']:,} files, {rate:,.0f} files a second")
    print(f"pydicom, 1 process: {other['files']:,} files, {other['files'] / other['s']:,.0f} files a second")
    growth = []
    for name, few, many in zip(("this process", "largest worker"), quarter["mb"], whole["mb"], strict=True):
        growth.append(many / few - 1)
        print(f"memory, {name}: {few:.0f} MB at a quarter of the files, {many:.0f} MB at all")
    if rate < MIN_FILES_S or max(growth) > MAX_GROWTH:
        sys.exit(f"a limit is missed: {MIN_FILES_S} files a second, growth of {MAX_GROWTH:.0%}")


if __name__ == "__main__":
    main()
