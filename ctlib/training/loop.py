"""One fit and one predict of a network on clips, on Lightning Fabric.

A fit leaves a checkpoint after each epoch and goes on from it: an interrupted fit ends with
the same weights, to the last bit, as one that was not interrupted (CPU). Therefore nothing
random depends on what came before an epoch: torch is seeded at its start from (seed, epoch),
and so are the order of the clips and their augmentation.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from ctlib.core import Claim, display_path
from ctlib.models import Network, load_weights, save_weights
from ctlib.training.device import Compute
from ctlib.training.loaders import Clips, EpochSampler, ending, held_out, loader, set_epoch
from ctlib.training.losses import LOSSES
from ctlib.training.multi_device import Share, share_statistics, whole
from ctlib.training.optimizer import SCHEDULES, FitSettings, optimizer_of

if TYPE_CHECKING:
    from lightning.fabric import Fabric

CHECKPOINT = "last.ckpt"
WEIGHTS = "weights.safetensors"

Metric = Callable[[NDArray[np.float32]], float]
"""Logits `[n, outputs]` of the validation clips, in their order, to a value; higher is better."""


class FitError(RuntimeError):
    """A fit cannot begin or go on: one sentence that says why and what to do."""


@dataclass(frozen=True)
class FitResult:
    """What a fit gave; the network holds the weights of the best epoch.

    Args:
        curves: one row an epoch: epoch (from 1), train_loss, val_loss, val_metric.
        best_epoch: the epoch with the best validation metric, the last one among equals; or just
            the last one (`FitSettings.keep`).
        val_logits: `[n_clips, outputs]` of that epoch, in the order of the validation clips.
        seconds: wall time of all epochs, those before an interruption included, s.
    """

    curves: pd.DataFrame
    best_epoch: int
    val_logits: NDArray[np.float32]
    seconds: float


class _History:
    """The epochs that are done: what the checkpoint keeps besides network and optimizer.

    Args:
        settings: of the fit.
    """

    def __init__(self, settings: FitSettings) -> None:
        self.settings = settings
        self.rows: list[dict[str, float]] = []  # of the curves
        self.best_logits = torch.empty(0)
        self.seconds = 0.0

    @property
    def best_epoch(self) -> int:
        """The last epoch with the highest validation metric, or the last epoch of all."""
        if self.settings.keep == "last":
            return len(self.rows)
        return max(self.rows, key=lambda row: (row["val_metric"], row["epoch"]))["epoch"]  # type: ignore[return-value]

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or none of the last ones was better than those before."""
        metrics = [row["val_metric"] for row in self.rows]
        patience = self.settings.patience
        since_better = len(metrics) - 1 - metrics.index(max(metrics)) if metrics else 0
        return len(metrics) >= self.settings.epochs or (0 < patience <= since_better)

    def result(self) -> FitResult:
        """Of a fit that has ended."""
        curves = pd.DataFrame(self.rows).astype({"epoch": "int64"})
        return FitResult(curves, self.best_epoch, self.best_logits.numpy(), self.seconds)

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        return {"rows": self.rows, "best_logits": self.best_logits, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.rows, self.best_logits, self.seconds = state["rows"], state["best_logits"], state["seconds"]


def fit(
    network: Network,
    train: Clips,
    sampler: EpochSampler,
    val: Clips,
    metric: Metric,
    settings: FitSettings,
    compute: Compute,
    folder: Path,
    seed: int,
    loader_workers: int = 0,
    loggers: Sequence[Any] = (),
) -> FitResult:
    """Train a network, in place, and give it the weights of its best epoch.

    `folder` gets `last.ckpt` after each epoch and `weights.safetensors` (with its record) after each
    epoch that was the best so far. If `last.ckpt` is there, the fit goes on from it.

    Args:
        network: changed in place.
        train: clips to learn from.
        sampler: draws the clips of an epoch.
        val: clips that decide which epoch is the best.
        metric: how good the logits of `val` are.
        settings: how to train.
        compute: where, and in which precision; of several devices, all processes call this, and the first writes.
        folder: of this fit alone; a checkpoint of other settings in it would be continued.
        seed: of whatever the network draws in training.
        loader_workers: processes that read clips ahead; worth it on a GPU. They do not change the result.
        loggers: Lightning's; each epoch is written as it ends, those before an interruption once more.

    Raises:
        FitError: a loss is not finite, or the checkpoint cannot be read.
        KeyboardInterrupt: Ctrl-C.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compute.prepare(network.backbone)
    fabric, history = compute.fabric(), _History(settings)
    started = time.perf_counter()
    network.to(fabric.device)
    model: Any = network  # or what averages its gradients over all processes
    rows = slice(fabric.global_rank, len(val), fabric.world_size)
    if fabric.world_size > 1:
        sampler = Share(sampler, settings.batch_size, fabric.global_rank, fabric.world_size)
        model = fabric.setup_module(share_statistics(network, compute.accelerator))
    held = (val, range(*rows.indices(len(val))))
    batches = loader(train, settings.batch_size // fabric.world_size, compute, loader_workers, sampler, held)
    plain = optimizer_of(network.parameters(), settings)
    n_steps = math.ceil(len(batches) / settings.accumulate) * settings.epochs
    schedule = SCHEDULES[settings.schedule].make(plain, settings, n_steps)
    optimizer = fabric.setup_optimizers(plain)
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    parts |= {"precision": fabric.strategy.precision, "history": history}  # of fp16, the scale of the loss
    _restore(fabric, folder / CHECKPOINT, parts)
    with _logging(loggers, history), ending(batches):
        while not history.ended:
            epoch = len(history.rows)
            set_epoch(batches, epoch)
            torch.manual_seed(_epoch_seed(seed, epoch, fabric.global_rank))
            train_loss = _learn(fabric, model, batches, optimizer, schedule, settings)
            logits, labels = _validate(fabric, network, batches, rows, len(val))
            row = {"epoch": epoch + 1, "train_loss": train_loss}
            row["val_loss"] = float(LOSSES[settings.loss](logits, labels))
            _require_finite(row, settings)
            row["val_metric"] = metric(logits.numpy())
            if SCHEDULES[settings.schedule].each == "epoch":
                schedule.step(row["val_loss"])  # type: ignore[arg-type]
            history.rows.append(row)
            _log(loggers, row)
            now = time.perf_counter()
            history.seconds, started = history.seconds + now - started, now
            _keep(fabric, parts, folder, logits)
    load_weights(network.cpu(), folder / WEIGHTS)
    return history.result()


def _keep(fabric: Fabric, parts: Mapping[str, Any], folder: Path, logits: torch.Tensor) -> None:
    """Write what the last epoch left: its weights, if it is the best so far, and the checkpoint.

    Of several processes the first writes, and all wait for it.
    """
    history, row = parts["history"], parts["history"].rows[-1]
    if history.best_epoch == row["epoch"]:
        history.best_logits = logits
        if fabric.is_global_zero:
            about = {"epoch": row["epoch"], "val_metric": row["val_metric"]}
            save_weights(parts["network"], folder / WEIGHTS, about)
    fabric.save(folder / f".{CHECKPOINT}", dict(parts))
    if fabric.is_global_zero:
        (folder / f".{CHECKPOINT}").replace(folder / CHECKPOINT)


def _learn(
    fabric: Fabric,
    network: Any,
    batches: DataLoader[Any],
    optimizer: Any,
    schedule: LRScheduler,
    settings: FitSettings,
) -> float:
    """All steps of an epoch; the mean loss of its clips."""
    n, rank = fabric.world_size, fabric.global_rank
    n_clips, losses = n * len(batches.sampler), []  # type: ignore[arg-type]
    for index, batch in enumerate(batches, 1):
        clip, label = fabric.to_device((batch["clip"], batch["label"]))
        is_step = index % settings.accumulate == 0 or index == len(batches)
        alone = fabric.no_backward_sync(network) if n > 1 and not is_step else contextlib.nullcontext()
        with alone:
            with fabric.autocast():
                output = network(clip)
                if n > 1:  # the loss is of the whole batch
                    rows = slice(rank * len(label), (rank + 1) * len(label))
                    output, label = (whole(part, rows, n * len(label)) for part in (output, label))
                loss = LOSSES[settings.loss](output, label)
            losses.append(loss.detach() * len(label))
            weight = settings.weight(index - 1, len(label), n_clips)
            fabric.backward(loss * weight / settings.accumulate)
        if is_step:
            optimizer.step()
            optimizer.zero_grad()
            if SCHEDULES[settings.schedule].each == "step":
                schedule.step()
    return float(torch.stack(losses).sum() / n_clips)


def _validate(
    fabric: Fabric, network: Network, batches: DataLoader[Any], rows: slice, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_outputs` of the held-out clips, of which this process has some rows; the network is then as it was."""
    modes = {module: module.training for module in network.modules()}
    found = _outputs(fabric, network, held_out(batches))
    for module, mode in modes.items():  # a network of the user's own may train some parts only
        module.training = mode
    if fabric.world_size == 1:
        return found
    logits, labels = (whole(part.to(fabric.device), rows, n).cpu() for part in found)
    return logits, labels


def _outputs(fabric: Fabric, network: Network, batches: Iterable[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[n, outputs]` and labels `[n]` of all clips, on the CPU; the network is then in evaluation mode."""
    network.eval()
    logits, labels = [], []
    with torch.inference_mode(), fabric.autocast():
        for batch in batches:
            logits.append(network(fabric.to_device(batch["clip"])))
            labels.append(batch["label"])
    return torch.cat(logits).cpu(), torch.cat(labels)


def predict(
    network: Network, clips: Clips, batch_size: int, compute: Compute, loader_workers: int = 0
) -> NDArray[np.float32]:
    """Logits of clips `[n_clips, outputs]`, in the order of the data set.

    Args:
        network: moved to the device and put into evaluation mode.
        clips: data set.
        batch_size: clips at once.
        compute: where, and in which precision: as in the fit.
        loader_workers: processes that read clips ahead.
    """
    fabric = compute.fabric()
    compute.prepare(network.to(fabric.device).backbone)
    logits, _ = _outputs(fabric, network, loader(clips, batch_size, compute, loader_workers))
    return logits.numpy()


def while_mine(metric: Metric, claim: Claim) -> Metric:
    """A metric that is asked before the files of an epoch are written; only while its folder is ours."""

    def asked(logits: NDArray[np.float32]) -> float:
        claim.require()
        return metric(logits)

    return asked


def _epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed for torch from the experiment's seed, the epoch, and which of several processes it is."""
    stream = [seed, epoch, rank] if rank else [seed, epoch]
    return int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _require_finite(row: Mapping[str, float], settings: FitSettings) -> None:
    """Refuse to go on where a network has diverged."""
    if not (math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"])):
        raise FitError(
            f"the loss of epoch {row['epoch']} is {row['train_loss']:g} in training and {row['val_loss']:g} in "
            f"validation; lower lr, which is {settings.lr:g}."
        )


def _restore(fabric: Fabric, path: Path, parts: dict[str, Any]) -> None:
    """Bring the parts of a fit to where its checkpoint left them, if there is one.

    Raises:
        FitError: it cannot be read.
    """
    if not path.is_file():
        return
    try:
        fabric.load(path, parts, weights_only=True)
    except (
        OSError,
        EOFError,
        RuntimeError,
        LookupError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise FitError(
            f"{display_path(path)} is no checkpoint of a fit ({type(error).__name__}); delete it to begin again."
        ) from error


def _log(loggers: Sequence[Any], row: Mapping[str, float]) -> None:
    """Give an epoch to the loggers."""
    for logger in loggers:
        logger.log_metrics({name: row[name] for name in row if name != "epoch"}, step=int(row["epoch"]))
        logger.save()


@contextlib.contextmanager
def _logging(loggers: Sequence[Any], history: _History) -> Iterator[None]:
    """Give the loggers the epochs that an interrupted fit had, and in the end say how this one ended."""
    for row in history.rows:
        _log(loggers, row)
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
