"""How networks learned: pretraining, and each run of the grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctlib.figures.look import (
    FAINT,
    INITS,
    WIDTH,
    auroc_limits,
    init_looks,
    key,
    note,
    panels,
    percent,
    styled,
)

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One a network, in the order of the table; a line is named at its end as well."""


@styled
def pretraining_curves(pretraining: pd.DataFrame, n_classes: int = 0) -> Figure:
    """Held-out accuracy by epoch, one line a network, named at its end.

    Args:
        pretraining: table `pretraining`.
        n_classes: video classes, for the line of chance; 0 draws none.
    """
    figure = Figure(figsize=(0.75 * WIDTH, 3.4), layout="constrained")
    ax = figure.subplots()
    ends: dict[str, tuple[float, float]] = {}
    for i, (name, part) in enumerate(pretraining.groupby("backbone", sort=False)):
        part = part.sort_values("epoch")
        ax.plot(
            part["epoch"],
            part["heldout_accuracy"],
            color=INITS["video"].colour,
            marker=MARKERS[i % len(MARKERS)],
            markersize=5,
            alpha=0.85,
        )
        ends[str(name)] = (float(part["epoch"].iloc[-1]), float(part["heldout_accuracy"].iloc[-1]))
    last = float(pretraining["epoch"].max()) if len(pretraining) else 1.0
    ax.set(xlim=(1 - 0.05 * last, last * 1.3), ylim=(0, 1.02), xlabel="epoch")
    ax.set_xticks(_ticks(int(last)))
    ax.set_ylabel("share of held-out videos\nin the right class")
    for (name, (x, _)), y in zip(ends.items(), spread([end[1] for end in ends.values()], 0.065), strict=True):
        marker = MARKERS[list(ends).index(name) % len(MARKERS)]
        ax.plot(
            [x + 0.035 * last], [y], marker=marker, markersize=4, color=INITS["video"].colour, linestyle=""
        )
        ax.annotate(name, (x + 0.055 * last, y), va="center", fontsize=9.5, color=INITS["video"].colour)
    if n_classes:
        ax.axhline(1 / n_classes, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        ax.annotate("chance", (last * 1.3, 1 / n_classes), ha="right", va="bottom", fontsize=9, color=FAINT)
    return figure


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
