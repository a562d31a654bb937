"""The page of one notebook: everything is inside it, and nothing is loaded from a network."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ctlib import __version__
from ctlib.cli.notebooks import HEADER_TYPE, sections
from ctlib.cli.reports.executed import LEAD, ReportError, Executed, duration
from ctlib.core import command, display_path, write_text

TEMPLATES = Path(__file__).parent / "templates"
_HEADING = re.compile(r'<h([23]) id="([^"]*)">(.*?)<a class="anchor-link"', re.DOTALL)
_REMOTE = re.compile(
    r"""<(?!a\b)[a-z][^<>]*?\s(?:src|href|srcset|poster|data)\s*=\s*["']?\s*((?:https?:)?//[^"'\s>]+)"""
    r"""|(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""",
    re.IGNORECASE,
)
_VERDICT = re.compile(r"^Claim \d.*?: [a-z ]+\.|^Method check.*?: (?:not )?passed|(?<=\? )[A-Z][a-z ]+(?=: )")


def judged(line: str) -> str:
    """A finding as HTML, its verdict in bold: what a reader looks for among the numbers.

    >>> judged("Claim 1, it helps: not decided here. +0.1 < 0.2")
    '<strong>Claim 1, it helps: not decided here.</strong> +0.1 &lt; 0.2'
    >>> judged("Does it help? Not decided: video − random is")
    'Does it help? <strong>Not decided</strong>: video − random is'
    """
    return _VERDICT.sub(r"<strong>\g<0></strong>", html.escape(line, quote=False), count=1)


def exporter() -> Any:
    """nbconvert's HTML exporter with our templates, and none of its scripts."""
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    exporter = HTMLExporter(
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
        filters={"duration": duration, "judged": judged},
        exclude_anchor_links=False,
    )
    exporter.log.setLevel("ERROR")
    # a cell that prints a line a run would have a box for each
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    return exporter


def _shaped(story: Executed) -> tuple[Any, list[str]]:
    """The notebook without what the page's head already shows, and the sources of its set-up cells."""
    import copy

    book = copy.deepcopy(story.book)
    cells = [cell for cell in book.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if cells and cells[0].cell_type == "markdown":
        cells[0].source = LEAD.sub("", re.sub(r"^# .+$", "", cells[0].source, count=1, flags=re.M)).strip()
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if HEADER_TYPE not in o.get("data", {})]
    first = next((i for i, cell in enumerate(cells) if cell.source.startswith("## ")), len(cells))
    setup = [c for c in cells[:first] if c.cell_type == "code" and not c.outputs]
    book.cells = [cell for cell in cells if cell.source.strip() and not any(cell is c for c in setup)]
    return book, [cell.source for cell in setup]


def render(
    executed: Path,
    target: Path,
    profile: str,
    names: Iterable[str] = (),
    stale: Sequence[str] = (),
    everything: str = "../index.html",
) -> Executed:
    """Write the report of an executed notebook, also of one that failed half-way.

    Args:
        executed: the executed copy.
        target: the HTML file.
        profile: its name, for the head of the page.
        names: the notebooks of the profile, for the links between the pages.
        stale: why it is stale (`staleness.reasons`).
        everything: link to the page of all profiles; "" for none.

    Returns:
        What the notebook tells, for the index.

    Raises:
        ReportError: the copy cannot be read, or the page would load something from a network.
    """
    story = Executed.read(executed)
    book, setup = _shaped(story)
    page = {
        "story": story, "profile": profile, "setup": setup, "names": list(names), "version": __version__,
        "sections": sections(book), "stale": list(stale), "everything": everything,
        "again": command("run", profile, "--only", story.name[:2], settings=story.settings),
    }  # fmt: skip
    text, _ = exporter().from_notebook_node(book, {"page": page})
    entries = [(int(level), link, name.strip()) for level, link, name in _HEADING.findall(text)]
    lines = [f'<li class="h{level}"><a href="#{link}">{name}</a></li>' for level, link, name in entries]
    text = text.replace("<!--contents-->", "<ol>" + "\n".join(lines) + "</ol>")
    write(target, text)
    return story


def write(target: Path, text: str) -> None:
    """Write a page.

    Raises:
        ReportError: it would load something from a network.
    """
    found = remote_addresses(text)
    if found:
        raise ReportError(f"{display_path(target)} was not written: it would load {found[0]} from a network.")
    write_text(target, text)


def remote_addresses(text: str) -> list[str]:
    """Addresses outside the page that a browser would load on opening it; links do not count.

    >>> remote_addresses('<a href="https://a.org">x</a> <img src="https://b.org/i.png">')
    ['https://b.org/i.png']
    """
    return [first or second for first, second in _REMOTE.findall(text)]
