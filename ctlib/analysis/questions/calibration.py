"""Calibration of exam scores, and the decision curve.

Figures are those of single runs; a mean of scores over runs would be another, better calibrated model (an
ensemble) that nobody trained. Medians over runs, since the slope of a run whose scores are all alike has no
bounds. A calibration error stands beside its floor: what scores that are right would have, of as many exams.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ctlib import metrics
from ctlib.analysis.question import Question, lacks_a_side
from ctlib.analysis.study import Study
from ctlib.analysis.text import place, spanned
from ctlib.visualization import figures, percent

MEASURES = ("auprc", "sensitivity", "specificity", "brier", "ece", "ece_floor", "slope", "intercept")
"""Of `metrics.by_run`, whose medians are shown."""
BINS = 5
"""Bins with about as many exams each."""
SPECIFICITY = 0.9
"""For which the threshold of a run is chosen, on its validation exams."""


def _runs(study: Study) -> pd.DataFrame:
    """The runs of the averaged networks from both inits that have a test AUROC."""
    found = study.run_aurocs
    inits = (study.baseline, study.compared)
    return found[found["auroc"].notna() & found["init"].isin(inits) & found["backbone"].isin(study.averaged)]


def compute_calibration(study: Study) -> pd.DataFrame:
    """Calibration of exam scores, median over runs.

    Returns:
        A row for each task, fraction and init: n_runs, prevalence, for each of `MEASURES` its median and its
        quartiles (`lower_quartile_ece`, `upper_quartile_ece`, ...), wanted (specificity for which thresholds
        are chosen), n_unchosen (runs without a threshold) and reason_unchosen (of the first of them).
    """
    runs = _runs(study)
    chosen = study.predictions[study.predictions["run_id"].isin(runs["run_id"])]
    by_run = metrics.by_run(chosen, rule=study.rule, wanted=SPECIFICITY).drop(columns="auroc")
    rows = []
    merged = runs.drop(columns="reason").merge(by_run, on="run_id")
    for (task, fraction, init), part in merged.groupby(["task", "fraction", "init"], sort=False):
        row = {"task": task, "fraction": fraction, "init": init, "n_runs": len(part)}
        row["prevalence"] = part["prevalence"].iloc[0]
        for name in MEASURES:
            row |= {
                name: part[name].median(),
                f"lower_quartile_{name}": part[name].quantile(0.25),
                f"upper_quartile_{name}": part[name].quantile(0.75),
            }
        unchosen = part.loc[part["sensitivity"].isna(), "reason"]
        row |= {"wanted": SPECIFICITY, "n_unchosen": len(unchosen)}
        rows.append(row | {"reason_unchosen": unchosen.iloc[0] if len(unchosen) else ""})
    return pd.DataFrame(rows)


def say_calibration(table: pd.DataFrame) -> str:
    """Calibration with the most training patients, init by init.

    Args:
        table: from `compute_calibration`.
    """
    lines = []
    for _, part in table[table["fraction"] == table["fraction"].max()].groupby("task", sort=False):
        first = part.iloc[0].to_dict()
        inits = [
            f"from {row['init']} the calibration error is {_ranged(row, 'ece')}, where scores that are right "
            f"would have {row['ece_floor']:.2f}, the slope {_ranged(row, 'slope')} and the Brier score "
            f"{_ranged(row, 'brier')}"
            for row in part.to_dict("records")
        ]
        about = f"median of {spanned(part['n_runs'])} runs each, quartiles in brackets"
        lines.append(f"{place(first)} ({about}): {'; '.join(inits)}.")
        called = "; ".join(_called_ill(row) for row in part.to_dict("records"))
        lines.append(
            "At thresholds that were chosen on the validation exams for a specificity of "
            f"{first['wanted']:g}: {called}."
        )
    return "\n".join(lines)


def _called_ill(row: dict) -> str:
    """Sensitivity and specificity of an init in the test, or why there is none."""
    lost = f"{row['n_unchosen']} of {row['n_runs']} runs have none ({row['reason_unchosen']})"
    if row["n_unchosen"] == row["n_runs"]:
        return f"from {row['init']} {lost}"
    found = (
        f"from {row['init']} a sensitivity of {_ranged(row, 'sensitivity')} with a specificity of "
        f"{_ranged(row, 'specificity')} in the test"
    )
    return f"{found}; {lost}" if row["n_unchosen"] else found


def _ranged(row: dict, name: str) -> str:
    ends = f"{row[f'lower_quartile_{name}']:.2f} to {row[f'upper_quartile_{name}']:.2f}"
    return f"{row[name]:.2f} ({ends})".replace("-", "−")


def _exams(study: Study) -> pd.DataFrame:
    """Exam scores of the runs with the most training patients, with task and init."""
    runs = _runs(study)
    runs = runs[runs["fraction"] == runs["fraction"].max()]
    chosen = study.predictions[
        study.predictions["run_id"].isin(runs["run_id"]) & (study.predictions["split"] == "test")
    ]
    return metrics.study_scores(chosen, study.rule).merge(runs[["run_id", "task", "init"]], on="run_id")


def reliability(exams: pd.DataFrame) -> pd.DataFrame:
    """Mean score and share of disease in bins of the scores of several runs.

    Args:
        exams: columns task, init, run_id, score, label.

    Returns:
        task, init, score, observed, low, high: Wilson's 95 % interval, of as many exams as a bin of one run
        has.
    """
    from scipy.stats import binomtest  # here: no other question needs it

    rows = []
    for (task, init), part in exams.groupby(["task", "init"], sort=False):
        n_runs = part["run_id"].nunique()
        bins = metrics.reliability(part["label"], part["score"], BINS)
        for found in bins.itertuples():
            n = max(1, round(found.n / n_runs))
            ends = binomtest(round(found.observed * n), n).proportion_ci(0.95, "wilson")
            rows.append((task, init, found.score, found.observed, ends.low, ends.high))
    return pd.DataFrame(rows, columns=["task", "init", "score", "observed", "low", "high"])


def decision(study: Study) -> pd.DataFrame:
    """`metrics.decision_curves` of both inits over the averaged networks, with the most training patients.

    Args:
        study: its tables.

    Returns:
        As `metrics.decision_curves`, with init for the side.
    """
    most = study.runs["fraction"] == study.runs.groupby("task")["fraction"].transform("max")
    sides = {init: metrics.arms_of(study.averaged, init) for init in (study.baseline, study.compared)}
    found = metrics.decision_curves(
        study.runs[most], study.predictions, sides, how=study.how, rule=study.rule
    )
    return found.rename(columns={"side": "init"})


def _missing(study: Study) -> str:
    absent = lacks_a_side(study)
    return absent or (
        "" if len(_runs(study)) else "No answer: no run of the averaged networks has a test AUROC."
    )


def _draw(study: Study, table: pd.DataFrame) -> Figure:
    return figures.calibration(reliability(_exams(study)), decision(study))


CALIBRATION = Question(
    "calibration",
    "Calibration",
    ("task", "fraction", "init", "n_runs", "prevalence", *MEASURES, "reason_unchosen"),
    compute_calibration,
    _missing,
    say_calibration,
    _draw,
    "Share of exams with disease by mean score, and net benefit by threshold, by task and starting weights",
    lambda table: (
        f"Runs with {percent(table['fraction'].max())} of the training patients. First: bins with as many "
        "exams each and Wilson's intervals; the diagonal is right. Then: net benefit, mean over networks, "
        "with intervals over patients and seeds; dashed: everybody is treated."
    ),
)  # fmt: skip
