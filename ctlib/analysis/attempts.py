"""The register beside a plan: each time that its runs were made for a report, and what came out.

It is committed, so that a reader sees how often something was tried before it succeeded.
"""

from __future__ import annotations

import csv

from ctlib.core import HOME, ParameterError, Places, display_path

ATTEMPTS = "attempts.csv"
"""File of a profile with a row for each time that the runs of a plan were made for a report."""
ATTEMPT = ("date", "commit", "plan", "came_out", "minutes", "machine")
"""Its columns: UTC day, commit of the code, hash of the plan, the words, minutes of the whole, processor."""


def attempts(profile: str, places: Places = HOME) -> list[dict[str, str]]:
    """The register of a profile: a row each time that its runs were made for a report, columns `ATTEMPT`.

    Raises:
        ParameterError: the file has other columns.
    """
    path = places.params / profile / ATTEMPTS
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != ATTEMPT:
            raise ParameterError(
                [f"{display_path(path)} has columns {rows.fieldnames}; give {', '.join(ATTEMPT)}."]
            )
        return list(rows)
