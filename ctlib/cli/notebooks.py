"""Notebooks as they run: their header cell, their execution, what became of them.

A notebook runs in a kernel of this very Python, in the project's folder, through papermill;
its executed copy lies in the workspace, saved after every cell, so a failure or a kill
leaves what was shown until then.
"""

from __future__ import annotations

import ast
import html
import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ctlib.analysis import preregistration
from ctlib.cli import staleness
from ctlib.core import (
    HOME,
    PROJECT,
    ParameterError,
    Places,
    Workspace,
    declared_parameters,
    display_path,
    load_profile,
    parameter_problems,
    progress,
)

HEADER_TYPE = "application/vnd.ctlib.header+json"
"""MIME type under which the header cell leaves what it shows for the report."""

PACKAGES = ("ctlib", "torch", "lightning", "pydicom")
"""Packages whose versions a header states, after Python's."""


_log = logging.getLogger(__name__)


# ---- the header cell ---------------------------------------------------------------------


def header(notebook: str, namespace: Mapping[str, Any], places: Places = HOME) -> None:
    """Check the parameters in a notebook's globals and show them, with versions, commit, device and plan.

    Plain `papermill` only warns about a parameter that the notebook does not have; here it
    is an error, found in the cell that papermill injected.

    Args:
        notebook: its name, for example `01_explore_data`.
        namespace: the notebook's `globals()`.
        places: where the notebook lies.

    Raises:
        ParameterError: a parameter is unknown, missing or of the wrong type.
    """
    known = declared_parameters(places.notebooks / f"{notebook}.ipynb")
    given = {name: namespace[name] for name in known if name in namespace}
    given |= {name: None for name in _injected(namespace.get("In", [])) if name not in known}
    problems = list(parameter_problems(notebook, given, {notebook: known}))
    if problems:
        raise ParameterError(problems)
    from IPython.display import display

    facts = {
        "notebook": notebook,
        "parameters": [[name, repr(given[name]), known[name].comment] for name in known],
        "versions": versions(),
        "commit": commit(),
        "device": device(),
        "plan": _plan(given, places),
    }
    display({HEADER_TYPE: facts, "text/html": _html(facts), "text/plain": _text(facts)}, raw=True)


def use(profile: str, places: Places = HOME, **changes: Any) -> None:
    """Give a notebook the parameters of a profile: as the last line of its parameters cell, in JupyterLab.

        notebooks.use("folder", folder_root="/data/ct")

    What papermill injects stays as it was injected, so `run` and `papermill -p` are not touched by the line.

    Args:
        profile: a folder of params/.
        places: where notebooks and profiles lie.
        changes: parameters with other values than those of the profile.

    Raises:
        ParameterError: no such profile or parameter, or a value of the wrong type; or the cell is of no notebook.
    """
    namespace = sys._getframe(1).f_globals
    known = {name: declared_parameters(places.notebooks / f"{name}.ipynb") for name in places.names}
    fitting = [name for name in known if known[name].keys() <= namespace.keys()]
    if not fitting:
        raise ParameterError(["notebooks.use: this is no parameters cell, or not its last line."])
    name = max(fitting, key=lambda one: len(known[one]))
    values = load_profile(profile, [f"{key}={value!r}" for key, value in changes.items()], places)
    if name not in values:
        raise ParameterError([f"profile {profile!r} has no {name}.yaml; take a profile that has one."])
    injected = _injected(namespace.get("In", []))
    namespace.update({key: value for key, value in values[name].items() if key not in injected})


def _plan(given: Mapping[str, Any], places: Places) -> str:
    """The hash of the profile's plan and where it lies; its workspace remembers when it met it."""
    profile = str(given.get("profile", ""))
    plan = preregistration.read(profile, places)
    if plan and "work_dir" in given:
        preregistration.remember(Workspace.at(given["work_dir"]), plan)
    return preregistration.facts(profile, places)


def _injected(cells: list[str]) -> list[str]:
    """Names that papermill's injected cell sets; it begins with the comment `# Parameters`."""
    sources = [source for source in cells if source.lstrip().startswith("# Parameters\n")]
    nodes = [node for source in sources for node in ast.parse(source).body]
    return [t.id for n in nodes if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]


def versions() -> dict[str, str]:
    """Versions of Python and of `PACKAGES`, without importing them."""
    from importlib.metadata import version

    return {"Python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def commit(folder: Path = PROJECT) -> str:
    """Short hash of the project's commit, with ' + changes' where files differ from it.

    The reports do not count: they are written while the notebooks run.
    """
    try:
        found = _git(folder, "rev-parse", "--short=10", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", ".", ":(exclude)reports")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git repository)"
    return f"{found} + changes" if changed else found


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def device() -> str:
    """Name of the GPU if torch was imported and sees one, else of the processor and its cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{models[0] if models else platform.machine()}, {cores} core{'s' if cores > 1 else ''}, no GPU"


def _about(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    software = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [("versions", software), *((name, facts[name]) for name in ("commit", "device", "plan"))]


def _text(facts: Mapping[str, Any]) -> str:
    lines = [f"{name} = {value}  # {comment}" for name, value, comment in facts["parameters"]]
    return "\n".join(lines + [f"{name}: {value}" for name, value in _about(facts)])


def _html(facts: Mapping[str, Any]) -> str:
    cell = '<td style="text-align:left;vertical-align:top">{}</td>'
    rows = [
        cell.format(name)
        + cell.format(f"<code>{html.escape(value)}</code>")
        + cell.format(html.escape(comment))
        for name, value, comment in facts["parameters"]
    ]
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    about = "".join(f"<div><b>{name}</b> {html.escape(value)}</div>" for name, value in _about(facts))
    return f"{about}<details><summary>{len(rows)} parameters</summary><table>{table}</table></details>"


# ---- execution ---------------------------------------------------------------------------


INPUT_ERRORS = ("CohortError", "IngestError", "SplitError")
"""Errors of a notebook that say that data or labels are not as they must be."""


@dataclass(frozen=True)
class Limits:
    """When a notebook is taken to hang.

    Args:
        start_s: its kernel does not answer for so long, s.
        silence_s: a cell shows nothing, and its progress does not move, for so long, s; 0 for no limit.
    """

    start_s: int = 300
    silence_s: float = 86_400.0


IOPUB_S = 120
"""For so long the end of a cell's output may come after the end of the cell, s: 4, papermill's, are too few on a
machine that is busy."""


class NotebookFailed(RuntimeError):
    """A notebook stopped before its end; the sentence says where and why.

    Args:
        text: the sentence.
        is_input: data or labels are wrong, and no code.
    """

    def __init__(self, text: str, is_input: bool = False) -> None:
        super().__init__(text)
        self.is_input = is_input


@dataclass(frozen=True)
class Failure:
    """Where a notebook stopped.

    Args:
        cell: number of the code cell, as in `In [cell]`; 0 where it was never counted.
        section: the heading above it.
        error: last line of the traceback.
    """

    cell: int
    section: str
    error: str

    def __str__(self) -> str:
        where = f"cell [{self.cell}]" if self.cell else "a cell"
        return f"in {where} of section {self.section!r}: {self.error.removesuffix('.')}"


def executed_path(notebook: str, values: Mapping[str, Any]) -> Path:
    """Where the executed copy of a notebook with these parameters lies."""
    return Workspace.at(values["work_dir"]).notebooks / f"{notebook}.ipynb"


def profile_of(path: Path) -> str:
    """The profile with which a copy was executed; "" where it does not say."""
    try:
        found = json.loads(path.read_bytes())["metadata"]["papermill"]["parameters"]
        return str(found.get("profile", ""))
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def progress_path(notebook: str, values: Mapping[str, Any]) -> Path:
    """The file in which the notebook's work reports how far it is (see `ctlib.core.progress`)."""
    return Workspace.at(values["work_dir"]).notebooks / f".{notebook}.progress.json"


def execute(
    notebook: str,
    values: Mapping[str, Any],
    on_section: Callable[[str], None] | None = None,
    places: Places = HOME,
    overrides: Sequence[str] = (),
    limits: Limits = Limits(),
) -> Path:
    """Run a notebook in a kernel of this Python, in the project's folder.

    Args:
        notebook: its name.
        values: all its parameters (`ctlib.core.parameters.load_profile`).
        on_section: called with the heading of the section that begins to run.
        places: where the notebook lies.
        overrides: the `--set` with which it has its parameters.
        limits: when it is taken to hang.

    Returns:
        Path of the executed copy.

    Raises:
        NotebookFailed: a cell raised, or the kernel died, did not start or hung; the copy holds what was shown.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError
    from papermill.exceptions import PapermillExecutionError

    source = places.notebooks / f"{notebook}.ipynb"
    output, report = executed_path(notebook, values), progress_path(notebook, values)
    output.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    inputs = staleness.note(notebook, values, places, overrides)
    headings = sections(nbformat.read(source, as_version=4))
    begun: list[Any] = []
    logging.getLogger("papermill").addHandler(logging.NullHandler())  # says nothing that is not said here

    def on_cell_start(cell: Any, cell_index: int) -> None:
        begun[:] = [cell]
        if on_section is not None and headings.get(cell["id"]):
            _log.debug("%s: cell %s of section %r", notebook, cell_index, headings[cell["id"]])
            on_section(headings[cell["id"]])

    def signs() -> Any:
        """Something that changes whenever a cell shows something or its progress moves; None before the first."""
        shown = [len(part.get("text", "")) for cell in begun for part in cell.get("outputs", [])]
        return (begun[0]["id"], shown, report.exists() and report.stat().st_mtime_ns) if begun else None

    with output.with_suffix(".log").open("wb") as log:
        manager = _kernel_manager({progress.VARIABLE: str(report)}, log, signs, limits.silence_s)
        try:
            papermill.execute_notebook(
                _literal(source),
                _literal(output),
                parameters=dict(values),
                kernel_name="python3",
                cwd=PROJECT,
                progress_bar=False,
                request_save_on_cell_execute=True,
                start_timeout=limits.start_s,
                iopub_timeout=IOPUB_S,
                kernel_manager_class=manager,
                on_cell_start=on_cell_start,
            )
        except (PapermillExecutionError, CellTimeoutError, RuntimeError) as error:
            raise _failed(notebook, output, begun, error, manager.end, limits) from error
        except (KeyboardInterrupt, SystemExit):
            _note(output, begun, "KeyboardInterrupt", "stopped by hand")
            raise
        finally:
            report.unlink(missing_ok=True)
            staleness.remember(output, inputs)
    return output


def _failed(
    notebook: str, output: Path, begun: Sequence[Any], error: Exception, end: str, limits: Limits
) -> Exception:
    """The sentence about what papermill raised, which the executed copy gets too where no cell raised it."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    log = display_path(output.with_suffix(".log"))
    if isinstance(error, PapermillExecutionError):
        return NotebookFailed(f"{notebook} failed {_failure_at(output)}.", error.ename in INPUT_ERRORS)
    if not begun:
        why = f"its kernel did not start within {limits.start_s} s (--start-limit): {error}"
        return NotebookFailed(f"{notebook} failed: {why}; see {log}.")
    if isinstance(error, CellTimeoutError):
        end = f"its output did not end within {IOPUB_S} s after it"
    elif not isinstance(error, DeadKernelError):
        return error
    _note(output, begun, type(error).__name__, f"{end}: {log}")
    return NotebookFailed(f"{notebook} failed {_failure_at(output)}.")


def _literal(path: Path) -> str:
    """A path that papermill takes as it is: it fills in {name} from the parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _kernel_manager(
    environment: dict[str, str], log: IO[bytes], signs: Callable[[], Any], silence_s: float
) -> Any:
    """A kernel manager whose kernel is this interpreter, whatever is installed as `python3`.

    papermill waits for a silent cell for ever, or for its end at most so long, however much it shows. So the
    manager, which is asked every second whether the kernel lives, ends one of which no sign was seen for too long.

    Args:
        environment: variables set in the kernel.
        log: what the kernel process itself writes, so that it does not run into the bar.
        signs: of life: what it gives changes with them.
        silence_s: how long without any; 0 for ever.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        """Starts ipykernel with `sys.executable`; `end` says why it ended."""

        end = "the kernel died, most likely because memory was full"
        seen: tuple[Any, float] = (None, 0.0)

        @property
        def kernel_spec(self) -> KernelSpec:
            """The specification that would otherwise be looked up by name."""
            return KernelSpec(**get_kernel_dict(), env=environment)

        async def _async_pre_start_kernel(self, **kw: Any) -> tuple[list[str], dict[str, Any]]:
            command, kw = await super()._async_pre_start_kernel(**kw)
            return command, {**kw, "stdout": log, "stderr": log}

        async def _async_is_alive(self) -> bool:
            sign, now = signs(), time.monotonic()
            if sign is None or sign != self.seen[0]:
                self.seen = sign, now
            elif 0 < silence_s < now - self.seen[1] and self.provisioner:
                self.seen = sign, math.inf  # asked again while the process ends
                ThisPython.end = f"it showed nothing for {silence_s:g} s (--silence-limit), so it was ended"
                await self.provisioner.kill()
            return bool(await super()._async_is_alive())

    return ThisPython


def sections(book: Any) -> dict[str, str]:
    """For each cell id the last heading at or above it, without its marks."""
    heading, found = "", {}
    for cell in book.cells:
        if cell.cell_type == "markdown":
            lines = [line for line in cell.source.splitlines() if line.startswith("#")]
            heading = lines[0].lstrip("# ").strip() if lines else heading
        found[cell.id] = heading
    return found


def failure(book: Any) -> Failure | None:
    """Where an executed notebook stopped with an error; None where it shows none."""
    headings = sections(book)
    for cell in book.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                line = (output.evalue.strip().splitlines() or [""])[0]
                return Failure(cell.execution_count or 0, headings[cell.id], f"{output.ename}: {line}")
    return None


def _failure_at(path: Path) -> Failure | None:
    import nbformat

    return failure(nbformat.read(path, as_version=4))


def _note(path: Path, begun: Sequence[Any], name: str, reason: str) -> None:
    """Write an error into the cell at which an executed copy was left."""
    import nbformat

    if not path.is_file():
        return
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code" and cell.id in [one["id"] for one in begun]:
            text = f"{name}: {reason}"
            cell.outputs.append(nbformat.v4.new_output("error", ename=name, evalue=reason, traceback=[text]))
    nbformat.write(book, path)
