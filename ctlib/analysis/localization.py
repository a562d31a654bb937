"""Whether a network looks where the disease is: its Grad-CAM against slice labels and readers' contours.

Only test exams with disease are asked, for only they have a place to look at. Each map gets up to four
scores, and so do maps of the same network with random weights (`UNTRAINED`: the same mean and std, on the
same exams): a map is high in the middle of the body, or on edges, for reasons that nothing was learnt for,
and what counts is the gain over that. One network with random weights scores very differently from the
next, so there are `DRAWS` of them a seed, the first with the head that the trained one began with. Intervals
are over patients, drawn with all of their exams and the same for both networks, and over seeds
(`ctlib.metrics.bootstrap`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ctlib.analysis.gradcam_exams import UNTRAINED, activation_of, test_exams, why_unseen
from ctlib.core import Workspace
from ctlib.datasets import MIN_READERS
from ctlib.metrics import MEAN_OF, Bootstrap, Estimate, Metric, auroc, for_these
from ctlib.training import Run, read_run
from ctlib.visualization import signed

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
Array = NDArray[np.float64]


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
) -> pd.DataFrame:
    """Score the maps of finished runs, and of their networks with random weights, on test exams with disease.

    Args:
        workspace: where runs, volumes and tables lie.
        runs: table `runs`; of each task those of its largest fraction are looked at.
        backbones: networks that are looked at.
        inits: inits that are looked at.
        min_readers: readers who must have marked a nodule.
        echo: takes one line a run that cannot be looked at, and one a task and network.

    Returns:
        Columns task, backbone, init (`UNTRAINED` for random weights), seed, draw (of random weights, from
        0), run_id, patient_id, study, measure, value, reason; a row for each exam and measure.
    """
    chosen = runs[runs["backbone"].isin(list(backbones)) & runs["init"].isin(list(inits))]
    chosen = chosen[chosen["fraction"] == chosen.groupby("task")["fraction"].transform("max")]
    rows: list[dict[str, Any]] = []
    for (name, backbone), part in chosen.groupby(["task", "backbone"], sort=False):
        there = []
        for row in part.itertuples():
            if why := why_unseen(workspace, row):
                echo(f"{name}, {backbone} from {row.init}, seed {row.seed} is not looked at: {why}.")
            else:
                there.append(read_run(workspace, str(row.run_id)))
        for turn in sorted({run.fold for run in there}):  # each has test exams of its own
            own = [run for run in there if run.fold == turn]
            about = {"task": name, "backbone": backbone}
            rows += [about | row for row in _looked(workspace, own, min_readers)]
        echo(f"{name}, {backbone}: {len(there)} of {len(part)} runs looked at.")
    return pd.DataFrame(rows, columns=COLUMNS)


def _looked(workspace: Workspace, runs: Sequence[Run], min_readers: int) -> Iterator[dict[str, Any]]:
    """The other columns of `looked`, of runs of one task, network and turn of the cross-validation."""
    activations = [(run, run.init, 0, activation_of(workspace, run)) for run in runs]
    for run in {run.seed: run for run in runs}.values():  # the same for all inits of a seed
        for draw in range(DRAWS):
            activations.append((run, UNTRAINED, draw, activation_of(workspace, run, draw)))
    for exam in test_exams(workspace, runs[0]):
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


def sentences(table: pd.DataFrame) -> list[str]:
    """Whether networks look where the disease is more than random weights do, a sentence a row with a value.

    Args:
        table: result of `gains`.
    """
    said = []
    for row in table[table["value"].notna()].to_dict("records"):
        about = f"{row['task']}, {row['backbone']} from {row['init']}, {row['measure'].replace('_', ' ')}"
        gain = f"{row['value']:.3f}, random weights {row['untrained']:.3f}, gain {signed(row['gain'], 3)}"
        if math.isnan(row["gain_low"]):
            said.append(f"{about}: {gain}, without an interval: {row['reason']}.")
            continue
        verdict = "not shown to look there more than random weights do"
        if row["gain_low"] > 0:
            verdict = "looks there more than random weights do"
        elif row["gain_high"] < 0:
            verdict = "looks there less than random weights do"
        ends = f"({signed(row['gain_low'], 3)} to {signed(row['gain_high'], 3)})"
        said.append(f"{about}: {gain} {ends}, {row['n_patients']} patients: {verdict}.")
    return said
