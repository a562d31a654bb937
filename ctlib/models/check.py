"""Whether networks do what their records say, seen by doing it; and the table of all of them.

A network is built from seed 0 and given one clip of noise: features must be finite, the gradient of every
parameter too, and the slices in reverse order must change the features where the record says that it sees
order, and leave them where it says not. Normalizations that begin at 0 (the last of a residual block, in
published networks) are set to 1 before, or nothing behind them would be seen.

That clip is small, but all parts of a network compute on it. What a full network costs is counted for the
clip it was published with (`ctlib.models.cost`), what a tiny one costs for the clip it is seen on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ctlib.models.cost import Cost, cost_of
from ctlib.models.registry import BACKBONES, SIZES, Backbone, Size, spec
from ctlib.models.weights.published import PUBLIC

SEEN_ON: dict[Size, tuple[int, int, int]] = {"full": (8, 112, 112), "tiny": (16, 48, 48)}
"""(D, H, W) of the clip that is computed: half the published side, so that all take about a minute."""
CHANGED, SAME = 1e-3, 1e-5
"""Least and largest difference of features that count as changed and as the same, of the largest feature."""


@dataclass(frozen=True)
class Checked:
    """What was counted and seen of a network; None is what was not reached.

    Args:
        backbone: its key.
        size: `tiny` or `full`.
        sees: what it sees at once, of its record.
        clip: (D, H, W) that the cost is of.
        cost: of that clip, one channel.
        n_features: a clip.
        features_finite: on the small clip.
        gradients_finite: of every parameter, on the small clip.
        order_changes: whether the features are others when slices come in reverse order.
        problem: what is wrong, in one sentence; empty where all is as it should be.
    """

    backbone: str
    size: Size
    sees: str
    clip: tuple[int, int, int]
    cost: Cost | None = None
    n_features: int | None = None
    features_finite: bool | None = None
    gradients_finite: bool | None = None
    order_changes: bool | None = None
    problem: str = ""


def check_all(keys: Sequence[str] = (), sizes: Sequence[Size] = SIZES[::-1]) -> Iterator[Checked]:
    """What was seen of each network at each size, one after the other.

    Args:
        keys: keys of networks, a user's own too; none for all of `BACKBONES`.
        sizes: `tiny`, `full`.

    Raises:
        ValueError: unknown key; before anything is computed.
    """
    records = [spec(key) for key in keys or BACKBONES if keys or key not in uninstalled()]
    return (check(record, size) for record in records for size in sizes)


def uninstalled() -> dict[str, str]:
    """Networks that need an extra of this project which is not installed, and that extra, by key."""
    is_there = importlib.util.find_spec("transformers") is not None
    return {} if is_there else {key: entry.extra for key, entry in BACKBONES.items() if entry.extra}


def weights(keys: Sequence[str] = ()) -> list[dict[str, str]]:
    """The published weights of networks: what each was trained on and asks of a clip, and its licence.

    Args:
        keys: keys of networks; none for all.

    Returns:
        A row each, in the order of `published.yaml`: init, backbone, seen, clip, contract, licence;
        without `kinetics`, which is a name for others.
    """
    rows = []
    for init, records in PUBLIC.items():
        for key in (each for each in records if init != "kinetics" and (not keys or each in keys)):
            known = records[key]
            asked = [str(known.contract)] if known.contract else []
            asked += [f"{known.channels} channels, one is repeated"] if known.channels > 1 else []
            rows.append(
                {
                    "init": init,
                    "backbone": key,
                    "seen": ", then ".join(map(str, known.seen)),
                    "clip": " x ".join(map(str, known.clip)),
                    "contract": "; ".join(asked),
                    "licence": f"{known.licence}{', ' * bool(known.terms)}{known.terms}",
                }
            )
    return rows


def weights_table(keys: Sequence[str] = ()) -> str:
    """`weights` in Markdown; empty where there are none.

    >>> weights_table(["csn_r101"]).splitlines()[-1].split(" | ")[1:5]
    ['`csn_r101`', 'Kinetics-400 (video)', '-', '-']
    """
    rows = weights(keys)
    lines = [
        "| init | backbone | trained on | clip | asks of a clip | licence |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        row["backbone"] = f"`{row['backbone']}`"
        lines.append(f"| {' | '.join(cell or '-' for cell in row.values())} |")
    return "\n".join(lines) if rows else ""


def check(backbone: Backbone, size: Size) -> Checked:
    """What was seen of one network; whatever it raises is its problem."""
    clip = backbone.clip if size == "full" else SEEN_ON[size]
    seen = Checked(backbone.key, size, backbone.sees, clip)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = backbone.build(size, 1)
            _begin(network)
            noise = torch.rand(1, 1, *SEEN_ON[size])
            seen = _computed(seen, network, noise)
            seen = replace(seen, cost=cost_of(network, (1, *clip)))
    except Exception as error:
        told = " ".join(str(error).split())
        return replace(seen, problem=seen.problem or f"It raised {type(error).__name__}: {told}")
    if not seen.problem and backbone.sees_order not in (None, seen.order_changes):
        told = "do not change its features" if backbone.sees_order else "change its features"
        return replace(seen, problem=f"Slices in reverse order {told}.")
    return seen


def _begin(network: nn.Module) -> None:
    """Let what normalizations scale by 0 count."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm) and module.affine:
            nn.init.ones_(module.weight)


def _computed(seen: Checked, network: nn.Module, clip: torch.Tensor) -> Checked:
    """Forward, backward, and forward in reverse order."""
    with torch.no_grad():  # before training, which moves the statistics that evaluation takes
        forwards, backwards = network.eval()(clip), network(clip.flip(2))
    features = network.train()(clip)
    features.square().mean().backward()
    bad = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all()
    ]
    largest = float(forwards.abs().max())
    difference = float((forwards - backwards).abs().max()) / (largest or 1.0)
    seen = replace(
        seen,
        n_features=features.shape[1],
        features_finite=bool(features.isfinite().all() and forwards.isfinite().all()),
        gradients_finite=not bad,
        order_changes=difference > CHANGED,
    )
    if features.shape != (1, network.n_features):
        shape = " x ".join(map(str, features.shape))
        return replace(seen, problem=f"It made {shape} of one clip, but has n_features {network.n_features}.")
    if not seen.features_finite or not largest:
        return replace(seen, problem=f"Features are {'all 0' if seen.features_finite else 'not finite'}.")
    if bad:
        told = f"{len(bad)} gradients are missing or not finite, the first that of {bad[0]}."
        return replace(seen, problem=told)
    if SAME < difference <= CHANGED:
        return replace(seen, problem=f"Reverse order changes features by {difference:.1g} of the largest.")
    return seen


HEADER = (
    "| backbone | size | sees | clip | parameters | multiply-adds | memory | features | gradients | order |\n"
    "|---|---|---|---|--:|--:|--:|---|---|---|"
)
"""Head of the table; `row` gives its lines."""


def row(seen: Checked) -> str:
    """A line of the table, in Markdown: parameters in millions, multiply-adds in G, memory in MB, a clip.

    >>> cost = Cost(parameters=31_634_496, multiply_adds=54_517_563_392, saved_mb=897.8)
    >>> row(Checked("slow_r50", "full", "clips (3D)", (8, 256, 256), cost, 2048, True, True, True))
    '| `slow_r50` | full | clips (3D) | 8 x 256 x 256 | 31.6 M | 54.5 G | 898 MB | finite | finite | seen |'
    """
    counts = ["-"] * 3
    if seen.cost:
        million, giga = seen.cost.parameters / 1e6, seen.cost.multiply_adds / 1e9
        counts = [f"{_digits(million)} M", f"{_digits(giga)} G", f"{_digits(seen.cost.saved_mb)} MB"]
    clip = " x ".join(map(str, seen.clip))
    finite = [_word(each, "finite", "not finite") for each in (seen.features_finite, seen.gradients_finite)]
    order = _word(seen.order_changes, "seen", "not seen")
    cells = [f"`{seen.backbone}`", seen.size, seen.sees, clip, *counts, *finite, order]
    return f"| {' | '.join(cells)} |" + (f" {seen.problem}" if seen.problem else "")


def _digits(value: float) -> str:
    """Three digits; all of a number from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _word(value: bool | None, yes: str, no: str) -> str:
    return "-" if value is None else yes if value else no
