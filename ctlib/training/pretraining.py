"""Pretraining of networks: the inits that are made here, from labelled videos or from a source CT cohort.

The loop is that of finetuning; held-out clips choose the epoch. What comes out are
`weights/<init>/<backbone>.safetensors` and a record beside it, written last, that says from what and
how they were made. Weights whose record agrees with the settings and the data are not made again; a
pretraining that was interrupted goes on from its last epoch.

What an init is made from stands in its name (`ctlib.models.weights.load.origin`): `video`, `ct_lidc`, `video_ssl`
(without labels), `kinetics400+ct_rspect` (one after the other), `video_placebo` (labels exchanged). Sources are
`ctlib.training.pretrain_video` and `ctlib.training.pretrain_ct`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from ctlib.core import Busy, Claim, ClaimLost, Workspace, claimed, field_values, read_json
from ctlib.datasets import BalancedSampler
from ctlib.models import (
    KNOWN,
    NO_COHORT,
    PART,
    SECOND,
    Init,
    MeanStd,
    Network,
    Origin,
    TrainedOn,
    build_network,
    code_of,
    file_name,
    find,
    needs_cohort,
    origin,
    refuse_contract,
    save_weights,
)
from ctlib.training.device import watching_gpu
from ctlib.training.loaders import Clips
from ctlib.training.loop import Metric, fit, while_mine
from ctlib.training.multi_device import together
from ctlib.training.optimizer import FitSettings
from ctlib.training.run import PROTOCOL_VERSION, digest, exceptions_of, own_settings
from ctlib.training.step import Step, compute_of
from ctlib.training.vicreg import EMBEDDING, Paired, Views, expander, found_again

OWN = ("lr", "weight_decay", "epochs", "steps_per_epoch")
"""Settings that a network may have for itself: all networks see clips and batches of the same size."""


@dataclass(frozen=True)
class PretrainTask:
    """What is learnt in one pretraining.

    Args:
        train: clips to learn from, augmented.
        labels: class of each of them, what the draws are balanced by.
        heldout: clips that are not learnt from.
        loss: name in `ctlib.training.losses.LOSSES`.
        n_outputs: logits a clip; of embeddings, their length.
        metric: how well the outputs of `heldout` are.
        asked: what that metric is, in a few words.
        chance: its value for a network that has learnt nothing.
        n_channels: of a clip.
        intensity: measures means and stds of the voxels of `train`, for random weights only: it takes long.
        about: what the record says of the source: source, licence, n_train, n_heldout, classes.
    """

    train: Clips
    labels: list[int]
    heldout: Clips
    loss: str
    n_outputs: int
    metric: Metric
    asked: str
    chance: float
    n_channels: int
    intensity: Callable[[], MeanStd]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def paired(self) -> bool:
        """Whether clips come in pairs of views."""
        return self.loss == "vicreg"


def unlabelled(
    train: Clips, heldout: Clips, n_channels: int, intensity: Callable[[], MeanStd], about: dict[str, Any]
) -> PretrainTask:
    """Two views of each clip, and which belong together.

    Args:
        train: a data set that augments.
        heldout: another that augments.
        n_channels: of `PretrainTask`.
        intensity: of `PretrainTask`.
        about: of `PretrainTask`; the numbers of clips are added.
    """
    return PretrainTask(
        train,
        [0] * len(train),
        Views(heldout),
        loss="vicreg",
        n_outputs=EMBEDDING,
        metric=found_again,
        asked="clips found again",
        chance=1 / len(heldout),
        about=about | {"n_train": len(train), "n_heldout": len(heldout)},
        n_channels=n_channels,
        intensity=intensity,
    )


class Source(Protocol):
    """What weights are learnt from: labelled videos, or a CT cohort."""

    def settings(self) -> dict[str, Any]:
        """All that changes the weights, but for the data themselves."""

    def fingerprint(self, workspace: Workspace, origin: Origin, crop_px: int) -> str:
        """SHA-256 of the data."""

    def task(
        self, workspace: Workspace, origin: Origin, clip_length: int, crop_px: int, seed: int
    ) -> PretrainTask:
        """What is learnt in the pretraining of an init."""


@dataclass(frozen=True)
class PretrainSettings:
    """How a network is pretrained. Units and meanings are those of the notebook's parameters.

    Args:
        size: `tiny` or `full`.
        clip_length: frames or slices a clip.
        crop_px: rows and columns of a clip.
        epochs: at most so many.
        steps_per_epoch: batches an epoch.
        batch_size: clips a batch; without labels, each in two views.
        lr: learning rate.
        weight_decay: of the optimizer.
        optimizer: a name in `ctlib.training.optimizer.OPTIMIZERS`.
        schedule: a name in `ctlib.training.optimizer.SCHEDULES`.
        patience: epochs without a better held-out metric before it stops; 0 never stops.
        accumulate: batches a step.
        precision: `auto`, `fp32` or `bf16`.
        keep: epoch whose weights are used: `best` by the held-out metric, or `last`.
        seed: of the split of videos, the order, the augmentation and the random weights.
        second_seed: the same, for inits that end in `_b`.
        part_share: share of the steps, for inits that end in `_part`.

    Raises:
        ValueError: the second seed is the first, or the share leaves no step, or all.
    """

    size: Literal["tiny", "full"]
    clip_length: int
    crop_px: int
    epochs: int
    steps_per_epoch: int
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: str = "adamw"
    schedule: str = "one_cycle"
    patience: int = 0
    accumulate: int = 1
    precision: str = "auto"
    keep: Literal["best", "last"] = "best"
    seed: int = 0
    second_seed: int = 1
    part_share: float = 1 / 3

    def __post_init__(self) -> None:
        if self.second_seed == self.seed:
            raise ValueError(f"pretrain_second_seed is {self.seed}, as the first; give another.")
        if not 0 < self.part_share < 1:
            raise ValueError(f"pretrain_part_share is {self.part_share:g}; give a share between 0 and 1.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PretrainSettings:
        """Those that the parameters of `02_pretrain` say: `pretrain_lr` is `lr`, `video_seed` is `seed`."""
        return cls(**field_values(cls, values, "pretrain_") | {"seed": values["video_seed"]})

    def of_variant(self, variant: str) -> PretrainSettings:
        """Those of an init with this ending: fewer steps, or the second seed.

        >>> settings = PretrainSettings("tiny", 16, 32, epochs=2, steps_per_epoch=60, batch_size=8, lr=0.01,
        ...                             weight_decay=0.0)
        >>> settings.of_variant("part").steps_per_epoch, settings.of_variant("b").seed
        (20, 1)
        """
        if variant == PART:
            return dataclasses.replace(self, steps_per_epoch=self._part_of(self.steps_per_epoch))
        if variant == SECOND:
            return dataclasses.replace(self, seed=self.second_seed, second_seed=self.seed)
        return self

    def _part_of(self, steps: int) -> int:
        """The share of an epoch's batches, at least one."""
        return max(1, round(self.part_share * steps))


@dataclass(frozen=True)
class Plan:
    """What is made, and from what.

    Args:
        settings: how.
        videos: labelled videos, for inits from `video`.
        ct: how clips of a cohort are cut, for inits from `ct_<cohort>`.
        exceptions: settings of some networks alone, `<network>.<setting>=<value>`.
    """

    settings: PretrainSettings
    videos: Source | None = None
    ct: Source | None = None
    exceptions: tuple[str, ...] = ()

    def require(self, backbones: Sequence[str]) -> None:
        """Refuse exceptions that are not of these networks, or of a setting that all networks share.

        Raises:
            ValueError: the sentence names the exception, the networks and the settings.
        """
        exceptions_of(self.exceptions, [], backbones, OWN)

    def settings_of(self, made: Origin, backbone: str) -> PretrainSettings:
        """How an init of a network is made: what the network has for itself, then what its variant asks.

        Raises:
            ValueError: an exception is not of that form, or names a setting that networks share.
        """
        mine = [text for text in self.exceptions if text.startswith(f"{backbone}.")]
        own = own_settings(exceptions_of(mine, [], [backbone], OWN), ("", backbone, ""))
        return dataclasses.replace(self.settings, **own).of_variant(made.variant)

    def source_of(self, made: Origin) -> Source:
        """What an init is made from.

        Raises:
            ValueError: the plan has none for it.
        """
        source = self.videos if made.source == "video" else self.ct
        if source is None:
            needs = (
                "videos: name their folder in videos_root" if made.source == "video" else "a source cohort"
            )
            raise ValueError(f"pretrained has {made.source}, which needs {needs}; or leave it out.")
        return source

    def pretrain_task(self, workspace: Workspace, made: Origin) -> PretrainTask:
        """What an init is made from."""
        how = self.settings.of_variant(made.variant)
        return self.source_of(made).task(workspace, made, how.clip_length, how.crop_px, how.seed)

    def fingerprint(self, workspace: Workspace, made: Origin) -> str:
        """SHA-256 of the videos, or of the cohort.

        Raises:
            MissingInput: the cohort was not prepared.
            VideoError: there are no videos.
            ValueError: nothing is known of the source.
        """
        return self.source_of(made).fingerprint(workspace, made, self.settings.crop_px)


def made_here(init_name: str) -> Origin:
    """How an init is made here.

    Raises:
        ValueError: it is not.
    """
    made = origin(init_name)
    if made is None:
        raise ValueError(f"init is {init_name!r}, which is not made here; known are {KNOWN}.")
    return made


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
    refuse_contract(made.start, backbone, workspace)
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


@watching_gpu()
def pretrain(
    work_dir: str, todo: Job, plan: Plan, loader_workers: int = 0, devices: int = 1
) -> dict[str, Any]:
    """Pretrain one network, or what is left of it. This is what a worker does.

    Args:
        work_dir: root of the workspace.
        todo: what is made.
        plan: how.
        loader_workers: processes that read clips ahead, for each device; worth it on a GPU.
        devices: GPUs that train it together, or processes on a CPU; each has a share of every batch.

    Returns:
        The record: settings, source, held-out metric, curves, and what `ctlib.models.weights.load.save_weights` adds.

    Raises:
        FitError: it diverged, or there is nothing to learn from.
        DevicesError: one of several processes failed.
        VideoError: there are no classes, or a class has no video.
        ValueError: an unknown name, a setting out of range, or more devices than there are.
        Busy: another process pretrains it.
        GpuError: the GPU of this process cannot be used any more; the network goes on elsewhere.
    """
    workspace = Workspace.at(work_dir)
    path = workspace.weights(todo.init, file_name(todo.backbone))
    if record := known(workspace, todo):
        return record
    folder = path.parent / f".{path.stem}-{todo.made_from[:12]}"
    made = made_here(todo.init)
    try:
        with claimed(folder, lambda: known(workspace, todo) is not None) as claim:
            if claim is not None:
                task = plan.pretrain_task(workspace, made)
                is_needed = needs_cohort(made.start, todo.backbone, workspace)
                measured = task.intensity() if is_needed else NO_COHORT
                start = find(made.start, todo.backbone, workspace, measured, task.n_channels)
                work = _Work(todo, plan, start, claim, folder, loader_workers, devices)
                if devices == 1:
                    work.do(workspace, task)
                else:
                    together(_member, (work_dir, work), devices)
    except ClaimLost as lost:
        raise Busy(str(lost)) from lost
    shutil.rmtree(folder, ignore_errors=True)
    return read_json(path.with_suffix(".json"))


@dataclass(frozen=True)
class _Work:
    """What `pretrain` does itself, or each of its processes; all but `start` and `claim` as there."""

    todo: Job
    plan: Plan
    start: Init
    claim: Claim
    folder: Path
    loader_workers: int
    devices: int

    def do(self, workspace: Workspace, task: PretrainTask, is_first: bool = True) -> None:
        """Train, and write the weights; of several processes, the first writes."""
        todo, start = self.todo, self.start
        how = self.plan.settings_of(made_here(todo.init), todo.backbone)
        fitted, about = _fit(workspace.root, self, task, how)
        self.claim.require()
        if not is_first:
            return
        settings = {"settings": dataclasses.asdict(how), "made_from": todo.made_from}
        chain = (*start.seen, TrainedOn(task.about["source"], made_here(todo.init).kind))
        about["seen"] = [dataclasses.asdict(each) for each in chain]
        path = workspace.weights(todo.init, file_name(todo.backbone))
        save_weights(fitted, path, {"init": todo.init, "backbone": todo.backbone, **settings, **about})


def _member(rank: int, work_dir: str, work: _Work) -> None:
    """One of several processes; each has the clips open for itself."""
    workspace = Workspace.at(work_dir)
    work.do(workspace, work.plan.pretrain_task(workspace, made_here(work.todo.init)), is_first=rank == 0)


def known(workspace: Workspace, todo: Job) -> dict[str, Any] | None:
    """The record of weights that were made from just this; None where there are none."""
    path = workspace.weights(todo.init, file_name(todo.backbone))
    if path.is_file() and path.with_suffix(".json").is_file():
        record = read_json(path.with_suffix(".json"))
        if record.get("made_from") == todo.made_from:
            return record
    return None


def _fit(
    root: Path, work: _Work, task: PretrainTask, settings: PretrainSettings
) -> tuple[Network, dict[str, Any]]:
    """The trained network, and what is known of its training; `root` is the work folder."""
    start, backbone = work.start, work.todo.backbone
    model, _ = build_network(backbone, settings.size, start, settings.seed, task.n_outputs)
    views = 2 if task.paired else 1
    if task.paired:
        generator = torch.Generator().manual_seed(settings.seed)
        model.head = expander(int(model.backbone.n_features), generator)  # type: ignore[arg-type, assignment]
    n_draws = settings.steps_per_epoch * settings.batch_size
    drawn = BalancedSampler(task.labels, n_draws, settings.seed, classes=sorted(set(task.labels)))
    chosen = field_values(FitSettings, vars(settings))
    n_clips = views * settings.batch_size // work.devices
    clips = (n_clips, task.n_channels, settings.clip_length, settings.crop_px, settings.crop_px)
    how = (settings.size, clips, settings.optimizer, settings.precision)
    compute = dataclasses.replace(
        compute_of(root, Step(backbone, code_of(backbone), *how)), devices=work.devices
    )
    fitted = fit(
        model,
        task.train,
        Paired(drawn) if task.paired else drawn,
        task.heldout,
        while_mine(task.metric, work.claim),
        FitSettings(**chosen | {"batch_size": views * settings.batch_size, "loss": task.loss}),
        compute,
        work.folder,
        settings.seed,
        work.loader_workers,
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
