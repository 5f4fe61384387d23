"""What training minimises, on the image (the puzzle is undone before any of these).

    gradient   mean|e| + weight · sum_axis mean|D_axis e|,  e = estimate - truth      puzzle-gradient loss (PPDM)
    squared    mean e²                                                                what an eps-prediction minimises

D is the forward difference.
"""

from __future__ import annotations

from torch import Tensor, nn

from nndiff.words.registry import Registry


class Gradient(nn.Module):
    def __init__(self, weight: float = 0.3):
        super().__init__()
        self.weight = weight

    def forward(self, estimate: Tensor, truth: Tensor) -> Tensor:  # [B, C, Z, Y, X] twice → scalar
        residual = estimate - truth
        loss = residual.abs().mean()
        for axis in (-3, -2, -1):
            if residual.shape[axis] > 1:
                loss = loss + self.weight * residual.diff(dim=axis).abs().mean()
        return loss


class Squared(nn.Module):
    def forward(self, estimate: Tensor, truth: Tensor) -> Tensor:
        return (estimate - truth).square().mean()


LOSSES: Registry[type[nn.Module]] = Registry("loss", {"gradient": Gradient, "squared": Squared})
