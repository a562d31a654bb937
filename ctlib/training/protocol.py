"""The choices of the method, by each protocol, each of which is a switch of its own.

`paper` is the experiment as Ke et al. (MIDL 2023) write it, `released` as their code computes it, `corrected` as
this study does. Most choices are parameters of the notebooks: `protocols.yaml` has their values, and
`ctlib protocols` prints them. Some of the released code's are no parameters (`FLAWS`): `protocol: released`
puts all of them back, the others none, and `protocol_overrides` adds some, so that an ablation tells what each of
them does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

FRESH_FRACTION = "fresh_fraction"
CLIP_LABELS = "clip_labels"
DROPPED_TAILS = "dropped_tails"
FILL = "fill"
ONE_MEAN = "one_mean"
FLAWS = {
    FRESH_FRACTION: "a fraction is a cap on the batches of an epoch, drawn anew from all training patients",
    CLIP_LABELS: "an exam has the label of its clips, not its own",
    DROPPED_TAILS: "a series has (slices - length) // length clips; the rest is dropped, short exams vanish",
    FILL: "what a rotation uncovers is -1000, after the mapping to [0, 1]",
    ONE_MEAN: "every init has the same mean and std, here those of the cohort",
}
"""What each of them is."""
PROTOCOLS = {"corrected": (), "released": tuple(FLAWS), "paper": ()}
"""Flaws of each protocol."""
FILL_VALUE = -1000.0
"""In [0, 1], where air is 0: docs/protocol.md."""


def flaws_of(protocol: str, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """The flaws of a protocol and of what is put back besides, in the order of `FLAWS`.

    Raises:
        ValueError: unknown protocol or flaw.

    >>> flaws_of("corrected", ["fill"])
    ('fill',)
    >>> flaws_of("released") == tuple(FLAWS)
    True
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; known are {', '.join(PROTOCOLS)}.")
    if unknown := [name for name in overrides if name not in FLAWS]:
        raise ValueError(f"protocol_overrides has {', '.join(unknown)}; known are {', '.join(FLAWS)}.")
    asked = {*PROTOCOLS[protocol], *overrides}
    return tuple(name for name in FLAWS if name in asked)


def without_tails(clips: pd.DataFrame, length: int) -> pd.DataFrame:
    """The clips that the published code has: (slices - length) // length of each series.

    Args:
        clips: columns series_uid, start and stop, all clips of each series.
        length: slices a clip.

    >>> clips = pd.DataFrame({"series_uid": "1.2", "start": [0, 16, 32], "stop": [16, 32, 40]})
    >>> without_tails(clips, 16)["start"].tolist()
    [0]
    """
    n_slices = clips.groupby("series_uid")["stop"].transform("max")
    kept = clips["stop"] <= (n_slices - length) // length * length
    return clips[kept].reset_index(drop=True)


# ---- the table of choices ----------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """What a protocol chooses.

    Args:
        text: in words.
        parameters: of the notebooks, with their values; of those in `PARTS`, the entries that must be there.
    """

    text: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """One choice of the method.

    Args:
        name: of the switch: a flaw of `FLAWS`, or what its parameters decide.
        about: what is chosen.
        paper: as the paper is written.
        released: as the authors' code computes.
        corrected: as this study does.
        source: page of the paper, or where in the code.
    """

    name: str
    about: str
    paper: Value
    released: Value
    corrected: Value
    source: str

    def of(self, protocol: str) -> Value:
        """What a protocol of `PROTOCOLS` chooses."""
        return {"paper": self.paper, "released": self.released, "corrected": self.corrected}[protocol]

    @property
    def switches(self) -> list[str]:
        """The parameters that make the choice; none where it cannot be made otherwise here."""
        if self.name in FLAWS:
            return ["protocol", "protocol_overrides"]
        return [*{**self.paper.parameters, **self.released.parameters, **self.corrected.parameters}]


PARTS = ("inits", "pretrained", "exceptions", "leave_out")
"""Parameters that are lists of what there is: a protocol's entries are among them, others may be too."""


def _read() -> tuple[Choice, ...]:
    """The choices of `protocols.yaml`, in its order."""
    found = yaml.safe_load(Path(__file__).with_name("protocols.yaml").read_text(encoding="utf-8"))
    values = [
        {name: Value(row[name]["text"], row[name].get("set", {})) for name in PROTOCOLS} for row in found
    ]
    return tuple(
        Choice(row["name"], row["about"], source=row["source"], **own)
        for row, own in zip(found, values, strict=True)
    )


CHOICES_OF_METHOD = _read()
"""Every choice that the paper, its code or this study makes otherwise, and some that all make alike."""
GRID = "03_finetune_grid"
"""The notebook that has `protocol`."""


def follows(choice: Choice, loaded: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The protocols whose choice a profile makes.

    Args:
        choice: one of `CHOICES_OF_METHOD`.
        loaded: parameters by notebook, of those notebooks that the profile has.

    Returns:
        Protocols; none where the profile chooses otherwise. Where there is no switch, those that choose what
        this study does.
    """
    if choice.name in FLAWS:
        grid = loaded.get(GRID, {})
        flawed = choice.name in flaws_of(
            grid.get("protocol", "corrected"), grid.get("protocol_overrides", ())
        )
        return [name for name, flaws in PROTOCOLS.items() if (choice.name in flaws) == flawed]
    if not choice.corrected.parameters:
        return [name for name in PROTOCOLS if choice.of(name).text == choice.corrected.text]
    return [name for name in PROTOCOLS if _agrees(choice, name, loaded)]


def _agrees(choice: Choice, protocol: str, loaded: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether parameters have the values of a protocol; a list of parts none that only another protocol has."""
    wanted = choice.of(protocol).parameters
    others = [choice.of(name).parameters for name in PROTOCOLS]
    for values in loaded.values():
        for name in {name for each in others for name in each} & values.keys():
            if name not in PARTS:
                if name in wanted and values[name] != wanted[name]:
                    return False
                continue
            own, given = set(wanted.get(name, ())), set(values[name])
            foreign = {part for each in others for part in each.get(name, ())} - own
            if own - given or (
                choice.name != "arms" and foreign & given
            ):  # more arms change none of the others
                return False
    return True


def differences(protocol: str, loaded: Mapping[str, Mapping[str, Any]]) -> list[Choice]:
    """The choices that a profile makes otherwise than a protocol.

    Args:
        protocol: one of `PROTOCOLS`.
        loaded: see `follows`.
    """
    return [choice for choice in CHOICES_OF_METHOD if protocol not in follows(choice, loaded)]
