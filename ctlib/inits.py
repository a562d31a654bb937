"""Where the weights of a network come from, and the ledger that accounts for every tensor.

An init is a named record: source, licence, mean and std of the voxels it was made for,
channels. After loading, the tensors that the file does not give are exactly the head's;
anything else is an `InitError` that names the tensors.

- `random`: backbone and head are drawn, mean and std are those of the cohort's voxels.
  Scheme: as the builders do (`ctlib.backbones.video`, `.slices`): convolutions He-normal by
  fan-out; batch norm 1 and 0.
- `video`: pretrained here on labelled videos; weights and record are written by `save_weights`.
- `kinetics400`, `imagenet`: published weights; others of a user's own: see `ctlib.zoo`.
- a control of one of these, `shuffled:video`: see `ctlib.controls`.

The head is one linear layer, N(0, 0.01^2) with bias 0, as pytorchvideo draws its own. Backbone
and head are drawn from two streams of the seed, so that a seed gives the same head for every
init, and the head does not depend on how many numbers the backbone took.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import nn

from ctlib import tables, zoo
from ctlib.backbones import Size, build
from ctlib.controls import FROZEN, ControlError, adapt_all, split
from ctlib.networks import Network
from ctlib.workspace import Workspace, read_json, shown, write_json
from ctlib.zoo import InitError as InitError
from ctlib.zoo import tensors as _tensors

HEAD_STD = 0.01
"""Spread of the head's random weights: pytorchvideo's `fc_init_std`."""

WRITERS = {"video": "02_pretrain"}
"""Inits whose weights are made here, and the notebook that does."""

_BACKBONE_STREAM, _HEAD_STREAM, _CONTROL_STREAM = 0, 1, 2


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
    """

    name: str
    source: str
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 1
    path: Path | None = None
    checksum: str = ""
    weights: zoo.Weights | None = None

    def __post_init__(self) -> None:
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels) or not all(map(math.isfinite, values)):
                raise InitError(f"init {self.name}: {field} is {values}; give {self.channels} finite values.")
        if min(self.std) <= 0:
            raise InitError(f"init {self.name}: std is {self.std}; give values above 0.")


def _stream(seed: int, stream: int) -> int:
    """A seed for torch, one for each use of the experiment's seed."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _draw(backbone_key: str, size: Size, init: Init, seed: int, n_outputs: int) -> Network:
    """A network whose weights are a function of the seed only; torch's own generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_stream(seed, _BACKBONE_STREAM))
        backbone = build(backbone_key, size, init.channels)
        # a channel that is repeated needs a mean and std for each
        mean, std = (v * init.channels if len(v) == 1 else v for v in (init.mean, init.std))
        network = Network(backbone, n_outputs, mean, std)
    generator = torch.Generator().manual_seed(_stream(seed, _HEAD_STREAM))
    nn.init.normal_(network.head.weight, std=HEAD_STD, generator=generator)
    nn.init.zeros_(network.head.bias)
    return network


def network(
    backbone_key: str, size: Size, init: Init, seed: int, n_outputs: int = 1
) -> tuple[Network, pd.DataFrame]:
    """A network ready to be trained, and the ledger of its tensors.

    Args:
        backbone_key: a key of `ctlib.backbones.REGISTRY`.
        size: `tiny` or `full`.
        init: where the backbone's weights come from.
        seed: of the head and of random weights.
        n_outputs: logits a clip.

    Returns:
        The network and the table `ledger`: one row a tensor (batch-norm statistics included),
        with its checksum in memory, after loading.

    Raises:
        InitError: the file lacks a tensor of the backbone, has one that the network does not,
            or has one of another shape or type.
        ControlError: a control of the init would change nothing.
    """
    made = _draw(backbone_key, size, init, seed, n_outputs)
    controls, _ = split(init.name)
    made.is_frozen = FROZEN in controls
    drawn = "drawn from the seed"
    head = dict.fromkeys((f"head.{name}" for name in made.head.state_dict()), drawn)
    if init.path is None:
        return made, _ledger(made, backbone_key, init, "random", drawn, head)
    where = f"init {init.name} for {backbone_key} ({size}), {shown(init.path)}"
    if init.weights and init.weights.size != size:
        raise InitError(f"{where}: the weights are of the {init.weights.size} network; choose that size.")
    given, changed = zoo.read(init.weights, init.path) if init.weights else (_tensors(init.path), {})
    head |= {name: f"{drawn}; the file's own head is not used" for name in head if name in given}
    wanted = {name: tensor for name, tensor in made.state_dict().items() if name not in head}
    loaded = {name: tensor for name, tensor in given.items() if name not in head}
    _compare(wanted, loaded, where)
    adapted = adapt_all(controls, loaded, torch.Generator().manual_seed(_stream(seed, _CONTROL_STREAM)))
    made.load_state_dict(adapted, strict=False)
    # a user's folder may tell more than a report should
    why = f"{init.path.name if init.weights else shown(init.path)}, SHA-256 {init.checksum[:16]}"
    ledger = _ledger(made, backbone_key, init, "loaded", why, head)
    controlled = [control for control in controls if control != FROZEN]
    for name, tensor in loaded.items():
        steps = [changed[name]] if name in changed else []
        steps += controlled if adapted.get(name) is not tensor else []
        if steps:
            how = ", then ".join(steps)
            told = ("adapted", f"{how}: {why}") if name in adapted else ("random", f"{how}: {drawn}")
            ledger.loc[ledger["tensor"] == name, ["status", "why"]] = told
    return made, ledger


def load_weights(target: nn.Module, path: Path) -> None:
    """Put all tensors of a file, head included, into a network of the same names and shapes.

    Raises:
        InitError: the file's tensors are not exactly the network's.
    """
    given = _tensors(path)
    _compare(target.state_dict(), given, shown(path))
    target.load_state_dict(given)


def _compare(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse tensors that are missing, unexpected, or of another shape or type, by their names."""
    names = {"missing": wanted.keys() - given.keys(), "unexpected": given.keys() - wanted.keys()}
    names["of another shape or type"] = {
        f"{name} ({_shape(given[name])} {given[name].dtype} for {_shape(tensor)} {tensor.dtype})"
        for name, tensor in wanted.items()
        if name in given and (given[name].shape != tensor.shape or given[name].dtype != tensor.dtype)
    }
    problems = [f"{len(found)} {kind}: {_listed(found)}" for kind, found in names.items() if found]
    if problems:
        raise InitError(f"{where}: tensors do not fit the network; {'; '.join(problems)}.")


def _listed(names: Iterable[str], most: int = 8) -> str:
    """Names in order, the first few."""
    first, rest = sorted(names)[:most], sorted(names)[most:]
    return ", ".join(first) + (f" and {len(rest)} more" if rest else "")


def _shape(tensor: torch.Tensor) -> str:
    """`8x1x1x7x7`, or `scalar`."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def checksum(tensor: torch.Tensor) -> str:
    """First 16 hex digits of the SHA-256 of a tensor's values, in row-major order.

    >>> checksum(torch.tensor([0.0, 1.0])), checksum(torch.tensor([[0.0], [1.0]]))
    ('22b6f43bd8d27738', '22b6f43bd8d27738')
    """
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def _ledger(
    made: Network, backbone_key: str, init: Init, status: str, why: str, head: Mapping[str, str]
) -> pd.DataFrame:
    """One row a tensor of the network as it is in memory; `head` maps the head's tensors to a reason."""
    rows = []
    for name, tensor in made.state_dict().items():
        reason = head.get(name, why)
        about = (name, _shape(tensor), tensor.numel(), "head" if name in head else status, reason)
        rows.append((*about, checksum(tensor)))
    columns = ["tensor", "shape", "n_parameters", "status", "why", "checksum"]
    ledger = pd.DataFrame(rows, columns=columns).assign(backbone=backbone_key, init=init.name)
    return tables.check(ledger, "ledger")


def save_weights(trained: Network, path: Path, record: Mapping[str, Any]) -> Path:
    """Write a network's tensors as safetensors, and beside them a record as JSON, written last.

    Args:
        trained: the network; the head is written too.
        path: the file; the record has the same name with `.json`.
        record: what is known of the weights: `source` and `licence` at least, for inits;
            mean, std, channels, number of tensors and the file's SHA-256 are added.

    Returns:
        The path of the weights.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.state_dict().items()}
    save_file(state, temporary)
    known = {
        "mean": trained.mean.tolist(),
        "std": trained.std.tolist(),
        "channels": trained.mean.numel(),
        "n_tensors": len(state),
        "sha256": zoo.sha256(temporary),
    }
    temporary.replace(path)
    write_json(path.with_suffix(".json"), {**record, **known})
    return path


def find(init_name: str, backbone: str, workspace: Workspace, cohort_mean_std: tuple[float, float]) -> Init:
    """The init of a name for a network.

    Args:
        init_name: `random`, an init that was made here (`video`), a published one (`kinetics400`,
            `imagenet`), the name of a user's record (see `ctlib.zoo`), or a control of one of them.
        backbone: key of the network.
        workspace: where weights lie.
        cohort_mean_std: of the training voxels in [0, 1]; used by `random` only.

    Raises:
        ValueError: no init has that name.
        ControlError: a control is unknown, or has nothing to take from.
        MissingInput: its weights were not made yet; the sentence names the notebook that does.
        InitError: the record lacks a field, the file is not the one that was recorded, or a
            published file is missing and cannot be downloaded.
    """
    controls, base = split(init_name)
    if controls and base != "random":
        return replace(find(base, backbone, workspace, cohort_mean_std), name=init_name)
    if changing := [control for control in controls if control != FROZEN]:
        raise ControlError(f"init is {init_name!r}; random weights have nothing for {changing[0]} to take.")
    if base == "random":
        mean, std = cohort_mean_std
        return Init(init_name, "drawn from the seed", "none needed", (float(mean),), (float(std),))
    if init_name not in WRITERS:
        if found := zoo.find(init_name, backbone, workspace):
            weights, path, sha256 = found
            about = (weights.source, weights.licence, weights.mean, weights.std, weights.channels)
            return Init(init_name, *about, path=path, checksum=sha256, weights=weights)
        raise ValueError(
            f"init is {init_name!r}; known are random, {', '.join(WRITERS)}, and controls of them or of "
            f"published weights ({', '.join(zoo.PUBLIC)}) or your own (a folder in "
            f"{shown(zoo.folder(workspace))}, see ctlib.zoo)."
        )
    path = workspace.require(workspace.weights(init_name, backbone), WRITERS[init_name])
    record_path = workspace.require(path.with_suffix(".json"), WRITERS[init_name])
    record = read_json(record_path)
    lacking = [key for key in ("source", "licence", "mean", "std", "channels", "sha256") if key not in record]
    if lacking:
        raise InitError(f"{shown(record_path)} lacks {', '.join(lacking)}; pretrain {backbone} again.")
    if zoo.sha256(path) != record["sha256"]:
        raise InitError(
            f"{shown(path)} is not the file of its record (another SHA-256); delete it and pretrain again."
        )
    fields = {key: record[key] for key in ("source", "licence", "channels")}
    fields |= {key: tuple(record[key]) for key in ("mean", "std")}
    return Init(name=init_name, path=path, checksum=record["sha256"], **fields)


def loaded_ledger(workspace: Workspace, init_name: str, backbones: Sequence[str], size: Size) -> pd.DataFrame:
    """Build each network anew, load its weights as a run would, and account for every tensor.

    Args:
        workspace: where weights that were made here lie.
        init_name: an init that loads weights.
        backbones: keys of networks.
        size: `tiny` or `full`.

    Returns:
        Table `ledger` of all networks.

    Raises:
        InitError: weights do not fit their network (see `network`).
        MissingInput: weights were not made yet.
    """
    ledgers = [
        network(key, size, find(init_name, key, workspace, cohort_mean_std=(0.0, 1.0)), seed=0)[1]
        for key in backbones
    ]
    return pd.concat(ledgers, ignore_index=True)
