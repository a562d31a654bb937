"""Read random runs of 32 slices: the store, plain and compressed, beside the published recipe.

    python benchmarks/read_clips.py [--runs 61] [--archive series.tar.xz]

Each side reads the same runs, one after the other, and ends with every byte of the run in the
caches of the processor or in an array: of a memory-mapped run, one value a page of 4,096 bytes is
added up. Files were written just before, so no side waits for the disk. The recipe opens its file
for each run, as published loaders do; how it does with the file kept open is printed too. "Opened
and verified" is what the first run of a volume takes: record, header and slices are compared. Ends
with 1 unless the plain store is 10 times as fast as the recipe, and the compressed one as fast.
About 20 s.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import h5py
import numpy as np
import recipe
from numpy.typing import NDArray

from ctlib.datasets.store import Store
from ctlib.io.volume import read_series

RUN = 32
PAGE = 2_048
"""Voxels of a page of memory."""
Side = Callable[[int], object]


def touch(hu: NDArray[np.int16]) -> int:
    """Read one value of each page."""
    return int(hu.reshape(-1)[::PAGE].sum())


def sides(folder: Path, files: list[Path]) -> tuple[int, dict[str, Side]]:
    """Number of slices, and what reads a run from its first slice, by name."""
    volume = read_series(files)
    uid, h5 = volume.series_uid, folder / "recipe.h5"
    recipe.ingest(files, h5)
    stores = {codec: Store(folder / codec, recipe.MATRIX_PX, codec) for codec in ("none", "blosc2")}
    for store in stores.values():
        store.put(volume)
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))  # as files are that were not written within the last two seconds
    kept = h5py.File(h5, "r")["volume"]

    def fresh(codec: str) -> Store:
        return Store(folder / codec, recipe.MATRIX_PX, codec)

    return len(volume.hu), {
        "recipe": lambda i: recipe.read(h5, i, i + RUN),
        "recipe, file kept open": lambda i: kept[list(range(i, i + RUN))],
        "npy": lambda i: touch(stores["none"].read(uid, i, i + RUN)),
        "npy, copied": lambda i: np.array(stores["none"].read(uid, i, i + RUN)),
        "npy, opened and verified": lambda i: touch(fresh("none").read(uid, i, i + RUN)),
        "blosc2, verified": lambda i: stores["blosc2"].read(uid, i, i + RUN),
        "blosc2, opened and verified": lambda i: fresh("blosc2").read(uid, i, i + RUN),
    }


@click.command(help=__doc__)
@click.option("--runs", default=61, help="random runs")
@click.option("--archive", default=recipe.ARCHIVE, type=click.Path(exists=True, path_type=Path))
def main(runs: int, archive: Path) -> None:
    """Measure, print, judge."""
    with recipe.workplace(archive) as (folder, files):
        n_slices, readers = sides(folder, files)
        taken: dict[str, list[float]] = {name: [] for name in readers}
        starts = np.random.default_rng(0).integers(0, n_slices - RUN, runs, endpoint=True)
        for reader in readers.values():
            touch(np.zeros(PAGE, np.int16)), [reader(i) for i in range(0, n_slices - RUN, RUN)]
        for start in starts.tolist():
            for name, reader in readers.items():
                began = time.perf_counter()
                reader(start)
                taken[name].append(1e3 * (time.perf_counter() - began))
    ms = {name: recipe.median(values) for name, values in taken.items()}
    base, kept = ms["recipe"], ms["recipe, file kept open"]
    print(f"a run of {RUN} of {n_slices} slices, {recipe.MATRIX_PX} px, median of {runs}")
    print(f"{'':34s} {'ms':>8s} {'x recipe':>10s} {'x kept open':>12s}")
    for name, value in ms.items():
        print(f"  {name:32s} {value:8.3f} {base / value:10.1f} {kept / value:12.1f}")
    met = base >= 10 * ms["npy"] and base >= ms["blosc2, verified"]
    print(f"npy at least 10 x, blosc2 at least 1 x the recipe: {'yes' if met else 'NO'}")
    sys.exit(not met)


if __name__ == "__main__":
    main()
