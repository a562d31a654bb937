"""What a grid will take, before it is paid for: runs, time, memory, disk, and what its test sets can show.

The time of a run is

    epochs x (batches x training step + validation batches x forward) + test batches x forward + what is fixed

with steps and forward passes from `ctlib.grid.step_timing`. Clips are cut beside the network where
processes read ahead (the slower of the two counts), else in turn with it. Runs that may stop early are
counted with all their epochs, so the total is the most that they take. The total on N workers is that of a
list schedule, the longest run first. Not in it: preparing data, pretraining, and waiting for a queue.

Nothing is read or written here: runs, their states, sizes and timings come in, tables go out.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import pandas as pd

from ctlib.datasets import RECORD_BYTES, task
from ctlib.grid.gpus import Load
from ctlib.grid.maintenance import BEGUN, FAILED, FINISHED, MISSING
from ctlib.grid.step_timing import BYTES_A_PARAMETER, SETTINGS, Timing, kind
from ctlib.metrics import power
from ctlib.models import FROZEN, headed, spec, split
from ctlib.training import FRESH_FRACTION, Run, batches_an_epoch

HEAD_S = 1.0
"""To fit a head to features, s, of some hundred exams on one thread of a CPU."""
RUN_S, EPOCH_S = 0.5, 0.15
"""What a run and an epoch take beside their steps, s (tiny networks of the demo, CPU time)."""
WRITE_BYTES_A_S = 500e6
"""To write a checkpoint, bytes a second: an assumption, of a plain local disk."""
PREDICTION_BYTES, SMALL_BYTES = 40, 30_000
"""Of a clip in a run's `predictions`, and of all its other small files (the demo's runs)."""
CODEC_SHARES = {"none": 1.0, "blosc2": 64.4 / 131.1}
"""Size of stored volumes to that of their int16 voxels (`ctlib.datasets.store`, its table of formats)."""

STATES = (FINISHED, FAILED, BEGUN, MISSING)
# all that decides what a run takes; a hundred thousand runs have a few hundred of these
_cost_key = attrgetter("task", "init", "fraction", "epochs", "steps_per_epoch", "flaws", *SETTINGS)


def _features_key(run: Run) -> tuple[Any, ...]:
    """What runs that share features have in common; without seed and fold for weights of a file. () where finetuned."""
    head, bare = headed(run.init)
    own = (run.seed, run.fold) if split(bare)[0] or bare == "random" else ()
    return (task(run.task).cohort, run.backbone, bare, *own) if head else ()


@dataclass(frozen=True)
class CohortSize:
    """What a plan needs to know of a cohort.

    Args:
        name: of the cohort.
        patients: by split.
        positive: those with disease, by split.
        clips: by split.
        n_slices: of all series.
        assumed: what was assumed, a sentence; "" where the tables were counted.
    """

    name: str
    patients: Mapping[str, int]
    positive: Mapping[str, int]
    clips: Mapping[str, int]
    n_slices: int
    assumed: str = ""


@dataclass(frozen=True)
class Plan:
    """What a grid will take.

    Args:
        profile: its name.
        workers: how many runs compute at once.
        runs_a_gpu: how many of these share a GPU.
        runs: one row for each task, backbone, init, fraction and purpose (grid, search): how many `runs`,
            and of those how many are `finished`, `failed`, `begun` and `missing`.
        costs: one row for each task, backbone and fraction: batches (an epoch), epochs, seconds (a run), todo
            (runs to compute), their hours, peak_mb, is_measured, device.
        disk: what, n_bytes.
        power: `power.sheet`.
        design: what it assumes.
        work_s: of all runs that are to be computed, one after the other, s.
        wall_s: the same on the workers, s.
        notes: what was assumed and what to look at, sentences.
        gpus: of full-size networks, one row for each GPU of `ctlib.grid.roofline.GPUS`, network and batch_size: step_ms
            (a training step), hours (of all runs that are to be computed); not measured.
    """

    profile: str
    workers: int
    runs: pd.DataFrame
    costs: pd.DataFrame
    disk: pd.DataFrame
    power: pd.DataFrame
    design: power.Design
    work_s: float
    wall_s: float
    notes: tuple[str, ...] = ()
    runs_a_gpu: int = 1
    gpus: pd.DataFrame = field(default_factory=pd.DataFrame)

    def count(self, *states: str) -> int:
        """Runs in any of these states."""
        return int(self.runs[list(states)].to_numpy().sum())

    @property
    def n_todo(self) -> int:
        """Runs that the next grid computes; failed ones wait for a `retry`."""
        return self.count(BEGUN, MISSING)


@dataclass(frozen=True)
class Setting:
    """What a plan is made for, beside its runs.

    Args:
        profile: its name.
        sizes: of the cohorts, by name.
        timings: of a step, by `calibration.kind`.
        workers: how many runs compute at once.
        loader_workers: processes that read clips ahead, a run.
        runs_a_gpu: how many of the runs at once share a GPU.
        store_codec: of the stored volumes.
        memory_mb: of this machine, for runs that compute on its CPU.
        notes: sentences that the plan is to carry on.
        of_seeds: what runs of this profile say of the spread between seeds; None assumes one by size.
        on_gpus: `timings` as each GPU would have them, by its name (`ctlib.grid.step_timing.on_gpus`).
    """

    profile: str
    sizes: Mapping[str, CohortSize]
    timings: Mapping[tuple[Any, ...], Timing]
    workers: int = 1
    loader_workers: int = 0
    runs_a_gpu: int = 1
    store_codec: str = "none"
    memory_mb: float = math.inf
    notes: Sequence[str] = ()
    of_seeds: power.Seeds | None = None
    on_gpus: Mapping[str, Mapping[tuple[Any, ...], Timing]] = field(default_factory=dict)


def batches(run: Run, size: CohortSize) -> int:
    """Training batches of an epoch; patients of a fraction have as many clips as others, in the mean."""
    n_clips = size.clips["train"]
    return batches_an_epoch(run, n_clips if FRESH_FRACTION in run.flaws else round(run.fraction * n_clips))


def seconds(
    run: Run, size: CohortSize, timing: Timing, loader_workers: int = 0, computes_features: bool = True
) -> float:
    """The most that a run takes, s.

    Args:
        run: the run.
        size: of its cohort.
        timing: of its `kind`.
        loader_workers: processes that read clips ahead.
        computes_features: False where another run with a head computes the features of its frozen network.
    """

    def batch(step_s: float, cut_s: float) -> float:
        cutting = cut_s * run.batch_size
        return max(step_s, cutting / loader_workers) if loader_workers else step_s + cutting

    forward = batch(timing.predict_s, timing.cut_s)
    if headed(run.init)[0]:
        n_clips, parts = sum(size.clips.values()), HEAD_S
        return RUN_S + parts + (math.ceil(n_clips / run.batch_size) * forward if computes_features else 0.0)
    is_frozen = FROZEN in split(run.init)[0]  # nothing but the head learns: no backward pass through the rest
    train = forward if is_frozen else batch(timing.train_s, timing.cut_train_s)
    n_val, n_test = (math.ceil(size.clips[name] / run.batch_size) for name in ("val", "test"))
    writing = (BYTES_A_PARAMETER * timing.parameters) / WRITE_BYTES_A_S
    epoch = batches(run, size) * train + n_val * forward + writing + EPOCH_S
    return RUN_S + run.epochs * epoch + n_test * forward


def run_seconds(setting: Setting, runs: Sequence[Run]) -> list[float]:
    """The most that each of many runs takes, s.

    Args:
        setting: sizes of the cohorts, and timings.
        runs: of any number; each that costs the same is looked at once.

    Raises:
        KeyError: a run's cohort or kind is not in the setting.
    """
    known: dict[tuple[Any, ...], float] = {}
    computed: set[tuple[Any, ...]] = set()
    taken = []
    for run in runs:
        features = _features_key(run)
        first = not features or features not in computed
        computed.add(features)
        key = (first, *_cost_key(run))
        if key not in known:
            size = setting.sizes[task(run.task).cohort]
            known[key] = seconds(run, size, setting.timings[kind(run)], setting.loader_workers, first)
        taken.append(known[key])
    return taken


def loads(setting: Setting, runs: Sequence[Run]) -> list[Load]:
    """What runs ask of a GPU, one entry a kind.

    Args:
        setting: sizes of the cohorts, and timings.
        runs: of any number.
    """
    found: dict[tuple[Any, ...], Load] = {}
    for run, taken in zip(runs, run_seconds(setting, runs), strict=True):
        name, timing = (
            f"{run.backbone} ({run.size}) with batch_size {run.batch_size}",
            setting.timings[kind(run)],
        )
        share = _busy(run, timing, setting.loader_workers)
        before = found.get(kind(run), Load(name, timing.peak_mb, share, 0.0))
        found[kind(run)] = replace(before, seconds=before.seconds + taken)
    return list(found.values())


def _busy(run: Run, timing: Timing, loader_workers: int) -> float:
    """Share of a training batch in which the GPU computes: it waits for launches and for clips."""
    computing, cutting = timing.busy * timing.train_s, timing.cut_train_s * run.batch_size
    waited = max(timing.train_s, cutting / loader_workers) if loader_workers else timing.train_s + cutting
    return computing / waited if waited else 1.0


def schedule(durations: Sequence[float], workers: int) -> float:
    """When the last of N workers ends, if each takes the longest run that is left whenever it is free, s.

    >>> schedule([3.0, 3.0, 2.0, 2.0, 2.0], workers=2)
    7.0
    """
    busy = [0.0] * max(1, workers)
    for duration in sorted(durations, reverse=True):
        heapq.heapreplace(busy, busy[0] + duration)
    return max(busy)


def make(
    setting: Setting, runs: Sequence[Run], states: Sequence[str], search: Sequence[tuple[Run, str]] = ()
) -> Plan:
    """The plan of a grid.

    Args:
        setting: what it is made for.
        runs: of the grid.
        states: what became of each, of `housekeeping.states`.
        search: runs that only look for a learning rate, each with its state.

    Raises:
        ValueError: a run's cohort or kind is not in the setting.
    """
    all_runs = [*runs, *(run for run, _ in search)]
    all_states = [*states, *(state for _, state in search)]
    purposes = ["grid"] * len(runs) + ["search"] * len(search)
    taken = run_seconds(setting, all_runs)
    todo = [
        (run, s)
        for run, s, state in zip(all_runs, taken, all_states, strict=True)
        if state in (BEGUN, MISSING)
    ]
    shared = [s * _slower(setting, run) for run, s in todo]
    table = pd.DataFrame(
        {name: [getattr(run, name) for run in all_runs] for name in ("task", "backbone", "init", "fraction")}
        | {"purpose": purposes, "state": all_states, "seconds": taken}
    )
    costs = _costs(setting, all_runs, table)
    return Plan(
        *(setting.profile, setting.workers, _counts(table), costs, _disk(setting, all_runs, all_states)),
        _power(setting, runs),
        design_of(runs, setting.of_seeds),
        sum(s for _, s in todo),
        schedule(shared, setting.workers),
        tuple(_notes(setting, all_runs, costs)),
        setting.runs_a_gpu,
        _gpus(setting, [run for run, _ in todo]),
    )


def _slower(setting: Setting, run: Run) -> float:
    """How many times as long a run takes beside the others on its GPU: they wait for each other where it is full."""
    if setting.runs_a_gpu == 1:
        return 1.0
    return max(1.0, setting.runs_a_gpu * _busy(run, setting.timings[kind(run)], setting.loader_workers))


def _counts(table: pd.DataFrame) -> pd.DataFrame:
    """Plan.runs."""
    keys = ["task", "backbone", "init", "fraction", "purpose"]
    flags = table[keys].assign(runs=1, **{state: (table["state"] == state).astype(int) for state in STATES})
    return flags.groupby(keys, sort=False).sum().reset_index()


def _costs(setting: Setting, runs: Sequence[Run], table: pd.DataFrame) -> pd.DataFrame:
    """Plan.costs; of runs that differ within a row, the longest stands for it, and all count in the hours."""
    keys = ["task", "backbone", "fraction"]
    one = {(run.task, run.backbone, run.fraction): run for run in runs}
    todo = table["state"].isin([BEGUN, MISSING])
    rows = table.assign(todo=todo.astype(int), hours=table["seconds"] * todo / 3600)
    grouped = rows.groupby(keys, sort=False)
    costs = grouped.agg(
        seconds=("seconds", "max"), todo=("todo", "sum"), hours=("hours", "sum")
    ).reset_index()
    chosen = [one[key] for key in costs[keys].itertuples(index=False, name=None)]
    timings = [setting.timings[kind(run)] for run in chosen]
    taken = [batches(run, setting.sizes[task(run.task).cohort]) for run in chosen]
    costs.insert(3, "batches", taken)
    costs.insert(4, "epochs", [run.epochs for run in chosen])
    costs["peak_mb"] = [timing.peak_mb for timing in timings]
    costs["is_measured"] = [timing.is_measured for timing in timings]
    return costs.assign(device=[timing.device for timing in timings])


def _gpus(setting: Setting, todo: Sequence[Run]) -> pd.DataFrame:
    """Plan.gpus."""
    rows = []
    for name, timings in setting.on_gpus.items():
        taken = run_seconds(replace(setting, timings=timings), todo)
        rows += [
            (name, run.backbone, run.batch_size, 1e3 * timings[kind(run)].train_s, seconds / 3600)
            for run, seconds in zip(todo, taken, strict=True)
        ]
    table = pd.DataFrame(rows, columns=["gpu", "backbone", "batch_size", "step_ms", "hours"])
    return table.groupby(["gpu", "backbone", "batch_size", "step_ms"], sort=False, as_index=False).sum()


def _disk(setting: Setting, runs: Sequence[Run], states: Sequence[str]) -> pd.DataFrame:
    """Plan.disk."""
    rows = []
    for name, side in {task(run.task).cohort: run.matrix_px for run in runs}.items():
        voxels = 2 * side**2 * CODEC_SHARES[setting.store_codec]
        rows.append((f"stored volumes, {name}", setting.sizes[name].n_slices * (voxels + RECORD_BYTES)))
    parameters = [setting.timings[kind(run)].parameters for run in runs]
    clips = {name: size.clips["val"] + size.clips["test"] for name, size in setting.sizes.items()}
    at_work = sorted(parameters, reverse=True)[: setting.workers] if {BEGUN, MISSING} & set(states) else []
    tables = sum(SMALL_BYTES + PREDICTION_BYTES * clips[task(run.task).cohort] for run in runs)
    rows += [
        ("weights of the runs", 4 * sum(parameters)),
        # weights and two moments, twice: a new one is written before the old one goes
        ("checkpoints while they compute", 2 * 12 * sum(at_work)),
        ("predictions and other tables", tables),
    ]
    return pd.DataFrame(rows, columns=["what", "n_bytes"]).astype({"n_bytes": "int64"})


def _power(setting: Setting, runs: Sequence[Run]) -> pd.DataFrame:
    """Plan.power: tasks with one class in the test split have no row."""
    scored = {}
    for name in dict.fromkeys(run.task for run in runs):
        folds = len({run.fold for run in runs if run.task == name})
        if found := scored_of(setting.sizes[task(name).cohort], folds):
            scored[name] = found
    return power.sheet(scored, design_of(runs, setting.of_seeds)) if scored else pd.DataFrame()


def scored_of(size: CohortSize, folds: int) -> power.Scored | None:
    """The test patients of some folds, whose AUROCs are averaged; None where a class has no patient.

    >>> scored_of(CohortSize("rspect", {"test": 150}, {"test": 45}, {}, 0), 2)
    Scored(n_positive=90, n_negative=210, folds=2)
    """
    n_positive = folds * size.positive["test"]
    n_negative = folds * size.patients["test"] - n_positive
    return power.Scored(n_positive, n_negative, folds) if min(n_positive, n_negative) > 0 else None


def design_of(runs: Sequence[Run], of_seeds: power.Seeds | None = None) -> power.Design:
    """3D networks (where there are any) and seeds of a grid, and what is assumed; of several sizes the widest spread.

    An effect is averaged over 3D networks: 2D ones are what these are compared with.
    """
    assumed = max((power.ASSUMED[size] for size in {run.size for run in runs}), key=attrgetter("sd"))
    backbones, seeds = {run.backbone for run in runs}, len({run.seed for run in runs})
    networks = sum(spec(name).dims == 3 for name in backbones) or len(backbones)
    return power.Design(networks, seeds, of_seeds=of_seeds or assumed)


def _notes(setting: Setting, runs: Sequence[Run], costs: pd.DataFrame) -> list[str]:
    """Plan.notes."""
    assumed = [f"Assumed of {size.assumed}." for size in setting.sizes.values() if size.assumed]
    notes = [*setting.notes, *assumed]
    unmeasured = costs[~costs["is_measured"]]
    if len(unmeasured):
        names = ", ".join(unmeasured["backbone"].unique())
        notes.append(
            f"Time and memory of {names} were not measured: their steps are too large for this device, or it "
            f"was not asked for. They are those of a {unmeasured['device'].iloc[0]}."
        )
    here = costs["is_measured"] & costs["device"].str.startswith("CPU")
    peak_mb = costs["peak_mb"].where(here, 0.0).max()
    if setting.workers * peak_mb > setting.memory_mb:
        notes.append(
            f"{setting.workers} workers may need {setting.workers * peak_mb / 1e3:.1f} GB of memory, this "
            f"machine has {setting.memory_mb / 1e3:.1f} GB: take {max(1, int(setting.memory_mb / peak_mb))}."
        )
    if any(run.patience for run in runs):
        notes.append("Runs may stop early; they are counted with all their epochs.")
    return notes


def against(made: Plan, runs: pd.DataFrame) -> pd.DataFrame:
    """What finished runs took, beside what was estimated.

    Args:
        made: the plan.
        runs: table `runs`.

    Returns:
        task, backbone, fraction, estimated_s, runs, seconds (median), and `share`, the second by the first:
        below 1 where runs stopped early, above it where they waited for the machine.
    """
    keys = ["task", "backbone", "fraction"]
    finished = runs[runs["status"] == FINISHED].groupby(keys, sort=False)["seconds"]
    taken = finished.agg(runs="size", seconds="median").reset_index()
    estimated = made.costs.rename(columns={"seconds": "estimated_s"})[[*keys, "estimated_s"]]
    table = estimated.merge(taken, on=keys)
    return table.assign(share=table["seconds"] / table["estimated_s"])
