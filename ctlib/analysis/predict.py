"""The score of each clip of one series, from a finished run.

A demonstration that a run can be used again on files it has never seen, read by the same
reader, cut as its clips were cut. It is no diagnosis.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from ctlib.core import Identity, Workspace, write_text
from ctlib.datasets import ClipDataset, StoreError, shrink, task, tile, unmet
from ctlib.io import SeriesError, Volume, read_series
from ctlib.models import InitError
from ctlib.training import Run, Step, clip_settings, compute_of, loop, read_run, trained
from ctlib.visualization import clip_scores, png

DISCLAIMER = (
    "A demonstration of the machinery, for research only: no diagnosis, and no statement about this patient."
)


class PredictError(ValueError):
    """The run or the series cannot be used; the sentence says which and why."""


@dataclass(frozen=True)
class Scored:
    """What came out.

    Args:
        table: one row a clip: clip, start, stop (slices, 0 = the most inferior), low_mm, high_mm
            (patient coordinate along Superior of the clip's ends, mm), score in [0, 1].
        files: the table as CSV and the figure as PNG.
    """

    table: pd.DataFrame
    files: tuple[Path, Path]


@dataclass(frozen=True)
class _One:
    """One volume in the place of a store: int16 `[D, M, M]`, HU, and its spacing (z, y, x), mm."""

    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]

    def read(self, series_uid: str, start: int = 0, stop: int | None = None) -> NDArray[np.int16]:
        """Slices of the volume."""
        return self.hu[start:stop]

    def record(self, series_uid: str) -> dict[str, list[float]]:
        """Its shape, and the spacing of its voxels."""
        return {"shape": list(self.hu.shape), "spacing_mm": list(self.spacing_mm)}


def predict(workspace: Workspace, run_id: str, series: Path, identity: Identity) -> Scored:
    """Score the clips of a series and write table and figure under `predict/<run_id>_<series>/`.

    Args:
        workspace: where the run lies.
        run_id: a finished run.
        series: a NIfTI, MetaImage or NRRD file, or the folder of the DICOM files of one series.
        identity: gives the series the name that it has in tables.

    Raises:
        PredictError: the series or the weights of the run cannot be read.
    """
    run = read_run(workspace, run_id)
    try:
        volume = read_series(series)
        table = _table(volume, run.clip_length)
        table["score"] = _scores(workspace, run, volume, table)
    except (SeriesError, StoreError, InitError, OSError) as error:
        raise PredictError(str(error)) from error
    folder = workspace.root / "predict" / f"{run_id}_{identity.series(volume.series_uid)}"
    written = write_text(folder / "scores.csv", table.to_csv(index=False))
    figure = clip_scores(table, f"{task(run.task).title}; run {run_id}\nDemonstration, no diagnosis")
    picture, temporary = folder / "scores.png", folder / ".scores.png"
    temporary.write_bytes(png(figure))
    temporary.replace(picture)
    return Scored(table, (written, picture))


def _table(volume: Volume, length: int) -> pd.DataFrame:
    """The clips of a volume: every slice is in one."""
    rows = [(clip, start, stop) for clip, (start, stop) in enumerate(tile(len(volume.hu), length))]
    table = pd.DataFrame(rows, columns=["clip", "start", "stop"])
    edges = np.append(volume.z_mm, volume.z_mm[-1] + volume.spacing_mm[0]) - volume.spacing_mm[0] / 2
    return table.assign(low_mm=edges[table["start"]], high_mm=edges[table["stop"]])


def _scores(workspace: Workspace, run: Run, volume: Volume, table: pd.DataFrame) -> NDArray[np.float64]:
    """Scores of the clips `[n_clips]`, float64 in [0, 1], from the weights of the run's best epoch."""
    model, cut = trained(workspace, run), clip_settings(run)
    rows = table.assign(series_uid=volume.series_uid, label=np.nan)
    z, y, x = volume.spacing_mm
    scale = max(volume.hu.shape[1:]) / run.matrix_px
    one = _One(shrink(volume.hu, run.matrix_px), (z, y * scale, x * scale))
    if why := unmet(one, rows, cut):
        raise PredictError(
            f"series {volume.series_uid} cannot be as the starting weights of run {run.run_id} ask: {why}."
        )
    clips = ClipDataset(one, rows, cut, train=False)
    compute = compute_of(workspace.root, Step.of(run), measuring=False)
    logits = loop.predict(model, clips, run.batch_size, compute)
    return expit(logits[:, 0].astype(np.float64))
