"""Features or scale: what is left of the gain when something is taken from the weights; and why video."""

from __future__ import annotations

import math

import pandas as pd

from ctlib.analysis.question import Question, lacks_a_side
from ctlib.analysis.questions.baselines import COLUMNS
from ctlib.analysis.study import GRID, Study
from ctlib.analysis.text import concluded, conclusions, forest_caption, interval, listed, place, unanswered
from ctlib.metrics import Contrast, arms_of
from ctlib.visualization import figures

RUNGS = ("meanvar", "shuffled", "first_", "flat", "reversed", "frozen")
"""Controls from the least that is left of the weights to the most."""
WHY = {"reversed": "turned round along the slices", "flat": "made the same along the slices"}
"""What a control does to the kernels."""


def controls_of(study: Study) -> list[str]:
    """The controls of the compared init that the grid holds, from the least that is left to the most."""
    from ctlib.models import headed  # here: it loads torch

    named = f":{study.compared}"
    held = [init for init in study.inits if init.endswith(named) and not headed(init)[0]]
    order = {rung: i for i, rung in enumerate(RUNGS)}
    known = [next((order[rung] for rung in RUNGS if init.startswith(rung)), len(RUNGS)) for init in held]
    return [init for _, init in sorted(zip(known, held, strict=True))]


def compute_ladder(study: Study) -> pd.DataFrame:
    """What each rung gains over the baseline, and what share of the whole gain that is.

    Returns:
        As `Study.contrasts`, the label being the rung, with init (the same), baseline, kept (share of the
        gain of the whole weights; NaN where the interval of that gain is not above 0).
    """
    rungs = [*controls_of(study), study.compared]
    networks = study.networks_from(study.baseline, *rungs)
    baseline = arms_of(networks, study.baseline)
    table = study.contrasts([Contrast(rung, arms_of(networks, rung), baseline) for rung in rungs])
    whole = table[table["label"] == study.compared].set_index(["task", "fraction"])
    kept = []
    for row in table.to_dict("records"):
        full = whole.loc[(row["task"], row["fraction"])]
        kept.append(row["effect"] / full["effect"] if full["low"] > 0 else math.nan)
    return table.assign(init=table["label"], baseline=study.baseline, kept=kept)


def _no_ladder(study: Study) -> str:
    absent = lacks_a_side(study)
    if absent:
        return absent
    named = [
        f"{rung}2:{study.compared}" if rung == "first_" else f"{rung}:{study.compared}" for rung in RUNGS
    ]
    if not controls_of(study):
        return (
            f"No answer: the grid holds no control of {study.compared}; add {listed(named, 'or')} to "
            f"`inits` of {GRID}."
        )
    rungs = [study.baseline, *controls_of(study), study.compared]
    if study.networks_from(*rungs):
        return ""
    return f"No answer: no averaged network has runs from all of {listed(rungs)}; see `inits` of {GRID}."


def say_ladder(table: pd.DataFrame) -> str:
    """At each task and fraction the gain of the whole weights, and of each rung.

    Args:
        table: from `compute_ladder`.
    """
    lines = []
    for _, part in table.groupby(["task", "fraction"], sort=False):
        rows = part.to_dict("records")
        whole = rows[-1]
        rungs = [f"{row['label']} {interval(row)}{_share(row)}" for row in rows[:-1]]
        lines.append(
            f"{place(whole)}: {whole['label']} gains {interval(whole)} over {whole['baseline']}; "
            f"of the controls, {listed(rungs)}."
        )
    return "\n".join([*lines, *unanswered(table)])


def _share(row: dict) -> str:
    return "" if pd.isna(row["kept"]) else f", {100 * row['kept']:.0f} % of it"


# ---- why video ---------------------------------------------------------------------------


def _why(study: Study) -> dict[str, str]:
    """The controls of the kernels along the slices that the grid holds, and what each does."""
    named = {f"{control}:{study.compared}": does for control, does in WHY.items()}
    return {init: does for init, does in named.items() if study.networks_from(study.compared, init)}


def compute_why(study: Study) -> pd.DataFrame:
    """What the whole weights gain over those with kernels turned round, or flat.

    Returns:
        As `Study.contrasts`, with init (the control) and does (what it does to the kernels).
    """
    found, wanted = _why(study), []
    for init in found:
        networks = study.networks_from(study.compared, init)
        wanted.append(
            Contrast(f"{study.compared} − {init}", arms_of(networks, study.compared), arms_of(networks, init))
        )
    table = study.contrasts(wanted)
    init = table["label"].str.removeprefix(f"{study.compared} − ")
    return table.assign(init=init, does=init.map(found).astype(object))


def _no_why(study: Study) -> str:
    if _why(study):
        return ""
    named = [f"{control}:{study.compared}" for control in WHY]
    return (
        f"No answer: the grid holds neither {listed(named, 'nor')} beside {study.compared}; add them to "
        f"`inits` of {GRID}."
    )


LOST = {
    "gain": "lose",
    "loss": "gain",
    "equivalent": "change less than the margin",
    "not decided": "may lose or gain",
    "no answer": "have no answer",
}
"""What the kernels do, by what the whole weights do against them."""


def say_why(table: pd.DataFrame) -> str:
    """What kernels lose that are turned round or flat.

    Args:
        table: from `compute_why`.
    """
    lines = []
    for label, part in table.groupby("label", sort=False):
        for row in part.to_dict("records"):
            lines.append(
                f"{place(row)}: kernels {row['does']} {LOST[concluded(row)]}; {label} is {interval(row)}."
            )
    return "\n".join([*lines, f"Why video: {conclusions(table)}.", *unanswered(table)])


WEIGHT_ABLATIONS = Question(
    "weight_ablations",
    "Ablation of weights",
    (
        "task",
        "fraction",
        "label",
        "auroc_first",
        "auroc_second",
        "effect",
        "low",
        "high",
        "kept",
        "n_networks",
        "reason",
    ),
    compute_ladder,
    _no_ladder,
    say_ladder,
    lambda study, table: figures.contrast_forest(
        table, f"named − {table['baseline'].iloc[0]}", table["margin"].iloc[0]
    ),
    "What each control of the pretrained weights gains over the baseline in test AUROC, with intervals",
    forest_caption,
)
WHY_VIDEO = Question(
    "why",
    "Kernels along the slices",
    COLUMNS,
    compute_why,
    _no_why,
    say_why,
    lambda study, table: figures.contrast_forest(table, "whole weights − control", table["margin"].iloc[0]),
    "Test AUROC of the whole weights minus that of weights with reversed or flat kernels, with intervals",
    forest_caption,
)
