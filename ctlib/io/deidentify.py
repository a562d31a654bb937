"""What a file's own text may say in reasons, tables and reports: nothing that could be a name.

A reason never repeats free text of a header, nor the name of a file or folder: any of them could
be somebody's name. `SeriesError` keeps them beside the reason, for whoever reads the error itself.
Manufacturer and ConvolutionKernel are free text too, so anybody could have typed anything into them.
Tables and reports show them, so only names that are known as such pass; any other is `OTHER`.
"""

from __future__ import annotations

import re

from ctlib.core import printable

WORDS = {
    *("CT", "MR", "PT", "NM", "CR", "DX", "MG", "US", "XA", "RF", "OT", "SC", "SR", "SEG", "PR", "KO", "REG"),
    *("RTSTRUCT", "RTDOSE", "RTPLAN", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "MONOCHROME2"),
}
"""Coded values that a fault may repeat; other text could be a name."""
NUMBER = re.compile(r"[+-]?[\d.]{0,7}(e[+-]?\d{1,3})?", re.IGNORECASE)
"""Numbers that a fault may repeat: too short for a birthday or a patient's number of eight digits."""

AGAIN = "copy or export it again"
"""What to do with a damaged file: how its reason ends."""


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
        self.reason, self.series, self.file = reason, printable(series), printable(file)
        where = f"Series {self.series} is refused: " if series else ""
        super().__init__(f"{where}{f'{self.file}: ' if file else ''}{reason}{'.' if series else ''}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.reason, self.series, self.file)


OTHER = "other"
MAKERS = {
    "ge": "GE",
    "general electric": "GE",
    "imatron": "GE",
    "siemens": "Siemens",
    "philips": "Philips",
    "picker": "Philips",
    "marconi": "Philips",
    "elscint": "Philips",
    "toshiba": "Toshiba",
    "canon": "Canon",
    "hitachi": "Hitachi",
    "fujifilm": "Fujifilm",
    "shimadzu": "Shimadzu",
    "neusoft": "Neusoft",
    "united imaging": "United Imaging",
    "uih": "United Imaging",
    "samsung": "Samsung",
    "neurologica": "Samsung",
    "phantom alpha": "Phantom Alpha",
    "phantom beta": "Phantom Beta",
    "phantom gamma": "Phantom Gamma",
}
"""Beginnings of Manufacturer in lower case and the maker; later owners stand for those they bought.
The last three are this project's own phantoms."""
KERNELS = re.compile(
    r"""
    [A-Z]{1,2}[a-z]?\d{2,3}[a-z]?(\\\d)?            # Siemens, B30f, Br40d, I31f\3; Toshiba and Canon, FC51
  | [A-D]|[EFL]|Y[A-D]|I?Y[A-D]\d?|E[BC]             # Philips
  | STANDARD|STND|SOFT|SMOOTH|SHARP|DETAIL|LUNG|CHST|BONE|BONEPLUS|EDGE|ULTRA|PERFORMANCE  # GE and phantoms
  | BODY[ ]FILTER/[A-Z0-9]{1,3}[ ]?|BODY|HEAD
    """,
    re.VERBOSE,
)
"""Names of kernels of the large makers, as they stand in ConvolutionKernel."""


def known_maker(text: str) -> str | None:
    """The maker that a header names; None where it names none.

    >>> known_maker("GE MEDICAL SYSTEMS"), known_maker("SIEMENS"), known_maker("Doe^Jane"), known_maker("")
    ('GE', 'Siemens', 'other', None)
    """
    low = text.strip().lower()
    if not low:
        return None
    return next((maker for name, maker in MAKERS.items() if re.match(rf"{name}\b", low)), OTHER)


def known_kernel(text: str) -> str | None:
    """The reconstruction kernel that a header names; None where it names none.

    >>> known_kernel("B45f"), known_kernel("FC51"), known_kernel("STANDARD"), known_kernel("Doe^Jane")
    ('B45f', 'FC51', 'STANDARD', 'other')
    >>> known_kernel("")
    """
    name = text.strip()
    if not name:
        return None
    return name if KERNELS.fullmatch(name) else OTHER
