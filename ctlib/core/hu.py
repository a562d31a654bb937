"""HU windows with names, and HU to [0, 1].

The bare word "window" is not used in this project: an `HuWindow` is an intensity
range (centre, width) in HU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HU_MIN = -1024
"""Lowest HU kept: air, and every padding value found outside the field of view."""
HU_MAX = 3071
"""Highest HU kept: the top of the 12 bits of CT, 4095 - 1024."""


@dataclass(frozen=True)
class HuWindow:
    """An intensity range in HU.

    >>> HuWindow(centre=400, width=1000)
    HuWindow(centre=400, width=1000)
    >>> HuWindow(400, 1000).low, HuWindow(400, 1000).high
    (-100.0, 900.0)
    """

    centre: float
    width: float

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"HuWindow: width is {self.width} HU; give a width above 0.")

    @classmethod
    def named(cls, name: str) -> HuWindow:
        """The HU window of a name.

        Raises:
            ValueError: no HU window has that name; the message lists those that there are.

        >>> str(HuWindow.named("lung"))
        '-600/1500 HU'
        """
        if name not in HU_WINDOWS:
            raise ValueError(f"hu_window is {name!r}; known are {', '.join(HU_WINDOWS)}.")
        return HU_WINDOWS[name]

    @property
    def low(self) -> float:
        """HU that maps to 0."""
        return self.centre - self.width / 2

    @property
    def high(self) -> float:
        """HU that maps to 1."""
        return self.centre + self.width / 2

    def __str__(self) -> str:
        return f"{self.centre:g}/{self.width:g} HU"


HU_WINDOWS = {
    "pe": HuWindow(400, 1000),  # Ke et al. 2023, released code (docs/protocol.md)
    "lung": HuWindow(-600, 1500),  # the same
    "mediastinum": HuWindow(40, 400),  # the same
    "bone": HuWindow(400, 1800),  # common radiology preset
}


def to_unit(hu: NDArray[np.generic], hu_window: HuWindow) -> NDArray[np.float32]:
    """HU of any shape to float32 in [0, 1], clipped at both ends.

    Air maps to 0 where the HU window begins above it (`pe`, `mediastinum`, `bone`); in
    `lung`, which begins at -1350 HU, padding of -1024 HU maps to 0.217, and air of -1000 HU to 0.233.

    >>> to_unit(np.array([-1024, -100, 400, 900, 3071]), HuWindow.named("pe")).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    scaled = (np.asarray(hu, dtype=np.float32) - hu_window.low) / hu_window.width
    return np.clip(scaled, 0.0, 1.0, out=scaled)
