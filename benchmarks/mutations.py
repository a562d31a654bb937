"""How many deliberate faults the tests notice: the measure of the suite. By hand, not in CI.

    python benchmarks/mutations.py [NAME ...] [--jobs 2] [--quick]

The faults stand in benchmarks/faults.py. Each is written into a copy of its own of the project (tracked
files only, so that tests of real files are skipped), and pytest runs there, one process a fault, until the
first test fails: the tests that the fault names and, where none of those fails, all others. Fast tests come
before the rest of `make test`. A test that fails in an unchanged copy too notices nothing: it is an error
that names the fault, as is an old text that is not there. With `--quick` only the named tests run: 10 s a
fault. Without, a fault that no fast test notices takes the time of the whole suite in one process.

Prints a line a fault with what noticed it and the time it took, then the totals; ends with 1 unless every
fault was noticed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
from faults import FAULTS, Fault, FaultError

PROJECT = Path(__file__).resolve().parent.parent
OWN_TEST = "tests/project/test_mutations.py"
"""Not run in a copy: it looks whether the faults can still be applied, which in a changed copy they can't."""
FAST, REST = "not e2e and not slow and not nightly", "(e2e or slow) and not nightly"
"""What `make test` runs first, and what it runs afterwards, as pytest's -m takes it."""
PASSED, FAILED, NONE_SELECTED = 0, 1, 5
"""Exit codes of pytest; any other says that the tests did not run."""
_FAILING = re.compile(r"^(?:FAILED|ERROR) ([^\s\[]+)", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What noticed a fault.

    Args:
        fault: the fault.
        test: the first test that failed; empty where none did.
        fast: whether it is a fast one.
        seconds: what it took to find out.
    """

    fault: Fault
    test: str
    fast: bool
    seconds: float

    def __str__(self) -> str:
        kind = ("fast" if self.fast else "whole") if self.test else "NOT NOTICED"
        return f"{self.fault.name:<52} {self.seconds:6.1f} s  {kind:<6} {self.test}".rstrip()


def copied(project: Path, target: Path) -> Path:
    """A copy of the tracked files as they are now, in a repository of its own: some tests ask git."""
    git = ["git", "-c", "user.name=mutations", "-c", "user.email=none"]
    listed = subprocess.run([*git, "ls-files", "-z"], cwd=project, capture_output=True, text=True, check=True)
    for name in listed.stdout.rstrip("\0").split("\0"):
        if (project / name).is_file():  # one that was deleted is still tracked
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / name, target / name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "copy"]):
        subprocess.run([*git, *command], cwd=target, check=True)
    return target


def failing(copy: Path, tests: Sequence[str], marks: str, first: bool = True) -> list[str]:
    """The tests of a copy that fail, without their parameters.

    Args:
        copy: of the project.
        tests: arguments of pytest; () for all.
        marks: of the tests that run, as pytest's -m takes them; '' for all.
        first: stop at the first that fails.

    Raises:
        FaultError: the tests did not run: one is missing, or the code cannot be imported.
    """
    words = ["-q", "-m", marks, "-p", "no:cacheprovider", "--tb=no", f"--ignore={OWN_TEST}", *tests]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *(["-x"] if first else [])],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = list(dict.fromkeys(_FAILING.findall(done.stdout)))
    if done.returncode not in (PASSED, NONE_SELECTED) and not (done.returncode == FAILED and found):
        raise FaultError(f"the tests did not run:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return found


def judge(fault: Fault, unchanged: Path, quick: bool) -> Verdict:
    """Apply a fault to a copy, and look which test notices it.

    Args:
        fault: the fault.
        unchanged: a copy without a fault, from `copied`.
        quick: only the tests that the fault names.

    Raises:
        FaultError: it cannot be applied, or its tests do not run; the sentence names it.
    """
    began = time.monotonic()
    asked = (fault.tests,) if quick else (fault.tests, ())
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(shutil.copytree(unchanged, folder, dirs_exist_ok=True))
        fault.apply(copy)
        try:
            for marks, tests in product((FAST, REST), asked):
                if found := failing(copy, tests, marks):
                    return Verdict(fault, found[0], marks == FAST, time.monotonic() - began)
        except FaultError as error:
            raise FaultError(f"fault {fault.name!r}: {error}") from error
    return Verdict(fault, "", False, time.monotonic() - began)


def unfounded(verdicts: Sequence[Verdict], unchanged: Path) -> list[str]:
    """A sentence for each fault that was noticed by a test that fails without a fault too."""
    tests = list(dict.fromkeys(verdict.test for verdict in verdicts if verdict.test))
    broken = failing(unchanged, tests, marks="", first=False) if tests else []
    return [
        f"fault {verdict.fault.name!r}: {verdict.test} fails without a fault too; repair it first"
        for verdict in verdicts
        if verdict.test in broken
    ]


def totals(verdicts: Sequence[Verdict], quick: bool) -> list[str]:
    """How many faults were noticed, and the names of those that were not."""
    n, noticed = len(verdicts), [verdict for verdict in verdicts if verdict.test]
    alone = "; only the tests that the faults name were run" if quick else ""
    n_fast = sum(verdict.fast for verdict in noticed)
    lines = [f"fast set notices {n_fast} of {n}, whole suite {len(noticed)} of {n}{alone}"]
    return lines + [f"not noticed: {verdict.fault.name}" for verdict in verdicts if not verdict.test]


def chosen(names: Sequence[str]) -> list[Fault]:
    """The faults of some names; all where none is given.

    Raises:
        click.BadParameter: no fault has the name.
    """
    known = {fault.name: fault for fault in FAULTS}
    for name in names:
        if name not in known:
            raise click.BadParameter(f"no fault is called {name!r}; known are {', '.join(known)}.")
    return [known[name] for name in names] or list(FAULTS)


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--jobs", type=click.IntRange(1), default=1, help="Faults at once.")
@click.option("--quick", is_flag=True, help="Only the tests that a fault names.")
def main(names: tuple[str, ...], jobs: int, quick: bool) -> None:
    """Judge the faults, and say what was not noticed."""
    verdicts: list[Verdict] = []
    errors: list[str] = []
    with tempfile.TemporaryDirectory(prefix="unchanged-") as folder, ThreadPoolExecutor(jobs) as pool:
        unchanged = copied(PROJECT, Path(folder))
        for work in as_completed([pool.submit(judge, fault, unchanged, quick) for fault in chosen(names)]):
            try:
                verdicts.append(work.result())
                click.echo(verdicts[-1])
            except FaultError as error:
                errors.append(str(error))
        errors += unfounded(verdicts, unchanged)
    click.echo("\n".join([*errors, *totals(verdicts, quick)]))
    raise SystemExit(bool(errors) or not all(verdict.test for verdict in verdicts))


if __name__ == "__main__":
    main()
