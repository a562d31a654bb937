"""The share of a training step that waits for data, for the full-size networks.

    python benchmarks/data_wait.py [--networks slow_r50,penet] [--steps 8] [--workers 2] [--threads 2]

Clips of 32 x 224 x 224 (PENet: 24 slices), turned and cropped, come from a store through the loader of
`ctlib.training.loop`; the network computes where and how `precision.choose` says, on a GPU if there is one. A
step is: wait for the next batch, copy it, forward, backward, AdamW. What `next` takes is the wait, the
rest is the work; the first step, which starts the processes and fills their queues, is left out.
Medians, and the sum of all waits over the sum of all steps. Ends with 1 unless that share is below 5 % for
each network. About 15 minutes for all seven on two cores.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import click
import numpy as np
import pandas as pd
import recipe
import torch
from environment import begin_anew
from training_step import SEVEN, Trained, clip_of

from ctlib.datasets.clips import BalancedSampler, ClipDataset, clip_table
from ctlib.datasets.store import Store
from ctlib.datasets.transforms import ClipSettings
from ctlib.io.volume import Volume
from ctlib.models.registry import spec
from ctlib.training.device import choose
from ctlib.training.loaders import loader, set_epoch

N_SERIES, N_SLICES = 8, 128


def cohort(folder: Path) -> pd.DataFrame:
    """Store some volumes of noise, and return their table `slices`."""
    store, rng = Store(folder, recipe.MATRIX_PX), np.random.default_rng(0)
    size = (N_SLICES, recipe.MATRIX_PX, recipe.MATRIX_PX)
    for i in range(N_SERIES):
        voxels = rng.integers(-1024, 1500, size, dtype=np.int16)
        store.put(
            Volume(hu=voxels, spacing_mm=(2.5, 1.0, 1.0), series_uid=f"1.{i}", origin_mm=(0.0, 0.0, 0.0))
        )
    for path in folder.iterdir():
        os.utime(path, (0, 0))  # as files are that were not written within the last two seconds
    series = {"series_uid": np.repeat([f"1.{i}" for i in range(N_SERIES)], N_SLICES)}
    slices = np.tile(np.arange(N_SLICES), N_SERIES)
    labels = np.repeat(np.arange(N_SERIES) % 2, N_SLICES)
    return pd.DataFrame(series | {"slice": slices, "z_mm": slices * 2.5, "label": labels})


def measure(
    key: str, folder: Path, slices: pd.DataFrame, batch_size: int, steps: int, workers: int
) -> tuple[float, float, float, str]:
    """Median seconds of a wait and of the work after it, the share of all waits, and how it computed."""
    length, _, crop_px = clip_of(key)
    rows = clip_table(slices, length, 4)
    settings = ClipSettings(length, crop_px, "pe", rotation_deg=20)
    clips = ClipDataset(Store(folder, recipe.MATRIX_PX), rows, settings, train=True)
    sampler = BalancedSampler(rows["label"].tolist(), (steps + 1) * batch_size, seed=0)
    compute = choose("auto", spec(key))
    batches, trained = loader(clips, batch_size, compute, workers, sampler), Trained(key, compute)
    set_epoch(batches, 0)
    waits, works, feed = [], [], iter(batches)
    for _ in range(steps + 1):
        began = time.perf_counter()
        batch = next(feed)
        came = time.perf_counter()
        trained.step(batch["clip"], batch["label"])  # ends with its loss here: a GPU has done it all
        waits.append(came - began)
        works.append(time.perf_counter() - came)
    waits, works = waits[1:], works[1:]
    return recipe.median(waits), recipe.median(works), sum(waits) / sum(waits + works), str(compute)


@click.command(help=__doc__)
@click.option("--networks", default=",".join(SEVEN), help="keys, with commas")
@click.option("--steps", default=8, help="of each network")
@click.option("--workers", default=2, help="processes that read")
@click.option("--batch-size", default=1, help="clips a step")
@click.option("--threads", default=os.cpu_count(), help="of torch")
def main(networks: str, steps: int, workers: int, batch_size: int, threads: int) -> None:
    """Measure, print, judge."""
    begin_anew(threads)
    torch.set_num_threads(threads)
    folder, worst = Path(mkdtemp(prefix="ctlib-benchmark-")), 0.0
    print(f"batches of {batch_size}, {workers} loader processes, {threads} threads, median of {steps} steps")
    print(f"{'':16s} {'computed':28s} {'wait ms':>8s} {'work ms':>9s} {'share of waiting':>17s}")
    try:
        slices = cohort(folder)
        for key in networks.split(","):
            wait, work, share, way = measure(key, folder, slices, batch_size, steps, workers)
            worst = max(worst, share)
            print(
                f"  {key:14s} {way:28s} {1e3 * wait:8.2f} {1e3 * work:9.1f} {100 * share:15.2f} %", flush=True
            )
    finally:
        shutil.rmtree(folder)
    print(f"below 5 % for each network: {'yes' if worst < 0.05 else 'NO'}")
    sys.exit(worst >= 0.05)


if __name__ == "__main__":
    main()
