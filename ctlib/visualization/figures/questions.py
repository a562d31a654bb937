"""Figures of the questions that are no forests: by number of exams, by epoch, by cost, and calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from scipy.special import stdtrit

from ctlib.visualization.figures.style import (
    FAINT,
    INK,
    TWO_COLUMNS,
    WARNING,
    auroc_limits,
    face,
    init_look,
    note,
    panels,
    percent,
    styled,
)
from ctlib.visualization.figures.training_curves import spread

DASHES = (0, (4, 3))


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


@styled
def speed(curves: pd.DataFrame, runs: pd.DataFrame, inits: Sequence[str], target: float) -> Figure:
    """Validation AUROC by epoch, mean over networks and seeds, every run a faint line.

    A row of panels is a task, a column a fraction; the inits are named at the end of their lines. The
    interval is Student's, 95 %, over runs.

    Args:
        curves: table `curves`.
        runs: rows of table `runs`.
        inits: inits that are drawn.
        target: validation AUROC that is to be reached.
    """
    tasks, fractions = list(runs["task"].unique()), sorted(runs["fraction"].unique())
    figure, axes = panels(len(tasks), len(fractions), 0.5 + 2.0 * len(tasks), TWO_COLUMNS)
    last = int(curves["epoch"].max()) if len(curves) else 1
    for i, task in enumerate(tasks):
        for j, fraction in enumerate(fractions):
            ax, ends, absent = axes[i, j], {}, 0
            here = runs[(runs["task"] == task) & (runs["fraction"] == fraction)]
            for init in inits:
                own = here[here["init"] == init]
                wide = _by_epoch(curves, own["run_id"])
                absent += len(own) - wide.shape[1]
                if wide.shape[1]:
                    ends[init] = _mean_line(ax, wide, init_look(init).colour)
            ax.axhline(target, color=FAINT, linewidth=1, linestyle=DASHES)
            if absent:
                note(ax, f"{absent} of {len(here[here['init'].isin(inits)])} runs missing")
            for (init, _), y in zip(ends.items(), spread(list(ends.values()), 0.06), strict=True):
                behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
                ax.text(
                    last * 1.04, y, init, color=init_look(init).colour, va="center", fontsize=9, bbox=behind
                )
            if i == 0:
                ax.set_title(f"{percent(fraction)} of the training patients")
        axes[i, 0].set_ylabel(f"{task}\nvalidation AUROC")
    step = max(1, math.ceil(last / 8))
    axes[0, 0].set(xlim=(1 - 0.05 * last, last * 1.32), ylim=auroc_limits(curves["val_auroc"].astype(float)))
    axes[0, 0].set_xticks(range(1, last + 1, step))
    figure.supxlabel("epoch", fontsize=10)
    return figure


def _by_epoch(curves: pd.DataFrame, run_ids: pd.Series) -> pd.DataFrame:
    """Validation AUROC, a row an epoch and a column a run; a run that stopped keeps its last value."""
    own = curves[curves["run_id"].isin(run_ids)]
    wide = own.astype({"val_auroc": float}).pivot(index="epoch", columns="run_id", values="val_auroc")
    return wide.ffill().dropna(axis=1, how="all")


def _mean_line(ax: Axes, wide: pd.DataFrame, colour: str) -> float:
    """Runs, their mean and its interval; returns where the mean ends."""
    n = wide.notna().sum(axis=1)
    mean, spread_of = wide.mean(axis=1), wide.std(axis=1, ddof=1)
    half = stdtrit(np.maximum(n - 1, 1), 0.975) * spread_of / np.sqrt(n)
    ax.plot(wide.index, wide.to_numpy(), color=colour, alpha=0.13, linewidth=0.8)
    ax.fill_between(wide.index, mean - half, mean + half, color=colour, alpha=0.22, linewidth=0)
    ax.plot(wide.index, mean, color=colour, linewidth=2)
    return float(mean.iloc[-1])


MEASURES = {
    "multiply_adds_g": "G multiply-adds a clip",
    "seconds": "seconds a run",
    "kept_mb": "MB kept of a clip",
}
"""What a network costs, by column."""


@styled
def auroc_by_cost(table: pd.DataFrame) -> Figure:
    """Test AUROC by what a network costs; a row of panels is a task, a column a cost.

    A network is named once a row, on the right, at the height of its best arm.

    Args:
        table: columns task, backbone, init, auroc, low, high, by_seed and those of `MEASURES`; costs that are
            known of no network have no panel.
    """
    known = [name for name in MEASURES if table[name].notna().any()] or ["seconds"]
    tasks = list(table["task"].unique())
    figure = Figure(figsize=(TWO_COLUMNS, 0.6 + 2.6 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), len(known), squeeze=False, sharex="col", sharey=True)
    limits = auroc_limits(table["auroc"], table["low"])
    for i, task in enumerate(tasks):
        part = table[(table["task"] == task) & table["auroc"].notna()]
        for ax, name in zip(axes[i], known, strict=True):
            for row in part[part[name].notna()].itertuples():
                _costed(ax, row, float(getattr(row, name)))
            _log_scale(ax)
            if i == len(tasks) - 1:
                ax.set_xlabel(MEASURES[name])
        axes[i, 0].set_ylabel(f"{task}\ntest AUROC")
        best = part.loc[part.groupby("backbone")["auroc"].idxmax()]
        heights = spread(best["auroc"].tolist(), 0.072 * (limits[1] - limits[0]))
        for row, y in zip(best.itertuples(), heights, strict=True):
            axes[i, -1].annotate(
                row.backbone, (1.0, row.auroc), (1.08, y), xycoords=("axes fraction", "data"),
                textcoords=("axes fraction", "data"), fontsize=9, va="center",
                arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.7, "shrinkA": 0},
            )  # fmt: skip
    axes[0, 0].set_ylim(*limits)
    for k, init in enumerate(table["init"].unique()):
        words = f"{'●' if init_look(init).filled else '○'} {init}"
        axes[0, 0].text(
            0.02 + 0.5 * k,
            1.03,
            words,
            color=init_look(init).colour,
            transform=axes[0, 0].transAxes,
            fontsize=9.5,
        )
    return figure


def _log_scale(ax: Axes) -> None:
    """A logarithmic x axis whose few ticks are plain numbers."""
    ax.set_xscale("log")
    low, high = (float(value) for value in ax.get_xlim())
    low, high = min(low, high / 2.6), max(high, low * 2.6)  # at least one of 1, 2, 5 lies well inside
    steps = (1, 2, 5) if high / low < 30 else (1,)
    ax.xaxis.set_major_locator(LogLocator(subs=steps))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(low, high)


def _costed(ax: Axes, row: Any, x: float) -> None:
    look = init_look(row.init)
    seeds = [float(value) for value in row.by_seed.split()]
    ax.plot(np.full(len(seeds), x), seeds, ".", color=look.colour, alpha=0.35, markersize=5)
    if pd.notna(row.low):
        ax.plot([x, x], [row.low, row.high], color=look.colour, linewidth=1, alpha=0.5)
    ax.plot([x], [row.auroc], look.marker, color=look.colour, markerfacecolor=face(look), markersize=5.5)


@styled
def calibration(reliability: pd.DataFrame, decision: pd.DataFrame) -> Figure:
    """Reliability above, decision curves below; a column of panels is a task, inits are named in the first.

    Args:
        reliability: columns task, init, score, observed, low, high.
        decision: columns task, init, threshold, net_benefit, low, high, treat_all.
    """
    tasks = list(reliability["task"].unique())
    figure = Figure(
        figsize=(TWO_COLUMNS if len(tasks) > 1 else 0.55 * TWO_COLUMNS, 5.2), layout="constrained"
    )
    axes = figure.subplots(2, len(tasks), squeeze=False, sharey="row", sharex=True)
    for above, below, task in zip(axes[0], axes[1], tasks, strict=True):
        above.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=DASHES)
        for init, part in reliability[reliability["task"] == task].groupby("init", sort=False):
            look = init_look(str(init))
            ends = [part["observed"] - part["low"], part["high"] - part["observed"]]
            above.errorbar(
                part["score"], part["observed"], ends, color=look.colour, marker=look.marker,
                markerfacecolor=face(look), markersize=5, elinewidth=1, linewidth=1.4,
            )  # fmt: skip
        curves = decision[decision["task"] == task]
        for init, part in curves.groupby("init", sort=False):
            colour = init_look(str(init)).colour
            below.fill_between(
                part["threshold"], part["low"], part["high"], color=colour, alpha=0.18, linewidth=0
            )
            below.plot(part["threshold"], part["net_benefit"], color=colour)
        everybody = curves.drop_duplicates("threshold")
        below.plot(everybody["threshold"], everybody["treat_all"], color=FAINT, linewidth=1, linestyle=DASHES)
        below.axhline(0, color=INK, linewidth=1)
        above.set_title(task)
        above.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="mean score of the bin")
        above.xaxis.set_tick_params(labelbottom=True)
        below.set_xlabel("threshold of the score")
    top = float(np.nanmax([0.1, *decision["high"]]))
    axes[1, 0].set_ylim(-0.35 * top, 1.1 * top)
    axes[0, 0].set_ylabel("share with disease")
    axes[1, 0].set_ylabel("net benefit")
    for k, init in enumerate(reliability["init"].unique()):
        words = f"{'●' if init_look(init).filled else '○'} {init}"
        axes[0, 0].text(0.03, 0.93 - 0.1 * k, words, color=init_look(init).colour, fontsize=9.5)
    return figure
