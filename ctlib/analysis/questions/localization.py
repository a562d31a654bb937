"""Whether a network looks where the disease is: its Grad-CAM against slice labels and readers' contours.

Only test exams with disease are asked, for only they have a place to look at. Each map gets up to four
scores, and so do maps of the same network with random weights (`UNTRAINED`: the same mean and std, on the
same exams): a map is high in the middle of the body, or on edges, for reasons that nothing was learnt for,
and what counts is the gain over that. One network with random weights scores very differently from the
next, so there are `DRAWS` of them a seed, the first with the head that the trained one began with. Intervals
are over patients, drawn with all of their exams and the same for both networks, and over seeds.

Beside it, exams to look at: those on which two inits disagree.

`ctlib.analysis.gradcam` and `ctlib.training` load torch and MONAI, so they are imported where they are used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ctlib.analysis.question import ABSENT, Question, lacks_a_side, no_cohort
from ctlib.analysis.study import GRID, Study
from ctlib.analysis.text import listed, spanned
from ctlib.core import Workspace, counted, tables, word
from ctlib.datasets import MIN_READERS, task
from ctlib.metrics import MEAN_OF, Array, Bootstrap, Estimate, Metric, auroc, for_these
from ctlib.visualization import Sight, figures, percent, viewer

if TYPE_CHECKING:
    from ctlib.analysis.gradcam import ClassActivation, Exam
    from ctlib.training import Run

UNTRAINED = "untrained"
"""In the place of an init: the network with random weights, never trained."""
SHOWN_EXAMS = 2
"""Exams of a task over which Grad-CAM is drawn."""
SCROLLED_EXAMS = 4
"""Exams that can be scrolled through."""
DRAWS = 4
"""Networks with random weights a seed."""
TOLERANCE_MM = 15.0
"""How far from a nodule the peak of a map may lie and still be a hit, mm: a map of one value for every 16 or
32 px points no more exactly, as in the pointing game of Zhang et al. (Top-down neural attention, ECCV 2016),
which allows 15 px."""
MEASURES = {
    "slice_auroc": "AUROC of the slices of an exam by the highest value of the map on each",
    "slice_hit": "share of exams whose map is highest on a slice with disease",
    "voxel_auroc": "AUROC of the voxels of an exam, in or out of a nodule, by the map",
    "nodule_hit": f"share of exams whose map is highest within {TOLERANCE_MM:g} mm of a nodule",
}
"""What the scores are; chance is 0.5 for both AUROCs, and what random weights reach for both shares."""
COLUMNS = ["task", "backbone", "init", "seed", "draw", "run_id", "patient_id", "study", "measure", "value"]
COLUMNS += ["reason"]
GAINS = ["task", "backbone", "init", "measure", "value", "low", "high", "untrained", "gain", "gain_low"]
GAINS += ["gain_high", "n_patients", "n_exams", "n_seeds", "reason"]


def scores(
    found: NDArray[np.float32],
    labels: ArrayLike,
    inside: NDArray[np.bool_] | None,
    spacing_mm: tuple[float, float, float],
) -> dict[str, Metric]:
    """The scores of a map.

    Args:
        found: map of an exam, float `[D, M, M]`, 0 or more; NaN where the network saw nothing.
        labels: of its slices, `[D]`, 1 = disease.
        inside: bool `[D, M, M]`, the voxels in a nodule; None where nobody drew any.
        spacing_mm: of the voxels (z, y, x), mm.

    Returns:
        A value for each of `MEASURES`, or NaN and why. A map that is 0 everywhere points nowhere: its
        AUROCs are 0.5 and its hits 0.

    >>> found = np.zeros((3, 2, 2), np.float32)
    >>> found[1, 0, 0] = 1
    >>> [made.value for made in scores(found, [0, 1, 0], found > 0, (2.0, 1.0, 1.0)).values()]
    [1.0, 1.0, 1.0, 1.0]
    """
    truth = np.asarray(labels, np.int64)
    seen = np.isfinite(found)
    on_slice = np.where(seen, found, -np.inf).max(axis=(1, 2))
    if not truth.any():
        nowhere = Metric(math.nan, "no slice has a label of disease")
        made = {"slice_auroc": nowhere, "slice_hit": nowhere}
    else:
        hit = on_slice.max() > 0 and truth[on_slice == on_slice.max()].mean() >= 0.5
        made = {"slice_auroc": auroc(truth, on_slice), "slice_hit": Metric(float(hit))}
    if inside is None:
        return made | dict.fromkeys(("voxel_auroc", "nodule_hit"), Metric(math.nan, "nobody drew a contour"))
    if not (inside & seen).any():
        nowhere = Metric(math.nan, "no nodule of enough readers lies within what the network saw")
        return made | dict.fromkeys(("voxel_auroc", "nodule_hit"), nowhere)
    hit = on_slice.max() > 0 and _distance_mm(found, inside, spacing_mm) <= TOLERANCE_MM
    voxels = auroc(inside[seen].astype(np.int64), found[seen])
    return made | {"voxel_auroc": voxels, "nodule_hit": Metric(float(hit))}


def _distance_mm(
    found: NDArray[np.float32], inside: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> float:
    """From the peak of a map, the middle of a flat one, to the nearest voxel of a nodule."""
    peak = np.argwhere(found == np.nanmax(found)).mean(axis=0)
    return float(np.linalg.norm((np.argwhere(inside) - peak) * spacing_mm, axis=1).min())


def looked(
    workspace: Workspace,
    runs: pd.DataFrame,
    backbones: Sequence[str],
    inits: Sequence[str],
    min_readers: int = MIN_READERS,
    echo: Callable[[str], Any] = print,
    at_most: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Score the maps of finished runs, and of their networks with random weights, on test exams with disease.

    Args:
        workspace: where runs, volumes and tables lie.
        runs: table `runs`; of each task those of its largest fraction are looked at.
        backbones: networks that are looked at.
        inits: inits that are looked at.
        min_readers: readers who must have marked a nodule.
        echo: takes one line a run that cannot be looked at, and one a task and network.
        at_most: exams of a task (of a cross-validation, of each turn) that are looked at; 0 for all. They are drawn
            before anything is looked at, the same for all networks.
        seed: of that draw.

    Returns:
        Columns task, backbone, init (`UNTRAINED` for random weights), seed, draw (of random weights, from
        0), run_id, patient_id, study, measure, value, reason, of_exams (exams with disease that there are); a row
        for each exam and measure.
    """
    from ctlib.analysis.gradcam import exams_with_disease, why_unseen
    from ctlib.training import read_run

    chosen = runs[runs["backbone"].isin(list(backbones)) & runs["init"].isin(list(inits))]
    chosen = chosen[chosen["fraction"] == chosen.groupby("task")["fraction"].transform("max")]
    rows: list[dict[str, Any]] = []
    there_are: dict[tuple[str, int], int] = {}
    for (name, backbone), part in chosen.groupby(["task", "backbone"], sort=False):
        there = []
        for row in part.itertuples():
            if why := why_unseen(workspace, row):
                echo(f"{name}, {backbone} from {row.init}, seed {row.seed} is not looked at: {why}.")
            else:
                there.append(read_run(workspace, str(row.run_id)))
        for turn in sorted({run.fold for run in there}):  # each has test exams of its own
            own = [run for run in there if run.fold == turn]
            exams = exams_with_disease(workspace, own[0])
            there_are[name, turn] = len(exams)
            if 0 < at_most < len(exams):
                drawn = np.random.default_rng(seed).permutation(len(exams))[:at_most]
                exams = [exams[place] for place in sorted(drawn)]
            about = {"task": name, "backbone": backbone}
            rows += [about | row for row in _looked(workspace, own, exams, min_readers)]
        echo(f"{name}, {backbone}: {len(there)} of {len(part)} runs looked at.")
    of_exams = {name: sum(n for (one, _), n in there_are.items() if one == name) for name, _ in there_are}
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found.assign(of_exams=found["task"].map(of_exams))


def _looked(
    workspace: Workspace, runs: Sequence[Run], exams: Sequence[Exam], min_readers: int
) -> Iterator[dict[str, Any]]:
    """The other columns of `looked`, of runs of one task, network and turn of the cross-validation."""
    from ctlib.analysis.gradcam import activation_of

    activations = [(run, run.init, 0, activation_of(workspace, run)) for run in runs]
    for run in {run.seed: run for run in runs}.values():  # the same for all inits of a seed
        for draw in range(DRAWS):
            activations.append((run, UNTRAINED, draw, activation_of(workspace, run, draw)))
    for exam in exams:
        inside = exam.inside(min_readers)
        for run, init, draw, activation in activations:
            made = scores(exam.map_of(activation, run), exam.labels, inside, exam.spacing_mm)
            about = {"init": init, "seed": run.seed, "draw": draw, "run_id": run.run_id}
            about |= {"patient_id": exam.row.patient_id, "study": exam.row.study_uid}
            for measure, one in made.items():
                yield about | {"measure": measure, "value": one.value, "reason": one.reason}


def gains(table: pd.DataFrame, how: Bootstrap) -> pd.DataFrame:
    """Mean scores over exams and seeds, and the gain over random weights, with intervals.

    Args:
        table: result of `looked`.
        how: replicates, seed and level.

    Returns:
        Columns task, backbone (the last rows of a task average its networks, where there are several),
        init, measure, value, low, high, untrained, gain, gain_low, gain_high, n_patients, n_exams, n_seeds,
        reason. An exam without a value is left out and counted in `reason`; a seed that an init lacks makes
        its row NaN.
    """
    rows = []
    for (name, measure), part in table.groupby(["task", "measure"], sort=False):
        groups = [(b, [b]) for b in part["backbone"].unique()]
        if len(groups) > 1:
            groups.append((f"{MEAN_OF}{len(groups)} networks", [b for b, _ in groups]))
        for title, members in groups:
            for init in part.loc[part["init"] != UNTRAINED, "init"].unique():
                about = {"task": name, "backbone": title, "init": init, "measure": measure}
                rows.append(about | _gain(part[part["backbone"].isin(members)], init, how))
    return pd.DataFrame(rows, columns=GAINS)


def _gain(part: pd.DataFrame, init: str, how: Bootstrap) -> dict[str, Any]:
    """The other columns of a row of `gains`."""
    wide = part[part["init"].isin([init, UNTRAINED])].pivot(
        index=["patient_id", "study"], columns=["init", "backbone", "seed", "draw"], values="value"
    )
    arms = {name: wide[name] if name in wide else wide.iloc[:, :0] for name in (init, UNTRAINED)}
    without = wide.isna().all(axis=1).to_numpy()
    empty = dict.fromkeys(("value", "low", "high", "untrained", "gain", "gain_low", "gain_high"), math.nan)
    seeds = sorted(set(part["seed"]))
    counts = {
        "n_patients": wide[~without].index.get_level_values("patient_id").nunique(),
        "n_exams": int((~without).sum()),
        "n_seeds": len(seeds),
    }
    reasons = [part["reason"][part["reason"] != ""].iloc[0]] if without.any() else []
    why = f"{int(without.sum())} of {len(wide)} exams have no value: {reasons[0]}" if reasons else ""
    kept = {name: arm[~without] for name, arm in arms.items()}
    runs = [set(arm.columns.droplevel("draw")) for arm in kept.values()]
    lacking = runs[0] != runs[1] or any(arm.isna().any(axis=None) for arm in kept.values())
    if without.all() or lacking:
        return empty | counts | {"reason": why if without.all() else f"{init} lacks runs of some seed"}
    values = {name: _by_network(arm) for name, arm in kept.items()}
    patients = pd.factorize(wide[~without].index.get_level_values("patient_id"))[0]
    own = mean_estimate(values[init], patients, how).share_interval(how.level)
    gain = mean_estimate(values[init] - values[UNTRAINED], patients, how).interval(how.level)
    return (
        {"value": own.value, "low": own.low, "high": own.high}
        | {"untrained": float(values[UNTRAINED].mean())}
        | {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        | counts
        | {"reason": "; ".join(text for text in (why, own.reason or gain.reason) if text)}
    )


def _by_network(arm: pd.DataFrame) -> Array:
    """Scores of exams, a column a network, seed and draw, as `[networks, seeds, exams]`, mean over draws."""
    mean = arm.T.groupby(level=["backbone", "seed"]).mean()
    return mean.to_numpy().reshape(mean.index.get_level_values("backbone").nunique(), -1, len(arm))


def mean_estimate(values: Array, patients: NDArray[np.int64], how: Bootstrap) -> Estimate:
    """The mean over networks, seeds and exams; seeds and patients, with all of their exams, are random.

    Args:
        values: `[networks, seeds, exams]`.
        patients: `[exams]`, numbers from 0.
        how: replicates and seed.

    Returns:
        An estimate without a standard error where there are fewer than two patients, or nothing varies.

    >>> exams = np.array([[[0.0, 1.0] * 50]])
    >>> found = mean_estimate(exams, np.arange(100), Bootstrap(2000)).interval()
    >>> found.value, round(found.half_width, 2)
    (0.5, 0.1)
    """
    n = int(patients.max()) + 1
    if n < 2:
        return Estimate(float(values.mean()), math.nan, math.nan, "one patient only; two are needed")
    # n - 1 of the n, as in ctlib.metrics.bootstrap: drawing n would make the variance too small by 1 / n
    draws = np.random.default_rng(how.seed).multinomial(n - 1, np.full(n, 1 / n), size=how.n_replicates)
    weights = draws[:, patients].T
    return for_these(values.mean(axis=2), values @ weights / weights.sum(axis=0), n - 1)


# ---- where it looks ----------------------------------------------------------------------


def compute_looks(study: Study) -> pd.DataFrame:
    """`gains` of both inits, at the largest fraction of each task; where exams were drawn, `of_exams` of them."""
    inits, rule = [study.baseline, study.compared], {"at_most": study.gradcam_exams, "seed": study.how.seed}
    scored = looked(study.there, study.runs, study.cam_backbones, inits, echo=lambda _: None, **rule)
    table = gains(scored, study.how).assign(level=study.how.level)
    drawn, there_are = scored.groupby("task")["study"].nunique(), scored.groupby("task")["of_exams"].first()
    if (drawn < there_are).any():
        table = table.assign(n_drawn=table["task"].map(drawn), of_exams=table["task"].map(there_are))
    return table


def _is_marked(study: Study, name: str) -> bool:
    """Whether a task has slices that are labelled with disease, or contours."""
    paths = (study.there.table(table, task(name).cohort) for table in ("slices", "marks"))
    slices, marks = (tables.read(path.stem, path) for path in paths)
    return bool(slices["label"].eq(1).any() or len(marks))


def _no_looks(study: Study) -> str:
    if not study.cam_backbones:
        return "No answer: `cam_backbones` of 04_analyze is empty; name a network of the grid."
    if absent := no_cohort(study, study.tasks):
        return absent
    if not any(_is_marked(study, name) for name in study.tasks):
        return (
            f"{ABSENT}no slice is labelled and no contour is drawn, so no map can be scored; of own data, name the "
            "column of slices in `folder_columns` of 01_explore_data."
        )
    from ctlib.analysis.gradcam import why_unseen

    runs, inits = study.runs, [study.baseline, study.compared]
    rows = runs[runs["backbone"].isin(study.cam_backbones) & runs["init"].isin(inits)]
    whys = [why_unseen(study.there, row) for row in rows.itertuples()]
    if rows.empty or all(whys):
        why = whys[0] if whys else f"the grid holds no run of {listed(study.cam_backbones, 'or')}"
        return f"No answer: {why}; compute it with {GRID}."
    return ""


def say_looks(table: pd.DataFrame) -> str:
    """Of each task, how many scores of maps lie above those of random weights, below, or neither; the table has all.

    Args:
        table: from `gains`.
    """
    lines = []
    for name, part in table.groupby("task", sort=False):
        known = part[part["gain_low"].notna()]
        above, below = (known["gain_low"] > 0).sum(), (known["gain_high"] < 0).sum()
        if len(known):
            lines.append(
                f"{name}: of {counted(len(known), 'score')} of maps, {above} lie above that of random weights, {below} "
                f"below it, {len(known) - above - below} are {word('not decided')}; test patients with disease: "
                f"{spanned(known['n_patients'])}."
            )
        if "of_exams" in part and part["n_drawn"].iloc[0] < part["of_exams"].iloc[0]:
            n, total = part[["n_drawn", "of_exams"]].iloc[0]
            lines.append(
                f"{name}: {n} of {total} test exams with disease were looked at, drawn by seed before any map was made "
                "(`gradcam_exams` of 04_analyze)."
            )
        for reason, rows in part[part["gain_low"].isna()].groupby("reason", sort=False):
            measures = listed(rows["measure"].str.replace("_", " ").unique())
            lines.append(f"{name}, {measures}: no interval: {reason}.")
    return "\n".join(lines)


def sights(
    workspace: Workspace,
    runs: pd.DataFrame,
    name: str,
    backbone: str,
    inits: Sequence[str],
    n: int = 3,
    min_readers: int = MIN_READERS,
) -> list[Sight]:
    """Some exams as networks from several inits see them, and one with random weights.

    All networks are of the first turn and seed that each init has a finished run of, at the largest
    fraction, and began with the same head. The slice is the one on which a nodule is largest, or the middle
    one of those that are labelled. Exams are evenly spread over the test exams with disease, whatever their
    maps.

    Args:
        workspace: where runs, volumes and tables lie.
        runs: table `runs`.
        name: of the task.
        backbone: the network.
        inits: side by side.
        n: exams.
        min_readers: readers who must have marked a nodule.

    Returns:
        Nothing where some init has no such run.
    """
    from ctlib.analysis.gradcam import activation_of, exams_with_disease, why_unseen
    from ctlib.training import read_run

    chosen = runs[(runs["task"] == name) & (runs["backbone"] == backbone) & runs["init"].isin(list(inits))]
    chosen = chosen[chosen["fraction"] == chosen["fraction"].max()]
    there = [
        read_run(workspace, str(row.run_id)) for row in chosen.itertuples() if not why_unseen(workspace, row)
    ]
    by_seed: dict[tuple[int, int], dict[str, Run]] = {}
    for run in sorted(there, key=lambda run: (run.fold, run.seed)):
        by_seed.setdefault((run.fold, run.seed), {})[run.init] = run
    whole = [found for found in by_seed.values() if len(found) == len(set(inits))]
    if not whole:
        return []
    of_init = {init: whole[0][init] for init in inits}
    first = of_init[inits[0]]
    networks = {init: (run, activation_of(workspace, run)) for init, run in of_init.items()}
    networks[UNTRAINED] = (first, activation_of(workspace, first, draw=0))
    exams = [exam for exam in exams_with_disease(workspace, first) if exam.labels.any()]
    places = np.unique(np.linspace(0, len(exams) - 1, min(n, len(exams))).round().astype(int))
    return [_sight(exams[place], networks, min_readers) for place in places]


def _sight(exam: Exam, networks: dict[str, tuple[Run, ClassActivation]], min_readers: int) -> Sight:
    inside = exam.inside(min_readers)
    labelled = np.flatnonzero(exam.labels)
    place = int(labelled[len(labelled) // 2])
    if inside is not None and inside.any():
        place = int(inside.sum(axis=(1, 2)).argmax())
    maps = {}
    for name, (run, activation) in networks.items():
        whole = exam.map_of(activation, run)
        maps[name] = whole[place] / max(float(np.nanmax(whole)), np.finfo(np.float32).tiny)
    hu = np.asarray(exam.store.read(exam.row.series_uid, place, place + 1))[0]
    here = None if inside is None else inside[place]
    return Sight(hu, exam.spacing_mm[1:], place, here, maps, exam.row.study_uid)


def show_sights(study: Study) -> None:
    """Draw Grad-CAM of both starting weights, and of random ones, over the same slices of each task.

    Args:
        study: what was done; its first network of `cam_backbones` is drawn.
    """
    if _no_looks(study):
        return  # the question says why
    for name in study.tasks:
        inits, backbone = [study.baseline, study.compared], study.cam_backbones[0]
        found = sights(study.there, study.runs, name, backbone, inits, SHOWN_EXAMS)
        if not found:
            figures.say(f"{name}: no seed of {backbone} has finished runs with weights from {listed(inits)}.")
            continue
        figures.show(
            figures.cam_slices(found, task(name).hu_window),
            alt=f"{name}: CT slices, and over them Grad-CAM from both starting weights and from random ones",
            caption=f"{name}, {backbone}, one seed: opaque where the map is highest in its exam.",
        )


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
    found = viewer.exams_of(study.there, study.runs, study.predictions, name, study.averaged, inits)
    runs = study.runs[(study.runs["task"] == name) & study.runs["backbone"].isin(study.averaged)]
    runs = runs[runs["fraction"] == runs["fraction"].max()]
    marks = tables.read("marks", study.there.table("marks", asked.cohort))
    chosen = figures.disagreed_exams(
        found.cohort, functools.partial(figures.stored, found.store), found.clips, runs, study.predictions,
        inits, asked.hu_window, SCROLLED_EXAMS, marks,
    )  # fmt: skip
    figures.scroller(
        chosen,
        alt="Axial slices of the test exams on which the starting weights disagree most, with scores of clips",
        caption=f"The test exams of {name} on which {listed(inits)} disagree most; bars are scores of clips.",
    )
    viewer.browse(found.table, found, notes)


def _no_exams(study: Study, name: str) -> str:
    """Why no exam can be shown, or ''."""
    if not name:
        return "No exam is shown: `browsed_task` of 04_analyze is empty."
    if absent := lacks_a_side(study) or no_cohort(study, [name]):
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
    "Grad-CAM",
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
