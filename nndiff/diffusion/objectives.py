"""Training objectives: how one training step computes a loss from a batch.

    t ~ the objective's distribution   x_t = a·x0 + b·y + sigma·eps        loss(network(x_t, t, condition), …)

    denoising   evaluates the network once and compares its output with the target that the prediction defines
    posterior   trains both ends of a walk, and the expected error e of each voxel, for the prediction `fused`:
                at t = 1        the stage's loss of the image n, over s: a median, the regression from the source
                at t < 1        (x̂0 - x0)² over its typical size s²·r²/(s² + r²): a mean, which a walk needs; the times
                                are uniform in log r between multiples of s
                at every t      the Gaussian likelihood of x0 under (x̂0, its expected variance), for e alone

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
from nndiff.diffusion.prediction import Fused, Prediction
from nndiff.diffusion.process import Process, per_volume
from nndiff.words.errors import NndiffError
from nndiff.words.registry import Registry

AT_THE_SOURCE = 0.25  # share of a bridge's times at t = 1, so that one step from the source is trained as a regression

HIGH, LOW = 20.0, 0.07  # the largest and the smallest r in training, as multiples of s: a walk goes from 16s to 0.1s

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x_t, t, condition) → output, in fp32


@dataclass(frozen=True, eq=False)
class Pairs:
    """A batch of targets, with their sources where the task has sources."""

    x0: Tensor  # [B, targets, Z, Y, X]
    condition: Tensor | None  # [B, sources, Z, Y, X]
    y: Tensor | None  # the source that each target starts from, [B, targets, Z, Y, X]


class Objective(nn.Module):
    """The base class of every objective: the times, the networks and the loss of a training step."""

    needs_error = False  # whether the prediction must contain the expected error of each voxel

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
        shown, told = self.prediction.view(self.process, x_t, batch.y, t)
        answer = network(shown, told.to(x_t.device, torch.float32), batch.condition)
        wanted = self.prediction.target(self.process, batch.x0, batch.y, eps, t)
        value: Tensor = self.measure(answer, wanted, weight)
        return value


class Posterior(Objective):
    """The objective of a fused prediction: the median at t = 1, the posterior mean below it, and the expected error."""

    needs_error = True

    def __init__(
        self,
        process: Process,
        prediction: Prediction,
        measure: Loss,
        at_source: float = 0.4,  # share of the times at t = 1
        high: float = HIGH,  # largest and smallest r below t = 1, as multiples of s
        low: float = LOW,
        evenness: float = 0.5,  # 0: every voxel counts the same; 1: errors are relative to the expected ones
        calibration: float = 0.1,  # weight of the likelihood
    ):
        super().__init__(process, prediction, measure)
        if not isinstance(prediction, Fused):
            raise NndiffError(
                "The objective 'posterior' trains an image and its expected error.",
                expected="the prediction fused",
                remedy="pass --set configurations.NAME.prediction=fused, or the objective denoising",
            )
        self.fused, self.at_source, self.high, self.low = prediction, at_source, high, low
        self.evenness, self.calibration = evenness, calibration

    def time_of(self, share: float) -> float:
        if share < self.at_source:
            return 1.0
        place = (share - self.at_source) / (1 - self.at_source)
        return self.process.time_of_ratio(self.fused.open_part * self.high ** (1 - place) * self.low**place)

    def loss(self, network: Network, batch: Pairs, t: Tensor, eps: Tensor, weight: Tensor | None) -> Tensor:
        x_t = self.process.sample(batch.x0, batch.y, t, eps)
        shown, told = self.fused.view(self.process, x_t, batch.y, t)
        output = network(shown, told.to(x_t.device, torch.float32), batch.condition)
        found = self.fused.weighed(self.process, output, x_t, batch.y, t)
        at_source = per_volume((t >= 1).to(torch.float64), x_t)
        even = torch.ones_like(batch.x0[:, :1]) if weight is None else weight
        regression = self.measure(found.image, batch.x0, even * at_source) / self.fused.open_part
        size = per_volume(self.fused.typical_variance(self.process, t), x_t)
        error = (found.x0 - batch.x0).square()
        size = found.variance.detach() ** self.evenness * size ** (1 - self.evenness)
        denoising = 0.5 * (even * (1 - at_source) * error / size).mean()
        surprise = 0.5 * (error.detach() / found.variance + found.variance.log())
        total: Tensor = regression + denoising + self.calibration * (even * surprise).mean()
        return total


OBJECTIVES: Registry[type[Objective]] = Registry("objective", {"denoising": Denoising, "posterior": Posterior})
