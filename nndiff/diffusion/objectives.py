"""Objectives: what one training step does with a batch.

    t ~ the objective's own law        x_t = a·x0 + b·y + sigma·eps        loss(network(x_t, t, condition), …)

    denoising   the network is asked once, and its answer is compared with what the prediction says it should be

An objective is the only place where a loss is computed: training, validation and the memory trace call the same
`loss`. It may ask the network several times, choose its own law of times, and own networks of its own: whatever
parameters it has are trained, saved and restored together with the network's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nndiff.diffusion.losses import Loss
from nndiff.diffusion.prediction import Prediction
from nndiff.diffusion.process import Process
from nndiff.words.registry import Registry

AT_THE_SOURCE = 0.25  # of a bridge's draws lie at t = 1, so that one step from the source is learned as a regression

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x_t, t, condition) → output, in fp32


@dataclass(frozen=True, eq=False)
class Pairs:
    """A batch: the targets, and the sources where there are any."""

    x0: Tensor  # [B, targets, Z, Y, X]
    condition: Tensor | None  # [B, sources, Z, Y, X]
    y: Tensor | None  # the source that each target starts from, [B, targets, Z, Y, X]


class Objective(nn.Module):
    """A row: times, networks and loss of a training step."""

    def __init__(self, process: Process, prediction: Prediction, measure: Loss):
        super().__init__()
        self.process, self.prediction, self.measure = process, prediction, measure

    def time_of(self, share: float) -> float:
        """Return a time in (0, 1] for a share in [0, 1); shares are spread evenly."""
        raise NotImplementedError

    def loss(self, network: Network, batch: Pairs, t: Tensor, eps: Tensor, weight: Tensor | None) -> Tensor:
        """Return a scalar.  t: [B], float64; eps: as x0; weight: [B, 1, Z, Y, X], what each voxel counts."""
        raise NotImplementedError


class Denoising(Objective):
    def time_of(self, share: float) -> float:
        """Return a step where the process has steps, t = 1 for a quarter of a bridge's shares, else any time."""
        if self.process.discrete is not None:
            return (int(share * self.process.discrete) + 1) / self.process.discrete
        if not self.process.at(1.0)[1]:
            return 1.0 - share
        return 1.0 if share < AT_THE_SOURCE else 1.0 - (share - AT_THE_SOURCE) / (1 - AT_THE_SOURCE)

    def loss(self, network: Network, batch: Pairs, t: Tensor, eps: Tensor, weight: Tensor | None) -> Tensor:
        x_t = self.process.sample(batch.x0, batch.y, t, eps)
        answer = network(x_t, t.to(x_t.device, torch.float32), batch.condition)
        wanted = self.prediction.target(self.process, batch.x0, batch.y, eps, t)
        value: Tensor = self.measure(answer, wanted, weight)
        return value


OBJECTIVES: Registry[type[Objective]] = Registry("objective", {"denoising": Denoising})
