"""Pretraining of a network on labelled videos: what the init `video` is made of.

The class of a video is learnt by the same loop as finetuning; held-out videos choose the epoch.
What comes out are `weights/video/<backbone>.safetensors` and a record beside it, written last,
that says from what and how they were made. Weights whose record agrees with the settings and the
videos are not made again; a pretraining that was interrupted goes on from its last epoch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib import tables
from ctlib.backbones import spec
from ctlib.inits import Init, network, save_weights
from ctlib.optimization import FitSettings
from ctlib.precision import choose
from ctlib.runs import PROTOCOL_VERSION, digest
from ctlib.sampling import BalancedSampler
from ctlib.training import fit
from ctlib.videos import VideoClips
from ctlib.workspace import Workspace, read_json

if TYPE_CHECKING:
    from ctlib.engine import Engine, Outcome

INIT = "video"
"""Name of the init whose weights are made here."""


@dataclass(frozen=True)
class PretrainSettings:
    """How a network is pretrained. Units and meanings are those of the notebook's parameters.

    Args:
        source: what the videos are, one phrase; it stands in every ledger.
        licence: of the videos, and so of the weights.
        size: `tiny` or `full`.
        n_frames: frames a clip.
        crop_px: rows and columns of a clip.
        heldout_share: share of the videos that are not learnt from.
        epochs: at most so many.
        steps_per_epoch: batches an epoch.
        batch_size: clips a batch.
        lr: learning rate.
        weight_decay: of the optimizer.
        optimizer: `adam`, `adamw` or `sgd`.
        schedule: `one_cycle`, `plateau` or `constant`.
        patience: epochs without a better held-out accuracy before it stops; 0 never stops.
        precision: `auto`, `fp32` or `bf16`.
        seed: of the split, the order, the augmentation and the random weights.
    """

    source: str
    licence: str
    size: str
    n_frames: int
    crop_px: int
    heldout_share: float
    epochs: int
    steps_per_epoch: int
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: str = "adamw"
    schedule: str = "one_cycle"
    patience: int = 0
    precision: str = "auto"
    seed: int = 0


def pretrain(
    work_dir: str, backbone: str, settings: PretrainSettings, loader_workers: int = 0, videos: str = ""
) -> dict[str, Any]:
    """Pretrain one network, or what is left of it. This is what a worker does.

    Args:
        work_dir: root of the workspace.
        backbone: key of the network.
        settings: how.
        loader_workers: processes that read clips ahead; worth it on a GPU.
        videos: folder with one folder a class; "" for the workspace's own.

    Returns:
        The record: settings, classes, number of clips, held-out accuracy, curves, and what
        `ctlib.inits.save_weights` adds.

    Raises:
        FitError: it diverged.
        VideoError: there are no classes, or a class has no video.
        ValueError: an unknown name, or a setting out of range.
    """
    workspace = Workspace.at(work_dir)
    path = workspace.weights(INIT, backbone)
    root = Path(videos) if videos else workspace.videos
    made_from = _made_from(backbone, settings, fingerprint(root))
    if record := _known(path, made_from):
        return record
    folder = path.parent / f".{backbone}-{made_from[:12]}"
    record = _pretrain(root, backbone, settings, folder, path, made_from, loader_workers)
    shutil.rmtree(folder)
    return record


def _made_from(backbone: str, settings: PretrainSettings, videos: str) -> str:
    """Hash of all that changes the weights; `videos` is their `fingerprint`."""
    asked = {"backbone": backbone, "protocol": PROTOCOL_VERSION, **dataclasses.asdict(settings)}
    return digest({**asked, "videos": videos})


def _known(path: Path, made_from: str) -> dict[str, Any] | None:
    """The record of weights that were made from just this; None where there are none."""
    if path.is_file() and path.with_suffix(".json").is_file():
        record = read_json(path.with_suffix(".json"))
        if record.get("made_from") == made_from:
            return record
    return None


def _pretrain(
    videos: Path,
    backbone: str,
    settings: PretrainSettings,
    folder: Path,
    path: Path,
    made_from: str,
    loader_workers: int,
) -> dict[str, Any]:
    """Fit and write; returns the record."""
    common = (videos, settings.n_frames, settings.crop_px, settings.seed)
    train = VideoClips(*common, heldout=False, heldout_share=settings.heldout_share, train=True)
    heldout = VideoClips(*common, heldout=True, heldout_share=settings.heldout_share, train=False)
    mean, std = train.intensity()
    start = Init("random", "drawn from the seed", "none needed", (mean,), (std,))
    n_classes = len(train.classes)
    model, _ = network(backbone, settings.size, start, settings.seed, n_outputs=n_classes)  # type: ignore[arg-type]
    n_draws = settings.steps_per_epoch * settings.batch_size
    sampler = BalancedSampler(train.labels, n_draws, settings.seed, classes=range(n_classes))
    truth = np.array(heldout.labels)

    def accuracy(logits: NDArray[np.float32]) -> float:
        return float((logits.argmax(axis=1) == truth).mean())

    compute = choose(settings.precision, spec(backbone))
    names = {field.name for field in dataclasses.fields(FitSettings)}
    chosen = {name: value for name, value in dataclasses.asdict(settings).items() if name in names}
    fitted = fit(
        model,
        train,
        sampler,
        heldout,
        accuracy,
        FitSettings(**chosen, loss="cross_entropy"),
        compute,
        folder,
        settings.seed,
        loader_workers,
    )
    curves = fitted.curves.rename(columns={"val_loss": "heldout_loss", "val_metric": "heldout_accuracy"})
    record = {
        "source": settings.source,
        "licence": settings.licence,
        "settings": dataclasses.asdict(settings),
        "backbone": backbone,
        "classes": list(train.classes),
        "n_train": len(train),
        "n_heldout": len(heldout),
        "best_epoch": fitted.best_epoch,
        "heldout_accuracy": float(curves["heldout_accuracy"][fitted.best_epoch - 1]),
        "seconds": fitted.seconds,
        "compute": str(compute),
        "curves": curves.to_dict("records"),
        "made_from": made_from,
    }
    save_weights(model, path, record)
    return read_json(path.with_suffix(".json"))


def labels_of(clips: VideoClips) -> list[int]:
    """The class of each item of the data set."""
    return [int(label) for label in clips.labels]


def fingerprint(videos: Path) -> str:
    """SHA-256 of the videos: names and content of all files in the folders of the classes."""
    whole = hashlib.sha256()
    for path in sorted(path for path in videos.glob("*/*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(videos).as_posix()} {content}\n".encode())
    return whole.hexdigest()


def pretrain_all(
    workspace: Workspace,
    backbones: Sequence[str],
    settings: PretrainSettings,
    engine: Engine,
    echo: Callable[[str], Any] = print,
    loader_workers: int = 0,
    videos: str | Path = "",
) -> pd.DataFrame:
    """Pretrain networks and write table `pretraining`; a network that fails stops no other.

    Args:
        workspace: where everything lies.
        backbones: keys of networks.
        settings: how.
        engine: where they execute.
        echo: takes one line a network.
        loader_workers: see `pretrain`.
        videos: see `pretrain`.

    Returns:
        Table `pretraining`.

    Raises:
        RuntimeError: a network failed; the message has its traceback. The others are finished.
    """

    def line(outcome: Outcome) -> str:
        if outcome.error is not None:
            return f"{todo[outcome.index]}: failed: {outcome.reason}"
        record = outcome.value
        return (
            f"{record['backbone']}: held-out accuracy {record['heldout_accuracy']:.3f} over "
            f"{len(record['classes'])} classes at epoch {record['best_epoch']}, {record['seconds']:.0f} s"
        )

    work = partial(
        pretrain,
        str(workspace.root),
        settings=settings,
        loader_workers=loader_workers,
        videos=str(videos),
    )
    content = fingerprint(Path(videos) if videos else workspace.videos)
    records = {
        key: _known(workspace.weights(INIT, key), _made_from(key, settings, content)) for key in backbones
    }
    todo = [key for key, record in records.items() if record is None]
    echo(f"{len(records) - len(todo)} of {len(records)} networks were pretrained before.")
    outcomes = engine.run(work, todo, "networks to pretrain", line, lambda outcome: echo(line(outcome)))
    records |= {todo[outcome.index]: outcome.value for outcome in outcomes}
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(backbones)} networks failed; the first:\n{failed[0].error}"
        )
    rows = [{"backbone": key, **row} for key, record in records.items() if record for row in record["curves"]]
    table = tables.check(pd.DataFrame(rows), "pretraining")
    tables.write(table, "pretraining", workspace.table("pretraining"))
    return table
