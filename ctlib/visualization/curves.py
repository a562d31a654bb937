"""How networks learned: pretraining, and each run of the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from ctlib.visualization.style import (
    DASHES,
    FAINT,
    TWO_COLUMNS,
    WIDTH,
    auroc_limits,
    init_look,
    init_looks,
    key,
    note,
    panels,
    percent,
    styled,
)

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
"""One a network, in the order of the table; a line is named at its end as well."""


@styled
def pretraining_curves(pretraining: pd.DataFrame) -> Figure:
    """How each network learned by epoch: losses on the left, the held-out metric on the right.

    A row of panels is an init. Of losses, the solid line is of held-out clips and the dotted one of
    training; lines are named at the end of the metric's.

    Args:
        pretraining: table `pretraining`.
    """
    groups = list(pretraining.groupby("init", sort=False)) or [("", pretraining)]
    figure = Figure(figsize=(WIDTH, 0.4 + 3.4 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 2, squeeze=False, width_ratios=(2, 3))
    looks = init_looks(str(init) for init, _ in groups)
    for (init, part), row in zip(groups, axes, strict=True):
        _losses(row[0], part, looks[str(init)].colour)
        _metric(row[1], part, looks[str(init)].colour)
        row[0].set_title(f"{init}, loss (dotted: of training)" if len(part) else "")
        row[1].set_title(f"{init}, {part['metric'].iloc[0]} on held-out clips" if len(part) else "")
    return figure


def _losses(ax: Axes, pretraining: pd.DataFrame, colour: str) -> None:
    """Training and held-out loss of each network by epoch."""
    last = float(pretraining["epoch"].max()) if len(pretraining) else 1.0
    for i, (_, part) in enumerate(pretraining.groupby("backbone", sort=False)):
        part, marker = part.sort_values("epoch"), MARKERS[i % len(MARKERS)]
        ax.plot(part["epoch"], part["train_loss"], color=colour, linestyle=(0, (1, 2)), alpha=0.6)
        ax.plot(part["epoch"], part["heldout_loss"], color=colour, marker=marker, markersize=4, alpha=0.85)
    ax.set(xlim=(1 - 0.05 * last, last * 1.05), xlabel="epoch", xticks=_ticks(int(last)))
    ax.set_ylim(bottom=0)


def _metric(ax: Axes, pretraining: pd.DataFrame, colour: str) -> None:
    """Held-out metric of each network by epoch, named at the end of its line."""
    ends: dict[str, tuple[float, float]] = {}
    for i, (name, part) in enumerate(pretraining.groupby("backbone", sort=False)):
        part, marker = part.sort_values("epoch"), MARKERS[i % len(MARKERS)]
        ax.plot(part["epoch"], part["heldout_metric"], color=colour, marker=marker, markersize=5, alpha=0.85)
        ends[str(name)] = (float(part["epoch"].iloc[-1]), float(part["heldout_metric"].iloc[-1]))
    last = float(pretraining["epoch"].max()) if len(pretraining) else 1.0
    ax.set(xlim=(1 - 0.05 * last, last * 1.4), ylim=(0, 1.02), xlabel="epoch", xticks=_ticks(int(last)))
    for (name, (x, _)), y in zip(ends.items(), spread([end[1] for end in ends.values()], 0.075), strict=True):
        marker = MARKERS[list(ends).index(name) % len(MARKERS)]
        ax.plot([x + 0.035 * last], [y], marker=marker, markersize=4, color=colour, linestyle="")
        ax.annotate(name, (x + 0.055 * last, y), va="center", fontsize=9.5, color=colour)
    if len(pretraining):
        chance = float(pretraining["chance"].iloc[0])
        ax.axhline(chance, color=FAINT, linewidth=1, linestyle=DASHES)
        ax.annotate("chance", (last * 1.4, chance), ha="right", va="bottom", fontsize=9, color=FAINT)


def _ticks(last: int) -> list[int]:
    """Whole epochs, at most about ten."""
    step = max(1, -(-last // 10))
    return sorted({1, *range(step, last + 1, step)}) if step > 1 else list(range(1, last + 1))


def spread(values: list[float], gap: float) -> list[float]:
    """Heights of labels: near their values (NaN goes to the bottom), at least a gap apart, in their order.

    >>> [round(y, 2) for y in spread([0.9, 0.5, 0.52], 0.1)]
    [0.9, 0.46, 0.56]
    """
    wanted = np.nan_to_num(np.array(values, dtype=np.float64))
    order = np.argsort(wanted, kind="stable")
    groups: list[list[float]] = []  # [sum of (value - rank * gap), count]: pool neighbours that collide
    for rank, value in enumerate(wanted[order]):
        groups.append([float(value) - rank * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, count = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + count]
    level = (
        np.concatenate([np.full(int(count), total / count) for total, count in groups])
        if groups
        else np.zeros(0)
    )
    placed = np.empty(len(wanted))
    placed[order] = level + gap * np.arange(len(wanted))
    return [float(y) for y in placed]


@styled
def learning_curves(curves: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Validation AUROC by epoch, one line a run, coloured by init.

    A row of panels is a task and fraction, a column a network. Runs that are missing, failed
    or without an AUROC are counted in their panel.

    Args:
        curves: table `curves`.
        runs: table `runs`.
    """
    rows = list(runs[["task", "fraction"]].drop_duplicates().itertuples(index=False, name=None))
    columns = list(runs["backbone"].drop_duplicates())
    figure, axes = panels(max(len(rows), 1), max(len(columns), 1), 0.7 + 1.5 * max(len(rows), 1))
    looks = init_looks(runs["init"])
    for i, (task, fraction) in enumerate(rows):
        for j, backbone in enumerate(columns):
            chosen = (runs["task"] == task) & (runs["fraction"] == fraction) & (runs["backbone"] == backbone)
            _runs(axes[i, j], curves, runs[chosen])
            if i == 0:
                axes[i, j].set_title(backbone)
        axes[i, 0].set_ylabel(f"{task}\n{percent(fraction)}", fontsize=9.5)
    axes[0, 0].set_ylim(*auroc_limits(curves["val_auroc"].astype("float64")))
    last = int(curves["epoch"].max()) if len(curves) else 1
    axes[0, 0].set(xlim=(1 - 0.06 * last, last * 1.06), xticks=_ticks(last))
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("validation AUROC", fontsize=10)
    key(figure, looks)
    return figure


def _runs(ax: Axes, curves: pd.DataFrame, runs: pd.DataFrame) -> None:
    looks, absent = init_looks(runs["init"]), 0
    for run in runs.itertuples(index=False):
        curve = curves[curves["run_id"] == run.run_id].sort_values("epoch")
        values = curve["val_auroc"].to_numpy(np.float64, na_value=np.nan)
        absent += not np.isfinite(values).any() or run.status != "finished"
        look = looks[run.init]
        marker = "." if np.isfinite(values).sum() == 1 else None  # one point makes no line
        ax.plot(curve["epoch"], values, color=look.colour, alpha=0.75, linewidth=1.3, marker=marker)
    if absent:
        note(ax, f"{absent} of {len(runs)} runs missing")


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
