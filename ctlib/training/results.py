"""What comes out of runs: scores of studies and their AUROC, which runs are finished, all their tables in one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from ctlib import metrics
from ctlib.core import Workspace, read_json, tables
from ctlib.training.loop import FitError, Metric
from ctlib.training.run import Run

RESULT, ERROR = "result.json", "error.txt"
"""Files of a run's folder: its figures, written last; the traceback of its last failure."""


def predictions(run_id: str, clips: pd.DataFrame, logits: NDArray[np.float32]) -> pd.DataFrame:
    """Table `predictions` of clips.

    Args:
        run_id: run that they are of.
        clips: as `ctlib.training.run.labelled_clips` gives them.
        logits: `[n_clips, 1]`.
    """
    columns = [column.name for column in tables.SCHEMAS["predictions"]]
    scores = expit(logits[:, 0].astype(np.float64))  # of float64: no ties from rounding to 1
    return clips.assign(run_id=run_id, score=scores)[columns]


def study_auroc(clips: pd.DataFrame) -> Metric:
    """The validation metric: logits of clips to the AUROC of their studies' highest scores.

    Args:
        clips: patient_id, study, split, clip, label, study_label; as `ctlib.training.run.labelled_clips` gives them.

    Raises:
        FitError: all studies have one label, so there is no AUROC.
    """
    labels = clips.drop_duplicates("study")["study_label"]
    if labels.nunique() < 2:
        found = f"all with label {labels.iloc[0]}" if len(labels) else "none"
        raise FitError(
            f"the validation split has {len(labels)} studies, {found}, so no AUROC "
            "can choose the best epoch; give it a larger share (split_shares), or another split_seed."
        )

    def metric(logits: NDArray[np.float32]) -> float:
        studies = metrics.study_scores(predictions("", clips, logits))
        auroc = metrics.auroc(studies["label"], studies["score"])
        if auroc.reason:
            raise FitError(f"validation AUROC is not defined: {auroc.reason}.")
        return auroc.value

    return metric


def finished(workspace: Workspace, run: Run) -> bool:
    """Whether a run has its result."""
    return (workspace.runs / run.run_id / RESULT).is_file()


def collect(workspace: Workspace, runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """What came out of the runs.

    Args:
        workspace: where everything lies.
        runs: from `expand`.

    Returns:
        Tables `runs` (one row each, `status` finished, failed or missing), `curves` and
        `predictions` of the finished ones, and `ledger` of the first finished run of each
        network and init.
    """
    rows, parts = [], {name: [tables.empty(name)] for name in ("curves", "predictions", "ledger")}
    ledgers: set[tuple[str, str]] = set()
    for run in runs:
        folder = workspace.runs / run.run_id
        row = {**dataclasses.asdict(run), "run_id": run.run_id, "status": "missing", "error": None}
        if finished(workspace, run):
            row.update(read_json(folder / RESULT), status="finished")
            for name in ("curves", "predictions"):
                parts[name].append(tables.read(name, folder / f"{name}.parquet"))
            if (run.backbone, run.init) not in ledgers:
                ledgers.add((run.backbone, run.init))
                parts["ledger"].append(tables.read("ledger", folder / "ledger.parquet"))
        elif (folder / ERROR).is_file():
            lines = (folder / ERROR).read_text(encoding="utf-8").strip().splitlines()
            row.update(status="failed", error=lines[-1])
        rows.append(row)
    columns = [column.name for column in tables.SCHEMAS["runs"]]
    made = {name: tables.check(pd.concat(part, ignore_index=True), name) for name, part in parts.items()}
    # of the settings `epochs` is the most there may be; the table has those that were trained
    frame = pd.DataFrame(rows).reindex(columns=columns)
    frame.loc[frame["status"] != "finished", "epochs"] = None
    return {"runs": tables.check(frame, "runs"), **made}


def collect_controls(workspace: Workspace, runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """What came out of runs with a control: tables `controls` and `predictions`."""
    found = collect(workspace, runs)
    names = pd.DataFrame(
        [(run.run_id, run.control) for run in runs], columns=["run_id", "control"], dtype="str"
    )
    made = found["runs"].merge(names, on="run_id", validate="one_to_one")
    return {"controls": tables.check(made, "controls"), "predictions": found["predictions"]}
