"""Reports: one self-contained HTML file an executed notebook, and an index of a profile.

Everything a page needs is inside it (styles, images, the few lines of script), so it opens
without a network and can be mailed. What the index says of a notebook is taken from its
cells by tag:

- `finding`: each non-empty line that the cell prints (stdout), and the plain text of what
  it displays without HTML or image, is a sentence of the index; the first `MAX_FINDINGS`
  of a notebook are shown. In the report these lines are set as prose.
- `headline`: the first image of the first such cell that has one is the notebook's picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ctlib import __version__
from ctlib.notebooks import HEADER_TYPE, Failure, failure, sections
from ctlib.workspace import HOME, Places, shown, write_text

TEMPLATES = Path(__file__).with_name("templates")

MAX_FINDINGS = 6
"""Sentences of a notebook on the index."""

MAX_PICTURE_BYTES = 400_000
"""Larger pictures are left out of the index, which stays below 2 MB."""

_MARKER = "papermill-error-cell-tag"  # cells in which papermill repeats an error; the page says it itself
_DATA_IMAGE = re.compile(r'<img[^>]*?src="(data:image/[^"]+)"[^>]*?>', re.DOTALL)
_ALT = re.compile(r'alt="([^"]*)"')
_LEAD = re.compile(r"^\*\*(\w+)\*\*[ \t]*(.*?)(?=\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r'<h([23]) id="([^"]*)">(.*?)<a class="anchor-link"', re.DOTALL)
_REMOTE = re.compile(
    r"""<(?!a\b)[a-z][^<>]*?\s(?:src|href|srcset|poster|data)\s*=\s*["']?\s*((?:https?:)?//[^"'\s>]+)"""
    r"""|(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""",
    re.IGNORECASE,
)


class ReportError(ValueError):
    """An executed notebook cannot be read; the sentence names it."""


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


# ---- what an executed notebook tells ---------------------------------------------------


@dataclass(frozen=True)
class Story:
    """An executed notebook as its report and the index see it.

    Args:
        name: of the notebook.
        book: the executed copy (nbformat 4).
    """

    name: str
    book: Any

    @classmethod
    def read(cls, path: Path) -> Story:
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
                f"{shown(path)} is no readable notebook ({type(error).__name__}): run {path.stem} again."
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
        return {word: " ".join(text.split()) for word, text in _LEAD.findall(self.opening)}

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

    @property
    def picture(self) -> tuple[str, str] | None:
        """Address (`data:`) and alternative text of the first image of the cells tagged `headline`."""
        for output in self._outputs("headline"):
            data = output.get("data", {})
            found = _DATA_IMAGE.search(data.get("text/html", ""))
            if found:
                alt = _ALT.search(found[0])
                return found[1], alt[1] if alt else ""
            if "image/png" in data:
                return f"data:image/png;base64,{data['image/png'].strip()}", ""
        return None


# ---- pages -----------------------------------------------------------------------------


def _exporter() -> Any:
    """nbconvert's HTML exporter with our templates, and none of its scripts."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
        filters={"duration": duration},
        exclude_anchor_links=False,
    )
    exporter.log.setLevel("ERROR")
    return exporter


def _shaped(story: Story) -> tuple[Any, list[str]]:
    """The notebook without what the page's head already shows, and the sources of its set-up cells."""
    import copy

    book = copy.deepcopy(story.book)
    cells = [cell for cell in book.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if cells and cells[0].cell_type == "markdown":
        cells[0].source = _LEAD.sub("", re.sub(r"^# .+$", "", cells[0].source, count=1, flags=re.M)).strip()
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if HEADER_TYPE not in o.get("data", {})]
    first = next((i for i, cell in enumerate(cells) if cell.source.startswith("## ")), len(cells))
    setup = [c for c in cells[:first] if c.cell_type == "code" and not c.outputs]
    book.cells = [cell for cell in cells if cell.source.strip() and not any(cell is c for c in setup)]
    return book, [cell.source for cell in setup]


def render(executed: Path, target: Path, profile: str, names: Iterable[str] = ()) -> Story:
    """Write the report of an executed notebook, also of one that failed half-way.

    Args:
        executed: the executed copy.
        target: the HTML file.
        profile: its name, for the head of the page.
        names: the notebooks of the profile, for the links between the pages.

    Returns:
        What the notebook tells, for the index.

    Raises:
        ReportError: the copy cannot be read, or the page would load something from a network.
    """
    story = Story.read(executed)
    book, setup = _shaped(story)
    page = {
        "story": story, "profile": profile, "setup": setup, "names": list(names), "version": __version__,
        "sections": sections(book),
    }  # fmt: skip
    text, _ = _exporter().from_notebook_node(book, {"page": page})
    entries = [(int(level), link, name.strip()) for level, link, name in _HEADING.findall(text)]
    lines = [f'<li class="h{level}"><a href="#{link}">{name}</a></li>' for level, link, name in entries]
    text = text.replace("<!--contents-->", "<ol>" + "\n".join(lines) + "</ol>")
    _write(target, text)
    return story


def _write(target: Path, text: str) -> None:
    found = remote_addresses(text)
    if found:
        raise ReportError(f"{shown(target)} was not written: it would load {found[0]} from a network.")
    write_text(target, text)


def remote_addresses(text: str) -> list[str]:
    """Addresses outside the page that a browser would load on opening it; links do not count.

    >>> remote_addresses('<a href="https://a.org">x</a> <img src="https://b.org/i.png">')
    ['https://b.org/i.png']
    """
    return [first or second for first, second in _REMOTE.findall(text)]


def index(profile: str, executed: Mapping[str, Path], places: Places = HOME) -> Path:
    """Write `index.html` of a profile: what was asked, what was found, what did not run.

    Args:
        profile: its name.
        executed: the executed copy of each notebook of the profile; it need not be there.
        places: where reports and parameter files lie.

    Returns:
        Path of the page.

    Raises:
        ReportError: see `render`.
    """
    stories = {name: Story.read(path) if path.is_file() else None for name, path in executed.items()}
    entries, newest = [], None
    for name, story in stories.items():
        head = _comment(places.params / profile / f"{name}.yaml")
        told = story or Story.read(places.notebooks / f"{name}.ipynb")
        picture = story.picture if story else None
        if picture and len(picture[0]) > MAX_PICTURE_BYTES:
            picture = None
        started = story.started if story else None
        stale = bool(started and newest and started < newest)
        newest = max(filter(None, (newest, started)), default=None)
        entries.append({
            "name": name, "story": told, "status": story.status if story else "not run", "stale": stale,
            "picture": picture, "about": head.get("", ""), "expect": head.get("Expect", ""),
        })  # fmt: skip
    seconds = sum(story.timing.get("duration") or 0 for story in stories.values() if story)
    target = places.reports / profile / "index.html"
    text = (
        _exporter()
        .environment.get_template("overview.html.j2")
        .render(
            profile=profile, entries=entries, seconds=seconds, newest=newest, version=__version__,
            facts=next((s.facts for s in stories.values() if s and "commit" in s.facts), {}),
            max_findings=MAX_FINDINGS,
        )
    )  # fmt: skip
    _write(target, text)
    return target


def _comment(path: Path) -> dict[str, str]:
    """The comment that heads a parameter file: its first line under '', then by `Word:`."""
    head = path.read_text(encoding="utf-8").split("\n\n")[0] if path.is_file() else ""
    lines = [line.lstrip("# ").strip() for line in head.splitlines() if line.startswith("#")]
    found = {"": lines[0]} if lines else {}
    for line in lines[1:]:
        word, colon, text = line.partition(":")
        if colon:
            found[word] = text.strip()
    return found
