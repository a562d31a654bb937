"""One fit and one predict of a network on clips (Lightning).

A fit leaves a checkpoint after each epoch and goes on from it: an interrupted fit ends with
the same weights, to the last bit, as one that was not interrupted (CPU). Therefore nothing
random depends on what came before an epoch: torch is seeded at its start from (seed, epoch),
and so are the order of the clips and their augmentation.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ctlib.core import display_path
from ctlib.models import Network, load_weights, save_weights
from ctlib.training.device import Compute, trainer
from ctlib.training.loaders import Clips, EpochSampler, loader, set_epoch
from ctlib.training.losses import LOSSES
from ctlib.training.optimizer import FitSettings, optimizer_of, plateau_lr

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


class _Fit(lightning.LightningModule):
    """What one step and one epoch are, and what is kept of an epoch."""

    def __init__(self, network: Network, settings: FitSettings, metric: Metric, seed: int, folder: Path):
        super().__init__()
        self.network = network
        self.settings, self.metric, self.seed, self.folder = settings, metric, seed, folder
        self.rows: list[dict[str, float]] = []  # of the curves
        self.best_logits = torch.empty(0)
        self.seconds, self.started = 0.0, time.perf_counter()
        self.train_losses: list[torch.Tensor] = []  # of each batch, a sum over its clips
        self.val_batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def n_clips(self) -> int:
        """Clips of an epoch."""
        return len(self.trainer.train_dataloader.sampler)  # type: ignore[union-attr]

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

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of logits `[N, outputs]`."""
        return LOSSES[self.settings.loss](logits, labels)

    def configure_optimizers(self) -> Any:
        """The optimizer, and the schedule where it moves with each step."""
        optimizer = optimizer_of(self.network.parameters(), self.settings)
        if self.settings.schedule != "one_cycle":
            return optimizer
        n_steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.settings.lr, n_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Write the epochs that an interrupted fit had."""
        for row in self.rows:
            self._write(row)

    def _write(self, row: Mapping[str, float]) -> None:
        """Give an epoch to the loggers."""
        for logger in self.trainer.loggers:
            logger.log_metrics({name: row[name] for name in row if name != "epoch"}, step=int(row["epoch"]))
            logger.save()

    def on_train_epoch_start(self) -> None:
        """The data of this epoch; and its learning rate, where that follows the validation loss."""
        set_epoch(self.trainer.train_dataloader, self.current_epoch)  # type: ignore[arg-type]
        if self.settings.schedule == "plateau":
            lr = plateau_lr(self.settings, [row["val_loss"] for row in self.rows])
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = lr

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed torch for the epoch, after all that a resumed fit draws once more."""
        if batch_idx == 0:
            torch.manual_seed(_epoch_seed(self.seed, self.current_epoch))

    def training_step(self, batch: Mapping[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of a batch, as it counts in its step."""
        loss, n = self.loss(self.network(batch["clip"]), batch["label"]), len(batch["label"])
        self.train_losses.append(loss.detach() * n)
        return loss * self.settings.weight(batch_idx, n, self.n_clips)

    def validation_step(self, batch: Mapping[str, torch.Tensor], batch_idx: int) -> None:
        """Logits of a batch."""
        self.val_batches.append((self.network(batch["clip"]).float(), batch["label"]))

    def on_train_epoch_end(self) -> None:
        """Keep the epoch (validation came before): curves, the best weights, the checkpoint."""
        logits, labels = (torch.cat(parts).cpu() for parts in zip(*self.val_batches, strict=True))
        losses = torch.stack(self.train_losses).sum() / self.n_clips, self.loss(logits, labels)
        train_loss, val_loss = (float(loss) for loss in losses)
        self.train_losses, self.val_batches = [], []
        epoch = self.current_epoch + 1
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise FitError(
                f"the loss of epoch {epoch} is {train_loss:g} in training and {val_loss:g} in validation; "
                f"lower lr, which is {self.settings.lr:g}."
            )
        value = self.metric(logits.numpy())
        row = {"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss, "val_metric": value}
        self.rows.append(row)
        self._write(row)
        if self.best_epoch == epoch:
            self.best_logits = logits.clone()
            save_weights(self.network, self.folder / WEIGHTS, {"epoch": epoch, "val_metric": value})
        self.trainer.should_stop = self.ended
        now = time.perf_counter()
        self.seconds, self.started = self.seconds + now - self.started, now
        temporary = self.folder / f".{CHECKPOINT}"
        self.trainer.save_checkpoint(temporary)
        temporary.replace(self.folder / CHECKPOINT)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know."""
        checkpoint["fit"] = {"rows": self.rows, "best_logits": self.best_logits, "seconds": self.seconds}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """The inverse of `on_save_checkpoint`; Lightning restores the rest."""
        fit = checkpoint["fit"]
        self.rows, self.best_logits, self.seconds = fit["rows"], fit["best_logits"], fit["seconds"]


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
        compute: where, and in which precision.
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
    module = _Fit(network, settings, metric, seed, folder)
    last = folder / CHECKPOINT
    if last.is_file():
        module.restore(_checkpoint(last))
    if not module.ended:
        loaders = (
            loader(train, settings.batch_size, compute, loader_workers, sampler),
            loader(val, settings.batch_size, compute, loader_workers),
        )
        set_epoch(loaders[0], len(module.rows))  # Lightning makes the first iterator before the epoch starts
        with trainer(compute, settings.epochs, folder, settings.accumulate, loggers) as loop:
            loop.fit(module, *loaders, ckpt_path=last if last.is_file() else None, weights_only=True)
    load_weights(network, folder / WEIGHTS)
    return FitResult(
        curves=pd.DataFrame(module.rows).astype({"epoch": "int64"}),
        best_epoch=module.best_epoch,
        val_logits=module.best_logits.numpy(),
        seconds=module.seconds,
    )


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
    compute.prepare(network.to(compute.device).backbone)
    network.eval()
    logits = []
    with torch.inference_mode(), compute.autocast():
        for batch in loader(clips, batch_size, compute, loader_workers):
            clip = batch["clip"].to(compute.device, non_blocking=True)
            logits.append(network(clip).float().cpu())
    return torch.cat(logits).numpy()


def _epoch_seed(seed: int, epoch: int) -> int:
    """A seed for torch from the experiment's seed and the epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of `fit`.

    Raises:
        FitError: it cannot be read.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["fit"]["rows"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise FitError(
            f"{display_path(path)} is no checkpoint of a fit ({type(error).__name__}); delete it to begin again."
        ) from error
    return checkpoint
