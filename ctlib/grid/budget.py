"""What of a profile a number of hours pays for: a smaller grid, and what that costs in what it can show.

A grid is lists that are crossed, so it becomes smaller when a value leaves its list (`Cut`). The tasks, the
compared and the baseline init, the largest fraction, the first seed and the first fold always stay. Cuts are
made one by one until the hours fit, in stages (`STAGES`): what is asked beside the comparison goes before
what the comparison is made of, and what a study should not be without goes last. Within a stage that cut
comes first which saves most hours for each rise of the smallest difference in AUROC of the comparison, in the mean
over the tasks; where nothing rises, that which saves most hours. At the end cuts are taken back, the latest
first, as far as the hours allow.

The comparison is the compared init minus the baseline, in the mean over the averaged networks that a task
has from both. Its smallest difference is that of `ctlib.metrics.power`, at the lowest of its correlations: networks and
seeds score the same test patients, so that more networks make the variance between networks and seeds smaller, and
of the variance over patients only the part that networks do not share.

Hours are those of `ctlib.grid.estimate`: every run with all its epochs, one after the other, negative controls and
the search for learning rates included; and of pretraining, where the profile makes weights: its clips at the
speed of the same network in finetuning. Not in them: preparing data, the held-out clips of videos, waiting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from ctlib.core import Workspace
from ctlib.datasets import task
from ctlib.grid.estimate import Setting, design_of, run_seconds, scored_of
from ctlib.grid.estimate_profile import LR_FRACTION, LR_RATES, Expected, planned, size_of
from ctlib.grid.lr_search import SEARCH
from ctlib.grid.roofline import ASSUMED, Gpu
from ctlib.grid.step_timing import kind
from ctlib.metrics import power
from ctlib.models import headed, origin, spec, split
from ctlib.training import CONTROLS, NONE, PretrainSettings, Run, made_here
from ctlib.training import Plan as Pretraining

DATA, PRETRAINING, GRID, ANALYSIS = "01_explore_data", "02_pretrain", "03_finetune_grid", "04_analyze"
"""Notebooks whose parameters a cut changes, and the one that says how large the cohorts are."""
AXES = ("controls", "inits", "backbones", "fractions", LR_RATES, "folds", "seeds")
"""Parameters of `03_finetune_grid` that a value may leave."""
ABLATIONS, BESIDE, COMPARED, FEWER_LABELS, TWO_D, SEEDS = range(6)
STAGES = {
    ABLATIONS: "ablations of weights and negative controls",
    BESIDE: "other inits, networks and fractions, and learning rates beyond four",
    COMPARED: "averaged networks down to two, folds, and seeds beyond three",
    FEWER_LABELS: "learning rates beyond two, and the last smaller fraction",
    TWO_D: "the last 2D network",
    SEEDS: "the last seeds but one",
}
"""What goes, in this order."""
RATES, FEWEST_RATES, SEEDS_WANTED, NETWORKS = 4, 2, 3, 2
"""Kept while possible: rates, the largest go first, as none of the published networks took 0.1
(`ctlib.grid.lr_search`); seeds, as three are the fewest that say something of their spread; averaged networks."""
UNITS = {"": 1.0, "h": 1.0, "d": 24.0}
"""Hours of a unit of time."""


class BudgetError(ValueError):
    """No part of a profile that answers its question takes so few hours: one sentence."""


@dataclass(frozen=True)
class Comparison:
    """What a profile is for, of `04_analyze` and its plan.

    Args:
        baseline: init that is subtracted.
        compared: init that is looked at.
        averaged: networks over which the difference is averaged.
        fewest: averaged networks that stay at least.
        fixed: parameters that may not change.
    """

    baseline: str
    compared: str
    averaged: tuple[str, ...]
    fewest: int = NETWORKS
    fixed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Cut:
    """A value that leaves its list.

    Args:
        axis: one of `AXES`.
        value: of that parameter.
    """

    axis: str
    value: Any

    def __str__(self) -> str:
        return (
            f"{NAMES[self.axis]} {self.value:g}"
            if self.axis == LR_RATES
            else f"{NAMES[self.axis]} {self.value}"
        )


NAMES = {
    **{"controls": "negative control", "inits": "init", "backbones": "network", "fractions": "fraction"},
    **{LR_RATES: "learning rate", "folds": "fold", "seeds": "seed"},
}
"""One value of each axis, as people call it."""


@dataclass(frozen=True)
class Step:
    """A cut, and what it does.

    Args:
        cut: what leaves.
        saved: hours that are saved.
        hours: that are left.
        before: smallest difference in AUROC by task, before the cut.
        after: the same after it.
    """

    cut: Cut
    saved: float
    hours: float
    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True)
class Proposal:
    """A design that fits a budget.

    Args:
        profile: whose design was cut.
        budget_h: hours that were asked.
        whole_h: hours of the whole profile.
        hours: of the proposal.
        pretraining_h: hours of these in which weights are made.
        n_runs: runs of the grid.
        n_search: runs that only look for a learning rate.
        steps: what was cut, in order; none where the whole profile fits.
        kept: by `AXES`, and `averaged`, `two_d`, `pretrained`: the values that stay.
        power: one row a task: task, networks, seeds, folds, patients, with disease, `r=...` of each correlation, and
            `whole, r=...`, that of the whole profile.
        design: what the smallest differences assume.
        given_up: what the profile asked and the proposal does not, sentences.
    """

    profile: str
    budget_h: float
    whole_h: float
    hours: float
    pretraining_h: float
    n_runs: int
    n_search: int
    steps: tuple[Step, ...]
    kept: Mapping[str, list[Any]]
    power: pd.DataFrame
    design: power.Design
    given_up: tuple[str, ...]


def hours_of(text: str) -> float:
    """Hours of a text.

    Args:
        text: a number above 0, alone or with `h`, or days with `d`.

    Raises:
        ValueError: it is none.

    >>> hours_of("300h"), hours_of("300"), hours_of("1.5h"), hours_of("12d")
    (300.0, 300.0, 1.5, 288.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([hd]?)", text.strip())
    hours = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not 0 < hours < float("inf"):
        raise ValueError(
            f"{text!r} is no number of hours above 0; give hours as 300h or 300, or days as 12d."
        )
    return hours


def propose(
    workspace: Workspace,
    profile: str,
    values: Mapping[str, Mapping[str, Any]],
    comparison: Comparison,
    budget: float,
    measuring: bool = True,
    gpu: Gpu = ASSUMED,
    tell: Callable[[str], Any] = lambda line: None,
) -> Proposal:
    """The part of a profile that a number of hours pays for.

    What is finished already counts as any other run: a proposal has a workspace of its own.

    Args:
        workspace: where the profile's data lie, or will.
        profile: its name.
        values: its parameters, by notebook.
        comparison: what it is for.
        budget: hours.
        measuring: see `plan_of_profile`.
        gpu: see `plan_of_profile`.
        tell: see `plan_of_profile`.

    Raises:
        BudgetError: even the least design takes more; the sentence says how much.
        ValueError: no task has a network from both inits, and test patients of both classes; or see
            `plan_of_profile`, as for other errors.
    """
    both = {**values[GRID], **values.get(DATA, {})}
    found, setting = planned(workspace, profile, both, None, measuring, gpu, tell)
    made = _pretraining(workspace, values, found.runs, setting)
    grid = _Grid(found, setting, values, comparison, made)
    cuts: list[Cut] = []
    while grid.hours(cuts) > budget:
        cut = grid.best(cuts)
        if cut is None:
            least = grid.hours(cuts)
            raise BudgetError(
                f"{budget:g} h is less than profile {profile!r} needs: the least that answers its question, "
                f"{grid.summary(cuts)}, takes {f'{least:,.1f}' if least >= 1 else f'{least:.2g}'} h."
            )
        cuts.append(cut)
    for cut in cuts[::-1]:
        fewer = [other for other in cuts if other != cut]
        if grid.hours(cuts) < grid.hours(fewer) <= budget:
            cuts = fewer
    hours = grid.hours([]), grid.hours(cuts), grid.pretraining_hours(cuts)
    steps, said = tuple(grid.steps(cuts)), tuple(grid.given_up(cuts))
    kept, sheet, design = grid.kept(cuts), grid.sheet(cuts), grid.design(cuts)
    return Proposal(profile, budget, *hours, *grid.counts(cuts), steps, kept, sheet, design, said)


# ---- the grid of a profile, and what is left of it -----------------------------------------


@dataclass(frozen=True)
class _Made:
    """Weights that are made for a network: what they take, and the inits of the grid that need them."""

    init: str
    backbone: str
    seconds: float
    needed_by: tuple[str, ...]


def _pretraining(
    workspace: Workspace, values: Mapping[str, Mapping[str, Any]], runs: Sequence[Run], setting: Setting
) -> list[_Made]:
    """All weights that a profile makes."""
    how = values.get(PRETRAINING, {})
    if not how.get("pretrained"):
        return []
    plan = Pretraining(PretrainSettings.of(how), exceptions=tuple(how["pretrain_exceptions"]))
    first = {run.backbone: run for run in reversed(runs)}
    found, pairs = [], dict.fromkeys((run.backbone, run.init) for run in runs)
    for init in how["pretrained"]:
        made = made_here(init)
        needed = [pair for pair in pairs if init in _chain(pair[1])]
        cohort = made.source.removeprefix("ct_")
        sizes = dict(setting.sizes)
        if cohort != made.source and cohort not in sizes:
            sizes[cohort] = size_of(workspace, cohort, values[DATA])
        heldout = sizes[cohort].clips["val"] if cohort in sizes else 0
        for backbone in how["backbones"]:
            own = tuple(name for key, name in needed if key == backbone)
            if needed and not own:  # the network has no weights that the init begins from
                continue
            run, one = first[backbone], plan.settings_of(made, backbone)
            timing, loaders = setting.timings[kind(run)], how["loader_workers"]
            train, forward = (
                max(step / run.batch_size, cut / loaders) if loaders else step / run.batch_size + cut
                for step, cut in ((timing.train_s, timing.cut_train_s), (timing.predict_s, timing.cut_s))
            )
            views = 2 if made.self_supervised else 1
            drawn = views * one.steps_per_epoch * one.batch_size
            taken = one.epochs * (drawn * train + views * heldout * forward)
            found.append(_Made(init, backbone, taken, own))
    return found


def _chain(init: str) -> set[str]:
    """An init without its controls, and those that it was pretrained from."""
    _, base = split(init)
    found = {base}
    while made := origin(base):
        base = made.start
        found.add(base)
    return found


class _Grid:
    """The runs of a profile with their seconds, and what cuts leave of them."""

    def __init__(
        self,
        found: Expected,
        setting: Setting,
        values: Mapping[str, Mapping[str, Any]],
        comparison: Comparison,
        made: Sequence[_Made],
    ):
        given = values[GRID]
        self.comparison, self.made, self.setting = comparison, list(made), setting
        self.values: dict[str, list[Any]] = {axis: list(given.get(axis, [])) for axis in AXES}
        self.lr_fraction = given[LR_FRACTION]
        if str(given["lr"]) != SEARCH:
            self.values[LR_RATES] = []
        self.pretrained = list(values.get(PRETRAINING, {}).get("pretrained", []))
        self.runs = found.runs
        place = {replace(run, lr=1.0): i for i, run in enumerate(found.runs)}
        self.twins = np.array([place.get(replace(run, lr=1.0), -1) for run in found.search], int)
        rates = self.values[LR_RATES]  # `expected` lists all arms for each of them
        self.rates = np.repeat(rates, len(found.search) // max(1, len(rates)))
        self.seconds = np.array(run_seconds(setting, [*found.runs, *found.search]))
        self.tasks = list(dict.fromkeys(run.task for run in found.runs))
        self.turns = {
            name: list(dict.fromkeys(r.fold for r in found.runs if r.task == name)) for name in self.tasks
        }
        self.arms = dict.fromkeys((r.task, r.backbone, r.init) for r in found.runs)
        largest = max(self.values["fractions"])
        self.compared = {
            (r.task, r.backbone, r.init) for r in found.runs if r.fraction == largest and r.control == NONE
        }
        self.two_d = [name for name in self.values["backbones"] if spec(name).dims == 2]
        self.gone_by = {
            Cut(axis, value): self._leaves(axis, value, found) for axis in AXES for value in self.values[axis]
        }
        self.assumed = design_of(found.runs, setting.of_seeds)
        self._difference = cache(self._smallest)
        if not self.differences([]):
            raise ValueError(
                f"no task has an averaged network from both {comparison.compared} and {comparison.baseline}, and test "
                f"patients of both classes: nothing can be proposed; see inits of {GRID}, averaged of {ANALYSIS}."
            )

    def _leaves(self, axis: str, value: Any, found: Expected) -> Any:
        """Which runs, of the grid and of the search, go with a value: bool."""
        if axis == LR_RATES:
            return np.concatenate([np.zeros(len(found.runs), bool), self.rates == value])
        name = "control" if axis == "controls" else axis.removesuffix("s")
        of_search = axis in ("inits", "backbones")

        def own(run: Run) -> Any:
            return headed(run.init)[1] if name == "init" else getattr(run, name)

        grid = [
            own(run) == value and (axis != "folds" or len(self.turns[run.task]) > 1) for run in found.runs
        ]
        return np.array([*grid, *(of_search and getattr(run, name) == value for run in found.search)], bool)

    # what is left

    def _left(self, cuts: Collection[Cut]) -> Any:
        """Which runs are computed, of the grid and of the search: bool."""
        left = np.ones(len(self.seconds), bool)
        for cut in cuts:
            left &= ~self.gone_by[cut]
        n = len(self.runs)
        if len(self.twins):  # one rate is that of the grid, whose run is computed once
            first = self.rates == self.stays(LR_RATES, cuts)[0]
            left[n:] &= ~(first & (self.twins >= 0) & left[self.twins])
        return left

    def _made_left(self, cuts: Collection[Cut]) -> Iterator[_Made]:
        """Weights that are still made: those that no run of the grid began from are left alone."""
        inits, backbones = (
            {cut.value for cut in cuts if cut.axis == axis} for axis in ("inits", "backbones")
        )
        for one in self.made:
            if one.backbone not in backbones and not (one.needed_by and inits.issuperset(one.needed_by)):
                yield one

    def pretraining_hours(self, cuts: Collection[Cut]) -> float:
        """Hours in which weights are made."""
        return sum(one.seconds for one in self._made_left(cuts)) / 3600

    def hours(self, cuts: Collection[Cut]) -> float:
        """Hours of all that is left."""
        return float(self.seconds[self._left(cuts)].sum()) / 3600 + self.pretraining_hours(cuts)

    def counts(self, cuts: Collection[Cut]) -> tuple[int, int]:
        """Runs of the grid, and those that only look for a learning rate."""
        left = self._left(cuts)
        return int(left[: len(self.runs)].sum()), int(left[len(self.runs) :].sum())

    def stays(self, axis: str, cuts: Collection[Cut]) -> list[Any]:
        """The values of an axis that no cut removes."""
        return [value for value in self.values[axis] if Cut(axis, value) not in cuts]

    def kept(self, cuts: Collection[Cut]) -> dict[str, list[Any]]:
        """Proposal.kept; inits and networks of which no run is left go too."""
        kept = {axis: self.stays(axis, cuts) for axis in AXES}
        arms = [arm for arm in self.arms if arm[1] in kept["backbones"] and arm[2] in kept["inits"]]
        for axis, at in (("backbones", 1), ("inits", 2)):
            kept[axis] = [value for value in kept[axis] if any(arm[at] == value for arm in arms)]
        controlled = {r.control for r, left in zip(self.runs, self._left(cuts), strict=False) if left}
        kept["controls"] = [name for name in kept["controls"] if name in controlled]
        kept["averaged"] = [b for b in self.comparison.averaged if b in kept["backbones"]]
        kept["two_d"] = [b for b in self.two_d if b in kept["backbones"]]
        made = {one.init for one in self._made_left(cuts)}
        kept["pretrained"] = [name for name in self.pretrained if name in made]
        return kept

    # what it can show

    def members(self, name: str, cuts: Collection[Cut] = ()) -> list[str]:
        """The averaged networks that a task has from both inits."""
        wanted = (self.comparison.compared, self.comparison.baseline)
        return [
            backbone
            for backbone in self.comparison.averaged
            if all((name, backbone, init) in self.compared for init in wanted)
            and Cut("backbones", backbone) not in cuts
        ]

    def folds(self, name: str, cuts: Collection[Cut]) -> int:
        """Folds on which a task is tested; 1 of a single split."""
        turns = self.turns[name]
        return len(turns) if len(turns) == 1 else sum(Cut("folds", turn) not in cuts for turn in turns)

    def _smallest(self, name: str, networks: int, seeds: int, folds: int, correlation: float) -> float | None:
        """Smallest difference of a task; None without networks, or with a class that has no test patient."""
        scored = scored_of(self.setting.sizes[task(name).cohort], folds)
        if scored is None or not networks:
            return None
        design = replace(self.assumed, networks=networks, seeds=seeds, correlation=correlation)
        return power.smallest_difference(scored, design)

    def difference(self, name: str, cuts: Collection[Cut], correlation: float) -> float | None:
        """Smallest difference of a task at a correlation of paired AUROCs; None where there is none."""
        seeds = len(self.stays("seeds", cuts))
        return self._difference(
            name, len(self.members(name, cuts)), seeds, self.folds(name, cuts), correlation
        )

    def differences(self, cuts: Collection[Cut]) -> dict[str, float]:
        """By task, at the lowest correlation."""
        found = {name: self.difference(name, cuts, min(power.CORRELATIONS)) for name in self.tasks}
        return {name: value for name, value in found.items() if value is not None}

    def design(self, cuts: Collection[Cut]) -> power.Design:
        """What is assumed; networks are those of the task that has most."""
        networks = max(len(self.members(name, cuts)) for name in self.tasks)
        return replace(self.assumed, networks=networks, seeds=len(self.stays("seeds", cuts)))

    def sheet(self, cuts: Collection[Cut]) -> pd.DataFrame:
        """Proposal.power."""
        rows = []
        for name in self.differences(cuts):
            folds = self.folds(name, cuts)
            scored = scored_of(self.setting.sizes[task(name).cohort], folds)
            assert scored is not None  # or there were no difference
            row: dict[str, Any] = {"task": name, "networks": len(self.members(name, cuts))}
            row |= {"seeds": len(self.stays("seeds", cuts)), "folds": folds}
            row |= {"patients": scored.n_patients, "with disease": scored.n_positive}
            for title, those in (("", cuts), ("whole, ", ())):
                row |= {f"{title}r={r:g}": self.difference(name, those, r) for r in power.CORRELATIONS}
            rows.append(row)
        return pd.DataFrame(rows)

    # what goes next

    def stage(self, cut: Cut, cuts: Collection[Cut]) -> int | None:
        """The stage in which a value may go, after these cuts; None where it may not."""
        kept = self.stays(cut.axis, cuts)
        if cut.axis in self.comparison.fixed or cut.value not in kept:
            return None
        if cut.axis == "controls":
            return ABLATIONS
        if cut.axis == "inits":
            return self._stage_of_init(cut.value)
        if cut.axis == "backbones":
            return self._stage_of_network(cut.value, cuts)
        if cut.axis == "fractions":
            smaller = sorted(set(kept) - {max(kept)})
            if cut.value not in smaller:
                return None
            last = self.lr_fraction if self.lr_fraction in smaller else smaller[-1]
            return FEWER_LABELS if len(smaller) == 1 else BESIDE if cut.value != last else None
        if cut.axis == LR_RATES:
            if cut.value != max(kept) or len(kept) <= FEWEST_RATES:
                return None
            return BESIDE if len(kept) > RATES else FEWER_LABELS
        if cut.value != kept[-1] or len(kept) == 1:  # folds and seeds go from the last
            return None
        return COMPARED if cut.axis == "folds" or len(kept) > SEEDS_WANTED else SEEDS

    def _stage_of_init(self, init: str) -> int | None:
        """Of an init; one that is published for 2D networks alone goes with the last of them."""
        if init in (self.comparison.baseline, self.comparison.compared):
            return None
        controls, base = split(init)
        if controls:
            return ABLATIONS
        networks = {arm[1] for arm in self.arms if arm[2] == init}
        return None if networks <= set(self.two_d) and origin(base) is None else BESIDE

    def _stage_of_network(self, backbone: str, cuts: Collection[Cut]) -> int | None:
        """Of a network."""
        members = [of for name in self.tasks if backbone in (of := self.members(name, cuts))]
        if members:
            return COMPARED if min(map(len, members)) > self.comparison.fewest else None
        if backbone in self.two_d:
            left = [name for name in self.two_d if Cut("backbones", name) not in cuts]
            return BESIDE if len(left) > 1 else TWO_D
        return BESIDE

    def best(self, cuts: Sequence[Cut]) -> Cut | None:
        """The next cut; None where nothing is left that may go."""
        hours, before = self.hours(cuts), self.differences(cuts)

        def order(cut: Cut, stage: int) -> tuple[float, ...]:
            saved, after = hours - self.hours([*cuts, cut]), self.differences([*cuts, cut])
            rise = sum(after[name] - before[name] for name in before) / len(before)
            return stage, -saved / rise if rise > 0 else -np.inf, -saved

        found = {cut: stage for cut in self.gone_by if (stage := self.stage(cut, cuts)) is not None}
        found = {cut: stage for cut, stage in found.items() if self.hours([*cuts, cut]) < hours}
        return min(found, key=lambda cut: order(cut, found[cut]), default=None)

    def steps(self, cuts: Sequence[Cut]) -> Iterator[Step]:
        """The cuts one after the other."""
        for i, cut in enumerate(cuts):
            before, after = cuts[:i], cuts[: i + 1]
            saved = self.hours(before) - self.hours(after)
            yield Step(cut, saved, self.hours(after), self.differences(before), self.differences(after))

    # in words

    def summary(self, cuts: Collection[Cut]) -> str:
        """What is left, in a few words."""
        kept = self.kept(cuts)
        parts = [
            (kept["averaged"], "averaged networks"),
            (kept["inits"], "inits"),
            (kept["fractions"], "fractions"),
        ]
        parts += [(kept["folds"], "folds"), (kept["seeds"], "seeds")]
        return ", ".join(f"{len(of)} {name if len(of) > 1 else name[:-1]}" for of, name in parts if of)

    def given_up(self, cuts: Collection[Cut]) -> Iterator[str]:
        """Proposal.given_up."""
        kept, gone = self.kept(cuts), {}
        for axis in AXES:
            gone[axis] = [value for value in self.values[axis] if value not in kept[axis]]
        compared = self.comparison.compared
        for init in gone["inits"]:
            made = origin(split(init)[1])
            if split(init)[0]:
                yield f"Ablation {init}: what of {split(init)[1]} helps is not asked."
            elif made is not None and made.self_supervised:
                yield f"Init {init}: what {made.source} without labels adds to {made.start} is not asked."
            elif made is not None and made.source.startswith("ct_"):
                yield f"Init {init}: {compared} is not compared with pretraining on CT of {made.source[3:]}."
            else:
                yield f"Init {init}: no run begins from it."
        for name in gone["controls"]:
            yield f"Negative control {name}: no run in which {CONTROLS.get(name, name)}."
        two_d = [name for name in gone["backbones"] if name in self.two_d]
        if two_d and not kept["two_d"]:
            yield f"2D networks ({', '.join(two_d)}): 3D networks are not compared with 2D ones."
        elif two_d:
            yield f"2D networks {', '.join(two_d)}: of 2D networks only {', '.join(kept['two_d'])} is compared."
        others = [name for name in gone["backbones"] if name not in self.two_d]
        if others:
            yield (
                f"3D networks {', '.join(others)}: the effect is the mean over {len(kept['averaged'])} networks, "
                "and nothing is said of these."
            )
        yield from self._given_up_of_lists(kept, gone, cuts)

    def _given_up_of_lists(
        self, kept: Mapping[str, list[Any]], gone: Mapping[str, list[Any]], cuts: Collection[Cut]
    ) -> Iterator[str]:
        """Fractions, rates, folds and seeds."""
        if gone["fractions"]:
            told = ", ".join(f"{value:g}" for value in gone["fractions"])
            rest = "" if len(kept["fractions"]) > 1 else ", and so not at all whether fewer labels do"
            yield f"Fractions {told}: what {self.comparison.compared} is worth there is not asked{rest}."
        if gone[LR_RATES]:
            told, tried = (", ".join(f"{v:g}" for v in values) for values in (gone[LR_RATES], kept[LR_RATES]))
            yield f"Learning rates {told}: the search tries {tried}."
        for name in self.tasks:
            folds, whole = self.folds(name, cuts), self.folds(name, ())
            if folds < whole:
                yield f"Folds of {name}: {folds} of {whole} are tested, so that the others' patients are not."
        if gone["seeds"]:
            left = len(kept["seeds"])
            alone = ": the difference holds for the networks as they were trained" if left == 1 else ""
            yield f"Seeds {', '.join(map(str, gone['seeds']))}: {left} of {left + len(gone['seeds'])} stay{alone}."
