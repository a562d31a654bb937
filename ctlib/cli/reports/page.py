"""The page of one notebook: everything is inside it, and nothing is loaded from a network."""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ctlib import __version__
from ctlib.analysis import preregistration
from ctlib.cli.notebooks import HEADER_TYPE, sections
from ctlib.cli.reports.executed import LEAD, ReportError, Executed, duration
from ctlib.core import HOME, ParameterError, Places, command, counted, display_path, write_text
from ctlib.datasets import COHORTS, FOLDER, PHANTOM_MAKERS

TEMPLATES = Path(__file__).parent / "templates"
_HEADING = re.compile(r'<h([23]) id="([^"]*)">(.*?)<a class="anchor-link"', re.DOTALL)
_REMOTE = re.compile(
    r"""<(?!a\b)[a-z][^<>]*?\s(?:src|href|srcset|poster|data)\s*=\s*["']?\s*((?:https?:)?//[^"'\s>]+)"""
    r"""|(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""",
    re.IGNORECASE,
)
ABBREVIATIONS = {
    "AUROC": "area under the ROC curve: 0.5 is chance, 1 is perfect",
    "AUPRC": "area under the precision-recall curve: chance is the share with disease",
    "ROC": "receiver operating characteristic: sensitivity against false alarms",
    "HU": "Hounsfield units: air is -1000, water is 0",
    "CI": "confidence interval",
    "ECE": "expected calibration error",
    "SSL": "self-supervised learning, without labels",
    "GB": "gigabytes",
    "MB": "megabytes",
    "DICOM": "Digital Imaging and Communications in Medicine: the files of scanners",
    "NIfTI": "a file format of volumes",
    "TCIA": "The Cancer Imaging Archive",
}
"""What the first of each abbreviation in a section has as its title."""
_SHORT = re.compile(rf"\b({'|'.join(ABBREVIATIONS)})\b")
_ATOM = re.compile(
    r"<(head|nav|dl|script|style|svg|pre|code|h[1-3]|abbr|button|option|textarea)\b.*?</\1>|<[^>]*>", re.DOTALL
)
"""What no abbreviation is looked for in: a tag, or an element with all that is in it."""
_VERDICT = re.compile(r"^Claim \d.*?: [a-z ]+\.|^Method check.*?: (?:not )?passed|(?<=\? )[A-Z][a-z ]+(?=: )")


def judged(line: str) -> str:
    """A finding as HTML, its verdict in bold: what a reader looks for among the numbers.

    >>> judged("Claim 1, it helps: inconclusive. +0.1 < 0.2")
    '<strong>Claim 1, it helps: inconclusive.</strong> +0.1 &lt; 0.2'
    >>> judged("Does it help? Not decided: video − random is")
    'Does it help? <strong>Not decided</strong>: video − random is'
    """
    return _VERDICT.sub(r"<strong>\g<0></strong>", html.escape(line, quote=False), count=1)


@dataclass(frozen=True)
class Band:
    """What a page says of its data before anything else.

    Args:
        kind: synthetic, real, printed or none.
        head: its first words, in bold.
        text: the rest.
    """

    kind: str
    head: str
    text: str


def band(folder: Path, profile: str, places: Places = HOME) -> Band:
    """The band of all pages of a workspace, decided by its tables `series` and what its notebooks were given.

    Args:
        folder: of the executed copies, in the workspace.
        profile: whose plan says whom it is about.
        places: where the plan lies.
    """
    given = _given(folder)
    if given.get("cells_file"):
        text = f"{given.get('source', given['cells_file'])}. Nothing was computed here from exams of patients."
        return Band("printed", "Figures printed in a paper:", text)
    made, data = [], []
    for path in sorted((folder.parent / "tables").glob("*/series.parquet")):
        name = path.parent.name
        series = columns_of(path, "manufacturer", "patient_id", "study_uid")
        if series.empty or name not in COHORTS or name not in given.get("cohorts", [name]):
            continue
        made += [name] if series["manufacturer"].isin(PHANTOM_MAKERS).any() else []
        exams, patients = (series[column].nunique() for column in ("study_uid", "patient_id"))
        source = given.get("folder_root", "") if name == FOLDER else COHORTS[name].terms
        data.append(f"{name}: {counted(exams, 'exam')} of {counted(patients, 'patient')}, {source}")
    if not data:
        return Band("none", "No exams were read yet.", "")
    if made:
        only = "" if len(made) == len(data) else f" (only cohort {' and '.join(made)})"
        told = "a test of the method. Nothing here is about patients."
        return Band("synthetic", f"SYNTHETIC CHESTS{only}:", told)
    about = "Patients"
    with contextlib.suppress(ParameterError):  # whoever runs the profile is told
        plan = preregistration.read(profile, places)
        about = plan.population if plan else about
    return Band("real", f"{about[:1].upper()}{about[1:]}.", f"Cohort {'; cohort '.join(data)}.")


def columns_of(path: Path, *names: str) -> pd.DataFrame:
    """Some columns of a table; without rows where it is not there or broken, as a page is written even then."""
    try:
        return pd.read_parquet(path, columns=list(names))
    except (OSError, ValueError, KeyError):
        return pd.DataFrame(columns=list(names))


def _given(folder: Path) -> dict[str, Any]:
    """The parameters of all executed copies of a folder; of one that cannot be read, none."""
    given: dict[str, Any] = {}
    for path in sorted(folder.glob("*.ipynb")):
        with contextlib.suppress(ValueError, KeyError):
            given |= json.loads(path.read_text(encoding="utf-8"))["metadata"]["papermill"]["parameters"]
    return given


def abbreviated(text: str) -> str:
    """A page in which the first of each of `ABBREVIATIONS` in a section says on hovering what it is short for.

    >>> abbreviated("<section><p>40 HU, 3 HU <code>HU</code></p></section>")
    '<section><p>40 <abbr title="Hounsfield units: air is -1000, water is 0">HU</abbr>, 3 HU <code>HU</code></p></section>'
    """
    parts, met, at = [], set[str](), 0

    def titled(found: re.Match[str]) -> str:
        if found[0] in met:
            return found[0]
        met.add(found[0])
        return f'<abbr title="{ABBREVIATIONS[found[0]]}">{found[0]}</abbr>'

    for atom in _ATOM.finditer(text):
        parts += [_SHORT.sub(titled, text[at : atom.start()]), atom[0]]
        at = atom.end()
        if atom[0].startswith("<section"):
            met.clear()
    return "".join([*parts, text[at:]])


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
    cells = _told(cells)
    first = next((i for i, cell in enumerate(cells) if cell.source.startswith("## ")), len(cells))
    setup = [c for c in cells[:first] if c.cell_type == "code" and not c.outputs]
    book.cells = [cell for cell in cells if cell.source.strip() and not any(cell is c for c in setup)]
    return book, [cell.source for cell in setup]


def _told(cells: list[Any]) -> list[Any]:
    """The cells without sections whose code is tagged `optional` and showed nothing: questions without runs."""
    parts: list[list[Any]] = [[]]
    for cell in cells:
        parts += [[]] if cell.source.startswith("## ") else []
        parts[-1].append(cell)

    def is_silent(part: list[Any]) -> bool:
        code = [cell for cell in part if cell.cell_type == "code"]
        tagged = all("optional" in c.metadata.get("tags", []) and c.execution_count for c in code)
        return bool(code) and tagged and not any(c.outputs for c in code)

    return [cell for part in parts if not is_silent(part) for cell in part]


def render(
    executed: Path,
    target: Path,
    profile: str,
    names: Iterable[str] = (),
    stale: Sequence[str] = (),
    everything: str = "../index.html",
    places: Places = HOME,
) -> Executed:
    """Write the report of an executed notebook, also of one that failed half-way.

    Args:
        executed: the executed copy.
        target: the HTML file.
        profile: its name, for the head of the page.
        names: the notebooks of the profile, for the links between the pages.
        stale: why it is outdated (`staleness.reasons`).
        everything: link to the page of all profiles; "" for none.
        places: where the profile's plan lies.

    Returns:
        What the notebook tells, for the index.

    Raises:
        ReportError: the copy cannot be read, or the page would load something from a network.
    """
    story = Executed.read(executed)
    book, setup = _shaped(story)
    page = {
        "story": story, "profile": profile, "setup": setup, "names": list(names), "version": __version__,
        "sections": sections(book), "stale": list(stale), "band": band(executed.parent, profile, places),
        "everything": everything,
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
    write_text(target, abbreviated(text))


def remote_addresses(text: str) -> list[str]:
    """Addresses outside the page that a browser would load on opening it; links do not count.

    >>> remote_addresses('<a href="https://a.org">x</a> <img src="https://b.org/i.png">')
    ['https://b.org/i.png']
    """
    return [first or second for first, second in _REMOTE.findall(text)]
