"""From logits of clips to scores of studies: table `predictions`, and the metric that chooses an epoch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from ctlib import metrics
from ctlib.core import tables
from ctlib.training.loop import FitError, Metric


def predictions(run_id: str, clips: pd.DataFrame, logits: NDArray[np.float32]) -> pd.DataFrame:
    """Table `predictions` of clips.

    Args:
        run_id: run that they are of.
        clips: as `runs.labelled_clips` gives them.
        logits: `[n_clips, 1]`.
    """
    columns = [column.name for column in tables.SCHEMAS["predictions"]]
    scores = expit(logits[:, 0].astype(np.float64))  # of float64: no ties from rounding to 1
    return clips.assign(run_id=run_id, score=scores)[columns]


def study_auroc(clips: pd.DataFrame) -> Metric:
    """The validation metric: logits of clips to the AUROC of their studies' highest scores.

    Args:
        clips: patient_id, study, split, clip, label, study_label; as `runs.labelled_clips` gives them.

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
