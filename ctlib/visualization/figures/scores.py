"""The results: AUROC by fraction, and the scores of one exam."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctlib.visualization.figures.style import (
    DISEASE,
    FAINT,
    TWO_COLUMNS,
    WARNING,
    WIDTH,
    InitLook,
    auroc_limits,
    face,
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
        run_aurocs: result of `metrics.run_aurocs`.
        arm_aurocs: result of `metrics.arm_aurocs`.
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
    ax.axhline(0.5, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
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
