"""Learning rates of a grid: one number for all, those published, or the best of a search.

A search tries a list of rates on a fraction of the training patients, for each task, network and init
with the same budget, and takes the rate with the highest validation AUROC, or accuracy; that rate then serves all
fractions and seeds, as Ke et al. (MIDL 2023) did. Its runs are runs like any other: they are computed
once, and one that is part of the grid serves there too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ctlib.core import tables
from ctlib.grid.expand import Arm
from ctlib.metrics import study_scores
from ctlib.training import Run

SEARCH, PUBLISHED_NAME = "search", "published"
PUBLISHED: dict[tuple[str, str], tuple[float, float]] = {
    ("rspect_pe", "slow_r50"): (1e-5, 1e-4),
    ("rspect_pe", "slowfast_r50"): (1e-4, 1e-4),
    ("rspect_pe", "r2plus1d_r50"): (1e-5, 1e-2),
    ("rspect_pe", "csn_r101"): (1e-4, 1e-4),
    ("rspect_pe", "mvit_b"): (1e-2, 1e-2),
    ("rspect_pe", "swin3d_t"): (1e-5, 1e-5),
    ("rspect_pe", "penet"): (1e-2, 1e-2),
    ("lidc_nodule", "slow_r50"): (1e-5, 1e-3),
    ("lidc_nodule", "slowfast_r50"): (1e-5, 1e-4),
    ("lidc_nodule", "r2plus1d_r50"): (1e-4, 1e-5),
    ("lidc_nodule", "csn_r101"): (1e-3, 1e-3),
    ("lidc_nodule", "mvit_b"): (1e-5, 1e-5),
    ("lidc_nodule", "swin3d_t"): (1e-5, 1e-4),
    ("lidc_nodule", "penet"): (1e-4, 1e-3),
    ("lidc_nodule", "lrcn_resnext101"): (1e-4, 1e-3),
}
"""Rates of Ke et al. by task and network: from pretrained weights, and from random ones (docs/protocol.md).

Where two are given, the first is taken here. MViT-B and PENet on RSPECT were trained by SGD, PENet with a
focal loss: their rates mean little for Adam.
"""


def fixed(lr: str, arms: Sequence[Arm]) -> dict[Arm, float] | None:
    """The rate of each arm, where nothing has to be searched; None for `search`.

    Args:
        lr: a number, `published` or `search`.
        arms: tasks, networks and inits.

    Raises:
        ValueError: it is none of these, or none was published for an arm.

    >>> fixed("published", [("lidc_nodule", "slow_r50", "random"), ("lidc_nodule", "slow_r50", "video")])
    {('lidc_nodule', 'slow_r50', 'random'): 0.001, ('lidc_nodule', 'slow_r50', 'video'): 1e-05}
    >>> fixed("search", []) is None
    True
    """
    if lr == SEARCH:
        return None
    if lr != PUBLISHED_NAME:
        try:
            return dict.fromkeys(arms, float(lr))
        except ValueError:
            raise ValueError(f"lr is {lr!r}; give a number, {PUBLISHED_NAME} or {SEARCH}.") from None
    unknown = sorted(
        {f"{task} {backbone}" for task, backbone, _ in arms if (task, backbone) not in PUBLISHED}
    )
    if unknown:
        raise ValueError(f"lr is published, but none was published for {', '.join(unknown)}; use search.")
    return {
        (task, backbone, init): PUBLISHED[task, backbone][init.split(":")[-1] == "random"]
        for task, backbone, init in arms
    }


CHOSEN_BY = {"auroc": "val_auroc", "accuracy": "val_accuracy"}
"""What chooses a rate, and its column of table `search`. Ke et al. 2023 write accuracy (p. 771)."""


def require_lr_by(by: str) -> None:
    """Raise a ValueError where a search cannot choose by that.

    >>> require_lr_by("loss")
    Traceback (most recent call last):
    ...
    ValueError: lr_by is 'loss'; known are auroc, accuracy.
    """
    if by not in CHOSEN_BY:
        raise ValueError(f"lr_by is {by!r}; known are {', '.join(CHOSEN_BY)}.")


def accuracies_of(predictions: pd.DataFrame) -> pd.Series:
    """Share of the validation studies whose highest score is on the right side of 0.5, by run.

    Args:
        predictions: table `predictions`.
    """
    studies = study_scores(predictions[predictions["split"] == "val"])
    right = (studies["score"] >= 0.5) == (studies["label"] == 1)
    return right.groupby(studies["run_id"]).mean()


def tried(runs: Sequence[Run], results: pd.DataFrame) -> tuple[list[Run], pd.DataFrame]:
    """The part of an unfinished search that can be judged: arms whose rates were all tried.

    Args:
        runs: runs of the search.
        results: table `runs` of them.

    Returns:
        Their runs, and their rows of the table.
    """
    waiting = set(results.loc[results["status"] == "missing", "run_id"])
    unready = {(run.task, run.backbone, run.init) for run in runs if run.run_id in waiting}
    ready = [run for run in runs if (run.task, run.backbone, run.init) not in unready]
    return ready, results[results["run_id"].isin([run.run_id for run in ready])]


def chosen(
    runs: Sequence[Run], results: pd.DataFrame, accuracies: pd.Series | None = None, by: str = "auroc"
) -> pd.DataFrame:
    """Table `search`: each rate that was tried, and which is the best of its task, network and init.

    Of equal ones the lowest is taken; a rate whose run failed cannot be chosen.

    Args:
        runs: runs of the search.
        results: table `runs` of them.
        accuracies: from `accuracies_of`, by run.
        by: one of `CHOSEN_BY`.

    Raises:
        ValueError: no rate of an arm gave a validation AUROC; or `by` is unknown.
    """
    require_lr_by(by)
    columns = ["run_id", "status", "error", "val_auroc"]
    rows = pd.DataFrame(
        [(run.run_id, run.task, run.backbone, run.init, run.lr) for run in runs],
        columns=["run_id", "task", "backbone", "init", "lr"],
    ).merge(results[columns], on="run_id", validate="one_to_one")
    rows["val_accuracy"] = rows["run_id"].map({} if accuracies is None else accuracies).astype("Float64")
    rows = rows.sort_values(["task", "backbone", "init", "lr"], kind="stable", ignore_index=True)
    groups = rows.groupby(["task", "backbone", "init"], sort=False)
    best = []
    for arm, part in groups:
        if part["val_auroc"].isna().all():
            rates = ", ".join(f"{lr:g}" for lr in part["lr"])
            raise ValueError(
                f"lr is search, but none of {rates} gave a validation AUROC for {' '.join(map(str, arm))}; "
                f"the first failed with: {part['error'].iloc[0]}."
            )
        best.append(part[CHOSEN_BY[by]].astype("float64").idxmax())
    return tables.check(rows.assign(chosen=rows.index.isin(best)), "search")


def of_table(search: pd.DataFrame) -> Mapping[Arm, float]:
    """The chosen rate of each arm of table `search`."""
    best = search[search["chosen"]]
    return {(row.task, row.backbone, row.init): float(row.lr) for row in best.itertuples()}
