"""One look for all figures: fonts, colours by init, and shared ranges.

The colours of inits that are compared most are those of Okabe and Ito (https://jfly.uni-koeln.de/color/),
which people with any colour vision tell apart, the others in their spirit, each dark enough to be read as
a word on white; inits differ by marker too, so print in grey still reads.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd

if TYPE_CHECKING:  # imported where they are used: the viewer in a page needs the colours only
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULT_TYPE = "application/vnd.ctlib.result+json"
"""MIME type under which a cell leaves its result for the index, beside the table that the page shows of it."""
PX_PER_INCH = 96
"""CSS pixels an inch: a figure 10 inches wide is shown 960 px wide."""
WIDTH = 10.0
"""Width of a figure, inches."""
TWO_COLUMNS, ONE_COLUMN = 7.2, 3.5
"""Width of a figure that spans both columns of a printed page, and of one that fits in one, inches."""

INK, FAINT, WARNING = "#222222", "#757575", "#a33b00"
DISEASE, NO_DISEASE = "#E69F00", "#8a8a8a"
DASHES = (0, (4, 3))
"""Of lines for orientation: chance, a target."""
READERS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7")
"""Contours on grey pictures, one colour a reader; a fifth reader begins anew."""


@dataclass(frozen=True)
class InitLook:
    """Colour and marker of an init; `filled` is False for a hollow marker."""

    colour: str
    marker: str
    filled: bool = True


INITS = {
    "random": InitLook("#6b6b6b", "o", filled=False),
    "video": InitLook("#0072B2", "o"),
    "video_ssl": InitLook("#5b9bd5", "o", filled=False),
    "kinetics": InitLook("#D55E00", "s"),
    "kinetics400": InitLook("#D55E00", "s"),
    "kinetics600": InitLook("#8f3f00", "s", filled=False),
    "imagenet": InitLook("#009E73", "^"),
    "inflated": InitLook("#8b6f47", "P"),
    "ct_lidc": InitLook("#f060a5", "D"),
    "ct_rspect": InitLook("#7500d1", "D"),
    "ct_astra": InitLook("#a33a5c", "D", filled=False),
    "ct": InitLook("#f060a5", "d"),
    "both": InitLook("#b28847", "X"),
}
"""Fixed by init in every figure: `ct` is any other `ct_<cohort>`, `both` any `<start>+<source>`."""
CONTROLS = {
    "meanvar": InitLook("#343808", "p", filled=False),
    "shuffled": InitLook("#85353f", "h", filled=False),
    "first": InitLook("#0b0085", "v", filled=False),
    "reversed": InitLook("#002915", "<", filled=False),
    "flat": InitLook("#75622f", ">", filled=False),
    "frozen": InitLook("#004e66", "d", filled=False),
}
"""Fixed by control; those of another init than `video` are a little of that init's colour."""
HEADS = {"linear": "d", "attention": "p", "knn": "h"}
"""Markers of heads on frozen features, which have the colour of their init (`ctlib.models.weights.ablations`)."""
_OTHERS = ("#000000", "#7d5a00", "#b3446c", "#4a6b00", "#5f4ba8", "#00747d", "#9c2f2f", "#4d4d80")
_OTHER_MARKERS = ("v", "P", "X", "*", "<", ">", "p", "h")


def init_look(init: str) -> InitLook:
    """The look of an init: a function of its name alone, so that it is the same in every figure.

    Args:
        init: any name of an init, controls included; of nested controls the outermost decides.

    >>> init_look("video").colour, init_look("shuffled:video").colour, init_look("kinetics400+ct_lidc").marker
    ('#0072B2', '#85353f', 'X')
    """
    control, colon, base = init.partition(":")
    if colon and control in HEADS:
        return replace(init_look(base), marker=HEADS[control], filled=False)
    family = "first" if control.startswith("first_") else control
    if colon and family in CONTROLS:
        look = CONTROLS[family]
        return look if base == "video" else replace(look, colour=_mixed(look.colour, init_look(base).colour))
    if init in INITS:
        return INITS[init]
    if "+" in init:
        return INITS["both"]
    if init.startswith("ct_"):
        return INITS["ct"]
    place = zlib.crc32(init.encode())
    marker = _OTHER_MARKERS[place // len(_OTHERS) % len(_OTHER_MARKERS)]
    return InitLook(_OTHERS[place % len(_OTHERS)], marker)


def _mixed(colour: str, other: str, share: float = 0.3) -> str:
    """A colour with a share of another."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (
        (1 - share) * one + share * two for one, two in zip(to_rgb(colour), to_rgb(other), strict=True)
    )
    return to_hex((red, green, blue))


def init_looks(inits: Iterable[str]) -> dict[str, InitLook]:
    """`init_look` of each init, each once, in their order."""
    return {init: init_look(init) for init in dict.fromkeys(inits)}


def _parameters() -> dict[Any, Any]:
    import seaborn  # here: it brings all of scipy.stats, which the viewer in a page does not need

    return {
        **seaborn.axes_style("whitegrid"),
        "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
        "font.size": 10,
        "axes.labelsize": 10,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#bbbbbb",
        "grid.color": "#e6e6e6",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.6,
        "svg.fonttype": "path",  # no font of the reader's machine moves a label
        "svg.hashsalt": "ctlib",  # the same bytes each time
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
    }


def style() -> AbstractContextManager[None]:
    """A context in which figures have the look; nothing global changes."""
    import matplotlib

    return matplotlib.rc_context(_parameters())


P = ParamSpec("P")
R = TypeVar("R")
FIGURES: dict[str, Callable[..., Any]] = {}
"""Every figure by its name, where its module was imported; `ctlib.visualization.figures` imports all."""


def styled(plot: Callable[P, R]) -> Callable[P, R]:
    """A figure function that draws inside `style`, and is one of `FIGURES`."""

    @functools.wraps(plot)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with style():
            return plot(*args, **kwargs)

    FIGURES[plot.__name__] = inside
    return inside


def panels(n_rows: int, n_columns: int, height: float, width: float = WIDTH) -> tuple[Figure, np.ndarray]:
    """A figure of equal panels that share their x and y ranges, without pyplot's global state.

    Args:
        n_rows: rows of panels.
        n_columns: columns of panels.
        height: of the figure, inches.
        width: of the figure, inches.

    Returns:
        The figure, and the axes `[n_rows, n_columns]`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)


def key(figure: Figure, looks: dict[str, InitLook]) -> None:
    """The inits by name, in their colours, above the panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, markerfacecolor=face(look), label=init)
        for init, look in looks.items()
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=len(handles),
            frameon=False,
            labelcolor=[look.colour for look in looks.values()],
        )


def face(look: InitLook) -> str:
    """Colour that fills the marker."""
    return look.colour if look.filled else "white"


def note(axes: Axes, text: str) -> None:
    """A line of small print at the bottom of a panel: what is missing there."""
    axes.text(
        *(0.03, 0.04, text),
        transform=axes.transAxes,
        fontsize=9,
        color=WARNING,
        va="bottom",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
        zorder=10,
    )


def signed(value: float, decimals: int) -> str:
    """A difference with its sign, and a minus as wide as the plus.

    >>> signed(-0.0312, 2), signed(0.2, 3)
    ('−0.03', '+0.200')
    """
    return f"{value:+.{decimals}f}".replace("-", "−")


def percent(fraction: float) -> str:
    """A share as people read it.

    >>> percent(0.25), percent(0.125)
    ('25 %', '12.5 %')
    """
    return f"{100 * fraction:g} %"


def auroc_limits(*columns: Sequence[float] | pd.Series) -> tuple[float, float]:
    """One y range for all panels: from the step of 0.1 below the lowest value to 1, and a rim.

    >>> auroc_limits([0.72, float("nan")], [0.9])
    (0.68, 1.02)
    """
    values = np.concatenate([np.asarray(column, dtype=np.float64).ravel() for column in columns])
    values = values[np.isfinite(values)]
    low = min(float(values.min()), 0.9) if len(values) else 0.4
    return round(float(np.floor(low * 10 + 1e-9) / 10) - 0.02, 2), 1.02
