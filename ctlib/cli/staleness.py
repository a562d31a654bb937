"""Whether what an executed notebook shows is still what it would show: its inputs, then and now.

When a notebook is executed, the content of the tables that it reads and of the package's code, and the
`--set` of the command, are noted in the copy's metadata. Which tables are read is what its first cell says:
those that the notebooks named beside **Reads** name beside **Writes**. Notebook and parameters need no note:
the copy holds both. A copy that was executed otherwise (JupyterLab, plain papermill) has no note; its tables
are compared by time.

A whole profile is another question: when all its notebooks have come to their end, what they read, wrote
and were is kept as one digest, and while that holds there is nothing to execute (`nothing_changed`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ctlib.core import (
    HOME,
    PROJECT,
    ParameterError,
    Places,
    Workspace,
    load_profile,
    project_path,
    write_text,
)

KEY = "ctlib"
"""Of the note in a copy's metadata."""
PACKAGE = PROJECT / "ctlib"
_NAMES = re.compile(r"`(\w+)`")
MAX_NAMED = 3
"""Changed things that a sentence names."""


def note(
    notebook: str, values: Mapping[str, Any], places: Places = HOME, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """What an executed copy is to remember of its inputs.

    Args:
        notebook: its name.
        values: its parameters.
        places: where the notebook lies.
        overrides: the `--set` with which it has them.

    Returns:
        `tables`: digest of each table that is read, by its path in the workspace; `code`: digest of the
        package; both of this moment; `set`: the overrides.
    """
    work = Workspace.at(values["work_dir"])
    return {
        "tables": {path: _digest(work.root / path) for path in _read(notebook, work, places)},
        "code": _code(),
        "set": list(overrides),
    }


def remember(path: Path, noted: Mapping[str, Any]) -> None:
    """Write a note into an executed copy, if there is one."""
    import nbformat

    if path.is_file():
        book = nbformat.read(path, as_version=4)
        book.metadata[KEY] = dict(noted)
        write_text(path, nbformat.writes(book))


def nothing_changed(profile: str, values: Mapping[str, Mapping[str, Any]], places: Places = HOME) -> bool:
    """Whether executing all notebooks of a profile again would show what it showed.

    So it is where `keep` noted the same digest: of the parameters, notebooks, plan and profile, the package
    and the versions of all others, and of names, sizes and times of all files of the workspace (but of its
    reports) and of what parameters name, raw data among them. A network of one's own is a module anywhere,
    so then never.

    Args:
        profile: its name.
        values: parameters of each of its notebooks.
        places: where notebooks, profiles and reports lie.
    """
    path = _kept_at(values)
    return path.is_file() and path.read_text(encoding="utf-8") == _state(profile, values, places)


def keep(profile: str, values: Mapping[str, Mapping[str, Any]], places: Places = HOME) -> None:
    """Note that all notebooks of a profile came to their end with all as it is now."""
    write_text(_kept_at(values), _state(profile, values, places))


def _kept_at(values: Mapping[str, Mapping[str, Any]]) -> Path:
    return Workspace.at(next(iter(values.values()))["work_dir"]).notebooks / ".finished"


def _state(profile: str, values: Mapping[str, Mapping[str, Any]], places: Places) -> str:
    from importlib.metadata import distributions

    backbones = [v[key] for v in values.values() for key in v if "backbones" in key]
    if any(":" in name and not name.startswith("timm:") for name in _texts(backbones)):  # module:function
        return f"not known: {os.urandom(16).hex()}"
    text = json.dumps(values, sort_keys=True)
    whole = hashlib.blake2b(f"{text}\0{_code()}".encode(), digest_size=16)
    whole.update(repr(sorted({(d.name, d.version) for d in distributions()})).encode())
    for path in (
        *sorted((places.params / profile).iterdir()),
        *(places.notebooks / f"{n}.ipynb" for n in values),
    ):
        whole.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    named = {project_path(text) for text in _texts(values) if text}
    finished = _kept_at(values)
    pages = Workspace(finished.parents[1]).reports
    for root in sorted(path for path in named if path.exists()):
        for file in sorted(_files(root)):
            if file != finished and pages not in file.parents:
                found = file.stat() if file.exists() else file.lstat()  # a broken link is one, too
                whole.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return whole.hexdigest()


def _texts(value: Any) -> Iterator[str]:
    """All texts within parameters."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for inner in value.values() for text in _texts(inner))
    elif isinstance(value, list | tuple):
        yield from (text for inner in value for text in _texts(inner))


def _files(root: Path) -> Iterator[Path]:
    """A file, or all files of a folder."""
    if root.is_file():
        yield root
    for folder, _, names in os.walk(root):
        yield from (Path(folder, name) for name in names)


def reasons(notebook: str, book: Any, profile: str, places: Places = HOME) -> list[str]:
    """Why an executed copy is stale, one phrase each; empty where it is fresh.

    Args:
        notebook: its name.
        book: the executed copy (nbformat 4).
        profile: the profile whose report it is.
        places: where notebooks and profiles lie.
    """
    found = list(_notebook_changed(notebook, book, places))
    given = book.metadata.get("papermill", {}).get("parameters", {})
    noted = book.metadata.get(KEY, {})
    try:
        now = load_profile(profile, noted.get("set", ()), places).get(notebook, {})
    except ParameterError:
        return [*found, "the parameter files of the profile cannot be read"]
    differing = [name for name, value in now.items() if name in given and given[name] != value]
    if differing:
        found.append(f"{_listed(differing)} {_verb(differing, 'differs', 'differ')} from the parameter file")
    if "work_dir" in {**now, **given}:
        found += _tables_changed(notebook, book, Workspace.at({**now, **given}["work_dir"]), places)
    if noted.get("code", _code()) != _code():
        found.append("ctlib's code has changed")
    return found


def _notebook_changed(notebook: str, book: Any, places: Places) -> Iterator[str]:
    import nbformat

    path = places.notebooks / f"{notebook}.ipynb"
    if not path.is_file():
        yield "its notebook is gone"
        return
    now = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    injected = ("injected-parameters", "papermill-error-cell-tag")
    then = [c.source for c in book.cells if not set(injected) & set(c.metadata.get("tags", []))]
    if now != then:
        yield "its notebook has changed"


def _tables_changed(notebook: str, book: Any, work: Workspace, places: Places) -> Iterator[str]:
    then = book.metadata.get(KEY, {}).get("tables")
    if then is None:
        started = book.metadata.get("papermill", {}).get("start_time")
        began = datetime.fromisoformat(started).timestamp() if started else float("inf")
        paths = _read(notebook, work, places)
        newer = [_name(path) for path in paths if (work.root / path).stat().st_mtime > began]
        if newer:
            yield f"{_listed(newer)} {_verb(newer, 'is', 'are')} newer"
        return
    changed = [
        p for p, digest in then.items() if (work.root / p).is_file() and _digest(work.root / p) != digest
    ]
    new = [path for path in _read(notebook, work, places) if path not in then]
    gone = [path for path in then if not (work.root / path).is_file()]
    for paths, one, many in (
        (changed, "has changed", "have changed"),
        (new, "is new", "are new"),
        (gone, "is gone", "are gone"),
    ):
        if paths:
            yield f"{_listed([_name(path) for path in paths])} {_verb(paths, one, many)}"


def _read(notebook: str, work: Workspace, places: Places) -> list[str]:
    """The tables in the workspace that a notebook reads, as paths in it."""
    from ctlib.core import tables  # with pandas, which the command line does not import

    earlier = [
        n for n in places.names if n in _NAMES.findall(_lead(notebook, "Reads", places)) and n != notebook
    ]
    written = {name for n in earlier for name in _NAMES.findall(_lead(n, "Writes", places))}
    known = sorted(written & set(tables.SCHEMAS))
    folder = work.root / "tables"
    found = [
        path
        for name in known
        for path in (*folder.glob(f"{name}.parquet"), *folder.glob(f"*/{name}.parquet"))
    ]
    return sorted(path.relative_to(work.root).as_posix() for path in found)


def _lead(notebook: str, word: str, places: Places) -> str:
    """The paragraph of a notebook's first cell that begins with a bold word."""
    import nbformat

    path = places.notebooks / f"{notebook}.ipynb"
    cells = nbformat.read(path, as_version=4).cells if path.is_file() else []
    found = re.search(rf"^\*\*{word}\*\*(.*?)(?=\n\s*\n|\Z)", cells[0].source, re.M | re.S) if cells else None
    return found[1] if found else ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _code() -> str:
    """Digest of the names and the contents of the package's modules, and of the data beside them."""
    together = hashlib.blake2b(digest_size=16)
    for path in sorted((*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.yaml"))):
        together.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return together.hexdigest()


def _name(path: str) -> str:
    """A table as people read it: `runs`, or `lidc/series`."""
    return f"table {path.removeprefix('tables/').removesuffix('.parquet')}"


def _listed(names: list[str]) -> str:
    """Some of the names, and how many more there are.

    >>> _listed(["a", "b"]), _listed(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _verb(things: list[str], one: str, many: str) -> str:
    return one if len(things) == 1 else many
