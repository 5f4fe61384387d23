"""Losses that training minimises. They are computed in image space, after the puzzle has been undone.

    gradient   mean w·|e| + weight · Σ_axis mean w_axis·|D_axis e|,  e = estimate - truth    puzzle-gradient loss (PPDM)
    squared    mean w·e²                                                 the loss of an eps-prediction

D is the forward difference. w is the weight of each voxel; it is 1 where none is given. A difference between two voxels
is weighted by the smaller of their weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nndiff.words.registry import Registry


class Loss(nn.Module):
    """The base class of every loss."""

    def forward(self, estimate: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return a scalar.  estimate, truth: [B, C, Z, Y, X]; weight: [B, 1, Z, Y, X]."""
        raise NotImplementedError


class Gradient(Loss):
    """The puzzle-gradient loss: absolute errors of the voxels and of their differences along each axis."""

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
    """The mean squared error."""

    def forward(self, estimate: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
        return _mean((estimate - truth).square(), weight)


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.mean() if weight is None else (weight * values).mean()


LOSSES: Registry[type[Loss]] = Registry("loss", {"gradient": Gradient, "squared": Squared})
