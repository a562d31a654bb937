"""What the networks of finished runs see in test exams with disease: their maps, and where the disease is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.analysis.gradcam import ClassActivation, exam_map
from ctlib.core import Workspace
from ctlib.datasets import MIN_READERS, ClipDataset, Store, mask, task
from ctlib.training import (
    NONE,
    WEIGHTS,
    Run,
    clip_settings,
    clips_of_run,
    drawn,
    read_run,
    read_table,
    store_of,
    trained,
)
from ctlib.visualization import Sight

UNTRAINED = "untrained"
"""In the place of an init: the network with random weights, never trained."""
_NEXT_DRAW = 1000  # what is added to the seed for the next random weights: more seeds than anybody has


@dataclass(frozen=True)
class Exam:
    """A test exam with disease.

    Args:
        row: of table `series`.
        clips: its clips, as `runs.clips_of_run` gives them.
        labels: of its slices, `[D]`, 1 = disease.
        marks: its rows of table `marks`.
        store: of its cohort.
    """

    row: Any
    clips: pd.DataFrame
    labels: NDArray[np.int64]
    marks: pd.DataFrame
    store: Store

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the stored voxels (z, y, x), mm."""
        z, y, x = self.store.record(self.row.series_uid)["spacing_mm"]
        return z, y, x

    def inside(self, min_readers: int = MIN_READERS) -> NDArray[np.bool_] | None:
        """The stored voxels in a nodule `[D, M, M]`; None where nobody drew a contour."""
        if self.marks.empty:
            return None
        return mask(self.marks, self.row, self.store.matrix_px, min_readers)

    def map_of(self, activation: ClassActivation, run: Run) -> NDArray[np.float32]:
        """The map of a run's network in the stored voxels `[D, M, M]`; NaN beyond its crop."""
        clips = ClipDataset(self.store, self.clips, clip_settings(run), train=False)
        return exam_map(activation, clips, len(self.labels), self.store.matrix_px)


def test_exams(workspace: Workspace, run: Run) -> list[Exam]:
    """The test exams with disease of a run's task, by patient and study.

    Raises:
        MissingInput: a table is missing.
    """
    cohort, store = task(run.task).cohort, store_of(workspace, run)
    rows = clips_of_run(workspace, run)
    rows = rows[(rows["split"] == "test") & (rows["study_label"] == 1)]
    series, slices, marks = (read_table(workspace, name, cohort) for name in ("series", "slices", "marks"))
    by_uid = {row.series_uid: row for row in series.itertuples(index=False)}
    exams = []
    for uid, clips in rows.groupby("series_uid", sort=False):
        labels = slices[slices["series_uid"] == uid].sort_values("slice")["label"].fillna(0)
        own = marks[marks["series_uid"] == uid]
        exams.append(Exam(by_uid[uid], clips, labels.to_numpy(np.int64), own, store))
    return exams


test_exams.__test__ = False  # type: ignore[attr-defined]


def activation_of(workspace: Workspace, run: Run, draw: int | None = None) -> ClassActivation:
    """What makes the maps of a finished run's clips.

    Args:
        workspace: where the run lies.
        run: a finished run.
        draw: of random weights in the place of the trained ones; 0 has the head that the run began with.

    Raises:
        FileNotFoundError: the run's weights were deleted.
    """
    cut = clip_settings(run)
    network = trained(workspace, run) if draw is None else drawn(workspace, run, run.seed + _NEXT_DRAW * draw)
    return ClassActivation(network, (cut.n_channels, cut.length, cut.crop_px, cut.crop_px))


def why_unseen(workspace: Workspace, row: Any) -> str:
    """Why there are no maps of a run, or ''."""
    if row.status != "finished":
        return f"run {row.run_id} is {row.status}"
    if not (workspace.runs / row.run_id / WEIGHTS).is_file():
        return f"run {row.run_id} has no weights any more"
    if read_run(workspace, row.run_id).control != NONE:
        return f"run {row.run_id} is a negative control"
    return ""


def sights(
    workspace: Workspace,
    runs: pd.DataFrame,
    name: str,
    backbone: str,
    inits: Sequence[str],
    n: int = 3,
    min_readers: int = MIN_READERS,
) -> list[Sight]:
    """Some exams as networks from several inits see them, and one with random weights.

    All networks are of the first turn and seed that each init has a finished run of, at the largest
    fraction, and began with the same head. The slice is the one on which a nodule is largest, or the middle
    one of those that are labelled. Exams are evenly spread over the test exams with disease, whatever their
    maps.

    Args:
        workspace: where runs, volumes and tables lie.
        runs: table `runs`.
        name: of the task.
        backbone: the network.
        inits: side by side.
        n: exams.
        min_readers: readers who must have marked a nodule.

    Returns:
        Nothing where some init has no such run.
    """
    chosen = runs[(runs["task"] == name) & (runs["backbone"] == backbone) & runs["init"].isin(list(inits))]
    chosen = chosen[chosen["fraction"] == chosen["fraction"].max()]
    there = [
        read_run(workspace, str(row.run_id)) for row in chosen.itertuples() if not why_unseen(workspace, row)
    ]
    by_seed: dict[tuple[int, int], dict[str, Run]] = {}
    for run in sorted(there, key=lambda run: (run.fold, run.seed)):
        by_seed.setdefault((run.fold, run.seed), {})[run.init] = run
    whole = [found for found in by_seed.values() if len(found) == len(set(inits))]
    if not whole:
        return []
    of_init = {init: whole[0][init] for init in inits}
    first = of_init[inits[0]]
    networks = {init: (run, activation_of(workspace, run)) for init, run in of_init.items()}
    networks[UNTRAINED] = (first, activation_of(workspace, first, draw=0))
    exams = [exam for exam in test_exams(workspace, first) if exam.labels.any()]
    places = np.unique(np.linspace(0, len(exams) - 1, min(n, len(exams))).round().astype(int))
    return [_sight(exams[place], networks, min_readers) for place in places]


def _sight(exam: Exam, networks: dict[str, tuple[Run, ClassActivation]], min_readers: int) -> Sight:
    inside = exam.inside(min_readers)
    labelled = np.flatnonzero(exam.labels)
    place = int(labelled[len(labelled) // 2])
    if inside is not None and inside.any():
        place = int(inside.sum(axis=(1, 2)).argmax())
    maps = {}
    for name, (run, activation) in networks.items():
        whole = exam.map_of(activation, run)
        maps[name] = whole[place] / max(float(np.nanmax(whole)), np.finfo(np.float32).tiny)
    hu = np.asarray(exam.store.read(exam.row.series_uid, place, place + 1))[0]
    here = None if inside is None else inside[place]
    return Sight(hu, exam.spacing_mm[1:], place, here, maps, exam.row.study_uid)
