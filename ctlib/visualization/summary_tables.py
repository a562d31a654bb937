"""The small tables and plain sentences that notebooks show: counts, prevalence, patients, cost.

Every function takes tables; the columns and sentences it gives are what people read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.core import Workspace, counted
from ctlib.datasets import Cohort, load_tables, quality, task
from ctlib.datasets import splits as split_rules

if TYPE_CHECKING:
    from ctlib.datasets import VideoClips
    from ctlib.models import Size


def refusals(cohorts: Mapping[str, Cohort]) -> pd.DataFrame:
    """What was refused, by cohort and reason, with the number of files and of entries."""
    problems = pd.concat([cohort.problems for cohort in cohorts.values()], ignore_index=True)
    # reasons that differ in their figures only are counted together
    pattern = problems["reason"].str.replace(r"-?\d+(\.\d+)?", "…", regex=True)
    kinds = problems.groupby([problems["cohort"], pattern])["reason"].transform("nunique")
    told = problems["reason"].where(kinds == 1, pattern)
    grouped = problems.assign(reason=told).groupby(["cohort", "reason"], sort=True)["n_files"]
    return grouped.agg(entries="size", files="sum").reset_index()


def checks_tile(checks: pd.DataFrame) -> dict[str, list[dict[str, object]]]:
    """What the index says of the data: that all checks passed, or which to look at.

    Args:
        checks: from `quality.checks`.
    """
    open_ = checks.loc[(checks.drop(columns="check") == quality.LOOK).any(axis=1), "check"]
    word = f"{len(open_)} to look at: {', '.join(open_)}" if len(open_) else quality.PASSED
    return {"tiles": [{"name": "Data checks", "word": word, "good": open_.empty}]}


def prepared(cohort: Cohort) -> list[str]:
    """What became of the files of a cohort, line by line; the counts add up."""
    stored, refused = int(cohort.series["n_files"].sum()), int(cohort.problems["n_files"].sum())
    lines = [
        f"{cohort.name}: {counted(stored + refused, 'file')} scanned",
        f"  {stored:,} of them in {len(cohort.series):,} series, which are stored",
        f"  {refused:,} of them not used" + (":" if refused else ""),
    ]
    for row in refusals({cohort.name: cohort}).itertuples():
        lines.append(f"    {row.files:,} ({row.entries:,} x): {row.reason}")
    return lines


def counts(cohorts: Mapping[str, Cohort], splits: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Patients, exams, slices and prevalence by cohort and split; slices with disease where some slice is labelled so.

    Args:
        cohorts: cohorts by name.
        splits: tables `splits` by name.
    """
    rows = []
    for name, cohort in cohorts.items():
        series = cohort.series.merge(splits[name], on="patient_id", validate="many_to_one")
        marked = cohort.slices["label"] == 1
        labelled = marked.groupby(cohort.slices["series_uid"]).sum() if marked.any() else None
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
                        "slices with disease": pd.NA
                        if labelled is None
                        else labelled[part["series_uid"]].sum(),
                    }
                )
    table = pd.DataFrame(rows).dropna(axis=1, how="all")
    return table.astype(dict.fromkeys(table.columns.intersection(["slices with disease"]), "Int64"))


def clip_counts(clips: Mapping[str, pd.DataFrame], length: int) -> pd.DataFrame:
    """Clips by cohort: how many, how many positive, how many padded with air.

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
                "padded with air": int(shorter.sum()),
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


def exams_seen(runs: pd.DataFrame) -> pd.DataFrame:
    """Training patients, and the distinct exams and clips that training saw, by task and fraction.

    An exam is seen when one of its clips was drawn in some epoch. Of runs that differ (seeds draw other
    patients, some stop early), the fewest and the most.

    Args:
        runs: table `runs`.
    """
    told = {"training patients": "n_patients", "exams seen": "n_studies", "clips seen": "n_clips"}
    rows = []
    finished = runs[runs["status"] == "finished"]
    for (name, fraction), part in finished.groupby(["task", "fraction"], sort=False):
        row: dict[str, object] = {"task": name, "fraction": fraction, "runs": len(part)}
        for title, column in told.items():
            fewest, most = int(part[column].min()), int(part[column].max())
            row[title] = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        rows.append(row)
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


def videos(train: VideoClips, heldout: VideoClips) -> pd.DataFrame:
    """Videos by class: learnt from, held out, not usable (broken, too short or too slow)."""
    rows = []
    for label, name in enumerate(train.classes):
        parts = [part.table[part.table["label"] == label] for part in (train, heldout)]
        usable = [int((part["problem"] == "").sum()) for part in parts]
        broken = sum(len(part) for part in parts) - sum(usable)
        rows.append({"class": name, "learnt from": usable[0], "held out": usable[1], "not usable": broken})
    return pd.DataFrame(rows)


def unusable(train: VideoClips, heldout: VideoClips) -> pd.DataFrame:
    """Every file that is not used, and why."""
    both = pd.concat([train.table, heldout.table], ignore_index=True)
    return both.loc[both["problem"] != "", ["path", "problem"]].rename(
        columns={"path": "file", "problem": "why"}
    )


def one_a_class(clips: VideoClips, most: int = 12) -> dict[str, NDArray[np.float32]]:
    """The first clip of each class, `[D, H, W]` in [0, 1] by name; of many classes the first."""
    names = clips.classes[:most]
    return {name: clips[clips.labels.index(label)]["clip"][0].numpy() for label, name in enumerate(names)}


def networks(keys: Sequence[str], size: Size, clip: tuple[int, int, int], channels: int = 1) -> pd.DataFrame:
    """What the networks are, and what each costs without its head.

    Args:
        keys: keys of `ctlib.models.registry.BACKBONES`, or a user's own.
        size: `tiny` or `full`.
        clip: (D, H, W) of a clip.
        channels: C of a clip.
    """
    from ctlib.models import network_cost, spec

    rows = []
    for key in keys:
        known, costs = spec(key), network_cost(key, size, clip, channels)
        rows.append(
            {
                "backbone": key,
                "network": known.title,
                "sees": known.sees,
                "parameters": costs.parameters,
                "multiply-adds, G": costs.multiply_adds / 1e9,
                "kept, MB": costs.saved_mb,
                "licence": known.licence,
            }
        )
    return pd.DataFrame(rows)


def ledger(rows: pd.DataFrame) -> pd.DataFrame:
    """Tensors and parameters by network and status.

    Args:
        rows: table `ledger`.
    """
    grouped = rows.groupby(["backbone", "init", "status"], sort=False)
    table = grouped.agg(tensors=("tensor", "size"), parameters=("n_parameters", "sum")).reset_index()
    total = table.groupby(["backbone", "init"])["parameters"].transform("sum")
    return table.assign(share=table["parameters"] / total)


def pretraining_chains(work: Workspace, inits: Sequence[str], backbones: Sequence[str]) -> pd.DataFrame:
    """All that weights were trained on, in order, by init and network; networks of one chain stand together.

    Args:
        work: where weights that were made here lie.
        inits: inits that load weights.
        backbones: keys of networks; one that published weights are lacking for is left out of their init.

    Returns:
        Columns init, networks (keys joined by commas), seen (each step with its kind: video, photographs, CT).

    Raises:
        InitError: an init has no weights for a network, or a file is not the one of its record.
        MissingInput: weights were not made yet.
    """
    from ctlib.models import NO_COHORT, find, lacking

    rows = [
        {
            "init": name,
            "networks": key,
            "seen": ", then ".join(map(str, find(name, key, work, NO_COHORT).seen)),
        }
        for name in inits
        for key in backbones
        if not lacking(name, key)
    ]
    table = pd.DataFrame(rows, columns=["init", "networks", "seen"])
    return table.groupby(["init", "seen"], sort=False)["networks"].agg(", ".join).reset_index()[table.columns]


def cohort_sentence(cohort: Cohort, splits: pd.DataFrame) -> str:
    """What was found in a cohort, in one sentence."""
    series, n_files = cohort.series, int(cohort.series["n_files"].sum())
    refused = int(cohort.problems["n_files"].sum())
    parts = splits["split"].value_counts()
    roles = ", ".join(f"{parts[name]} {name}" for name in split_rules.SPLITS if name in parts)
    exams, patients = counted(len(series), "exam"), counted(series["patient_id"].nunique(), "patient")
    return (
        f"{cohort.name}: {counted(n_files, 'file')} became {exams} of {patients} ({roles}); "
        f"{counted(int(series['label'].sum()), 'exam')} with disease; {counted(refused, 'file')} not used."
    )


def pretraining_sentences(pretraining: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """What the networks learned, one sentence an init, and whether their weights load.

    Args:
        pretraining: table `pretraining`.
        rows: table `ledger` of the loaded networks.
    """
    sentences = []
    for init, part in pretraining.groupby("init", sort=False):
        best = part.groupby("backbone", sort=False)["heldout_metric"].max()
        named = ", ".join(f"{key} {value:.2f}" for key, value in best.items())
        asked, chance = part["metric"].iloc[0], part["chance"].iloc[0]
        sentences.append(f"{init}: {asked} on held-out clips, best epoch: {named} (chance {chance:.2f}).")
    strays = rows[~rows["status"].isin(["loaded", "adapted", "head"])]
    loaded = (
        "every tensor but the head's was loaded into each"
        if strays.empty
        else f"{counted(len(strays), 'tensor')} not loaded"
    )
    n_networks = len(rows[["backbone", "init"]].drop_duplicates())
    return [*sentences, f"Of {counted(n_networks, 'network')} built anew, {loaded}."]


def grid_sentence(runs: pd.DataFrame) -> str:
    """How many runs there are and how they ended, in one sentence."""
    status = runs["status"].value_counts()
    ended = ", ".join(f"{count} {name}" for name, count in status.items())
    patients = runs.groupby("fraction")["n_patients"].median().dropna()
    named = ", ".join(f"{int(n)} at fraction {fraction:g}" for fraction, n in patients.items())
    return f"{len(runs)} runs: {ended}. Training patients a run: {named}."
