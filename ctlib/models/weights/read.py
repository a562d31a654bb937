"""What is known of a file of weights, its record checked, and its reading: their names to ours, the head dropped."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from ctlib.core import Contract, display_path

COUNTER = "num_batches_tracked"
"""Batches that a batch norm has seen; read by torch only where a norm has no momentum (none here)."""


VIDEO, CT = "video", "CT"
KINDS = (VIDEO, "photographs", CT, "other")
"""What weights may have been trained on."""
NOT_STATED = "kind not stated"
"""The kind where a record gives its source alone: nothing is guessed from words."""


class InitError(ValueError):
    """Weights do not fit a network, or are damaged: the message names file and tensors."""


@dataclass(frozen=True)
class TrainedOn:
    """One thing that weights were trained on.

    Args:
        what: `Kinetics-400`, `ImageNet-1K`, ...
        kind: one of `KINDS`, or `NOT_STATED`.

    >>> print(TrainedOn("Kinetics-400", VIDEO))
    Kinetics-400 (video)
    """

    what: str
    kind: str

    def __str__(self) -> str:
        return f"{self.what} ({self.kind})"


@dataclass(frozen=True)
class Weights:
    """What is known of a file of weights.

    Args:
        file: its name in the folder; of a user's, its path, relative to the record.
        source: what it was made from, one phrase.
        licence: of the weights.
        mean: of the voxels in [0, 1] it was made for, one a channel or one for all.
        std: the same.
        channels: C that the network takes.
        url: where its publisher keeps it; empty: nowhere.
        sha256: how its SHA-256 begins; empty: not published, what is read is only recorded.
        entry: key of the tensors in the file; empty: the file holds nothing else.
        names: beginnings of their names to ours; the longest that fits is replaced.
        head: beginnings of their names that are not used.
        stem: their kernels `[out, 3, ...]` that see the clip; summed over the inputs where channels is 1.
        size: of the network that they fit.
        features: that the publisher's own network computes of `ctlib.models.weights.forward_check.clip`,
            of `channels` channels, with mean and std applied; the first few are enough. Empty: not stored.
        inflated: the file is a 2D network's, spread over depth (see `ctlib.models.weights.inflate`).
        parts: packages that carry the file, each with its path in the package; several are joined, in order.
        extra: of this project's, that installs those packages.
        hint: where to get a file that has neither address nor package.
        seen: all that it was trained on, in order; empty: `source` alone, of a kind that is not stated.
        contract: what a clip must be for them (`ctlib.core.Contract`); None: a clip as for any network.
        clip: (D, H, W) of the clips that they were trained on, for tables; empty: not stated.
        hub: repository of the Hugging Face hub that has the file; empty: none. A large file's name in its cache is
            its SHA-256, which is compared with the file each time.
        terms: what the licence forbids or asks for; they are used only where somebody said that it fits.
    """

    file: str
    source: str
    licence: str
    mean: tuple[float, ...]  # empty, as std: those of the cohort's voxels, as for random weights
    std: tuple[float, ...]
    channels: int = 1
    url: str = ""
    sha256: str = ""
    entry: str = ""
    names: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    head: tuple[str, ...] = ()
    stem: tuple[str, ...] = ()
    size: str = "full"
    features: tuple[float, ...] = ()
    inflated: bool = False
    parts: tuple[tuple[str, str], ...] = ()
    extra: str = ""
    hint: str = ""
    seen: tuple[TrainedOn, ...] = ()
    contract: Contract | None = None
    clip: tuple[int, ...] = ()
    hub: str = ""
    terms: str = ""

    def __post_init__(self) -> None:
        if not self.seen:
            object.__setattr__(self, "seen", (TrainedOn(self.source, NOT_STATED),))


def yaml_fields(path: Path, loader: Any = yaml.SafeLoader) -> dict[Any, Any]:
    """The fields of a file of YAML.

    Raises:
        InitError: it is no YAML, or holds no fields.
    """
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InitError(f"{display_path(path)} is no YAML ({' '.join(str(error).split())}).") from error
    return _fields(given, display_path(path))


def _fields(given: Any, where: str) -> dict[Any, Any]:
    if not isinstance(given, dict):
        raise InitError(f"{where} holds no fields; it needs {', '.join(NEEDED[:-1])} and {NEEDED[-1]}.")
    return given


def record_of(given: Any, where: str, published: bool = False) -> Weights:
    """A record, every field of it checked for its type.

    Args:
        given: its fields by name; lists are taken as tuples.
        where: the file, and the record in it, for messages.
        published: whether it is one of `published.yaml`, which has more fields and must say what was seen.

    Raises:
        InitError: no fields; a field is unknown or lacking; a value is not what the field may be.
    """
    known = {each.name for each in fields(Weights)} - (set() if published else PUBLISHERS)
    if unknown := sorted(map(str, _fields(given, where).keys() - known)):
        raise InitError(f"{where}: unknown field {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    needed = (*NEEDED, "seen") if published else NEEDED
    if lacking := [name for name in needed if name not in given]:
        raise InitError(f"{where} lacks {', '.join(lacking)}.")
    for name, value in given.items():
        if not FITS.get(name, _is_text)(value):
            raise InitError(
                f"{where}: {name} is {value!r}; see ctlib.models.weights.catalog for what it may be."
            )
    values = {name: _frozen(value) for name, value in given.items()}
    if "seen" in given:
        values["seen"] = tuple(TrainedOn(**each) for each in given["seen"])
    if "contract" in given:
        try:
            values["contract"] = Contract.of(given["contract"])
        except ValueError as error:
            raise InitError(f"{where}: contract: {error}") from error
    return Weights(**values)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) in (int, float) for each in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_seen(value: Any) -> bool:
    """Whether a value is a list of `{what: ..., kind: ...}`, with one thing at least."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and each.keys() == {"what", "kind"} for each in value)
        and all(_is_text(each["what"]) and each["kind"] in KINDS for each in value)
    )


NEEDED = ("file", "source", "licence", "mean", "std")
"""Fields that every record has."""
PUBLISHERS = {"inflated", "parts", "extra", "hint"}
"""Fields that a user's record has no use for."""

FITS: dict[str, Callable[[Any], bool]] = {
    "mean": _is_numbers,
    "std": _is_numbers,
    "features": _is_numbers,
    "channels": lambda value: type(value) is int and value > 0,
    "names": lambda value: isinstance(value, dict) and _is_texts([*value, *value.values()]),
    "head": _is_texts,
    "stem": _is_texts,
    "size": lambda value: value in ("tiny", "full"),
    "inflated": lambda value: type(value) is bool,
    "parts": lambda value: isinstance(value, list) and all(_is_texts(p) and len(p) == 2 for p in value),
    "seen": _is_seen,
    "contract": lambda value: isinstance(value, dict),
    "clip": lambda value: (
        isinstance(value, list) and len(value) == 3 and all(type(n) is int and n > 0 for n in value)
    ),
}
"""Which values the fields of a record may have; the others are text."""


def read(weights: Weights, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file under our names, their head dropped, and what was changed of them.

    A file without any counter of batches, older than torch 0.4.1, gets counters of 0, as torch does. Numbers
    of half precision become fp32, which holds each of them exactly.

    Args:
        weights: what is known of the file.
        path: the file.

    Returns:
        Tensors by our name (`backbone. ...`), and of those that are not as in the file, how they were made.

    Raises:
        InitError: no file of tensors, or two tensors of one name.
    """
    ours: dict[str, torch.Tensor] = {}
    changed: dict[str, str] = {}
    for theirs, tensor in _unpacked(path, weights.entry).items():
        if weights.head and theirs.startswith(weights.head):
            continue
        name = _renamed(theirs, weights.names)
        if name in ours:
            raise InitError(
                f"{display_path(path)}: {theirs} and another tensor both become {name}; see its names."
            )
        steps = []
        if tensor.dtype in (torch.bfloat16, torch.float16):
            steps.append(f"{str(tensor.dtype).removeprefix('torch.')} made float32, the same values")
            tensor = tensor.float()
        if weights.channels == 1 and theirs in weights.stem and tensor.ndim > 1 and tensor.shape[1] == 3:
            steps.append("summed over three input channels")
            tensor = tensor.sum(dim=1, keepdim=True)
        if steps:
            changed[name] = ", then ".join(steps)
        ours[name] = tensor
    if not any(name.endswith(COUNTER) for name in ours):
        norms = [name.removesuffix("running_var") for name in ours if name.endswith(".running_var")]
        ours |= {norm + COUNTER: torch.tensor(0) for norm in norms}
        changed |= {norm + COUNTER: "0, the file is older than this counter" for norm in norms}
    return ours, changed


def _renamed(theirs: str, names: Mapping[str, str]) -> str:
    """Our name of a tensor; one that no beginning fits keeps its own, and so fits nothing.

    >>> _renamed("module.conv1.weight", {"module.": "", "module.fc.": "head."})
    'backbone.conv1.weight'
    >>> _renamed("ema.conv1.weight", {"module.": ""})
    'ema.conv1.weight'
    """
    fitting = [begin for begin in names if theirs.startswith(begin)]
    if not fitting:
        return theirs
    begin = max(fitting, key=len)
    return f"backbone.{names[begin]}{theirs.removeprefix(begin)}"


def _unpacked(path: Path, entry: str) -> dict[str, torch.Tensor]:
    """The tensors of a file of torch's, of safetensors, by their names; nothing in it is executed."""
    if path.suffix == ".safetensors":
        return tensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InitError(
            f"{display_path(path)} is no file of tensors ({str(error).splitlines()[0]}); fetch it again, or save "
            "the tensors alone."
        ) from error
    if entry:
        content = content.get(entry) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not content:
        raise InitError(f"{display_path(path)} holds no tensors{f' under {entry!r}' if entry else ''}.")
    if other := [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]:
        raise InitError(
            f"{display_path(path)}: {', '.join(other[:8])} is no tensor; name the entry that holds them."
        )
    return dict(content)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InitError: it is missing, or is no such file.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InitError(f"{display_path(path)} is missing.") from error
    except SafetensorError as error:
        raise InitError(
            f"{display_path(path)} is no safetensors file ({error}); delete and make it again."
        ) from error


def sha256(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        InitError: the file is missing.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise InitError(f"{display_path(path)} is missing.") from error
