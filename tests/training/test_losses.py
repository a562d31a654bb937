"""The losses do what their names say; VICReg equals its formula, term by term."""

import numpy as np
import pytest
import torch

from ctlib.training.losses import COVARIANCE, EPSILON, INVARIANCE, LOSSES, VARIANCE, vicreg


def paper(first: np.ndarray, second: np.ndarray) -> float:
    """VICReg as Bardes et al. (2022) write it, equations 1 to 6, in float64."""
    n, d = first.shape
    invariance = np.square(first - second).sum(axis=1).mean() / d  # the mean over dimensions, as they code it
    terms = []
    for z in (first, second):
        centred = z - z.mean(axis=0)
        spread = np.maximum(0, 1 - np.sqrt((centred.T @ centred).diagonal() / (n - 1) + EPSILON))
        matrix = centred.T @ centred / (n - 1)
        off = sum(matrix[i, j] ** 2 for i in range(d) for j in range(d) if i != j)
        terms.append((spread.mean(), off / d))
    variance, covariance = (sum(values) for values in zip(*terms, strict=True))
    return INVARIANCE * invariance + VARIANCE * variance + COVARIANCE * covariance


def test_vicreg_is_the_papers_sum():
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.7, (6, 5))
    second = first + rng.normal(0, 0.3, (6, 5))
    pairs = np.stack([first, second], axis=1).reshape(12, 5)
    got = vicreg(torch.tensor(pairs, dtype=torch.float32), torch.zeros(12))
    assert float(got) == pytest.approx(paper(first, second), rel=1e-5)


def test_vicreg_falls_where_views_agree_and_clips_differ():
    torch.manual_seed(0)
    clips = torch.randn(32, 8)
    agreeing = clips.repeat_interleave(2, dim=0)
    mixed = torch.stack([clips, clips.roll(1, 0)], dim=1).flatten(0, 1)
    labels = torch.zeros(64)
    assert vicreg(agreeing, labels) < 0.2 * vicreg(mixed, labels)
    assert vicreg(agreeing, labels) < 0.2 * vicreg(torch.zeros(64, 8), labels)  # collapsed


def test_vicreg_looks_at_no_label():
    outputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    assert vicreg(outputs, torch.zeros(8)) == vicreg(outputs, torch.arange(8))


@pytest.mark.parametrize("rows", [3, 2])
def test_vicreg_needs_pairs(rows):
    with pytest.raises(ValueError, match=f"vicreg: {rows} embeddings; give two views each of two clips"):
        vicreg(torch.zeros(rows, 4), torch.zeros(rows))


def test_supervised_losses_equal_their_formulas():
    logits, labels = torch.tensor([[2.0], [-1.0]]), torch.tensor([1.0, 0.0])
    expected = np.mean([np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0))])
    assert float(LOSSES["bce"](logits, labels)) == pytest.approx(expected, rel=1e-6)
    assert float(LOSSES["cross_entropy"](torch.zeros(3, 9), torch.tensor([0, 4, 8]))) == pytest.approx(
        np.log(9), rel=1e-6
    )
