"""Who may reach a scheduler: whoever holds its credentials, one file with a key and a certificate.

Dask's scheduler and workers run what they are sent, so whoever reaches one can run code as its user. Therefore all
that is started here speaks TLS, and both sides must show the certificate that lies in the file. It is made where it
is missing, readable by its owner alone, in the work folder, which all machines of a grid see: one file for scheduler,
workers and notebook. Worker processes of this machine have credentials of their own, in memory, for other users of a
machine reach its loopback interface, too.

The certificate is Dask's (`distributed.Security.temporary`): self-signed, valid for a year.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

from ctlib.core import display_path

RENEWED_S = 300 * 86400.0
"""A file that is older than so long, s, is made anew: its certificate is valid for 365 days."""


class CredentialsError(ValueError):
    """A file of credentials that cannot be used: the sentence says what to do."""


def in_memory() -> Any:
    """Credentials of the processes of one engine, as Dask's `Security`."""
    from distributed.security import Security

    return Security.temporary()


def make(file: Path) -> None:
    """Make the file where it is missing or near its end; of two that make it at once, one is kept.

    Raises:
        CredentialsError: it cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        if time.time() - file.stat().st_mtime < RENEWED_S:
            return
        file.unlink()
    made = in_memory().get_tls_config_for_role("scheduler")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}")  # mode 600
        with os.fdopen(handle, "w") as part:
            part.write(made["key"] + made["cert"])
        with contextlib.suppress(FileExistsError):
            os.link(name, file)
        Path(name).unlink()
    except OSError as error:
        raise CredentialsError(f"{display_path(file)} cannot be written ({error.strerror}).") from error


def read(file: Path) -> Any:
    """The credentials of a file, as Dask's `Security`.

    Raises:
        CredentialsError: it is missing, is no such file, or others may read it.
    """
    from distributed.security import Security

    try:
        status = file.stat()
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "it is no text")
        raise CredentialsError(
            f"{display_path(file)}, credentials of a scheduler, cannot be read ({reason}); `ctlib scheduler` makes "
            "it, and workers and notebooks must see it in the same work folder, as the same user."
        ) from error
    if not all(f"-----BEGIN {part}-----" in text for part in ("PRIVATE KEY", "CERTIFICATE")):
        raise CredentialsError(f"{display_path(file)} is no file of credentials; delete it, it is made anew.")
    if mode := stat.S_IMODE(status.st_mode) & 0o077:
        raise CredentialsError(
            f"{display_path(file)} may be read by others (mode {stat.S_IMODE(status.st_mode):o}, of it {mode:o}), and "
            f"who reads it can run code as you: `chmod 600 {display_path(file)}`."
        )
    path = str(file)
    parts = {
        f"tls_{role}_{part}": path for role in ("client", "scheduler", "worker") for part in ("cert", "key")
    }
    return Security(tls_ca_file=path, require_encryption=True, **parts)
