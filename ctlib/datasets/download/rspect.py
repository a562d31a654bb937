"""RSPECT from Kaggle, with the user's own account, through Kaggle's own client.

The competition comes as one archive, and there is no index of it: the plan states published figures.
The archive is unpacked folder by folder: a series goes to a temporary folder and is renamed to its
place when all its files are written, their checksums right. The archive is deleted at the end; until
then the disk holds both. Members that point out of the folder are refused. The competition's own
test images, which have no published labels, stay packed.

Of a download that was interrupted the client (2.2.5) keeps beside the archive a
marker with the archive's identity (`.kaggle-partial`), and goes on from the bytes that are here if
the server gave an identity and it is still the same; otherwise it begins again.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ctlib.core import display_path, write_json
from ctlib.datasets.download import (
    GB,
    GOES_ON,
    FetchError,
    FetchRefused,
    Job,
    Meter,
    alone,
    bytes_under,
    part_of,
    require_package,
    require_room,
    size,
)

COMPETITION = "rsna-str-pulmonary-embolism-detection"
PAGE = f"https://www.kaggle.com/competitions/{COMPETITION}"


def credentials(environ: Mapping[str, str]) -> str:
    """Where Kaggle's client 2.2.5 would find credentials, in its order; "" for nowhere.

    Only whether they are there is looked at, never what they are.

    >>> credentials({"HOME": "/nowhere", "KAGGLE_USERNAME": "me", "KAGGLE_KEY": "..."})
    'KAGGLE_USERNAME and KAGGLE_KEY'
    >>> credentials({"HOME": "/nowhere", "KAGGLE_USERNAME": "me"})
    ''
    """
    home = Path(environ.get("HOME") or Path.home())
    default = home / ".kaggle"
    if not default.exists():
        default = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    config = Path(environ.get("KAGGLE_CONFIG_DIR") or default)
    places = {
        "KAGGLE_API_TOKEN": bool(environ.get("KAGGLE_API_TOKEN")),
        "~/.kaggle/access_token": _has_text(home / ".kaggle" / "access_token"),
        "~/.kaggle/access_token.txt": _has_text(home / ".kaggle" / "access_token.txt"),
        "KAGGLE_USERNAME and KAGGLE_KEY": bool(environ.get("KAGGLE_USERNAME") and environ.get("KAGGLE_KEY")),
        "kaggle.json": _has_text(config / "kaggle.json"),
        "~/.kaggle/credentials.json": _has_text(home / ".kaggle" / "credentials.json"),
    }
    return next((name for name, there in places.items() if there), "")


def _has_text(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def download_archive(folder: Path) -> None:
    """Fetch the archive with Kaggle's client, which goes on from what is in the folder.

    Raises:
        FetchError: nothing answers, or Kaggle refuses.
    """
    import requests
    import urllib3

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its advice on how to log in: ours was shown
            from kaggle import KaggleApi  # importing it logs in

            api = KaggleApi()
            api.authenticate()
            api.competition_download_files(COMPETITION, path=str(folder), quiet=True)
    except SystemExit as error:  # how the client ends when nothing lets it log in
        raise FetchError("Kaggle does not accept the credentials; make a new token there") from error
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise FetchError(refusal(status)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise FetchError(
            f"kaggle.com does not answer, there seems to be no network ({type(error).__name__})"
        ) from error


def refusal(status: int) -> str:
    """What an HTTP status of Kaggle means for the user.

    >>> refusal(401)
    'Kaggle does not accept the credentials (401); make a new token there'
    """
    if status == 401:
        return "Kaggle does not accept the credentials (401); make a new token there"
    if status == 403:
        return f"Kaggle refuses (403); accept the competition's rules at {PAGE}/rules"
    return f"Kaggle answers with HTTP status {status}"


N_STUDIES, N_IMAGES, N_BYTES = 7_279, 1_790_594, 900 * GB
"""Labelled studies, their images and about how many bytes, as published (docs/protocol.md). How
large the archive is, is not: it is taken to be as large, so that rather too much room is asked for."""
CITATION = (
    "Colak E, Kitamura FC, Hobbs SB, et al. The RSNA Pulmonary Embolism CT Dataset. "
    "Radiology: Artificial Intelligence 2021;3(2):e200254."
)
NOT_UNPACKED = "test/"
"""Folder of the archive that stays packed."""
BRINGS = "kaggle, Kaggle's own client"

Download = Callable[[Path], None]
"""Fetches the archive into a folder, going on from what is there. Raises FetchError."""


def plan(
    to: Path,
    patients: int | None = None,
    environ: Mapping[str, str] | None = None,
    download: Download | None = None,
) -> Job:
    """What would be fetched, and what the user has to do first; no network is needed.

    Args:
        to: target folder, absolute.
        patients: None; the archive is one.
        environ: environment variables; by default the process's.
        download: fetches the archive; by default Kaggle's client.

    Raises:
        FetchRefused: some patients are asked for.
    """
    if patients is not None:
        raise FetchRefused("RSPECT comes as one archive, and names no patients: leave out --patients.")
    environ = os.environ if environ is None else environ
    archive = archive_of(to)
    found = credentials(environ)
    lacking = () if download else _lacking(found)
    if record_of(to).is_file() and to.is_dir():
        fetch_bytes = needs_bytes = 0
    elif is_complete(archive):
        fetch_bytes, needs_bytes, lacking = 0, _left_to_unpack(archive, to), ()
    else:
        fetch_bytes = max(0, N_BYTES - bytes_under(archive))
        needs_bytes = fetch_bytes + N_BYTES
    facts = (
        ("dataset", f"RSPECT, the RSNA STR Pulmonary Embolism Detection competition of Kaggle ({PAGE})"),
        (
            "in all",
            f"{N_STUDIES:,} labelled studies, {N_IMAGES:,} images, about {size(N_BYTES)} (as published)",
        ),
        ("here", _here(to, archive)),
        ("to fetch", f"about {size(fetch_bytes)}, one archive"),
        ("room", "while it is unpacked the disk holds the archive and the files; then it is deleted"),
        ("left out", "the competition's own test images: they have no published labels"),
        ("licence", f"the competition's rules, which your account accepts at {PAGE}/rules"),
        ("cite", CITATION),
        ("credentials", found or "none"),
    )
    start = download or download_archive
    return Job("rspect", to, facts, fetch_bytes, needs_bytes, lacking, lambda: fetch(to, start))


def _here(to: Path, archive: Path) -> str:
    if record_of(to).is_file() and to.is_dir():
        return f"everything, as {display_path(record_of(to))} records; delete that file to fetch it anew"
    if is_complete(archive):
        return "the whole archive, not all unpacked"
    return f"{size(bytes_under(archive))} of the archive"


def _lacking(found: str) -> tuple[str, ...]:
    lacking = []
    try:
        require_package("kaggle", BRINGS)
    except FetchRefused as error:
        lacking.append(str(error))
    if not found:
        lacking.append(
            f"No credentials of Kaggle were found. You need: 1. an account at kaggle.com; 2. to accept the "
            f"competition's rules with it, at {PAGE}/rules; 3. a token of its settings page (API), in "
            "the file ~/.kaggle/access_token or the variable KAGGLE_API_TOKEN (or, of the older kind, "
            "kaggle.json in ~/.kaggle, or KAGGLE_USERNAME and KAGGLE_KEY)."
        )
    return tuple(lacking)


def archive_of(to: Path) -> Path:
    """The archive, while it is here."""
    return part_of(to) / f"{COMPETITION}.zip"


def record_of(to: Path) -> Path:
    """The file that records that everything was unpacked."""
    return to.with_name(f".{to.name}.json")


def is_complete(archive: Path) -> bool:
    """Whether the archive is here to its end: no marker of Kaggle's client, and a directory of members."""
    marker = archive.with_name(f"{archive.name}.kaggle-partial")
    return archive.is_file() and not marker.exists() and zipfile.is_zipfile(archive)


def fetch(to: Path, download: Download) -> None:
    """Fetch the archive, unpack it, delete it; what was done before is not done again.

    Args:
        to: target folder.
        download: fetches the archive into the folder it is given.

    Raises:
        FetchError: the archive did not come, or is damaged.
        FetchRefused: another fetch into this folder is running, or no room to unpack.
    """
    with alone(to) as part:
        archive = archive_of(to)
        if not is_complete(archive):
            try:
                with Meter(N_BYTES, archive):
                    download(part)
            except FetchError as error:
                raise FetchError(f"RSPECT did not come: {error}. {GOES_ON}.") from error
            if not is_complete(archive):
                raise FetchError(
                    f"RSPECT did not come: no whole archive is in {display_path(part)}. {GOES_ON}."
                )
        n_files = unpack(archive, to)
        write_json(
            record_of(to), {"archive": archive.name, "bytes": archive.stat().st_size, "files": n_files}
        )
        archive.unlink()


def unpack(archive: Path, to: Path) -> int:
    """Unpack the archive: each folder of it appears when all its files are written.

    Args:
        archive: the whole archive.
        to: target folder.

    Returns:
        How many files the folder holds then.

    Raises:
        FetchError: the archive is damaged, or a member points out of the folder.
        FetchRefused: the disk has no room for what is left to unpack.
    """
    temporary = archive.with_name("unpacked")
    with opened(archive) as file:
        folders = members(file)
        left = {folder: infos for folder, infos in folders.items() if not _is_there(infos, to)}
        total = sum(info.file_size for infos in left.values() for info in infos)
        require_room(total, to)
        with Meter(total, temporary) as meter:
            for folder, infos in left.items():
                shutil.rmtree(temporary, ignore_errors=True)  # of a killed fetch
                temporary.mkdir()
                for info in infos:
                    written = temporary / Path(info.filename).name
                    with file.open(info) as source, written.open("wb") as sink:
                        shutil.copyfileobj(source, sink)  # the end of a member checks its checksum
                _move(temporary, to / folder)
                meter.add(sum(info.file_size for info in infos))
    shutil.rmtree(temporary, ignore_errors=True)
    return sum(len(infos) for infos in folders.values())


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, open for reading.

    Raises:
        FetchError: it is damaged, wherever that is noticed.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise FetchError(
            f"{display_path(archive)} is damaged ({error}): delete it; the same command fetches it anew."
        ) from error


def members(archive: zipfile.ZipFile) -> dict[PurePosixPath, list[zipfile.ZipInfo]]:
    """Files to unpack, by folder.

    Raises:
        FetchError: one points out of the target folder.
    """
    folders = defaultdict(list)
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            raise FetchError(
                f"The archive has a member that points out of its folder: {info.filename!r:.80}."
            )
        if not info.is_dir() and not info.filename.startswith(NOT_UNPACKED):
            folders[path.parent].append(info)
    return folders


def _is_there(infos: Sequence[zipfile.ZipInfo], to: Path) -> bool:
    paths = [to / info.filename for info in infos]
    return all(p.is_file() and p.stat().st_size == i.file_size for p, i in zip(paths, infos, strict=True))


def _left_to_unpack(archive: Path, to: Path) -> int:
    with opened(archive) as file:
        return sum(i.file_size for infos in members(file).values() if not _is_there(infos, to) for i in infos)


def _move(folder: Path, place: Path) -> None:
    """Rename a folder to its place; its files, where one is there (the top, or one that was damaged)."""
    if place.exists():
        for path in folder.iterdir():
            path.replace(place / path.name)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
