"""What a test set can show: the smallest difference in AUROC between two inits.

The variance of one AUROC A over n+ patients with disease and n- without is that of Hanley and McNeil
(Radiology 1982;143:29-36, doi:10.1148/radiology.143.1.7063747):

    V = [A (1 - A) + (n+ - 1) (Q1 - A^2) + (n- - 1) (Q2 - A^2)] / (n+ n-)
    Q1 = A / (2 - A),  Q2 = 2 A^2 / (1 + A)

Q1: two patients with disease both score higher than one without; Q2: one scores higher than two without; for
scores of negative exponential distributions. At A = 0.85 normal scores that spread 1.6 times as wide with
disease as without have the same; with equal spreads V is 0.77 of it for RSPECT's test split and 1.18 of it
for LIDC's patients. Two runs score the same patients, so their AUROCs correlate, and the variance of the
difference of a pair is 2 V (1 - r) (Hanley and McNeil, Radiology 1983;148:839-843,
doi:10.1148/radiology.148.3.6878708; with one V for both, as the difference is small).

A mean over M networks and S seeds of each init has the variance that `ctlib.metrics.crossed_ci` estimates:
seeds are crossed with patients, as readers are by Obuchowski and Rockette (1995,
doi:10.1080/03610919508813243), and networks are those named. Of the AUROCs of two runs over patients, r is
the correlation of the same network and seed from the two inits, and e is what two different runs of one init
correlate more than they do across inits (r2 - r3 in that literature; equal for all pairs). Then, with s the
spread of the difference of a pair between seeds, beyond what patients explain,

    within  = 2 V [1 - r + (M - 1) e] / M        over patients, one seed
    shared  = 2 V e                              covariance over patients between two seeds
    between = (s^2 / M + within - shared) / S    between seeds, of the mean
    variance = between + shared

with (variance)^2 / (between^2 / (S - 1)) degrees of freedom (Hillis 2007, doi:10.1002/sim.2532; the analysis
takes somewhat fewer, as three seeds ask for). The smallest difference is (t(1 - alpha / 2) + t(power))
sqrt(variance). With one seed the analysis knows nothing of seeds,
and neither does this: `within` alone, and the figure holds for the networks as they were trained.

What is assumed, and not known before the runs: A, r, e and s. A is that of docs/protocol.md ("Power"),
whose ranges come out for r from 0.5 to 0.8; e is a guess of ours. s is sqrt(2) times the standard deviation
of one run's test AUROC between seeds, as if the seeds of a pair shared nothing: that of the profile's own
finished runs where there are enough (`measured_seeds`; what patients do to single runs is in it, so it is
a little large), else one by the size of the networks (`ASSUMED`). Patients count once each, however
many exams they have. With folds every patient is scored by the networks of one fold, and the AUROCs of the
folds are averaged; that networks of different folds share training patients is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from scipy.special import ndtri, stdtrit

CORRELATIONS = (0.8, 0.5)
"""Of paired AUROCs: docs/protocol.md, its best and worst case."""


ENOUGH_FREEDOM = 10
"""Degrees of freedom from which on a spread between seeds is taken from runs: it is known to 22 % then."""


@dataclass(frozen=True)
class Seeds:
    """How much the test AUROC of a run varies between seeds.

    Args:
        sd: standard deviation between the seeds of an arm.
        source: where it is from, a few words.
    """

    sd: float
    source: str


ASSUMED = {
    "tiny": Seeds(0.06, "assumed for tiny networks: 0.03 to 0.08 in development runs"),
    "full": Seeds(0.02, "assumed for full-size networks: 0.01 to 0.03, for want of a public measurement"),
}
"""By size of the networks. Tiny: runs that learned, while the demo was made. Full: a guess; of 50 seeds of a
network for chest radiographs AUCs varied less than scores did (Zech et al. 2019, arXiv:1912.03606)."""


def measured_seeds(aurocs: pd.DataFrame) -> Seeds | None:
    """The pooled standard deviation between the seeds of an arm.

    Args:
        aurocs: columns task, fraction, backbone, init, seed, auroc; several rows of a seed are its folds.

    Returns:
        None where fewer than `ENOUGH_FREEDOM` degrees of freedom are left.

    >>> arm = {"task": "rspect_pe", "fraction": 1.0, "backbone": "penet", "init": "random"}
    >>> found = measured_seeds(pd.DataFrame([arm | {"seed": s, "auroc": 0.7 + s / 100} for s in range(11)]))
    >>> round(found.sd, 4), found.source
    (0.0332, '11 finished runs of this profile')
    """
    arm = ["task", "fraction", "backbone", "init"]
    by_seed = aurocs.dropna(subset="auroc").groupby([*arm, "seed"], sort=False)["auroc"].mean()
    arms = by_seed.groupby(level=arm, sort=False)
    freedom = int((arms.size() - 1).sum())
    if freedom < ENOUGH_FREEDOM:
        return None
    squares = float(((by_seed - arms.transform("mean")) ** 2).sum())
    return Seeds(math.sqrt(squares / freedom), f"{len(by_seed)} finished runs of this profile")


@dataclass(frozen=True)
class Scored:
    """The patients that each run of an arm scores.

    Args:
        n_positive: with disease, over all folds.
        n_negative: without.
        folds: AUROCs that are averaged, each over its share of the patients; 1 pools all of them.

    Raises:
        ValueError: no patient of a class, or folds below 1.
    """

    n_positive: int
    n_negative: int
    folds: int = 1

    def __post_init__(self) -> None:
        if min(self.n_positive, self.n_negative) < self.folds or self.folds < 1:
            raise ValueError(
                f"{self.n_positive} test patients with disease and {self.n_negative} without in {self.folds} "
                "folds: an AUROC needs one of each in every fold."
            )

    @property
    def n_patients(self) -> int:
        """All of them."""
        return self.n_positive + self.n_negative


@dataclass(frozen=True)
class Design:
    """What is compared, and what is assumed; see the module.

    Args:
        networks: M, networks whose differences are averaged.
        seeds: S, seeds of each.
        auroc: A, of both inits.
        correlation: r, of the AUROCs of a pair, in [0, 1).
        excess: e, in [0, 1 - r].
        of_seeds: of one run; s is sqrt(2) times its standard deviation.
        power: probability to see the difference.
        alpha: of the two-sided test.

    Raises:
        ValueError: a value is out of its range.
    """

    networks: int = 1
    seeds: int = 1
    auroc: float = 0.85
    correlation: float = 0.5
    excess: float = 0.05
    of_seeds: Seeds = ASSUMED["full"]
    power: float = 0.8
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if self.networks < 1 or self.seeds < 1:
            raise ValueError(f"networks is {self.networks}, seeds is {self.seeds}; give at least 1 of each.")
        if not 0.5 <= self.auroc < 1:
            raise ValueError(f"auroc is {self.auroc}; give a value from 0.5 to below 1.")
        shares = 0 <= self.correlation < 1 and 0 <= self.excess <= 1 - self.correlation
        if not (shares and self.seed_sd >= 0):
            raise ValueError(
                f"correlation is {self.correlation}, excess is {self.excess}, seed_sd is {self.seed_sd}; "
                "give a correlation from 0 to below 1, an excess from 0 to 1 - correlation, a spread from 0."
            )
        if not (0.5 < self.power < 1 and 0 < self.alpha < 1):
            raise ValueError(f"power is {self.power}, alpha is {self.alpha}; give 0.5 to 1 and 0 to 1.")

    @property
    def seed_sd(self) -> float:
        """s, the standard deviation of a pair's difference in AUROC between seeds."""
        return math.sqrt(2) * self.of_seeds.sd


def auroc_variance(auroc: float, scored: Scored) -> float:
    """Variance of an AUROC over patients (Hanley and McNeil 1982); of folds, of their mean.

    >>> round(auroc_variance(0.85, Scored(328, 764)) ** 0.5, 4)  # RSPECT's test split
    0.0142
    """
    positive, negative = scored.n_positive / scored.folds, scored.n_negative / scored.folds
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    spread = auroc * (1 - auroc) + (positive - 1) * (q1 - auroc**2) + (negative - 1) * (q2 - auroc**2)
    return spread / (positive * negative) / scored.folds


def smallest_difference(scored: Scored, design: Design = Design()) -> float:
    """Smallest difference in AUROC that is seen with the asked power; see the module.

    >>> lidc = Scored(91, 61)  # 152 patients at a prevalence of 0.60
    >>> [round(smallest_difference(lidc, Design(correlation=r)), 3) for r in CORRELATIONS]
    [0.054, 0.085]
    """
    pair = 2 * auroc_variance(design.auroc, scored)
    m, s = design.networks, design.seeds
    within = pair * (1 - design.correlation + (m - 1) * design.excess) / m
    tails = (1 - design.alpha / 2, design.power)
    if s == 1:
        return float(sum(map(ndtri, tails)) * math.sqrt(within))
    shared = pair * design.excess
    between = (design.seed_sd**2 / m + within - shared) / s
    freedom = (between + shared) ** 2 / (between**2 / (s - 1)) if between else math.inf
    return float(sum(stdtrit(freedom, tail) for tail in tails) * math.sqrt(between + shared))


def sheet(
    tasks: Mapping[str, Scored], design: Design, correlations: Sequence[float] = CORRELATIONS
) -> pd.DataFrame:
    """The power sheet: smallest differences of a single pair and of the mean, by task.

    Args:
        tasks: test patients of each task.
        design: networks, seeds and assumptions; its correlation is not used.
        correlations: of paired AUROCs; a column each.

    Returns:
        Columns task, patients, with disease, for each correlation `pair, r=...` and `mean, r=...`, and SD of
        seeds with where it is from.
    """
    rows = []
    for name, scored in tasks.items():
        row: dict[str, str | int | float] = {"task": name, "patients": scored.n_patients}
        row["with disease"] = scored.n_positive
        for title, asked in (("pair", replace(design, networks=1, seeds=1)), ("mean", design)):
            for r in correlations:
                found = smallest_difference(scored, replace(asked, correlation=r))
                row[f"{title}, r={r:g}"] = found
        rows.append(row | {"SD of seeds": design.of_seeds.sd, "SD from": design.of_seeds.source})
    return pd.DataFrame(rows)


def sentence(design: Design) -> str:
    """What the sheet says, and what it assumes."""
    return (
        "Detectable difference: the smallest in AUROC between two starting weights that is seen with "
        f"{design.power:.0%} power at a two-sided {design.alpha:g} (Hanley and McNeil 1982, 1983), of a single "
        f"pair of runs and of the mean over {design.networks} networks and {design.seeds} seeds. {assumptions(design)}"
    )


def assumptions(design: Design) -> str:
    """What is assumed, two sentences."""
    return (
        f"Assumed: AUROC {design.auroc:g}; "
        "paired AUROCs correlate with r over patients; two runs from the same starting weights correlate "
        f"{design.excess:g} more than from others (a guess); between seeds the AUROC of a run has a standard "
        f"deviation of {design.of_seeds.sd:.3f} ({design.of_seeds.source}), a pair's difference "
        f"{design.seed_sd:.3f}. The analysis estimates all of these."
    )
