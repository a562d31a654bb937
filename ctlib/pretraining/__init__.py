"""Pretraining of networks: the inits that are made here, from labelled videos or from a source CT cohort.

The loop is that of finetuning; held-out clips choose the epoch. What comes out are
`weights/<init>/<backbone>.safetensors` and a record beside it, written last, that says from what and
how they were made. Weights whose record agrees with the settings and the data are not made again; a
pretraining that was interrupted goes on from its last epoch.

What an init is made from stands in its name (`ctlib.inits.origin`): `video`, `ct_lidc`, `video_ssl`
(without labels), `kinetics400+ct_rspect` (one after the other), `video_placebo` (labels exchanged).
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ctlib import tables
from ctlib.backbones import code_of, file_name, spec
from ctlib.inits import Init, find, network, save_weights
from ctlib.networks import Network
from ctlib.optimization import FitSettings
from ctlib.picking import picked
from ctlib.precision import choose
from ctlib.pretraining.footage import VideoSource
from ctlib.pretraining.lessons import Lessons
from ctlib.pretraining.plan import Plan, PretrainSettings, made_here
from ctlib.pretraining.scans import CtSource
from ctlib.pretraining.views import Paired, expander
from ctlib.records import NO_COHORT
from ctlib.runs import PROTOCOL_VERSION, digest
from ctlib.sampling import BalancedSampler
from ctlib.training import fit
from ctlib.workspace import Workspace, read_json

if TYPE_CHECKING:
    from ctlib.engine import Engine, Outcome

__all__ = ["CtSource", "Plan", "PretrainSettings", "VideoSource", "pretrain", "pretrain_all"]


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
        The record: settings, source, held-out metric, curves, and what `ctlib.inits.save_weights` adds.

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
    how, lessons = plan.settings_of(made, todo.backbone), plan.lessons(workspace, made)
    measured = lessons.intensity() if made.start == "random" else NO_COHORT
    start = find(made.start, todo.backbone, workspace, measured, lessons.n_channels)
    fitted, about = _fit(todo, lessons, start, how, folder, loader_workers)
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
    todo: Job, lessons: Lessons, start: Init, settings: PretrainSettings, folder: Path, loader_workers: int
) -> tuple[Network, dict[str, Any]]:
    """The trained network, and what is known of its training."""
    model, _ = network(todo.backbone, settings.size, start, settings.seed, lessons.n_outputs)
    views = 2 if lessons.paired else 1
    if lessons.paired:
        generator = torch.Generator().manual_seed(settings.seed)
        model.head = expander(int(model.backbone.n_features), generator)  # type: ignore[arg-type, assignment]
    n_draws = settings.steps_per_epoch * settings.batch_size
    drawn = BalancedSampler(lessons.labels, n_draws, settings.seed, classes=sorted(set(lessons.labels)))
    chosen = picked(FitSettings, vars(settings))
    compute = choose(settings.precision, spec(todo.backbone))
    fitted = fit(
        model,
        lessons.train,
        Paired(drawn) if lessons.paired else drawn,
        lessons.heldout,
        lessons.metric,
        FitSettings(**chosen | {"batch_size": views * settings.batch_size, "loss": lessons.loss}),
        compute,
        folder,
        settings.seed,
        loader_workers,
    )
    curves = fitted.curves.rename(columns={"val_loss": "heldout_loss", "val_metric": "heldout_metric"})
    begun = "" if start.name == "random" else f"{start.source}; then "
    licence = (
        lessons.about["licence"] if start.name == "random" else f"{start.licence}; {lessons.about['licence']}"
    )
    return model, {
        **lessons.about,
        "source": begun + lessons.about["source"],
        "licence": licence,
        "begins_from": start.name,
        "begins_from_sha256": start.checksum,
        "metric": lessons.asked,
        "chance": lessons.chance,
        "best_epoch": fitted.best_epoch,
        "heldout_metric": float(curves["heldout_metric"][fitted.best_epoch - 1]),
        "seconds": fitted.seconds,
        "compute": str(compute),
        "curves": curves.to_dict("records"),
    }


def pretrain_all(
    workspace: Workspace,
    inits: Sequence[str],
    backbones: Sequence[str],
    plan: Plan,
    engine: Engine,
    echo: Callable[[str], Any] = print,
    loader_workers: int = 0,
) -> pd.DataFrame:
    """Pretrain networks and write table `pretraining`; a network that fails stops no other.

    Args:
        workspace: where everything lies.
        inits: names of the inits that are made; one may begin from another.
        backbones: keys of networks.
        plan: how, and from what.
        engine: where they execute.
        echo: takes one line a network.
        loader_workers: see `pretrain`.

    Returns:
        Table `pretraining`.

    Raises:
        RuntimeError: a network failed; the message has its traceback. The others are finished.
        ValueError: an init is not made here, or begins from one that comes after it; or an exception is of
            no network.
    """
    plan.require(backbones)
    data = {}
    for name in inits:
        made = made_here(name)
        if isinstance(source := plan.source_of(made), VideoSource):
            source.index(
                workspace, plan.settings.crop_px, engine.map
            )  # frames are decoded once, by all workers
        data[name] = plan.fingerprint(workspace, made)
    records: dict[tuple[str, str], dict[str, Any]] = {}
    work = partial(pretrain, str(workspace.root), plan=plan, loader_workers=loader_workers)
    for wave in waves(inits):
        jobs = [job(workspace, name, key, plan, data[name]) for name in wave for key in backbones]
        todo = [each for each in jobs if known(workspace, each) is None]
        echo(f"{', '.join(wave)}: {len(jobs) - len(todo)} of {len(jobs)} networks were pretrained before.")

        def line(outcome: Outcome, todo: list[Job] = todo) -> str:
            return _told(todo[outcome.index], outcome)

        outcomes = engine.run(work, todo, "networks to pretrain", line, lambda outcome: echo(line(outcome)))
        if failed := [outcome for outcome in outcomes if outcome.error is not None]:
            raise RuntimeError(f"{len(failed)} of {len(jobs)} networks failed; the first:\n{failed[0].error}")
        records |= {(each.init, each.backbone): known(workspace, each) or {} for each in jobs}
    rows = [
        {"init": name, "backbone": key, "metric": record["metric"], "chance": record["chance"], **row}
        for (name, key), record in records.items()
        for row in record["curves"]
    ]
    table = tables.check(pd.DataFrame(rows), "pretraining")
    tables.write(table, "pretraining", workspace.table("pretraining"))
    return table


def waves(inits: Sequence[str]) -> list[list[str]]:
    """The inits in an order in which each comes after the one that it begins from.

    >>> waves(["video+ct_lidc", "video", "ct_lidc"])
    [['video', 'ct_lidc'], ['video+ct_lidc']]
    """
    left, ordered = list(dict.fromkeys(inits)), []
    while left:
        ready = [name for name in left if made_here(name).start not in left]
        ordered.append(ready)
        left = [name for name in left if name not in ready]
    return ordered


def _told(todo: Job, outcome: Outcome) -> str:
    """One line on a network that was pretrained, or was not."""
    if outcome.error is not None:
        return f"{todo.init} {todo.backbone}: failed: {outcome.reason}"
    record = outcome.value
    how = f"{record['metric']} {record['heldout_metric']:.3f} (chance {record['chance']:.2f})"
    when = f"at epoch {record['best_epoch']}, {record['seconds']:.0f} s"
    return f"{todo.init} {todo.backbone}: {how} on held-out clips {when}"
