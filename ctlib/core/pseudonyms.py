"""Pseudonyms: what stands in tables, stores and reports in place of patients, UIDs and paths.

A pseudonym is the beginning of an HMAC-SHA256 (RFC 2104) of what it replaces, keyed. Who has the
key gets the same pseudonyms for the same data, on any machine; who has not cannot go back, nor try
out names. The key is a file of the user's, outside of the folder of everything computed. Data whose
ids are public already (RSPECT and LIDC-IDRI as published, phantoms) may use the key `PUBLIC`, which
stands here: their pseudonyms, and so their splits and runs, are the same for everybody.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from tempfile import NamedTemporaryFile

from ctlib.core.workspace import display_path, project_path

DEFAULT_KEY = "~/.config/ctlib/key"
"""Where the key of a user's own data lies, unless a parameter says otherwise."""
PUBLIC = "public"
"""Name of the key that everybody has."""
DIGITS = 16
"""Hex digits of a pseudonym: 64 bits, so two of a million ids are the same once in 37 million cohorts."""
PART_DIGITS = 8
"""Hex digits that stand for a folder or file name."""
KEY_BYTES = 32
ENDINGS = re.compile(
    r"(\.(dcm|ima|nii|gz|csv|json|txt|xml|sqlite|zip|tar|xz|png|jpg|pdf|html))+", re.IGNORECASE
)
"""Endings of file names that are no name of anybody."""


class IdentityError(ValueError):
    """The key of pseudonyms cannot be used: one sentence."""


@dataclass(frozen=True)
class Identity:
    """Pseudonyms under one key.

    Args:
        key: of the HMAC.
    """

    key: bytes = field(repr=False)

    @classmethod
    def at(cls, id_key: str, work: Path) -> Identity:
        """The identity of a parameter `id_key`.

        Args:
            id_key: "public", or a file that holds the key; one that is missing is made, of 32
                random bytes, readable by its owner only. "~" is the home folder.
            work: folder of everything computed, which must not hold the key.

        Raises:
            IdentityError: the file lies inside `work`, is too short, or cannot be read or made.
        """
        if id_key == PUBLIC:
            return cls(PUBLIC.encode())
        path = project_path(id_key)
        if path.is_relative_to(work.resolve()) or path.resolve().is_relative_to(work.resolve()):
            raise IdentityError(
                f"id_key {id_key} lies inside {display_path(work)}; keep the key out of the work folder."
            )
        try:
            return cls(_key(path))
        except OSError as error:
            raise IdentityError(f"id_key {id_key} cannot be read or made: {error.strerror}.") from error

    def _hashed(self, kind: str, text: str, digits: int) -> str:
        # paths may hold bytes that are no UTF-8; Python keeps them as surrogates
        told = f"{kind}\0{text}".encode(errors="surrogateescape")
        return hmac.digest(self.key, told, "sha256").hex()[:digits]

    def patient(self, patient_id: str) -> str:
        """Pseudonym of a patient.

        >>> Identity(b"key").patient("LIDC-IDRI-0314")
        'patient-70dff1e39869565e'
        """
        return f"patient-{self._hashed('patient', patient_id, DIGITS)}"

    def study(self, study_uid: str) -> str:
        """Pseudonym of a study."""
        return f"study-{self._hashed('study', study_uid, DIGITS)}"

    def series(self, series_uid: str) -> str:
        """Pseudonym of a series."""
        return f"series-{self._hashed('series', series_uid, DIGITS)}"

    def path(self, path: str | PurePath) -> str:
        """Pseudonym of a path, folder by folder; harmless endings are kept.

        >>> Identity(b"key").path("Doe Jane/slice.dcm")
        '9fa32f96/ea21e723.dcm'
        """
        return "/".join(self._part(part) for part in PurePath(path).parts) or "."

    def _part(self, part: str) -> str:
        found = ENDINGS.search(part)
        ending = found[0] if found and found.end() == len(part) else ""
        return self._hashed("path", part, PART_DIGITS) + ending.lower()


def _key(path: Path) -> bytes:
    """The key in a file, which is made where it is missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, encoding="ascii") as made:  # mode 0600
            made.write(secrets.token_hex(KEY_BYTES) + "\n")
            made.flush()
            with suppress(FileExistsError):  # another process was first: its key counts
                os.link(made.name, path)
    key = path.read_bytes().strip()
    if len(key) < KEY_BYTES:
        raise IdentityError(
            f"id_key {display_path(path)} holds {len(key)} bytes, at least {KEY_BYTES} are needed."
        )
    return key
