"""Formats for stored volumes: bytes a slice, slices written a second, a random run of 32 slices read.

    python benchmarks/formats.py [--runs 31] [--repeats 3] [--archive series.tar.xz]

One chest CT at 256 px in each format. Writes and reads take turns, so that a busy machine is busy
for all; prints medians, nothing is verified. Files were written just before, so no side waits for
the disk. `ctlib.datasets.store` says what was chosen. About a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
import click
import h5py
import numpy as np
import recipe
from numpy.typing import NDArray

from ctlib.datasets.store import shrink
from ctlib.io.volume import read_series

RUN = 32
SHUFFLE, BITSHUFFLE, BYTEDELTA = blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE, blosc2.Filter.BYTEDELTA
FILTERS = {"shuffle": [SHUFFLE], "bitshuffle": [BITSHUFFLE], "bytedelta": [SHUFFLE, BYTEDELTA]}
LEVELS = [("ZSTD", 1), ("ZSTD", 3), ("ZSTD", 5), ("LZ4", 1), ("LZ4", 9), ("LZ4HC", 5)]


@dataclass(frozen=True)
class Format:
    """How a volume is written to a path, and a run read from it: (path, start, stop)."""

    write: Callable[[Path, NDArray[np.int16]], Any]
    read: Callable[[Path, int, int], NDArray[Any]]


def read_npy(path: Path, start: int, stop: int) -> NDArray[np.int16]:
    """A copy of the run: every byte is touched."""
    return np.array(np.load(path, mmap_mode="r")[start:stop])


def read_npz(path: Path, start: int, stop: int) -> NDArray[np.int16]:
    """The whole volume, for zlib streams have no places to start from."""
    with np.load(path) as file:
        return file["volume"][start:stop]


def write_h5(path: Path, volume: NDArray[np.int16], chunk: int) -> None:
    """int16 with gzip and shuffle, chunks of whole slices."""
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "volume", data=volume, chunks=(chunk, *volume.shape[1:]), compression="gzip", shuffle=True
        )


def read_h5(path: Path, start: int, stop: int) -> NDArray[np.int16]:
    """A run as a slice, which HDF5 reads faster than a list."""
    with h5py.File(path, "r") as file:
        return file["volume"][start:stop]


def write_blosc2(
    path: Path, volume: NDArray[np.int16], codec: str, level: int, filters: str, chunk: int, threads: int
) -> None:
    """Chunks of some slices in blocks of one."""
    matrix = volume.shape[1:]
    how = {
        "codec": blosc2.Codec[codec],
        "clevel": level,
        "filters": FILTERS[filters],
        "splitmode": blosc2.SplitMode.NEVER_SPLIT,
        "nthreads": threads,
    }
    array = blosc2.asarray(
        volume, chunks=(chunk, *matrix), blocks=(1, *matrix), cparams=how, contiguous=False
    )
    path.write_bytes(array.to_cframe())


def read_blosc2(path: Path, start: int, stop: int, threads: int) -> NDArray[np.int16]:
    """A run by the package's own slicing."""
    return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": threads})[start:stop]


def formats() -> dict[str, Format]:
    """All that are measured, by name."""
    found = {
        "HDF5 float32 chunks=True (recipe)": Format(recipe.write, recipe.read),
        "HDF5 int16 gzip shuffle": Format(partial(write_h5, chunk=1), read_h5),
        "npz (zlib)": Format(lambda path, hu: np.savez_compressed(path, volume=hu), read_npz),
        "npy, memory-mapped": Format(np.save, read_npy),
    }
    settings = [(*level, filters, 1, 1) for level in LEVELS for filters in FILTERS]
    settings += [("ZSTD", 1, "bitshuffle", chunk, threads) for chunk in (1, 8, 32) for threads in (1, 2)]
    for codec, level, filters, chunk, threads in settings:
        name = f"blosc2 {codec.lower()} {level} {filters}, {chunk} a chunk, {threads} thr."
        write = partial(write_blosc2, codec=codec, level=level, filters=filters, chunk=chunk, threads=threads)
        found[name] = Format(write, partial(read_blosc2, threads=threads))
    return found


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@click.command(help=__doc__)
@click.option("--runs", default=31, help="random runs")
@click.option("--repeats", default=3, help="times each file is written")
@click.option("--archive", default=recipe.ARCHIVE, type=click.Path(exists=True, path_type=Path))
def main(runs: int, repeats: int, archive: Path) -> None:
    """Measure and print."""
    with recipe.workplace(archive) as (folder, files):
        hu = shrink(read_series(files).hu, recipe.MATRIX_PX)
        endings = {"npy": "npy", "npz": "npz"}
        every = formats()
        paths = {name: folder / f"{i}.{endings.get(name[:3], 'bin')}" for i, name in enumerate(every)}
        written: dict[str, list[float]] = {name: [] for name in every}
        taken: dict[str, list[float]] = {name: [] for name in every}
        for _ in range(repeats):
            for name, kind in every.items():
                paths[name].unlink(missing_ok=True)
                written[name].append(len(hu) / timed(partial(kind.write, paths[name], hu)))
        for name, kind in every.items():
            same = kind.read(paths[name], 7, 7 + RUN)
            assert np.array_equal(same, hu[7 : 7 + RUN]), f"{name} gives other voxels"
        for start in np.random.default_rng(0).integers(0, len(hu) - RUN, runs, endpoint=True).tolist():
            for name, kind in every.items():
                taken[name].append(1e3 * timed(partial(kind.read, paths[name], start, start + RUN)))
        print(f"{len(hu)} slices, {recipe.MATRIX_PX} px; medians of {repeats} writes, {runs} runs of {RUN}")
        print(f"{'':48s} {'bytes/slice':>11s} {'slices/s':>9s} {'ms a run':>9s}")
        for name in every:
            size = paths[name].stat().st_size / len(hu)
            rate, ms = recipe.median(written[name]), recipe.median(taken[name])
            print(f"{name:48s} {size:11.0f} {rate:9.0f} {ms:9.2f}")


if __name__ == "__main__":
    main()
