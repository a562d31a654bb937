"""What is known of an init: its record, and the file of its weights; the writing of both.

Weights that are made here lie in `weights/<init>/<backbone>.safetensors` of a workspace, and their record
beside them with the same name and `.json`. Published ones and a user's own: see `ctlib.models.weights.catalog`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from ctlib.core import Contract, Workspace, display_path, read_json, replacing, write_json
from ctlib.models.network import Network
from ctlib.models.registry import file_name
from ctlib.models.weights import catalog, forward_check, ledger
from ctlib.models.weights.ablations import UNTOUCHED, ControlError, split
from ctlib.models.weights.catalog import InitError
from ctlib.models.weights.init_names import KNOWN, WRITER, Origin, origin
from ctlib.models.weights.read import NOT_STATED, TrainedOn

CHANNELS = (1, 3)
"""Numbers of channels that a clip may have (`ctlib.datasets.clips.ClipSettings.n_channels`)."""

MeanStd = tuple[Sequence[float], Sequence[float]]
"""Means and standard deviations in [0, 1], one a channel."""
NO_COHORT: MeanStd = ((0.0,), (1.0,))
"""In the place of a cohort's, for inits that have their own; only `random` has none."""
DRAWN = "drawn from the seed"
"""Source of random weights, and the reason of a random tensor in the ledger."""


@dataclass(frozen=True)
class Init:
    """Where a backbone's weights begin.

    Args:
        name: `random`, `video`, ...
        source: what they were made from, one phrase.
        licence: of the weights.
        mean: of the voxels in [0, 1] they were made for, one a channel or one for all.
        std: the same.
        channels: C that the network takes; a clip of one channel is repeated.
        path: the file; None where there is nothing to load.
        checksum: SHA-256 of that file; empty where there is none.
        weights: how the file is read, where it was not written here.
        file_channels: C that the file was made with: with 1 and three channels of the network, and unless
            a record says which tensors the stem is, the kernels of one channel are repeated, a third each.
        features: of the stored clip (`ctlib.models.weights.forward_check`), or the first few; empty: not stored.
        seen: all that they were trained on, in order; empty for random weights.
        contract: what they ask of a clip, as `ctlib.core.Contract.text`; empty: nothing.
    """

    name: str
    source: str
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 1
    path: Path | None = None
    checksum: str = ""
    weights: catalog.Weights | None = None
    file_channels: int = 1
    features: tuple[float, ...] = ()
    seen: tuple[TrainedOn, ...] = ()
    contract: str = ""

    def __post_init__(self) -> None:
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels) or not all(map(math.isfinite, values)):
                raise InitError(f"init {self.name}: {field} is {values}; give {self.channels} finite values.")
        if min(self.std) <= 0:
            raise InitError(f"init {self.name}: std is {self.std}; give values above 0.")


def save_weights(trained: Network, path: Path, record: Mapping[str, Any]) -> Path:
    """Write a network's tensors as safetensors, and beside them a record as JSON, written last.

    Args:
        trained: the network; the head is written too.
        path: the file; the record has the same name with `.json`.
        record: what is known of the weights: `source` and `licence` at least, and `seen`, for inits;
            mean, std, channels, number of tensors, the file's SHA-256 and the features of the stored
            clip (`ctlib.models.weights.forward_check`) are added.

    Returns:
        The path of the weights.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary)
        known = {
            "mean": trained.mean.tolist(),
            "std": trained.std.tolist(),
            "channels": trained.mean.numel(),
            "n_tensors": len(state),
            "sha256": catalog.sha256(temporary),
            **forward_check.stored(trained.backbone, trained.mean.tolist(), trained.std.tolist()),
        }
    write_json(path.with_suffix(".json"), {**record, **known})
    return path


def load_weights(target: nn.Module, path: Path) -> None:
    """Put all tensors of a file, head included, into a network of the same names and shapes.

    Raises:
        InitError: the file's tensors are not exactly the network's.
    """
    given = catalog.tensors(path)
    ledger.compare(target.state_dict(), given, display_path(path))
    target.load_state_dict(given)


def find(
    init_name: str,
    backbone: str,
    workspace: Workspace,
    cohort_mean_std: MeanStd,
    channels: int = 1,
) -> Init:
    """The init of a name for a network.

    Args:
        init_name: `random`, an init that is made here (`video`, `kinetics400+ct_rspect`), a published one
            (`kinetics400`, `imagenet`), the name of a user's record (see `ctlib.models.weights.catalog`),
            or a control of one of them.
        backbone: key of the network.
        workspace: where weights lie.
        cohort_mean_std: of the training voxels in [0, 1], one a channel of the clips; used by `random` only.
        channels: of the clips, 1 or 3. The network takes as many, or three where its weights have a mean
            and std for each: a clip of one channel is then repeated.

    Raises:
        ValueError: no init has that name, or clips cannot have so many channels.
        ControlError: a control is unknown, or has nothing to take from.
        MissingInput: its weights were not made yet; the sentence names the notebook that does.
        InitError: the record lacks a field, the file is not the one that was recorded, a published file
            is missing and cannot be downloaded, or weights have another number of channels than the clips.
    """
    if channels not in CHANNELS:
        raise ValueError(f"clips of {channels} channels; they have {' or '.join(map(str, CHANNELS))}.")
    controls, base = split(init_name)
    if controls and base != "random":
        asked = asked_of_clips(base, backbone, workspace)
        if asked and asked.axes[0] not in "SI" and (along := {"reversed", "flat"} & set(controls)):
            told = f"the slices are not the first axis of what {base} asks for ({asked})"
            raise ControlError(f"init is {init_name!r}; {told}, along which {along.pop()} works.")
        return replace(find(base, backbone, workspace, cohort_mean_std, channels), name=init_name)
    if changing := [control for control in controls if control not in UNTOUCHED]:
        raise ControlError(f"init is {init_name!r}; random weights have nothing for {changing[0]} to take.")
    if base == "random":
        mean, std = (tuple(map(float, values)) for values in cohort_mean_std)
        return Init(init_name, DRAWN, "none needed", mean, std, channels)
    if made := origin(init_name):
        catalog.refuse_shadow(init_name, backbone, workspace, "made here")
        return _made_here(made, init_name, backbone, workspace, channels)
    if found := catalog.find(init_name, backbone, workspace):
        weights, path, sha256 = found
        taken = replace(weights, channels=max(weights.channels, channels))
        mean, std = (weights.mean, weights.std) if weights.mean else tuple(map(tuple, cohort_mean_std))
        text = weights.contract.text if weights.contract else ""
        read = (taken, weights.channels, weights.features, weights.seen, text)
        return Init(
            init_name, weights.source, weights.licence, mean, std, taken.channels, path, sha256, *read
        )
    raise ValueError(
        f"init is {init_name!r}; known are random, {KNOWN}, and controls of them or of "
        f"published weights ({', '.join((*catalog.PUBLIC, *catalog.ON_HUB))}) or your own (a folder in "
        f"{display_path(catalog.folder(workspace))}, see ctlib.models.weights.catalog)."
    )


def _made_here(made: Origin, init_name: str, backbone: str, workspace: Workspace, channels: int) -> Init:
    """The init of weights that 02_pretrain wrote, by their record."""
    refuse_contract(made.start, backbone, workspace)
    path = workspace.require(workspace.weights(init_name, file_name(backbone)), WRITER)
    record_path = workspace.require(path.with_suffix(".json"), WRITER)
    record = read_json(record_path)
    lacking = [key for key in ("source", "licence", "mean", "std", "channels", "sha256") if key not in record]
    if lacking:
        raise InitError(f"{display_path(record_path)} lacks {', '.join(lacking)}; pretrain {backbone} again.")
    if catalog.sha256(path) != record["sha256"]:
        raise InitError(
            f"{display_path(path)} is not the file of its record (another SHA-256); delete it and pretrain again."
        )
    return Init(
        name=init_name,
        source=record["source"],
        licence=record["licence"],
        mean=tuple(record["mean"]),
        std=tuple(record["std"]),
        channels=max(record["channels"], channels),
        path=path,
        checksum=record["sha256"],
        file_channels=record["channels"],
        features=tuple(record.get("features", ())),  # older records have none
        seen=tuple(TrainedOn(**each) for each in record.get("seen", ()))
        or (*chain_by_name(init_name, backbone)[:-1], TrainedOn(record["source"], made.kind)),
    )


def needs_cohort(init_name: str, backbone: str, workspace: Workspace) -> bool:
    """Whether an init takes mean and std of the cohort's voxels: random weights, and those that state none.

    Args:
        init_name, backbone, workspace: as in `find`.
    """
    _, base = split(init_name)
    if base == "random" or origin(base):
        return base == "random"
    weights = catalog.known(base, backbone, workspace)
    return weights is not None and not weights.mean


def asked_of_clips(init_name: str, backbone: str, workspace: Workspace) -> Contract | None:
    """The input contract of an init for a network, by its record alone; None where it has none.

    Args:
        init_name, backbone, workspace: as in `find`.
    """
    _, base = split(init_name)
    if base == "random" or origin(base) or catalog.absent(base, backbone):
        return None
    weights = catalog.known(base, backbone, workspace)
    return weights.contract if weights else None


def refuse_contract(start: str, backbone: str, workspace: Workspace) -> None:
    """Refuse to pretrain from weights with an input contract: 02_pretrain cuts the clips of all networks alike.

    Raises:
        InitError: they have one.
    """
    if asked := asked_of_clips(start, backbone, workspace):
        raise InitError(
            f"init {start} asks for other clips ({asked}) than {WRITER} cuts; finetune it as it is, or "
            "pretrain from another init."
        )


def chain_by_name(init_name: str, backbone: str) -> tuple[TrainedOn, ...]:
    """What weights were trained on, in order, as far as the name of their init tells; no file is read.

    Args:
        init_name: any name of an init, controls included.
        backbone: key of the network.

    Returns:
        Empty for random weights. Of an init that is none here, its name, of a kind that is not stated.

    >>> print(*chain_by_name("frozen:kinetics400+ct_lidc", "swin3d_t"), sep=", ")
    ImageNet-1K (photographs), Kinetics-400 (video), ct_lidc (CT)
    >>> chain_by_name("random", "swin3d_t")
    ()
    """
    _, base = split(init_name)
    if base == "random":
        return ()
    if made := origin(base):
        return (*chain_by_name(made.start, backbone), TrainedOn(made.source, made.kind))
    published = catalog.PUBLIC.get(base, {}).get(backbone)
    return published.seen if published else (TrainedOn(base, NOT_STATED),)
