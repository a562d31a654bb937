"""Store DICOM series: files to `open_series` to `Store.put`, beside the published recipe.

    python benchmarks/ingest.py [--copies 4] [--repeats 5] [--archive series.tar.xz]

The series is copied under SeriesInstanceUIDs of their own. The recipe runs in one process, as it
was published, and in two; the store in two, plain and compressed. The sides take turns; prints
medians of slices a second, bytes a slice, and where the time of the store goes, in one process.
Ends with 1 unless the plain store does 4 times the slices of the recipe in one process with half
its bytes, and the compressed one 3 times with a quarter. About a minute.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as Dask sets it for its workers

import click
import pydicom
import recipe

from ctlib.datasets.store import CODECS, Store, shrink
from ctlib.datasets.store_codecs import digests
from ctlib.datasets.volume_checks import examine
from ctlib.io.volume import open_series, read_series

CODEC_NAMES = ("none", "blosc2")


def copies(files: list[Path], folder: Path, n: int) -> list[Path]:
    """Folders with the same series under other SeriesInstanceUIDs of the same length."""
    uid = pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID.encode()
    folders = [folder / f"copy{i}" for i in range(n)]
    for i, target in enumerate(folders):
        target.mkdir()
        for path in files:
            other = uid[:-2] + b"%02d" % (i + 10)
            (target / path.name).write_bytes(path.read_bytes().replace(uid, other))
    return folders


def by_recipe(source: Path, out: Path) -> int:
    """One series by the recipe."""
    return recipe.ingest(sorted(source.iterdir()), out / f"{source.name}.h5")


def by_store(source: Path, out: Path, codec: str) -> int:
    """One series by ours."""
    series = open_series(source)
    Store(out, recipe.MATRIX_PX, codec).put(series)
    return series.shape[0]


def run(one: Callable[[Path], int], sources: list[Path], out: Path, workers: int) -> tuple[float, float]:
    """Slices a second, and bytes a slice, of one pass into an empty folder; workers wait, warm."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(one, sources[:workers]))
        for path in out.iterdir():
            path.unlink()
        began = time.perf_counter()
        n = sum(pool.map(one, sources))
        seconds = time.perf_counter() - began
    return n / seconds, sum(path.stat().st_size for path in out.iterdir()) / n


def shares(source: Path, out: Path, repeats: int) -> dict[str, float]:
    """Median ms a slice of each step of the store, in this process."""
    volume = read_series(source)
    hu = shrink(volume.hu, recipe.MATRIX_PX)
    steps: dict[str, Callable[[], object]] = {
        "open_series (headers)": lambda: open_series(source),
        "open_series and put, none": lambda: by_store(source, out, "none"),
        "shrink": lambda: shrink(volume.hu, recipe.MATRIX_PX),
        "examine": lambda: examine(hu),
        "checksum of each slice": lambda: digests(plane.data for plane in hu),
        "blosc2 encode": lambda: CODECS["blosc2"].encode(hu),
        **{f"put, {c}, all of it": partial(Store(out, recipe.MATRIX_PX, c).put, volume) for c in CODEC_NAMES},
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            taken[name].append(1e3 * (time.perf_counter() - began) / len(hu))
    return {name: recipe.median(values) for name, values in taken.items()}


@click.command(help=__doc__)
@click.option("--copies", "n_copies", default=4, help="series")
@click.option("--repeats", default=5, help="turns of each side")
@click.option("--archive", default=recipe.ARCHIVE, type=click.Path(exists=True, path_type=Path))
def main(n_copies: int, repeats: int, archive: Path) -> None:
    """Measure, print, judge."""
    with recipe.workplace(archive) as (folder, files):
        sources = copies(files, folder, n_copies)
        out = folder / "out"
        sides: dict[str, tuple[Callable[[Path], int], int]] = {
            "recipe, 1 process": (partial(by_recipe, out=out), 1),
            "recipe, 2 processes": (partial(by_recipe, out=out), 2),
            **{f"store, {c}, 2 processes": (partial(by_store, out=out, codec=c), 2) for c in CODEC_NAMES},
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(repeats):
            for name, (one, workers) in sides.items():
                found[name].append(run(one, sources, out, workers))
        spent = shares(sources[0], out, repeats)
    speed = {name: recipe.median([rate for rate, _ in values]) for name, values in found.items()}
    size = {name: values[0][1] for name, values in found.items()}
    base, *_, plain, small = sides
    print(f"{n_copies} series of {len(files)} slices, {recipe.MATRIX_PX} px, median of {repeats}")
    for name in sides:
        ratio, part = speed[name] / speed[base], size[name] / size[base]
        print(f"  {name:27s} {speed[name]:7.0f} slices/s {ratio:6.2f} x {size[name]:9.0f} B {part:6.3f} x")
    print("ms a slice, one process")
    for name, value in spent.items():
        print(f"  {name:27s} {value:7.3f}")
    met = speed[plain] >= 4 * speed[base] and size[plain] <= size[base] / 2
    met &= speed[small] >= 3 * speed[base] and size[small] <= size[base] / 4
    print(f"plain 4 x and half the bytes, compressed 3 x and a quarter: {'yes' if met else 'NO'}")
    sys.exit(not met)


if __name__ == "__main__":
    main()
