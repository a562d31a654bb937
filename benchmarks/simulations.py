"""Coverage of the intervals of `ctlib.stats` on simulated experiments whose truth is known.

    python benchmarks/simulations.py [--experiments 1200] [--seed 0] [--processes 2] [--json FILE]

Each experiment: seven networks, two inits, three seeds, 80 test patients with one to five exams each, of
whom 32 have disease. The score of exam e of patient p by the run of network m, init i, seed s is

    d[i, m, s] label + patient[p] + init x patient[i, p] + network x patient[m, p] + exam[e] + run[i, m, s, e]

all terms but the first normal, so that scores of an exam, and of a patient's exams, correlate within a
run and between runs, more so within an init or a network. d is that of the network and init, plus what
the seed adds to all runs of an init, plus what it adds to this run. The true AUROC is then a normal
integral: of a run Phi(d / sqrt(2 v)), v the variance of a score; of a network and init, over all seeds,
the same with the seeds' variances added below the root; of all networks with theirs. (Exams of a patient
have one label, so no pair is within a patient.)

Four kinds of experiment: seeds matter little or much beside patients, with and without an effect. Asked:

* intervals at 95 % cover the truth in 93 to 97 %: AUROC of a run, difference of a pair of runs, AUROC of
  a network over seeds, effect in a network, effect averaged over the seven; reported too: the mean over
  networks like these, a next network, the spread between networks, and DeLong's interval;
* where there is no effect, tests at 5 % reject in 4 to 6 %, of six times as many experiments: of 2,400, a
  share of 4.3 % has a standard error of 0.4 and comes out below 4 % one time in four;
* exams counted as patients: coverage must fail.

Everything is `ctlib.stats` as the analysis uses it; only tables of runs are left out. Few draws of the
patients (400) do: their chance error adds little to that of a variance of 32 patients.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from ctlib.stats import delong
from ctlib.stats.crossed import Estimate, for_next, for_these
from ctlib.stats.exams import Exams

NETWORKS, SEEDS, PATIENTS, DRAWS = 7, 3, 80, 400
LABEL = (np.arange(PATIENTS) % 5 < 2).astype(int)
SPREADS = {"patient": 0.6, "init x patient": 0.3, "network x patient": 0.35, "exam": 0.4, "run": 0.4}
"""Standard deviations of the terms of a score."""
MIDDLE, BETWEEN_NETWORKS = 1.2, 0.2
"""Mean and spread over networks of d, halfway between the inits."""
ASKED = [
    "AUROC of a run",
    "difference of a pair",
    "AUROC over seeds",
    "effect, one network",
    "effect, averaged",
]
"""What must cover in 93 to 97 %."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """A kind of experiment.

    Args:
        seed_sd: what a seed adds to d of all runs of an init, standard deviation.
        run_sd: what it adds to d of one run.
        gain: of the second init in d, mean over networks.
        gain_sd: its spread over networks.
    """

    seed_sd: float
    run_sd: float
    gain: float
    gain_sd: float


KINDS = {
    "seeds matter little": Kind(0.04, 0.1, 0.3, 0.15),
    "seeds matter much": Kind(0.15, 0.3, 0.3, 0.15),
    "seeds matter little, no effect": Kind(0.04, 0.1, 0.0, 0.0),
    "seeds matter much, no effect": Kind(0.15, 0.3, 0.0, 0.0),
}


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
    patient = np.repeat(np.arange(PATIENTS), rng.integers(1, 6, PATIENTS))
    label, n = LABEL[patient], len(patient)
    signs = np.array([-0.5, 0.5])[:, None]
    # one network more: the next
    middle = MIDDLE + BETWEEN_NETWORKS * rng.normal(size=NETWORKS + 1)
    gain = kind.gain + kind.gain_sd * rng.normal(size=NETWORKS + 1)
    strength = middle + signs * gain
    d = strength[:, :-1, None] + kind.seed_sd * rng.normal(size=(2, 1, SEEDS))
    d = d + kind.run_sd * rng.normal(size=(2, NETWORKS, SEEDS))
    sd = SPREADS
    score = sd["patient"] * rng.normal(size=PATIENTS)[patient] + sd["exam"] * rng.normal(size=n)
    score = score + sd["init x patient"] * rng.normal(size=(2, 1, 1, PATIENTS))[..., patient]
    score = score + sd["network x patient"] * rng.normal(size=(NETWORKS, 1, PATIENTS))[..., patient]
    score = score + d[..., None] * label + sd["run"] * rng.normal(size=(2, NETWORKS, SEEDS, n))
    twice = 2 * sum(value**2 for value in sd.values())
    over_seeds = twice + kind.seed_sd**2 + kind.run_sd**2
    over_all = over_seeds + BETWEEN_NETWORKS**2 + (kind.gain_sd / 2) ** 2
    of_network = ndtr(strength / math.sqrt(over_seeds))
    population = ndtr((MIDDLE + signs[:, 0] * kind.gain) / math.sqrt(over_all))
    table = pd.DataFrame({"patient_id": patient, "label": label})
    return Experiment(
        scores=score,
        exams=Exams(table),
        careless=Exams(table.assign(patient_id=np.arange(n))),
        of_run=ndtr(d / math.sqrt(twice)),
        of_network=of_network[:, :-1],
        mean_effect=float(population[1] - population[0]),
        next_effect=float(of_network[1, -1] - of_network[0, -1]),
        spread=_true_spread(kind, math.sqrt(over_seeds)),
    )


def _true_spread(kind: Kind, root: float) -> float:
    """Standard deviation over networks of the effect in AUROC, by quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    middle = (MIDDLE + BETWEEN_NETWORKS * points)[:, None]
    gain = kind.gain + kind.gain_sd * points
    effect = ndtr((middle + gain / 2) / root) - ndtr((middle - gain / 2) / root)
    weight = np.outer(weights, weights) / weights.sum() ** 2
    mean = (weight * effect).sum()
    return math.sqrt((weight * (effect - mean) ** 2).sum())


def judge(case: Experiment, rng: np.random.Generator) -> dict[str, float]:
    """Whether intervals hold the truth, whether tests reject, and the like: shares, most of them 0 or 1."""
    found: dict[str, float] = {}
    values = np.array([[[case.exams.auroc(s) for s in seeds] for seeds in arm] for arm in case.scores])
    for exams, who in ((case.exams, ""), (case.careless, ", exams as patients")):
        draws, free = exams.draw(DRAWS, rng), exams.freedom
        chosen = case.scores if not who else case.scores[:, :1, :1]
        drawn = np.array([[[exams.resampled(s, draws) for s in seeds] for seeds in arm] for arm in chosen])
        of_run = Estimate(float(values[0, 0, 0]), float(drawn[0, 0, 0].std(ddof=1)), free).share_interval()
        pair = for_these(values[1, :1, :1] - values[0, :1, :1], (drawn[1] - drawn[0])[:1, :1], free)
        found[f"AUROC of a run{who}"] = of_run.low <= case.of_run[0, 0, 0] <= of_run.high
        found[f"difference of a pair{who}"] = _holds(pair, case.of_run[1, 0, 0] - case.of_run[0, 0, 0])
        if not who:
            every, rate = drawn, free
    arm = for_these(values[0, :1], every[0, :1], rate).share_interval()
    found["AUROC over seeds"] = arm.low <= case.of_network[0, 0] <= arm.high
    gain, drawn = values[1] - values[0], every[1] - every[0]
    truth = case.of_network[1] - case.of_network[0]
    each = [for_these(gain[[m]], drawn[[m]], rate) for m in range(NETWORKS)]
    mean, others = (
        for_these(gain, drawn, rate),
        for_next(gain, drawn, rate),
    )
    found |= {
        "effect, one network": np.mean([_holds(*pair) for pair in zip(each, truth, strict=True)]),
        "effect, averaged": _holds(mean, truth.mean()),
    }
    found |= {"mean over networks like these": _holds(others.mean, case.mean_effect)}
    found |= {"a next network": _holds(others.next, case.next_effect)}
    found |= {"spread between networks": others.low_spread <= case.spread <= others.high_spread}
    found |= {"p_next": others.next.p_above, "next network benefits": case.next_effect > 0}
    found |= {
        "rejected, one network": np.mean([one.p_value < 0.05 for one in each]),
        "rejected, averaged": mean.p_value < 0.05,
    }
    found |= {"rejected, networks like these": others.mean.p_value < 0.05}
    classic = delong(case.exams.label, case.scores[0, 0, 0]).interval()
    found["AUROC of a run, DeLong (exams as patients)"] = classic.low <= case.of_run[0, 0, 0] <= classic.high
    return found


def _holds(estimate: Estimate, truth: float) -> bool:
    interval = estimate.interval()
    return bool(interval.low <= truth <= interval.high)


def simulate(kind: Kind, experiments: int, seed: int = 0, processes: int = 1) -> pd.Series:
    """Shares over many experiments of one kind; the same for any number of processes."""
    if processes == 1:
        found = _judged(kind, range(experiments), seed)
    else:
        parts = [range(first, experiments, 4 * processes) for first in range(4 * processes)]
        with ProcessPoolExecutor(processes) as pool:
            found = pd.concat(pool.map(_judged, repeat(kind), parts, repeat(seed)))
    return found.mean()


def _judged(kind: Kind, numbers: Iterable[int], seed: int) -> pd.DataFrame:
    rows = []
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        rows.append(judge(experiment(kind, rng), rng))
    return pd.DataFrame(rows).astype(float)


def wrong(table: pd.DataFrame, slack: float = 0.0) -> list[str]:
    """What is not as asked.

    Args:
        table: a column a kind of experiment, a row a share.
        slack: what chance may add to a share that is tested.
    """
    found = []
    for kind, shares in table.items():
        for name in ASKED:
            if not 0.93 - slack <= shares[name] <= 0.97 + slack:
                found.append(f"{kind}: {name} is covered in {shares[name]:.1%}")
        for name in ("rejected, one network", "rejected, averaged"):
            if "no effect" in str(kind) and not 0.04 - slack <= shares[name] <= 0.06 + slack:
                found.append(f"{kind}: {name} in {shares[name]:.1%}")
        for name in ("AUROC of a run", "difference of a pair"):
            if shares[f"{name}, exams as patients"] > 0.93 - slack:
                found.append(f"{kind}: {name} is covered although patients are ignored")
    return found


def main() -> int:
    """Print the table; 1 where something is not as asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=1200, help="of a kind; six times without effect")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    began = time.monotonic()
    many = {name: asked.experiments * (1 if kind.gain else 6) for name, kind in KINDS.items()}
    table = pd.DataFrame(
        {name: simulate(kind, many[name], asked.seed, asked.processes) for name, kind in KINDS.items()}
    )
    print(table.round(3).to_string())
    seconds = time.monotonic() - began
    print(f"{sum(many.values())} experiments, {seconds:.0f} s with {asked.processes} processes")
    faults = wrong(table)
    print("\n".join(faults) or "all as asked")
    if asked.json:
        asked.json.write_text(json.dumps(table.to_dict(), indent=1))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
