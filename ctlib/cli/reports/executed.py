"""What an executed notebook tells: its title and question, its findings, its pictures, how it ended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ctlib.cli.notebooks import HEADER_TYPE, Failure, failure
from ctlib.cli.staleness import KEY
from ctlib.core import display_path
from ctlib.visualization import RESULT_TYPE

LEAD = re.compile(r"^\*\*(\w+)\*\*[ \t]*(.*?)(?=\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)
"""A paragraph of the first cell that begins with a bold word."""
_MARKER = "papermill-error-cell-tag"  # cells in which papermill repeats an error; the page says it itself
_FIGURE = re.compile(r'<figure[^>]*? id="figure-(\w+)".*?</figure>', re.DOTALL)
_IMAGE = re.compile(r'<img[^>]*?src="(data:image/[^"]+)"[^>]*?>', re.DOTALL)
_ALT = re.compile(r'alt="([^"]*)"')


class ReportError(ValueError):
    """An executed notebook cannot be read, or its report not be written; the sentence names it."""


@dataclass(frozen=True)
class Thumbnail:
    """A picture for the index.

    Args:
        address: `data:` address of the picture.
        alt: what is seen, as HTML.
        is_chart: whether it is lines on white, which may be turned for dark mode.
    """

    address: str
    alt: str
    is_chart: bool


def duration(seconds: float | None) -> str:
    """Seconds as people say them.

    >>> duration(41.3), duration(372), duration(4000), duration(None)
    ('41 s', '6 min 12 s', '1 h 6 min', '')
    """
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass(frozen=True)
class Executed:
    """An executed notebook as its report and the index see it.

    Args:
        name: of the notebook.
        book: the executed copy (nbformat 4).
    """

    name: str
    book: Any

    @classmethod
    def read(cls, path: Path) -> Executed:
        """Read an executed copy.

        Raises:
            ReportError: it is missing, cut off or no notebook.
        """
        import nbformat

        try:
            book = nbformat.read(path, as_version=4)
            book.cells = [c for c in book.cells if _MARKER not in c.metadata.get("tags", [])]
            return cls(path.stem, book)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ReportError(
                f"{display_path(path)} is no readable notebook ({type(error).__name__}): run {path.stem} again."
            ) from error

    @cached_property
    def failure(self) -> Failure | None:
        """Where it stopped with an error."""
        return failure(self.book)

    @property
    def status(self) -> str:
        """`done`, `failed`, or `interrupted` where it was killed or still runs."""
        if self.failure is not None:
            return "interrupted" if self.failure.error.startswith("KeyboardInterrupt") else "failed"
        return "done" if self.timing.get("end_time") else "interrupted"

    @property
    def timing(self) -> Mapping[str, Any]:
        """What papermill notes about the execution: start_time, end_time, duration (s), parameters."""
        return self.book.metadata.get("papermill", {})

    @property
    def settings(self) -> list[str]:
        """The `--set` with which it was executed."""
        return list(self.book.metadata.get(KEY, {}).get("set", []))

    @property
    def started(self) -> datetime | None:
        """When it began, with its time zone."""
        text = self.timing.get("start_time")
        return datetime.fromisoformat(text) if text else None

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the header cell left; where that was not reached, the parameters that were given."""
        for output in self._outputs():
            if HEADER_TYPE in output.get("data", {}):
                return dict(output.data[HEADER_TYPE])
        given = self.timing.get("parameters", {})
        return {"parameters": [[name, repr(value), ""] for name, value in given.items()]}

    @property
    def opening(self) -> str:
        """The source of the first cell."""
        return self.book.cells[0].source if self.book.cells else ""

    @property
    def title(self) -> str:
        """The first heading, or the notebook's name."""
        found = re.search(r"^# (.+)$", self.opening, re.MULTILINE)
        return found[1].strip() if found else self.name

    @cached_property
    def leads(self) -> dict[str, str]:
        """The paragraphs of the first cell that begin with a bold word, by that word."""
        return {word: " ".join(text.split()) for word, text in LEAD.findall(self.opening)}

    def _outputs(self, tag: str = "") -> Iterable[Any]:
        for cell in self.book.cells:
            if not tag or tag in cell.metadata.get("tags", []):
                yield from cell.get("outputs", [])

    @property
    def findings(self) -> list[str]:
        """The sentences of the cells tagged `finding`."""
        texts = []
        for output in self._outputs("finding"):
            data = output.get("data", {})
            if output.output_type == "stream" and output.name == "stdout":
                texts.append(output.text)
            elif "text/plain" in data and not any(t == "text/html" or t.startswith("image/") for t in data):
                texts.append(data["text/plain"])
        return [line.strip() for text in texts for line in text.splitlines() if line.strip()]

    @cached_property
    def result(self) -> dict[str, Any]:
        """What a cell left for the index (`ctlib.analysis.findings.show_result`), and `html`: the table it showed.

        Of several such cells the last says each thing. Empty where there is none.
        """
        found: dict[str, Any] = {}
        for output in self._outputs():
            data = output.get("data", {})
            if RESULT_TYPE in data:
                found |= {**data[RESULT_TYPE], "html": data.get("text/html", "")}
        return found

    def figure(self, key: str) -> Thumbnail | None:
        """The figure that answers a question of `ctlib.analysis.findings`, by its key."""
        for output in self._outputs():
            for figure in _FIGURE.finditer(output.get("data", {}).get("text/html", "")):
                if figure[1] == key:
                    return _thumbnail(figure[0])
        return None

    @cached_property
    def pictures(self) -> list[Thumbnail]:
        """The first image of each output of the cells tagged `headline`, in their order."""
        found = []
        for output in self._outputs("headline"):
            data = output.get("data", {})
            image = _thumbnail(data.get("text/html", ""))
            if image:
                found.append(image)
            elif "image/png" in data:
                found.append(Thumbnail(f"data:image/png;base64,{data['image/png'].strip()}", "", False))
        return found


def _thumbnail(text: str) -> Thumbnail | None:
    """The first picture of some HTML."""
    image = _IMAGE.search(text)
    if image is None:
        return None
    alt = _ALT.search(image[0])
    return Thumbnail(image[1], alt[1] if alt else "", "ct-chart" in text[: image.start()])
