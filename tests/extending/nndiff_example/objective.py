"""An objective with a second network: besides the denoiser, a small network learns to predict its absolute error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nndiff.diffusion.losses import Loss
from nndiff.diffusion.objectives import Denoising, Network, Pairs
from nndiff.diffusion.prediction import Prediction
from nndiff.diffusion.process import Process


class Charted(Denoising):
    def __init__(self, process: Process, prediction: Prediction, measure: Loss, weight: float = 0.1):
        super().__init__(process, prediction, measure)
        self.weight = weight
        self.chart = nn.Conv3d(1, 1, 3, padding=1)

    def loss(self, network: Network, batch: Pairs, t: Tensor, eps: Tensor, weight: Tensor | None) -> Tensor:
        x_t = self.process.sample(batch.x0, batch.y, t, eps)
        answer = network(x_t, t.to(x_t.device, torch.float32), batch.condition)
        wanted = self.prediction.target(self.process, batch.x0, batch.y, eps, t)
        errors = (answer - wanted).detach().abs().mean(dim=1, keepdim=True)
        charted = (self.chart(x_t.mean(dim=1, keepdim=True)) - errors).square().mean()
        value: Tensor = self.measure(answer, wanted, weight) + self.weight * charted
        return value
