"""How often the analysis sees an effect, by its size."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ctlib.visualization.figures.style import FAINT, INK, TWO_COLUMNS, note, panels, percent, styled

LOOKS = ((INK, "o"), (FAINT, "s"))
"""Colour and marker of the mean over networks, and of one network."""
DASHES = (0, (4, 3))


@styled
def injected(table: pd.DataFrame) -> Figure:
    """Share of comparisons that show an effect, by its size; a row of panels is a task, a column a fraction.

    Args:
        table: result of `metrics.injected`.
    """
    tasks, fractions = list(table["task"].unique()), sorted(table["fraction"].unique())
    figure, axes = panels(len(tasks), len(fractions), 0.7 + 1.9 * len(tasks), TWO_COLUMNS)
    for i, task in enumerate(tasks):
        for ax, fraction in zip(axes[i], fractions, strict=True):
            part = table[(table["task"] == task) & (table["fraction"] == fraction)]
            groups = part.groupby("networks", sort=False)
            for (name, lines), (colour, marker) in zip(groups, LOOKS, strict=False):
                seeds = f"{name}, {lines['n_half'].iloc[0]} seeds a side"
                ax.plot(lines["shift"], 100 * lines["seen"], color=colour, marker=marker, label=seeds)
                every = f"all {lines['n_seeds'].iloc[0]} a side, expected"
                ax.plot(lines["shift"], 100 * lines["all_seeds"], color=colour, linestyle=DASHES, label=every)
            if part["seen"].isna().all():
                note(ax, "no comparison")
            if i == 0:
                ax.set_title(f"{percent(fraction)} of the training patients")
            ax.set_xticks(list(part["shift"].unique()))
        axes[i, 0].set_ylabel(f"{task}\nshown, of 100")
    axes[0, 0].set(ylim=(-4, 104))
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    figure.supxlabel("effect that was injected, AUROC", fontsize=10)
    return figure
