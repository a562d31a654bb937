"""Numbers in words, and names that can be printed."""

from __future__ import annotations

import json
import os
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

ASKED = "CTLIB_ASKED"
"""Environment variable of a command and all its processes: its profile, then its `--set`, as a JSON list."""


def command(verb: str, profile: str, *more: str, settings: Sequence[str] | None = None) -> str:
    """A command that is advised, as it is typed.

    Args:
        verb: command of ctlib.
        profile: that is meant where no command runs, as in JupyterLab.
        more: further arguments.
        settings: its `--set`; None takes profile and settings of the command that runs.

    >>> command("run", "demo", "--only", "03", settings=["03.seeds=[0, 1]"])
    "ctlib run demo --only 03 --set '03.seeds=[0, 1]'"
    """
    if settings is None:
        profile, *settings = json.loads(os.environ.get(ASKED) or "null") or [profile]
    return shlex.join(["ctlib", verb, profile, *more, *(part for one in settings for part in ("--set", one))])


def nearest(name: str, candidates: Iterable[str], n: int = 1) -> list[str]:
    """Candidates that a misspelt name may mean, the likest first: as a whole, or, a little less, by one part.

    Args:
        name: as it was written.
        candidates: right names.
        n: at most so many.

    >>> known = ["bootstrap_seed", "seeds", "01_explore_data", "rspect", "resnext101"]
    >>> [nearest(name, known) for name in ("seed", "05", "nosuch", "resnext5")]
    [['seeds'], [], [], ['resnext101']]
    """

    def likeness(candidate: str) -> float:
        parts = max(SequenceMatcher(None, name, part).ratio() for part in candidate.split("_"))
        return max(SequenceMatcher(None, name, candidate).ratio(), parts - 0.15)

    found = {candidate: likeness(candidate) for candidate in candidates}
    return sorted((c for c, value in found.items() if value >= 0.7), key=lambda c: -found[c])[:n]


def nearest_name(name: str, candidates: Iterable[str]) -> str:
    """The end of a sentence: '; the nearest name is ...', or '' where none is near."""
    return "".join(f"; the nearest name is {one!r}" for one in nearest(name, candidates))


def counted(n: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "exam"), counted(0, "file")
    ('1 exam', '0 files')
    """
    return f"{n} {noun}" if n == 1 else f"{n:,} {noun}s"


def printable(name: str) -> str:
    """A file's name as it can be printed and written anywhere: control characters, and bytes that are no
    UTF-8 (which Python keeps as lone surrogates), become `\\xNN`.

    >>> printable("caf\\udce9.dcm"), printable("caf\\u00e9.dcm"), printable("a\\nb")
    ('caf\\\\xe9.dcm', 'caf\u00e9.dcm', 'a\\\\x0ab')
    """
    if name.isprintable():
        return name
    bad = ("Cc", "Cs")
    return "".join(c if unicodedata.category(c) not in bad else f"\\x{ord(c) & 0xFF:02x}" for c in name)


def time_left(seconds: float | None) -> str:
    """Time left, as rough as it is known.

    >>> time_left(8.0), time_left(47.0), time_left(200.0), time_left(4000.0), time_left(None)
    ('less than 10 s left', 'about 50 s left', 'about 3 min left', 'about 1 h 7 min left', '')
    """
    if seconds is None:
        return ""
    if seconds <= 10:
        return "less than 10 s left"
    if seconds < 90:
        return f"about {round(seconds / 10) * 10} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min left"
