"""Weights that others published, or that a user brings: what is known of each file, and its reading.

A folder holds the files: that of the environment variable CTLIB_WEIGHTS, or `<work>/weights/public`.
A published file that is neither there nor in torch's cache (TORCH_HOME, XDG_CACHE_HOME) is downloaded into it;
without a network, put it there by hand. Some come
as packages (the extras `astra` and `lite`), and need no network once they are installed.

The init `timm` is what timm's authors publish for a network `timm:NAME`: a file of that name in the folder, or
in the cache of huggingface-hub. It is not downloaded.

A user's checkpoint needs a record beside it: `<folder>/<init>/<backbone>.yaml`, and `<init>` is from then
on the name of an init. Fields are those of `Weights`; `file` is relative to the record, for example:

    file: epoch_90.pth             # torch's format (tensors only) or safetensors
    source: 3,000 chest CT of our hospital, self-supervised
    licence: in-house
    mean: [0.45]                   # of the voxels in [0, 1] it was made for
    std: [0.225]
    names: {"module.encoder.": ""} # beginnings of their names, and of those of `backbones.build(backbone)`
    head: ["module.fc."]           # beginnings of their names that are not used
    seen:                          # all that they were trained on, in order; kind: video, photographs, CT or other
      - {what: 3000 chest CT of our hospital, kind: CT}

Without `seen` it is the source alone, of a kind that is not stated: such weights count as no pure video.

For a network of your own, `module:function`, the record is `<module>-<function>.yaml`.

A folder that has the name of published weights, or of some that are made here (`ctlib.models.weights.init_names`), is
refused: those names win, but not in silence.

Mean and std decide how many channels the stem keeps:

- All channels alike (Kinetics, 0.45 and 0.225): a clip of one channel, repeated, is normalized to three
  times the same values, so a stem of one channel, its kernel summed over the inputs, gives the same.
- Each its own (ImageNet): the stem keeps its three channels and the clip is repeated. Mean and std could
  be folded into kernel and bias, but convolutions pad with 0 after normalization, which is the mean colour;
  with mean and std folded in, the same 0 would be black. In ResNet-18 with random weights and pictures the
  stem's outermost cells would differ by more than they are (1.2 times), the inner ones by nothing, and the
  features by 8.5 % at 64 px and 1.5 % at 224 px (measured in `tests/models/test_catalog.py`, where this is tested).
"""

from __future__ import annotations

import http.client
import os
import re
from dataclasses import replace
from pathlib import Path

import torch

from ctlib.core import Workspace, display_path, project_path, write_text
from ctlib.models.foundation import FAMILIES, HF, opened
from ctlib.models.registry import file_name
from ctlib.models.slicewise import TIMM, timm_name
from ctlib.models.weights.inflate import over_channels, over_depth
from ctlib.models.weights.packages import carried
from ctlib.models.weights.published import ABSENT, PUBLIC
from ctlib.models.weights.read import InitError, Weights, read, record_of, sha256, tensors, yaml_fields

__all__ = [
    "ON_HUB",
    "PUBLIC",
    "TIMM_INIT",
    "InitError",
    "Weights",
    "absent",
    "find",
    "folder",
    "known",
    "over_channels",
    "over_depth",
    "read",
    "refuse_shadow",
    "sha256",
    "tensors",
]

TIMM_INIT = "timm"
"""The init of what timm's authors publish."""

NEW, OLD = "model.safetensors", "pytorch_model.bin"
"""Files of a model of the hub with its tensors."""
HF_INIT = "hf"
"""The init of what a repository of the Hugging Face hub has for a network `hf:MODEL`."""
ON_HUB = {TIMM_INIT: TIMM, HF_INIT: HF}
"""Inits of whatever a hub has for a network, with the beginning of the keys of those networks."""
LICENCES_VARIABLE = "CTLIB_LICENCES"
"""Environment variable: names of inits whose licence forbids something that you do not do."""

FOLDER_VARIABLE = "CTLIB_WEIGHTS"
"""Environment variable: the folder of published and own weights, shared by all profiles."""


def folder(workspace: Workspace) -> Path:
    """Where the files lie: the folder of CTLIB_WEIGHTS, or `weights/public` of the workspace."""
    given = os.environ.get(FOLDER_VARIABLE)
    return project_path(given) if given else workspace.root / "weights" / "public"


def find(init_name: str, backbone: str, workspace: Workspace) -> tuple[Weights, Path, str] | None:
    """The weights of an init for a network; a published file that is not there is downloaded.

    Args:
        init_name: an init of `PUBLIC`, or a folder with a user's record.
        backbone: key of the network.
        workspace: gives the folder of the files.

    Returns:
        What is known of them, their file, which is there, and its SHA-256; None where no init has
        that name.

    Raises:
        InitError: the init has no weights for this network, the file is missing and cannot be
            downloaded or is not the published one, or a user's record is wrong.
    """
    here = folder(workspace)
    if init_name in ON_HUB:
        refuse_shadow(init_name, backbone, workspace, "published")
        return of_timm(backbone, here) if init_name == TIMM_INIT else _checked(of_hub(backbone, here), here)
    if (weights := known(init_name, backbone, workspace)) is None:
        return None
    accept(init_name, weights, here)
    return _checked(weights, here if init_name in PUBLIC else here / init_name)


def known(init_name: str, backbone: str, workspace: Workspace) -> Weights | None:
    """The record of an init for a network, published or a user's own; no weights are looked for.

    Args:
        init_name, backbone, workspace: as in `find`.

    Returns:
        None where no init has that name; also for those of `ON_HUB`, which have no record here.

    Raises:
        InitError: the init has no weights for this network, or a user's record is wrong.
    """
    if published := PUBLIC.get(init_name):
        if why := absent(init_name, backbone):
            raise InitError(why)
        refuse_shadow(init_name, backbone, workspace, "published")
        return published[backbone]
    own = folder(workspace) / init_name
    if not re.fullmatch(r"\w[\w.-]*", init_name) or not own.is_dir():
        return None
    record = own / f"{file_name(backbone)}.yaml"
    if not record.is_file():
        raise InitError(
            f"init {init_name} has no record for {backbone}: write {display_path(record)} "
            "(see ctlib.models.weights.catalog)."
        )
    return record_of(yaml_fields(record), display_path(record))


def accept(init_name: str, weights: Weights, here: Path) -> None:
    """Refuse weights whose licence forbids something, until somebody said that the use is allowed.

    Who sets CTLIB_LICENCES to their names says so; it is kept in the folder of the weights, for all workers.

    Raises:
        InitError: nobody did.
    """
    kept = here / "licences_accepted.txt"
    accepted = kept.read_text(encoding="utf-8").split() if kept.is_file() else []
    if not weights.terms or init_name in accepted:
        return
    if init_name not in re.split(r"[,\s]+", os.environ.get(LICENCES_VARIABLE, "")):
        raise InitError(
            f"init {init_name}: its licence is {weights.licence}, {weights.terms}. If your use is allowed, say so: "
            f"set the environment variable {LICENCES_VARIABLE}={init_name} and run again."
        )
    write_text(kept, "\n".join((*accepted, init_name, "")))


def of_hub(backbone: str, here: Path) -> Weights:
    """The record of what a repository of the hub has for a network `hf:MODEL`.

    Args:
        backbone: `hf:MODEL`.
        here: folder of the files.

    Raises:
        InitError: it is no such network.
        ValueError: see `ctlib.models.foundation.opened`.
    """
    if why := absent(HF_INIT, backbone):
        raise InitError(why)
    model = backbone.removeprefix(HF)
    family = FAMILIES[opened(model).model_type]
    local = Path(model).expanduser()
    file = _file_of_model(model, local, here)
    return Weights(
        file=str(local.absolute() / file) if local.is_dir() else file,
        source=f"{model} on the Hugging Face hub",
        licence="as its model card states",
        mean=family.mean,
        std=family.std,
        channels=3,
        names=family.names,
        head=family.heads,
        hub="" if local.is_dir() else model,
    )


def of_timm(backbone: str, here: Path) -> tuple[Weights, Path, str]:
    """The weights that timm's authors publish for one of its networks.

    Args:
        backbone: `timm:NAME`.
        here: folder of the files.

    Returns:
        As `find`.

    Raises:
        InitError: it is no network of timm, none are published, or their file is neither in the folder nor in
            the cache.
        ValueError: timm has no network of that name.
    """
    if why := absent(TIMM_INIT, backbone):
        raise InitError(why)
    import huggingface_hub
    import timm

    published = timm.get_pretrained_cfg(timm_name(backbone), allow_unregistered=True)
    if published is None or not published.hf_hub_id:
        raise InitError(f"init {TIMM_INIT}: timm {timm.__version__} names no weights for {backbone}.")
    repository, file = published.hf_hub_id, published.hf_hub_filename or "model.safetensors"
    path = here / f"{file_name(backbone)}{Path(file).suffix}"
    if not path.is_file():
        cached = huggingface_hub.try_to_load_from_cache(repository, file)
        if not isinstance(cached, str):
            raise InitError(
                f"{display_path(path)} is missing, and {file} of {repository} is not in the cache of huggingface-hub; "
                f"fetch https://huggingface.co/{repository}/resolve/main/{file} elsewhere and put it there."
            )
        path = Path(cached)
    alike = len(set(zip(published.mean, published.std, strict=True))) == 1
    each = slice(0, 1 if alike else None)
    heads, stems = published.classifier or (), published.first_conv or ()
    weights = Weights(
        file=path.name,
        source=f"{repository} on the Hugging Face hub, the weights of timm",
        licence=f"{published.license or 'none stated'} (as timm states it)",
        mean=tuple(published.mean[each]),
        std=tuple(published.std[each]),
        channels=1 if alike else 3,
        names={"": "net."},
        head=tuple(f"{name}." for name in ((heads,) if isinstance(heads, str) else heads)),
        stem=tuple(f"{name}.weight" for name in ((stems,) if isinstance(stems, str) else stems))
        if alike
        else (),
    )
    return weights, path, sha256(path)


def _file_of_model(model: str, local: Path, here: Path) -> str:
    """The file with a model's tensors: safetensors, or the older `.bin` where there is nothing but that."""
    import huggingface_hub

    def is_here(file: str) -> bool:
        cached = "" if local.is_dir() else huggingface_hub.try_to_load_from_cache(model, file)
        return (
            (local / file).is_file()
            or (here / model / file).is_file()
            or (bool(cached) and isinstance(cached, str))
        )

    return OLD if is_here(OLD) and not is_here(NEW) else NEW


def absent(init_name: str, backbone: str) -> str:
    """Why a published init has no weights for a network; "" where it has, or is not published.

    >>> absent("kinetics400", "slow_r50"), absent("video", "slow_r50")
    ('', '')
    """
    if init_name in ON_HUB and not backbone.startswith(ON_HUB[init_name]):
        name = "NAME" if init_name == TIMM_INIT else "MODEL"
        return f"init {init_name} has no weights for {backbone}; it has some for {ON_HUB[init_name]}{name}."
    published = PUBLIC.get(init_name)
    if published is None or backbone in published:
        return ""
    why, known = ABSENT.get((init_name, backbone), ""), ", ".join(published)
    said = f" ({why})" if why else ""
    return f"init {init_name} has no weights for {backbone}{said}; it has some for {known}."


def refuse_shadow(init_name: str, backbone: str, workspace: Workspace, taken: str) -> None:
    """Refuse a user's record under a name that is taken: neither of the two is passed over in silence.

    Args:
        init_name: a published init, or one that is made here.
        backbone: key of the network.
        workspace: gives the folder of the records.
        taken: by what, for the message: `published`, or `made here`.

    Raises:
        InitError: there is such a record.
    """
    record = folder(workspace) / init_name / f"{file_name(backbone)}.yaml"
    if record.is_file():
        raise InitError(
            f"{display_path(record)}: {init_name} is the name of weights {taken}; rename the folder."
        )


def _checked(weights: Weights, here: Path) -> tuple[Weights, Path, str]:
    """Weights with their file and its SHA-256, which must begin as the record says."""
    path = _fetched(weights, here)
    found = sha256(path)
    if not found.startswith(weights.sha256):
        raise InitError(
            f"{display_path(path)} is not the file of its record: its SHA-256 begins with {found[:16]}, not with "
            f"{weights.sha256}; fetch it again."
        )
    return weights, path, found


def _fetched(weights: Weights, here: Path) -> Path:
    """The file in the folder, or torch's own copy; a published one comes from its package, or its address."""
    path = here / weights.hub / Path(weights.file).expanduser()
    if path.is_file():
        return path
    cached = Path(torch.hub.get_dir(), "checkpoints", path.name)  # of TORCH_HOME, else of XDG_CACHE_HOME
    if weights.url and cached.is_file() and sha256(cached).startswith(weights.sha256):
        return cached
    if weights.parts:
        return carried(weights, path)
    if weights.hub:
        return _from_hub(weights, here)
    if not weights.url:
        hint = weights.hint or "put the file there, or correct its record"
        raise InitError(f"{display_path(path)} is missing; {hint}.")
    here.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(weights.url, str(path), weights.sha256 or None, progress=False)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise InitError(
            f"{weights.file} is missing in {display_path(here)} and was not downloaded ({error}); fetch "
            f"{weights.url} elsewhere and put it there, or name another folder by the environment "
            f"variable {FOLDER_VARIABLE}."
        ) from error
    return path


def _from_hub(weights: Weights, here: Path) -> Path:
    """The file in the cache of huggingface-hub, fetched where it is not; a large one is checked by its SHA-256."""
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    page = f"https://huggingface.co/{weights.hub}"
    path = here / weights.hub / weights.file
    by_hand = f"fetch {page}/resolve/main/{weights.file} elsewhere and put it there as {display_path(path)}"
    try:
        path = Path(huggingface_hub.hf_hub_download(weights.hub, weights.file))
    except GatedRepoError as error:
        raise InitError(
            f"{weights.hub} is gated: accept its terms at {page} with your account, then log in once with hf auth "
            f"login; or {by_hand}."
        ) from error
    except RepositoryNotFoundError as error:
        raise InitError(
            f"{weights.hub} is no repository of the hub that you may see; correct its name."
        ) from error
    except Exception as error:  # of whichever client the library uses
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            if weights.file == NEW:
                return _from_hub(replace(weights, file=OLD), here)
            raise InitError(f"{weights.hub} has no file {weights.file}; correct the record.") from error
        raise InitError(
            f"{weights.file} of {weights.hub} is not in the cache of huggingface-hub and was not downloaded "
            f"({' '.join(str(error).split())[:200]}); {by_hand}."
        ) from error
    blob = path.resolve().name  # the hub's own checksum, where the file is a large one
    if re.fullmatch("[0-9a-f]{64}", blob) and sha256(path) != blob:
        raise InitError(f"{weights.file} of {weights.hub} is damaged: delete {path.resolve()} and run again.")
    return path
