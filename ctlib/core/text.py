"""Numbers in words, names that can be printed, and the words by which stored values are shown."""

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


WORDS = {
    "not decided": "inconclusive",
    "told only": "reported only",
    "untrained": "random weights",
}
"""What people read for a value as it is stored: what a comparison comes to, how a run ended."""
TITLES = {
    "init": "starting weights", "arm": "starting weights", "backbone": "network", "key": "question",
    "auroc": "AUROC", "auprc": "AUPRC", "auroc_init": "AUROC, compared", "auroc_baseline": "AUROC, baseline",
    "auroc_first": "AUROC, first", "auroc_second": "AUROC, second", "auroc_plain": "AUROC without the control",
    "p_holm": "p (Holm)", "p_value": "p", "kept": "share of the gain", "word": "conclusion", "wanted": "expected",
    "word_change": "conclusion, change", "came_out": "result", "by": "subgroup by", "n_positive": "with disease",
    "n_reached": "runs that reach it", "n_unlearned": "runs that did not learn", "unlearned": "which did not",
    "n_left": "pairs left", "left": "effect of these", "effect_left": "effect of these",
    "equal_exams": "exams for the same AUROC", "ratio": "times as many", "by_luck": "by luck, an epoch",
    "by_luck_ever": "by luck, a run", "behind": "behind the best", "multiply_adds_g": "multiply-adds, G",
    "kept_mb": "activation memory, MB", "kept, MB": "activation memory, MB", "seconds": "seconds a run",
    "brier": "Brier score", "ece": "calibration error", "ece_floor": "error of right scores", "value": "score",
    "untrained": "random weights", "n_half": "seeds a side", "all_seeds": "seen with all seeds",
    "pair, r=0.8": "one network, r=0.8", "pair, r=0.5": "one network, r=0.5", "mean, r=0.8": "average, r=0.8",
    "mean, r=0.5": "average, r=0.5", "air_hu": "air, HU", "tissue_hu": "soft tissue, HU", "body_hu": "body, HU",
    "run_id": "run", "patient_id": "patient", "series_uid": "series", "series_a": "series A", "series_b": "series B",
}  # fmt: skip
"""What people read above a column, by its name in stored tables."""


def word(value: object) -> str:
    """A stored value as people read it; one that `WORDS` lacks is shown as it is.

    >>> word("not decided"), word("gain"), word(3)
    ('inconclusive', 'gain', '3')
    """
    return WORDS.get(str(value), str(value))


def title_of(column: object) -> str:
    """A column of a stored table as people read it: by `TITLES`, and n_, low_, high_ and reason_ of any other.

    >>> title_of("init"), title_of("effect"), title_of("n_seeds"), title_of("low_change")
    ('starting weights', 'effect', 'seeds', 'change, low')
    """
    name = str(column)
    first, _, rest = name.partition("_")
    if name in TITLES or not rest:
        return TITLES.get(name, name)
    if first in ("low", "high"):
        return f"{title_of(rest)}, {first}"
    return {"n": rest.replace("_", " "), "reason": "reason", "gain": f"gain, {rest}"}.get(first, name)


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
