"""The runs of an experiment: expand, execute, resume. What one run is: `ctlib.finetuning`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from ctlib import housekeeping, tables
from ctlib.arms import Arm, arms, cells, exceptions_of, own_settings, single, skipped, turns
from ctlib.backbones import code_of
from ctlib.cohorts import task
from ctlib.finetuning import execute
from ctlib.inits import find
from ctlib.loggers import CSV, require
from ctlib.rates import chosen, fixed, of_table, tried
from ctlib.records import NO_COHORT
from ctlib.results import ERROR, collect
from ctlib.runs import Run, fingerprint, labelled_clips
from ctlib.scores import study_auroc
from ctlib.workspace import Workspace, write_text

if TYPE_CHECKING:
    from ctlib.engine import Engine, Outcome

STORED = {"matrix_px", "clip_length"}
"""Settings that `01_explore_data` has fixed for all runs."""


def expand(
    workspace: Workspace,
    tasks: Sequence[str],
    backbones: Sequence[str],
    inits: Sequence[str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    lr: float | Mapping[Arm, float],
    folds: Sequence[int] = (),
    exceptions: Sequence[str] = (),
    **settings: Any,
) -> list[Run]:
    """All runs of an experiment, in an order in which the first ones cover all arms.

    Combinations that cannot be are left out: `left_out` says which.

    Args:
        workspace: where data and weights lie.
        tasks: keys of `ctlib.cohorts.TASKS`.
        backbones: keys of networks.
        inits: where weights begin.
        fractions: shares of the training patients.
        seeds: seeds.
        lr: learning rate of all, or of each task, network and init; arms without one are left out, as while
            a search goes on.
        folds: turns of the cross-validation, for cohorts that have folds; none is the single split.
        exceptions: settings of some networks alone, see `ctlib.arms.exceptions_of`.
        settings: the other fields of `Run`, but for `data`, `weights` and `code`, which are looked up.

    Raises:
        MissingInput: data or weights were not made yet.
        FitError: all validation studies of a task have one label.
        ValueError: an unknown name, a setting out of range, a fold that is none, or an init that has seen
            the labels of every task.
        TypeError: a setting is missing or unknown.
    """
    turns_of = turns(tasks, folds, has_folds(workspace))
    label = settings.get("study_label", "exam")
    asked = arms(tasks, backbones, inits)
    data = {}
    for name, turn in [(key, turn) for key in tasks for turn in turns_of[key]]:
        cohort = task(name).cohort
        data[name, turn] = fingerprint(workspace, cohort, fold=turn)
        rows = labelled_clips(workspace, cohort, label, turn)
        study_auroc(rows[rows["split"] == "val"])  # here, so that nothing starts in vain
    pairs = dict.fromkeys((init, backbone) for _, backbone, init in asked)
    weights = {pair: find(*pair, workspace, NO_COHORT).checksum for pair in pairs}
    return _made(asked, cells(asked, turns_of, fractions, seeds), lr, data, weights, exceptions, settings)


def outline(
    tasks: Sequence[str],
    backbones: Sequence[str],
    inits: Sequence[str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    lr: float | Mapping[Arm, float],
    turns_of: Mapping[str, Sequence[int]],
    exceptions: Sequence[str] = (),
    **settings: Any,
) -> list[Run]:
    """The runs of `expand` before there are data and weights: all that they cost, and no ids to go by.

    Args:
        tasks: see `expand`.
        backbones: see `expand`.
        inits: see `expand`.
        fractions: see `expand`.
        seeds: see `expand`.
        lr: see `expand`.
        turns_of: turns of the cross-validation of each task.
        exceptions: see `expand`.
        settings: see `expand`.

    Raises:
        ValueError: see `expand`.
    """
    asked = arms(tasks, backbones, inits)
    nothing: defaultdict[Any, str] = defaultdict(str)
    of = cells(asked, turns_of, fractions, seeds)
    return _made(asked, of, lr, nothing, nothing, exceptions, settings)


def _made(
    asked: Sequence[Arm],
    of: Iterable[tuple[Arm, int, float, int]],
    lr: float | Mapping[Arm, float],
    data: Mapping[tuple[str, int], str],
    weights: Mapping[tuple[str, str], str],
    exceptions: Sequence[str],
    settings: Mapping[str, Any],
) -> list[Run]:
    """Runs of what `cells` gives; twice is once."""
    tasks, backbones = ([*dict.fromkeys(arm[axis] for arm in asked)] for axis in (0, 1))
    alone = exceptions_of(exceptions, tasks, backbones, settings.keys() - STORED)
    own = {arm: {**settings, **own_settings(alone, arm)} for arm in asked}
    code = {backbone: code_of(backbone) for backbone in backbones}
    runs = [
        Run(
            *arm,
            fraction=fraction,
            seed=seed,
            lr=lr if isinstance(lr, float) else lr[arm],
            data=data[arm[0], turn],
            weights=weights[arm[2], arm[1]],
            code=code[arm[1]],
            fold=turn,
            **own[arm],
        )
        for arm, turn, fraction, seed in of
        if isinstance(lr, float) or arm in lr
    ]
    return list(dict.fromkeys(runs))


def has_folds(workspace: Workspace) -> Callable[[str], bool]:
    """Whether a cohort, by its name, has folds."""
    return lambda cohort: workspace.table("folds", cohort).is_file()


def left_out(
    workspace: Workspace,
    tasks: Sequence[str],
    backbones: Sequence[str],
    inits: Sequence[str],
    folds: Sequence[int] = (),
) -> list[str]:
    """What `expand` leaves out of a grid, and why: sentences."""
    return [*skipped(tasks, backbones, inits), *single(tasks, folds, has_folds(workspace))]


def search(
    workspace: Workspace,
    tasks: Sequence[str],
    backbones: Sequence[str],
    inits: Sequence[str],
    rates: Sequence[float],
    fraction: float,
    seed: int,
    engine: Engine | None,
    echo: Callable[[str], Any] = print,
    loader_workers: int = 0,
    logger: str = CSV,
    **settings: Any,
) -> pd.DataFrame:
    """Try learning rates for each task, network and init, and write table `search`.

    Args:
        workspace: where data and weights lie.
        tasks: see `expand`.
        backbones: see `expand`.
        inits: see `expand`.
        rates: learning rates that are tried, the same for all.
        fraction: share of the training patients.
        seed: the one seed of these runs.
        engine: where they execute; None computes nothing, and looks at what is there.
        echo: takes one line a run that ends.
        loader_workers: see `execute`.
        logger: see `execute`.
        settings: see `expand`.

    Returns:
        Table `search`; `ctlib.rates.of_table` gives `lr` for `expand`. Of what is not computed, the arms
        whose rates were all tried.

    Raises:
        ValueError: no rate of an arm gave a validation AUROC; and see `expand`.
    """
    runs = [
        run
        for lr in rates
        for run in expand(workspace, tasks, backbones, inits, [fraction], [seed], float(lr), **settings)
    ]
    run_grid(workspace, runs, engine, echo, loader_workers, logger)
    results = collect(workspace, runs)["runs"]
    if engine is None:
        runs, results = tried(runs, results)
    table = chosen(runs, results)
    tables.write(table, "search", workspace.table("search"))
    return table


def learning_rates(
    workspace: Workspace,
    tasks: Sequence[str],
    backbones: Sequence[str],
    inits: Sequence[str],
    lr: str,
    *search_with: Any,
    **settings: Any,
) -> Mapping[Arm, float]:
    """The learning rate of each task, network and init.

    Args:
        workspace: where data and weights lie.
        tasks: see `expand`.
        backbones: see `expand`.
        inits: see `expand`.
        lr: a number, `published`, or `search`.
        search_with: rates, fraction, seed and engine of `search`.
        settings: see `search`.

    Returns:
        Of a search that is not finished and not computed here, of the arms that have theirs.

    Raises:
        ValueError: see `ctlib.rates.fixed` and `search`.
    """
    known = fixed(lr, arms(tasks, backbones, inits))
    if known is not None:
        return known
    return of_table(search(workspace, tasks, backbones, inits, *search_with, **settings))


def run_grid(
    workspace: Workspace,
    runs: Sequence[Run],
    engine: Engine | None,
    echo: Callable[[str], Any] = print,
    loader_workers: int = 0,
    logger: str = CSV,
) -> None:
    """Compute the runs that are neither finished nor failed; one that fails stops no other.

    Args:
        workspace: where everything lies.
        runs: from `expand`.
        engine: where they execute; None computes nothing, and tells what is there.
        echo: takes one line a run that ends.
        loader_workers: see `execute`.
        logger: see `execute`.

    Raises:
        ValueError: the logger is unknown, or its package is missing.
    """
    require(logger)
    found = housekeeping.states(workspace.runs, [run.run_id for run in runs])
    left = (housekeeping.FINISHED, housekeeping.FAILED)
    todo = [run for run, state in zip(runs, found, strict=True) if state not in left]
    n_finished, n_failed = found.count(housekeeping.FINISHED), found.count(housekeeping.FAILED)
    if engine is None:
        n_begun = found.count(housekeeping.BEGUN)
        echo(
            f"{n_finished} of {len(runs)} runs are finished, {n_failed} failed, {n_begun} are begun, "
            f"{len(todo) - n_begun} are missing; nothing is computed here."
        )
        return
    echo(f"{n_finished} of {len(runs)} runs were finished before; {len(todo)} to compute.")
    if n_failed:
        echo(
            f"{n_failed} failed before and would again; `python -m ctlib retry {workspace.root.name}` lets "
            "them be computed."
        )
    if todo and engine.dashboard:
        echo(f"Dask's dashboard: {engine.client().dashboard_link}")

    def line(outcome: Outcome) -> str:
        run = todo[outcome.index]
        if outcome.error is not None:
            return f"{run}: failed: {outcome.reason}"
        result = outcome.value
        return (
            f"{run}: validation AUROC {result['val_auroc']:.3f} at epoch {result['best_epoch']} of "
            f"{result['epochs']}, {result['seconds']:.1f} s"
        )

    def on_done(outcome: Outcome) -> None:
        if outcome.error is not None:  # a worker that died could not write it
            write_text(workspace.runs / todo[outcome.index].run_id / ERROR, outcome.error)
        echo(line(outcome))

    work = partial(execute, str(workspace.root), loader_workers=loader_workers, logger=logger)
    engine.run(work, todo, what="finetuning runs", note=line, on_done=on_done)
