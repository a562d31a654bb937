"""The effect of an init in subgroups of exams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctlib.visualization.figures.style import FAINT, INK, WIDTH, init_looks, signed, styled

WHOLE = "all exams"


@styled
def subgroup_forest(table: pd.DataFrame, whole: pd.DataFrame, init: str) -> Figure:
    """The effect in each subgroup with its interval, and on top that of all exams, which no group replaces.

    One panel a task, all with the same x range. A group whose interaction stays below 5 % after Holm's
    correction is bold and has an asterisk; one that is too small says so. Beside each stand the effect and
    its patients, with disease of all.

    Args:
        table: result of `subgroups.subgroup_effects`.
        whole: rows of table `effects` of the same networks' mean and fraction, one a task; may be empty.
        init: that is looked at; its colour.
    """
    names = list(table["task"].unique())
    lines = {name: _lines(table[table["task"] == name], whole[whole["task"] == name]) for name in names}
    n_lines = max((len(rows) for rows in lines.values()), default=1)
    figure = Figure(figsize=(WIDTH, 1.1 + 0.24 * n_lines), layout="constrained")
    axes = figure.subplots(1, max(len(names), 1), squeeze=False, sharex=True)[0]
    colour = init_looks([init])[init].colour
    for ax, name in zip(axes, names, strict=False):
        for y, row in enumerate(lines[name]):
            _line(ax, y, row, colour)
        ax.set(ylim=(n_lines - 0.4, -0.6), title=name)
        ax.set_yticks(range(len(lines[name])), [row["label"] for row in lines[name]], fontsize=8.5)
        for words, row in zip(ax.get_yticklabels(), lines[name], strict=True):
            words.set_weight("bold" if row["bold"] else "normal")
        ax.grid(axis="y", visible=False)
        ax.axvline(0, color=INK, linewidth=1)
        ax.tick_params(axis="y", length=0)
    axes[0].set_xlim(*_limits(table, whole))
    words = "with its interval; in numbers: the effect, and patients with disease of all patients"
    figure.supxlabel(f"effect of {init} on the AUROC, {words}", fontsize=9, color=FAINT)
    return figure


def _lines(table: pd.DataFrame, whole: pd.DataFrame) -> list[dict[str, Any]]:
    """What is drawn, from top to bottom: all exams, then each trait's name and its groups."""
    lines = [row | {"label": WHOLE, "bold": True} for row in whole.head(1).to_dict("records")]
    for by, part in table.groupby("by", sort=False):
        lines.append({"label": str(by), "bold": True})
        for row in part.to_dict("records"):
            apart = row["p_holm"] < 0.05
            lines.append(row | {"label": f"{row['group']}{' *' if apart else ''}", "bold": apart})
    return lines


def _line(ax: Axes, y: int, row: dict[str, Any], colour: str) -> None:
    """An effect with its interval and its patients, or why there is none."""
    if "effect" not in row:
        return
    if np.isnan(row["effect"]):
        why = "too few patients" if "are needed" in row["reason"] else "no value"
        ax.text(0.02, y, why, transform=ax.get_yaxis_transform(), va="center", fontsize=8, color=FAINT)
        return
    is_whole = row["label"] == WHOLE
    if not np.isnan(row["low"]):
        ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.4 if is_whole else 1.6)
    ax.plot([row["effect"]], [y], marker="D" if is_whole else "o", color=colour, markersize=6)
    text = f"{signed(row['effect'], 2)}  {row['n_positive']:.0f} of {row['n_patients']:.0f}"
    ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8)


def _limits(table: pd.DataFrame, whole: pd.DataFrame) -> tuple[float, float]:
    """One x range that holds all intervals and 0."""
    ends = [part[["effect", "low", "high"]].to_numpy(np.float64).ravel() for part in (table, whole)]
    values = np.concatenate(ends)
    values = values[np.isfinite(values)]
    low, high = min([*values, -0.05]), max([*values, 0.05])
    rim = 0.04 * (high - low)
    return low - rim, high + rim
