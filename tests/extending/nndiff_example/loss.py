"""A loss that is squared near zero and absolute beyond `width`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from nndiff.diffusion.losses import Loss


class Huber(Loss):
    def __init__(self, width: float = 0.1):
        super().__init__()
        self.width = width

    def forward(self, estimate: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
        errors = F.smooth_l1_loss(estimate, truth, beta=self.width, reduction="none")
        return errors.mean() if weight is None else (weight * errors).mean()
