"""Anyone's two prediction tables, compared as this study compares its runs: paired, by patient, with equivalence.

A table has one row an exam (and network, seed and fold, where there are several): who it is, its label, its
score. Nothing else of the study is needed, neither training nor profile. The numbers are those of
`ctlib.metrics.contrasts` and `arm_aurocs`, so two tables of runs of this study give what `04_analyze` gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctlib.analysis.text import interval
from ctlib.core import counted, nearest_name, word
from ctlib.metrics import (
    MEAN_OF,
    NO_ANSWER,
    Bootstrap,
    Contrast,
    arm_aurocs,
    arms_of,
    brier,
    calibration_slope,
    contrasts,
    decide,
    ece,
    ece_floor,
)
from ctlib.visualization import figures, percent

TASK = "exams"
NAMES = ("patient", "study", "label", "score", "network", "seed", "fold")
"""Columns that are read; of patient and study one is enough, the last three are optional."""
ALSO = {"patient_id": "patient", "study_label": "label"}
"""Names of the same in this study's own tables."""
KEY = ["network", "seed", "fold", "study"]


class CompareError(ValueError):
    """Two tables cannot be compared: one sentence with file, column, exam and what to do."""


@dataclass(frozen=True)
class Compared:
    """What came out.

    Args:
        aurocs: a row a table and network: table ("A" or "B"), network, auroc, low, high, brier, ece, ece_floor,
            slope (calibration; NaN where scores are no probabilities), n_patients, n_positive, n_seeds, warning.
        differences: a row a network, then their mean where there are several: network, effect (A - B), low,
            high, p_value, p_holm (over the networks), low_equivalence, high_equivalence, word (different,
            equivalent, not decided, no answer), reason.
        margin: a difference that would not matter.
        level: of the intervals.
    """

    aurocs: pd.DataFrame
    differences: pd.DataFrame
    margin: float
    level: float

    def sentence(self) -> str:
        """The difference of all networks together, in words."""
        row = self.differences.iloc[-1]
        counts = self.aurocs.iloc[0]
        who = f"{counted(counts['n_patients'], 'patient')}, {counts['n_positive']} of them with disease"
        if row["reason"]:
            return f"No answer: {row['reason']}."
        asked = f"at {percent(self.level)}, with a margin of {self.margin:g}"
        return f"A − B is {interval(row)} in AUROC {asked}: {word(row['word'])}; {who}."


def compare(first: Path, second: Path, how: Bootstrap, margin: float) -> Compared:
    """AUROC of two prediction tables of the same exams, and their difference.

    Args:
        first: CSV with `NAMES`; table A.
        second: the same exams, networks, seeds and folds; table B, which is subtracted.
        how: draws of the patients, their seed and the level.
        margin: a difference in AUROC that would not matter; 0 for none.

    Raises:
        CompareError: a table cannot be read, has a label other than 0 and 1, one class only, a score that is no
            number, an exam twice or with two labels or patients; or the tables differ in exams, labels, networks,
            seeds or folds. The first example is named.
    """
    tables = {name: read(path) for name, path in (("A", first), ("B", second))}
    _match(tables, (first, second))
    runs, predictions = _as_runs(tables)
    networks = list(dict.fromkeys(tables["A"]["network"]))
    wanted = [Contrast(name, ((name, "A"),), ((name, "B"),)) for name in networks]
    if len(networks) > 1:
        mean = f"{MEAN_OF}{len(networks)} networks"
        wanted.append(Contrast(mean, arms_of(networks, "A"), arms_of(networks, "B")))
    arms = arm_aurocs(runs, predictions, how).rename(columns={"init": "table", "backbone": "network"})
    calibrated = pd.DataFrame([_calibration(tables[a.table], a.network) for a in arms.itertuples()])
    kept = [
        "table",
        "network",
        "auroc",
        "low",
        "high",
        "n_patients",
        "n_positive",
        "n_seeds",
        "warning",
        "reason",
    ]
    aurocs = pd.concat([arms[kept], calibrated], axis=1)
    found = contrasts(runs, predictions, wanted, how, margin=margin)
    rows = [_difference(row, margin, how.level) for row in found.to_dict("records")]
    return Compared(aurocs, pd.DataFrame(rows), margin, how.level)


def read(path: Path) -> pd.DataFrame:
    """A prediction table: columns `NAMES`, checked.

    Raises:
        CompareError: see `compare`.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False).rename(columns=ALSO)
    except (OSError, ValueError) as error:
        raise CompareError(f"{path} is no readable CSV: {error}; give a table with {_columns()}.") from error
    for name in ("label", "score"):
        if name not in table:
            raise CompareError(
                f"{path} lacks the column {name}{nearest_name(name, list(table))}; give {_columns()}."
            )
    if not {"patient", "study"} & set(table):
        raise CompareError(f"{path} has neither patient nor study; give {_columns()}.")
    table["patient"] = table["patient"] if "patient" in table else table["study"]
    table["study"] = table["study"] if "study" in table else table["patient"]
    table["network"] = table.get("network", "network")
    for name in ("seed", "fold"):
        table[name] = _whole(table, name, path) if name in table else 0
    score = pd.to_numeric(table["score"], errors="coerce")
    _refuse(table[~np.isfinite(score)], "score", path, "give a finite number")
    label = pd.to_numeric(table["label"].str.lower().replace({"true": "1", "false": "0"}), errors="coerce")
    _refuse(table[~label.isin([0, 1])], "label", path, "give 1 for disease and 0 for none")
    table = table.assign(score=score, label=label.astype(np.int64))[list(NAMES)]
    twice = table[table.duplicated(KEY)]
    if len(twice):
        raise CompareError(f"{path}: exam {_exam(twice.iloc[0])} is there twice; keep one row of it.")
    for name in ("label", "patient"):
        several = table.groupby("study")[name].nunique()
        if (several > 1).any():
            exam = several.idxmax()
            found = " and ".join(map(str, table.loc[table["study"] == exam, name].unique()[:2]))
            raise CompareError(f"{path}: exam {exam} has {name} {found}; an exam has one.")
    if table["label"].nunique() < 2:
        raise CompareError(
            f"{path}: all {len(table)} rows have label {table['label'].iloc[0]}; an AUROC needs both."
        )
    return table


def _columns() -> str:
    return "patient or study, label, score, and where there are several: network, seed, fold"


def _whole(table: pd.DataFrame, name: str, path: Path) -> pd.Series:
    found = pd.to_numeric(table[name], errors="coerce")
    _refuse(table[found.isna() | (found % 1 != 0)], name, path, "give a whole number")
    return found.astype(np.int64)


def _refuse(wrong: pd.DataFrame, name: str, path: Path, remedy: str) -> None:
    if len(wrong):
        row = wrong.iloc[0]
        raise CompareError(f"{path}: exam {row['study']} has {name} {row[name]!r}; {remedy}.")


def _exam(row: pd.Series) -> str:
    return f"{row['study']} (network {row['network']}, seed {row['seed']}, fold {row['fold']})"


def _match(tables: dict[str, pd.DataFrame], paths: tuple[Path, Path]) -> None:
    """Refuse tables that are not of the same exams."""
    one, two = (table.set_index(KEY).sort_index() for table in tables.values())
    for here, there, path, other in ((one, two, *paths), (two, one, *paths[::-1])):
        alone = here.index.difference(there.index)
        if len(alone):
            row = here.loc[[alone[0]]].reset_index().iloc[0]
            raise CompareError(
                f"{path} has {counted(len(alone), 'row')} that {other} has not, for example exam {_exam(row)}; "
                "compare the same exams, networks, seeds and folds."
            )
    for name in ("label", "patient"):
        differing = one.index[(one[name] != two[name]).to_numpy()]
        if len(differing):
            exam, place = differing[0][-1], differing[0]
            raise CompareError(
                f"exam {exam} has {name} {one.loc[place, name]} in {paths[0]} and {two.loc[place, name]} in {paths[1]}."
            )


def _as_runs(tables: dict[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables as `runs` and `predictions` of a grid with two inits."""
    rows = []
    for name, table in tables.items():
        ids = table["network"] + f"/{name}/" + table["seed"].astype(str) + "/" + table["fold"].astype(str)
        rows.append(table.assign(run_id=ids, init=name))
    both = pd.concat(rows, ignore_index=True)
    runs = both.drop_duplicates("run_id").assign(task=TASK, fraction=1.0, status="finished", error=None)
    predictions = both.rename(columns={"patient": "patient_id"}).assign(
        split="test", clip=0, study_label=both["label"]
    )
    named = runs.rename(columns={"network": "backbone"})
    return named[
        ["run_id", "task", "backbone", "init", "fraction", "seed", "fold", "status", "error"]
    ], predictions


def _calibration(table: pd.DataFrame, network: str) -> dict[str, float]:
    """Calibration of a network, mean over its seeds and folds; NaN where a score is no probability."""
    found = {"brier": math.nan, "ece": math.nan, "ece_floor": math.nan, "slope": math.nan}
    mine = table[table["network"] == network]
    if not mine["score"].between(0, 1).all():
        return found
    each = [part for _, part in mine.groupby(["seed", "fold"])]
    values = {
        "brier": [brier(part["label"], part["score"]).value for part in each],
        "ece": [ece(part["label"], part["score"]).value for part in each],
        "ece_floor": [ece_floor(part["score"]).value for part in each],
        "slope": [calibration_slope(part["label"], part["score"]).value for part in each],
    }
    return {name: float(np.mean(of)) for name, of in values.items()}


def _difference(row: dict[str, Any], margin: float, level: float) -> dict[str, Any]:
    kept = ("effect", "low", "high", "p_value", "p_holm")
    found = {"network": row["contrast"], **{name: row[name] for name in kept}}
    if row["reason"]:
        nan = math.nan
        return found | {
            "low_equivalence": nan,
            "high_equivalence": nan,
            "word": NO_ANSWER,
            "reason": row["reason"],
        }
    said = decide(row["effect"], row["se"], row["freedom"], margin, level, "null", row["p_value"])
    ends = {"low_equivalence": said.low_equivalence, "high_equivalence": said.high_equivalence}
    return found | ends | {"word": said.word, "reason": ""}


def draw(found: Compared, path: Path) -> Path:
    """The differences with their intervals, as a figure: .svg, or PNG by any other ending."""
    counts = found.aurocs.iloc[0][["n_patients", "n_positive"]].to_dict()
    lines = found.differences.rename(columns={"network": "label"}).assign(
        task=TASK, fraction=1.0, init="A", **counts
    )
    figure = figures.contrast_forest(lines, "A − B", found.margin)
    path.write_bytes(figures.svg(figure) if path.suffix == ".svg" else figures.png(figure))
    return path


def as_object(found: Compared) -> dict[str, Any]:
    """What came out, for JSON; a value that does not exist is null."""
    return {
        "margin": found.margin, "level": found.level, "sentence": found.sentence(),
        "aurocs": list(_records(found.aurocs)), "differences": list(_records(found.differences)),
    }  # fmt: skip


def _records(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in table.to_dict("records"):
        yield {str(k): None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
