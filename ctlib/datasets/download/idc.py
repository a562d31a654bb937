"""idc-index as it is called here: quiet, on the rows of one collection, its errors in a sentence.

s5cmd, which it starts and which moves the bytes, tries again by itself: with no network it gave up
after 80 s (measured), so whether anything answers is asked first.
"""

from __future__ import annotations

import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctlib.datasets.download import FetchError

COLLECTION = "lidc_idri"
"""Name of LIDC-IDRI in the index, column collection_id."""
ANSWER_S = 20.0
"""How long an answer of the bucket may take before we say that there is no network, s."""


class Idc:
    """Fetches through idc-index, which starts s5cmd.

    Its client reads the index of the whole Commons at first: 5 s and 1.8 GB of memory (measured).
    """

    def __init__(self) -> None:
        self.client: Any = None
        self.errors = Errors()

    def __call__(self, series_uids: Sequence[str], folder: Path) -> None:
        """Fetch series into `<folder>/<series uid>/`.

        Raises:
            FetchError: nothing answers, or s5cmd reports an error.
        """
        from idc_index import index as idc

        if self.client is None:
            require_answer(idc.aws_endpoint_url)
            # idc-index tells of errors in its log only, and of much else there: it is kept off the screen
            idc.logger.addHandler(self.errors)
            idc.logger.setLevel(logging.ERROR)
            idc.logger.propagate = False
            self.client = idc.IDCClient()
            # each call joins the index: 6 s with a million rows of the Commons, none with ours
            self.client.index = self.client.index.query("collection_id == @COLLECTION")
        self.errors.texts.clear()
        try:
            self.client.download_from_selection(
                downloadDir=str(folder),
                seriesInstanceUID=list(series_uids),
                dirTemplate="%SeriesInstanceUID",
                quiet=True,
                show_progress_bar=False,
            )
        except idc.IDCClientInsufficientDiskSpaceError as error:
            raise FetchError(str(error).rstrip(".")) from error
        if self.errors.texts:
            raise FetchError(self.errors.reason)


class Errors(logging.Handler):
    """Keeps the errors that idc-index logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.texts.append(record.getMessage())

    @property
    def reason(self) -> str:
        """What s5cmd said last, without the paths before it."""
        said = [line for text in self.texts for line in text.splitlines() if line.startswith("ERROR")]
        return (said or self.texts)[-1].split("caused by: ")[-1].split('": ')[-1].strip(" .,:")


def require_answer(url: str) -> None:
    """Ask whether anything answers at an address, through a proxy where one is set.

    Raises:
        FetchError: nothing does within `ANSWER_S`.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_S):
            return
    except urllib.error.HTTPError:
        return  # an answer
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # an answer; s5cmd knows certificates of its own
        raise FetchError(f"nothing answers at {url}, there seems to be no network ({reason})") from error
