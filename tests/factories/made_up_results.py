"""Results that were never computed: tables of a grid whose story is known."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, ndtri

from ctlib.core import tables

NETWORKS = ["slow_r50", "r2plus1d_r50", "swin3d_t"]
TWO_D = ["resnet18"]
TASKS = ["lidc_nodule", "rspect_pe"]
FRACTIONS = [0.25, 1.0]
SEEDS = [0, 1, 2]
EPOCHS = 4
PER_FRACTION = 200
"""Training patients of the whole."""


@dataclass
class Results:
    runs: pd.DataFrame
    predictions: pd.DataFrame
    curves: pd.DataFrame


def plain(gains):
    """AUROC of an arm: what is known from an init, plus 0.05 for all patients; 2D networks as from random."""

    def auroc(task, backbone, init, fraction):
        gain = gains.get(init, 0.0) if backbone not in TWO_D else 0.0
        return min(0.70 + 0.05 * (fraction == 1.0) + gain, 0.985)

    return auroc


def made_up(
    auroc, inits=("random", "video"), n_patients=160, seed_sd=0.01, lost=None, label=None, seed=0,
    tasks=TASKS, backbones=(*NETWORKS, *TWO_D), fractions=FRACTIONS, seeds=SEEDS,
):  # fmt: skip
    """Tables of a grid.

    Args:
        auroc: (task, backbone, init, fraction) to the AUROC that the arm has in the mean of many patients.
        inits: inits.
        n_patients: test patients of each task, an exam each of two clips.
        seed_sd: spread of that AUROC between seeds.
        lost: (run row) to "failed", "missing" or "" for a run.
        label: of all test exams, for results of one class; None for half and half.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    arms = [
        (t, b, i, f, s) for t in tasks for b in backbones for i in inits for f in fractions for s in seeds
    ]
    truth = np.arange(n_patients) % 2 if label is None else np.full(n_patients, label)
    shared = {t: rng.normal(size=n_patients) for t in tasks}
    runs, scores, curves = [], {}, {}
    for k, (task, backbone, init, fraction, number) in enumerate(arms):
        row = {
            "run_id": f"run{k:04d}",
            "task": task,
            "backbone": backbone,
            "init": init,
            "fraction": fraction,
        }
        status = (lost(row | {"seed": number}) if lost else "") or "finished"
        error = "RuntimeError: out of memory" if status == "failed" else None
        row |= {"seed": number, "fold": 0, "lr": 1e-3, "status": status, "error": error}
        if status == "finished":
            wanted = np.clip(auroc(task, backbone, init, fraction) + rng.normal(0, seed_sd), 0.02, 0.98)
            n = round(PER_FRACTION * fraction)
            row |= {"n_patients": n, "n_studies": n, "n_clips": 3 * n, "n_parameters": 10**6 * len(backbone)}
            row |= {"epochs": EPOCHS, "best_epoch": EPOCHS, "val_auroc": wanted}
            row |= {"seconds": 3.0 * len(backbone)}
            scores[row["run_id"]] = _scores(truth, shared[task], wanted, rng)
            curves[row["run_id"]] = _curve(wanted, rng)
        runs.append(row)
    columns = [column.name for column in tables.SCHEMAS["runs"]]
    return Results(
        tables.check(pd.DataFrame(runs).reindex(columns=columns), "runs"),
        _predictions(scores, truth),
        _curves(curves),
    )


def _scores(label, shared, auroc, rng):
    """`[exams, clips]`; what is hard for one run is half as hard for the others."""
    noise = np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.normal(size=len(label))
    latent = np.sqrt(2) * ndtri(auroc) * (label - 0.5) + noise
    return expit(np.stack([latent, latent - 1], axis=1))


def _predictions(scores, label):
    """Table `predictions` of all runs, two clips an exam, the first with what makes it positive."""
    n, runs = len(label), list(scores)
    if not runs:
        return tables.empty("predictions")
    names = np.tile(np.repeat([f"p{i:04d}" for i in range(n)], 2), len(runs))
    labels = np.stack([label, np.zeros_like(label)], axis=1).ravel()
    table = {
        "run_id": np.repeat(runs, 2 * n), "split": "test", "patient_id": names, "study": names,
        "clip": np.tile([0, 1], n * len(runs)),
        "score": np.concatenate([scores[run].ravel() for run in runs]),
        "label": np.tile(labels, len(runs)), "study_label": np.tile(np.repeat(label, 2), len(runs)),
    }  # fmt: skip
    return tables.check(pd.DataFrame(table), "predictions")


def _curve(auroc, rng):
    epochs = np.arange(1, EPOCHS + 1)
    return 0.5 + (auroc - 0.5) * (1 - np.exp(-epochs)) + rng.normal(0, 0.005, EPOCHS)


def _curves(curves):
    epochs = np.arange(1, EPOCHS + 1)
    parts = [pd.DataFrame({"run_id": run, "epoch": epochs, "val_auroc": val}) for run, val in curves.items()]
    table = pd.concat(parts, ignore_index=True) if parts else tables.empty("curves")
    loss = 0.7 / table["epoch"].astype(float)
    return tables.check(table.assign(train_loss=loss, val_loss=loss), "curves")


def _strong():
    gains = {"video": 0.14, "ct_lidc": 0.03}
    return made_up(plain(gains), ("random", "video", "ct_lidc"), n_patients=300, seed_sd=0.002)


def _none():
    return made_up(plain({}), ("random", "video", "ct_lidc"), n_patients=900, seed_sd=0.001)


def _reversed():
    return made_up(plain({"video": -0.12}), ("random", "video", "ct_lidc"))


def _too_little():
    return made_up(plain({"video": 0.03}), ("random", "video"), n_patients=16, seed_sd=0.03)


def _broken():
    def lost(row):
        if row["init"] == "video" and row["backbone"] == "slow_r50" and row["seed"] == 1:
            return "failed" if row["task"] == "lidc_nodule" else "missing"
        return ""

    return made_up(plain({"video": 0.12}), ("random", "video"), lost=lost)


STORIES = {
    "a strong effect": _strong,
    "none": _none,
    "reversed": _reversed,
    "too little data": _too_little,
    "runs that failed": _broken,
}
