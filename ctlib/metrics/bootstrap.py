"""The test exams of a task, the draws of their patients, and the AUROC on every draw.

The test patients are drawn with replacement, all exams of a patient together, separately in each
stratum: with and without disease, and of each fold (stratified cluster bootstrap; Efron and Tibshirani
1993, chapter 8). Exams drawn one by one would count a patient's exams as independent and give intervals
that are too short. Of n patients of a stratum n - 1 are drawn, which makes the variance over draws
n / (n - 1) times as large as n of n would, and so unbiased (Rao and Wu 1988,
doi:10.1080/01621459.1988.10478591): with 20 patients that is 5 %.

With cross-validation each patient is tested in one fold, by a network that the other folds' patients never
met. Networks of different folds do not score on one scale, so an exam of one fold is not ranked against an
exam of another: pooled, a shift between folds counts as errors (Airola et al. 2011,
doi:10.1016/j.csda.2010.11.018). The AUROC is the mean over folds, weighted by their pairs of an exam
with and an exam without disease: the share of all pairs that one network scored that it put in the right
order.

A variance over patients has a part of each stratum, and few patients of one class know little of theirs,
however many there are of the other. Its degrees of freedom are those of Satterthwaite (1946,
doi:10.2307/3002019) over the strata, n - 1 each; the shares of the parts are those of the structural
components of DeLong's variance (`components`), summed over a patient's exams. What they cannot mend
is that the distribution of an AUROC of few patients is skew: see `WARNED_BELOW`.

An AUROC on a draw is counted and not estimated: exams in the order of their scores, a running weight of
those without disease, and each exam with disease takes what lies below it. That takes a time and a memory
that grow with exams x draws, whatever the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ctlib.metrics.crossed_ci import Array, satterthwaite
from ctlib.metrics.discrimination import auroc

EXACT = 2**22
"""Pairs up to which sums of drawn pairs, and of halves of them, are whole numbers of float32."""
WARNED_BELOW = 20
"""Test patients of a class below which a warning is given: with 4 to 10 of them and an AUROC of 0.93 to 0.95,
intervals at 95 % covered 85 to 92 % of simulated experiments (benchmarks/simulations.py)."""
BLOCK = 100_000
"""Patients that are drawn at once: few enough to stay in a cache."""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Args:
        n_replicates: draws of the patients.
        seed: of the draws; the same draws serve all runs of a task.
        level: of the interval, in (0, 1).
    """

    n_replicates: int = 10_000
    seed: int = 0
    level: float = 0.95


@dataclass(frozen=True)
class Draws:
    """How often each exam is drawn.

    Args:
        times: `[exams, n_replicates]`, uint8 counts.
        pairs: `[n_replicates]` of each fold, pairs of an exam with and one without disease.
    """

    times: NDArray[np.uint8]
    pairs: tuple[Array, ...]

    @property
    def n_replicates(self) -> int:
        """Number of draws."""
        return self.times.shape[1]


class Exams:
    """The test exams that every run of a task scores.

    Args:
        scores: columns patient_id and label, and `fold` where folds are scored by different networks;
            one row an exam, in the order of the score vectors that are given later.

    Raises:
        ValueError: exams of a patient lie in two folds.
    """

    def __init__(self, scores: pd.DataFrame) -> None:
        self.label = scores["label"].to_numpy(np.int64)
        self._patient, patients = pd.factorize(scores["patient_id"], sort=True)
        self.patient_label = np.zeros(len(patients), np.int64)
        np.maximum.at(self.patient_label, self._patient, self.label)
        fold = scores["fold"].to_numpy(np.int64) if "fold" in scores else np.zeros(len(scores), np.int64)
        self._patient_fold = np.zeros(len(patients), np.int64)
        self._patient_fold[self._patient] = fold
        astray = self._patient_fold[self._patient] != fold
        if astray.any():
            name = scores["patient_id"].iloc[int(astray.argmax())]
            raise ValueError(f"patient {name} is in the test split of two folds; a patient is tested in one.")
        self.folds = [(int(name), np.flatnonzero(fold == name)) for name in np.unique(fold)]

    @property
    def few(self) -> str:
        """Why patients cannot be drawn, or ''."""
        for fold, _ in self.folds:
            labels = self.patient_label[self._patient_fold == fold]
            with_disease, without = int(labels.sum()), int((1 - labels).sum())
            if min(with_disease, without) < 2:
                place = f" in fold {fold}" if len(self.folds) > 1 else ""
                return (
                    f"{with_disease} test patients with disease and {without} without{place}; "
                    "two of each are needed"
                )
        return ""

    @property
    def warning(self) -> str:
        """That a class has fewer than `WARNED_BELOW` patients, or ''."""
        return few_of_a_class(len(self.patient_label), int(self.patient_label.sum()))

    def influence(self, score: Array) -> Array:
        """`[patients]`: what each patient adds to the AUROC of `[exams]` scores; their sum is 0.

        Raises:
            ValueError: a fold lacks a class.
        """
        self._require_both_classes()
        of_exam, pairs = np.zeros(len(self.label)), self._pairs()
        for (_, members), weight in zip(self.folds, pairs, strict=True):
            ill = self.label[members] == 1
            parts = components(self.label[members], score[None, members])
            for chosen, part in zip((ill, ~ill), parts, strict=True):
                of_exam[members[chosen]] = weight * (part[0] - part[0].mean()) / part.shape[1]
        return np.bincount(self._patient, of_exam, len(self.patient_label)) / sum(pairs)

    def freedom(self, influence: Array) -> float:
        """Degrees of freedom of the variance over patients of a value, by Satterthwaite over the strata.

        Args:
            influence: `[patients]`, what each adds to the value: a mean or difference of `influence`.
        """
        parts = []
        for fold, _ in self.folds:
            for label in (0, 1):
                of_one = influence[(self.patient_label == label) & (self._patient_fold == fold)]
                if len(of_one) > 1:
                    parts.append((len(of_one) * float(of_one.var(ddof=1)), len(of_one) - 1))
        return max(satterthwaite(parts), 1.0)

    def draw(self, n_replicates: int, rng: np.random.Generator) -> Draws:
        """Draw the patients, n - 1 of the n of each stratum.

        Raises:
            ValueError: a stratum has fewer than two patients; see `few`.
        """
        if self.few:
            raise ValueError(f"{self.few}.")
        of_patient = np.zeros((len(self.patient_label), n_replicates), np.uint8)
        for fold, _ in self.folds:
            for label in (0, 1):
                stratum = np.flatnonzero((self.patient_label == label) & (self._patient_fold == fold))
                of_patient[stratum] = _counts(len(stratum), n_replicates, rng)
        return self.draws_of(of_patient[self._patient])

    def draws_of(self, times: NDArray[np.uint8]) -> Draws:
        """Draws of which is known how often they hold each exam, `[exams, n_replicates]`."""
        sizes = []
        for _, members in self.folds:
            classes = [members[self.label[members] == label] for label in (0, 1)]
            without, having = (times[chosen].sum(axis=0, dtype=np.float64) for chosen in classes)
            sizes.append(without * having)
        return Draws(times, tuple(sizes))

    def auroc(self, score: Array) -> float:
        """AUROC of `[exams]` scores: the mean over folds, weighted by their pairs.

        Raises:
            ValueError: a fold lacks a class.
        """
        self._require_both_classes()
        of_fold = [auroc(self.label[members], score[members]).value for _, members in self.folds]
        return float(np.average(of_fold, weights=self._pairs()))

    def _pairs(self) -> list[int]:
        """Of each fold, pairs of an exam with and one without disease."""
        sick = [int(self.label[members].sum()) for _, members in self.folds]
        return [n * (len(members) - n) for n, (_, members) in zip(sick, self.folds, strict=True)]

    def _require_both_classes(self) -> None:
        if self.one_class():
            raise ValueError(f"{self.one_class()}.")

    def one_class(self) -> str:
        """Why a fold has no AUROC, or ''."""
        for fold, members in self.folds:
            labels = self.label[members]
            if (labels == labels[0]).all():
                place = f" of fold {fold}" if len(self.folds) > 1 else ""
                return f"all {len(labels)} labels{place} are {labels[0]}"
        return "" if len(self.label) else "no case"

    def resampled(self, score: Array, draws: Draws) -> Array:
        """AUROC of `[exams]` scores on each draw, `[n_replicates]`.

        Raises:
            ValueError: a fold lacks a class.
        """
        self._require_both_classes()
        found, pairs = np.zeros(draws.n_replicates), self._pairs()
        for (_, members), drawn, weight in zip(self.folds, draws.pairs, pairs, strict=True):
            times = draws.times if len(self.folds) == 1 else draws.times[members]
            found += weight * _right_order(score[members], self.label[members] == 1, times) / drawn
        return found / sum(pairs)


def few_of_a_class(n_patients: int, n_positive: int) -> str:
    """That a class has fewer than `WARNED_BELOW` test patients, or ''.

    >>> few_of_a_class(80, 8)
    '8 test patients with disease and 72 without: below 20 of a class intervals may be too short'
    >>> few_of_a_class(80, 40)
    ''
    """
    without = n_patients - n_positive
    if min(n_positive, without) >= WARNED_BELOW:
        return ""
    return (
        f"{n_positive} test patients with disease and {without} without: below {WARNED_BELOW} of a class "
        "intervals may be too short"
    )


def components(truth: ArrayLike, scores: Array) -> tuple[Array, Array]:
    """Structural components of k score vectors: `[k, m]` of exams with disease and `[k, n]` of those without.

    That of an exam with disease is the share of exams without that score below it (equal scores count one
    half), and the other way round (DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595); from midranks,
    in n log n (Sun and Xu 2014, doi:10.1109/LSP.2014.2337313).

    Args:
        truth: `[m + n]`, 0 or 1, both of them present.
        scores: `[k, m + n]`, finite.

    >>> of_positive, of_negative = components([0, 0, 1, 1], np.array([[0.1, 0.4, 0.4, 0.8]]))
    >>> of_positive.tolist(), of_negative.tolist()
    ([[0.75, 1.0]], [[1.0, 0.75]])
    """
    from scipy.stats import rankdata  # here: a viewer's first volume need not wait for it

    ill = np.asarray(truth) == 1
    positive, negative = scores[:, ill], scores[:, ~ill]
    m, n = positive.shape[1], negative.shape[1]
    both = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    of_positive = (both[:, :m] - rankdata(positive, axis=1)) / n
    return of_positive, 1 - (both[:, m:] - rankdata(negative, axis=1)) / m


def _counts(n: int, n_replicates: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`[n, n_replicates]`: how often each of n is drawn, n - 1 times with replacement."""
    counts = np.empty((n, n_replicates), np.uint8)
    step = max(BLOCK // n, 1)
    for start in range(0, n_replicates, step):
        width = min(step, n_replicates - start)
        drawn = rng.integers(n, size=(n - 1, width)) * width + np.arange(width)
        counts[:, start : start + width] = np.bincount(drawn.ravel(), minlength=n * width).reshape(n, width)
    return counts


def _right_order(score: Array, positive: NDArray[np.bool_], times: NDArray[np.uint8]) -> Array:
    """Drawn pairs of one fold that are in the right order, `[n_replicates]`; equal scores count one half."""
    pairs = int(positive.sum()) * int((~positive).sum())
    below, right, product = np.zeros((3, times.shape[1]), np.float32 if pairs < EXACT else np.float64)
    order = np.lexsort((positive, score))  # of equal scores, those without disease first
    for exam, sick in zip(order.tolist(), positive[order].tolist(), strict=True):
        if sick:
            right += np.multiply(times[exam], below, out=product)
        else:
            below += times[exam]
    for tied in _ties(score[order], positive[order]):
        members, sick = order[tied], positive[order[tied]]
        lower, upper = (times[members[part]].sum(axis=0, dtype=right.dtype) for part in (~sick, sick))
        right -= 0.5 * lower * upper
    return right.astype(np.float64)


def _ties(score: Array, positive: NDArray[np.bool_]) -> Iterator[slice]:
    """Runs of equal scores that hold both classes, of scores in order."""
    edges = np.flatnonzero(np.r_[True, np.diff(score) != 0, True])
    several = np.diff(edges) > 1
    for start, stop in zip(edges[:-1][several].tolist(), edges[1:][several].tolist(), strict=True):
        if positive[stop - 1] and not positive[start]:  # those without disease come first
            yield slice(start, stop)
