"""The index of a profile, and the page of all profiles.

An index holds, for machines, what the page of all profiles says of it: that page is made from the
indices that lie beside it, wherever they were written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ctlib import __version__
from ctlib.cli.staleness import reasons
from ctlib.cli.reports.page import band, columns_of, exporter, write
from ctlib.cli.reports.executed import Executed
from ctlib.core import HOME, Places, Workspace

MAX_FINDINGS = 8
"""Sentences of a notebook on the index."""
MAX_PICTURE_BYTES = 400_000
"""A larger figure is left out of the index, which stays below 2 MB."""
_SUMMARY = re.compile(r'<script type="application/json" id="summary">(.*?)</script>', re.DOTALL)


def index(
    profile: str, executed: Mapping[str, Path], places: Places = HOME, folder: Path | None = None
) -> Path:
    """Write `index.html` of a profile: what it is about, what came out, and which pages hold.

    Args:
        profile: its name.
        executed: the executed copy of each notebook of the profile; it need not be there.
        places: where reports and parameter files lie.
        folder: where to; None for that of the pages that are committed.

    Returns:
        Path of the page.

    Raises:
        ReportError: a copy cannot be read, or the page would load something from a network.
    """
    folder = folder or places.reports / profile
    stories = {name: Executed.read(path) if path.is_file() else None for name, path in executed.items()}
    target = folder / "index.html"
    entries: list[dict[str, Any]] = []
    for name, story in stories.items():
        head = comment(places.params / profile / f"{name}.yaml")
        entries.append({
            "name": name, "story": story or Executed.read(places.notebooks / f"{name}.ipynb"),
            "status": story.status if story else "not run",
            "stale": reasons(name, story.book, profile, places) if story else [],
            "about": head.get("", ""), "expect": head.get("Expect", ""),
            "pdf": target.with_name(f"{name}.pdf").is_file(),
        })  # fmt: skip
    ran = [story for story in stories.values() if story]
    copies = next(iter(executed.values())).parent
    answer = next((e for e in reversed(entries) if e["story"].result.get("html") and e["story"].result.get("asked")), None)
    answer = answer or next((e for e in reversed(entries) if e["status"] != "not run" and e["story"].findings), None)
    page = {
        "profile": profile, "entries": entries, "answer": answer, "version": __version__,
        "band": band(copies, profile, places), "runs": _runs(copies), "tiles": _tiles(entries),
        "seconds": sum(story.timing.get("duration") or 0 for story in ran),
        "newest": max((story.started for story in ran if story.started), default=None),
        "facts": next((s.facts for s in reversed(ran) if "commit" in s.facts), {}),
        "others": [(n, _link(p, folder)) for n, p in present(places, folder).items() if p.parent != folder],
        "everything": everything(places, folder),
        "max_findings": MAX_FINDINGS, **_answered(answer or entries[-1]),
    }  # fmt: skip
    text = _template("overview.html.j2").render(**page, summary=_json(_summary(page)))
    write(target, text)
    return target


def _answered(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The question in large letters, the result with its figure, and the paper's claims in a line."""
    story = entry["story"]
    result, figure = story.result, story.figure("effect") or next(iter(story.pictures), None)
    words = [claim["verdict"] for claim in result.get("claims", [])]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return {
        "asked": result.get("asked") or story.leads.get("Question", story.title),
        "result": result if "asked" in result else {},
        "figure": figure if figure and len(figure.address) <= MAX_PICTURE_BYTES else None,
        "claims": f"Claims of Ke et al. (MIDL 2023): {counts}",
    }


def _tiles(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the notebooks left as tiles, the last notebook's first, and whether the pages hold."""
    found = [
        tile | {"page": f"{entry['name']}.html"}
        for entry in reversed(entries)
        for tile in entry["story"].result.get("tiles", [])
    ]
    n, done = len(entries), sum(entry["status"] == "done" for entry in entries)
    old = sum(bool(entry["stale"]) for entry in entries)
    words = [f"{n - done} of {n} not finished"] * (done < n) + [f"{old} of {n} outdated"] * bool(old)
    pages = {"name": "Pages up to date", "word": ", ".join(words) or f"{n} of {n}", "good": not words}
    return [*found, pages | {"page": "#pages"}]


def _runs(copies: Path) -> str:
    """How many runs of those asked for are finished, where there is a table of them."""
    status = columns_of(Workspace(copies.parent).table("runs"), "status")["status"]
    return f"{(status == 'finished').sum():,} of {len(status):,} runs finished" if len(status) else ""


def _summary(page: Mapping[str, Any]) -> dict[str, Any]:
    """What the page of all profiles says of this one."""
    answer, newest = page["answer"], page["newest"]
    return {
        "about": next((e["about"] for e in page["entries"] if e["about"]), ""),
        "commit": page["facts"].get("commit", ""),
        "newest": newest.isoformat() if newest else "",
        "band": asdict(page["band"]),
        "asked": page["asked"],
        "html": page["result"].get("html", ""),
        "findings": answer["story"].findings[:MAX_FINDINGS] if answer else [],
        "notebooks": [
            {"name": e["name"], "title": e["story"].title, "status": e["status"], "stale": e["stale"]}
            for e in page["entries"]
        ],
    }


def profiles(places: Places = HOME, folder: Path | None = None) -> Path:
    """Write `index.html` of all profiles: those with reports, and those that were not run yet.

    Args:
        places: where reports and parameter files lie.
        folder: of one of the indices; None for those that are committed.

    Returns:
        Path of the page: `reports/index.html`, or `work/index.html`.
    """
    found, indices = [], present(places, folder)
    target = _shelf(places, folder)[0] / "index.html"
    for name, path in indices.items():
        known = _SUMMARY.search(path.read_text(encoding="utf-8"))
        summary = json.loads(known[1]) if known else None
        found.append({"name": name, "folder": _link(path.parent, target.parent), "summary": summary})
    folders = sorted(p.name for p in places.params.iterdir() if p.is_dir()) if places.params.is_dir() else []
    todo = [{"name": name, "about": _about(places.params / name)} for name in folders if name not in indices]
    write(target, _template("profiles.html.j2").render(found=found, todo=todo, version=__version__))
    return target


def _shelf(places: Places, folder: Path | None) -> tuple[Path, str]:
    """Where indices lie beside each other: the folder of their page, and what finds them there.

    Those that are committed lie in `reports/<profile>/`; the others in `reports/` of their work folder, and the
    page of those in `work/` lists them by the name of that folder. A work folder elsewhere has no such page.
    """
    if folder is None or folder.parent == places.reports:
        return places.reports, "*/index.html"
    return places.work, "*/reports/index.html" if folder.parents[1] == places.work else ""


def present(places: Places, folder: Path | None = None) -> dict[str, Path]:
    """The indices that lie beside that of a folder, by the name of profile or work folder."""
    root, pattern = _shelf(places, folder)
    found = sorted(root.glob(pattern)) if pattern else []
    return {path.relative_to(root).parts[0]: path for path in found}


def everything(places: Places, folder: Path) -> str:
    """Link from a folder of reports to the page of all profiles; "" where none lists it."""
    root, pattern = _shelf(places, folder)
    return _link(root / "index.html", folder) if pattern else ""


def _link(path: Path, folder: Path) -> str:
    """Address of a file in the pages of a folder."""
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def _about(folder: Path) -> str:
    """The first line of a profile's first parameter file."""
    return next((comment(path).get("", "") for path in sorted(folder.glob("*.yaml"))), "")


def comment(path: Path) -> dict[str, str]:
    """The comment that heads a parameter file: its first line under '', then by `Word:`."""
    head = path.read_text(encoding="utf-8").split("\n\n")[0] if path.is_file() else ""
    lines = [line.lstrip("# ").strip() for line in head.splitlines() if line.startswith("#")]
    found = {"": lines[0]} if lines else {}
    for line in lines[1:]:
        word, colon, text = line.partition(":")
        if colon:
            found[word] = text.strip()
    return found


def _json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def _template(name: str) -> Any:
    return exporter().environment.get_template(name)
