"""Do scores mean what they say? Calibration, and the decision curve.

Figures are those of single runs; a mean of scores over runs would be another, better calibrated model (an
ensemble) that nobody trained. Medians over runs, since the slope of a run whose scores are all alike has no
bounds.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import ndtri
from scipy.stats import binomtest

from ctlib import figures, metrics
from ctlib.figures.look import percent
from ctlib.findings.answers import Question
from ctlib.findings.gains import lacking
from ctlib.findings.study import Study
from ctlib.findings.words import place, spanned

MEASURES = ("auprc", "sensitivity", "brier", "ece", "slope", "intercept")
"""Of `metrics.by_run`, whose medians are shown."""
BINS = 5
"""Bins with about as many exams each."""


def _runs(study: Study) -> pd.DataFrame:
    """The runs of the averaged networks from both inits that have a test AUROC."""
    found = study.run_aurocs
    inits = (study.baseline, study.compared)
    return found[found["auroc"].notna() & found["init"].isin(inits) & found["backbone"].isin(study.averaged)]


def compute_calibration(study: Study) -> pd.DataFrame:
    """Calibration of exam scores, median over runs.

    Returns:
        A row for each task, fraction and init: n_runs, prevalence, and for each of `MEASURES` its median, and
        its quartiles (`low_ece`, `high_ece`, ...).
    """
    runs = _runs(study)
    chosen = study.predictions[study.predictions["run_id"].isin(runs["run_id"])]
    by_run = metrics.by_run(chosen, rule=study.rule).drop(columns="auroc")
    rows = []
    merged = runs.drop(columns="reason").merge(by_run, on="run_id")
    for (task, fraction, init), part in merged.groupby(["task", "fraction", "init"], sort=False):
        row = {"task": task, "fraction": fraction, "init": init, "n_runs": len(part)}
        row["prevalence"] = part["prevalence"].iloc[0]
        for name in MEASURES:
            row |= {
                name: part[name].median(),
                f"low_{name}": part[name].quantile(0.25),
                f"high_{name}": part[name].quantile(0.75),
            }
        rows.append(row)
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
            f"from {row['init']} the calibration error is {_ranged(row, 'ece')}, the slope "
            f"{_ranged(row, 'slope')} and the Brier score {_ranged(row, 'brier')}"
            for row in part.to_dict("records")
        ]
        about = f"median of {spanned(part['n_runs'])} runs an init, quartiles in brackets"
        lines.append(f"{place(first)} ({about}): {'; '.join(inits)}.")
    return "\n".join(lines)


def _ranged(row: dict, name: str) -> str:
    return f"{row[name]:.2f} ({row[f'low_{name}']:.2f} to {row[f'high_{name}']:.2f})".replace("-", "−")


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
    rows = []
    for (task, init), part in exams.groupby(["task", "init"], sort=False):
        n_runs = part["run_id"].nunique()
        bins = metrics.reliability(part["label"], part["score"], BINS)
        for found in bins.itertuples():
            n = max(1, round(found.n / n_runs))
            ends = binomtest(round(found.observed * n), n).proportion_ci(0.95, "wilson")
            rows.append((task, init, found.score, found.observed, ends.low, ends.high))
    return pd.DataFrame(rows, columns=["task", "init", "score", "observed", "low", "high"])


def decision(exams: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Net benefit by threshold, mean over runs, with its interval over patients.

    Net benefit is a mean over exams (Vickers and Elkin 2006, doi:10.1177/0272989X06295361), so that of a mean
    over runs is a mean of each exam's mean; its standard error is that of sums over patients.

    Args:
        exams: columns task, init, run_id, patient_id, study, score, label.
        level: of the interval.

    Returns:
        task, init, threshold, net_benefit, low, high, treat_all.
    """
    thresholds, rows = np.asarray(metrics.THRESHOLDS, np.float64), []
    odds = thresholds / (1 - thresholds)
    for (task, init), part in exams.groupby(["task", "init"], sort=False):
        label = part["label"].to_numpy(np.float64)[:, None]
        worth = label - (1 - label) * odds
        given = (part["score"].to_numpy(np.float64)[:, None] >= thresholds) * worth
        names = part[["patient_id", "study"]].reset_index(drop=True)
        by_exam = pd.concat([names, pd.DataFrame(given)], axis=1).groupby(["patient_id", "study"]).mean()
        n, mean = len(by_exam), by_exam.mean().to_numpy()
        sums = (by_exam - mean).groupby(level="patient_id").sum().to_numpy()
        half = float(ndtri((1 + level) / 2)) * np.sqrt((sums**2).sum(axis=0)) / n
        treat_all = worth.mean(axis=0)
        for row in zip(thresholds, mean, mean - half, mean + half, treat_all, strict=True):
            rows.append((task, init, *row))
    columns = ["task", "init", "threshold", "net_benefit", "low", "high", "treat_all"]
    return pd.DataFrame(rows, columns=columns)


def _missing(study: Study) -> str:
    absent = lacking(study, study.baseline, study.compared)
    return absent or (
        "" if len(_runs(study)) else "No answer: no run of the averaged networks has a test AUROC."
    )


def _draw(study: Study, table: pd.DataFrame) -> Figure:
    exams = _exams(study)
    return figures.calibration(reliability(exams), decision(exams, study.how.level))


CALIBRATION = Question(
    "calibration",
    "Calibration of exam scores, median over runs",
    ("task", "fraction", "init", "n_runs", "prevalence", *MEASURES),
    compute_calibration,
    _missing,
    say_calibration,
    _draw,
    "Above: share of exams with disease by mean score; below: net benefit by threshold; by task and init",
    lambda table: (
        f"Runs with {percent(table['fraction'].max())} of the training patients. Above: bins with as many "
        "exams each and Wilson's intervals; the diagonal is right. Below: net benefit, mean over runs, with "
        "intervals over patients; dashed: everybody is called ill."
    ),
)  # fmt: skip
