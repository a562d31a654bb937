"""Step through exams, sorted by any column, with a note on each."""

from __future__ import annotations

import html
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ctlib.core import display_path, project_path, write_text
from ctlib.visualization.viewer.scene import Scene
from ctlib.visualization.viewer.view import is_watched

NOTE_COLUMNS = ("note", "written")
N_STATIC = 10
"""Rows that are listed where nobody can step through them."""


class NotesError(ValueError):
    """A file of notes cannot be used: one sentence with file and column."""


class Notes:
    """Notes on exams in a CSV of three columns: the key, note, written (UTC).

    Args:
        path: the file; made with the first note, a relative one lies in the project.
        key: name of the key's column.

    Raises:
        NotesError: the file is there and is no such CSV.
    """

    def __init__(self, path: str | Path, key: str) -> None:
        self.path, self.key = project_path(path), key
        self._table()

    def _table(self) -> pd.DataFrame:
        """What the file holds now; another page may have written to it."""
        columns = [self.key, *NOTE_COLUMNS]
        if not self.path.is_file():
            return pd.DataFrame({name: pd.Series(dtype="str") for name in columns})
        try:
            table = pd.read_csv(self.path, dtype="str", keep_default_na=False)
        except (ValueError, OSError) as error:
            raise NotesError(f"{display_path(self.path)} cannot be read as CSV: {error}.") from error
        if list(table.columns) != columns:
            raise NotesError(
                f"{display_path(self.path)} has columns {list(table.columns)}, notes have {columns}: "
                "name another file."
            )
        return table

    def of(self, name: str) -> str:
        """The note on an exam; "" where there is none."""
        table = self._table()
        found = table.loc[table[self.key] == name, "note"]
        return str(found.iloc[-1]) if len(found) else ""

    def save(self, name: str, note: str) -> None:
        """Write a note, under a temporary name first; an empty one deletes it. Other notes stay."""
        table = self._table()
        table = table[table[self.key] != name]
        if note.strip():
            row = {self.key: name, "note": note, "written": datetime.now(UTC).isoformat(timespec="seconds")}
            table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
        write_text(self.path, table.to_csv(index=False))


class Browser:
    """Exams one by one, in JupyterLab.

    Args:
        table: one row an exam.
        exams: gives the scene of a key, for example `Exams`.
        notes: where notes are kept.
        sort_by: column it opens with, largest first.
    """

    def __init__(
        self, table: pd.DataFrame, exams: Callable[[str], Scene], notes: Notes, sort_by: str
    ) -> None:
        import ipywidgets as widgets

        from ctlib.visualization.viewer.panel import Panel

        self.exams, self.notes, self._all = exams, notes, table
        self.at = 0
        wide = {"width": "auto"}
        self.back = widgets.Button(description="previous", icon="arrow-left", layout=wide)
        self.next = widgets.Button(description="next", icon="arrow-right", layout=wide)
        self.sort = widgets.Dropdown(options=list(table.columns), value=sort_by, description="sorted by")
        self.falling = widgets.Checkbox(value=True, description="largest first", indent=False, layout=wide)
        self.facts = widgets.HTML()
        self.note = widgets.Textarea(
            placeholder="a note; kept when you leave the field", layout={"width": "100%"}
        )
        self.panel = Panel()
        self.back.on_click(lambda button: self.go(self.at - 1))
        self.next.on_click(lambda button: self.go(self.at + 1))
        self.note.continuous_update = False
        self.note.observe(self._on_note, "value")
        for control in (self.sort, self.falling):
            control.observe(lambda change: self._sort(), "value")
        row = widgets.HBox([self.back, self.next, self.sort, self.falling], layout={"flex_flow": "row wrap"})
        self.widget = widgets.VBox([row, self.facts, self.panel.widget, self.note], layout={"width": "100%"})
        self._sort()

    def _sort(self) -> None:
        order = self._all.sort_values(self.sort.value, ascending=not self.falling.value, kind="stable")
        self.table = order.reset_index(drop=True)
        self.go(0)

    @property
    def key(self) -> str:
        """Key of the exam that is shown."""
        return str(self.table.loc[self.at, self.notes.key])

    def go(self, at: int) -> None:
        """Show the exam of a place in the table as it is sorted; beyond an end, that end."""
        self.at = min(max(at, 0), len(self.table) - 1)
        self.back.disabled, self.next.disabled = self.at == 0, self.at == len(self.table) - 1
        row = self.table.loc[self.at]
        facts = ", ".join(
            f"{html.escape(str(name))} <b>{html.escape(_said(row[name]))}</b>" for name in self.table.columns
        )
        self.facts.value = f"exam {self.at + 1} of {len(self.table)}: {facts}"
        self._loading = True
        self.note.value = self.notes.of(self.key)
        self._loading = False
        self.panel.load(self.exams(self.key))

    def _on_note(self, change: dict[str, Any]) -> None:
        if not self._loading:
            self.notes.save(self.key, change["new"])

    def _ipython_display_(self) -> None:
        """Nothing: it was shown when it was made."""


def _said(value: Any) -> str:
    return "–" if pd.isna(value) else f"{value:.3f}" if isinstance(value, float) else str(value)


def browse(
    table: pd.DataFrame,
    exams: Callable[[str], Scene],
    notes: str | Path,
    sort_by: str = "disagreement",
    key: str = "series_uid",
) -> Browser | None:
    """Step through exams, sorted by any column, and write notes.

    Where nobody sits at a page, the first rows are listed.

    Args:
        table: one row an exam.
        exams: gives the scene of a key, for example `Exams`.
        notes: CSV of the notes; made with the first.
        sort_by: column that it opens with, largest first.
        key: column with which `exams` is asked and notes are kept; each value once.

    Raises:
        ValueError: a column is missing, a key is there twice, or there is no row.
        NotesError: the file of notes is another CSV.
    """
    for name in (sort_by, key):
        if name not in table.columns:
            raise ValueError(
                f"browse: the table has no column {name!r}; it has {', '.join(map(str, table))}."
            )
    if table.empty or table[key].duplicated().any():
        what = (
            "is empty"
            if table.empty
            else f"has {key} {table.loc[table[key].duplicated(), key].iloc[0]} twice"
        )
        raise ValueError(f"browse: the table {what}; give one row an exam.")
    kept = Notes(notes, key)
    if not is_watched():
        from ctlib.visualization.html import table as show_table  # here: it brings matplotlib

        ordered = table.sort_values(sort_by, ascending=False, kind="stable")
        caption = f"Exams by {sort_by}, the first {min(N_STATIC, len(table))}"
        show_table(ordered.head(N_STATIC), caption, folded=True)
        return None
    from IPython.display import display

    browser = Browser(table, exams, kept, sort_by)
    display(browser.widget)
    return browser
