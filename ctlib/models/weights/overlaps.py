"""Which weights have seen scans that they are tested on: the register `overlaps.yaml`, asked by cohort."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from ctlib.models.weights.read import TrainedOn

REGISTER = Path(__file__).with_name("overlaps.yaml")


@dataclass(frozen=True)
class Overlap:
    """An entry of the register.

    Args:
        match: what is looked for in the name of a pretraining set, whatever the case.
        sure: whether it is documented that the set holds scans of the test data.
        why: in words.
    """

    match: str
    sure: bool
    why: str


@cache
def _register() -> dict[str, tuple[Overlap, ...]]:
    given = yaml.safe_load(REGISTER.read_text(encoding="utf-8"))
    return {source: tuple(Overlap(**entry) for entry in entries) for source, entries in given.items()}


def overlap(chain: Iterable[TrainedOn], source: str) -> Overlap | None:
    """How weights have seen test data, as far as the register knows: its first entry that fits.

    Args:
        chain: what the weights were trained on.
        source: whose scans the test exams are: a key of the register; of others nothing is known.

    >>> found = overlap([TrainedOn("LUNA16, no labels", "CT")], "lidc")
    >>> found.sure, found.why
    (True, 'LUNA16 is 888 scans of LIDC-IDRI')
    >>> overlap([TrainedOn("Kinetics-400", "video")], "lidc") is None
    True
    """
    seen = [step.what.lower() for step in chain]
    entries = _register().get(source, ())
    return next((one for one in entries if any(one.match.lower() in what for what in seen)), None)
