"""LIDC-annot-NLST501 from the Imaging Data Commons, as `download.lidc` fetches LIDC-IDRI: no account, idc-index.

What it holds is known offline, from idc-index-data: 2,004 segmentations of 501 patients, and the CT series that they
belong to. The index does not say which CT that is, so the CT series are chosen by their description, which a
segmentation repeats behind `SEG,`: of a study, the one that was made again for this result if there is one (24
studies), else all of that description (21 studies have two or three). The reader takes the CT that a segmentation
names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ctlib.datasets.download import MB, FetchRefused, Job, size
from ctlib.datasets.download.lidc import (
    COLUMNS,
    Fetcher,
    Idc,
    Series,
    download,
    index_folder,
    plain,
    without_index,
)

COLLECTION, RESULT = "nlst", "lidc_annot_nlst501"
"""Names in the index, columns collection_id and analysis_result_id."""
WHOLE = (
    ("dataset", "LIDC-annot-NLST501 and its CT of NLST, from the public bucket of the Imaging Data Commons"),
    ("in all", "2,526 series (CT, and four segmentations each) of 501 patients, 88,069 files"),
    ("licence", "CC BY 4.0"),
    ("cite", "https://doi.org/10.7937/Y2DX-E334"),
)
WHOLE_BYTES = 56_000_000_000
"""What is told without the index, and the size, of all patients; as idc-index-data 25.0.5 has it."""
SEGMENTED = "SEG,"
"""How the SeriesDescription of a segmentation begins; the rest is that of its CT."""


def select(index: Path) -> list[Series]:
    """Segmentations and their CT series, in order of patient id.

    Args:
        index: `idc_index.parquet` of idc-index-data.

    Raises:
        FetchRefused: the file is no such index, or has no such segmentations.
    """
    columns = [*COLUMNS, "analysis_result_id", "SeriesDescription"]
    asked = [("collection_id", "=", COLLECTION), ("Modality", "in", ["CT", "SEG"])]
    try:
        table = pd.read_parquet(index, columns=columns, filters=asked)
    except (ValueError, OSError) as error:  # pyarrow's errors are of these kinds
        raise FetchRefused(f"{index.name} is not as in idc-index-data 25.0.5: {error}") from error
    ours = table["analysis_result_id"] == RESULT
    masks = table[ours & (table["Modality"] == "SEG")]
    if masks.empty:
        raise FetchRefused(f"{index.name} does not have {RESULT}; take idc-index-data 25.0.5 or later.")
    named = masks["SeriesDescription"].astype("str").str.removeprefix(SEGMENTED)
    wanted = set(zip(masks["StudyInstanceUID"], named, strict=True))
    scans = table[(table["Modality"] == "CT") & table["StudyInstanceUID"].isin(masks["StudyInstanceUID"])]
    pairs = zip(scans["StudyInstanceUID"], scans["SeriesDescription"].astype("str"), strict=True)
    scans = scans[[pair in wanted for pair in pairs]]
    again = scans["analysis_result_id"] == RESULT
    scans = scans[again | ~scans["StudyInstanceUID"].isin(scans.loc[again, "StudyInstanceUID"])]
    rows = pd.concat([masks, scans]).sort_values(["PatientID", "Modality", "SeriesInstanceUID"])
    return [
        Series(
            row.PatientID,
            row.StudyInstanceUID,
            row.SeriesInstanceUID,
            int(row.instanceCount),
            round(row.series_size_MB * MB),
            row.license_short_name,
        )
        for row in rows.itertuples()
    ]


def citation(results: Path) -> str:
    """How to cite the result, as its index says.

    Args:
        results: `analysis_results_index.parquet` of idc-index-data.
    """
    rows = pd.read_parquet(results, columns=["analysis_result_id", "citation"])
    (text,) = rows.loc[rows["analysis_result_id"] == RESULT, "citation"]
    return plain(text)


def plan(
    to: Path, patients: int | None = None, index: Path | None = None, fetcher: Fetcher | None = None
) -> Job:
    """What would be fetched, from the index, without a network; see `download.lidc.plan`.

    Raises:
        FetchRefused: the index does not have the result.
    """
    try:
        index = index or index_folder()
    except FetchRefused as error:
        return without_index("nlst501", to, WHOLE, WHOLE_BYTES, error)
    found = select(index / "idc_index.parquet")
    everybody = sorted({series.patient_id for series in found})
    chosen = set(everybody[:patients])
    series = [one for one in found if one.patient_id in chosen]
    missing = [one for one in series if not one.is_whole(one.place(to))]
    n_bytes = sum(one.n_bytes for one in missing)
    facts = _facts(
        series, missing, len(chosen), len(everybody), citation(index / "analysis_results_index.parquet")
    )
    start = fetcher or Idc(COLLECTION)
    return Job("nlst501", to, facts, n_bytes, n_bytes, (), lambda: download(missing, to, start, "NLST501"))


def _facts(
    series: Sequence[Series], missing: Sequence[Series], n_chosen: int, n_patients: int, cite: str
) -> tuple[tuple[str, str], ...]:
    n_bytes, left = sum(one.n_bytes for one in series), sum(one.n_bytes for one in missing)
    return (
        WHOLE[0],
        (
            "chosen",
            f"{len(series):,} series (CT, and four segmentations each) of {n_chosen:,} of {n_patients:,} patients",
        ),
        ("in all", f"{sum(one.n_files for one in series):,} files, {size(n_bytes)}"),
        ("here", f"{len(series) - len(missing):,} series are here and whole; they are not fetched again"),
        ("to fetch", f"{len(missing):,} series, {sum(one.n_files for one in missing):,} files, {size(left)}"),
        (
            "note",
            "only the most suspicious lesions have masks; the CT series are chosen by their description",
        ),
        ("licence", ", ".join(sorted({one.licence for one in series}))),
        ("cite", cite),
    )
