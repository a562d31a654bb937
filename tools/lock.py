"""Write requirements.lock and environment.yml from pyproject.toml (`make lock`).

uv resolves for every platform at once; of its answer we keep what Python 3.11 on
Linux needs, with a marker only where x86_64 and aarch64 differ.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
MACHINES = ("x86_64", "aarch64")
PYTHON = "3.11.7"


def resolve() -> list[str]:
    """All pins with uv's own markers, one requirement a line."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--quiet"]
    command += ["--python-version", "3.11", "--extra", "dev", "--no-header", "--no-annotate"]
    command += [str(ROOT / "pyproject.toml")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def machines_of(requirement: Requirement) -> list[str]:
    """The machines on which a requirement is installed."""
    if requirement.marker is None:
        return list(MACHINES)
    environment = {
        "python_version": "3.11",
        "python_full_version": PYTHON,
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    return [
        machine
        for machine in MACHINES
        if requirement.marker.evaluate({**environment, "platform_machine": machine})
    ]


def pins(lines: list[str]) -> list[str]:
    """`name==version`, with a marker where only one machine needs it."""
    kept = []
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        requirement = Requirement(line)
        machines = machines_of(requirement)
        pin = f"{requirement.name}{requirement.specifier}"
        if len(machines) == 1:
            pin += f"; platform_machine == '{machines[0]}'"
        if machines:
            kept.append(pin)
    return kept


def main() -> None:
    """Resolve and write both files."""
    kept = pins(resolve())
    head = "# Written by `make lock` from pyproject.toml. Python 3.11, Linux, x86_64 and aarch64.\n"
    (ROOT / "requirements.lock").write_text(head + "\n".join(kept) + "\n")
    (ROOT / "environment.yml").write_text(
        head
        + "name: ctlib\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n"
        + "".join(f'      - "{pin}"\n' for pin in kept)
        + "      - --no-deps --editable .\n"
    )


if __name__ == "__main__":
    main()
