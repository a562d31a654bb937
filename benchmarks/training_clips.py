"""Training clips of 32 x 224 x 224, turned by up to 20 degrees and cropped: ours, and what others take.

    python benchmarks/training_clips.py [--repeats 15] [--archive series.tar.xz]

All sides make clips of the same series of 256 px, in turn, in one thread; CPU time, medians. "Recipe" is
what was published: slices from float32 HDF5 by a list, HU window, crop, `scipy.ndimage.rotate` as it comes
(cubic splines), three equal channels. "Recipe, bilinear" rotates the whole slice, then crops, with
order 1: what ours does, in the recipe's way. MONAI and
TorchIO are given their best case: their clips lie in memory as float32, mapped to [0, 1], and nothing is
copied. Each comes twice: with crop and rotation of the whole slice, as ours, and cropped first, which is
less work and leaves dark corners. They are measured where they are installed, and skipped otherwise:

    pip install --target FOLDER monai torchio
    PYTHONPATH=FOLDER python benchmarks/training_clips.py

Of ours, each clip is an item of `ClipDataset`, read from a store. "Map" is the HU window, "warp" all the
rest. The largest difference is that from bilinear interpolation in float64. Ends with 1 unless ours is 30
times as fast as the recipe, ahead of both libraries, and within 1e-4. About 40 s.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pandas as pd
import recipe
import torch
from environment import begin_anew
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, rotate

from ctlib.core import hu
from ctlib.datasets.clips import ClipDataset, Draw, clip_table
from ctlib.datasets.store import Store
from ctlib.datasets.transforms import CHANNELS, ClipSettings, change_of, cut, levels
from ctlib.io.volume import read_series

LENGTH, CROP_PX, ROTATION_DEG, HU_WINDOW = 32, 224, 20, "pe"
SPARE_PX = recipe.MATRIX_PX - CROP_PX
Side = Callable[[int], object]
OURS = "ours, repeat"


def recipe_clip(h5: Path, start: int, rng: np.random.Generator, order: int) -> NDArray[np.float32]:
    """A clip `[3, D, H, W]` by the recipe; of order 3, cropped first, which is the less work."""
    window = hu.HuWindow.named(HU_WINDOW)
    run = recipe.read(h5, start, start + LENGTH)
    unit = (np.clip(run, window.low, window.high) - np.float32(window.low)) / np.float32(window.width)
    top, left = rng.integers(SPARE_PX, size=2, endpoint=True)
    crop = np.s_[:, top : top + CROP_PX, left : left + CROP_PX]
    angle = rng.uniform(-ROTATION_DEG, ROTATION_DEG)
    if order == 3:
        turned = rotate(unit[crop], angle, (1, 2), reshape=False, cval=-1000)
    else:
        turned = rotate(unit, angle, (1, 2), reshape=False, order=order)[crop]
    return np.repeat(turned[None], 3, axis=0)


def monai_sides(clips: list[NDArray[np.float32]]) -> dict[str, Side]:
    """MONAI's CacheDataset of clips `[1, D, M, M]` in [0, 1]."""
    data, transforms = importlib.import_module("monai.data"), importlib.import_module("monai.transforms")
    angle = np.deg2rad(ROTATION_DEG)
    settings = {"prob": 1.0, "mode": "bilinear", "padding_mode": "zeros"}
    move, size = (0, SPARE_PX / 2, SPARE_PX / 2), (LENGTH, CROP_PX, CROP_PX)
    ways = {
        "MONAI CacheDataset": [
            transforms.RandAffined(
                "clip", rotate_range=(angle, 0, 0), translate_range=move, spatial_size=size, **settings
            )
        ],
        "MONAI CacheDataset, cropped first": [
            transforms.EnsureTyped("clip"),
            transforms.RandSpatialCropd("clip", size, random_size=False),
            transforms.RandRotated("clip", range_x=angle, **settings),
        ],
    }
    items = [{"clip": clip} for clip in clips]
    kept = {
        name: data.CacheDataset(items, transforms.Compose(way), progress=False, copy_cache=False)
        for name, way in ways.items()
    }
    return {name: lambda i, served=served: served[i % len(clips)] for name, served in kept.items()}  # type: ignore[misc]


def torchio_sides(clips: list[NDArray[np.float32]]) -> dict[str, Side]:
    """TorchIO's subjects of clips `[1, D, M, M]` in [0, 1]."""
    torchio = importlib.import_module("torchio")
    degrees = (-ROTATION_DEG, ROTATION_DEG, 0, 0, 0, 0)
    turn = torchio.RandomAffine(scales=(1, 1), degrees=degrees, translation=0, default_pad_value=0.0)
    subjects = [torchio.Subject(clip=torchio.ScalarImage(tensor=torch.from_numpy(clip))) for clip in clips]
    rng = np.random.default_rng(0)

    def crop(subject: Any) -> Any:
        top, left = rng.integers(SPARE_PX, size=2, endpoint=True).tolist()
        return torchio.Crop((0, 0, top, SPARE_PX - top, left, SPARE_PX - left))(subject)

    return {
        "TorchIO": lambda i: crop(turn(subjects[i % len(clips)])),
        "TorchIO, cropped first": lambda i: turn(crop(subjects[i % len(clips)])),
    }


def dataset(folder: Path, n_slices: int, uid: str, codec: str, channels: str) -> ClipDataset:
    """Our clips of the series."""
    slices = pd.DataFrame({"series_uid": uid, "slice": range(n_slices), "z_mm": 0.0, "label": 0})
    rows = clip_table(slices, LENGTH, 4).query("stop - start == @LENGTH")
    settings = ClipSettings(LENGTH, CROP_PX, HU_WINDOW, channels, rotation_deg=ROTATION_DEG)
    return ClipDataset(Store(folder / codec, recipe.MATRIX_PX), rows, settings, train=True)


def sides(folder: Path, files: list[Path]) -> tuple[dict[str, Side], ClipDataset]:
    """What makes the n-th clip, by name; and ours with one channel."""
    volume, h5 = read_series(files), folder / "recipe.h5"
    recipe.ingest(files, h5)
    for codec in ("none", "blosc2"):
        Store(folder / codec, recipe.MATRIX_PX, codec).put(volume)
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))  # as files are that were not written within the last two seconds
    uid, n_slices = volume.series_uid, len(volume.hu)
    ours = {f"ours, {channels}": dataset(folder, n_slices, uid, "none", channels) for channels in CHANNELS}
    ours["ours, repeat, blosc2"] = dataset(folder, n_slices, uid, "blosc2", "repeat")
    plain, rng = ours[OURS], np.random.default_rng(0)
    orders = {"recipe": 3, "recipe, bilinear": 1}
    found: dict[str, Side] = {
        name: lambda i, order=order: recipe_clip(h5, i % len(plain) * LENGTH, rng, order)  # type: ignore[misc]
        for name, order in orders.items()
    }
    stored = plain.store.read(uid)
    clips = [
        hu.to_unit(stored[start : start + LENGTH], hu.HuWindow.named(HU_WINDOW))[None]
        for start in range(0, len(plain) * LENGTH, LENGTH)
    ]
    for name, make in (("MONAI", monai_sides), ("TorchIO", torchio_sides)):
        try:
            found |= make(clips)
        except ImportError as error:
            print(f"{name} is skipped: {error}")
    for name, data in ours.items():
        found[name] = lambda i, data=data: data[Draw(i % len(data), i)]  # type: ignore[misc]
    return found, plain


def parts(data: ClipDataset) -> dict[str, Side]:
    """Reading a clip's slices, and mapping them four at a time as `ctlib.datasets.transforms` does."""
    uid = data.table["series_uid"].iloc[0]
    table = levels(HU_WINDOW)
    voxels = np.empty((recipe.MATRIX_PX, recipe.MATRIX_PX, 4), np.int16)
    mapped = np.empty(voxels.shape, np.float32)

    def read(i: int) -> NDArray[np.int16]:
        start = i % len(data) * LENGTH
        run = np.asarray(data.store.read(uid, start, start + LENGTH))
        run.reshape(-1)[::2048].sum()  # one value of each page of memory
        return run

    def read_and_map(i: int) -> None:
        run = read(i)
        for start in range(0, LENGTH, 4):
            cv2.merge(list(run[start : start + 4]), dst=voxels)
            cv2.LUT(voxels.view(np.uint16), table, dst=mapped)

    return {"read": read, "read and map": read_and_map}


def difference(data: ClipDataset) -> float:
    """Largest difference between a clip and the bilinear one in float64."""
    volume = np.asarray(data.store.read(data.table["series_uid"].iloc[0], 0, LENGTH))
    clip = cut(volume, 0, LENGTH, data.settings, np.random.default_rng(1))[0]
    change = change_of(recipe.MATRIX_PX, data.settings, np.random.default_rng(1))
    (a, b, left), (c, d, top) = change.matrix
    y, x = np.mgrid[:CROP_PX, :CROP_PX].astype(np.float64)
    at = [c * x + d * y + top, a * x + b * y + left]
    unit, air = hu.to_unit(volume, hu.HuWindow.named(HU_WINDOW)).astype(np.float64), data.settings.air
    exact = [map_coordinates(plane, at, order=1, mode="grid-constant", cval=air) for plane in unit]
    return float(abs(clip - np.stack(exact)).max())


@click.command(help=__doc__)
@click.option("--repeats", default=15, help="clips of each side")
@click.option("--archive", default=recipe.ARCHIVE, type=click.Path(exists=True, path_type=Path))
def main(repeats: int, archive: Path) -> None:
    """Measure, print, judge."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the other libraries
    with recipe.workplace(archive) as (folder, files):
        makers, plain = sides(folder, files)
        taken: dict[str, list[float]] = {name: [] for name in makers | parts(plain)}
        for i in range(repeats + 2):
            for name, maker in (makers | parts(plain)).items():
                began = time.process_time()
                maker(i)
                taken[name].append(1e3 * (time.process_time() - began))
        off = difference(plain)
    ms = {name: recipe.median(values[2:]) for name, values in taken.items()}
    print(f"a training clip of {LENGTH} x {CROP_PX} x {CROP_PX}, CPU time of one thread, median of {repeats}")
    print(f"{'':36s} {'ms':>8s} {'x recipe':>10s} {'x bilinear':>11s}")
    for name in makers:
        ratios = [ms[base] / ms[name] for base in ("recipe", "recipe, bilinear")]
        print(f"  {name:34s} {ms[name]:8.2f} {ratios[0]:10.1f} {ratios[1]:11.1f}")
    read, mapped = ms["read"], ms["read and map"]
    shares = (("read", read), ("map", mapped - read), ("warp", ms[OURS] - mapped))
    print(f"{OURS}: " + ", ".join(f"{name} {100 * part / ms[OURS]:.0f} %" for name, part in shares))
    print(f"largest difference to bilinear in float64: {off:.1e}")
    others = [value for name, value in ms.items() if name.startswith(("MONAI", "TorchIO"))]
    met = ms["recipe"] >= 30 * ms[OURS] and all(ms[OURS] < value for value in others) and off <= 1e-4
    print(f"at least 30 x the recipe, ahead of the others, within 1e-4: {'yes' if met else 'NO'}")
    sys.exit(not met)


if __name__ == "__main__":
    begin_anew(threads=1)
    main()
