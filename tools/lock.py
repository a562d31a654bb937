"""Write requirements.lock and environment.yml from pyproject.toml (`make lock`).

uv resolves for every platform at once, with one version of each package for all
Pythons; of its answer we keep what Linux (x86_64, aarch64) and macOS (arm64) need,
with a marker only where these, or the Pythons, differ.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LINUX = {"sys_platform": "linux", "platform_system": "Linux"}
MACOS = {"sys_platform": "darwin", "platform_system": "Darwin"}
SYSTEMS = {"x86_64": LINUX, "aarch64": LINUX, "arm64": MACOS}
MACHINES = tuple(SYSTEMS)
"""As `platform_machine` has them: Linux says aarch64 where macOS says arm64."""
PYTHONS = ("3.11", "3.12", "3.13")


def resolve() -> list[str]:
    """All pins with uv's own markers, one requirement a line."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--quiet"]
    command += ["--fork-strategy", "fewest", "--python-version", PYTHONS[0]]
    command += ["--extra", "dev", "--no-header", "--no-annotate", str(ROOT / "pyproject.toml")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def needed(requirement: Requirement) -> list[tuple[str, str]]:
    """Machine and Python, where a requirement is installed.

    >>> needed(Requirement("zipp==4.1.2; python_full_version < '3.12' and platform_machine == 'x86_64'"))
    [('x86_64', '3.11')]
    >>> {machine for machine, _ in needed(Requirement("appnope==1.0.0; sys_platform == 'darwin'"))}
    {'arm64'}
    """
    cells = list(itertools.product(MACHINES, PYTHONS))
    if requirement.marker is None:
        return cells
    common = {
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    return [
        (machine, python)
        for machine, python in cells
        if requirement.marker.evaluate(
            {
                **common,
                **SYSTEMS[machine],
                "platform_machine": machine,
                "python_version": python,
                "python_full_version": f"{python}.0",
            }
        )
    ]


def marker(variable: str, values: set[str], known: tuple[str, ...]) -> list[str]:
    """The condition that a variable is one of some values; none where they are all that are known.

    >>> marker("python_version", {"3.11"}, PYTHONS), marker("python_version", set(PYTHONS), PYTHONS)
    (["python_version == '3.11'"], [])
    """
    if values == set(known):
        return []
    either = [f"{variable} == '{value}'" for value in known if value in values]
    return either if len(either) == 1 else [f"({' or '.join(either)})"]


def pins(lines: list[str]) -> list[str]:
    """`name==version`, with a marker where only one machine, or not every Python, needs it.

    >>> pins(["a==1", "b==2 ; python_full_version < '3.13'", "c==3 ; sys_platform == 'win32'"])
    ['a==1', "b==2; (python_version == '3.11' or python_version == '3.12')"]
    """
    kept = []
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        requirement = Requirement(line)
        cells = needed(requirement)
        if not cells:
            continue
        markers = marker("platform_machine", {machine for machine, _ in cells}, MACHINES)
        markers += marker("python_version", {python for _, python in cells}, PYTHONS)
        pin = f"{requirement.name}{requirement.specifier}"
        kept.append(f"{pin}; {' and '.join(markers)}" if markers else pin)
    return kept


def main() -> None:
    """Resolve and write both files."""
    kept = pins(resolve())
    systems = "Linux (x86_64, aarch64) and macOS (arm64)"
    head = f"# Written by `make lock` from pyproject.toml. Python 3.11 to 3.13, {systems}.\n"
    (ROOT / "requirements.lock").write_text(head + "\n".join(kept) + "\n")
    (ROOT / "environment.yml").write_text(
        head
        + "name: ctlib\nchannels:\n  - conda-forge\n"
        + "dependencies:\n  - python>=3.11,<3.14\n  - pip\n  - pip:\n"
        + "".join(f'      - "{pin}"\n' for pin in kept)
        + "      - --no-deps --editable .\n"
    )


if __name__ == "__main__":
    main()
