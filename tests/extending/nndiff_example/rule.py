"""A step rule: an Euler step along the path that the estimate defines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nndiff.diffusion.prediction import Estimate
from nndiff.diffusion.process import Process
from nndiff.diffusion.walk import Course, Past
from nndiff.walk.rules import Rule
from nndiff.words.fields import above, option


@dataclass(frozen=True)
class Euler(Rule):
    name = "euler"

    pace: float = option(1.0, above(0), help="of the step, 1: the whole one")

    def step(self, course: Course, x_t: Tensor, estimate: Estimate, past: Past | None, t: float, s: float) -> Tensor:
        if s <= 0:
            return estimate.x0
        before, after = course.process.at(t), course.process.at(s)
        a, b, sigma = (self.pace * (new - old) for new, old in zip(after, before, strict=True))
        x_s = x_t + a * estimate.x0 + sigma * estimate.eps
        return x_s if course.y is None else x_s + b * course.y

    def draws_noise(self, process: Process, times: Sequence[float]) -> bool:
        return False
