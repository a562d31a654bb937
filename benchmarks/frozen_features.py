"""Features of a frozen network beside its bare forward pass, and heads on them.

    python benchmarks/frozen_features.py [EXAMS]

makes EXAMS exams (200) of 32 x 112 x 112 voxels of noise, and prints the CPU time (one thread; other processes do
not count) of a bare forward pass of a tiny SlowFast over them, and of reading, forward and storing by
`ctlib.training.features`, alternately; wanted is a share of 90 %. Then the time of the heads of 6 arms x 5 seeds x 3
fractions on features that are there; wanted are 60 s.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ctlib.core import Workspace, tables
from ctlib.datasets.clips import clip_table
from ctlib.datasets.splits import split_patients
from ctlib.datasets.store import Store
from ctlib.grid.execute import expand
from ctlib.io.volume import Volume
from ctlib.models.weights.load import NO_COHORT, Init, build_network, save_weights
from ctlib.training.finetune import execute

DEPTH, SIDE = 32, 112
ARMS = ("slow_r50", "slowfast_r50", "r2plus1d_r50", "csn_r101", "resnet18", "s3d")
SETTINGS = {
    **{
        "size": "tiny",
        "matrix_px": SIDE,
        "clip_length": DEPTH,
        "crop_px": SIDE,
        "epochs": 1,
        "steps_per_epoch": 1,
    },
    **{"batch_size": 8, "weight_decay": 0.0, "optimizer": "adam", "schedule": "constant", "patience": 0},
    **{"precision": "fp32", "study_label": "exam", "modes": ["frozen"]},
}


def prepare(work: Workspace, n_exams: int) -> None:
    """A cohort of noise, and weights of the arms."""
    rng, store = np.random.default_rng(0), Store(work.store("lidc"), SIDE)
    uids = [f"{i:04d}" for i in range(n_exams)]
    for i, uid in enumerate(uids):
        hu = rng.integers(-900, 100, (DEPTH, SIDE, SIDE)).astype(np.int16) + np.int16(40 * (i % 2))
        store.put(Volume(hu, (2.0, 1.0, 1.0), uid, (0.0, 0.0, 0.0)))
    series = pd.DataFrame({"cohort": "lidc", "patient_id": uids, "study_uid": uids, "series_uid": uids})
    series = series.assign(n_files=DEPTH, n_slices=DEPTH, rows_px=SIDE, cols_px=SIDE, spacing_z_mm=2.0)
    series = series.assign(
        spacing_y_mm=1.0, spacing_x_mm=1.0, thickness_mm=2.0, kernel=None, manufacturer=None
    )
    series = tables.check(series.assign(label=np.arange(n_exams) % 2), "series")
    rows = [(uid, i, 2.0 * i, int(uid) % 2) for uid in uids for i in range(DEPTH)]
    slices = tables.check(pd.DataFrame(rows, columns=["series_uid", "slice", "z_mm", "label"]), "slices")
    made = {"series": series, "clips": clip_table(slices, DEPTH, 4)}
    made["splits"] = split_patients(series, (0.6, 0.2, 0.2), seed=0)
    for name, table in made.items():
        tables.write(table, name, work.table(name, "lidc"))
    for backbone in ARMS:
        network, _ = build_network(backbone, "tiny", Init("random", "drawn", "none", *NO_COHORT), seed=0)
        save_weights(network, work.weights("video", backbone), {"source": "a benchmark", "licence": "none"})


def main(n_exams: int = 200) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Workspace(Path(folder) / "work")
        prepare(work, n_exams)
        asked = (work, ["lidc_nodule"])
        (run,) = expand(*asked, ["slowfast_r50"], ["video"], [1.0], [0], 0.1, **SETTINGS)
        network, _ = build_network(
            "slowfast_r50", "tiny", Init("random", "drawn", "none", *NO_COHORT), seed=0
        )
        clips, bare, whole = torch.rand(8, 1, DEPTH, SIDE, SIDE), [], []
        for _ in range(4):
            started = time.process_time()
            with torch.inference_mode():
                network.eval()
                for _ in range(n_exams // 8):
                    network.features(clips)
            bare.append(time.process_time() - started)
            for name in ("features", "runs"):
                shutil.rmtree(work.root / name, ignore_errors=True)
            started = time.process_time()
            execute(str(work.root), run)
            whole.append(time.process_time() - started)
            print(
                f"bare forward {bare[-1]:6.1f} s, read, forward, store and a head {whole[-1]:6.1f} s",
                flush=True,
            )
        share = statistics.median(b / w for b, w in list(zip(bare, whole, strict=True))[1:])
        print(f"share of the bare forward: {share:.0%}")
        for one in expand(*asked, list(ARMS), ["video"], [1.0], [0], 0.1, **SETTINGS):
            execute(str(work.root), one)
        runs = expand(*asked, list(ARMS), ["video"], [0.1, 0.5, 1.0], range(1, 6), 0.1, **SETTINGS)
        started = time.process_time()
        for one in runs:
            execute(str(work.root), one)
        print(f"{len(runs)} heads: {time.process_time() - started:.1f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
