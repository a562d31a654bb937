"""Pretraining of networks: the inits that are made here, from labelled videos or from a source CT cohort.

The loop is that of finetuning; held-out clips choose the epoch. What comes out are
`weights/<init>/<backbone>.safetensors` and a record beside it, written last, that says from what and
how they were made. Weights whose record agrees with the settings and the data are not made again; a
pretraining that was interrupted goes on from its last epoch.

What an init is made from stands in its name (`ctlib.models.weights.load.origin`): `video`, `ct_lidc`, `video_ssl`
(without labels), `kinetics400+ct_rspect` (one after the other), `video_placebo` (labels exchanged).
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctlib.core import Workspace, field_values, read_json
from ctlib.datasets import BalancedSampler
from ctlib.models import NO_COHORT, Init, Network, build_network, code_of, file_name, find, save_weights, spec
from ctlib.training.device import choose
from ctlib.training.loop import fit
from ctlib.training.optimizer import FitSettings
from ctlib.training.pretraining.ct import CtSource
from ctlib.training.pretraining.plan import Plan, PretrainSettings, made_here
from ctlib.training.pretraining.task import PretrainTask
from ctlib.training.pretraining.vicreg import Paired, expander
from ctlib.training.pretraining.videos import VideoSource
from ctlib.training.run import PROTOCOL_VERSION, digest

__all__ = ["CtSource", "Plan", "PretrainSettings", "VideoSource", "pretrain"]


@dataclass(frozen=True)
class Job:
    """One network to be pretrained.

    Args:
        init: name of the init that is made.
        backbone: key of the network.
        made_from: hash of all that changes the weights.
    """

    init: str
    backbone: str
    made_from: str


def job(workspace: Workspace, init_name: str, backbone: str, plan: Plan, data: str) -> Job:
    """The job of an init and a network.

    Args:
        workspace: where the weights lie that it begins from.
        init_name: init that is made.
        backbone: key of the network.
        plan: how.
        data: `Plan.fingerprint` of its source.

    Raises:
        ValueError: the init is not made here, or has no source.
        MissingInput: the weights that it begins from were not made yet.
    """
    made = made_here(init_name)
    start = find(made.start, backbone, workspace, NO_COHORT)
    changes = {
        "init": init_name,
        "backbone": backbone,
        "code": code_of(backbone),
        "protocol": PROTOCOL_VERSION,
        "settings": dataclasses.asdict(plan.settings_of(made, backbone)),
        "source": plan.source_of(made).settings(),
        "data": data,
        "start": start.checksum,
    }
    return Job(init_name, backbone, digest(changes))


def pretrain(work_dir: str, todo: Job, plan: Plan, loader_workers: int = 0) -> dict[str, Any]:
    """Pretrain one network, or what is left of it. This is what a worker does.

    Args:
        work_dir: root of the workspace.
        todo: what is made.
        plan: how.
        loader_workers: processes that read clips ahead; worth it on a GPU.

    Returns:
        The record: settings, source, held-out metric, curves, and what `ctlib.models.weights.load.save_weights` adds.

    Raises:
        FitError: it diverged, or there is nothing to learn from.
        VideoError: there are no classes, or a class has no video.
        ValueError: an unknown name, or a setting out of range.
    """
    workspace = Workspace.at(work_dir)
    path = workspace.weights(todo.init, file_name(todo.backbone))
    if record := known(workspace, todo):
        return record
    folder = path.parent / f".{path.stem}-{todo.made_from[:12]}"
    made = made_here(todo.init)
    how, pretrain_task = plan.settings_of(made, todo.backbone), plan.pretrain_task(workspace, made)
    measured = pretrain_task.intensity() if made.start == "random" else NO_COHORT
    start = find(made.start, todo.backbone, workspace, measured, pretrain_task.n_channels)
    fitted, about = _fit(todo, pretrain_task, start, how, folder, loader_workers)
    settings = {"settings": dataclasses.asdict(how), "made_from": todo.made_from}
    save_weights(fitted, path, {"init": todo.init, "backbone": todo.backbone, **settings, **about})
    shutil.rmtree(folder)
    return read_json(path.with_suffix(".json"))


def known(workspace: Workspace, todo: Job) -> dict[str, Any] | None:
    """The record of weights that were made from just this; None where there are none."""
    path = workspace.weights(todo.init, file_name(todo.backbone))
    if path.is_file() and path.with_suffix(".json").is_file():
        record = read_json(path.with_suffix(".json"))
        if record.get("made_from") == todo.made_from:
            return record
    return None


def _fit(
    todo: Job,
    task: PretrainTask,
    start: Init,
    settings: PretrainSettings,
    folder: Path,
    loader_workers: int,
) -> tuple[Network, dict[str, Any]]:
    """The trained network, and what is known of its training."""
    model, _ = build_network(todo.backbone, settings.size, start, settings.seed, task.n_outputs)
    views = 2 if task.paired else 1
    if task.paired:
        generator = torch.Generator().manual_seed(settings.seed)
        model.head = expander(int(model.backbone.n_features), generator)  # type: ignore[arg-type, assignment]
    n_draws = settings.steps_per_epoch * settings.batch_size
    drawn = BalancedSampler(task.labels, n_draws, settings.seed, classes=sorted(set(task.labels)))
    chosen = field_values(FitSettings, vars(settings))
    compute = choose(settings.precision, spec(todo.backbone))
    fitted = fit(
        model,
        task.train,
        Paired(drawn) if task.paired else drawn,
        task.heldout,
        task.metric,
        FitSettings(**chosen | {"batch_size": views * settings.batch_size, "loss": task.loss}),
        compute,
        folder,
        settings.seed,
        loader_workers,
    )
    curves = fitted.curves.rename(columns={"val_loss": "heldout_loss", "val_metric": "heldout_metric"})
    begun = "" if start.name == "random" else f"{start.source}; then "
    licence = task.about["licence"] if start.name == "random" else f"{start.licence}; {task.about['licence']}"
    return model, {
        **task.about,
        "source": begun + task.about["source"],
        "licence": licence,
        "begins_from": start.name,
        "begins_from_sha256": start.checksum,
        "metric": task.asked,
        "chance": task.chance,
        "best_epoch": fitted.best_epoch,
        "heldout_metric": float(curves["heldout_metric"][fitted.best_epoch - 1]),
        "seconds": fitted.seconds,
        "compute": str(compute),
        "curves": curves.to_dict("records"),
    }
