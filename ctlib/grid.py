"""The runs of an experiment: expand, execute, resume. What one run is: `ctlib.finetuning`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from ctlib import housekeeping, tables
from ctlib.backbones import code_of
from ctlib.cohorts import task
from ctlib.controls import split
from ctlib.finetuning import execute
from ctlib.inits import find, origin
from ctlib.rates import Arm, chosen, fixed, of_table
from ctlib.records import NO_COHORT
from ctlib.results import ERROR, collect
from ctlib.runs import Run, fingerprint, labelled_clips
from ctlib.scores import study_auroc
from ctlib.workspace import Workspace, write_text

if TYPE_CHECKING:
    from ctlib.engine import Engine, Outcome


def expand(
    workspace: Workspace,
    tasks: Sequence[str],
    backbones: Sequence[str],
    inits: Sequence[str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    lr: float | Mapping[Arm, float],
    **settings: Any,
) -> list[Run]:
    """All runs of an experiment, in an order in which the first ones cover all arms.

    Args:
        workspace: where data and weights lie.
        tasks: keys of `ctlib.cohorts.TASKS`.
        backbones: keys of networks.
        inits: where weights begin.
        fractions: shares of the training patients.
        seeds: seeds.
        lr: learning rate of all, or of each task, network and init.
        settings: the other fields of `Run`, but for `data`, `weights` and `code`, which are looked up.

    Raises:
        MissingInput: data or weights were not made yet.
        FitError: all validation studies of a task have one label.
        ValueError: an unknown name, a setting out of range, or an init that has seen a task's labels.
        TypeError: a setting is missing or unknown.
    """
    for name in tasks:
        for init in inits:
            _refuse_leak(task(name).cohort, init)
    data = {name: fingerprint(workspace, task(name).cohort) for name in tasks}
    for name in tasks:  # here, not only in each run, so that nothing starts in vain
        rows = labelled_clips(workspace, task(name).cohort, settings.get("study_label", "exam"))
        study_auroc(rows[rows["split"] == "val"])
    weights = {
        (init, backbone): find(init, backbone, workspace, NO_COHORT).checksum
        for init in inits
        for backbone in backbones
    }
    runs = [
        Run(
            task=name,
            backbone=backbone,
            init=init,
            fraction=fraction,
            seed=seed,
            lr=lr if isinstance(lr, float) else lr[name, backbone, init],
            data=data[name],
            weights=weights[init, backbone],
            code=code_of(backbone),
            **settings,
        )
        for seed in seeds
        for fraction in fractions
        for name in tasks
        for backbone in backbones
        for init in inits
    ]
    return list(dict.fromkeys(runs))


def search(
    workspace: Workspace,
    tasks: Sequence[str],
    backbones: Sequence[str],
    inits: Sequence[str],
    rates: Sequence[float],
    fraction: float,
    seed: int,
    engine: Engine,
    echo: Callable[[str], Any] = print,
    loader_workers: int = 0,
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
        engine: where they execute.
        echo: takes one line a run that ends.
        loader_workers: see `execute`.
        settings: see `expand`.

    Returns:
        Table `search`; `ctlib.rates.of_table` gives `lr` for `expand`.

    Raises:
        ValueError: no rate of an arm gave a validation AUROC; and see `expand`.
    """
    runs = [
        run
        for lr in rates
        for run in expand(workspace, tasks, backbones, inits, [fraction], [seed], float(lr), **settings)
    ]
    run_grid(workspace, runs, engine, echo, loader_workers)
    table = chosen(runs, collect(workspace, runs)["runs"])
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

    Raises:
        ValueError: see `ctlib.rates.fixed` and `search`.
    """
    known = fixed(lr, list(itertools.product(tasks, backbones, inits)))
    if known is not None:
        return known
    return of_table(search(workspace, tasks, backbones, inits, *search_with, **settings))


def _refuse_leak(cohort: str, init: str) -> None:
    """Refuse an init that was learnt from the labels of the cohort it would be finetuned on.

    Its pretraining saw the labels of all training patients, so a fraction of them would be none. Without
    labels (`_ssl`) it may be: a fraction is a share of the patients whose labels are used.

    Raises:
        ValueError: it was.
    """
    _, base = split(init)
    made = origin(base)
    while made is not None:
        if made.source == f"ct_{cohort}" and not made.self_supervised:
            raise ValueError(
                f"init {init} was learnt from cohort {cohort}, on which it would be finetuned: every "
                "fraction would have seen all labels; take another cohort's, or another task."
            )
        made = origin(made.start)


def run_grid(
    workspace: Workspace,
    runs: Sequence[Run],
    engine: Engine,
    echo: Callable[[str], Any] = print,
    loader_workers: int = 0,
) -> None:
    """Compute the runs that are neither finished nor failed; one that fails stops no other.

    Args:
        workspace: where everything lies.
        runs: from `expand`.
        engine: where they execute.
        echo: takes one line a run that ends.
        loader_workers: see `execute`.
    """
    found = housekeeping.states(workspace.runs, [run.run_id for run in runs])
    left = (housekeeping.FINISHED, housekeeping.FAILED)
    todo = [run for run, state in zip(runs, found, strict=True) if state not in left]
    n_finished, n_failed = found.count(housekeeping.FINISHED), found.count(housekeeping.FAILED)
    echo(f"{n_finished} of {len(runs)} runs were finished before; {len(todo)} to compute.")
    if n_failed:
        echo(
            f"{n_failed} failed before and would again; `python -m ctlib retry {workspace.root.name}` lets "
            "them be computed."
        )

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

    work = partial(execute, str(workspace.root), loader_workers=loader_workers)
    engine.run(work, todo, what="finetuning runs", note=line, on_done=on_done)
