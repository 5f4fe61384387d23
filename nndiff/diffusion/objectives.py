"""Training objectives: how one training step computes a loss from a batch.

    t ~ the objective's distribution   x_t = a·x0 + b·y + sigma·eps        loss(network(x_t, t, condition), …)

    denoising   evaluates the network once and compares its output with the target that the prediction defines

An objective is the only place where a loss is computed: training, the memory trace and, in generation, validation call
the same `loss`. Validation of translation scores whole volumes. An objective may evaluate the network several times,
choose its own distribution of times, and contain further networks. Its parameters are trained, saved and restored
together with those of the network.
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

AT_THE_SOURCE = 0.25  # share of a bridge's times at t = 1, so that one step from the source is trained as a regression

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x_t, t, condition) → output, in fp32


@dataclass(frozen=True, eq=False)
class Pairs:
    """A batch of targets, with their sources where the task has sources."""

    x0: Tensor  # [B, targets, Z, Y, X]
    condition: Tensor | None  # [B, sources, Z, Y, X]
    y: Tensor | None  # the source that each target starts from, [B, targets, Z, Y, X]


class Objective(nn.Module):
    """The base class of every objective: the times, the networks and the loss of a training step."""

    def __init__(self, process: Process, prediction: Prediction, measure: Loss):
        super().__init__()
        self.process, self.prediction, self.measure = process, prediction, measure

    def time_of(self, share: float) -> float:
        """Return the time in (0, 1] for a share in [0, 1).

        Shares that are uniform on [0, 1) give times that follow the objective's distribution.
        """
        raise NotImplementedError

    def loss(self, network: Network, batch: Pairs, t: Tensor, eps: Tensor, weight: Tensor | None) -> Tensor:
        """Return a scalar.  t: [B], float64; eps: as x0; weight: [B, 1, Z, Y, X], the weight of each voxel."""
        raise NotImplementedError


class Denoising(Objective):
    """The standard objective: compare one output of the network with the target that the prediction defines."""

    def time_of(self, share: float) -> float:
        """Return the time for a share in [0, 1).

        A discrete process gives one of its steps. A process that starts at the source gives t = 1 for a quarter of the
        shares and times below 1 for the rest. Any other process gives uniform times.
        """
        if self.process.discrete is not None:
            return (int(share * self.process.discrete) + 1) / self.process.discrete
        if not self.process.from_source:
            return 1.0 - share
        return 1.0 if share < AT_THE_SOURCE else 1.0 - (share - AT_THE_SOURCE) / (1 - AT_THE_SOURCE)

    def loss(self, network: Network, batch: Pairs, t: Tensor, eps: Tensor, weight: Tensor | None) -> Tensor:
        x_t = self.process.sample(batch.x0, batch.y, t, eps)
        answer = network(x_t, t.to(x_t.device, torch.float32), batch.condition)
        wanted = self.prediction.target(self.process, batch.x0, batch.y, eps, t)
        value: Tensor = self.measure(answer, wanted, weight)
        return value


OBJECTIVES: Registry[type[Objective]] = Registry("objective", {"denoising": Denoising})
