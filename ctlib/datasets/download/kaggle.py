"""Kaggle's own client, with the user's own account.

What the client (2.2.5) does about a download that was interrupted: beside the archive it keeps a
marker with the archive's identity (`.kaggle-partial`), and goes on from the bytes that are here if
the server gave an identity and it is still the same; otherwise it begins again.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

from ctlib.datasets.download import FetchError

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
