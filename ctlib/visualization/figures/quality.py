"""Figures of the checks before training: what the files alone tell, and where air and tissue lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctlib.core import HU_MIN
from ctlib.datasets import ABSENT, AIR_HU, BODY_HU, FOAM_HU, SAME, TOGETHER, Store, extremes, rescale_faults
from ctlib.visualization.figures.cohorts import CohortTables
from ctlib.visualization.figures.slices import Picture, slices_of, stored
from ctlib.visualization.figures.style import FAINT, INK, WARNING, WIDTH, panels, styled

AIR, BODY = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe and Ito, as in `look`."""
MOST_VECTORS = 500
"""Points of a panel up to which they are drawn as shapes; more are pixels, for a report holds 2 MB."""


@styled
def metadata_baseline(baselines: Mapping[str, pd.DataFrame]) -> Figure:
    """The AUROC that metadata reach, all together and each alone, and a grey bar of what chance gives.

    Args:
        baselines: results of `quality.metadata_baseline` by cohort.
    """
    titles = list(next(iter(baselines.values()))["feature"])
    n, width = len(baselines), WIDTH if len(baselines) > 1 else 0.7 * WIDTH
    figure, axes = panels(1, n, 1.1 + 0.3 * len(titles), width)
    for ax, (name, table) in zip(axes[0], baselines.items(), strict=True):
        for row in table.itertuples(index=False):
            _baseline_row(ax, row, titles.index(row.feature))
        first = table.iloc[0]
        ax.set_title(
            f"{name}\n{first['n_patients']} patients, {first['n_exams']} exams, {first['n_positive']} ill",
            linespacing=1.3,
        )
        ax.set_xlabel("AUROC of the exam label, cross-validated")
        ax.axvline(0.5, color=INK, linewidth=1)
        ax.grid(axis="y", visible=False)
    reach = 1.06 * max(_reach(table) for table in baselines.values())
    axes[0, 0].set(xlim=(0.5 - reach, 0.5 + reach), ylim=(len(titles) - 0.4, -0.6))
    axes[0, 0].set_yticks(range(len(titles)), titles)
    axes[0, 0].get_yticklabels()[titles.index(TOGETHER)].set_weight("bold")
    return figure


def _reach(table: pd.DataFrame) -> float:
    """What the x range must hold on both sides of 0.5."""
    off = np.abs(table[["auroc", "low", "high"]].to_numpy(np.float64) - 0.5)
    return max(float(np.nanmax(off)) if np.isfinite(off).any() else 0.1, 0.1)


def _baseline_row(ax: Axes, row: Any, y: int) -> None:
    """A value beside the band of chance, with numbers on the right, or why there is none."""
    bold = row.feature == TOGETHER
    weight = "bold" if bold else "normal"
    if pd.isna(row.auroc):
        # what is wrong with all exams is said once
        own = bold or row.reason in (ABSENT, SAME)
        _words(ax, 0.03, y, row.reason if own else "", WARNING, "normal")
        return
    _words(ax, 1.02, y, f"{row.auroc:.2f}  (chance {row.low:.2f} to {row.high:.2f})", INK, weight)
    colour = BODY if row.auroc > row.high else INK
    ax.plot([row.low, row.high], [y, y], color=FAINT, linewidth=6 if bold else 4)
    ax.plot([row.auroc], [y], marker="D" if bold else "o", color=colour, markersize=8 if bold else 6)


def _words(ax: Axes, x: float, y: int, text: str, colour: str, weight: str) -> None:
    """Words on a line of a panel; right of it where x is above 1."""
    ax.text(
        x, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9, color=colour, weight=weight
    )


@styled
def hu_peaks(checks: Mapping[str, pd.DataFrame]) -> Figure:
    """Where air and the body peak in each volume, with the bands that are expected of them.

    One column a volume, from the lowest body to the highest. Volumes that
    `quality.rescale_faults` reports are drawn as crosses; how many have no peak is written.

    Args:
        checks: tables `checks` by cohort.
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots(1, len(checks), squeeze=False, sharey=True)[0]
    for ax, (name, table) in zip(axes, checks.items(), strict=True):
        order = table.sort_values(["body_hu", "air_hu"], na_position="first", ignore_index=True)
        faulty = order["series_uid"].isin(rescale_faults(order)["series_uid"]).to_numpy()
        for low, high, colour in ((*AIR_HU, AIR), (*BODY_HU, BODY)):
            ax.axhspan(low, high, color=colour, alpha=0.13, linewidth=0)
        if order["body_hu"].between(*FOAM_HU).any():
            ax.axhspan(*FOAM_HU, color=BODY, alpha=0.13, linewidth=0)
        for column, colour in (("air_hu", AIR), ("body_hu", BODY)):
            for marker, chosen in (("o", ~faulty), ("x", faulty)):
                _points(ax, order[column][chosen], colour, marker)
        missing = [
            f"{int(order[column].isna().sum())} without {what}"
            for column, what in (("air_hu", "air"), ("body_hu", "a body"))
            if order[column].isna().any()
        ]
        ax.set_title(f"{name}: {len(order)} volumes, {int(faulty.sum())} off the HU scale")
        ax.set(xticks=[], xlim=(-0.5, max(len(order), 1) - 0.5))
        ax.set_xlabel("volumes, by their body's peak" + "".join(f"; {words}" for words in missing))
    low, high = axes[0].get_ylim()
    axes[0].set(ylabel="peak, HU", ylim=(min(low, HU_MIN - 60), max(high, 200)))
    _key(figure)
    return figure


def _points(ax: Axes, values: pd.Series, colour: str, marker: str) -> None:
    size = 5.0 if len(values) > MOST_VECTORS / 5 else 14.0
    ax.scatter(
        values.index,
        values.to_numpy(np.float64),
        s=size if marker == "o" else 45,
        color=colour,
        marker=marker,
        rasterized=len(values) > MOST_VECTORS,
        linewidths=0 if marker == "o" else 1.6,
        zorder=3,
    )


def _key(figure: Figure) -> None:
    """What the colours and crosses mean, above the panels."""
    handles: list[Artist] = [
        figure.axes[0].scatter([], [], s=20, color=AIR, label="air"),
        figure.axes[0].scatter([], [], s=20, color=BODY, label="body: fat or soft tissue"),
        figure.axes[0].scatter([], [], s=45, color=INK, marker="x", label="off the HU scale"),
    ]
    handles.append(
        figure.axes[0].fill_between([], [], [], color=FAINT, alpha=0.25, linewidth=0, label="expected")
    )
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False)


def extreme_exams(store: Store, cohort: CohortTables, checks: pd.DataFrame) -> list[Picture]:
    """Pictures of the exams at the ends of a cohort (`quality.extremes`), each its middle slice.

    Args:
        store: the cohort's volumes.
        cohort: its tables.
        checks: table `checks`.
    """
    pictures = []
    for extreme in extremes(cohort.series, checks):
        volume = stored(store, extreme.series_uid)
        middle = slices_of(volume, [len(volume.hu) // 2])[0]
        pictures.append(Picture(middle.hu, middle.spacing_mm, extreme.reason))
    return pictures
