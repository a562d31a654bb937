"""Which runs an experiment has: lists of values, crossed, and what of that cannot be.

A grid of several tasks and networks has combinations that cannot be, or would mean nothing. They are left
out, and `left_out` says so in a line each: an init that was learnt from the labels of the task's own cohort,
whose every fraction would have seen all labels (without labels, `_ssl`, it may be: a fraction is a share of
the patients whose labels are used); and published weights that there are none of for a network. What is left
out of a list altogether is refused instead.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ctlib.core import Workspace, field_values, read_json
from ctlib.datasets import same_patients, task
from ctlib.models import (
    HEADS,
    NO_COHORT,
    InitError,
    asked_of_clips,
    code_of,
    find,
    headed,
    lacking,
    origin,
    require_extra,
    spec,
    split,
)
from ctlib.training import (
    FINETUNED,
    FROZEN_MODE,
    MODES,
    NONE,
    OF_TRAINING,
    RESULT,
    Plan,
    PretrainSettings,
    Run,
    control_of,
    exceptions_of,
    fingerprint,
    flaws_of,
    labelled_clips,
    own_settings,
    refuse_unmet,
    study_auroc,
)

Arm = tuple[str, str, str]
"""Task, backbone and init."""

AXES = {"task", "backbone", "init", "fraction", "seed", "lr", "fold"}
"""Fields of `Run` that an experiment has lists of, or looks up."""
STORED = {"matrix_px", "clip_length"}
"""Settings that `01_explore_data` has fixed for all runs."""


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same for all runs of an experiment: `settings` and `exceptions` of `expand`.

    Args:
        values: parameters of `03_finetune_grid`; all else in it is left alone.

    Raises:
        ValueError: an unknown protocol or flaw.

    >>> given = {"epochs": 4, "tasks": ["rspect_pe"], "protocol": "corrected", "protocol_overrides": ["fill"]}
    >>> settings_of(given)
    {'epochs': 4, 'exceptions': [], 'leave_out': [], 'flaws': ('fill',)}
    >>> settings_of({**given, "modes": ["frozen"], "heads": ["knn"], "finetune_best": 0})["modes"]
    ['frozen']
    """
    settings = {name: value for name, value in field_values(Run, values).items() if name not in AXES}
    settings |= {name: values.get(name, []) for name in ("exceptions", "leave_out")}
    settings |= {
        name: values[name]
        for name in ("modes", "heads", "finetune_best", "frozen_backbones")
        if name in values
    }
    return settings | {"flaws": flaws_of(values["protocol"], values["protocol_overrides"])}


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
    leave_out: Sequence[str] = (),
    modes: Sequence[str] = (FINETUNED,),
    heads: Sequence[str] = HEADS[:1],
    finetune_best: int = 0,
    frozen_backbones: Sequence[str] = (),
    **settings: Any,
) -> list[Run]:
    """All runs of an experiment, in an order in which the first ones cover all arms.

    Combinations that cannot be are left out: `left_out` says which.

    Args:
        workspace: where data and weights lie.
        tasks: keys of `ctlib.datasets.cohort.TASKS`.
        backbones: keys of networks.
        inits: where weights begin.
        fractions: shares of the training patients.
        seeds: seeds.
        lr: learning rate of all, or of each task, network and init; arms without one are left out, as while
            a search goes on.
        folds: turns of the cross-validation, for cohorts that have folds; none is the single split.
        exceptions: settings of some networks alone, see `ctlib.training.exceptions_of`.
        leave_out: what not to run together, see `unwanted`.
        modes: of `ctlib.training.MODES`, see `in_modes`.
        heads: of frozen networks, see `in_modes`.
        finetune_best: of each task, so many networks are finetuned, see `best_frozen`; 0 is all.
        frozen_backbones: those of the backbones that are not finetuned.
        settings: the other fields of `Run`, but for `data`, `weights` and `code`, which are looked up.

    Raises:
        MissingInput: data or weights were not made yet.
        FitError: all validation studies of a task have one label.
        ValueError: an unknown name, a setting out of range, a fold that is none, or an init that has seen
            the labels of every task.
        TypeError: a setting is missing or unknown.
    """
    turns_of = folds_of(tasks, folds, has_folds(workspace))
    label = settings.get("study_label", "exam")
    asked = in_modes(arms(tasks, backbones, inits), modes, heads, frozen_backbones)
    data = {}
    for name, turn in [(key, turn) for key in tasks for turn in turns_of[key]]:
        cohort = task(name).cohort
        data[name, turn] = fingerprint(workspace, cohort, fold=turn)
        rows = labelled_clips(workspace, cohort, label, turn)
        study_auroc(rows[rows["split"] == "val"])  # here, so that nothing starts in vain
    of = unwanted(cells(asked, turns_of, fractions, seeds), leave_out)
    pairs = dict.fromkeys((headed(init)[1], backbone) for (_, backbone, init), *_ in of)
    found = {pair: find(*pair, workspace, NO_COHORT) for pair in pairs}
    weights = {pair: init.checksum for pair, init in found.items()}
    by_contract = {pair: init.contract for pair, init in found.items()}
    runs = _made(asked, of, lr, data, weights, exceptions, settings, by_contract)
    refuse_unmet(workspace, runs)
    return best_frozen(workspace, runs, finetune_best) if finetune_best else runs


def outline(
    tasks: Sequence[str],
    backbones: Sequence[str],
    inits: Sequence[str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    lr: float | Mapping[Arm, float],
    turns_of: Mapping[str, Sequence[int]],
    exceptions: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    modes: Sequence[str] = (FINETUNED,),
    heads: Sequence[str] = HEADS[:1],
    finetune_best: int = 0,
    frozen_backbones: Sequence[str] = (),
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
        leave_out: see `expand`.
        modes: see `expand`.
        heads: see `expand`.
        finetune_best: the first so many of each task stand for those that will be chosen.
        frozen_backbones: see `expand`.
        settings: see `expand`.

    Raises:
        ValueError: see `expand`.
    """
    asked = in_modes(arms(tasks, backbones, inits), modes, heads, frozen_backbones)
    nothing: defaultdict[Any, str] = defaultdict(str)
    of = unwanted(cells(asked, turns_of, fractions, seeds), leave_out)
    runs = _made(asked, of, lr, nothing, nothing, exceptions, settings)
    if not finetune_best:
        return runs
    return _only_best(runs, _rivals(runs), finetune_best)


def _made(
    asked: Sequence[Arm],
    of: Iterable[tuple[Arm, int, float, int]],
    lr: float | Mapping[Arm, float],
    data: Mapping[tuple[str, int], str],
    weights: Mapping[tuple[str, str], str],
    exceptions: Sequence[str],
    settings: Mapping[str, Any],
    by_contract: Mapping[tuple[str, str], str] | None = None,
) -> list[Run]:
    """Runs of what `cells` gives; twice is once."""
    tasks, backbones = ([*dict.fromkeys(arm[axis] for arm in asked)] for axis in (0, 1))
    alone = exceptions_of(exceptions, tasks, backbones, (settings.keys() | {"lr"}) - STORED)
    rates = {arm: lr for arm in asked} if isinstance(lr, float) else lr
    on_features = {arm: OF_TRAINING if headed(arm[2])[0] else {} for arm in asked}
    rates = {**rates, **{arm: 0.0 for arm in asked if on_features[arm]}}  # nothing of them is trained
    own = {
        arm: {"lr": rates[arm], **settings, **own_settings(alone, arm), **on_features[arm]}
        for arm in asked
        if arm in rates
    }
    for backbone in backbones:
        require_extra(backbone)
    code = {backbone: code_of(backbone) for backbone in backbones}
    runs = [
        Run(
            *arm,
            fraction=fraction,
            seed=seed,
            data=data[arm[0], turn],
            weights=weights[headed(arm[2])[1], arm[1]],
            code=code[arm[1]],
            fold=turn,
            contract=(by_contract or {}).get((headed(arm[2])[1], arm[1]), ""),
            **own[arm],
        )
        for arm, turn, fraction, seed in of
        if arm in own
    ]
    return list(dict.fromkeys(runs))


def networks_of(values: Mapping[str, Any]) -> list[str]:
    """All networks of parameters of `03_finetune_grid`, those that are only frozen behind the others."""
    return [*values["backbones"], *values.get("frozen_backbones", [])]


def in_modes(
    asked: Sequence[Arm], modes: Sequence[str], heads: Sequence[str], only_frozen: Sequence[str] = ()
) -> list[Arm]:
    """Arms in the modes that are asked for; the init of a frozen one begins with its head.

    Args:
        asked: task, network and init.
        modes: `finetuned`, `frozen` or both.
        heads: of frozen networks, of `ctlib.models.HEADS`.
        only_frozen: networks that are in no other mode.

    Raises:
        ValueError: an unknown mode or head, or none.

    >>> in_modes([("lidc_nodule", "slow_r50", "video")], ["finetuned", "frozen"], ["linear"])
    [('lidc_nodule', 'slow_r50', 'video'), ('lidc_nodule', 'slow_r50', 'linear:video')]
    """
    for name, given, known in (("modes", modes, MODES), ("heads", heads, HEADS)):
        if unknown := [value for value in given if value not in known]:
            raise ValueError(f"{name} has {unknown[0]!r}; known are {', '.join(known)}.")
        if not given:
            raise ValueError(f"{name} is empty; give some of {', '.join(known)}.")
    frozen = [
        (name, backbone, init if headed(init)[0] else f"{head}:{init}")
        for head in heads
        for name, backbone, init in asked
    ]
    trained = [arm for arm in asked if arm[1] not in only_frozen]
    made = [*(trained if FINETUNED in modes else []), *(frozen if FROZEN_MODE in modes else [])]
    return list(dict.fromkeys(made))


def arm_of(run: Run) -> Arm:
    """Task, network and init of a run."""
    return run.task, run.backbone, run.init


def _rivals(runs: Sequence[Run]) -> list[Arm]:
    """The finetuned arms of an experiment that begin from weights: those of which some are chosen."""
    return [*dict.fromkeys(arm_of(run) for run in runs if not headed(run.init)[0] and run.init != "random")]


def best_frozen(workspace: Workspace, runs: Sequence[Run], number: int) -> list[Run]:
    """The frozen runs of an experiment, and of the finetuned ones those that did best when frozen.

    Arms are ranked in each task by the mean validation AUROC of their frozen runs over fractions, seeds and folds, of
    their best head; no test score is read. Random weights are no rival: they are finetuned for each network that
    is chosen.

    Args:
        workspace: where results lie.
        runs: of the experiment, in both modes.
        number: of arms that are finetuned, in each task.

    Returns:
        While a frozen run has no result, the frozen runs alone.
    """
    frozen = [run for run in runs if headed(run.init)[0]]
    paths = [workspace.runs / run.run_id / RESULT for run in frozen]
    if not all(path.is_file() for path in paths):
        return frozen
    reached: dict[tuple[Arm, str], list[float]] = defaultdict(list)
    for run, path in zip(frozen, paths, strict=True):
        head, bare = headed(run.init)
        reached[(run.task, run.backbone, bare), head].append(read_json(path)["val_auroc"])
    best: dict[Arm, float] = {}
    for (arm, _), values in reached.items():
        best[arm] = max(best.get(arm, 0.0), sum(values) / len(values))
    ranked = sorted((arm for arm in _rivals(runs) if arm in best), key=best.__getitem__, reverse=True)
    return _only_best(runs, ranked, number)


def _only_best(runs: Sequence[Run], ranked: Sequence[Arm], number: int) -> list[Run]:
    """The frozen runs; of the finetuned, the first arms of each task, and their networks from random weights."""
    of_task = {name: [arm for arm in ranked if arm[0] == name][:number] for name, *_ in ranked}
    chosen = {arm for arms_of_task in of_task.values() for arm in arms_of_task}
    chosen |= {(name, backbone, "random") for name, backbone, _ in chosen}
    return [run for run in runs if headed(run.init)[0] or arm_of(run) in chosen]


def controlled(runs: Sequence[Run], controls: Sequence[str], backbones: Sequence[str]) -> list[Run]:
    """The runs of some networks at the largest fraction, once more under each control.

    Args:
        runs: of an experiment.
        controls: of `ctlib.training.negative_controls.CONTROLS`.
        backbones: networks that get them, all others have none; none named is the first of the experiment.

    Raises:
        ValueError: a control is unknown, or a network is not in the experiment.
    """
    present = [*dict.fromkeys(run.backbone for run in runs)]
    absent = [name for name in backbones if name not in present]
    if controls and absent:
        raise ValueError(f"control_backbones has {', '.join(absent)}, which the experiment has no run of.")
    largest = max((run.fraction for run in runs), default=0.0)
    chosen = [run for run in runs if run.backbone in (backbones or present[:1]) and run.fraction == largest]
    names = [control_of(name, run.channels) for name in controls for run in chosen[:1]]
    return [dataclasses.replace(run, control=name) for name in names if name != NONE for run in chosen]


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
    lines = [*skipped(tasks, backbones, inits), *single(tasks, folds, has_folds(workspace))]
    return [*lines, *contracts(workspace, backbones, inits)]


def contracts(workspace: Workspace, backbones: Sequence[str], inits: Sequence[str]) -> list[str]:
    """What weights ask of the clips that they are shown, by their input contracts: a sentence each."""
    pairs = itertools.product(inits, backbones)
    found = {pair: asked for pair in pairs if (asked := asked_of_clips(*pair, workspace))}
    return [
        f"Init {init} of {backbone} sees clips cut by its input contract: {asked}."
        for (init, backbone), asked in found.items()
    ]


# ---- tasks, networks and inits that go together, in which turns of a cross-validation -----


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
    kept = [arm for arm in asked if not (_leak(task(arm[0]).cohort, arm[2]) or lacking(arm[2], arm[1]))]
    for axis, wanted in enumerate((tasks, backbones, inits)):
        for value in wanted:
            if asked and not any(arm[axis] == value for arm in kept):
                name, backbone, init = next(arm for arm in asked if arm[axis] == value)
                if why := _leak(task(name).cohort, init):
                    raise ValueError(f"{why}; take another cohort's, or another task.")
                raise InitError(lacking(init, backbone))
    return kept


def refused(values: Mapping[str, Mapping[str, Any]]) -> str:
    """What 02 and 03 would refuse of tasks, networks, inits and exceptions, a sentence; '' where nothing.

    Args:
        values: parameters by notebook; others than these two are passed over.
    """
    for notebook, look in (("02_pretrain", _require_pretraining), ("03_finetune_grid", _require_grid)):
        try:
            look(values.get(notebook, {}))
        except ValueError as error:
            return f"{notebook}: {error}"
    return ""


def _require_pretraining(values: Mapping[str, Any]) -> None:
    if values:
        exceptions = tuple(values["pretrain_exceptions"])
        Plan(PretrainSettings.of(values), exceptions=exceptions).require(values["backbones"])


def _require_grid(values: Mapping[str, Any]) -> None:
    if values:
        tasks, networks = values["tasks"], [*values["backbones"], *values["frozen_backbones"]]
        for network in networks:
            spec(network)
        arms(tasks, networks, values["inits"])
        own = field_values(Run, values).keys() - AXES - STORED | {"lr"}
        exceptions_of(values["exceptions"], tasks, networks, own)


def skipped(tasks: Sequence[str], backbones: Sequence[str], inits: Sequence[str]) -> list[str]:
    """What `arms` leaves out, and why: a sentence an init."""
    lines = []
    for init in inits:
        leaks = [name for name in tasks if _leak(task(name).cohort, init)]
        lacks = [backbone for backbone in backbones if lacking(init, backbone)]
        if leaks:
            lines.append(f"Init {init} is left out for {', '.join(leaks)}: it was learnt from its labels.")
        if lacks:
            lines.append(f"Init {init} is left out for {', '.join(lacks)}: there are no such weights.")
    return lines


def folds_of(
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


def unwanted(
    of: Iterable[tuple[Arm, int, float, int]], leave_out: Sequence[str]
) -> list[tuple[Arm, int, float, int]]:
    """What `cells` gives, without what is not to be run together.

    Args:
        of: arm, turn, fraction and seed of each run.
        leave_out: each entry names a task, a network, an init, a fraction and a mode, or some of them, with blanks
            between; a run of all that it names is left out.

    Raises:
        ValueError: an entry has a word that no run has.

    >>> asked = list(cells([("lidc_nodule", "slow_r50", "random")], {"lidc_nodule": [0]}, [0.01, 1.0], [0]))
    >>> unwanted(asked, ["lidc_nodule 1%"])
    [(('lidc_nodule', 'slow_r50', 'random'), 0, 1.0, 0)]
    """
    asked = list(of)
    if not leave_out:
        return asked
    named = [{*arm, *_mode_of(arm[2]), f"{100 * fraction:.6g}%"} for arm, _, fraction, _ in asked]
    known = set().union(*named)
    entries = [(entry, set(entry.split())) for entry in leave_out]
    for entry, words in entries:
        if unknown := sorted(words - known) or ([] if words else ["nothing"]):
            raise ValueError(
                f"leave_out has {entry!r}, but no run has {unknown[0]}; name tasks, networks, inits, or fractions "
                "such as 1%."
            )
    return [cell for cell, own in zip(asked, named, strict=True) if not any(w <= own for _, w in entries)]


def _mode_of(init: str) -> tuple[str, ...]:
    """Words by which `leave_out` may name the mode of a run: of a frozen one also its head, and its init without."""
    head, bare = headed(init)
    return (FROZEN_MODE, head, bare) if head else (FINETUNED,)


def at_all_fractions(leave_out: Sequence[str]) -> list[str]:
    """The entries of `leave_out` that name no fraction: what a search for learning rates need not look at.

    >>> at_all_fractions(["lidc_nodule 1%", "rspect_pe video"])
    ['rspect_pe video']
    """
    return [entry for entry in leave_out if "%" not in entry]


def _leak(cohort: str, init: str) -> str:
    """How an init has seen the labels of a cohort; "" where it has not."""
    _, base = split(init)
    made = origin(base)
    while made is not None:
        source = made.source.removeprefix("ct_")
        if source != made.source and same_patients(source, cohort) and not made.self_supervised:
            whose = "" if source == cohort else f", whose patients cohort {cohort} has too"
            return (
                f"init {init} was learnt from cohort {source}{whose}, on which it would be finetuned: every "
                "fraction would have seen all labels"
            )
        made = origin(made.start)
    return ""
