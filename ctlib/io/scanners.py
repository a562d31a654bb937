"""Makers and reconstruction kernels by their names in the field, and nothing else.

Manufacturer and ConvolutionKernel are free text, so anybody could have typed anything into them.
Tables and reports show them, so only names that are known as such pass; any other is `OTHER`.
"""

from __future__ import annotations

import re

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
