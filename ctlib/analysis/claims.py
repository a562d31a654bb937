"""The paper's three claims, and whether these results support them, by rules that are fixed beforehand.

Ke et al. (MIDL 2023) claim, of seven 3D networks and two datasets, that video pretraining raises the
average performance whatever the size of the finetuning set; that with it 3D networks outperform 2D
baselines; and that out-of-domain video helps more than in-domain CT. A claim is a set of comparisons, one
for each task and fraction and, of the second and third, each rival. By `metrics.decide`, with the margin of the
plan; a gain and a loss both must outlive Holm's correction over the comparisons of the claim:

| comparisons | verdict |
|---|---|
| every one is a gain | supported |
| at least one is a loss | not supported |
| every one is equivalent: two one-sided tests show it within the margin | no difference that matters |
| anything else; a comparison without an answer | inconclusive |
| no comparison: the grid has no run of a side | not asked |

Equivalence refutes nothing by itself: among many comparisons one is small by chance. That every one is
equivalent is an intersection-union test, each at its own level (Berger 1982,
doi:10.1080/00401706.1982.10487790).

The weakest point is the first of these that is true:

| weakest point | where |
|---|---|
| runs that are missing | a comparison has no answer, or no interval |
| one seed | some comparison has one seed only |
| arms that learned nothing | in some comparison neither side reaches an AUROC of `arms_table.LEARNED` |
| too few patients and seeds | the widest interval that holds 0 is wider than the margin on both sides |
| other networks | the interval for the mean over networks like these holds 0 |
| a next network | it would gain with a probability below `NEXT` |
| whom it is about | always |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ctlib import metrics
from ctlib.analysis.arms_table import LEARNED
from ctlib.analysis.question import ABSENT, lacks_a_side
from ctlib.analysis.questions import baselines
from ctlib.analysis.study import Study
from ctlib.analysis.text import capital, concluded, forest_caption, interval, listed, place, who
from ctlib.core import word
from ctlib.visualization import figures

SUPPORTED, NOT_SUPPORTED, NOT_DECIDED = "supported", "not supported", "inconclusive"
NO_DIFFERENCE, NOT_ASKED = "no difference that matters", "not asked"
OF_TWO_D = 2
"""Number of the claim about 2D networks."""
NEXT = 0.9
"""Probability that a next network gains below which that is the weakest point."""
MOST_SHOWN = 4
"""Comparisons that a sentence lists; of more it lists the smallest of each task and fraction."""


def verdict_of(words: Iterable[str]) -> str:
    """The verdict of a claim from what each of its comparisons is, by the rule of the module.

    >>> verdict_of(["gain", "gain"]), verdict_of(["gain", "not decided"]), verdict_of(["gain", "loss"])
    ('supported', 'inconclusive', 'not supported')
    """
    found = set(words)
    if not found:
        return NOT_ASKED
    if "loss" in found:
        return NOT_SUPPORTED
    if found == {"gain"}:
        return SUPPORTED
    return NO_DIFFERENCE if found == {"equivalent"} else NOT_DECIDED


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the comparisons that decide it.

    Args:
        number: as in the paper.
        text: the claim.
        short: what is subtracted from what, in a few words.
        init: the init that is looked at.
        comparisons: columns task, fraction, label, effect, low, high, se, freedom, p_value, auroc_first,
            auroc_second, low_mean, high_mean, p_next, n_patients, n_positive, n_seeds, n_networks, margin,
            level, reason; may be empty.
        missing: why there is none, or ''.
        population: whom the results are about.
    """

    number: int
    text: str
    short: str
    init: str
    comparisons: pd.DataFrame
    missing: str
    population: str

    @property
    def verdict(self) -> str:
        """Supported, not supported, no difference that matters, inconclusive or not asked, by the module's rule."""
        return verdict_of(self.conclusions)

    @property
    def conclusions(self) -> list[str]:
        """What each comparison is, corrected over those of the claim."""
        if self.comparisons.empty:
            return []
        corrected = metrics.holm(self.comparisons["p_value"].to_numpy(np.float64))
        return [concluded(row) for row in self.comparisons.assign(p_holm=corrected).to_dict("records")]

    @property
    def strongest(self) -> str:
        """What the comparison with the smallest effect is against."""
        return "strongest 2D competitor" if self.number == OF_TWO_D else "smallest"

    @property
    def weakest(self) -> str:
        """The weakest point, by the rule of the module."""
        table = self.comparisons
        if table.empty:
            return f"there is nothing to compare. {self.missing}"
        empty = table[table["low"].isna()]
        if len(empty):
            return f"{len(empty)} of {len(table)} comparisons have no answer: {empty['reason'].iloc[0]}"
        if (table["n_seeds"] == 1).any():
            return "one seed, so the variation between seeds is not in the intervals"
        return self._weakest_of_numbers(table)

    def _weakest_of_numbers(self, table: pd.DataFrame) -> str:
        best = table[["auroc_first", "auroc_second"]].max(axis=1)
        if best.min() < LEARNED:
            row = table.loc[best.idxmin()]
            return (
                f"at {place(row)} neither side reaches an AUROC of {LEARNED:g} "
                f"({row['auroc_first']:.3f} and {row['auroc_second']:.3f}), so there was little to differ in"
            )
        open_ = table[(table["low"] <= 0) & (table["high"] >= 0)]
        half = (open_["high"] - open_["low"]) / 2
        if len(open_) and half.max() > open_["margin"].iloc[0]:
            row = open_.loc[half.idxmax()]
            there = f"{row['n_patients']:,} test patients and {row['n_seeds']} seeds"
            return (
                f"at {place(row)} the interval is {half.max():.3f} wide on each side, with {there}: smaller "
                "effects cannot be excluded"
            )
        known = table[table["low_mean"].notna()]
        unsure = known[(known["low_mean"] <= 0) & (known["low"] > 0)]
        if len(unsure):
            row = unsure.loc[unsure["low_mean"].idxmin()]
            return (
                f"at {place(row)} networks differ: over networks like these the mean effect is "
                f"{interval(row, 'effect', 'low_mean', 'high_mean')}"
            )
        chances = table["p_next"].dropna()
        if len(chances) and chances.min() < NEXT and self.verdict == SUPPORTED:
            row = table.loc[chances.idxmin()]
            return f"at {place(row)} a next network would gain with a probability of {row['p_next']:.2f}"
        tasks = table["task"].nunique()
        return f"it is about {self.population}, and {'one task' if tasks == 1 else f'{tasks} tasks'}"

    def sentence(self) -> str:
        """The claim with its verdict, effects, intervals, patients, seeds, networks and weakest point."""
        head = f"Claim {self.number}, {self.text}: {self.verdict}."
        if self.comparisons.empty:
            return f"{head} {capital(self.missing.removeprefix(ABSENT).split(';')[0]).removesuffix('.')}."
        table, words = self.comparisons, self.conclusions
        rows = table.to_dict("records")
        shown = rows if len(rows) <= MOST_SHOWN else baselines.smallest(table)
        effects = "; ".join(f"{_named(row, len(rows))} {interval(row)}" for row in shown)
        counts = listed(f"{word(kind)} in {words.count(kind)}" for kind in dict.fromkeys(words))
        taken = sum(row["low"] > 0 or row["high"] < 0 for row in rows)
        taken -= sum(kind in ("gain", "loss") for kind in words)
        counts += f", {taken} of them a gain or loss before Holm's correction" if taken else ""
        which = "" if len(rows) <= MOST_SHOWN else f", the {self.strongest} of each task and fraction"
        return (
            f"{head} Difference in AUROC{which}: {effects} (of {len(words)}, {counts}; {who(table)}). "
            f"Weakest point: {self.weakest}."
        )


def _named(row: dict, n_rows: int) -> str:
    return f"{place(row)} ({row['label']})" if n_rows > MOST_SHOWN else place(row)


def claims(study: Study) -> list[Claim]:
    """The three claims, with what a study has to say of each.

    Args:
        study: its tables.
    """
    population = study.plan.population if study.plan else "the patients of this grid"
    means = study.mean_gains
    helps = means.rename(columns={"auroc_init": "auroc_first", "auroc_baseline": "auroc_second"})
    init = study.compared
    asked = (
        (f"{init} raises the mean of the 3D networks in every task, whatever the number of patients",
         f"{init} − {study.baseline}", lambda _: helps.assign(label=helps["backbone"]), lacks_a_side),
        ("with it, 3D networks outperform 2D ones", "3D − 2D", baselines.compute_two_d, baselines.TWO_D.missing),
        (f"{init} helps more than CT", f"{init} − CT", _video_against_ct, _no_ct),
    )  # fmt: skip
    found = []
    for number, (text, short, compute, missing) in enumerate(asked, start=1):
        absent = missing(study)
        table = pd.DataFrame() if absent else compute(study)
        if table.empty and not absent:
            absent = "No task has runs of both sides."
        found.append(Claim(number, text, short, init, table, absent, population))
    return found


def _video_against_ct(study: Study) -> pd.DataFrame:
    """The comparisons of `baselines.compute_domain` that are of video against CT alone."""
    table = baselines.compute_domain(study)
    return table[table["init"] == study.compared].reset_index(drop=True)


def _no_ct(study: Study) -> str:
    return (
        baselines.VIDEO_OR_CT.missing(study) if baselines.domain_inits(study)[0] else baselines.no_ct(study)
    )


def overview(found: Sequence[Claim]) -> pd.DataFrame:
    """The claims as a table: number, claim, verdict, and the comparison with the smallest effect."""
    rows = []
    for claim in found:
        row = {"claim": f"{claim.number}: {claim.short}", "verdict": claim.verdict}
        known = claim.comparisons
        known = known[known["effect"].notna()] if len(known) else known
        if len(known):
            least = known.loc[known["effect"].idxmin()]
            row["smallest at"] = place(least)
            row |= {name: least[name] for name in ("effect", "low", "high")}
            row |= {name: least[f"n_{name}"] for name in ("patients", "seeds", "networks")}
        rows.append(row | {"comparisons": len(claim.comparisons)})
    return pd.DataFrame(rows)


def smallest(found: Sequence[Claim]) -> pd.DataFrame:
    """For a forest: of each claim the comparison with the smallest effect, at each task and fraction."""
    parts = []
    for claim in found:
        if len(claim.comparisons):
            rows = pd.DataFrame(baselines.smallest(claim.comparisons))
            parts.append(rows.assign(label=f"claim {claim.number}: {claim.short}", init=claim.init))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def show_claims(claims: Sequence[Claim]) -> None:
    """Show the comparisons that decide the claims, and the claims as a table."""
    table = smallest(claims)
    if len(table) and table["label"].nunique() > 1:  # else it is the figure of the result
        figures.show(
            figures.contrast_forest(table, "as named on the left", table["margin"].iloc[0]),
            alt="Differences in test AUROC that decide the claims, with intervals, by task and fraction",
            caption=f"Of each claim the comparison with the smallest effect. {forest_caption(table)}",
        )
    caption = "The paper's claims, and the comparison with the smallest effect"
    figures.table(overview(claims), caption, folded=True)
