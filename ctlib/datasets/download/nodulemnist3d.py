"""NoduleMNIST3D from Zenodo: one file, checked by its published MD5, no account.

Addresses and checksums are those of MedMNIST's code (`medmnist/info.py`, version 3). The sizes of the files are not
published there; stated is the size of their arrays, which are compressed, so the files are smaller.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ctlib.core import display_path
from ctlib.datasets.download import GOES_ON, FetchError, FetchRefused, Job, Meter, alone, size
from ctlib.datasets.nodulemnist3d import FILES, NAME

ADDRESS = "https://zenodo.org/records/10519652/files"
MD5 = {28: "8755a7e9e05a4d9ce80a24c3e7a256f3", 64: "c47c5b7d457bf6332200d2ea6d64ecd8"}
N_CROPS = {"train": 1158, "val": 165, "test": 310}
CITATION = (
    "Yang J, Shi R, Wei D, et al. MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image "
    "classification. Scientific Data 2023;10:41. Images and marks: LIDC-IDRI (TCIA)."
)
BLOCK = 1 << 20
WAIT_S = 30.0
"""How long the server may be silent, s."""

Getter = Callable[[str, Path], None]
"""Writes what is at an address into a file. Raises FetchError."""


def get(address: str, path: Path) -> None:
    """Download a file with the standard library, through a proxy where one is set.

    Raises:
        FetchError: nothing answers, or the server refuses.
    """
    try:
        with urllib.request.urlopen(address, timeout=WAIT_S) as answer, path.open("wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
    except urllib.error.HTTPError as error:
        raise FetchError(f"{address} answers with HTTP status {error.code}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise FetchError(f"nothing answers at {ADDRESS}, there seems to be no network ({reason})") from error


def is_whole(path: Path, side: int) -> bool:
    """Whether a file has the published checksum."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == MD5[side]


def plan(to: Path, patients: int | None = None, side: int = 28, getter: Getter | None = None) -> Job:
    """What would be fetched; no network is needed.

    Args:
        to: target folder, absolute.
        patients: None; the file is one.
        side: voxels a side, 28 or 64. A folder that holds the larger file is a folder of 64.
        getter: writes the file; by default `get`.

    Raises:
        FetchRefused: some patients are asked for.
    """
    if patients is not None:
        raise FetchRefused("NoduleMNIST3D comes as one file, and names no patients: leave out --patients.")
    path = to / FILES[side]
    here = is_whole(path, side)
    n_crops = sum(N_CROPS.values())
    most = n_crops * side**3
    facts = (
        ("dataset", f"NoduleMNIST3D of MedMNIST, {side} x {side} x {side} voxels, from Zenodo ({ADDRESS})"),
        ("in all", f"{n_crops:,} crops of nodules ({', '.join(f'{n:,} {s}' for s, n in N_CROPS.items())})"),
        ("here", f"{FILES[side]} is {'here and whole' if here else 'not here'}"),
        ("to fetch", "nothing" if here else f"one file, at most {size(most)}, MD5 {MD5[side]}"),
        ("licence", "CC BY 4.0; made from LIDC-IDRI (CC BY 3.0)"),
        ("note", "8-bit crops, no HU; the patients of LIDC-IDRI, not independent of it"),
        ("cite", CITATION),
    )
    fetched = 0 if here else most
    return Job(NAME, to, facts, fetched, 3 * fetched, (), lambda: download(to, side, getter or get))


def download(to: Path, side: int, getter: Getter) -> None:
    """Fetch the file; it is renamed to its place when its checksum is right.

    Raises:
        FetchError: it did not come, or is not the published file.
        FetchRefused: another fetch into this folder is running.
    """
    with alone(to) as part:
        path = part / FILES[side]
        try:
            with Meter(sum(N_CROPS.values()) * side**3, part):
                getter(f"{ADDRESS}/{FILES[side]}?download=1", path)
            if not is_whole(path, side):
                raise FetchError(
                    f"{FILES[side]} came with {path.stat().st_size:,} bytes and not the published MD5 {MD5[side]}; "
                    f"nothing was kept in {display_path(to)}"
                )
            to.mkdir(parents=True, exist_ok=True)
            path.replace(to / FILES[side])
        except FetchError as error:
            raise FetchError(f"NoduleMNIST3D did not come: {error}. {GOES_ON}.") from error
        finally:
            path.unlink(missing_ok=True)
