"""Where exams come from, and which of them lie at the ends of what there is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

ABSENT = "not in the files"
AIR_HU = -1000.0
"""Air, by the definition of the HU scale."""


def scanners(series: pd.DataFrame) -> pd.DataFrame:
    """Patients, exams and prevalence by maker and kernel, most exams first.

    Args:
        series: table `series`.

    Returns:
        maker, kernel ("not in the files" where empty), patients, exams, exams with disease,
        prevalence (among the exams with a label; NaN where none has one).
    """
    named = pd.DataFrame(
        {
            "maker": _named(series["manufacturer"]),
            "kernel": _named(series["kernel"]),
            "patient_id": series["patient_id"],
            "label": series["label"].astype("Float64"),
        }
    )
    table = named.groupby(["maker", "kernel"]).agg(
        patients=("patient_id", "nunique"),
        exams=("label", "size"),
        ill=("label", "sum"),
        prevalence=("label", "mean"),
    )
    table = table.reset_index().rename(columns={"ill": "exams with disease"})
    table = table.astype({"exams with disease": "int64"})
    table["prevalence"] = table["prevalence"].to_numpy(np.float64, na_value=np.nan)
    return table.sort_values(["exams", "maker", "kernel"], ascending=[False, True, True], ignore_index=True)


def _named(column: pd.Series) -> pd.Series:
    """Text, with a word for what is missing or blank."""
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    return text.mask(text == "", ABSENT)


@dataclass(frozen=True)
class Extreme:
    """A series worth looking at.

    Args:
        series_uid: series.
        reason: what it is the end of, with its value, for a title.
    """

    series_uid: str
    reason: str


def extremes(series: pd.DataFrame, checks: pd.DataFrame) -> list[Extreme]:
    """The exams at the ends of a cohort, one entry a series.

    Thinnest and thickest spacing, fewest and most slices, smallest and largest field of view, air
    furthest from -1000 HU. A measure that is the same in all exams has no ends. Of several exams
    at an end the first of the table stands for them; one at several ends has all its reasons, in lines.

    Args:
        series: table `series`.
        checks: table `checks`; series that it lacks have no air.
    """
    table = series.drop_duplicates("series_uid").reset_index(drop=True)
    across = np.maximum(table["rows_px"] * table["spacing_y_mm"], table["cols_px"] * table["spacing_x_mm"])
    air = table["series_uid"].map(checks.drop_duplicates("series_uid").set_index("series_uid")["air_hu"])
    ends = [
        (table["spacing_z_mm"], ("thinnest spacing, {:.3g} mm", "thickest spacing, {:.3g} mm")),
        (table["n_slices"], ("fewest slices, {:.0f}", "most slices, {:.0f}")),
        (across.round(1), ("smallest field of view, {:.0f} mm", "largest field of view, {:.0f} mm")),
    ]
    chosen = []
    for values, words in ends:
        if values.nunique() > 1:
            chosen += [(values.idxmin(), words[0].format(values.min()))]
            chosen += [(values.idxmax(), words[1].format(values.max()))]
    off = (air.astype(float) - AIR_HU).abs()
    if off.max() > 0:  # NaN, where no exam has air, is not
        chosen.append((off.idxmax(), f"air furthest off, {air[off.idxmax()]:.0f} HU"))
    reasons: dict[int, list[str]] = {}
    for row, reason in chosen:
        reasons.setdefault(row, []).append(reason)
    return [Extreme(table["series_uid"][row], "\n".join(words)) for row, words in reasons.items()]
