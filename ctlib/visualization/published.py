"""Published cells in pictures: the differences of two arms network by network, and all cells at a glance."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ctlib.core import word
from ctlib.visualization.style import FAINT, INK, WIDTH, init_look, panels, percent, signed, styled

AT_CHANCE = 0.5


@styled
def published_forest(
    pairs: pd.DataFrame, effects: pd.DataFrame, what: str, colour_of: str, margin: float
) -> Figure:
    """Differences of two arms, one panel a task: a dot a network, the mean with its interval below.

    Networks have no interval of their own here: what is printed of each arm does not give one of the
    difference. A dot is hollow where a cell of the pair reaches chance.

    Args:
        pairs: columns task, fraction, network, effect, both_learned (`ctlib.analysis.published.pairs`).
        effects: columns task, fraction, effect, low, high, low_next, high_next, word.
        what: is subtracted from what.
        colour_of: the arm whose colour the figure has.
        margin: a band of differences that would not matter.
    """
    places = list(effects[["task", "fraction"]].itertuples(index=False, name=None))
    colour = init_look(colour_of).colour
    figure, axes = panels(1, 1, 0.9 + 0.62 * len(places), 0.86 * WIDTH)
    ax = axes[0, 0]
    ax.axvspan(-margin, margin, color="#f0f0f0", linewidth=0, zorder=0)
    ax.axvline(0, color=INK, linewidth=1)
    for y, (task, fraction) in enumerate(places):
        dots = pairs[(pairs["task"] == task) & (pairs["fraction"] == fraction)]
        for hollow in (True, False):
            some = dots[dots["both_learned"] != hollow]
            ax.scatter(
                some["effect"], [y - 0.22] * len(some), s=30, edgecolors=colour, linewidths=1.2, zorder=3,
                facecolors="white" if hollow else colour,
            )  # fmt: skip
        row = effects[(effects["task"] == task) & (effects["fraction"] == fraction)].iloc[0]
        ax.plot([row["low_next"], row["high_next"]], [y + 0.16] * 2, color=FAINT, linewidth=0.8)
        ax.plot([row["low"], row["high"]], [y + 0.16] * 2, color=colour, linewidth=2.4)
        ax.plot(row["effect"], y + 0.16, "D", color=colour, markersize=7)
        told = f"{signed(row['effect'], 3)} ({signed(row['low'], 3)} to {signed(row['high'], 3)})  {word(row['word'])}"
        ax.text(1.02, y, told, transform=ax.get_yaxis_transform(), va="center", fontsize=9.5)
    ax.set(yticks=range(len(places)), ylim=(len(places) - 0.5, -0.6))
    ax.set_yticklabels([f"{task}, {percent(fraction)}" for task, fraction in places])
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"difference in test AUROC: {what}")
    return figure


@styled
def published_cells(cells: pd.DataFrame) -> Figure:
    """All cells as colours: a row a network, a column an arm, in blocks of a task and fraction.

    Blue is above chance, the darker the higher; a cell whose interval reaches chance is white with grey figures.
    A cell that was not printed is left out.

    Args:
        cells: columns network, arm, task, fraction, auc, low (`ctlib.analysis.published.read`).
    """
    networks, arms = list(dict.fromkeys(cells["network"])), list(dict.fromkeys(cells["arm"]))
    blocks = list(dict.fromkeys(cells[["task", "fraction"]].itertuples(index=False, name=None)))
    columns = [
        (block, arm)
        for block in blocks
        for arm in arms
        if len(cells[(cells["task"] == block[0]) & (cells["fraction"] == block[1]) & (cells["arm"] == arm)])
    ]
    figure, axes = panels(1, 1, 1.5 + 0.3 * len(networks), WIDTH)
    ax = axes[0, 0]
    for row in cells.itertuples():
        x, y = columns.index(((row.task, row.fraction), row.arm)), networks.index(row.network)
        none = row.low <= AT_CHANCE
        depth = float(np.clip((row.auc - AT_CHANCE) / 0.42, 0, 1))
        colour = "white" if none else tuple(np.array([1, 1, 1]) - depth * np.array([0.95, 0.55, 0.3]))
        ax.add_patch(
            Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="#dddddd", linewidth=0.6)
        )
        ink = FAINT if none else ("white" if depth > 0.6 else INK)
        ax.text(x, y, f"{row.auc:.2f}".lstrip("0"), ha="center", va="center", fontsize=8, color=ink)
    for block in blocks:
        first = next(i for i, (place, _) in enumerate(columns) if place == block)
        ax.text(first - 0.45, -0.75, f"{block[0]}, {percent(block[1])}", fontsize=9.5, va="bottom")
        ax.axvline(first - 0.5, color=INK, linewidth=0.8)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(networks) - 0.5, -0.5), yticks=range(len(networks)))
    ax.set_yticklabels(networks)
    ax.set_xticks(range(len(columns)), [arm for _, arm in columns], rotation=60, ha="right", fontsize=8.5)
    ax.grid(visible=False)
    return figure
