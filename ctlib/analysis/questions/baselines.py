"""3D networks against 2D ones; video against CT as what is pretrained on; CT without labels after video."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ctlib.analysis.question import ABSENT, Question, lacking
from ctlib.analysis.study import GRID, Study, by_family
from ctlib.analysis.text import conclusions, forest_caption, interval, listed, place, unanswered
from ctlib.datasets import same_patients, task
from ctlib.metrics import Contrast, arms_of
from ctlib.visualization import figures

COLUMNS = (
    "task", "fraction", "label", "auroc_first", "auroc_second", "effect", "low", "high", "p_holm",
    "equivalent", "n_networks", "reason",
)  # fmt: skip


# ---- 3D against 2D -----------------------------------------------------------------------


def compute_two_d(study: Study) -> pd.DataFrame:
    """The averaged 3D networks from the compared init against each 2D network from each of its inits."""
    held = study.runs.drop_duplicates(["backbone", "init"])
    arms = [(row.backbone, row.init) for row in held.itertuples() if row.backbone in study.two_d]
    arms = [arm for arm in arms if ":" not in arm[1]]
    first = arms_of(study.networks_from(study.compared), study.compared)
    wanted = [Contrast(f"{backbone} from {init}", first, ((backbone, init),)) for backbone, init in arms]
    return study.contrasts(wanted).assign(init=study.compared)


def _no_two_d(study: Study) -> str:
    if not study.two_d:
        return f"{ABSENT}the grid holds no 2D network; add one, resnet18 say, to `backbones` of {GRID}."
    return lacking(study, study.compared)


def say_two_d(table: pd.DataFrame) -> str:
    """Against the strongest 2D competitor at each task and fraction, and how many comparisons are won.

    Args:
        table: from `compute_two_d`.
    """
    lines = []
    for row in smallest(table):
        pair = f"3D networks from {row['init']} minus the strongest 2D competitor, {row['label']}"
        lines.append(f"{place(row)}: {pair}: {interval(row)}.")
    return "\n".join([*lines, f"3D against 2D: {conclusions(table)}.", *unanswered(table)])


def smallest(table: pd.DataFrame) -> list[dict]:
    """At each task and fraction the comparison with the smallest effect."""
    known = table[table["effect"].notna()]
    return [
        dict(part.loc[part["effect"].idxmin()]) for _, part in known.groupby(["task", "fraction"], sort=False)
    ]


# ---- video, CT, both ---------------------------------------------------------------------


PUBLIC_CT = ("lidc", "rspect")
"""Cohorts that anyone can pretrain on where a grid has one task; of different patients."""
SSL = "_ssl"
"""Ending of an init whose last pretraining read no labels (`ctlib.models.weights.init_names`)."""


def domain_inits(study: Study) -> tuple[list[str], list[str]]:
    """Inits of the grid from CT alone, and those from CT that began from another init; without labels is no part."""
    plain = [init for init in study.inits if ":" not in init and not init.endswith(SSL)]
    return (
        [init for init in plain if init.startswith("ct_") and "+" not in init],
        [init for init in plain if "+ct_" in init],
    )


def compute_domain(study: Study) -> pd.DataFrame:
    """Video against CT, both against video, both against CT, on the networks that have the two."""
    ct, both = domain_inits(study)
    pairs = [(study.compared, init) for init in ct] + [(init, study.compared) for init in both]
    pairs += [(init, other) for init in both for other in ct if init.endswith(f"+{other}")]
    table = _compared(study, pairs)
    return by_family(table, table["init"] == study.compared)


def _compared(study: Study, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """The first init of each pair minus the second, on the averaged networks that have the two."""
    wanted, first = [], {}
    for init, other in pairs:
        if networks := study.networks_from(init, other):
            name = f"{init} − {other}"
            wanted.append(Contrast(name, arms_of(networks, init), arms_of(networks, other)))
            first[name] = init
    table = study.contrasts(wanted)
    return table.assign(init=table["label"].map(first).astype(object))


def _no_domain(study: Study) -> str:
    return lacking(study, study.compared) if any(domain_inits(study)) else no_ct(study)


def no_ct(study: Study) -> str:
    """What is missing where no starting weights are from CT, and which would do for the tasks of this grid."""
    cohorts = [*(task(name).cohort for name in study.tasks), *PUBLIC_CT]
    sources = {
        name: next(other for other in cohorts if not same_patients(other, task(name).cohort))
        for name in study.tasks
    }
    wanted = listed(f"ct_{source} for {name}" for name, source in sources.items())
    return (
        f"{ABSENT}the grid holds no starting weights from CT; make {wanted} with `pretrained` of 02_pretrain, from "
        f"labelled CT of other patients that `cohorts` of 01_explore_data reads, and add it to `inits` of {GRID}."
    )


def say_domain(table: pd.DataFrame) -> str:
    """Every comparison with its interval.

    Args:
        table: from `compute_domain`.
    """
    return _say_pairs(table, "Video, CT and both")


# ---- without labels, after video ---------------------------------------------------------


def _unlabelled(study: Study) -> list[str]:
    """Inits of the grid from CT without labels that began from the compared init."""
    return [init for init in study.inits if init.startswith(f"{study.compared}+ct_") and init.endswith(SSL)]


def compute_unlabelled(study: Study) -> pd.DataFrame:
    """What CT without labels adds to the compared init, and to the same with labels of CT."""
    labelled = [init for init in domain_inits(study)[1] if init.startswith(f"{study.compared}+ct_")]
    others = (study.compared, *labelled)
    return _compared(study, ((init, other) for init in _unlabelled(study) for other in others))


def _no_unlabelled(study: Study) -> str:
    if _unlabelled(study):
        return lacking(study, study.compared)
    return (
        f"{ABSENT}the grid holds no starting weights of CT without labels after {study.compared}; make "
        f"{study.compared}+ct_{task(study.tasks[0]).cohort}{SSL}, say, with `pretrained` of 02_pretrain "
        f"and add it to `inits` of {GRID}."
    )


def say_unlabelled(table: pd.DataFrame) -> str:
    """Every comparison with its interval.

    Args:
        table: from `compute_unlabelled`.
    """
    return _say_pairs(table, "CT without labels, after video")


def _say_pairs(table: pd.DataFrame, what: str) -> str:
    lines = []
    for label, part in table.groupby("label", sort=False):
        rows = part.to_dict("records")
        lines.append(f"{label}: {'; '.join(f'{place(row)} {interval(row)}' for row in rows)}.")
    return "\n".join([*lines, f"{what}: {conclusions(table)}.", *unanswered(table)])


TWO_D = Question(
    "two_d",
    "3D against 2D",
    COLUMNS,
    compute_two_d,
    _no_two_d,
    say_two_d,
    lambda study, table: figures.contrast_forest(
        table, f"3D from {table['init'].iloc[0]} − the 2D network named", table["margin"].iloc[0]
    ),
    "Test AUROC of the averaged 3D networks minus that of each 2D network, with intervals",
    forest_caption,
)
VIDEO_OR_CT = Question(
    "video_or_ct",
    "Video against CT",
    COLUMNS,
    compute_domain,
    _no_domain,
    say_domain,
    lambda study, table: figures.contrast_forest(table, "the first − the second", table["margin"].iloc[0]),
    "Difference in test AUROC between video, CT and both as pretraining, with intervals",
    forest_caption,
)
AFTER_VIDEO = Question(
    "unlabelled_ct",
    "CT without labels after video",
    COLUMNS,
    compute_unlabelled,
    _no_unlabelled,
    say_unlabelled,
    lambda study, table: figures.contrast_forest(table, "the first − the second", table["margin"].iloc[0]),
    "What pretraining on CT without labels adds after video in test AUROC, with intervals",
    forest_caption,
)
