"""Features of a frozen network: each clip of a cohort goes through it once, for all heads, seeds, fractions and folds.

They lie in `features/<key>/` of the workspace, where the key is a hash of all that changes them (`key_of`):

- `part_<row>.npy`: those from this row on, while they are computed; a process that was killed goes on behind them;
- `features.npy`: all, float32 `[n_clips, n_features]`, a row a clip of `ctlib.training.run.clips_of`;
- `ledger.parquet`: of the network's tensors;
- `record.json`: what they are of, written last: features that have it are never computed again.

`core.locks` keeps a second process from computing the same: it turns to other runs meanwhile. Random weights, and
weights of which something was drawn anew, are of a seed, so their features are, too; those from random weights
are also of a turn of the cross-validation, whose training clips give mean and standard deviation.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ctlib.core import Claim, Workspace, claimed, read_json, replacing, tables, write_json
from ctlib.datasets import ClipDataset, task
from ctlib.models import OVER_SLICES, Network, headed, needs_cohort, spec, split
from ctlib.training.device import choose
from ctlib.training.loaders import ending, loader
from ctlib.training.loop import FitError
from ctlib.training.protocol import ONE_MEAN
from ctlib.training.run import Run, clip_settings, clips_of, digest, store_of

FOLDER, RECORD, VALUES, LEDGER = "features", "record.json", "features.npy", "ledger.parquet"
PART_S = 30.0
"""A part is written this often, s: as much is lost where a process is killed."""

Making = Callable[[], tuple[Network, pd.DataFrame, list[dict[str, str]]]]
"""Makes the network with its starting weights, their ledger, and what they were trained on before."""


@dataclass(frozen=True)
class Features:
    """Features of all clips of a cohort.

    Args:
        values: float32 `[n_clips, n_features]`.
        clips: series_uid and start of each row.
        ledger: table `ledger` of the network.
        record: content of `record.json`: key, compute, torch, seconds, seen and more.
    """

    values: NDArray[np.float32]
    clips: pd.MultiIndex
    ledger: pd.DataFrame
    record: dict[str, Any]

    def of(self, rows: pd.DataFrame) -> NDArray[np.float32]:
        """Features of some clips, `[n_rows, n_features]`, in their order."""
        return self.values[self.clips.get_indexer(pd.MultiIndex.from_frame(rows[["series_uid", "start"]]))]


def key_of(workspace: Workspace, run: Run, clips: pd.DataFrame, rows: pd.DataFrame) -> str:
    """SHA-256 of all that changes the features of a run: network, weights, clips, volumes, precision asked for.

    Args:
        workspace: where the volumes lie.
        run: a run with a head.
        clips: all clips of its cohort.
        rows: those of the run; of the training split, they give random weights mean and standard deviation.
    """
    _, bare = headed(run.init)
    controls, base = split(bare)
    store, named = store_of(workspace, run), ["series_uid", "start", "stop"]
    is_drawn = base == "random" or bool(controls) or run.backbone in OVER_SLICES
    needs_mean = ONE_MEAN in run.flaws or needs_cohort(bare, run.backbone, workspace)
    return digest(
        {
            name: getattr(run, name)
            for name in ("backbone", "code", "size", "weights", "matrix_px", "precision")
        }
        | {
            "init": bare,
            "seed": run.seed if is_drawn else None,
            "cut": dataclasses.asdict(clip_settings(run)),
        }
        | {
            "one_mean": ONE_MEAN in run.flaws,
            "mean": rows.loc[rows["split"] == "train", named].to_csv(index=False) if needs_mean else "",
        }
        | {"clips": clips[named].to_csv(index=False)}
        | {"volumes": {uid: store.checksum(uid) for uid in clips["series_uid"].unique()}}
    )


def features(
    workspace: Workspace, run: Run, rows: pd.DataFrame, making: Making, loader_workers: int = 0
) -> Features:
    """The features of a run's network, computed where they are not there.

    Args:
        workspace: where everything lies.
        run: a run with a head.
        rows: its clips, of all splits.
        making: makes the network; called only where features are computed.
        loader_workers: processes that read clips ahead; worth it on a GPU.

    Raises:
        Busy: another process computes them.
        FitError: some are not finite.
        InitError: see `making`.
    """
    clips = clips_of(workspace, task(run.task).cohort)
    key = key_of(workspace, run, clips, rows)
    folder = workspace.root / FOLDER / key[:16]
    with claimed(
        folder, lambda: all((folder / name).is_file() for name in (VALUES, LEDGER, RECORD))
    ) as claim:
        if claim is not None:
            started = time.perf_counter()
            network, ledger, seen = making()
            values, compute = _computed(workspace, run, clips, network, folder, claim, loader_workers)
            tables.write(ledger, "ledger", folder / LEDGER)
            _save(values, folder / VALUES)
            about: dict[str, Any] = {
                "key": key,
                "init": headed(run.init)[1],
                "seen": seen,
                "compute": compute,
            }
            about |= {"backbone": run.backbone, "size": run.size, "n_clips": len(clips)}
            about |= {"torch": torch.__version__, "seconds": time.perf_counter() - started}
            write_json(folder / RECORD, about)
            for part in _parts(folder):
                part.unlink(missing_ok=True)
    index = pd.MultiIndex.from_frame(clips[["series_uid", "start"]])
    values = np.load(folder / VALUES, mmap_mode="r")
    return Features(values, index, tables.read("ledger", folder / LEDGER), read_json(folder / RECORD))


def _computed(
    workspace: Workspace,
    run: Run,
    clips: pd.DataFrame,
    network: Network,
    folder: Path,
    claim: Claim,
    loader_workers: int,
) -> tuple[NDArray[np.float32], str]:
    """Features of all clips, those of earlier parts included, and how they were computed."""
    compute = choose(run.precision, spec(run.backbone))
    fabric, done = compute.fabric(), [np.load(part) for part in _parts(folder)]
    compute.prepare(network.to(fabric.device).eval().backbone)
    first = sum(map(len, done))
    left = ClipDataset(store_of(workspace, run), clips.iloc[first:], clip_settings(run), train=False)
    batches = loader(left, run.batch_size, compute, loader_workers)
    fresh: list[torch.Tensor] = []
    since = time.perf_counter()
    with ending(batches), torch.inference_mode(), fabric.autocast():
        for batch in batches:
            fresh.append(network.features(fabric.to_device(batch["clip"])).float())
            if time.perf_counter() - since > PART_S:
                claim.require()
                done.append(torch.cat(fresh).cpu().numpy())
                _save(done[-1], folder / f"part_{first:09d}.npy")
                first, fresh, since = first + len(done[-1]), [], time.perf_counter()
    values = np.concatenate([*done, *(torch.cat(fresh).cpu().numpy() for _ in fresh[:1])])
    if not np.isfinite(values).all():
        bad = clips.iloc[int((~np.isfinite(values)).any(axis=1).argmax())]
        raise FitError(
            f"{run.backbone} from {headed(run.init)[1]} gives features that are not finite, first of series "
            f"{bad['series_uid']}, clip {bad['clip']}: set precision to fp32, or leave this network out."
        )
    claim.require()
    return values, str(compute)


def _parts(folder: Path) -> list[Path]:
    """Parts that follow one another from the first row on."""
    return sorted(folder.glob("part_*.npy"))


def _save(values: NDArray[np.float32], path: Path) -> None:
    """Write an array under a temporary name, then rename it."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
