"""How soon: epochs, and exams, until a validation or test AUROC is reached; and what a network costs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ctlib import metrics
from ctlib.analysis.question import Question, lacks_a_side, no_finished_run
from ctlib.analysis.study import GRID, Study
from ctlib.analysis.text import interval, place
from ctlib.core import counted
from ctlib.visualization import figures, percent

# ---- epochs and exams to a given AUROC ----------------------------------------------------


def compute_speed(study: Study) -> pd.DataFrame:
    """When the runs of each init reach the target.

    Returns:
        A row for each task, fraction and init: target, n_runs (with a curve), n_reached, epoch (median of the
        first epoch at the target, runs that never get there being later than all; NaN where half do not),
        exams (training exams at which the fitted test AUROC of the init reaches the target; NaN where it
        never does, or is not known), reason_exams; n_positive_val, n_negative_val (validation exams of a
        run, 0 where there are no scores of them), n_epochs (median), by_luck (probability that scores which
        know nothing reach the target in an epoch) and by_luck_ever (in one of n_epochs, taken as
        independent: those of a run resemble each other, so it is less).
    """
    inits = [study.baseline, study.compared]
    sides = {init: metrics.arms_of(study.averaged, init) for init in inits}
    fits = metrics.learning_curves(study.runs, study.predictions, sides, study.how, study.rule)
    runs = study.runs[study.runs["init"].isin(inits) & study.runs["backbone"].isin(study.averaged)]
    first = first_epochs(study.curves, runs, study.target)
    rows = []
    for (task, fraction, init), part in first.groupby(["task", "fraction", "init"], sort=False):
        median = float(part["epoch"].fillna(math.inf).median())
        fit = fits[(fits["task"] == task) & (fits["side"] == init)].iloc[0]
        exams, why = exams_to(study.target, fit)
        rows.append(
            {"task": task, "fraction": fraction, "init": init, "target": study.target, "n_runs": len(part)}
            | {"n_reached": int(part["epoch"].notna().sum())}
            | {"epoch": median if math.isfinite(median) else math.nan, "exams": exams, "reason_exams": why}
            | _by_luck(study, part["run_id"])
        )
    return pd.DataFrame(rows)


def _by_luck(study: Study, run_ids: pd.Series) -> dict[str, float]:
    """The columns of `compute_speed` that say what luck does."""
    own = study.predictions[study.predictions["run_id"].isin(run_ids) & (study.predictions["split"] == "val")]
    exams = own[own["run_id"] == own["run_id"].iloc[0]].drop_duplicates("study") if len(own) else own
    sick = int(exams["study_label"].sum())
    curves = study.curves[study.curves["run_id"].isin(run_ids)]
    n_epochs = int(curves.groupby("run_id")["epoch"].max().median())
    found = metrics.auroc_by_luck(study.target, sick, len(exams) - sick)
    counts = {"n_positive_val": sick, "n_negative_val": len(exams) - sick, "n_epochs": n_epochs}
    return counts | {"by_luck": found.value, "by_luck_ever": 1 - (1 - found.value) ** n_epochs}


def first_epochs(curves: pd.DataFrame, runs: pd.DataFrame, target: float) -> pd.DataFrame:
    """The first epoch at which each run reaches a validation AUROC.

    Args:
        curves: table `curves`.
        runs: rows of table `runs`; those without a curve are left out.
        target: validation AUROC.

    Returns:
        The rows with a column epoch, empty where a run never gets there.
    """
    own = runs[runs["run_id"].isin(curves["run_id"])].drop(columns="epoch", errors="ignore")
    reached = curves[curves["val_auroc"].astype(float) >= target].groupby("run_id")["epoch"].min()
    return own.assign(epoch=own["run_id"].map(reached).astype(float))


def exams_to(target: float, fit: pd.Series) -> tuple[float, str]:
    """Exams at which a fitted learning curve, 1 - AUROC = a n^-b + c, reaches an AUROC.

    Args:
        target: the AUROC.
        fit: a row of `metrics.learning_curves`.

    Returns:
        Exams, or NaN and why.

    >>> exams_to(0.9, pd.Series({"a": 1.0, "b": 0.5, "c": 0.0, "reason": ""}))[0].__round__()
    100
    """
    if pd.isna(fit["a"]) or pd.isna(fit["b"]):
        return math.nan, str(fit["reason"]) or "no curve was fitted"
    left = 1 - target - fit["c"]
    if left <= 0 or fit["b"] <= 0 or fit["a"] <= 0:
        return math.nan, "the fitted curve never reaches it"
    with np.errstate(over="ignore"):
        exams = float((fit["a"] / left) ** (1 / fit["b"]))
    return (
        (exams, "")
        if exams < 1e7
        else (math.nan, "the fitted curve never reaches it with any number of exams that exists")
    )


def say_speed(table: pd.DataFrame) -> str:
    """Epochs and exams to the target, init by init.

    Args:
        table: from `compute_speed`.
    """
    lines = []
    for _, part in table.groupby(["task", "fraction"], sort=False):
        first = part.iloc[0].to_dict()
        inits = []
        for row in part.to_dict("records"):
            when = (
                "more than half never" if pd.isna(row["epoch"]) else f"epoch {row['epoch']:g} in the median"
            )
            inits.append(f"from {row['init']} {when} ({row['n_reached']} of {counted(row['n_runs'], 'run')})")
        lines.append(
            f"{place(first)}, a validation AUROC of {first['target']:g} is reached: {'; '.join(inits)}."
        )
        lines.append(_luck(first))
    for task, part in table.groupby("task", sort=False):
        rows = part.drop_duplicates("init").to_dict("records")
        exams = [
            f"{row['exams']:,.0f} from {row['init']}" if pd.notna(row["exams"])
            else f"not known from {row['init']} ({row['reason_exams']})"
            for row in rows
        ]  # fmt: skip
        lines.append(
            f"{task}, training exams to a test AUROC of {rows[0]['target']:g}, fitted: {'; '.join(exams)}."
        )
    return "\n".join(lines)


def _luck(row: dict) -> str:
    """What luck does, of a row of `compute_speed`."""
    if pd.isna(row["by_luck"]):
        return "How often luck alone does that is not known: there are no validation scores of both classes."
    exams = f"{row['n_positive_val']} validation exams with disease and {row['n_negative_val']} without"
    return (
        f"With {exams}, scores that know nothing reach it in {row['by_luck']:.1%} of epochs, and a run of "
        f"{counted(row['n_epochs'], 'epoch')} by luck alone with a probability of up to "
        f"{row['by_luck_ever']:.0%}."
    ).replace("%", " %")


def _no_speed(study: Study) -> str:
    own = study.runs[study.runs["backbone"].isin(study.averaged)]
    none = f"No answer: no run is finished; see {GRID}."
    return lacks_a_side(study) or ("" if own["run_id"].isin(study.curves["run_id"]).any() else none)


# ---- what it costs -----------------------------------------------------------------------


def compute_cost(study: Study) -> pd.DataFrame:
    """AUROC with all training patients beside what a network costs.

    Returns:
        task, fraction, backbone, init, auroc, low, high, multiply_adds_g (10^9 a clip), seconds (median of
        a run), kept_mb (of a clip in training), n_parameters, n_patients, n_positive, n_seeds, level, by_seed
        (AUROCs joined by blanks), reason; is_best (of its task), and of the others behind (AUROC less that
        of the best arm, on the same patients and seeds), low_behind, high_behind, reason_behind; margin.
    """
    arms = study.arm_aurocs
    arms = arms[arms["fraction"] == arms["fraction"].max()]
    inits = [init for init in (study.baseline, study.compared) if init in study.inits]
    arms = arms[arms["init"].isin(inits)]
    finished = study.runs[study.runs["status"] == "finished"]
    spent = finished.groupby(["backbone", "init"], as_index=False).agg(
        seconds=("seconds", "median"), n_parameters=("n_parameters", "first")
    )
    table = arms.merge(spent, on=["backbone", "init"], how="left").merge(
        study.costs, on="backbone", how="left"
    )
    arm = ["task", "fraction", "backbone", "init"]
    runs = study.run_aurocs.dropna(subset="auroc").groupby(arm)["auroc"]
    seeds = runs.agg(lambda aurocs: " ".join(f"{value:.4f}" for value in aurocs))
    named = seeds.rename("by_seed").reset_index() if len(seeds) else pd.DataFrame(columns=[*arm, "by_seed"])
    table = table.merge(named.astype({"by_seed": object}), on=arm, how="left")
    table = table.assign(level=study.how.level, margin=study.margin, by_seed=table["by_seed"].fillna(""))
    return table.merge(_behind(study, table), on=arm, how="left")


def _behind(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Each arm with an AUROC against the best of its task."""
    arm, found = ["task", "fraction", "backbone", "init"], []
    for task, part in table[table["auroc"].notna()].groupby("task", sort=False):
        one, best = part.drop(columns="reason"), part.loc[part["auroc"].idxmax()]
        sides = [((row.backbone, row.init),) for row in one.itertuples()]
        top = ((best["backbone"], best["init"]),)
        wanted = [metrics.Contrast(str(side[0]), side, top) for side in sides if side != top]
        runs = study.runs[(study.runs["task"] == task) & (study.runs["fraction"] == best["fraction"])]
        gaps = metrics.contrasts(runs, study.predictions, wanted, study.how, study.rule, study.margin)
        gaps = gaps.rename(columns={"effect": "behind", "low": "low_behind", "high": "high_behind"})
        gaps = gaps.rename(columns={"reason": "reason_behind"}).set_index("contrast")
        columns = ["behind", "low_behind", "high_behind", "reason_behind"]
        beside = gaps[columns].reindex([str(side[0]) for side in sides]).set_index(one.index)
        found.append(one[arm].join(beside).assign(is_best=[side == top for side in sides]))
    columns = [*arm, "behind", "low_behind", "high_behind", "reason_behind", "is_best"]
    return pd.concat(found) if found else pd.DataFrame(columns=columns)


def say_cost(table: pd.DataFrame) -> str:
    """The best arm of each task, and the cheapest that is as good within the margin on the same patients.

    Args:
        table: from `compute_cost`.
    """
    lines = []
    for task, part in table.groupby("task", sort=False):
        known = part[part["auroc"].notna()]
        if known.empty:
            lines.append(f"{task}: no network has an AUROC.")
            continue
        best = known.loc[known["auroc"].idxmax()]
        lines.append(f"{place(best)}: the highest AUROC is {_arm(best)}.")
        lines.append(_cheapest(known, best))
    return "\n".join(lines)


def _cheapest(known: pd.DataFrame, best: pd.Series) -> str:
    """The cheapest arm that is as good as the best: its interval against it lies above -margin."""
    margin, costs = float(best["margin"]), known[_measure(known)]
    if not margin:
        return "No plan names a margin, so none can be called as good."
    near = known[(known["low_behind"] > -margin) & (costs < costs[best.name])]
    if near.empty:
        return f"No cheaper one is shown to be as good within {margin:g} on the same patients."
    cheap = near.loc[near[_measure(known)].idxmin()]
    return (
        f"The cheapest that is as good within {margin:g} on the same patients is {_arm(cheap)}: "
        f"{interval(cheap, 'behind', 'low_behind', 'high_behind')} against the best."
    )


def _measure(table: pd.DataFrame) -> str:
    """What cheap is judged by: multiply-adds, or seconds where they are not known."""
    return "multiply_adds_g" if table["multiply_adds_g"].notna().any() else "seconds"


def _arm(row: pd.Series) -> str:
    ends = "no interval" if pd.isna(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
    costs = (
        [] if pd.isna(row["multiply_adds_g"]) else [f"{row['multiply_adds_g']:.3g} G multiply-adds a clip"]
    )
    costs += [] if pd.isna(row["seconds"]) else [f"{row['seconds']:.3g} s a run"]
    return f"{row['auroc']:.3f} ({ends}), {row['backbone']} from {row['init']}, {', '.join(costs)}"


SPEED = Question(
    "speed",
    "Speed of learning",
    (
        "task", "fraction", "init", "target", "n_runs", "n_reached", "epoch", "by_luck", "by_luck_ever",
        "exams", "reason_exams",
    ),
    compute_speed,
    _no_speed,
    say_speed,
    lambda study, table: figures.speed(
        study.curves, study.runs[study.runs["backbone"].isin(study.averaged)], list(table["init"].unique()),
        study.target,
    ),
    "Validation AUROC by epoch, by starting weights, mean over runs, with the AUROC that is to be reached",
    lambda table: (
        "Validation AUROC of the 3D networks: every run a faint line, the mean with a 95 % interval over "
        "runs (the validation patients are the same in all, and their draw is not in it)."
    ),
    is_figure_folded=True,
)  # fmt: skip
COST = Question(
    "cost",
    "Cost",
    (
        "task", "backbone", "init", "auroc", "low", "high", "behind", "low_behind", "high_behind",
        "multiply_adds_g", "seconds", "kept_mb", "n_parameters", "reason",
    ),
    compute_cost,
    no_finished_run,
    say_cost,
    lambda study, table: figures.auroc_by_cost(table),
    "Test AUROC of each network by its multiply-adds, seconds a run and memory, by starting weights",
    lambda table: (
        f"{percent(table['fraction'].iloc[0])} of the training patients; {percent(table['level'].iloc[0])} "
        "intervals over patients and seeds. Multiply-adds and memory are of one clip, seconds of a whole run "
        "on the machine that computed it."
    ),
    is_figure_folded=True,
)  # fmt: skip
