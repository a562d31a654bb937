"""All pretrainings of a profile, one a network and init, wherever they execute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from ctlib.core import Workspace, tables
from ctlib.grid.engine import Engine, Outcome
from ctlib.training import Job, Plan, VideoSource, job, known, made_here, pretrain


def pretrain_all(
    workspace: Workspace,
    inits: Sequence[str],
    backbones: Sequence[str],
    plan: Plan,
    engine: Engine,
    echo: Callable[[str], Any] = print,
    loader_workers: int = 0,
) -> pd.DataFrame:
    """Pretrain networks and write table `pretraining`; a network that fails stops no other.

    Args:
        workspace: where everything lies.
        inits: names of the inits that are made; one may begin from another.
        backbones: keys of networks.
        plan: how, and from what.
        engine: where they execute.
        echo: takes one line a network.
        loader_workers: see `pretrain`.

    Returns:
        Table `pretraining`.

    Raises:
        RuntimeError: a network failed; the message has its traceback. The others are finished.
        ValueError: an init is not made here, or begins from one that comes after it; or an exception is of
            no network.
    """
    plan.require(backbones)
    data = {}
    for name in inits:
        made = made_here(name)
        if isinstance(source := plan.source_of(made), VideoSource):
            source.index(
                workspace, plan.settings.crop_px, engine.map
            )  # frames are decoded once, by all workers
        data[name] = plan.fingerprint(workspace, made)
    records: dict[tuple[str, str], dict[str, Any]] = {}
    work = partial(pretrain, str(workspace.root), plan=plan, loader_workers=loader_workers)
    for wave in waves(inits):
        jobs = [job(workspace, name, key, plan, data[name]) for name in wave for key in backbones]
        todo = [each for each in jobs if known(workspace, each) is None]
        echo(f"{', '.join(wave)}: {len(jobs) - len(todo)} of {len(jobs)} networks were pretrained before.")

        def line(outcome: Outcome, todo: list[Job] = todo) -> str:
            return _told(todo[outcome.index], outcome)

        outcomes = engine.run(work, todo, "networks to pretrain", line, lambda outcome: echo(line(outcome)))
        if failed := [outcome for outcome in outcomes if outcome.error is not None]:
            raise RuntimeError(f"{len(failed)} of {len(jobs)} networks failed; the first:\n{failed[0].error}")
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
