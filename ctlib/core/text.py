"""Words around numbers."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "exam"), counted(0, "file")
    ('1 exam', '0 files')
    """
    return f"{n} {noun}" if n == 1 else f"{n:,} {noun}s"
