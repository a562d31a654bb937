"""The runs of an experiment, and the pretrainings of a profile: executed, resumed.

Which runs there are says `ctlib.grid.expand`, what one of them is `ctlib.training.finetune`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from ctlib.core import Workspace, command, tables, write_text
from ctlib.grid import maintenance
from ctlib.grid.estimate_profile import share_gpus
from ctlib.grid.expand import (
    Arm,
    arms,
    at_all_fractions,
    controlled,
    expand,
    left_out,
    outline,
    settings_of,
)
from ctlib.grid.lr_search import accuracies_of, chosen, fixed, of_table, require_lr_by, tried
from ctlib.grid.step_timing import clip_shape
from ctlib.models import headed, lacking
from ctlib.training import (
    CSV,
    ERROR,
    FINETUNED,
    FROZEN_MODE,
    MODES,
    Job,
    Plan,
    Run,
    VideoSource,
    collect,
    execute,
    job,
    known,
    made_here,
    pretrain,
    require,
    require_devices,
    require_shared_memory,
)

if TYPE_CHECKING:
    from ctlib.grid.engine import Engine, Outcome

__all__ = [
    "controlled",
    "expand",
    "frozen_first",
    "learning_rates",
    "left_out",
    "outline",
    "pretrain_all",
    "run_grid",
    "search",
    "settings_of",
]


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
    by: str = "auroc",
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
        by: what chooses the rate, one of `ctlib.grid.lr_search.CHOSEN_BY`.
        settings: see `expand`.

    Returns:
        Table `search`; `ctlib.grid.lr_search.of_table` gives `lr` for `expand`. Of what is not computed, the arms
        whose rates were all tried.

    Raises:
        ValueError: no rate of an arm gave a validation AUROC; and see `expand`.
    """
    require_lr_by(by)
    settings["leave_out"] = at_all_fractions(settings.get("leave_out", []))
    settings |= {"modes": [FINETUNED], "finetune_best": 0}  # heads on features have no rate
    runs = [
        run
        for lr in rates
        for run in expand(workspace, tasks, backbones, inits, [fraction], [seed], float(lr), **settings)
    ]
    run_grid(workspace, runs, engine, echo, loader_workers, logger)
    found = collect(workspace, runs)
    results = found["runs"]
    if engine is None:
        runs, results = tried(runs, results)
    table = chosen(runs, results, accuracies_of(found["predictions"]), by)
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
        ValueError: see `ctlib.grid.lr_search.fixed` and `search`.
    """
    known = fixed(lr, arms(tasks, backbones, inits))
    if known is not None:
        return known
    if FINETUNED not in settings.get("modes", [FINETUNED]):
        return {}
    return of_table(search(workspace, tasks, backbones, inits, *search_with, **settings))


def frozen_first(
    workspace: Workspace,
    tasks: Sequence[str],
    backbones: Sequence[str],
    inits: Sequence[str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    folds: Sequence[int],
    engine: Engine | None,
    loader_workers: int = 0,
    logger: str = CSV,
    **settings: Any,
) -> list[str]:
    """Compute the frozen runs that say which networks are finetuned, where parameter `finetune_best` asks for that.

    Args:
        workspace: where data and weights lie.
        tasks: see `expand`.
        backbones: see `expand`.
        inits: see `expand`.
        fractions: see `expand`.
        seeds: see `expand`.
        folds: see `expand`.
        engine: where they execute; None computes nothing.
        loader_workers: see `execute`.
        logger: see `execute`.
        settings: see `expand`.

    Returns:
        A sentence a task: which are finetuned, or that a frozen run is missing; none where all are.

    Raises:
        ValueError: see `expand`.
    """
    if not settings.get("finetune_best") or {*settings["modes"]} != {*MODES}:
        return []
    axes = (workspace, tasks, backbones, inits, fractions, seeds, 1.0, folds)
    run_grid(
        workspace,
        expand(*axes, **{**settings, "modes": [FROZEN_MODE]}),
        engine,
        print,
        loader_workers,
        logger,
    )
    chosen = [run for run in expand(*axes, **settings) if not headed(run.init)[0]]
    names = dict.fromkeys((run.task, f"{run.backbone} from {run.init}") for run in chosen)
    return [
        f"{name}: finetuned are {', '.join(arm for of, arm in names if of == name)}, by validation of frozen runs."
        if any(of == name for of, _ in names)
        else f"{name}: what is finetuned is chosen when all frozen runs have a result."
        for name in tasks
    ]


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
        ValueError: the logger is unknown, or its package is missing; a GPU cannot be used, or a run does not fit on it.
    """
    require(logger)
    found = maintenance.states(workspace.runs, [run.run_id for run in runs])
    left = (maintenance.FINISHED, maintenance.FAILED)
    todo = [run for run, state in zip(runs, found, strict=True) if state not in left]
    n_finished, n_failed = found.count(maintenance.FINISHED), found.count(maintenance.FAILED)
    if engine is None:
        n_begun = found.count(maintenance.BEGUN)
        echo(
            f"{n_finished} of {len(runs)} runs are finished, {n_failed} failed, {n_begun} are begun, "
            f"{len(todo) - n_begun} are missing; nothing is computed here."
        )
        return
    echo(f"{n_finished} of {len(runs)} runs were finished before; {len(todo)} to compute.")
    if n_failed:
        echo(
            f"{n_failed} failed before and would again; `{command('retry', workspace.root.name)}` lets "
            "them be computed."
        )
    if told := share_gpus(workspace, todo, engine, loader_workers):  # before workers start
        echo(told)
    if todo and engine.here:
        batch_mb = max(4e-6 * run.batch_size * math.prod(clip_shape(run)) for run in todo)
        require_shared_memory(batch_mb, loader_workers, max(1, engine.workers))
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


# ---- pretraining -------------------------------------------------------------------------


def pretrain_all(
    workspace: Workspace,
    inits: Sequence[str],
    backbones: Sequence[str],
    plan: Plan,
    engine: Engine,
    echo: Callable[[str], Any] = print,
    loader_workers: int = 0,
    devices: int = 1,
) -> pd.DataFrame:
    """Pretrain networks and write table `pretraining`; a network that fails stops no other.

    Args:
        workspace: where everything lies.
        inits: names of the inits that are made; one may begin from another.
        backbones: keys of networks; one that an init has no start for (`ctlib.models.lacking`) is left out of it.
        plan: how, and from what.
        engine: where they execute.
        echo: takes one line a network.
        loader_workers: see `pretrain`.
        devices: see `pretrain`.

    Returns:
        Table `pretraining`.

    Raises:
        RuntimeError: a network failed; the message has its traceback. The others are finished.
        ValueError: an init is not made here, or begins from one that comes after it; or an exception is of
            no network; or a batch cannot be divided over the devices.
    """
    plan.require(backbones)
    require_devices(devices, plan.settings.batch_size)
    data = {}
    for name in inits:
        made = made_here(name)
        if isinstance(source := plan.source_of(made), VideoSource):
            source.index(
                workspace, plan.settings.crop_px, engine.map
            )  # frames are decoded once, by all workers
        data[name] = plan.fingerprint(workspace, made)
    records: dict[tuple[str, str], dict[str, Any]] = {}
    work = partial(pretrain, str(workspace.root), plan=plan, loader_workers=loader_workers, devices=devices)
    for wave in waves(inits):
        jobs = [
            job(workspace, name, key, plan, data[name])
            for name in wave
            for key in backbones
            if not lacking(name, key)
        ]
        todo = [each for each in jobs if known(workspace, each) is None]
        echo(f"{', '.join(wave)}: {len(jobs) - len(todo)} of {len(jobs)} networks were pretrained before.")

        def line(outcome: Outcome, todo: list[Job] = todo) -> str:
            return _told(todo[outcome.index], outcome)

        outcomes = engine.run(work, todo, "networks to pretrain", line, lambda outcome: echo(line(outcome)))
        if failed := [outcome for outcome in outcomes if outcome.error is not None]:
            first = line(failed[0])
            raise RuntimeError(f"{len(failed)} of {len(jobs)} networks failed; {first}\n{failed[0].error}")
        records |= {(each.init, each.backbone): known(workspace, each) or {} for each in jobs}
    rows = [
        {"init": name, "backbone": key, "metric": record["metric"], "chance": record["chance"], **row}
        for (name, key), record in records.items()
        for row in record["curves"]
    ]
    table = tables.check(pd.DataFrame(rows), "pretraining")
    tables.write(table, "pretraining", workspace.table("pretraining"))
    return table


def waves(inits: Sequence[str]) -> list[list[str]]:
    """The inits in an order in which each comes after the one that it begins from.

    >>> waves(["video+ct_lidc", "video", "ct_lidc"])
    [['video', 'ct_lidc'], ['video+ct_lidc']]
    """
    left, ordered = list(dict.fromkeys(inits)), []
    while left:
        ready = [name for name in left if made_here(name).start not in left]
        ordered.append(ready)
        left = [name for name in left if name not in ready]
    return ordered


def _told(todo: Job, outcome: Outcome) -> str:
    """One line on a network that was pretrained, or was not."""
    if outcome.error is not None:
        return f"{todo.init} {todo.backbone}: failed: {outcome.reason}"
    record = outcome.value
    how = f"{record['metric']} {record['heldout_metric']:.3f} (chance {record['chance']:.2f})"
    when = f"at epoch {record['best_epoch']}, {record['seconds']:.0f} s"
    return f"{todo.init} {todo.backbone}: {how} on held-out clips {when}"
