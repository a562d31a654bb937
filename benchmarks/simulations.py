"""Coverage of the intervals of `ctlib.metrics` on simulated experiments whose truth is known.

    python benchmarks/simulations.py [--experiments 700] [--seed 0] [--processes 2] [--kind WORDS]

Each experiment: seven networks, two inits, some seeds, and test patients with some exams each. The score of
exam e of patient p by the run of network m, init i, seed s is

    d[i, m, s] label + patient[p] + init x patient[i, p] + network x patient[m, p] + exam[e] + run[i, m, s, e]

all terms but the first normal, so that scores of an exam, and of a patient's exams, correlate within a
run and between runs, more so within an init or a network. d is that of the network and init, plus what
the seed adds to all runs of an init, plus what it adds to this run. The true AUROC is then a normal
integral: of a run Phi(d / sqrt(2 v)), v the variance of a score; of a network and init the mean of that over
seeds, by quadrature. (Exams of a patient have one label, so no pair is within a patient.) Kinds of
experiment differ in patients, seeds and effect, and in ways to be no textbook: a run learns nothing with
some probability, a score has few levels, patients have up to seven exams.

Asked of each kind, and printed as one line:

* intervals at 95 % cover the truth in 93 to 97 %: AUROC of a run, difference of a pair of runs, AUROC of
  a network over seeds, effect in a network, effect averaged over the seven; reported too: the mean over
  networks like these, a next network, the spread between networks, and DeLong's interval;
* where there is no effect, tests at 5 % reject in 4 to 6 %, of twice as many experiments; of the eight
  comparisons of a table any is falsely named after Holm's correction in at most 5 %, and so in four tables
  (two tasks, two fractions) that are corrected as one;
* where a class has fewer than 20 patients, or runs learn nothing, a fault must be warned of, by the very
  functions that the reports ask (`Exams.warning`, `seeds_apart`), in at least 95 % of the experiments;
* exams counted as patients: coverage must fail.

A share is off where chance does not explain it: two standard errors, of a share of 5 % in as many
experiments, are granted.

Everything is `ctlib.metrics` as the analysis uses it; only tables of runs are left out. Few draws of the
patients (400) do: their chance error adds little to that of a variance of 32 patients.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ctlib.metrics.bootstrap import Exams, components
from ctlib.metrics.crossed_ci import Estimate, Interval, for_next, for_these, seeds_alike
from ctlib.metrics.decisions import holm, seeds_apart

NETWORKS, DRAWS, LEVEL = 7, 400, 0.95
SPREADS = {"patient": 0.6, "init x patient": 0.3, "network x patient": 0.35, "exam": 0.4, "run": 0.4}
"""Standard deviations of the terms of a score."""
VARIANCE = sum(value**2 for value in SPREADS.values())
"""Of a score."""
BETWEEN_NETWORKS = 0.2
"""Spread over networks of d, halfway between the inits."""
CUTS = np.array([-0.84, -0.25, 0.25, 0.84])
"""Where a score of five levels is cut, standard deviations from the middle: about a fifth each."""
TABLES = 4
"""Tables (two tasks, two fractions) that are corrected as one family."""
WARNED = 0.95
"""Share of experiments that must carry a warning where something is not as asked."""
ASKED = [
    "AUROC of a run",
    "difference of a pair",
    "AUROC over seeds",
    "effect, one network",
    "effect, averaged",
]
"""What must cover in 93 to 97 %."""
REJECTED = ["rejected, one network", "rejected, averaged"]
"""What must be 4 to 6 % where there is no effect."""
NAMED = ["named, a table", "named, four tables"]
"""What must be at most 5 % where there is no effect."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """A kind of experiment.

    Args:
        seed_sd: what a seed adds to d of all runs of an init, standard deviation.
        run_sd: what it adds to d of one run.
        gain: of the second init in d, mean over networks.
        gain_sd: its spread over networks.
        seeds: number of them.
        patients: test patients.
        ill: those of them with disease.
        exams: fewest and most exams of a patient.
        middle: mean over networks of d, halfway between the inits.
        learns: probability that a run learns; of one that does not, d is what seeds add.
        levels: whether a score has five levels instead of all values.
    """

    seed_sd: float
    run_sd: float
    gain: float = 0.0
    gain_sd: float = 0.0
    seeds: int = 3
    patients: int = 80
    ill: int = 32
    exams: tuple[int, int] = (1, 5)
    middle: float = 1.2
    learns: float = 1.0
    levels: bool = False

    @property
    def may_warn(self) -> bool:
        """Whether a warning may stand for coverage: few of a class, or runs that learn nothing."""
        return bool(Exams(self.table()).warning) or self.learns < 1

    def table(self) -> pd.DataFrame:
        """One exam a patient: columns patient_id and label."""
        patient = np.arange(self.patients)
        return pd.DataFrame({"patient_id": patient, "label": (patient < self.ill).astype(int)})


def _d(auroc: float) -> float:
    """d of a run with this AUROC."""
    return float(math.sqrt(2 * VARIANCE) * ndtri(auroc))


PLAIN: dict[str, Any] = {"patients": 88, "ill": 44, "exams": (1, 1)}
RARE: dict[str, Any] = {"gain": 0.3, "gain_sd": 0.15, "exams": (1, 1)}
KINDS = {
    "seeds matter little": Kind(0.04, 0.1, 0.3, 0.15),
    "seeds matter much": Kind(0.15, 0.3, 0.3, 0.15),
    "seeds matter little, no effect": Kind(0.04, 0.1),
    "seeds matter much, no effect": Kind(0.15, 0.3),
    "5 seeds, no effect": Kind(0.05, 0.1, seeds=5, **PLAIN),
    "3 seeds, no effect": Kind(0.05, 0.1, **PLAIN),
    "seed SD x3, 5 seeds, no effect": Kind(0.15, 0.3, seeds=5, **PLAIN),
    "seed SD x3, 3 seeds, no effect": Kind(0.15, 0.3, **PLAIN),
    "bimodal, 5 seeds, no effect": Kind(0.05, 0.1, seeds=5, learns=0.8, **PLAIN),
    "bimodal, 3 seeds, no effect": Kind(0.05, 0.1, learns=0.8, **PLAIN),
    "4 of 40 ill, no effect": Kind(0.05, 0.1, seeds=5, patients=40, ill=4, exams=(1, 1)),
    "AUROC .95, 8 of 80 ill, no effect": Kind(0.05, 0.1, seeds=5, ill=8, exams=(1, 1), middle=_d(0.95)),
    "five levels, no effect": Kind(0.05, 0.1, seeds=5, levels=True, **PLAIN),
    "40 patients of 1 to 7 exams, no effect": Kind(0.05, 0.1, seeds=5, patients=40, ill=20, exams=(1, 7)),
    "10 of 100 ill, AUROC .93, 3 seeds": Kind(0.05, 0.1, patients=100, ill=10, middle=_d(0.93), **RARE),
    "10 of 100 ill, AUROC .93, 5 seeds": Kind(
        0.05, 0.1, seeds=5, patients=100, ill=10, middle=_d(0.93), **RARE
    ),
    "30 of 300 ill, AUROC .90, 3 seeds": Kind(0.05, 0.1, patients=300, ill=30, middle=_d(0.90), **RARE),
}
"""The first four have patients of 1 to 5 exams; the others are an audit's, 5 seeds where none is said."""


@dataclass(frozen=True)
class Experiment:
    """Scores `[2, networks, seeds, exams]`, the exams, and the true AUROCs and effects."""

    scores: Array
    exams: Exams
    careless: Exams
    of_run: Array
    of_network: Array
    mean_effect: float
    next_effect: float
    spread: float


def experiment(kind: Kind, rng: np.random.Generator) -> Experiment:
    """One experiment of a kind."""
    times = rng.integers(*kind.exams, kind.patients, endpoint=True)
    table = kind.table().loc[np.repeat(np.arange(kind.patients), times)].reset_index(drop=True)
    patient, label, n = table["patient_id"].to_numpy(), table["label"].to_numpy(), len(table)
    shape = (2, NETWORKS, kind.seeds)
    # one network more: the next
    middle = kind.middle + BETWEEN_NETWORKS * rng.normal(size=NETWORKS + 1)
    gain = kind.gain + kind.gain_sd * rng.normal(size=NETWORKS + 1)
    strength = middle + np.array([-0.5, 0.5])[:, None] * gain
    d = strength[:, :-1, None] * (rng.random(shape) < kind.learns)
    d = d + kind.seed_sd * rng.normal(size=(2, 1, kind.seeds)) + kind.run_sd * rng.normal(size=shape)
    sd = SPREADS
    score = sd["patient"] * rng.normal(size=kind.patients)[patient] + sd["exam"] * rng.normal(size=n)
    score = score + sd["init x patient"] * rng.normal(size=(2, 1, 1, kind.patients))[..., patient]
    score = score + sd["network x patient"] * rng.normal(size=(NETWORKS, 1, kind.patients))[..., patient]
    score = score + d[..., None] * label + sd["run"] * rng.normal(size=(*shape, n))
    of_network = network_auroc(kind, strength)
    mean, spread = _population(kind)
    return Experiment(
        scores=np.digitize(score, _cuts(kind)).astype(float) if kind.levels else score,
        exams=Exams(table),
        careless=Exams(table.assign(patient_id=np.arange(n))),
        of_run=run_auroc(kind, d),
        of_network=of_network[:, :-1],
        mean_effect=mean,
        next_effect=float(of_network[1, -1] - of_network[0, -1]),
        spread=spread,
    )


def _cuts(kind: Kind) -> Array:
    return kind.middle / 2 + CUTS * math.sqrt(VARIANCE)


def run_auroc(kind: Kind, d: Array) -> Array:
    """True AUROC of runs by their d."""
    if not kind.levels:
        return np.asarray(ndtr(d / math.sqrt(2 * VARIANCE)))
    without, having = (
        np.diff(ndtr((_cuts(kind) - shift[..., None]) / math.sqrt(VARIANCE)), prepend=0, append=1)
        for shift in (np.zeros_like(d), d)
    )
    return np.asarray((having * (np.cumsum(without, axis=-1) - without / 2)).sum(axis=-1))


def network_auroc(kind: Kind, strength: Array) -> Array:
    """Mean true AUROC over seeds of networks by their strength."""
    points, weights = np.polynomial.hermite_e.hermegauss(15)
    shift = math.hypot(kind.seed_sd, kind.run_sd) * points
    weights = weights / weights.sum()
    learned = run_auroc(kind, strength[..., None] + shift) @ weights
    return np.asarray(kind.learns * learned + (1 - kind.learns) * (run_auroc(kind, shift) @ weights))


@lru_cache
def _population(kind: Kind) -> tuple[float, float]:
    """Mean and standard deviation over networks of the effect in AUROC, by quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(25)
    middle = (kind.middle + BETWEEN_NETWORKS * points)[:, None]
    gain = kind.gain + kind.gain_sd * points
    effect = network_auroc(kind, middle + gain / 2) - network_auroc(kind, middle - gain / 2)
    weight = np.outer(weights, weights) / weights.sum() ** 2
    mean = float((weight * effect).sum())
    return mean, math.sqrt((weight * (effect - mean) ** 2).sum())


def _delong(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Interval:
    """AUROC with the interval of DeLong et al. (1988, doi:10.2307/2531595): exams taken as independent."""
    parts = [part[0] for part in components(labels, scores[None])]
    variance = sum(float(np.var(part, ddof=1)) / len(part) for part in parts)
    reason = "" if variance > 1e-24 else "the exams do not differ in what they say of it"
    se = math.nan if reason else math.sqrt(variance)
    return Estimate(float(parts[0].mean()), se, math.inf, reason).share_interval(LEVEL)


def judge(case: Experiment, rng: np.random.Generator) -> dict[str, float]:
    """Whether intervals hold the truth, whether tests reject, and the like: shares, most of them 0 or 1."""
    exams, draws = case.exams, case.exams.draw(DRAWS, rng)
    values = _of_runs(case.scores, exams.auroc)
    drawn = _of_runs(case.scores, lambda score: exams.resampled(score, draws))
    influence = _of_runs(case.scores, exams.influence)
    found = _single(case, values, drawn, influence, exams)
    first, ignored = case.scores[:, :1, :1], case.careless.draw(DRAWS, rng)
    redrawn = _of_runs(first, lambda score: case.careless.resampled(score, ignored))
    ignoring = _single(case, values, redrawn, _of_runs(first, case.careless.influence), case.careless)
    found |= {f"{name}, exams as patients": share for name, share in ignoring.items()}
    arm = for_these(values[0, :1], drawn[0, :1], exams.freedom(influence[0, 0].mean(axis=0)))
    found["AUROC over seeds"] = _holds(arm.share_interval(LEVEL), case.of_network[0, 0])
    classic = _delong(exams.label, case.scores[0, 0, 0])
    found["AUROC of a run, DeLong (exams as patients)"] = _holds(classic, case.of_run[0, 0, 0])
    of_arm = np.concatenate(values)
    alike = [seeds_alike(*one) for one in zip(of_arm, np.concatenate(drawn), strict=True)]
    apart = bool(seeds_apart(alike, of_arm.std(axis=1, ddof=1), LEVEL).any())
    found |= {"seeds apart": apart, "warned": apart or bool(exams.warning)}
    return found | _effects(case, values[1] - values[0], drawn[1] - drawn[0], influence[1] - influence[0])


def _of_runs(scores: Array, of: Callable[[Array], Any]) -> Array:
    """`[2, networks, seeds, ...]`: something of each run's scores."""
    return np.array([[[of(score) for score in seeds] for seeds in arm] for arm in scores])


def _single(
    case: Experiment, values: Array, drawn: Array, influence: Array, exams: Exams
) -> dict[str, float]:
    """Of the first run and the first pair."""
    free = [exams.freedom(influence[0, 0, 0]), exams.freedom(influence[1, 0, 0] - influence[0, 0, 0])]
    of_run = Estimate(float(values[0, 0, 0]), float(drawn[0, 0, 0].std(ddof=1)), free[0])
    pair = for_these(values[1, :1, :1] - values[0, :1, :1], (drawn[1] - drawn[0])[:1, :1], free[1])
    return {
        "AUROC of a run": _holds(of_run.share_interval(LEVEL), case.of_run[0, 0, 0]),
        "difference of a pair": _holds(pair.interval(LEVEL), case.of_run[1, 0, 0] - case.of_run[0, 0, 0]),
    }


def _effects(case: Experiment, gain: Array, drawn: Array, influence: Array) -> dict[str, float]:
    """Of single networks, their mean, and networks like these."""
    exams, truth = case.exams, case.of_network[1] - case.of_network[0]
    of_network = influence.mean(axis=1)
    each = [for_these(gain[[m]], drawn[[m]], exams.freedom(of_network[m])) for m in range(NETWORKS)]
    free = exams.freedom(of_network.mean(axis=0))
    mean, others = for_these(gain, drawn, free), for_next(gain, drawn, free, LEVEL)
    held = [_holds(one.interval(LEVEL), value) for one, value in zip(each, truth, strict=True)]
    p_values = [one.p_value for one in (*each, mean)]
    return {
        "effect, one network": float(np.mean(held)),
        "effect, averaged": _holds(mean.interval(LEVEL), truth.mean()),
        "mean over networks like these": _holds(others.mean.interval(LEVEL), case.mean_effect),
        "a next network": _holds(others.next.interval(LEVEL), case.next_effect),
        "spread between networks": others.low_spread <= case.spread <= others.high_spread,
        "p_next": others.next.p_above,
        "next network benefits": case.next_effect > 0,
        "rejected, one network": float(np.mean([p < 1 - LEVEL for p in p_values[:-1]])),
        "rejected, averaged": p_values[-1] < 1 - LEVEL,
        "rejected, networks like these": others.mean.p_value < 1 - LEVEL,
        "named, a table": _any_named(p_values),
    } | {f"p {k}": p for k, p in enumerate(p_values)}


def _holds(interval: Interval, truth: float) -> bool:
    """Whether the truth lies inside; a value without an interval says nothing, which is no miss."""
    return bool(interval.reason) or bool(interval.low <= truth <= interval.high)


def _any_named(p_values: Iterable[float]) -> bool:
    """Whether anything of a family is left after Holm's correction."""
    return bool((holm(list(p_values)) < 1 - LEVEL).any())


def simulate(kind: Kind, experiments: int, seed: int = 0, processes: int = 1) -> pd.Series:
    """Shares over many experiments of one kind; the same for any number of processes."""
    if processes == 1:
        found = _judged(kind, range(experiments), seed)
    else:
        parts = [range(first, experiments, 4 * processes) for first in range(4 * processes)]
        with ProcessPoolExecutor(processes) as pool:
            found = pd.concat(pool.map(_judged, repeat(kind), parts, repeat(seed))).sort_index()
    of_table = found.filter(regex=r"^p \d$")
    families = np.array_split(of_table.to_numpy(), max(experiments // TABLES, 1))
    shares = found.drop(columns=of_table.columns).mean()
    shares["named, four tables"] = float(np.mean([_any_named(family.ravel()) for family in families]))
    shares["experiments"] = experiments
    return shares


def _judged(kind: Kind, numbers: Iterable[int], seed: int) -> pd.DataFrame:
    rows = []
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        rows.append(judge(experiment(kind, rng), rng))
    return pd.DataFrame(rows, index=list(numbers)).astype(float)


def wrong(name: str, shares: pd.Series) -> list[str]:
    """What is not as asked of a kind of experiment.

    Args:
        name: a key of `KINDS`.
        shares: from `simulate`.
    """
    slack = 2 * math.sqrt(0.05 * 0.95 / shares["experiments"])
    asked = {row: (0.93, 0.97, "is covered in") for row in ASKED}
    if KINDS[name].gain == 0:
        asked |= {row: (0.04, 0.06, "in") for row in REJECTED} | {row: (0.0, 0.05, "in") for row in NAMED}
    found = []
    for row, (low, high, verb) in asked.items():
        more = slack * (math.sqrt(TABLES) if row == "named, four tables" else 1)
        if not low - more <= shares[row] <= high + more:
            found.append(f"{row} {verb} {shares[row]:.1%}")
    if KINDS[name].may_warn and shares["warned"] >= WARNED:
        found = []
    for row in ASKED[:2] if KINDS[name].exams[1] > 1 else []:
        if shares[f"{row}, exams as patients"] > 0.93 - slack:
            found.append(f"{row} is covered although patients are ignored")
    return found


def line(name: str, shares: pd.Series) -> str:
    """What a kind of experiment found, and whether it is as asked."""
    covered = ", ".join(f"{shares[row]:.1%}" for row in ASKED)
    text = f"{name}: covered {covered}"
    if KINDS[name].gain == 0:
        text += f"; false positives {shares[REJECTED[0]]:.1%}, {shares[REJECTED[1]]:.1%}"
        text += f"; named in a table {shares[NAMED[0]]:.1%}, in four {shares[NAMED[1]]:.1%}"
    return f"{text}; warned {shares['warned']:.0%}: {'; '.join(wrong(name, shares)) or 'as asked'}"


def main() -> int:
    """Print a line a kind and the table; 1 where something is not as asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=700, help="of a kind; twice without effect")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kind", default="", help="words of the kinds to run; all by default")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    began = time.monotonic()
    found = {}
    print(f"covered: {', '.join(ASKED)}; false positives: {', '.join(REJECTED)}")
    for name, kind in KINDS.items():
        if asked.kind in name:
            many = asked.experiments * (1 if kind.gain else 2)
            found[name] = simulate(kind, many, asked.seed, asked.processes)
            print(line(name, found[name]), flush=True)
    table = pd.DataFrame(found)
    print(table.round(3).T.to_string())
    print(f"{time.monotonic() - began:.0f} s with {asked.processes} processes")
    if asked.json:
        asked.json.write_text(json.dumps(table.to_dict(), indent=1))
    return int(any(wrong(name, shares) for name, shares in found.items()))


if __name__ == "__main__":
    sys.exit(main())
