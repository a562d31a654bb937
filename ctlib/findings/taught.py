"""Which networks a planted truth is judged on: those that learned what the videos teach.

A planted effect is a trial of the method: where weights that know motion begin, it has to be found. A
network that learned nothing from the videos carries nothing over, whatever the method does, so it can
neither pass nor fail that trial. Which networks these are is told by their held-out videos, before any
scan is seen, by a rule that was fixed beforehand; the claims are about all networks all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ctlib import tables
from ctlib.findings.study import Study

LEARNED_VIDEO = 0.5
"""Held-out metric of the pretraining (accuracy in nine classes, say) of a network that has learned; ours."""


@dataclass(frozen=True)
class Taught:
    """The effects that a planted truth is judged on.

    Args:
        effects: table `effects`, averaged over the networks that learned.
        about: which these are, in a sentence; "" where nothing was planted, or nothing made here.
    """

    effects: pd.DataFrame
    about: str


def taught(study: Study, planted: Mapping[str, str]) -> Taught:
    """The effects of a study, averaged over the networks that learned from pretraining.

    Args:
        study: the study.
        planted: "effect" or "null" by task. Where it is empty, all networks are averaged.

    Returns:
        All networks, too, where the init was not pretrained here, or none of them learned; `about` says so.
    """
    path = study.work.table("pretraining") if study.work else None
    if not planted or path is None or not path.is_file():
        return Taught(study.effects, "")
    found = tables.read("pretraining", path)
    found = found[found["init"] == study.compared]
    if found.empty:
        return Taught(study.effects, "")
    best = found.groupby("backbone")["heldout_metric"].max().reindex(study.averaged)
    learned = [name for name in study.averaged if best[name] >= LEARNED_VIDEO]
    metric = found["metric"].iloc[0]
    rule = f"a held-out {metric} of {LEARNED_VIDEO:g} (chance {found['chance'].iloc[0]:.2f})"
    if not learned:
        return Taught(
            study.effects, f"No network reached {rule} in pretraining: there was nothing to carry over."
        )
    others = [name for name in study.averaged if name not in learned]
    about = f"The planted truth is judged on the networks that reached {rule} in pretraining: "
    about += _told(best, learned) + (f"; not on {_told(best, others)}." if others else ".")
    return Taught(dataclasses.replace(study, averaged=learned).effects, about)


def _told(best: pd.Series, names: list[str]) -> str:
    """Networks, each with its metric."""
    return ", ".join(f"{name} {best[name]:.2f}" for name in names)
