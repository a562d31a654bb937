"""A question, its answer, and how an answer is shown: a sentence, a figure, a table that is also a CSV file.

A question whose runs are not in the grid is not asked: one sentence says what is missing and which parameter
of which notebook would bring it. All such sentences are one list (`findings.not_asked`), and nothing is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ctlib.analysis.study import GRID, Study
from ctlib.analysis.text import listed
from ctlib.core import Workspace, display_path, write_text
from ctlib.datasets import task
from ctlib.visualization import figures

FORMATS = {"p_holm": "{:.3f}", "kept": "{:.0%}", "slope": "{:.2f}", "intercept": "{:.2f}"}
"""Of columns that the usual formats do not fit."""
ABSENT = "No answer: "
"""How the sentence begins that says what is missing."""
COHORT_TABLES = ("series", "slices", "marks", "clips")
"""Tables of a cohort without which no exam can be looked at."""


@dataclass(frozen=True)
class Question:
    """How a question is answered.

    Args:
        key: a word; names the CSV file.
        title: of its section, and of the table.
        columns: of the table that are shown; the CSV file has all.
        compute: the table; it may be without rows.
        missing: why there is none, and how to get it; or ''.
        say: what the table says, in sentences; every number in them is one of the table's.
        draw: the figure, of a study and its table with rows.
        alt: what the figure shows, for those who cannot see it.
        caption: what is drawn, with patients and seeds.
        is_figure_folded: whether the figure, too, is seen by those only who ask for the numbers.
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
    is_figure_folded: bool = False

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
        """Say the sentence, show figure and table, and write the table as CSV; nothing of one that is not asked.

        Args:
            work: the CSV file is `answers/<key>.csv` in it; one of an earlier grid that is no answer
                any more is taken away.
        """
        path = work.root / "answers" / f"{self.question.key}.csv"
        if not self.sentence.startswith(ABSENT):
            figures.say(self.sentence)
        if self.table.empty:
            path.unlink(missing_ok=True)
            return
        asked = self.question
        drawn = (asked.draw(self.study, self.table), asked.alt, asked.caption(self.table), asked.key)
        write_text(path, self.table.to_csv(index=False))
        told = [name for name in asked.columns if not _says_nothing(self.table[name])]
        frame = self.table[told].rename(columns={"label": "comparison"})
        numbers = figures.table_html(frame, f"With more columns in {display_path(path)}", FORMATS)
        if asked.is_figure_folded:
            figures.show_folded(f"{asked.title}: figure and numbers", figures.figure_html(*drawn), numbers)
            return
        figures.show(*drawn)
        figures.show_folded(f"{asked.title}: numbers", numbers)


def _says_nothing(column: pd.Series) -> bool:
    """Whether a column of texts is empty throughout."""
    return bool(column.isna().all() or (column.astype(object) == "").all())


def lacking(study: Study, *inits: str) -> str:
    """A sentence where the grid lacks an init that is asked for, or ''."""
    absent = [init for init in inits if init not in study.inits]
    if not absent:
        return ""
    return f"No answer: the grid holds no run from {listed(absent, 'or')}; add it to `inits` of {GRID}."


def lacks_a_side(study: Study) -> str:
    """`lacking` of the baseline and the init that is compared with it."""
    return lacking(study, study.baseline, study.compared)


def no_finished_run(study: Study) -> str:
    """A sentence where no run is finished, or ''."""
    return "" if (study.runs["status"] == "finished").any() else f"No answer: no run is finished; see {GRID}."


def no_cohort(study: Study, names: Sequence[str]) -> str:
    """Which table of a task's cohort is missing, and which notebook writes it; or ''."""
    from ctlib.training import WRITER  # here: it loads torch

    if study.work is None:
        return "No answer: these results have no workspace, so no exam can be looked at."
    paths = [study.work.table(table, task(name).cohort) for name in names for table in COHORT_TABLES]
    absent = [display_path(path) for path in paths if not path.is_file()]
    return f"No answer: {absent[0]} is missing; {WRITER} writes it." if absent else ""
