"""Effects on AUROC with their intervals: forests, by fraction, in subgroups, injected; and AUROC beside chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ctlib.metrics import MEAN_OF
from ctlib.visualization.style import (
    DASHES,
    FAINT,
    INK,
    TWO_COLUMNS,
    WARNING,
    WIDTH,
    InitLook,
    face,
    init_look,
    init_looks,
    note,
    panels,
    percent,
    signed,
    styled,
)

LINE = 0.235
"""Height of a line, inches."""
FAINTNESS = 0.45
"""Opacity of single networks beside their mean."""


@styled
def effect_forest(effects: pd.DataFrame, margin: float = 0.0) -> Figure:
    """What an init gains in AUROC, network by network and averaged, with intervals.

    One panel a task, all with the same x range; networks grouped by fraction, faint where their average,
    a diamond, is there. The numbers stand beside; a row without a value says "no value".

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
    lines = lines.assign(bold=is_mean) if is_mean.any() else lines
    return _forest(lines, f"{init} − {baseline}", margin, WIDTH)


@styled
def contrast_forest(contrasts: pd.DataFrame, what: str, margin: float = 0.0) -> Figure:
    """Differences in AUROC between groups of arms, with intervals, one line a comparison.

    Args:
        contrasts: columns task, fraction, label (of the line), init (whose colour it has), effect, low,
            high, n_patients, n_positive; `by_seed`, `low_mean` and `high_mean` as for `effect_forest`.
        what: is subtracted from what.
        margin: see `effect_forest`.
    """
    width = TWO_COLUMNS if contrasts["task"].nunique() > 1 else 0.75 * TWO_COLUMNS
    return _forest(contrasts, what, margin, width)


def _forest(table: pd.DataFrame, what: str, margin: float, width: float) -> Figure:
    tasks, lines = list(table["task"].unique()), _lines(table)
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
    bold = set(table.loc[table["bold"], "label"]) if "bold" in table else set()
    for y, (fraction, label) in enumerate(lines):
        name = label or f"{percent(fraction)} of the patients"
        faint = not label or (bold and label not in bold)
        _beside(axes[0, 0], -0.03, y, name, FAINT if faint else INK, label in bold)
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
    """Seeds, intervals and the effect, and their numbers on the right; faint beside a bold line."""
    look, bold = init_look(row.init), bool(getattr(row, "bold", False))
    alpha = 1.0 if bold or not hasattr(row, "bold") else FAINTNESS
    if pd.isna(row.effect):
        _beside(ax, 1.02, y, "no value", WARNING)
        return
    seeds = _seeds(row)
    ax.plot(seeds, np.full(len(seeds), y - 0.3), ".", color=look.colour, alpha=0.45 * alpha, markersize=4)
    ends = "no interval" if pd.isna(row.low) else f"{signed(row.low, 2)} to {signed(row.high, 2)}"
    _beside(ax, 1.02, y, f"{signed(row.effect, 2)} ({ends})", INK if alpha == 1 else FAINT, bold)
    wide = [getattr(row, name, np.nan) for name in ("low_mean", "high_mean")]
    if not pd.isna(wide[0]):
        ax.plot(wide, [y, y], color=look.colour, linewidth=1, marker="|", markersize=6, alpha=alpha)
    if not pd.isna(row.low):
        ax.plot([row.low, row.high], [y, y], color=look.colour, linewidth=3 if bold else 1.8, alpha=alpha)
    _marker(ax, row.effect, y, look, bold, alpha)


def _marker(ax: Axes, x: float, y: float, look: InitLook, bold: bool, alpha: float = 1.0) -> None:
    ax.plot(
        [x], [y], marker="D" if bold else look.marker, color=look.colour, markerfacecolor=face(look),
        markersize=7 if bold else 5.5, alpha=alpha,
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
    lines = {
        name: _subgroup_lines(table[table["task"] == name], whole[whole["task"] == name]) for name in names
    }
    n_lines = max((len(rows) for rows in lines.values()), default=1)
    figure = Figure(figsize=(WIDTH, 1.1 + 0.24 * n_lines), layout="constrained")
    axes = figure.subplots(1, max(len(names), 1), squeeze=False, sharex=True)[0]
    colour = init_looks([init])[init].colour
    for ax, name in zip(axes, names, strict=False):
        for y, row in enumerate(lines[name]):
            _subgroup_line(ax, y, row, colour)
        ax.set(ylim=(n_lines - 0.4, -0.6), title=name)
        ax.set_yticks(range(len(lines[name])), [row["label"] for row in lines[name]], fontsize=8.5)
        for words, row in zip(ax.get_yticklabels(), lines[name], strict=True):
            words.set_weight("bold" if row["bold"] else "normal")
        ax.grid(axis="y", visible=False)
        ax.axvline(0, color=INK, linewidth=1)
        ax.tick_params(axis="y", length=0)
    axes[0].set_xlim(*_subgroup_limits(table, whole))
    words = "with its interval; in numbers: the effect, and patients with disease of all patients"
    figure.supxlabel(f"effect of {init} on the AUROC, {words}", fontsize=9, color=FAINT)
    return figure


def _subgroup_lines(table: pd.DataFrame, whole: pd.DataFrame) -> list[dict[str, Any]]:
    """What is drawn, from top to bottom: all exams, then each trait's name and its groups."""
    lines = [row | {"label": WHOLE, "bold": True} for row in whole.head(1).to_dict("records")]
    for by, part in table.groupby("by", sort=False):
        lines.append({"label": str(by), "bold": True})
        for row in part.to_dict("records"):
            apart = row["p_holm"] < 0.05
            lines.append(row | {"label": f"{row['group']}{' *' if apart else ''}", "bold": apart})
    return lines


def _subgroup_line(ax: Axes, y: int, row: dict[str, Any], colour: str) -> None:
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


def _subgroup_limits(table: pd.DataFrame, whole: pd.DataFrame) -> tuple[float, float]:
    """One x range that holds all intervals and 0."""
    ends = [part[["effect", "low", "high"]].to_numpy(np.float64).ravel() for part in (table, whole)]
    values = np.concatenate(ends)
    values = values[np.isfinite(values)]
    low, high = min([*values, -0.05]), max([*values, 0.05])
    rim = 0.04 * (high - low)
    return low - rim, high + rim


LOOKS = ((INK, "o"), (FAINT, "s"))
"""Colour and marker of the mean over networks, and of one network."""


@styled
def injected(table: pd.DataFrame) -> Figure:
    """Share of comparisons that show an effect, by its size; a row of panels is a task, a column a fraction.

    Args:
        table: result of `stats.injected`.
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


@styled
def effect_by_fraction(effects: pd.DataFrame) -> Figure:
    """The averaged effect by number of training exams, one panel a task.

    Args:
        effects: columns task, fraction, init, baseline, effect, low, high, n_exams, by_seed and margin; rows
            without a number of exams stand at their fraction of the largest.
    """
    tasks = list(effects["task"].unique())
    figure, axes = panels(1, len(tasks), 2.7, TWO_COLUMNS if len(tasks) > 1 else 0.6 * TWO_COLUMNS)
    for ax, (task, part) in zip(axes[0], effects.groupby("task", sort=False), strict=True):
        look = init_look(part["init"].iloc[0])
        places = np.arange(len(part), dtype=float)
        _band(ax, float(part["margin"].iloc[0]))
        for x, row in zip(places, part.sort_values("fraction").itertuples(), strict=True):
            seeds = [float(value) for value in row.by_seed.split()]
            ax.plot(np.full(len(seeds), x - 0.08), seeds, ".", color=look.colour, alpha=0.35, markersize=6)
            if pd.isna(row.effect):
                ax.text(x, 0, "no value", ha="center", va="bottom", fontsize=9, color=WARNING)
            elif pd.isna(row.low):
                ax.plot([x], [row.effect], look.marker, color=look.colour, markerfacecolor=face(look))
            else:
                ends = [[row.effect - row.low], [row.high - row.effect]]
                ax.errorbar([x], [row.effect], ends, fmt=look.marker, color=look.colour, markersize=7)
        ax.axhline(0, color=INK, linewidth=1)
        ax.set_title(f"{task}\n{part['n_patients'].iloc[0]} test patients", linespacing=1.3)
        exams = [_share(row) for row in part.sort_values("fraction").itertuples()]
        ax.set_xticks(places, exams)
        ax.set_xlim(-0.5, len(part) - 0.5)
        ax.grid(axis="x", visible=False)
    first = effects.iloc[0]
    axes[0, 0].set_ylabel(f"difference in test AUROC:\n{first['init']} − {first['baseline']}")
    figure.supxlabel("share of the training patients", fontsize=10)
    return figure


def _share(row: Any) -> str:
    exams = "" if pd.isna(row.n_exams) else f"\n{row.n_exams:,.0f} exams"
    return percent(row.fraction) + exams


def _band(ax: Axes, margin: float) -> None:
    """Differences of no consequence."""
    if margin:
        ax.axhspan(-margin, margin, color="#f0f0f0", linewidth=0, zorder=0)
