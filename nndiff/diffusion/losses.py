"""What training minimises, on the image (the puzzle is undone before any of these).

    gradient   mean w·|e| + weight · Σ_axis mean w_axis·|D_axis e|,  e = estimate - truth    puzzle-gradient loss (PPDM)
    squared    mean w·e²                                                 what an eps-prediction minimises

D is the forward difference. w is the weight of each voxel, 1 where none is given. A difference between two voxels has
the smaller of their weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nndiff.words.registry import Registry


class Loss(nn.Module):
    def forward(self, estimate: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return a scalar.  estimate, truth: [B, C, Z, Y, X]; weight: [B, 1, Z, Y, X]."""
        raise NotImplementedError


class Gradient(Loss):
    def __init__(self, weight: float = 0.3):
        super().__init__()
        self.weight = weight

    def forward(self, estimate: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
        residual = estimate - truth
        loss = _mean(residual.abs(), weight)
        for axis in (-3, -2, -1):
            n = residual.shape[axis]
            if n > 1:
                pair = (
                    None
                    if weight is None
                    else torch.minimum(weight.narrow(axis, 1, n - 1), weight.narrow(axis, 0, n - 1))
                )
                loss = loss + self.weight * _mean(residual.diff(dim=axis).abs(), pair)
        return loss


class Squared(Loss):
    def forward(self, estimate: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
        return _mean((estimate - truth).square(), weight)


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.mean() if weight is None else (weight * values).mean()


LOSSES: Registry[type[Loss]] = Registry("loss", {"gradient": Gradient, "squared": Squared})
