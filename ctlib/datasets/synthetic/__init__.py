"""Data that generate themselves: chests as DICOM, with lesions and readers, and videos of moving discs.

`GENERATORS` holds the versions of what is generated; a change of what is drawn raises one. They stand apart
from the generators so that the hash of a plan can cover them without importing these. A test ties each
version to figures of what it draws.
"""

from __future__ import annotations

GENERATORS = {"videos": 3, "phantoms": 6}
"""Of `ctlib.datasets.synthetic.video` and `ctlib.datasets.synthetic.ct`: data of another version are written again."""
PHANTOM_MAKERS = ("Phantom Alpha", "Phantom Beta", "Phantom Gamma")
"""Makers of scanner that the files of phantoms name: by these a table `series` tells phantoms from patients."""
