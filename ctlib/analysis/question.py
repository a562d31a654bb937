"""A question, its answer, and how an answer is shown: a sentence, a figure, a table that is also a CSV file.

A question whose arms are not in the grid has an answer too: one sentence that says what is missing
and which parameter of which notebook would bring it. There is then no figure and no table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ctlib.analysis.study import Study
from ctlib.core import Workspace, display_path, write_text
from ctlib.visualization import figures

FORMATS = {"p_holm": "{:.3f}", "kept": "{:.0%}", "slope": "{:.2f}", "intercept": "{:.2f}"}
"""Of columns that the usual formats do not fit."""


@dataclass(frozen=True)
class Question:
    """How a question is answered.

    Args:
        key: a word; names the CSV file.
        title: of the table.
        columns: of the table that are shown; the CSV file has all.
        compute: the table; it may be without rows.
        missing: why there is none, and how to get it; or ''.
        say: what the table says, in sentences; every number in them is one of the table's.
        draw: the figure, of a study and its table with rows.
        alt: what the figure shows, for those who cannot see it.
        caption: what is drawn, with patients and seeds.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    compute: Callable[[Study], pd.DataFrame]
    missing: Callable[[Study], str]
    say: Callable[[pd.DataFrame], str]
    draw: Callable[[Study, pd.DataFrame], Figure]
    alt: str
    caption: Callable[[pd.DataFrame], str]

    def answer(self, study: Study) -> Answer:
        """What a study answers."""
        missing = self.missing(study)
        table = pd.DataFrame() if missing else self.compute(study)
        return Answer(self, study, missing or self.say(table), table)


@dataclass(frozen=True)
class Answer:
    """What a study answers to a question.

    Args:
        question: what was asked.
        study: of what.
        sentence: the answer, or what is missing for one.
        table: what it was made from; without rows where something is missing.
    """

    question: Question
    study: Study
    sentence: str
    table: pd.DataFrame

    def show(self, work: Workspace) -> None:
        """Say the sentence, show figure and table, and write the table as CSV.

        Args:
            work: the CSV file is `answers/<key>.csv` in it; one of an earlier grid that is no answer
                any more is taken away.
        """
        figures.say(self.sentence)
        path = work.root / "answers" / f"{self.question.key}.csv"
        if self.table.empty:
            path.unlink(missing_ok=True)
            return
        asked = self.question
        figures.show(asked.draw(self.study, self.table), asked.alt, asked.caption(self.table))
        where = display_path(write_csv(self.table, path))
        told = [name for name in asked.columns if not _says_nothing(self.table[name])]
        frame = self.table[told].rename(columns={"label": "comparison"})
        figures.table(frame, f"{asked.title} (with more columns in {where})", FORMATS)


def _says_nothing(column: pd.Series) -> bool:
    """Whether a column of texts is empty throughout."""
    return bool(column.isna().all() or (column.astype(object) == "").all())


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, under a temporary name first; empty cells are values that do not exist."""
    return write_text(path, table.to_csv(index=False))
