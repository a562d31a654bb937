"""A backbone with a head: what is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    """A backbone and a linear head: clips in [0, 1] to logits.

    The head computes in fp32 under autocast too: bf16 has 8 bits of precision, so that of a thousand clips up to nine
    in ten would share their logit with another, and ranks (AUROC) would suffer from ties.

    Mean and std are buffers, so they follow the network to its device, but no part of its state:
    the state holds what is learnt, and mean and std stand in the init's record.

    Args:
        backbone: `[N, C, D, H, W] -> [N, F]` with the attribute `n_features`.
        n_outputs: logits a clip.
        mean: of the voxels, one a channel or one for all.
        std: the same.
    """

    mean: torch.Tensor
    std: torch.Tensor
    is_frozen: bool = False
    """Whether only the head is trained: the backbone then stays as in evaluation, statistics included."""
    dropout: float = 0.0
    """Share of the features that training sets to 0 before the head."""

    def __init__(
        self, backbone: nn.Module, n_outputs: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.n_features), n_outputs)  # type: ignore[arg-type]
        self.normalize(mean, std)

    def normalize(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take off this mean and std from now on; one a channel or one for all."""
        for name, values in (("mean", mean), ("std", std)):
            # of one dimension: a buffer of five has no place in the memory format of a 2D network
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips `[N, 1 or C, D, H, W]` float32 in [0, 1] to logits `[N, n_outputs]` float32."""
        features = self.features(clip)
        if self.dropout:
            features = functional.dropout(features, self.dropout, self.training)
        kind = features.device.type  # autocast does not know `meta`
        with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
            return self.head(features.float())

    def features(self, clip: torch.Tensor) -> torch.Tensor:
        """Clips as `forward` takes them to what the head sees, `[N, n_features]`."""
        mean, std = (values.view(-1, 1, 1, 1) for values in (self.mean, self.std))
        return self.backbone((clip - mean) / std)

    def train(self, mode: bool = True) -> Network:
        """Training or evaluation mode; a frozen backbone stays in evaluation and takes no gradients."""
        super().train(mode)
        self.backbone.requires_grad_(not self.is_frozen)
        if self.is_frozen:
            self.backbone.eval()
        return self
