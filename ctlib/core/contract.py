"""The input contract of weights: what a clip must be, for them to see what they were trained on.

Weights without one see clips as every other network: slices from below to above, rows to the back, columns to
the left, voxels of the stored spacing, HU in the task's HU window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

OURS = "SPL"
"""Where the axes of our clips [D, H, W] point: Superior, Posterior, Left."""
OPPOSITE = dict(zip("SIPALR", "ISAPRL", strict=True))
CHANNELS = ("repeat", "hu_windows", "neighbours")
"""What the channels of a clip are: one, which the network repeats; three HU windows; three slices."""


@dataclass(frozen=True)
class Contract:
    """What weights ask of a clip; a field that is empty asks nothing.

    Args:
        axes: where the three axes of a clip point, a letter each: S or I, P or A, L or R.
        spacing_mm: distance of voxels along these axes, mm.
        hu: range of HU that becomes [0, 1]; takes the place of the task's HU window.
        channels: what the channels may be, of `CHANNELS`.

    Raises:
        ValueError: a value cannot be.

    >>> print(Contract(axes="RAS", spacing_mm=(1.5, 1.5, 1.5), hu=(-1000.0, 1000.0)))
    axes RAS; 1.5 x 1.5 x 1.5 mm; HU -1000 to 1000
    """

    axes: str = OURS
    spacing_mm: tuple[float, ...] = ()
    hu: tuple[float, ...] = ()
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if sorted(min(each, OPPOSITE.get(each, each)) for each in self.axes) != ["A", "I", "L"]:
            raise ValueError(f"axes is {self.axes!r}; give a letter of S or I, of P or A, and of L or R.")
        if len(self.spacing_mm) not in (0, 3) or not all(0 < step < math.inf for step in self.spacing_mm):
            raise ValueError(f"spacing_mm is {self.spacing_mm}; give three distances above 0, mm.")
        if self.hu and (len(self.hu) != 2 or not -math.inf < self.hu[0] < self.hu[1] < math.inf):
            raise ValueError(f"hu is {self.hu}; give the lowest and the highest HU.")
        if unknown := set(self.channels) - set(CHANNELS):
            raise ValueError(f"channels has {', '.join(sorted(unknown))}; known are {', '.join(CHANNELS)}.")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Contract:
        """The contract of a record's fields, lists as tuples.

        Raises:
            ValueError: a field is unknown, or a value cannot be.

        >>> Contract.of({"axes": "SPL", "hu": [-1024, 2048]}).hu
        (-1024, 2048)
        """
        if unknown := sorted(set(fields) - set(cls.__dataclass_fields__)):
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"unknown field {', '.join(map(str, unknown))}; known are {known}.")
        try:
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
            return cls(**given)
        except TypeError as error:
            raise ValueError(" ".join(str(error).split())) from error

    @property
    def text(self) -> str:
        """All fields in one line, which `read_contract` takes back.

        >>> read_contract(Contract(hu=(-1.5, 2.0)).text) == Contract(hu=(-1.5, 2.0))
        True
        """
        given = {"axes": self.axes, **{k: getattr(self, k) for k in ("spacing_mm", "hu", "channels")}}
        return " ".join(
            f"{k}={v if isinstance(v, str) else ','.join(str(each) for each in v)}"
            for k, v in given.items()
            if v
        )

    @property
    def zyx_mm(self) -> tuple[float, ...]:
        """The spacing along our axes (z, y, x), mm; empty where none is asked for."""
        if not self.spacing_mm:
            return ()
        at = dict(zip(map(_line, self.axes), self.spacing_mm, strict=True))
        return tuple(at[_line(letter)] for letter in OURS)

    def oriented(self, clip: NDArray[Any]) -> NDArray[Any]:
        """A clip `[C, D, H, W]` of our axes in those of the contract; a view where that is enough.

        >>> Contract("SAR").oriented(np.arange(4).reshape(1, 1, 2, 2)).ravel().tolist()
        [3, 2, 1, 0]
        """
        lines = [_line(letter) for letter in OURS]
        seen = clip.transpose(0, *(1 + lines.index(_line(letter)) for letter in self.axes))
        flipped = [1 + i for i, letter in enumerate(self.axes) if letter not in OURS]
        return np.flip(seen, tuple(flipped)) if flipped else seen

    def __str__(self) -> str:
        parts = [f"axes {self.axes}"]
        if self.spacing_mm:
            parts.append(" x ".join(f"{step:g}" for step in self.spacing_mm) + " mm")
        if self.hu:
            parts.append(f"HU {self.hu[0]:.5g} to {self.hu[1]:.5g}")
        if self.channels:
            parts.append(f"channels {' or '.join(self.channels)}")
        return "; ".join(parts)


def _line(letter: str) -> str:
    return min(letter, OPPOSITE[letter])


@cache
def read_contract(text: str) -> Contract | None:
    """The contract that `Contract.text` wrote; None of an empty text.

    >>> print(read_contract("axes=RAS hu=-1024,2048"), read_contract(""))
    axes RAS; HU -1024 to 2048 None
    """
    if not text:
        return None
    given: dict[str, Any] = dict(part.split("=", 1) for part in text.split())
    for name, value in given.items():
        if name != "axes":
            parts = value.split(",")
            given[name] = tuple(parts if name == "channels" else map(float, parts))
    return Contract(**given)
