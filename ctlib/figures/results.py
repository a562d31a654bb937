"""The results: AUROC by fraction, what an init gains, and the scores of one exam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctlib.figures.look import (
    DISEASE,
    FAINT,
    INK,
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
    signed,
    styled,
)
from ctlib.stats import MEAN_OF


@styled
def auroc_by_fraction(run_aurocs: pd.DataFrame, arm_aurocs: pd.DataFrame) -> Figure:
    """Test AUROC by share of training patients: every run a faint dot, the mean with its interval.

    A row of panels is a task, a column a network; all share one range. A mean that does not
    exist, because a run is missing, is left out and its panel says so.

    Args:
        run_aurocs: result of `stats.run_aurocs`.
        arm_aurocs: result of `stats.arm_aurocs`.
    """
    tasks, backbones = list(arm_aurocs["task"].unique()), list(arm_aurocs["backbone"].unique())
    fractions = sorted(arm_aurocs["fraction"].unique())
    figure, axes = panels(max(len(tasks), 1), max(len(backbones), 1), 0.8 + 2.3 * max(len(tasks), 1))
    looks = init_looks(arm_aurocs["init"])
    for i, task in enumerate(tasks):
        for j, backbone in enumerate(backbones):
            dots = run_aurocs[(run_aurocs["task"] == task) & (run_aurocs["backbone"] == backbone)]
            means = arm_aurocs[(arm_aurocs["task"] == task) & (arm_aurocs["backbone"] == backbone)]
            _arms(axes[i, j], dots, means, fractions, looks)
            if i == 0:
                axes[i, j].set_title(backbone)
        axes[i, 0].set_ylabel(f"{task}\ntest AUROC")
    axes[0, 0].set_ylim(*auroc_limits(run_aurocs["auroc"], arm_aurocs["low"]))
    if axes[0, 0].get_ylim()[0] < 0.5:
        axes[0, -1].text(
            0.99, 0.505, "chance", transform=axes[0, -1].get_yaxis_transform(), ha="right", fontsize=9
        )
    axes[0, 0].set(xlim=(-0.5, len(fractions) - 0.5), xticks=range(len(fractions)))
    for ax in axes[-1]:
        ax.set_xticklabels([percent(fraction) for fraction in fractions])
    figure.supxlabel("share of the training patients", fontsize=10)
    key(figure, looks)
    return figure


def _arms(
    ax: Axes, dots: pd.DataFrame, means: pd.DataFrame, fractions: list[float], looks: dict[str, InitLook]
) -> None:
    """One panel: inits side by side at each fraction."""
    place = {fraction: i for i, fraction in enumerate(fractions)}
    for k, (init, look) in enumerate(looks.items()):
        shift = (k - (len(looks) - 1) / 2) * 0.24
        own = dots[dots["init"] == init]
        ax.plot(
            own["fraction"].map(place) + shift - 0.07,
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
def effect_forest(effects: pd.DataFrame) -> Figure:
    """What an init gains in AUROC, network by network and averaged, with intervals.

    One panel a task, all with the same x range; networks grouped by fraction, their average
    as a diamond. The numbers stand beside; a row without a value says "no value".

    Args:
        effects: table `effects`, of one pair of inits.

    Raises:
        ValueError: the table holds more than one pair of inits, or no row.
    """
    arms = effects[["baseline", "init"]].drop_duplicates()
    if len(arms) != 1:
        raise ValueError(f"effect_forest: {len(arms)} pairs of inits; give the rows of one pair.")
    baseline, init = arms.iloc[0]
    tasks = list(effects["task"].unique())
    lines = _lines(effects)
    figure, axes = panels(1, len(tasks), 1.1 + 0.27 * len(lines), WIDTH if len(tasks) > 1 else 0.7 * WIDTH)
    look = init_looks([baseline, init])[init]
    for ax, task in zip(axes[0], tasks, strict=True):
        part = effects[effects["task"] == task]
        for y, (fraction, backbone) in enumerate(lines):
            for row in part[(part["fraction"] == fraction) & (part["backbone"] == backbone)].itertuples():
                _forest_row(ax, row, y, look)
        n, sick = part["n_patients"].iloc[0], part["n_positive"].iloc[0]
        ax.set_title(f"{task}\n{n} test patients, {sick} with disease", linespacing=1.3)
        ax.set_xlabel(f"AUROC from {init} minus from {baseline}")
        ax.axvline(0, color=INK, linewidth=1)
        ax.grid(axis="y", visible=False)
    for y, (fraction, backbone) in enumerate(lines):
        heading = not backbone
        name = f"{percent(fraction)} of the training patients" if heading else backbone
        _beside(axes[0, 0], -0.02, y, name, FAINT if heading else INK, backbone.startswith(MEAN_OF))
    reach = 1.06 * _reach(effects)
    axes[0, 0].set(xlim=(-reach, reach), ylim=(len(lines) - 0.4, -0.6), yticks=[])
    return figure


def _lines(effects: pd.DataFrame) -> list[tuple[float, str]]:
    """The lines of every panel: a fraction's heading (no network), then its networks."""
    lines = []
    for fraction, part in effects.groupby("fraction"):
        names = sorted(part["backbone"].unique(), key=lambda name: name.startswith(MEAN_OF))  # the mean last
        lines += [(float(str(fraction)), name) for name in ["", *names]]
    return lines


def _reach(effects: pd.DataFrame) -> float:
    """The x range that holds all intervals on both sides of 0."""
    ends = effects[["effect", "low", "high"]].to_numpy(np.float64, na_value=np.nan)
    return max(float(np.nanmax(np.abs(ends))) if np.isfinite(ends).any() else 0.1, 0.02)


def _beside(ax: Axes, x: float, y: float, text: str, colour: str, bold: bool = False) -> None:
    """Words left (x below 0) or right (above 1) of a panel, at a height of its data."""
    ax.text(
        *(x, y, text),
        transform=ax.get_yaxis_transform(),
        ha="right" if x < 0 else "left",
        va="center",
        fontsize=9.5,
        color=colour,
        weight="bold" if bold else "normal",
    )


def _forest_row(ax: Axes, row: Any, y: float, look: InitLook) -> None:
    """An interval, and its numbers on the right."""
    mean = row.backbone.startswith(MEAN_OF)
    if pd.isna(row.effect):
        _beside(ax, 1.02, y, "no value", WARNING)
        return
    ends = "no interval" if pd.isna(row.low) else f"{signed(row.low, 2)} to {signed(row.high, 2)}"
    _beside(ax, 1.02, y, f"{signed(row.effect, 2)}  ({ends})", INK, mean)
    if not pd.isna(row.low):
        ax.plot([row.low, row.high], [y, y], color=look.colour, linewidth=2.6 if mean else 1.6)
    ax.plot(
        [row.effect], [y], marker="D" if mean else look.marker, color=look.colour, markersize=8 if mean else 6
    )


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
