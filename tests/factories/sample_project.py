"""A small project of notebooks in a folder of its own, for the tests of what runs and shows them."""

import json
from pathlib import Path

from ctlib.core.workspace import Places

OPENING = "# Step {n}\n\n**Question** Does step {n} work?\n\n**Reads** `nothing`.\n\n**Writes** nothing."
PARAMETERS = """\
profile: str = "small"  # folder of params/
work_dir: str = {work!r}  # folder of everything computed
rate: float = 0.5  # per step
seeds: list[int] = [0, 1]  # seeds
limit: int | None = None  # steps; None for no limit"""
PARAMETER_FILE = """\
# Nothing that matters.
# Time: seconds. Hardware: any.
# Expect: a line.

profile: small
work_dir: {work!r}
rate: 0.25
seeds: [0, 1]
limit: null
"""


def cell(kind, source, *tags):
    made = {"cell_type": kind, "source": source}
    made["metadata"] = {"tags": list(tags)} if tags else {}
    return made | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def markdown(source):
    return cell("markdown", source)


def code(source, *tags):
    return cell("code", source, *tags)


def notebook(cells):
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    named = [c | {"id": f"cell-{i}"} for i, c in enumerate(cells)]
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": named}


def project(root: Path, *bodies) -> Places:
    """Notebooks 01_step, 02_step, ... with these cells after the opening ones, and their profile `small`."""
    names = tuple(f"{n:02d}_step" for n in range(1, len(bodies) + 1))
    work = str(root / "work {rate}")  # braces: papermill must not fill them in
    places = Places(root / "notebooks", root / "params", root / "reports", names, root)
    for folder in (places.notebooks, places.params / "small"):
        folder.mkdir(parents=True)
    imports = (
        "from pathlib import Path\nfrom ctlib.cli import notebooks\nfrom ctlib.core.workspace import Places"
    )
    for n, (name, body) in enumerate(zip(names, bodies, strict=True), start=1):
        header = f"notebooks.header({name!r}, globals(), Places(notebooks=Path({str(places.notebooks)!r})))"
        cells = [markdown(OPENING.format(n=n)), code(imports)]
        cells += [code(PARAMETERS.format(work=work), "parameters"), code(header), *body]
        (places.notebooks / f"{name}.ipynb").write_text(json.dumps(notebook(cells)))
        (places.params / "small" / f"{name}.yaml").write_text(PARAMETER_FILE.format(work=work))
    return places
