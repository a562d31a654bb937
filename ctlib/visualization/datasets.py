"""Figures of what a cohort holds, and of the checks before training: geometry, HU, labels, metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ctlib.core import HU_MIN, counted
from ctlib.datasets import ABSENT, AIR_HU, BODY_HU, FOAM_HU, SAME, TOGETHER, rescale_faults
from ctlib.visualization.slices import CohortTables
from ctlib.visualization.style import DASHES, DISEASE, FAINT, INK, NO_DISEASE, WARNING, WIDTH, panels, styled

GEOMETRY = {
    "spacing_z_mm": "slice spacing, mm",
    "n_slices": "slices an exam",
    "spacing_x_mm": "pixel spacing, mm",
    "thickness_mm": "slice thickness, mm",
}
"""Columns of table `series` that may differ by label, and how their axes are called."""
BINS = 15
CLASSES = ((0, "no disease", NO_DISEASE), (1, "disease", DISEASE))
HU_MARKS = {-1000: "air", 0: "water"}
"""HU of air and water, which define the scale."""
HU_RANGE = (-1100, 1100)


def n_patients(cohorts: Mapping[str, CohortTables]) -> str:
    """Patients and exams of each cohort, for a caption."""
    sizes = {name: (c.series["patient_id"].nunique(), len(c.series)) for name, c in cohorts.items()}
    return "; ".join(f"{n}: {counted(p, 'patient')}, {counted(e, 'exam')}" for n, (p, e) in sizes.items())


def _grid(
    n_rows: int, n_columns: int, height: float, sharex: bool | str
) -> tuple[Figure, NDArray[np.object_]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, sharex=sharex, sharey=True)  # type: ignore[arg-type]


@styled
def geometry(cohorts: Mapping[str, CohortTables]) -> Figure:
    """Distributions of spacing, slice count and thickness, by label; one row a cohort.

    Bars are the share of exams of a class, so classes of different size compare. Exams
    without a label are left out where others have one, and shown as one class where none has.

    Args:
        cohorts: cohorts by name.
    """
    figure, axes = _grid(len(cohorts), len(GEOMETRY), 0.7 + 1.9 * len(cohorts), sharex="col")
    for column, (name, title) in enumerate(GEOMETRY.items()):
        values = np.concatenate(
            [c.series[name].to_numpy(np.float64, na_value=np.nan) for c in cohorts.values()]
        )
        edges = _edges(values[np.isfinite(values)])
        for row, (cohort, data) in enumerate(cohorts.items()):
            _by_class(axes[row, column], data.series, name, edges)
            if column == 0:
                axes[row, 0].set_ylabel(f"{cohort}\nshare of exams")
        axes[-1, column].set_xlabel(title)
        axes[-1, column].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    present = pd.concat([data.series["label"] for data in cohorts.values()]).dropna().unique()
    for label, text, colour in CLASSES:
        if label in present:
            axes[0, 0].plot([], [], color=colour, linewidth=5, label=text)
    if len(present):
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of bins that hold all values; one value gets a bar of 2 % of it."""
    if not len(values):
        return np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    room = max((high - low) * 0.02, 0.1 * max(abs(high), 1e-3) if high == low else 0.0)
    return np.linspace(low - room, high + room, BINS + 1)


def _by_class(axes: Axes, series: pd.DataFrame, name: str, edges: NDArray[np.float64]) -> None:
    values = series[name].to_numpy(np.float64, na_value=np.nan)
    labels = series["label"].to_numpy(np.float64, na_value=np.nan)
    parts = [(values[labels == label], colour) for label, _, colour in CLASSES]
    if np.isnan(labels).all():
        parts = [(values, NO_DISEASE)]
    for part, colour in parts:
        part = part[np.isfinite(part)]
        if len(part):
            share = np.histogram(part, edges)[0] / len(part)
            if colour == NO_DISEASE:
                axes.stairs(share, edges, color=colour, fill=True, alpha=0.5)
            else:
                axes.stairs(share, edges, color=colour, linewidth=2)
    if not np.isfinite(values).any():
        axes.text(0.5, 0.5, "not in the files", transform=axes.transAxes, ha="center", color=FAINT)


@styled
def hu_histogram(volumes: Mapping[str, Sequence[NDArray[np.int16]]]) -> Figure:
    """How often each HU occurs, cohort by cohort, with air and water marked.

    Args:
        volumes: int16 arrays of any shape, HU, of each cohort.
    """
    figure, axes = _grid(1, len(volumes), 3.0, sharex=True)
    edges = np.arange(HU_RANGE[0], HU_RANGE[1] + 1, 20)
    for ax, (name, arrays) in zip(axes[0], volumes.items(), strict=True):
        n_voxels = sum(array.size for array in arrays)
        counts = sum((np.histogram(array, edges)[0] for array in arrays), np.zeros(len(edges) - 1))
        ax.stairs(counts / max(n_voxels, 1), edges, fill=True, color=FAINT, alpha=0.6)
        ax.set(title=f"{name}, volumes: {len(arrays)}", xlabel="HU", xlim=HU_RANGE, yscale="log")
        for hu, text in HU_MARKS.items():
            ax.axvline(hu, color=INK, linewidth=0.9, linestyle=DASHES)
            ax.text(hu + 25, 0.97, text, transform=ax.get_xaxis_transform(), va="top", fontsize=9)
    axes[0, 0].set_ylabel("share of voxels in 20 HU")
    return figure


@styled
def label_bands(cohorts: Mapping[str, CohortTables]) -> Figure:
    """Where along the patient the labelled slices of each positive exam lie.

    Args:
        cohorts: cohorts by name; exams are sorted by the height of their first labelled slice.
    """
    figure = Figure(figsize=(WIDTH, 0.4 + 2.4 * len(cohorts)), layout="constrained")
    axes = figure.subplots(len(cohorts), 1, squeeze=False)[:, 0]
    for ax, (name, data) in zip(axes, cohorts.items(), strict=True):
        slices = data.slices.assign(
            height=lambda t: t["z_mm"] - t.groupby("series_uid")["z_mm"].transform("min")
        )
        marked = slices[slices["label"].fillna(0) == 1]
        first = marked.groupby("series_uid")["height"].min().sort_values(kind="stable")
        column = pd.Series(np.arange(len(first)), index=first.index)
        extent = slices.groupby("series_uid")["height"].max()[first.index]
        width = min(0.7, 0.05 * len(first) + 0.1)
        ax.bar(column, extent, width=width, color="#e4e4e4", linewidth=0)
        step = slices.groupby("series_uid")["height"].agg(
            lambda z: np.median(np.diff(np.sort(z))) if len(z) > 1 else 1.0
        )
        ax.bar(
            column[marked["series_uid"]].to_numpy(),
            step[marked["series_uid"]].to_numpy(),
            bottom=marked["height"].to_numpy() - step[marked["series_uid"]].to_numpy() / 2,
            width=width,
            color=DISEASE,
            linewidth=0,
        )
        n_exams = data.series["series_uid"].nunique()
        ax.set_title(f"{name}: {len(first)} of {n_exams} exams have labelled slices")
        ax.set(ylabel="mm from the lowest slice", xticks=[], xlim=(-1, max(len(first), 1)))
        ax.grid(axis="x", visible=False)
    axes[-1].set_xlabel("exams, one column each")
    return figure


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
            f"{name}\n{first['n_patients']} patients, {first['n_exams']} exams, {first['n_positive']} with disease",
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
