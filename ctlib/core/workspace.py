"""Where each file of a profile lies, and which notebook writes it.

Everything computed goes under one folder, `work/<profile>`; notebooks pass state only by
the files in it. Relative paths in parameters are relative to the project (the folder that
holds `pyproject.toml`), so a notebook finds the same files from JupyterLab, papermill and
the command line.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctlib.core.text import command, printable

PROJECT = Path(__file__).resolve().parents[2]
"""The project's folder."""

NOTEBOOKS = ("00_published", "01_explore_data", "02_pretrain", "03_finetune_grid", "04_analyze")
"""The notebooks, in the order in which they run."""
PLAN = "plan.yaml"
"""File of a profile that says what was fixed before the results were seen (`ctlib.analysis.preregistration`)."""


@dataclass(frozen=True)
class Places:
    """Where notebooks, profiles and reports lie; the defaults are the project's folders.

    Args:
        notebooks: folder of the notebooks.
        params: folder of the profiles, one folder each.
        reports: folder of the reports that are committed, one folder a profile.
        names: the notebooks, in the order in which they run.
        work: folder of the page that lists the reports of all work folders in it.
    """

    notebooks: Path = PROJECT / "notebooks"
    params: Path = PROJECT / "params"
    reports: Path = PROJECT / "reports"
    names: tuple[str, ...] = NOTEBOOKS
    work: Path = PROJECT / "work"

    def find(self, name: str) -> str | None:
        """The notebook of a name or of its number; None where there is none.

        >>> Places().find("03"), Places().find("3"), Places().find("04_analyze"), Places().find("07")
        ('03_finetune_grid', '03_finetune_grid', '04_analyze', None)
        """
        for notebook in self.names:
            if name in (notebook, notebook[:2], notebook[:2].lstrip("0")):
                return notebook
        return None


HOME = Places()
"""The project's own places."""


class MissingInput(FileNotFoundError):
    """A notebook's input is missing: the sentence names it and the notebook that writes it."""


def project_path(path: str | Path) -> Path:
    """An absolute path; a relative one is taken from the project's folder.

    >>> project_path("work/demo") == PROJECT / "work" / "demo"
    True
    """
    return Path(os.path.normpath(PROJECT / Path(path).expanduser()))


def display_path(path: Path) -> str:
    """A path as people read it: relative to the project where it lies inside.

    >>> display_path(PROJECT / "work" / "demo")
    'work/demo'
    """
    return printable(str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, which is made; it becomes `path` if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text file under a temporary name, then rename it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write JSON with sorted keys, under a temporary name first."""
    return write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Workspace:
    """The folder of one profile.

    Args:
        root: `work/<profile>`, absolute; `Workspace.at` resolves a parameter.
    """

    root: Path

    @classmethod
    def at(cls, work_dir: str | Path) -> Workspace:
        """The workspace of a parameter `work_dir`."""
        return cls(project_path(work_dir))

    def table(self, name: str, cohort: str = "") -> Path:
        """`tables/<name>.parquet`, or `tables/<cohort>/<name>.parquet`."""
        return self.root / "tables" / cohort / f"{name}.parquet"

    def store(self, cohort: str) -> Path:
        """Folder of the stored volumes of a cohort."""
        return self.root / "store" / cohort

    def weights(self, init: str, backbone: str) -> Path:
        """Weights that were pretrained here."""
        return self.root / "weights" / init / f"{backbone}.safetensors"

    @property
    def credentials(self) -> Path:
        """Key and certificate of the schedulers that compute for this folder (`ctlib.grid.credentials`)."""
        return self.root / "tls.pem"

    @property
    def videos(self) -> Path:
        """Folder of labelled videos, one folder a class."""
        return self.root / "videos"

    @property
    def frames(self) -> Path:
        """Folder of the decoded frames of videos."""
        return self.root / "frames"

    @property
    def runs(self) -> Path:
        """Folder of the runs, one folder a run id."""
        return self.root / "runs"

    @property
    def notebooks(self) -> Path:
        """Folder of the executed notebooks."""
        return self.root / "notebooks"

    @property
    def reports(self) -> Path:
        """Folder of the pages made of them."""
        return self.root / "reports"

    def require(self, path: Path, writer: str) -> Path:
        """The same path, if it is there.

        Raises:
            MissingInput: it is not; the sentence names the notebook that writes it.
        """
        if not path.exists():
            raise MissingInput(
                f"{display_path(path)} is missing; notebook {writer} writes it: run "
                f"`{command('run', self.root.name, '--only', writer[:2])}` first."
            )
        return path
