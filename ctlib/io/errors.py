"""Why something is refused, in words that are fit for a report.

A reason never repeats free text of a header, nor the name of a file or folder: any of them could
be somebody's name. `SeriesError` keeps them beside the reason, for whoever reads the error itself.
"""

from __future__ import annotations

import re

WORDS = {
    *("CT", "MR", "PT", "NM", "CR", "DX", "MG", "US", "XA", "RF", "OT", "SC", "SR", "SEG", "PR", "KO", "REG"),
    *("RTSTRUCT", "RTDOSE", "RTPLAN", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "MONOCHROME2"),
}
"""Coded values that a fault may repeat; other text could be a name."""
NUMBER = re.compile(r"[+-]?[\d.]{0,7}(e[+-]?\d{1,3})?", re.IGNORECASE)
"""Numbers that a fault may repeat: too short for a birthday or a patient's number of eight digits."""


def quoted(value: str) -> str:
    """A header's value as a fault may repeat it: short numbers and coded words, no other text.

    >>> quoted("MR"), quoted("0.5\\\\0.5"), quoted("Doe^Jane"), quoted("")
    ("'MR'", "'0.5 0.5'", 'a text of 8 characters', "''")
    """
    parts = value.split("\\")
    if value in WORDS or all(NUMBER.fullmatch(part.strip()) for part in parts):
        return repr(" ".join(parts))
    return f"a text of {len(value)} character{'s' * (len(value) != 1)}"


class SeriesError(ValueError):
    """A series that cannot be read right: one sentence with series, file and reason.

    Args:
        reason: what is wrong, without the name of a file, series or patient: fit for a report.
        series: SeriesInstanceUID, or what stands for it.
        file: file or files it was seen in.
    """

    def __init__(self, reason: str, series: str = "", file: str = "") -> None:
        self.reason, self.series, self.file = reason, series, file
        where = f"Series {series} is refused: " if series else ""
        super().__init__(f"{where}{f'{file}: ' if file else ''}{reason}{'.' if series else ''}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.reason, self.series, self.file)
