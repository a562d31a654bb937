"""What a network is trained to do: losses by name, logits or embeddings and labels to one number.

`vicreg` is the one objective without labels (Bardes, Ponce, LeCun: VICReg, ICLR 2022). It was chosen because
it needs no negatives, no queue, no second network and no large batch, so it works with eight clips a step
and any backbone; and because it is three short terms, where the libraries that have it bring a framework.
Its weights and its epsilon are the paper's (25, 25, 1; 1e-4); the first term is a mean over dimensions, as
in the authors' code, where the paper writes a sum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
"""Weights of the three terms: lambda, mu and nu of the paper, section 4.2."""
EPSILON = 1e-4

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Outputs `[N, outputs]` and labels `[N]` to a mean loss."""


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of one logit a clip `[N, 1]` and labels 0 or 1 `[N]`."""
    return functional.binary_cross_entropy_with_logits(logits.float().squeeze(1), labels.float())


def focal(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As `binary_cross_entropy`, but clips that are told apart already count for little.

    Lin et al., Focal loss for dense object detection (ICCV 2017), with their gamma of 2 and alpha of 0.25.

    >>> logits, labels = torch.tensor([[0.0]]), torch.tensor([1])
    >>> round(float(focal(logits, labels) / binary_cross_entropy(logits, labels)), 4)  # 0.25 (1 - 0.5)^2
    0.0625
    """
    return sigmoid_focal_loss(logits.float().squeeze(1), labels.float(), reduction="mean")


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of one logit a class `[N, classes]` and classes `[N]`."""
    return functional.cross_entropy(logits.float(), labels.long())


def vicreg(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Two views of a clip lie near one another, and the clips of a batch apart; no label is looked at.

    Args:
        embeddings: `[2 * n, E]`; rows 2 i and 2 i + 1 are two views of one clip. n is at least 2.
        labels: not used.

    Raises:
        ValueError: an odd number of rows, or fewer than two clips.

    >>> apart = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, -1.0],
    ...                       [-1.0, -1.0], [-1.0, -1.0]])
    >>> round(float(vicreg(apart, torch.zeros(8))), 4), round(float(vicreg(0 * apart, torch.zeros(8))), 4)
    (0.0, 49.5)
    """
    if len(embeddings) % 2 or len(embeddings) < 4:
        raise ValueError(f"vicreg: {len(embeddings)} embeddings; give two views each of two clips at least.")
    views = embeddings.float()[0::2], embeddings.float()[1::2]
    variance = sum(functional.relu(1 - (view.var(dim=0) + EPSILON).sqrt()).mean() for view in views)
    covariance = sum(_covariance(view) for view in views)
    return INVARIANCE * functional.mse_loss(*views) + VARIANCE * variance + COVARIANCE * covariance


def _covariance(view: torch.Tensor) -> torch.Tensor:
    """Squares of the covariances of different dimensions of `[n, E]`, their sum a dimension."""
    matrix = view.T.cov()
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / view.shape[1]


LOSSES: dict[str, Loss] = {
    "bce": binary_cross_entropy,
    "focal": focal,
    "cross_entropy": cross_entropy,
    "vicreg": vicreg,
}
"""Losses by the names that settings use."""
