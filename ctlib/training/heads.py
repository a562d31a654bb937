"""Heads on features of a frozen network, fitted in seconds on a CPU.

| head | is | chosen on validation | scores |
|---|---|---|---|
| `linear` | logistic regression on features of a clip, both classes alike | C, of `CS` | clips |
| `attention` | gated attention over the clips of an exam, then logistic (arXiv 1802.04712) | decay, step | exams |
| `knn` | share of clips with disease among the nearest, by cosine | number, of `KS` | clips |

Features are standardized by those of the training clips whose labels are used. What is chosen has the highest
validation AUROC over exams, by the highest score of a clip; of equal ones the first is taken, which is the
strongest penalty, the earliest step, the most neighbours. Nothing is drawn but the weights of `attention`: from
weights of a file, at all training patients, seeds of the other heads give the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import logit
from torch import nn
from torch.nn import functional

from ctlib.metrics import auroc
from ctlib.training.loop import FitError
from ctlib.training.results import study_auroc

CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1)
"""Inverse strengths of the penalty that `linear` tries; larger ones fit standardized features without one."""
KS = (50, 25, 15, 9, 5, 3, 1)
"""Numbers of neighbours that `knn` tries."""
DECAYS = (1.0, 1e-1, 1e-2)
"""Weight decays that `attention` tries."""
WIDTH, STEPS, EVERY, RATE = 32, 150, 10, 3e-3
"""Of `attention`: hidden units, steps over all exams at once, steps between looks at validation, learning rate."""
SURE = 1e-6
"""A share of neighbours is at least so far from 0 and 1, so that it has a logit."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Clips with their features.

    Args:
        rows: patient_id, study, split, clip, label, study_label, as `ctlib.training.run.labelled_clips` gives them.
        values: `[n_rows, n_features]`.
    """

    rows: pd.DataFrame
    values: NDArray[Any]


Scorer = Callable[[Sample], Values]
"""Logits of a sample's `scored` rows, `[n]`."""


@dataclass(frozen=True)
class Head:
    """A head that was fitted and chosen.

    Args:
        name: one of `ctlib.models.HEADS`.
        logits: of a sample, float32 `[n, 1]`, for the rows of `scored`.
        n_parameters: numbers that were fitted.
        chosen: what validation chose, by name.
    """

    name: str
    logits: Callable[[Sample], NDArray[np.float32]]
    n_parameters: int
    chosen: dict[str, float]


def scored(name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that a head gives a score to: all clips, or one row an exam with the label of the exam.

    Args:
        name: of the head.
        rows: clips.
    """
    if name != "attention":
        return rows
    exams = rows.drop_duplicates("study")
    return exams.assign(clip=0, label=exams["study_label"]).reset_index(drop=True)


def fit(name: str, train: Sample, val: Sample, seed: int = 0) -> Head:
    """Fit a head with each of its settings, and take the best on validation.

    Args:
        name: one of `ctlib.models.HEADS`.
        train: clips whose labels are used.
        val: clips that choose.
        seed: of weights that are drawn.

    Raises:
        FitError: training has one class, or all validation exams have one label.
    """
    labels = scored(name, train.rows)["label"]
    if labels.nunique() < 2:
        found = f"all with label {labels.iloc[0]}" if len(labels) else "none"
        raise FitError(
            f"the head {name} learns from {len(labels)} clips or exams, {found}; take more patients or "
            "another fraction."
        )
    mean, std = train.values.mean(axis=0, dtype=np.float64), train.values.std(axis=0, dtype=np.float64)
    spread = np.where(std > 0, std, 1.0)

    def scaled(sample: Sample) -> Sample:
        return Sample(sample.rows, (sample.values - mean) / spread)

    judged, ready = scored(name, val.rows), scaled(val)
    study_auroc(judged)  # refuses exams of one label
    exam, truth = pd.factorize(judged["study"])[0], judged.drop_duplicates("study")["study_label"].to_numpy()
    best: tuple[float, Scorer, int, dict[str, float]] | None = None
    for scorer, n_parameters, chosen in FITTED[name](scaled(train), seed):
        highest = np.full(len(truth), -np.inf)
        np.maximum.at(highest, exam, scorer(ready))
        value = auroc(truth, highest).value  # that of `study_auroc`, without tables
        if best is None or value > best[0]:
            best = (value, scorer, n_parameters, chosen)
    assert best is not None  # each head tries something
    _, scorer, n_parameters, chosen = best
    return Head(name, lambda s: scorer(scaled(s))[:, None].astype(np.float32), n_parameters, chosen)


Tried = Iterator[tuple[Scorer, int, dict[str, float]]]


def _linear(train: Sample, seed: int) -> Tried:
    """Where clips are fewer than features, they are turned into as many axes first: the solution is the same."""
    from sklearn.linear_model import LogisticRegression  # takes a second

    axes = np.eye(train.values.shape[1])
    if len(train.values) < len(axes):
        axes = np.linalg.svd(train.values, full_matrices=False)[2].T
    inputs, labels = train.values @ axes, train.rows["label"].to_numpy()
    start = np.zeros(0)
    for strength in CS:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, warm_start=True)
        if start.size:  # from the solution before, which is near
            model.coef_, model.intercept_ = start[None, :-1], start[-1:]
        model.fit(inputs, labels)
        start = np.append(model.coef_, model.intercept_)
        weights, bias = axes @ model.coef_[0], float(model.intercept_[0])
        yield partial(_weighted, weights, bias), weights.size + 1, {"C": strength}


def _weighted(weights: Values, bias: float, sample: Sample) -> Values:
    return sample.values @ weights + bias


def _knn(train: Sample, seed: int) -> Tried:
    from sklearn.neighbors import KNeighborsClassifier

    labels = train.rows["label"].to_numpy()
    for number in dict.fromkeys(min(k, len(labels)) for k in KS):
        model = KNeighborsClassifier(number, weights="distance", metric="cosine", algorithm="brute")
        model.fit(train.values, labels)
        yield partial(_shares, model), 0, {"neighbours": number}


def _shares(model: Any, sample: Sample) -> Values:
    return logit(np.clip(model.predict_proba(sample.values)[:, 1], SURE, 1 - SURE))


class _Attention(nn.Module):
    """Gated attention over the clips of an exam, and a linear layer; clips of all exams in one array.

    Args:
        n_features: F.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.content, self.gate = (nn.Linear(n_features, WIDTH) for _ in range(2))
        self.weight, self.head = nn.Linear(WIDTH, 1), nn.Linear(n_features, 1)

    def forward(self, clips: torch.Tensor, exam: torch.Tensor, n_exams: int) -> torch.Tensor:
        """Clips `[n, F]` and the exam of each `[n]` to logits `[n_exams]`."""
        asked = self.weight(torch.tanh(self.content(clips)) * torch.sigmoid(self.gate(clips)))[:, 0]
        share = (asked - asked.detach().max()).exp()
        of_exam = torch.zeros(n_exams).index_add(0, exam, share)
        told = self.head(clips)[:, 0] * share / of_exam[exam]
        return torch.zeros(n_exams).index_add(0, exam, told)


def _exams(sample: Sample) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Arguments of `_Attention`: exams in the order in which they appear."""
    exam, names = pd.factorize(sample.rows["study"])
    return torch.from_numpy(sample.values.astype(np.float32)), torch.from_numpy(exam), len(names)


def _attention(train: Sample, seed: int) -> Tried:
    given, labels = _exams(train), scored("attention", train.rows)["label"].to_numpy(np.float32)
    truth, share = torch.from_numpy(labels), float(labels.mean())
    balance = torch.tensor((1 - share) / share)
    for decay in DECAYS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _Attention(train.values.shape[1])
        optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=decay)
        for step in range(1, STEPS + 1):
            loss = functional.binary_cross_entropy_with_logits(model(*given), truth, pos_weight=balance)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % EVERY == 0:
                state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                n_parameters = sum(tensor.numel() for tensor in state.values())
                yield _attending(state), n_parameters, {"decay": decay, "step": step}


def _attending(state: dict[str, torch.Tensor]) -> Scorer:
    """The logits of exams with these weights."""
    model = _Attention(state["head.weight"].shape[1])
    model.load_state_dict(state)

    def scorer(sample: Sample) -> Values:
        with torch.inference_mode():
            return model(*_exams(sample)).double().numpy()

    return scorer


FITTED: dict[str, Callable[[Sample, int], Tried]] = {
    "linear": _linear,
    "attention": _attention,
    "knn": _knn,
}
"""What each head tries, from standardized features and a seed."""
