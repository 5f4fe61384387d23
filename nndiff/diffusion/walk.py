"""The sampling loop ("walk"): it takes x from the first time down to time 0, one network estimate per step.

    for x_s, estimate, s in walk(x, times, denoise, rule, course, ...): ...        the last x_s is the result

All samplers use this one loop, a generator of steps. At each time the network's estimate passes through the guides;
then the step rule computes x_s from x_t. The rules are in nndiff/walk/rules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from nndiff.diffusion.prediction import Estimate
from nndiff.diffusion.process import Process

Denoise = Callable[[Tensor, float], Estimate]  # x_t, t → x̂0 and ε̂
Past = tuple[float, Estimate]  # the previous time and the estimate at that time


@dataclass(frozen=True, eq=False)
class Course:
    """The values that stay the same during one walk."""

    process: Process
    y: Tensor | None = None  # the source that each target starts from, [B, C, Z, Y, X]
    generator: torch.Generator | None = None  # draws the fresh noise

    def noise_like(self, x: Tensor) -> Tensor:
        return noise_like(x, self.generator)


class StepRule(Protocol):
    """A rule that takes one step of the walk."""

    def step(self, course: Course, x_t: Tensor, estimate: Estimate, past: Past | None, t: float, s: float) -> Tensor:
        """Return x_s."""
        ...


class Guided(Protocol):
    """A guide: it changes x_t and the estimate before the step is taken."""

    def __call__(
        self, course: Course, x_t: Tensor, estimate: Estimate, t: float, s: float
    ) -> tuple[Tensor, Estimate]: ...


def walk(
    x: Tensor,
    times: Sequence[float],  # decreasing, from the time of x to 0
    denoise: Denoise,
    rule: StepRule,
    course: Course,
    clamp: tuple[Tensor, Tensor] | None = None,  # lowest and highest allowed x̂0, broadcastable
    guides: Sequence[Guided] = (),
) -> Iterator[tuple[Tensor, Estimate, float]]:
    """Yield (x_s, the estimate that it was computed from, s) after every step."""
    past: Past | None = None
    for t, s in pairwise(times):
        estimate = denoise(x, t)
        if clamp is not None:
            estimate = Estimate(torch.clamp(estimate.x0, *clamp), estimate.eps)
        for guide in guides:
            x, estimate = guide(course, x, estimate, t, s)
        x = rule.step(course, x, estimate, past, t, s)
        past = (t, estimate)
        yield x, estimate, s


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return standard normal noise of the shape of x.

    It is drawn on the generator's device, so that a seed gives the same noise whatever the device of x.
    """
    device = generator.device if generator is not None else x.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=torch.float32).to(x)
