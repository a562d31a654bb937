"""Made-up runs and scores of exams whose gain is known, for tests of what is made of them."""

import numpy as np
import pandas as pd
from scipy.stats import norm

from ctlib.core import tables

COUNTS = ["n_patients", "n_studies", "n_clips", "n_parameters", "epochs", "best_epoch"]


def scored_grid(
    task: str,
    label: np.ndarray,
    apart: dict[str, np.ndarray | float],
    networks=("slow_r50", "penet"),
    seeds=3,
    run_sd=0.05,
    seed=0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `runs` and `predictions`: one exam a patient, one clip an exam.

    `apart` is how far disease lies from no disease for each init, in standard deviations, exam by exam or
    for all.
    """
    rng = np.random.default_rng([7, seed])
    n = len(label)
    studies, difficulty = [f"s{i:03d}" for i in range(n)], 0.6 * rng.normal(size=n)
    runs, predictions = [], []
    for network in networks:
        for init, distance in apart.items():
            for s in range(seeds):
                raw = (distance + run_sd * rng.normal()) * label + difficulty + 0.8 * rng.normal(size=n)
                run = f"{task}-{network}-{init}-{s}"
                runs.append({"run_id": run, "backbone": network, "init": init, "seed": s})
                predictions.append(
                    pd.DataFrame({"run_id": run, "patient_id": studies, "study": studies}).assign(
                        score=norm.cdf(raw - 0.5), study_label=label, label=label, split="test", clip=0
                    )
                )
    table = pd.DataFrame(runs).assign(task=task, fraction=1.0, lr=1e-3, status="finished", error=None)
    table = table.assign(val_auroc=0.8, seconds=1.0, fold=0, **dict.fromkeys(COUNTS, 1))
    wanted = [column.name for column in tables.SCHEMAS["runs"]]
    return tables.check(table.reindex(columns=wanted), "runs"), tables.check(
        pd.concat(predictions), "predictions"
    )
