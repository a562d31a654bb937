"""AUROC by fraction and by cost, calibration, and the scores of one exam."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ctlib.metrics import MEAN_OF
from ctlib.visualization.curves import spread
from ctlib.visualization.style import (
    DASHES,
    DISEASE,
    FAINT,
    INK,
    TWO_COLUMNS,
    WARNING,
    WIDTH,
    InitLook,
    auroc_limits,
    face,
    init_look,
    init_looks,
    key,
    note,
    panels,
    percent,
    styled,
)

MOST_COLUMNS = 5
"""Panels side by side across two printed columns; more networks go on below."""


@styled
def auroc_by_fraction(run_aurocs: pd.DataFrame, arm_aurocs: pd.DataFrame) -> Figure:
    """Test AUROC by share of training patients: every run a faint dot, the mean with its interval.

    A panel is a task and network; those of a task begin a new row, and all share one range. A mean
    that does not exist, because a run is missing, is left out and its panel says so.

    Args:
        run_aurocs: result of `stats.run_aurocs`.
        arm_aurocs: result of `stats.arm_aurocs`.
    """
    tasks, backbones = list(arm_aurocs["task"].unique()), list(arm_aurocs["backbone"].unique())
    fractions = sorted(arm_aurocs["fraction"].unique())
    n_wrapped = math.ceil(max(len(backbones), 1) / MOST_COLUMNS)
    n_columns = math.ceil(max(len(backbones), 1) / n_wrapped)
    n_rows = max(len(tasks), 1) * n_wrapped
    figure, axes = panels(n_rows, n_columns, 0.8 + 1.75 * n_rows, TWO_COLUMNS)
    looks = init_looks(arm_aurocs["init"])
    for i, task in enumerate(tasks):
        for j, backbone in enumerate(backbones):
            ax = axes[i * n_wrapped + j // n_columns, j % n_columns]
            dots = run_aurocs[(run_aurocs["task"] == task) & (run_aurocs["backbone"] == backbone)]
            means = arm_aurocs[(arm_aurocs["task"] == task) & (arm_aurocs["backbone"] == backbone)]
            _arms(ax, dots, means, fractions, looks)
            ax.set_title(backbone, fontsize=9.5)
        for ax in axes[i * n_wrapped : (i + 1) * n_wrapped, 0]:
            ax.set_ylabel(f"{task}\ntest AUROC")
        for ax in axes[(i + 1) * n_wrapped - 1, (len(backbones) - 1) % n_columns + 1 :]:
            ax.set_visible(False)
    axes[0, 0].set_ylim(*auroc_limits(run_aurocs["auroc"], arm_aurocs["low"]))
    axes[0, 0].set(xlim=(-0.5, len(fractions) - 0.5), xticks=range(len(fractions)))
    for ax in axes[-1]:
        ax.set_xticklabels([percent(fraction) for fraction in fractions])
    figure.supxlabel("share of the training patients (dashed: chance)", fontsize=10)
    key(figure, looks)
    return figure


def _arms(
    ax: Axes, dots: pd.DataFrame, means: pd.DataFrame, fractions: list[float], looks: dict[str, InitLook]
) -> None:
    """One panel: inits side by side at each fraction."""
    place = {fraction: i for i, fraction in enumerate(fractions)}
    for k, (init, look) in enumerate(looks.items()):
        step = min(0.24, 0.8 / len(looks))
        shift = (k - (len(looks) - 1) / 2) * step
        own = dots[dots["init"] == init]
        ax.plot(
            own["fraction"].map(place) + shift - 0.3 * step,
            own["auroc"],
            ".",
            color=look.colour,
            alpha=0.4,
            markersize=6,
        )
        mean = means[means["init"] == init].sort_values("fraction")
        x = mean["fraction"].map(place) + shift
        ax.plot(x, mean["auroc"], color=look.colour, linewidth=1.2, alpha=0.6)
        ends = np.abs(mean[["low", "high"]].sub(mean["auroc"], axis=0).to_numpy(np.float64)).T
        ax.errorbar(
            x,
            mean["auroc"],
            yerr=ends,
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            markerfacecolor=face(look),
            markersize=6,
            elinewidth=1.6,
        )
    ax.axhline(0.5, color=FAINT, linewidth=0.9, linestyle=DASHES)
    absent = int(dots["auroc"].isna().sum())
    if absent:
        note(ax, f"{absent} of {len(dots)} runs missing")


@styled
def clip_scores(clips: pd.DataFrame, title: str = "") -> Figure:
    """The score of each clip of one exam, along the patient.

    Args:
        clips: columns low_mm, high_mm (patient coordinate along Superior of the clip's ends, mm),
            score in [0, 1] and, where it is known, label (1 = disease).
        title: what is shown, from which run.
    """
    figure = Figure(figsize=(0.75 * WIDTH, 3.0), layout="constrained")
    ax = figure.subplots()
    labels = clips["label"] if "label" in clips else pd.Series(0, index=clips.index)
    for row, label in zip(clips.itertuples(index=False), labels, strict=True):
        colour = DISEASE if not pd.isna(label) and label == 1 else FAINT
        if pd.isna(row.score):
            ax.text((row.low_mm + row.high_mm) / 2, 0.03, "no score", ha="center", fontsize=9, color=WARNING)
            continue
        ax.bar(row.low_mm, row.score, row.high_mm - row.low_mm, align="edge", color=colour, edgecolor="white")
        ax.text((row.low_mm + row.high_mm) / 2, row.score + 0.02, f"{row.score:.2f}", ha="center", fontsize=9)
    if (labels == 1).any():
        ax.set_title("■ labelled with disease", loc="right", color=DISEASE)
    ax.set(
        ylim=(0, 1.1),
        ylabel="score of the clip",
        xlabel="position along Superior, mm (feet left, head right)",
    )
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.grid(axis="x", visible=False)
    ax.set_title(title)
    return figure


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
    """Reliability, and decision curves below it, or beside it where there is one task; a column is a task.

    Args:
        reliability: columns task, init, score, observed, low, high.
        decision: columns task, init, threshold, net_benefit, low, high, treat_all.
    """
    tasks = list(reliability["task"].unique())
    figure = Figure(figsize=(TWO_COLUMNS, 5.2 if len(tasks) > 1 else 2.6), layout="constrained")
    if len(tasks) > 1:
        axes = figure.subplots(2, len(tasks), squeeze=False, sharey="row", sharex=True)
    else:
        axes = figure.subplots(1, 2, squeeze=False, sharex=True).T
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


@styled
def frozen_plane(table: pd.DataFrame) -> Figure:
    """Test AUROC of finetuned networks by that of heads on their frozen features; a panel a task and fraction.

    Args:
        table: columns task, fraction, backbone (or 'mean of N networks', drawn large), init, head, auroc_first
            (frozen), auroc_second (finetuned), effect, low and high, of the first less the second.
    """
    places = list(table.groupby(["task", "fraction"], sort=False))
    n_rows, columns = -(-len(places) // 2), min(len(places), 2)
    figure, axes = panels(n_rows, columns, 3.6 * n_rows, TWO_COLUMNS if columns > 1 else 0.6 * TWO_COLUMNS)
    for ax in axes.flat[len(places) :]:
        ax.set_axis_off()
    limits = auroc_limits(pd.concat([table["auroc_first"], table["auroc_second"]]), table["auroc_second"])
    for ax, ((task, fraction), part) in zip(axes.flat, places, strict=False):
        for row in part[part["effect"].notna()].itertuples():
            look, bold = init_look(f"{row.head}:{row.init}"), row.backbone.startswith(MEAN_OF)
            ends = row.auroc_first - row.high, row.auroc_first - row.low  # of what finetuning may reach
            ax.plot([row.auroc_first] * 2, ends, color=look.colour, linewidth=1.5 if bold else 0.7, alpha=0.7)
            ax.plot(
                [row.auroc_first], [row.auroc_second], look.marker, color=look.colour,
                markerfacecolor=look.colour if bold else face(look), markersize=9 if bold else 5,
            )  # fmt: skip
        ax.axline((limits[0], limits[0]), slope=1, color=INK, linewidth=0.8)
        ax.set(xlim=limits, ylim=limits, title=f"{task}, {percent(float(fraction))}")
    figure.supxlabel("frozen, with a head", fontsize=10)
    figure.supylabel("finetuned", fontsize=10)
    for k, (init, head) in enumerate(table[["init", "head"]].drop_duplicates().itertuples(index=False)):
        look = init_look(f"{head}:{init}")
        axes[0, 0].text(
            0.03, 0.97 - 0.07 * k, f"{init}, {head}", color=look.colour, fontsize=8.5, va="top",
            transform=axes[0, 0].transAxes,
        )  # fmt: skip
    return figure
