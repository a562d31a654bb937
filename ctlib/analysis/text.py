"""Numbers as the findings say them: a value with its interval, patients, seeds, and lists of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ctlib import metrics
from ctlib.core import word
from ctlib.visualization import percent, signed

Row = Mapping[str, Any]
"""A row of a table; a `pd.Series` will do."""


def interval(row: Row, value: str = "effect", low: str = "low", high: str = "high") -> str:
    """A difference with the ends of its interval.

    >>> interval({"effect": 0.0312, "low": -0.01, "high": 0.0724})
    '+0.031 (−0.010 to +0.072)'
    >>> interval({"effect": 0.0312, "low": float("nan"), "high": float("nan")})
    '+0.031 (no interval)'
    """
    if pd.isna(row[value]):
        return "no value"
    if pd.isna(row[low]) or pd.isna(row[high]):
        return f"{signed(row[value], 3)} (no interval)"
    return f"{signed(row[value], 3)} ({signed(row[low], 3)} to {signed(row[high], 3)})"


def place(row: Row) -> str:
    """Task and fraction of a row.

    >>> place({"task": "rspect_pe", "fraction": 0.25})
    'rspect_pe at 25 %'
    """
    return f"{row['task']} at {percent(float(row['fraction']))}"


def listed(parts: Iterable[str], last: str = "and") -> str:
    """Words in a row.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    words = list(parts)
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def spanned(values: Sequence[int] | pd.Series) -> str:
    """One number, or the range of several.

    >>> spanned([3, 3]), spanned([2, 3])
    ('3', '2 to 3')
    """
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def who(table: pd.DataFrame) -> str:
    """Test patients of each task, seeds and networks of a table of comparisons.

    Args:
        table: columns task, n_patients, n_positive, n_seeds and n_networks.
    """
    tasks = table.drop_duplicates("task")
    patients = [f"{r.n_patients:,} of {r.task} ({r.n_positive:,} with disease)" for r in tasks.itertuples()]
    return (
        f"test patients: {listed(patients)}; seeds: {spanned(table['n_seeds'])}; "
        f"networks: {spanned(table['n_networks'])}"
    )


def conclusions(table: pd.DataFrame) -> str:
    """How many comparisons are gains, losses, equivalent, inconclusive and without answer.

    Args:
        table: columns effect, se, freedom, margin, level and p_holm.

    >>> row = {"margin": 0.05, "level": 0.95, "freedom": 20.0, "se": 0.04}
    >>> conclusions(pd.DataFrame([row | {"effect": 0.15, "p_holm": 0.01}]))
    'of 1 comparison, 1 gain'
    """
    found = [concluded(row) for row in table.to_dict("records")]
    words = {"gain": "gain", "loss": "loss", "equivalent": "equivalent within the margin",
             "not decided": word("not decided"), "no answer": "without an answer"}  # fmt: skip
    plural = {"gain": "gains", "loss": "losses"}
    parts = []
    for kind, shown in words.items():
        n = found.count(kind)
        parts += [f"{n} {shown if n == 1 else plural.get(kind, shown)}"] if n else []
    total = f"{len(found)} comparison" if len(found) == 1 else f"{len(found)} comparisons"
    return f"of {total}, {listed(parts)}"


def concluded(row: Row) -> str:
    """`metrics.decide` of a row: a gain or a loss must outlive Holm's correction over its table."""
    numbers = (row["effect"], row["se"], row["freedom"], row["margin"], row["level"])
    return metrics.decide(*numbers, asked="gain", corrected=row["p_holm"]).word


def capital(text: str) -> str:
    """A sentence's beginning; the rest stays as it is.

    >>> capital("mean of 7 networks")
    'Mean of 7 networks'
    """
    return text[:1].upper() + text[1:]


def unanswered(table: pd.DataFrame) -> list[str]:
    """A sentence for each row that has no interval, with its reason."""
    empty = table[table["low"].isna()]
    return [f"No interval for {_subject(row)}: {row['reason']}." for row in empty.to_dict("records")]


def _subject(row: Row) -> str:
    return f"{row['label']}, {place(row)}" if "label" in row else place(row)


def forest_caption(table: pd.DataFrame) -> str:
    """Of a forest: what is drawn, of how many patients, seeds and networks."""
    return (
        f"Each seed a faint dot; thick bars are {percent(table['level'].iloc[0])} intervals over patients "
        "and seeds for these networks, thin ones with caps also over networks like these; grey: below the margin. "
        f"{capital(who(table))}."
    )
