"""The arms of a grid: which tasks, networks and inits go together, in which turns of a cross-validation.

A grid of several tasks and networks has combinations that cannot be, or would mean nothing. They are left
out, and `skipped` says so in a line each: an init that was learnt from the labels of the task's own cohort,
whose every fraction would have seen all labels (without labels, `_ssl`, it may be: a fraction is a share of
the patients whose labels are used); and published weights that there are none of for a network. What is left
out of a list altogether is refused instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from ctlib.datasets import task
from ctlib.models import InitError, absent, origin, split

Arm = tuple[str, str, str]
"""Task, backbone and init."""


def arms(tasks: Sequence[str], backbones: Sequence[str], inits: Sequence[str]) -> list[Arm]:
    """The combinations that there are, in the order of the lists.

    Args:
        tasks: keys of `ctlib.datasets.cohort.TASKS`.
        backbones: keys of networks.
        inits: where weights begin.

    Raises:
        ValueError: one of the tasks, networks or inits goes with none of the others.
        InitError: a ValueError: so it is, for want of published weights.

    >>> arms(["lidc_nodule", "rspect_pe"], ["slow_r50"], ["random", "ct_lidc"])[-1]
    ('rspect_pe', 'slow_r50', 'ct_lidc')
    >>> len(arms(["lidc_nodule", "rspect_pe"], ["slow_r50"], ["random", "ct_lidc"]))
    3
    """
    asked = list(itertools.product(tasks, backbones, inits))
    kept = [arm for arm in asked if not (_leak(task(arm[0]).cohort, arm[2]) or _lack(*arm[1:]))]
    for axis, wanted in enumerate((tasks, backbones, inits)):
        for value in wanted:
            if asked and not any(arm[axis] == value for arm in kept):
                name, backbone, init = next(arm for arm in asked if arm[axis] == value)
                if why := _leak(task(name).cohort, init):
                    raise ValueError(f"{why}; take another cohort's, or another task.")
                raise InitError(_lack(backbone, init))
    return kept


def skipped(tasks: Sequence[str], backbones: Sequence[str], inits: Sequence[str]) -> list[str]:
    """What `arms` leaves out, and why: a sentence an init."""
    lines = []
    for init in inits:
        leaks = [name for name in tasks if _leak(task(name).cohort, init)]
        lacks = [backbone for backbone in backbones if _lack(backbone, init)]
        if leaks:
            lines.append(f"Init {init} is left out for {', '.join(leaks)}: it was learnt from its labels.")
        if lacks:
            lines.append(f"Init {init} is left out for {', '.join(lacks)}: there are no such weights.")
    return lines


def turns(
    tasks: Sequence[str], folds: Sequence[int], has_folds: Callable[[str], bool]
) -> dict[str, list[int]]:
    """The turns of the cross-validation of each task; 0 alone where its cohort has a single split.

    Args:
        tasks: tasks.
        folds: turns that are asked for; none is the single split.
        has_folds: whether a cohort has folds.
    """
    return {name: list(folds) if folds and has_folds(task(name).cohort) else [0] for name in tasks}


def single(tasks: Sequence[str], folds: Sequence[int], has_folds: Callable[[str], bool]) -> list[str]:
    """Which tasks have a single split though folds are asked for: a sentence each."""
    return [
        f"{name} has no folds (the splits_file of 01_explore_data gives none): its single split is taken."
        for name in tasks
        if set(folds) - {0} and not has_folds(task(name).cohort)
    ]


def cells(
    of: Sequence[Arm], turns_of: Mapping[str, Sequence[int]], fractions: Sequence[float], seeds: Sequence[int]
) -> Iterator[tuple[Arm, int, float, int]]:
    """Arm, turn, fraction and seed of each run, in an order in which the first ones cover all arms."""
    every = dict.fromkeys(itertools.chain(*turns_of.values()))
    for seed, turn, fraction, arm in itertools.product(seeds, every, fractions, of):
        if turn in turns_of[arm[0]]:
            yield arm, turn, fraction, seed


def _leak(cohort: str, init: str) -> str:
    """How an init has seen the labels of a cohort; "" where it has not."""
    _, base = split(init)
    made = origin(base)
    while made is not None:
        if made.source == f"ct_{cohort}" and not made.self_supervised:
            return (
                f"init {init} was learnt from cohort {cohort}, on which it would be finetuned: every "
                "fraction would have seen all labels"
            )
        made = origin(made.start)
    return ""


def _lack(backbone: str, init: str) -> str:
    """Why published weights, or those that it was pretrained from, are not there for a network; "" else."""
    _, base = split(init)
    while made := origin(base):
        base = made.start
    return absent(base, backbone)
