"""A grid of times: the squares of an even grid, dense towards the target."""

from __future__ import annotations

from dataclasses import dataclass

from nndiff.diffusion.process import Process
from nndiff.walk.part import STEPS
from nndiff.walk.rules import Rule
from nndiff.walk.times import Times


@dataclass(frozen=True)
class Squares(Times):
    name = "squares"

    def __call__(self, process: Process, rule: Rule) -> list[float]:
        shares = [1 - i / self.steps for i in range(self.steps)] + [0.0]
        return [self.first / STEPS * share**2 for share in shares]
