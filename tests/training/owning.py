"""An objective for tests with a second network, which learns the target from the output of the first network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nndiff.diffusion.losses import Loss
from nndiff.diffusion.objectives import OBJECTIVES, Denoising, Network, Pairs
from nndiff.diffusion.prediction import Prediction
from nndiff.diffusion.process import Process
from nndiff.plans.plan import Plan, Stage
from nndiff.words.scheme import Scheme
from tests.training.tiny import tiny_plan

NAME = "owning"


class Owning(Denoising):
    def __init__(self, process: Process, prediction: Prediction, measure: Loss, share: float = 0.5):
        super().__init__(process, prediction, measure)
        self.share, self.second = share, nn.Conv3d(1, 1, 3, padding=1)

    def loss(self, network: Network, batch: Pairs, t: Tensor, eps: Tensor, weight: Tensor | None) -> Tensor:
        x_t = self.process.sample(batch.x0, batch.y, t, eps)
        answer = network(x_t, t.to(x_t.device, torch.float32), batch.condition)
        value: Tensor = self.measure(answer, batch.x0, weight)
        return value + self.share * self.measure(self.second(answer), batch.x0, weight)


def owning_plan(**words: Any) -> Plan:
    """Two stages, each with an objective of its own."""
    scheme = Scheme(NAME, {"share": 0.25})
    stages = tuple(Stage("all", Scheme("squared", {}), 1.0, scheme) for _ in range(2))
    return tiny_plan(prediction="x0", stages=stages, training_steps=4, **words)


def demand_table() -> None:
    """For processes of their own, which no monkeypatch reaches."""
    OBJECTIVES.table[NAME] = Owning
