"""A user's own network: one string, `module:function`, wherever the key of a network is asked for.

    backbones: ["slow_r50", "my_nets:unet"]

The function takes the size and the number of channels, and gives a network without a head:

    def unet(size: str, in_channels: int) -> nn.Module: ...  # [N, C, D, H, W] -> [N, F]

A network without the attribute `n_features` is shown one clip of zeros, 16 x 48 x 48, to count F. Every
output is compared with that shape, for a network that gives maps would only fail far away, in the head.

The module is looked for as any import is: among the installed, and in PYTHONPATH. Where it is not there, it
is looked for in the working directory, then in the project's folder, for neither a notebook's kernel nor a
worker need hold them. The folder then stays the last of `sys.path`: it hides nothing, and the module
finds its neighbours. Workers on other machines need the file too, in one of these places.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from ctlib.core import PROJECT, display_path
from ctlib.models.foundation import HF
from ctlib.models.record import Backbone, Size
from ctlib.models.slicewise import TIMM

KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
"""`module:function`; the module may lie in packages."""
SMALL = (16, 48, 48)
"""(D, H, W) of the clip that counts the features; the demo profile's."""


class OwnNetworkError(ValueError):
    """A user's own network that is missing, or that is no backbone: one sentence."""


def is_own(key: str) -> bool:
    """Whether a key is meant as a user's own network.

    >>> is_own("my_nets:unet"), is_own("slow_r50"), is_own("timm:resnet18")
    (True, False, False)
    """
    return ":" in key and not key.startswith((TIMM, HF))


def record(key: str) -> Backbone:
    """What is known of a user's own network, whose module is imported.

    Raises:
        OwnNetworkError: the key is no `module:function`, or there is no such module or function.
    """
    module, _ = _loaded(_module_name(key))
    name = key.partition(":")[2]
    function = getattr(module, name, None)
    if not callable(function):
        what = "is no function" if hasattr(module, name) else "is not there"
        raise OwnNetworkError(f"backbone {key}: {name} {what} in {display_path(_file(module, key))}.")
    about = inspect.getdoc(function) or ""
    return Backbone(
        key=key,
        title=f"{name} of {module.__name__}",
        dims=3,
        build=partial(_build, key),
        licence="its author's",
        citation=about.splitlines()[0] if about else "its author's own network",
        clip=(32, 224, 224),
        cpu_precision="fp32",
        cpu_channels_last=False,
        sees_order=None,
    )


def code_of(key: str) -> str:
    """SHA-256 (hex) of the source file that a user's own network is defined in, as it was imported.

    Another network has another one, so that a run's id is that of its network. What the file
    imports is not looked at.

    Args:
        key: of any network; those of this project give "", for the project's version speaks for them.

    Raises:
        OwnNetworkError: as `record`.

    >>> code_of("slow_r50")
    ''
    """
    return _loaded(_module_name(key))[1] if is_own(key) else ""


def file_name(key: str) -> str:
    """A key as the name of a file on any system; no two keys share one, not even by the case of letters.

    >>> file_name("slow_r50"), file_name("nets.mine:unet"), file_name("nets:UNet")
    ('slow_r50', 'nets-mine-unet', 'nets-unet-d84dac3d')
    """
    name = re.sub("[:./]", "-", key)
    if name == name.lower():
        return name
    return f"{name.lower()}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _module_name(key: str) -> str:
    if not KEY.fullmatch(key):
        raise OwnNetworkError(f"backbone is {key!r}; a network of your own is named as module:function.")
    return key.partition(":")[0]


@cache
def _loaded(name: str) -> tuple[ModuleType, str]:
    """A module, and the SHA-256 of its file when it was imported: a later change is not what runs."""
    module = _imported(name)
    return module, hashlib.sha256(_file(module, name).read_bytes()).hexdigest()


def _imported(name: str) -> ModuleType:
    """The module of a name, from where imports are looked for, the working directory or the project."""
    for folder in (None, Path.cwd(), PROJECT):
        if folder is not None:
            if not _lies_in(folder, name):
                continue
            sys.path += [str(folder)] if str(folder) not in sys.path else []
            importlib.invalidate_caches()
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name and not name.startswith(f"{error.name}."):
                raise _failed(name, error) from error  # it is there, and what it imports is not
        except Exception as error:
            raise _failed(name, error) from error
    raise OwnNetworkError(
        f"backbone {name}:...: there is no module {name}: not installed, not in PYTHONPATH, not in the "
        f"working directory ({display_path(Path.cwd())}) and not in the project's folder."
    )


def _lies_in(folder: Path, name: str) -> bool:
    path = folder.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _failed(name: str, error: Exception) -> OwnNetworkError:
    told = " ".join(str(error).split())
    return OwnNetworkError(
        f"backbone {name}:...: its module does not import ({type(error).__name__}: {told})."
    )


def _file(module: ModuleType, name: str) -> Path:
    """The source file of a module.

    Raises:
        OwnNetworkError: it has none.
    """
    file = getattr(module, "__file__", None)
    if not file:
        raise OwnNetworkError(f"backbone {name}: module {module.__name__} has no source file.")
    return Path(file)


def _build(key: str, size: Size, in_channels: int) -> nn.Module:
    """The user's network, which says how many features it has and is checked whenever it is used."""
    module, _ = _loaded(_module_name(key))
    network = getattr(module, key.partition(":")[2])(size, in_channels)
    if not isinstance(network, nn.Module):
        raise OwnNetworkError(f"backbone {key} gave a {type(network).__name__}; it must give an nn.Module.")
    network.register_forward_hook(partial(_check, key))
    if not hasattr(network, "n_features"):
        setattr(network, "n_features", _count(network, in_channels))  # noqa: B010 (torch types it otherwise)
    n_features = network.n_features
    if type(n_features) is not int or n_features < 1:
        raise OwnNetworkError(f"backbone {key}: n_features is {n_features!r}; give a number of features.")
    return network


def _count(network: nn.Module, in_channels: int) -> int:
    """Features of a clip of zeros; the network stays in the mode it is in, its statistics as they are."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(1, in_channels, *SMALL))
    for module, mode in modes.items():
        module.training = mode
    return int(features.shape[1])


def _check(key: str, network: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
    """Refuse an output that is not `[N, F]`; F is compared where it is known."""
    n, wanted = len(inputs[0]), getattr(network, "n_features", None)
    if isinstance(output, torch.Tensor):
        if output.ndim == 2 and len(output) == n and wanted in (None, output.shape[1]):
            return
        found = " x ".join(map(str, output.shape))
    else:
        found = f"a {type(output).__name__}"
    raise OwnNetworkError(f"backbone {key} made {found} of {n} clips; it must make {n} x {wanted or 'F'}.")
