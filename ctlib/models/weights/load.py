"""Where the weights of a network come from, and the ledger that accounts for every tensor.

An init is a named record: source, licence, mean and std of the voxels it was made for,
channels. After loading, the tensors that the file does not give are exactly the head's;
anything else is an `InitError` that names the tensors.

- `random`: backbone and head are drawn, mean and std are those of the cohort's voxels. See below.
- `video`, `ct_<cohort>`, `kinetics400+ct_<cohort>`, ...: pretrained here (`ctlib.models.weights.init_names`);
  weights and record are written by `save_weights` (`ctlib.models.weights.record`).
- `kinetics400`, `kinetics600`, `imagenet`, `inflated`, `ct_astra`, `timm`: published weights; others of a user's
  own: see `ctlib.models.weights.catalog`.
- a control of one of these, `shuffled:video`: see `ctlib.models.weights.ablations`.

Random backbones are drawn as their builders do; the modules of `ctlib.models.registry` say it in full:

| networks | convolutions and linear layers | normalization |
|---|---|---|
| Slow, SlowFast, R(2+1)D, CSN, X3D, PENet | He-normal by fan-out, biases 0 | 1 and 0; last of a block 0 |
| R3D-18, I3ResNet-152, ResNet, ResNeXt | He-normal by fan-out | 1 and 0 |
| EfficientNet-Lite0 | He-normal by the fan-out of a group | 1 and 0 |
| S3D | torch's own, uniform within 1 / sqrt(fan-in) | 1 and 0 |
| MViT, Swin3D | linear truncated normal, 0.02, biases 0; convolutions torch's own | 1 and 0 |
| LRCN | its 2D network's; the GRU uniform within 1 / sqrt(units) | its 2D network's |

At tiny size the last normalization of a block begins at 1 and 0, as all others.

The head is one linear layer, N(0, 0.01^2) with bias 0, as pytorchvideo draws its own. Backbone
and head are drawn from two streams of the seed, so that a seed gives the same head for every
init, and the head does not depend on how many numbers the backbone took.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import nn

from ctlib.core import Workspace, display_path
from ctlib.models.network import Network
from ctlib.models.registry import Size, build
from ctlib.models.weights import catalog, forward_check, ledger
from ctlib.models.weights.ablations import UNTOUCHED, adapt_all, split
from ctlib.models.weights.catalog import InitError as InitError
from ctlib.models.weights.catalog import tensors as _tensors
from ctlib.models.weights.init_names import Origin as Origin
from ctlib.models.weights.init_names import lacking
from ctlib.models.weights.init_names import origin as origin
from ctlib.models.weights.ledger import checksum as checksum
from ctlib.models.weights.record import DRAWN, NO_COHORT, Init
from ctlib.models.weights.record import find as find
from ctlib.models.weights.record import load_weights as load_weights
from ctlib.models.weights.record import save_weights as save_weights

HEAD_STD = 0.01
"""Spread of the head's random weights: pytorchvideo's `fc_init_std`."""

_BACKBONE_STREAM, _HEAD_STREAM, _CONTROL_STREAM = 0, 1, 2


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


def build_network(
    backbone_key: str, size: Size, init: Init, seed: int, n_outputs: int = 1
) -> tuple[Network, pd.DataFrame]:
    """A network ready to be trained, and the ledger of its tensors.

    Args:
        backbone_key: a key of `ctlib.models.registry.BACKBONES`.
        size: `tiny` or `full`.
        init: where the backbone's weights come from.
        seed: of the head and of random weights.
        n_outputs: logits a clip.

    Returns:
        The network and the table `ledger`: one row a tensor (batch-norm statistics included),
        with its checksum in memory, after loading.

    Raises:
        InitError: the file lacks a tensor of the backbone, has one that the network does not,
            or has one of another shape or type; or what was loaded does not give the stored features.
        ControlError: a control of the init would change nothing.
    """
    made = _draw(backbone_key, size, init, seed, n_outputs)
    controls, _ = split(init.name)
    made.is_frozen = any(control in UNTOUCHED for control in controls)
    columns = {"backbone": backbone_key, "init": init.name}
    head = {f"head.{name}" for name in made.head.state_dict()}
    about = dict.fromkeys(head, ("head", DRAWN))
    if init.path is None:
        return made, ledger.rows(made, about, "random", DRAWN, **columns)
    where = f"init {init.name} for {backbone_key} ({size}), {display_path(init.path)}"
    if init.weights and init.weights.size != size:
        raise InitError(f"{where}: the weights are of the {init.weights.size} network; choose that size.")
    wanted = {name: tensor for name, tensor in made.state_dict().items() if name not in head}
    loaded, changed, has_head = _given(init, wanted)
    wanted, fresh = _without_fresh(made, wanted, loaded)
    if has_head:
        about = dict.fromkeys(head, ("head", f"{DRAWN}; the file's own head is not used"))
    about |= dict.fromkeys(fresh, ("random", f"{DRAWN}; the file's network sees single slices"))
    ledger.compare(wanted, loaded, where)
    _check_features(made, loaded, init, where)
    adapted = adapt_all(controls, loaded, torch.Generator().manual_seed(_stream(seed, _CONTROL_STREAM)))
    made.load_state_dict(adapted, strict=False)
    # a user's folder may tell more than a report should
    why = f"{init.path.name if init.weights else display_path(init.path)}, SHA-256 {init.checksum[:16]}"
    controlled = [control for control in controls if control not in UNTOUCHED]
    for name, tensor in loaded.items():
        steps = [changed[name]] if name in changed else []
        steps += controlled if adapted.get(name) is not tensor else []
        if steps:
            how = ", then ".join(steps)
            about[name] = ("adapted", f"{how}: {why}") if name in adapted else ("random", f"{how}: {DRAWN}")
    return made, ledger.rows(made, about, "loaded", why, **columns)


def _without_fresh(
    made: Network, wanted: Mapping[str, torch.Tensor], loaded: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """What a file must give, and what it need not: the layers over slices, of which a 2D network's file has none."""
    begin = f"backbone.{getattr(made.backbone, 'over_slices', '') or '-'}"
    fresh = [name for name in wanted if name.startswith(begin)]
    if any(name.startswith(begin) for name in loaded):
        fresh = []
    return {name: tensor for name, tensor in wanted.items() if name not in fresh}, fresh


def _given(
    init: Init, wanted: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, str], bool]:
    """What the file gives for a backbone, how its tensors were changed, and whether it has a head of its own.

    Of a file written here, whatever is called `head` is its head, of any names and shapes.
    """
    assert init.path is not None
    if init.weights:
        given, changed = catalog.read(init.weights, init.path)
        has_head = bool(init.weights.head)
        if init.weights.inflated:
            given, how = catalog.over_depth(given, wanted)
            changed = _chained(changed, how)
    else:
        file, changed = _tensors(init.path), {}
        given = {name: tensor for name, tensor in file.items() if not name.startswith("head.")}
        has_head = len(given) < len(file)
    if init.file_channels == 1 and init.channels > 1 and not (init.weights and init.weights.stem):
        given, how = catalog.over_channels(given, wanted)
        changed = _chained(changed, how)
    return given, changed, has_head


def _chained(first: Mapping[str, str], then: Mapping[str, str]) -> dict[str, str]:
    """What became of tensors in two steps, by name."""
    both = {name: f"{first[name]}, then {then[name]}" for name in first.keys() & then.keys()}
    return {**first, **then, **both}


def _check_features(made: Network, loaded: Mapping[str, torch.Tensor], init: Init, where: str) -> None:
    """Refuse weights that do not compute what was stored of them; controls come later."""
    if not init.features:
        return
    plain = copy.deepcopy(made)
    plain.load_state_dict(loaded, strict=False)
    found = forward_difference(plain, init)
    if found > forward_check.TOLERANCE:
        raise InitError(
            f"{where}: every tensor fits, but the features of the stored clip differ from the stored ones by "
            f"{found:.2g} of the largest (at most {forward_check.TOLERANCE:g} by rounding): the network does not "
            "compute what these weights were trained with; see ctlib.models.weights.forward_check."
        )


def forward_difference(made: Network, init: Init) -> float:
    """How far the features of the stored clip are from the stored ones (see `ctlib.models.weights.forward_check`).

    Args:
        made: a network with the weights of the init, before any control.
        init: the init.

    Returns:
        Largest difference over the largest stored feature; NaN where none are stored.
    """
    if not init.features:
        return forward_check.NOT_STORED
    mean, std = made.mean.tolist(), made.std.tolist()
    found = forward_check.features(made.backbone, mean, std, init.file_channels)
    return forward_check.difference(found, init.features)


def loaded_ledger(
    workspace: Workspace, init_names: Sequence[str], backbones: Sequence[str], size: Size, channels: int = 1
) -> pd.DataFrame:
    """Build each network anew, load its weights as a run would, and account for every tensor.

    Args:
        workspace: where weights that were made here lie.
        init_names: inits that load weights.
        backbones: keys of networks; one that published weights are lacking for is left out of their init.
        size: `tiny` or `full`.
        channels: of the clips.

    Returns:
        Table `ledger` of all networks.

    Raises:
        InitError: weights do not fit their network (see `network`).
        MissingInput: weights were not made yet.
    """
    ledgers = [
        build_network(key, size, find(name, key, workspace, NO_COHORT, channels), seed=0)[1]
        for name in init_names
        for key in backbones
        if not lacking(name, key)
    ]
    return pd.concat(ledgers, ignore_index=True)


def forward_checks(
    workspace: Workspace, init_names: Sequence[str], backbones: Sequence[str], size: Size, channels: int = 1
) -> pd.DataFrame:
    """The forward check of each network, for a report: how near its features are to the stored ones.

    Args:
        workspace: where weights that were made here lie.
        init_names: inits that load weights; controls are left out.
        backbones: keys of networks.
        size: `tiny` or `full`.
        channels: of the clips.

    Returns:
        One row a network: backbone, init, n_features (stored ones), difference (of the largest feature; NaN:
        not stored), tolerance.

    Raises:
        InitError: weights do not fit their network, or give other features (see `network`).
        MissingInput: weights were not made yet.
    """
    rows = []
    for base, key in product(dict.fromkeys(split(name)[1] for name in init_names), backbones):
        if lacking(base, key):
            continue
        init = find(base, key, workspace, NO_COHORT, channels)
        found = forward_difference(build_network(key, size, init, seed=0)[0], init)
        rows.append((key, base, len(init.features), found, forward_check.TOLERANCE))
    return pd.DataFrame(rows, columns=["backbone", "init", "n_features", "difference", "tolerance"])
