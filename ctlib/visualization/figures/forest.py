"""Forests: differences in AUROC with their intervals, line by line, one panel a task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ctlib.metrics import MEAN_OF
from ctlib.visualization.figures.style import (
    FAINT,
    INK,
    TWO_COLUMNS,
    WARNING,
    InitLook,
    face,
    init_look,
    panels,
    percent,
    signed,
    styled,
)

LINE = 0.235
"""Height of a line, inches."""


@styled
def effect_forest(effects: pd.DataFrame, margin: float = 0.0) -> Figure:
    """What an init gains in AUROC, network by network and averaged, with intervals.

    One panel a task, all with the same x range; networks grouped by fraction, their average
    as a diamond. The numbers stand beside; a row without a value says "no value".

    Args:
        effects: table `effects`, of one pair of inits; with a column `by_seed` ("0.01 -0.02 ...") each
            seed is a faint dot, with `low_mean` and `high_mean` the average has its wider interval too.
        margin: differences below it are of no consequence: a grey band; 0 draws none.

    Raises:
        ValueError: the table holds more than one pair of inits, or no row.
    """
    arms = effects[["baseline", "init"]].drop_duplicates()
    if len(arms) != 1:
        raise ValueError(f"effect_forest: {len(arms)} pairs of inits; give the rows of one pair.")
    baseline, init = arms.iloc[0]
    lines = effects.rename(columns={"backbone": "label"})
    is_mean = lines["label"].str.startswith(MEAN_OF)
    lines = pd.concat([lines[~is_mean], lines[is_mean]])
    return _forest(lines.assign(bold=lines["label"].str.startswith(MEAN_OF)), f"{init} − {baseline}", margin)


@styled
def contrast_forest(contrasts: pd.DataFrame, what: str, margin: float = 0.0) -> Figure:
    """Differences in AUROC between groups of arms, with intervals, one line a comparison.

    Args:
        contrasts: columns task, fraction, label (of the line), init (whose colour it has), effect, low,
            high, n_patients, n_positive; `by_seed`, `low_mean` and `high_mean` as for `effect_forest`.
        what: is subtracted from what.
        margin: see `effect_forest`.
    """
    return _forest(contrasts, what, margin)


def _forest(table: pd.DataFrame, what: str, margin: float) -> Figure:
    tasks, lines = list(table["task"].unique()), _lines(table)
    width = TWO_COLUMNS if len(tasks) > 1 else 0.75 * TWO_COLUMNS
    figure, axes = panels(1, len(tasks), 0.95 + LINE * len(lines), width)
    for ax, task in zip(axes[0], tasks, strict=True):
        part = table[table["task"] == task]
        if margin:
            ax.axvspan(-margin, margin, color="#f0f0f0", linewidth=0, zorder=0)
        for y, (fraction, label) in enumerate(lines):
            for row in part[(part["fraction"] == fraction) & (part["label"] == label)].itertuples():
                _line(ax, row, y)
        n, sick = part["n_patients"].iloc[0], part["n_positive"].iloc[0]
        ax.set_title(f"{task}\n{n} test patients, {sick} with disease", linespacing=1.3, fontsize=10)
        ax.axvline(0, color=INK, linewidth=1)
        ax.grid(axis="y", visible=False)
    figure.supxlabel(f"difference in test AUROC: {what}", fontsize=10)
    bold = {row.label for row in table.itertuples() if getattr(row, "bold", False)}
    for y, (fraction, label) in enumerate(lines):
        name = label or f"{percent(fraction)} of the patients"
        _beside(axes[0, 0], -0.03, y, name, INK if label else FAINT, label in bold)
    axes[0, 0].set(xlim=_range(table), ylim=(len(lines) - 0.4, -0.6), yticks=[])
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes[0, 0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", "−")))
    return figure


def _lines(table: pd.DataFrame) -> list[tuple[float, str]]:
    """The lines of every panel: a fraction's heading (no label), then its lines."""
    lines = []
    for fraction, part in table.groupby("fraction"):
        lines += [(float(str(fraction)), label) for label in ["", *part["label"].unique()]]
    return lines


def _seeds(row: Any) -> list[float]:
    """What each seed gave, of a row with a column `by_seed`."""
    return [float(value) for value in str(getattr(row, "by_seed", "")).split()]


def _range(table: pd.DataFrame) -> tuple[float, float]:
    """The x range that holds 0, all intervals and all seeds, and a rim."""
    columns = [name for name in ("effect", "low", "high", "low_mean", "high_mean") if name in table]
    ends = table[columns].to_numpy(np.float64, na_value=np.nan).ravel()
    values = np.r_[-0.02, 0.02, ends[np.isfinite(ends)], *(_seeds(row) for row in table.itertuples())]
    rim = 0.05 * float(values.max() - values.min())
    return float(values.min()) - rim, float(values.max()) + rim


def _beside(ax: Axes, x: float, y: float, text: str, colour: str, bold: bool = False) -> None:
    """Words left (x below 0) or right (above 1) of a panel, at a height of its data."""
    ax.text(
        *(x, y, text),
        transform=ax.get_yaxis_transform(),
        ha="right" if x < 0 else "left",
        va="center",
        fontsize=9,
        color=colour,
        weight="bold" if bold else "normal",
    )


def _line(ax: Axes, row: Any, y: float) -> None:
    """Seeds, intervals and the effect, and their numbers on the right."""
    look, bold = init_look(row.init), bool(getattr(row, "bold", False))
    if pd.isna(row.effect):
        _beside(ax, 1.02, y, "no value", WARNING)
        return
    seeds = _seeds(row)
    ax.plot(seeds, np.full(len(seeds), y - 0.3), ".", color=look.colour, alpha=0.45, markersize=4)
    ends = "no interval" if pd.isna(row.low) else f"{signed(row.low, 2)} to {signed(row.high, 2)}"
    _beside(ax, 1.02, y, f"{signed(row.effect, 2)} ({ends})", INK, bold)
    wide = [getattr(row, name, np.nan) for name in ("low_mean", "high_mean")]
    if not pd.isna(wide[0]):
        ax.plot(wide, [y, y], color=look.colour, linewidth=1, marker="|", markersize=6)
    if not pd.isna(row.low):
        ax.plot([row.low, row.high], [y, y], color=look.colour, linewidth=3 if bold else 1.8)
    _marker(ax, row.effect, y, look, bold)


def _marker(ax: Axes, x: float, y: float, look: InitLook, bold: bool) -> None:
    ax.plot(
        [x], [y], marker="D" if bold else look.marker, color=look.colour, markerfacecolor=face(look),
        markersize=7 if bold else 5.5,
    )  # fmt: skip


@styled
def beside_chance(table: pd.DataFrame) -> Figure:
    """AUROCs with intervals beside chance, one line a control, one panel a task.

    Args:
        table: columns task, label, init (may be empty), auroc, low and high; of rows with a value in column
            `chance`, low and high are the ends of what chance gives, and are drawn as a grey bar.
    """
    tasks, labels = list(table["task"].unique()), list(table["label"].unique())
    width = TWO_COLUMNS if len(tasks) > 1 else 0.75 * TWO_COLUMNS
    figure, axes = panels(1, len(tasks), 0.8 + LINE * len(labels), width)
    for ax, task in zip(axes[0], tasks, strict=True):
        for row in table[table["task"] == task].to_dict("records"):
            _chance_line(ax, labels.index(row["label"]), row)
        ax.axvline(0.5, color=INK, linewidth=1)
        ax.set_title(task)
        ax.grid(axis="y", visible=False)
    for y, label in enumerate(labels):
        _beside(axes[0, 0], -0.03, y, label, INK)
    axes[0, 0].set(xlim=_auroc_range(table), ylim=(len(labels) - 0.4, -0.6), yticks=[])
    figure.supxlabel("AUROC (line: chance)", fontsize=10)
    return figure


def _auroc_range(table: pd.DataFrame) -> tuple[float, float]:
    values = table[["auroc", "low", "high"]].to_numpy(np.float64, na_value=np.nan).ravel()
    values = np.r_[0.4, 0.6, values[np.isfinite(values)]]
    return float(values.min()) - 0.03, float(values.max()) + 0.03


def _chance_line(ax: Axes, y: int, row: dict[str, Any]) -> None:
    if pd.isna(row["auroc"]):
        _beside(ax, 1.02, y, "no value", WARNING)
        return
    init = row.get("init")
    look = init_look(init) if isinstance(init, str) else InitLook(INK, "s")
    is_chance = not pd.isna(row.get("chance", np.nan))
    if not pd.isna(row["low"]):
        colour = "#bbbbbb" if is_chance else look.colour
        ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=5 if is_chance else 1.8)
    _marker(ax, row["auroc"], y, look, False)
    _beside(ax, 1.02, y, f"{row['auroc']:.2f}", INK)
