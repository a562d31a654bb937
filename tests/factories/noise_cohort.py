"""A small cohort in tables and a store, for tests of what is trained on it."""

import numpy as np
import pandas as pd

from ctlib.core import tables
from ctlib.core.workspace import Workspace
from ctlib.datasets.clips import clip_table
from ctlib.datasets.splits import split_patients
from ctlib.datasets.store import Store
from ctlib.io.volume import Volume

SIDE, LENGTH, N_SLICES = 16, 4, 10

SETTINGS = {
    "size": "tiny",
    "matrix_px": SIDE,
    "clip_length": LENGTH,
    "crop_px": SIDE - 2,
    "rotation_deg": 0.0,
    "epochs": 1,
    "steps_per_epoch": 2,
    "batch_size": 4,
    "weight_decay": 1e-6,
    "optimizer": "adam",
    "schedule": "constant",
    "patience": 0,
    "precision": "fp32",
    "study_label": "exam",
}
"""Of runs on it, as short as they can be."""


def write_cohort(workspace: Workspace, cohort: str, n_patients: int = 20, n_folds: int = 0) -> None:
    """Patients with noise for a chest; in one of two exams of the ill, half of the slices are bright.

    With folds, patients are dealt to them in turn, and fold 0 is test.
    """
    rng = np.random.default_rng([len(cohort), 1])
    series, slices = [], []
    store = Store(workspace.store(cohort), SIDE)
    for patient in range(n_patients):
        for exam in range(1 + patient % 2):
            uid = f"{cohort}.{patient}.{exam}"
            ill = int(patient < n_patients // 2 and exam == 0)
            hu = rng.integers(-900, -100, (N_SLICES, SIDE, SIDE)).astype(np.int16)
            hu[: N_SLICES // 2] += 300 * ill
            store.put(Volume(hu, (2.0, 1.0, 1.0), uid, (0.0, 0.0, 0.0)))
            row = {
                "cohort": cohort,
                "patient_id": f"p{patient:02d}",
                "study_uid": f"s{uid}",
                "series_uid": uid,
            }
            row |= {"n_files": N_SLICES, "n_slices": N_SLICES, "rows_px": SIDE, "cols_px": SIDE}
            row |= {"spacing_z_mm": 2.0, "spacing_y_mm": 1.0, "spacing_x_mm": 1.0, "thickness_mm": 2.0}
            series.append(row | {"kernel": None, "manufacturer": None, "label": ill})
            labels = [ill * (i < N_SLICES // 2) for i in range(N_SLICES)]
            slices.append(
                pd.DataFrame({"series_uid": uid, "slice": range(N_SLICES), "z_mm": 0.0, "label": labels})
            )
    table = tables.check(pd.DataFrame(series), "series")
    made = {
        "series": table,
        "clips": clip_table(tables.check(pd.concat(slices), "slices"), LENGTH, min_positive=2),
        "splits": split_patients(table, (0.4, 0.3, 0.3), seed=0),
    }
    if n_folds:
        patients = sorted(table["patient_id"].unique())
        fold = np.arange(n_patients) % n_folds
        made["folds"] = pd.DataFrame({"patient_id": patients, "fold": fold})
        roles = pd.Series(fold).map({0: "test", 1: "val"}).fillna("train")
        made["splits"] = pd.DataFrame({"patient_id": patients, "split": roles})
    for name, frame in made.items():
        tables.write(frame, name, workspace.table(name, cohort))
