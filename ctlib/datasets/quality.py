"""What a careful scientist looks at before training: is each volume what it claims to be, is any of
them there twice, and do the files alone tell who is ill?

Every function takes tables (`ctlib.core.tables`): `series`, `splits` and `checks`, which holds what
`ctlib.datasets.volume_checks.examine` found in each stored volume. `inspect` runs all checks for a cohort,
and `findings` says in sentences by fixed rules what came out; each number is read from a table:

| sentence | good | bad |
|---|---|---|
| files | used and refused add up to the files found | they do not |
| prevalence | chi-square over patients and splits, p >= 0.05 | p < 0.05 |
| metadata | the interval of all together holds 0.5 | it lies above; below is said too |
| HU scale | no fault (`rescale_faults`) | some |
| duplicates | no pair across splits, none of two patients | some |
| spacing | the thickest at most 1.05 of the thinnest | more: one rule for slices, several lengths |

`scanners` counts where exams come from, and `extremes` are those at the ends of what there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ctlib.core import counted
from ctlib.datasets.cohort import Cohort
from ctlib.datasets.metadata import ABSENT, OF_FILES, TOGETHER, metadata_baseline
from ctlib.datasets.splits import SPLITS
from ctlib.datasets.volume_checks import MOST_PAIRS, near_duplicates, rescale_faults

__all__ = [
    "LOOK",
    "PASSED",
    "Extreme",
    "Inspection",
    "checks",
    "extremes",
    "findings",
    "inspect",
    "metadata_baseline",
    "near_duplicates",
    "rescale_faults",
    "scanners",
]

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


ALIKE_P = 0.05
"""p of the chi-square test below which prevalence differs between splits."""
SAME_SPACING = 1.05
"""Thickest against thinnest spacing up to which one number of slices is one length."""


@dataclass(frozen=True)
class Inspection:
    """A cohort and what its checks found.

    Args:
        cohort: its tables.
        splits: table `splits`.
        checks: table `checks`.
        faults: from `rescale_faults`.
        duplicates: from `near_duplicates`.
        baseline: from `metadata_baseline`.
    """

    cohort: Cohort
    splits: pd.DataFrame
    checks: pd.DataFrame
    faults: pd.DataFrame
    duplicates: pd.DataFrame
    baseline: pd.DataFrame


def inspect(cohort: Cohort, splits: pd.DataFrame, checks: pd.DataFrame, seed: int = 0) -> Inspection:
    """Run the checks of a cohort.

    Args:
        cohort: its tables.
        splits: table `splits`.
        checks: table `checks`.
        seed: of the metadata baseline.
    """
    return Inspection(
        cohort,
        splits,
        checks,
        rescale_faults(checks),
        near_duplicates(checks, cohort.series, splits),
        metadata_baseline(cohort.series, seed, features=cohort.features),
    )


PASSED, LOOK = "passed", "look at it"


def checks(inspected: Mapping[str, Inspection]) -> pd.DataFrame:
    """What came out of each check, by the rules of the module; its sentence is one of `findings`.

    Args:
        inspected: from `inspect`, by cohort.

    Returns:
        Column check, and one a cohort with `PASSED` or `LOOK`.
    """
    rows: dict[str, dict[str, str]] = {}
    for name, found in inspected.items():
        together = found.baseline[found.baseline["feature"] == TOGETHER].iloc[0]
        spacing, duplicates = found.cohort.series["spacing_z_mm"], found.duplicates
        good = {
            "prevalence": _alike(_by_split(found.cohort.series, found.splits)) >= ALIKE_P,
            "metadata": together["auroc"] <= together["high"],
            "HU scale": found.faults.empty,
            "duplicates": not (duplicates["crosses_splits"] | ~duplicates["same_patient"]).any(),
            "slice spacing": spacing.max() <= SAME_SPACING * spacing.min(),
        }
        for check, passed in good.items():
            rows.setdefault(check, {"check": check})[name] = PASSED if passed else LOOK
    return pd.DataFrame(rows.values())


def findings(found: Inspection, min_positive: int) -> list[str]:
    """What a reader should know of a cohort before anything is trained on it, one sentence or two each.

    Args:
        found: from `inspect`.
        min_positive: slices with disease that make a clip positive.
    """
    return [
        _prevalence(found.cohort.series, found.splits),
        _metadata(found.baseline),
        _scale(found.faults, found.checks),
        _duplicates(found.duplicates, found.checks),
        _spacing(found.cohort.series, min_positive),
    ]


def _prevalence(series: pd.DataFrame, splits: pd.DataFrame) -> str:
    table = _by_split(series, splits)
    if table.empty and not series["label"].notna().any():
        return "Prevalence: no exam has a label."
    shares = ", ".join(f"{name} {row[1] / (row[0] + row[1]):.2f}" for name, row in table.iterrows())
    text = f"Prevalence by patient: {shares or 'no patient is in a split'}"
    if len(table) < 2:
        return f"{text}; there are no two splits to compare."
    if (table.sum() == 0).any():
        label = int(table.sum().idxmax())
        return f"{text}; all {table.to_numpy().sum()} patients have label {label}: nothing can be learned."
    p = _alike(table)
    if p >= ALIKE_P:
        return f"{text}: alike (chi-square p = {p:.2f})."
    return (
        f"{text}: not alike (chi-square p = {p:.2g}), so thresholds, AUPRC and calibration do not carry "
        f"over from one split to the next."
    )


def _by_split(series: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Patients without and with disease (columns 0 and 1) in each split that has any."""
    labels = series[series["label"].notna()].groupby("patient_id")["label"].max().astype(int)
    role = splits.drop_duplicates("patient_id").set_index("patient_id")["split"]
    table = pd.crosstab(labels.index.map(role), labels.to_numpy()).reindex(columns=[0, 1], fill_value=0)
    return table.reindex([name for name in SPLITS if name in table.index])


def _alike(table: pd.DataFrame) -> float:
    """p of the prevalence being the same in all splits; NaN where there is nothing to compare."""
    if len(table) < 2 or (table.sum() == 0).any():
        return np.nan
    from scipy.stats import chi2_contingency  # here: a viewer's first volume need not wait for it

    return float(chi2_contingency(table.to_numpy(), correction=False).pvalue)


def _metadata(baseline: pd.DataFrame) -> str:
    row = baseline[baseline["feature"] == TOGETHER].iloc[0]
    who = f"{counted(int(row['n_patients']), 'patient')}, {row['n_positive']} of {row['n_exams']} exams with disease"
    more = not set(baseline["feature"]) <= OF_FILES
    what = "Metadata and columns of the label file alone" if more else "Metadata alone"
    if pd.isna(row["auroc"]):
        return f"{what}: no AUROC, for {row['reason']} ({who})."
    text = f"{what} reach AUROC {row['auroc']:.2f}, chance {row['low']:.2f} to {row['high']:.2f} ({who})"
    alone = baseline[(baseline["feature"] != TOGETHER) & (baseline["auroc"] > baseline["high"])]
    named = ", ".join(f"{one.feature} {one.auroc:.2f}" for one in alone.itertuples())
    if row["auroc"] > row["high"]:
        text += (
            f": that is above chance, so {'they' if more else 'the files'} tell the classes apart without a "
            "look at disease, and a network may score by the same"
        )
    else:
        text += ": nothing in them was seen to tell the classes apart"
    # one of six would by chance about once in seven cohorts
    return f"{text}. Above chance alone: {named or 'none'}."


def _scale(faults: pd.DataFrame, checks: pd.DataFrame) -> str:
    volumes = counted(len(checks), "volume")
    if faults.empty:
        return f"HU scale: none of {volumes} is off."
    first = faults.iloc[0]
    return (
        f"HU scale: {len(faults)} of {volumes} cannot be in HU; leave them out or mend them. "
        f"The first is series {first['series_uid']}: {first['reason']}. `ctlib scan FOLDER --paths` names the file "
        "of each series, on this machine only."
    )


def _duplicates(duplicates: pd.DataFrame, checks: pd.DataFrame) -> str:
    volumes = counted(len(checks), "volume")
    if duplicates.empty:
        return f"Near duplicates: none among {volumes}."
    crossing = duplicates[duplicates["crosses_splits"]]
    apart = duplicates[~duplicates["same_patient"]]
    most = "at least " if len(duplicates) >= MOST_PAIRS else ""
    text = (
        f"Near duplicates: {most}{counted(len(duplicates), 'pair')} among {volumes}, {len(apart)} of them of "
        f"two patients, {len(crossing)} across splits"
    )
    if crossing.empty:
        return f"{text}: none is learned from and tested on." + (
            " Two patients that are one count twice in every interval." if len(apart) else ""
        )
    first = crossing.iloc[0]
    return (
        f"{text}: what is tested was seen before. The most alike are {first['series_a']} "
        f"({first['split_a'] or 'no split'}) and {first['series_b']} ({first['split_b'] or 'no split'}), "
        f"{first['rms_hu']:.1f} HU apart."
    )


def _spacing(series: pd.DataFrame, min_positive: int) -> str:
    if series.empty:
        return "Slice spacing: there is no exam."
    low, high = float(series["spacing_z_mm"].min()), float(series["spacing_z_mm"].max())
    slices = f"{min_positive} positive slices" if min_positive != 1 else "1 positive slice"
    thickness = series["thickness_mm"].astype("Float64").dropna().to_numpy(np.float64)
    ends = dict.fromkeys(f"{end:.3g}" for end in (thickness.min(), thickness.max())) if len(thickness) else ()
    said = f" (thickness {' to '.join(ends)} mm)" if ends else ""
    if high <= SAME_SPACING * low:
        return f"Slices lie {low:.3g} mm apart in all exams{said}: {slices} are {min_positive * low:.3g} mm."
    return (
        f"Slices lie {low:.3g} to {high:.3g} mm apart{said}: {slices} are {min_positive * low:.3g} mm of "
        f"one patient and {min_positive * high:.3g} mm of another, so a positive clip does not mean the "
        f"same size of disease."
    )
