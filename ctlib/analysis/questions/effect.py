"""Does the init help, per network and averaged; and does it at every size of the training set?"""

from __future__ import annotations

import pandas as pd

from ctlib import metrics
from ctlib.analysis.question import ABSENT, Question, lacks_a_side
from ctlib.analysis.study import GRID, Study
from ctlib.analysis.text import (
    capital,
    conclusions,
    forest_caption,
    interval,
    listed,
    place,
    spanned,
    unanswered,
    who,
)
from ctlib.core import counted
from ctlib.visualization import figures, percent

# ---- per network, per task, averaged -----------------------------------------------------
LEFT = "both learned"
"""The line of an effect without pairs of which a side did not learn."""
MOST_NAMED = 4
"""Runs that a sentence names."""
MOST_TIMES = 10
"""Times as many exams that are said as a number: at most what lies between the smallest and largest fraction."""


def say_help(table: pd.DataFrame) -> str:
    """Averages with their intervals, single networks counted, and what a next network would do.

    Args:
        table: `Study.gains`.
    """
    means = table[table["backbone"].str.startswith(metrics.MEAN_OF)]
    single = table.drop(means.index)
    lines = []
    if len(means):
        first = means.iloc[0]
        gains = "; ".join(f"{place(row)} {interval(row)}" for row in means.to_dict("records"))
        lines.append(f"{capital(first['backbone'])}, {first['init']} minus {first['baseline']}: {gains}.")
        lines += unanswered(means)
    if len(single):
        lines.append(f"Single networks: {conclusions(single)}.")
    known = means[means["p_next"].notna()]
    if len(known):
        chances = [
            f"{row.p_next:.2f} ({row.low_p_next:.2f} to {row.high_p_next:.2f}, {place(row._asdict())})"
            for row in known.itertuples()
        ]
        lines.append(
            f"A next network would gain with a probability of {listed(chances)}, if its effect is drawn as "
            f"those of these {spanned(known['n_networks'])} were: exchangeable, and normal between networks."
        )
    return "\n".join(lines)


# ---- of video alone ----------------------------------------------------------------------


def say_pure_video(study: Study) -> list[str]:
    """The main comparison once more, over those averaged networks whose weights have seen nothing but video.

    Returns:
        One sentence where that is all of them, or none; else the effects beside those over all, and which
        networks are left out, and why. Nothing where the grid lacks a side of the comparison.
    """
    if not study.averaged or lacks_a_side(study):
        return []
    pure, others = pure_video(study)
    chains = "; ".join(f"{listed(names)} saw {chain}" for chain, names in others.items())
    if not others:
        return [
            f"Pure video: of {counted(len(pure), 'averaged network')} from {study.compared}, all weights have "
            "seen nothing but video."
        ]
    if not pure:
        return [f"Pure video: no averaged network from {study.compared} has seen video alone: {chains}."]
    first, second = (metrics.arms_of(pure, init) for init in (study.compared, study.baseline))
    table = study.contrasts(
        [metrics.Contrast(f"{metrics.MEAN_OF}{counted(len(pure), 'network')}", first, second)]
    )
    mean = metrics.MEAN_OF if len(pure) > 1 else ""
    over_all = {(row["task"], row["fraction"]): row for row in study.mean_gains.to_dict("records")}
    effects = [
        f"{place(row)} {interval(row)}, of all {len(study.averaged)} {interval(whole)}"
        for row in table.to_dict("records")
        for whole in (over_all[row["task"], row["fraction"]],)
    ]
    return [
        f"Pure video (exploratory): {mean}{listed(pure)}, {study.compared} minus {study.baseline}: "
        f"{'; '.join(effects) or 'no run of both sides'}.",
        *unanswered(table),
        f"Left out, as their weights have not seen video alone: {chains}.",
    ]


def pure_video(study: Study) -> tuple[list[str], dict[str, list[str]]]:
    """The averaged networks whose weights under the compared init have seen nothing but video, and the others.

    Returns:
        The networks, and those that are left out by what their weights have seen, in order.
    """
    from ctlib.models import VIDEO  # here: it loads torch

    pure: list[str] = []
    others: dict[str, list[str]] = {}
    for backbone in study.averaged:
        chain = study.chain(backbone, study.compared)
        if chain and all(step.kind == VIDEO for step in chain):
            pure.append(backbone)
        else:
            others.setdefault(", then ".join(map(str, chain)) or "nothing", []).append(backbone)
    return pure, others


# ---- at every fraction -------------------------------------------------------------------


def compute_fractions(study: Study) -> pd.DataFrame:
    """The averaged effects, and how many exams the init is worth at each fraction.

    Returns:
        Columns of `effects`, n_exams (mean training exams), equal_exams (exams at which the baseline is as
        good), ratio, low_ratio, high_ratio, extrapolated, reason_worth.
    """
    first, second = (metrics.arms_of(study.averaged, init) for init in (study.compared, study.baseline))
    worth = metrics.worth(study.runs, study.predictions, first, second, study.how, study.rule)
    renamed = worth.rename(columns={"low": "low_ratio", "high": "high_ratio", "reason": "reason_worth"})
    kept = ["n_exams", "equal_exams", "ratio", "low_ratio", "high_ratio", "extrapolated", "reason_worth"]
    return study.mean_gains.merge(renamed[["task", "fraction", *kept]], on=["task", "fraction"], how="left")


def say_fractions(table: pd.DataFrame) -> str:
    """For each task the effect at each fraction, and what the init is worth in exams.

    Args:
        table: from `compute_fractions`.
    """
    lines = []
    for task, part in table.groupby("task", sort=False):
        init, baseline = part[["init", "baseline"]].iloc[0]
        effects = "; ".join(
            f"{percent(row['fraction'])} ({_exams(row)}) {interval(row)}" for row in part.to_dict("records")
        )
        lines.append(f"{task}, {init} minus {baseline} by share of the training patients: {effects}.")
        lines += [_worth(row) for row in part.to_dict("records")]
    return "\n".join(lines)


def _exams(row: dict) -> str:
    return "exams not known" if pd.isna(row["n_exams"]) else counted(round(row["n_exams"]), "exam")


def _worth(row: dict) -> str:
    low, side = row["low_ratio"], f"{row['init']} with {_exams(row)}"
    if pd.isna(row["equal_exams"]):
        if round(low, 1) > 0:
            return (
                f"{side} is as good as {row['baseline']} with at least {_times(low)} times as many; how many at "
                f"most is not measurable: {row['reason_worth']}."
            )
        where = f"{row['init']} is worth in exams at {percent(row['fraction'])}"
        return f"What {where} is not measurable: {row['reason_worth']}."
    beyond = ", beyond the fractions that were run" if row["extrapolated"] else ""
    ends = "no interval" if pd.isna(low) else f"{_times(low)} to {_times(row['high_ratio'])}"
    exams = f"with {row['equal_exams']:,.0f}: " if row["ratio"] <= MOST_TIMES else "with "
    return f"{side} is as good as {row['baseline']} {exams}{_times(row['ratio'])} times as many ({ends}){beyond}."


def _times(ratio: float) -> str:
    """How many times as many, up to `MOST_TIMES`: a fitted curve says nothing of so far beyond it.

    >>> _times(1.62), _times(407.9)
    ('1.6', 'more than 10')
    """
    return f"{ratio:.1f}" if ratio <= MOST_TIMES else f"more than {MOST_TIMES}"


def compute_unlearned(study: Study) -> pd.DataFrame:
    """Table `Study.gains` with the columns of `metrics.without_unlearned`."""
    left = metrics.without_unlearned(
        study.runs, study.predictions, study.baseline, study.compared, study.averaged, study.how, study.rule
    )
    return study.gains.merge(left, on=["task", "fraction", "backbone"], how="left")


def say_unlearned(table: pd.DataFrame) -> str:
    """Of each task and fraction the runs that did not learn, and the averaged effect with and without them.

    Args:
        table: from `compute_unlearned`.
    """
    lines = []
    for _, part in table.groupby(["task", "fraction"], sort=False):
        is_mean = part["backbone"].str.startswith(metrics.MEAN_OF)
        lines += [_said(row) for row in part[is_mean if is_mean.any() else slice(None)].to_dict("records")]
    if table["n_unlearned"].any():
        lines.append(
            "A run did not learn where the interval of its test AUROC holds 0.5 or lies below it, or all its "
            "scores are equal. Pairs are left out by what they reached in the test: that is exploratory."
        )
    return "\n".join(lines)


def _said(row: dict) -> str:
    where = f"{place(row)}, {row['backbone']}"
    if pd.isna(row["effect_left"]) and not row["n_unlearned"]:
        return f"{where}: no answer: {row['reason_left']}."
    if not row["n_unlearned"]:
        return f"{where}: all {row['n_runs']} runs learned."
    left = interval(row, "effect_left", "low_left", "high_left")
    without = f"{left} with the {row['n_left']} of which both sides learned" if row["n_left"] else (
        "no pair is left of which both sides learned"
    )  # fmt: skip
    which = row["unlearned"] if row["n_unlearned"] <= MOST_NAMED else "the numbers name them"
    return (
        f"{where}: {row['n_unlearned']} of {row['n_runs']} runs did not learn: {which}. "
        f"{capital(row['init'])} minus {row['baseline']}: {interval(row)} with all {row['n_pairs']} pairs, "
        f"{without}."
    )


def _lines(table: pd.DataFrame) -> pd.DataFrame:
    """The averaged effects, each on a line with all pairs and on one with those of which both learned."""
    is_mean = table["backbone"].str.startswith(metrics.MEAN_OF)
    own = table[is_mean] if is_mean.any() else table
    columns = {"effect_left": "effect", "low_left": "low", "high_left": "high"}
    left = own.drop(columns=[*columns.values(), "low_mean", "high_mean"]).rename(columns=columns)
    left = left.assign(label=own["backbone"] + ", " + LEFT, by_seed="")
    return pd.concat([own.assign(label=own["backbone"]), left], ignore_index=True)


EFFECT = Question(
    "effect",
    "Effect of the starting weights",
    (
        "task",
        "fraction",
        "backbone",
        "auroc_baseline",
        "auroc_init",
        "effect",
        "low",
        "high",
        "p_holm",
        "reason",
    ),
    lambda study: study.gains,
    lacks_a_side,
    say_help,
    lambda study, table: figures.effect_forest(table, table["margin"].iloc[0]),
    "Effect of the starting weights on test AUROC with its interval, by task, fraction and network",
    forest_caption,
)


def _one_fraction(study: Study) -> str:
    if absent := lacks_a_side(study):
        return absent
    return "" if study.runs["fraction"].nunique() > 1 else (
        f"{ABSENT}the grid holds one number of training patients; give more in `fractions` of {GRID}."
    )  # fmt: skip


FRACTIONS = Question(
    "fractions",
    "Number of training patients",
    (
        "task", "fraction", "n_exams", "auroc_baseline", "auroc_init", "effect", "low", "high", "equal_exams",
        "ratio", "low_ratio", "high_ratio", "extrapolated",
    ),
    compute_fractions,
    _one_fraction,
    say_fractions,
    lambda study, table: figures.effect_by_fraction(table),
    "Effect of the starting weights on test AUROC by number of training exams, with its interval",
    lambda table: (
        f"Mean over networks with {percent(table['level'].iloc[0])} intervals over patients and seeds; faint "
        f"dots are single seeds. {capital(who(table))}."
    ),
)  # fmt: skip
NOT_LEARNED = Question(
    "not_learned",
    "Runs that did not learn",
    (
        "task", "fraction", "backbone", "n_unlearned", "n_runs", "unlearned", "effect", "low", "high",
        "n_left", "n_pairs", "effect_left", "low_left", "high_left", "reason_left",
    ),
    compute_unlearned,
    lacks_a_side,
    say_unlearned,
    lambda study, table: figures.contrast_forest(
        _lines(table), f"{study.compared} − {study.baseline}", table["margin"].iloc[0]
    ),
    "Averaged effect of the starting weights with all runs, and with pairs of which both sides learned",
    lambda table: forest_caption(_lines(table)),
    is_figure_folded=True,
)  # fmt: skip
