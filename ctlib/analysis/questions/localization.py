"""Where networks look, for whom the effect holds, and the exams on which two inits disagree."""

from __future__ import annotations

import functools
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ctlib.analysis import gradcam_exams, localization, subgroups
from ctlib.analysis.question import Question
from ctlib.analysis.questions.effect import EFFECT
from ctlib.analysis.study import GRID, Study
from ctlib.analysis.text import capital, listed
from ctlib.core import Workspace, display_path, tables
from ctlib.datasets import task
from ctlib.training import WRITER
from ctlib.visualization import figures, percent, viewer

SHOWN_EXAMS = 3
"""Exams of a task over which Grad-CAM is drawn."""
SCROLLED_EXAMS = 6
"""Exams that can be scrolled through."""

COHORT_TABLES = ("series", "slices", "marks", "clips")


def no_cohort(study: Study, names: list[str]) -> str:
    """Which table of a task's cohort is missing, and which notebook writes it; or ''."""
    if study.work is None:
        return "No answer: these results have no workspace, so no exam can be looked at."
    paths = [study.work.table(table, task(name).cohort) for name in names for table in COHORT_TABLES]
    absent = [display_path(path) for path in paths if not path.is_file()]
    return f"No answer: {absent[0]} is missing; {WRITER} writes it." if absent else ""


def _tasks(study: Study) -> list[str]:
    return list(dict.fromkeys(study.runs["task"]))


def _work(study: Study) -> Workspace:
    assert study.work is not None  # `no_cohort` was asked before
    return study.work


# ---- where it looks ----------------------------------------------------------------------


def compute_looks(study: Study) -> pd.DataFrame:
    """`localization.gains` of both inits, at the largest fraction of each task."""
    inits = [study.baseline, study.compared]
    scored = localization.looked(_work(study), study.runs, study.cam_backbones, inits, echo=lambda _: None)
    return localization.gains(scored, study.how).assign(level=study.how.level)


def _no_looks(study: Study) -> str:
    if not study.cam_backbones:
        return "No answer: `cam_backbones` of 04_analyze is empty; name a network of the grid."
    if absent := no_cohort(study, _tasks(study)):
        return absent
    runs = study.runs
    rows = runs[
        runs["backbone"].isin(study.cam_backbones) & runs["init"].isin([study.baseline, study.compared])
    ]
    whys = [gradcam_exams.why_unseen(_work(study), row) for row in rows.itertuples()]
    if rows.empty or all(whys):
        why = whys[0] if whys else f"the grid holds no run of {listed(study.cam_backbones, 'or')}"
        return f"No answer: {why}; compute it with {GRID}."
    return ""


def say_looks(table: pd.DataFrame) -> str:
    """Whether trained networks look where the disease is, more than random weights do.

    Args:
        table: from `compute_looks`.
    """
    lines = localization.sentences(table)
    empty = table[table["value"].isna()]
    for row in empty.itertuples():
        about = f"{row.task}, {row.backbone} from {row.init}, {row.measure.replace('_', ' ')}"
        lines.append(f"{about}: no answer: {row.reason}.")
    return "\n".join(lines)


def show_sights(study: Study) -> None:
    """Draw Grad-CAM of both inits, and of random weights, over the same slices of each task.

    Args:
        study: what was done; its first network of `cam_backbones` is drawn.
    """
    if _no_looks(study):
        return  # the question says why
    for name in _tasks(study):
        inits, backbone = [study.baseline, study.compared], study.cam_backbones[0]
        sights = gradcam_exams.sights(_work(study), study.runs, name, backbone, inits, SHOWN_EXAMS)
        if not sights:
            figures.say(f"{name}: no seed of {backbone} has finished runs with weights from {listed(inits)}.")
            continue
        figures.show(
            figures.cam_slices(sights, task(name).hu_window),
            alt=f"{name}: CT slices, and over them where networks from two inits and random weights look",
            caption=f"{name}, {backbone}, one seed: opaque where the map is highest in its exam.",
        )


# ---- for whom ----------------------------------------------------------------------------


def compute_groups(study: Study) -> pd.DataFrame:
    """`subgroups.subgroup_effects` of the averaged networks."""
    return subgroups.subgroup_effects(
        _work(study), study.runs, study.predictions, study.baseline, study.compared, study.averaged,
        study.how, study.rule,
    ).assign(level=study.how.level)  # fmt: skip


def _no_groups(study: Study) -> str:
    return EFFECT.missing(study) or no_cohort(study, _tasks(study))


def say_groups(table: pd.DataFrame) -> str:
    """How many groups there are, and which differ.

    Args:
        table: from `compute_groups`.
    """
    return "\n".join(subgroups.sentences(table))


def _draw_groups(study: Study, table: pd.DataFrame) -> Figure:
    means = study.mean_gains
    whole = means[means["fraction"] == means.groupby("task")["fraction"].transform("max")]
    return figures.subgroup_forest(table, whole, study.compared)


# ---- exams on which they disagree --------------------------------------------------------


def show_exams(study: Study, name: str, notes: str | Path) -> None:
    """Show the exams on which the two inits disagree most, to scroll through, and to note something on.

    Args:
        study: what was done.
        name: task whose exams are shown; "" for none.
        notes: CSV of notes; made with the first.
    """
    missing = _no_exams(study, name)
    if missing:
        figures.say(missing)
        return
    asked, inits = task(name), (study.baseline, study.compared)
    found = viewer.exams_of(_work(study), study.runs, study.predictions, name, study.averaged, inits)
    runs = study.runs[(study.runs["task"] == name) & study.runs["backbone"].isin(study.averaged)]
    runs = runs[runs["fraction"] == runs["fraction"].max()]
    marks = tables.read("marks", _work(study).table("marks", asked.cohort))
    chosen = figures.disagreed_exams(
        found.cohort, functools.partial(figures.stored, found.store), found.clips, runs, study.predictions,
        inits, asked.hu_window, SCROLLED_EXAMS, marks,
    )  # fmt: skip
    figures.scroller(
        chosen,
        alt="Axial slices of the test exams on which the two inits disagree most, with scores of clips",
        caption=f"The test exams of {name} on which {listed(inits)} disagree most; bars are scores of clips.",
    )
    viewer.browse(found.table, found, notes)


def _no_exams(study: Study, name: str) -> str:
    """Why no exam can be shown, or ''."""
    if not name:
        return "No exam is shown: `browsed_task` of 04_analyze is empty."
    if absent := EFFECT.missing(study) or no_cohort(study, [name]):
        return absent
    runs = study.runs[(study.runs["task"] == name) & study.runs["backbone"].isin(study.averaged)]
    runs = runs[(runs["status"] == "finished") & (runs["fraction"] == runs["fraction"].max())]
    absent_inits = [init for init in (study.baseline, study.compared) if init not in set(runs["init"])]
    if absent_inits:
        return (
            f"No exam is shown: no run of {name} from {listed(absent_inits, 'or')} is finished; see {GRID}."
        )
    return ""


LOCALIZATION = Question(
    "localization",
    "Scores of Grad-CAM maps beside random weights",
    (
        "task", "backbone", "init", "measure", "value", "low", "high", "untrained", "gain", "gain_low",
        "gain_high", "n_exams", "reason",
    ),
    compute_looks,
    _no_looks,
    say_looks,
    lambda study, table: figures.cam_scores(table),
    "Scores of Grad-CAM maps with intervals, beside those of random weights",
    lambda table: (
        f"Mean over test exams with disease, seeds and networks, with {percent(table['level'].iloc[0])} "
        "intervals over patients and seeds; a cross is the mean of random weights, the number the gain."
    ),
)  # fmt: skip
SUBGROUPS = Question(
    "subgroups",
    "Effect of the init by subgroup of the test exams",
    (
        "task", "by", "group", "auroc_baseline", "auroc_init", "effect", "low", "high", "interaction",
        "p_holm", "n_patients", "n_positive", "reason",
    ),
    compute_groups,
    _no_groups,
    say_groups,
    _draw_groups,
    "Effect of the init on test AUROC by subgroup, with intervals, below that of all exams",
    lambda table: capital(
        f"{percent(table['level'].iloc[0])} intervals over patients and seeds, with "
        f"{percent(table['fraction'].max())} of the training patients; beside each stand the effect and its "
        "patients with disease of all. An asterisk: differs from the others after Holm's correction."
    ),
)  # fmt: skip
