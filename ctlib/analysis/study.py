"""What the findings are made from: the tables of a grid, and how they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from ctlib import metrics
from ctlib.analysis.preregistration import Prespecified
from ctlib.core import Workspace, read_contract, read_json, tables

if TYPE_CHECKING:
    from ctlib.models import Size, TrainedOn

GRID = "03_finetune_grid"
"""The notebook that computes the runs; sentences about what is missing name its parameters."""
NETWORK_COSTS = ["backbone", "multiply_adds_g", "kept_mb"]
"""Columns of `Study.costs`: network, 10^9 multiply-adds a clip, MB kept of a clip in training."""


@dataclass(frozen=True)
class Study:
    """The tables of a grid, and how they are compared.

    Args:
        runs: table `runs`.
        predictions: table `predictions`.
        curves: table `curves`.
        costs: columns `NETWORK_COSTS`, one row a network; may be empty.
        plan: what was fixed beforehand; None where nothing was.
        baseline: init that is subtracted.
        compared: init that is looked at.
        averaged: 3D networks that are averaged.
        rule: exam score from clip scores.
        how: replicates, seed and level of the intervals.
        target: validation AUROC of which the speed of learning is measured.
        cam_backbones: networks whose Grad-CAM is looked at.
        gradcam_exams: exams with disease of a task that are looked at so, at most, drawn by the seed of `how`; 0: all.
        part: test exams that are looked at alone, `40 <= area_mm2 <= 200`; "" for none.
        data_from: cohort whose patients the exams of a folder are, for the register of overlaps; "" for its own.
        work: where runs, volumes and tables of cohorts lie; None where there are only these tables.
    """

    runs: pd.DataFrame
    predictions: pd.DataFrame
    curves: pd.DataFrame
    costs: pd.DataFrame
    plan: Prespecified | None
    baseline: str
    compared: str
    averaged: list[str]
    rule: str = "max"
    how: metrics.Bootstrap = field(default_factory=metrics.Bootstrap)
    target: float = 0.7
    cam_backbones: list[str] = field(default_factory=list)
    gradcam_exams: int = 0
    part: str = ""
    data_from: str = ""
    work: Workspace | None = None

    @classmethod
    def of(cls, work: Workspace, **settings: Any) -> Study:
        """The study of a workspace.

        Args:
            work: where the tables lie.
            settings: the fields that are no tables.

        Raises:
            MissingInput: a table is missing; the sentence names the notebook that writes it.
        """
        read = {
            name: tables.read(name, work.require(work.table(name), GRID))
            for name in ("runs", "predictions", "curves")
        }
        return cls(**read, work=work, costs=network_costs(work, read["runs"]), **settings)

    @property
    def margin(self) -> float:
        """Differences below it are of no consequence; 0 where no plan says so."""
        return self.plan.margin if self.plan else 0.0

    @property
    def inits(self) -> list[str]:
        """Inits of the grid, in its order."""
        return list(dict.fromkeys(self.runs["init"]))

    @property
    def tasks(self) -> list[str]:
        """Tasks of the grid, in its order."""
        return list(dict.fromkeys(self.runs["task"]))

    @property
    def there(self) -> Workspace:
        """The workspace, of a study that has one."""
        assert self.work is not None  # a question asks `question.no_cohort` first
        return self.work

    @cached_property
    def two_d(self) -> list[str]:
        """Networks of the grid that see slices one by one, whatever they make of them."""
        from ctlib.models import spec  # here: it loads torch

        return [b for b in dict.fromkeys(self.runs["backbone"]) if spec(b).dims == 2]

    def networks_from(self, *inits: str) -> list[str]:
        """The averaged networks that the grid holds from each of these inits."""
        held = {(row.backbone, row.init) for row in self.runs.itertuples()}
        return [b for b in self.averaged if all((b, init) in held for init in inits)]

    def chain(self, backbone: str, init: str) -> tuple[TrainedOn, ...]:
        """What the starting weights of a network were trained on, in order.

        It is what a finished run has recorded of them; of runs that are older than that record, or not at hand,
        what the name of the init tells.

        Args:
            backbone: network.
            init: init.
        """
        from ctlib.models import TrainedOn, chain_by_name  # here: they load torch
        from ctlib.training import RESULT

        seen = self._recorded(backbone, init, RESULT, "seen")
        return chain_by_name(init, backbone) if seen is None else tuple(TrainedOn(**each) for each in seen)

    def contract(self, backbone: str, init: str) -> str:
        """The input contract by which clips were cut for the starting weights of a network; empty without one.

        Args:
            backbone: network.
            init: init.
        """
        from ctlib.training import SETTINGS_FILE

        return str(read_contract(self._recorded(backbone, init, SETTINGS_FILE, "contract") or "") or "")

    def _recorded(self, backbone: str, init: str, file: str, name: str) -> Any:
        """What the first run of an arm that has it has recorded under a name; None where none is at hand."""
        arm = (self.runs["backbone"] == backbone) & (self.runs["init"] == init)
        for run_id in self.runs.loc[arm, "run_id"] if self.work else ():
            path = self.there.runs / run_id / file
            if path.is_file() and name in (record := read_json(path)):
                return record[name]
        return None

    @cached_property
    def run_aurocs(self) -> pd.DataFrame:
        """`metrics.run_aurocs`."""
        return metrics.run_aurocs(self.runs, self.predictions, self.rule)

    @cached_property
    def arm_aurocs(self) -> pd.DataFrame:
        """`metrics.arm_aurocs`."""
        return metrics.arm_aurocs(self.runs, self.predictions, self.how, self.rule)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Table `effects`: what the compared init gains over the baseline."""
        return metrics.effects(
            self.runs, self.predictions, self.baseline, self.compared, self.averaged, self.how, self.rule,
            self.margin,
        )  # fmt: skip

    @cached_property
    def gains(self) -> pd.DataFrame:
        """Table `effects` with level, margin and by_seed; see `contrasts`. Means and networks are two families."""
        found = by_family(self.effects, self.effects["backbone"].str.startswith(metrics.MEAN_OF))
        seeds = [self.by_seed(row.task, row.fraction, self._gain(row.backbone)) for row in found.itertuples()]
        return found.assign(level=self.how.level, margin=self.margin, by_seed=seeds)

    def _gain(self, backbone: str) -> metrics.Contrast:
        """The comparison of a row of `effects`."""
        members = self.averaged if backbone.startswith(metrics.MEAN_OF) else [backbone]
        first, second = (metrics.arms_of(members, init) for init in (self.compared, self.baseline))
        return metrics.Contrast(backbone, first, second)

    @property
    def mean_gains(self) -> pd.DataFrame:
        """The rows of `gains` that average networks."""
        return self.gains[self.gains["backbone"].str.startswith(metrics.MEAN_OF)].reset_index(drop=True)

    def contrasts(self, wanted: Sequence[metrics.Contrast]) -> pd.DataFrame:
        """`metrics.contrasts` of this study, but for tasks and fractions that the grid has no run of one side at.

        Args:
            wanted: the comparisons.

        Returns:
            As `metrics.contrasts`, with label (the name of the comparison), level, margin, and by_seed: what
            each seed gave, joined by blanks.
        """
        table = metrics.contrasts(self.runs, self.predictions, wanted, self.how, self.rule, self.margin)
        named = {contrast.name: contrast for contrast in wanted}
        held = set(self.runs[["task", "fraction", "backbone", "init"]].itertuples(index=False, name=None))
        rows = [
            row
            for row in table.to_dict("records")
            if all(
                any((row["task"], row["fraction"], *arm) in held for arm in side)
                for side in (named[row["contrast"]].first, named[row["contrast"]].second)
            )
        ]
        seeds = [self.by_seed(row["task"], row["fraction"], named[row["contrast"]]) for row in rows]
        kept = pd.DataFrame(rows, columns=table.columns).rename(columns={"contrast": "label"})
        return kept.assign(level=self.how.level, margin=self.margin, by_seed=seeds)

    def by_seed(self, task: str, fraction: float, contrast: metrics.Contrast) -> str:
        """What each seed gave, joined by blanks; none of a seed that lacks a run."""
        found = self.run_aurocs
        found = found[(found["task"] == task) & (found["fraction"] == fraction)]
        arms = found.groupby(["seed", "backbone", "init"])["auroc"].agg(
            lambda folds: folds.mean(skipna=False)
        )
        wide = arms.unstack(["backbone", "init"])
        first, second = (
            wide.reindex(columns=pd.MultiIndex.from_tuples(side)).mean(axis=1, skipna=False)
            for side in (contrast.first, contrast.second)
        )
        return " ".join(f"{value:.4f}" for value in (first - second).dropna())


def by_family(table: pd.DataFrame, of_claim: pd.Series) -> pd.DataFrame:
    """Comparisons with p_holm over those that decide a claim, and over all others: a claim has the same p-values.

    Args:
        table: with p_value.
        of_claim: whether a row decides a claim.
    """
    inside, p = of_claim.to_numpy(bool), table["p_value"].to_numpy(np.float64)
    families = (metrics.holm(np.where(inside == member, p, np.nan)) for member in (True, False))
    return table.assign(p_holm=np.where(inside, *families))


def network_costs(work: Workspace, runs: pd.DataFrame) -> pd.DataFrame:
    """What each network of the runs costs, for the clips that its first finished run saw.

    Args:
        work: where the folders of the runs lie; networks without one are left out.
        runs: table `runs`.

    Returns:
        Columns `NETWORK_COSTS`.
    """
    from ctlib.training import SETTINGS_FILE, clip_settings, read_run  # here: they load torch
    from ctlib.visualization import summary_tables

    rows = []
    for key, part in runs[runs["status"] == "finished"].groupby("backbone", sort=False):
        there = [name for name in part["run_id"] if (work.runs / name / SETTINGS_FILE).is_file()]
        if there:
            run = read_run(work, there[0])
            clip, size = clip_settings(run), cast("Size", run.size)
            shape = (clip.length, clip.crop_px, clip.crop_px)
            found = summary_tables.networks([str(key)], size, shape, clip.n_channels).iloc[0]
            rows.append((str(key), found["multiply-adds, G"], found["kept, MB"]))
    return pd.DataFrame(rows, columns=NETWORK_COSTS)
