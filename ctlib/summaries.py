"""The small tables that notebooks show: counts, prevalence, patients, cost.

Every function takes tables and gives a table; column names are what people read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ctlib import splits as split_rules
from ctlib.cohorts import Cohort, load_tables, task
from ctlib.workspace import Workspace


def refusals(cohorts: Mapping[str, Cohort]) -> pd.DataFrame:
    """What was refused, by cohort and reason, with the number of files and of entries."""
    problems = pd.concat([cohort.problems for cohort in cohorts.values()], ignore_index=True)
    grouped = problems.groupby(["cohort", "reason"], sort=True)["n_files"]
    return grouped.agg(entries="size", files="sum").reset_index()


def counts(cohorts: Mapping[str, Cohort], splits: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Patients, exams, slices and prevalence by cohort and split.

    Args:
        cohorts: cohorts by name.
        splits: tables `splits` by name.
    """
    rows = []
    for name, cohort in cohorts.items():
        series = cohort.series.merge(splits[name], on="patient_id", validate="many_to_one")
        labelled = cohort.slices.groupby("series_uid")["label"].sum()
        for split in split_rules.SPLITS:
            part = series[series["split"] == split]
            if len(part):
                rows.append(
                    {
                        "cohort": name,
                        "split": split,
                        "patients": part["patient_id"].nunique(),
                        "exams": len(part),
                        "exams with disease": int(part["label"].sum()),
                        "prevalence": float(part["label"].mean()),
                        "slices": int(part["n_slices"].sum()),
                        "slices with disease": int(labelled[part["series_uid"]].sum()),
                    }
                )
    return pd.DataFrame(rows)


def clip_counts(clips: Mapping[str, pd.DataFrame], length: int) -> pd.DataFrame:
    """Clips by cohort: how many, how many positive, how many filled up with air.

    Args:
        clips: tables `clips` by cohort.
        length: slices a clip.
    """
    rows = []
    for name, frame in clips.items():
        shorter = frame["stop"] - frame["start"] < length
        rows.append(
            {
                "cohort": name,
                "clips": len(frame),
                "clips an exam": len(frame) / frame["series_uid"].nunique(),
                "positive clips": int(frame["label"].sum()),
                "filled up with air": int(shorter.sum()),
            }
        )
    return pd.DataFrame(rows)


def patients_by_fraction(
    work: Workspace, tasks: Sequence[str], fractions: Sequence[float], seeds: Sequence[int]
) -> pd.DataFrame:
    """Training patients and how many have disease, by task and fraction; the same for all seeds.

    Args:
        work: where the tables lie.
        tasks: tasks.
        fractions: shares of the training patients.
        seeds: seeds; each draws its own patients, as many as the others.
    """
    rows = []
    for name in tasks:
        cohort = load_tables(work, task(name).cohort)
        table = pd.read_parquet(work.require(work.table("splits", cohort.name), "01_explore_data"))
        labels = split_rules.patient_labels(cohort.series)
        for fraction in fractions:
            drawn = [split_rules.fraction_patients(table, cohort.series, fraction, seed) for seed in seeds]
            rows.append(
                {
                    "task": name,
                    "fraction": fraction,
                    "training patients": len(drawn[0]),
                    "with disease": int(labels[drawn[0]].sum()),
                    "distinct over seeds": len(set().union(*drawn)),
                }
            )
    return pd.DataFrame(rows)


def cost(runs: pd.DataFrame) -> pd.DataFrame:
    """Parameters, epochs and time of the finished runs, by network.

    Args:
        runs: table `runs`.
    """
    finished = runs[runs["status"] == "finished"]
    grouped = finished.groupby("backbone", sort=False)
    table = grouped.agg(
        runs=("run_id", "size"),
        parameters=("n_parameters", "first"),
        epochs=("epochs", "median"),
        seconds=("seconds", "median"),
        slowest=("seconds", "max"),
    )
    return table.reset_index().rename(columns={"seconds": "seconds a run", "slowest": "slowest run, s"})
