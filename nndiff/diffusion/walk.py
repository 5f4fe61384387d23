"""The sampling loop: from x at the first time down to 0, with an estimate of the target at every time.

    for x_s, estimate, s in walk(x, times, denoise, rule, course, ...): ...        the last x_s is the result

One loop serves all samplers, as a generator of steps. At each time the network's estimate passes through the guides,
then the step rule takes x_t to x_s. The rules themselves are in nndiff/walk/rules.py.
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
Past = tuple[float, Estimate]  # the time before this one, and the estimate there


@dataclass(frozen=True, eq=False)
class Course:
    """What stays the same along one walk."""

    process: Process
    y: Tensor | None = None  # the source that each target starts from, [B, C, Z, Y, X]
    generator: torch.Generator | None = None  # of fresh noise

    def noise_like(self, x: Tensor) -> Tensor:
        return noise_like(x, self.generator)


class StepRule(Protocol):
    def step(self, course: Course, x_t: Tensor, estimate: Estimate, past: Past | None, t: float, s: float) -> Tensor:
        """Return x_s."""
        ...


class Guided(Protocol):
    def __call__(
        self, course: Course, x_t: Tensor, estimate: Estimate, t: float, s: float
    ) -> tuple[Tensor, Estimate]: ...


def walk(
    x: Tensor,
    times: Sequence[float],  # falling, from where x stands to 0
    denoise: Denoise,
    rule: StepRule,
    course: Course,
    clamp: tuple[Tensor, Tensor] | None = None,  # lowest and highest x̂0, broadcastable
    guides: Sequence[Guided] = (),
) -> Iterator[tuple[Tensor, Estimate, float]]:
    """Yield (x_s, the estimate it came from, s) after every step."""
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


def even_times(start: float, steps: int) -> list[float]:
    """Return times from `start` to 0 in equal steps."""
    return [start * (1 - i / steps) for i in range(steps)] + [0.0]


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return standard normal noise, drawn on the generator's device, so that a seed gives the same on every device."""
    device = generator.device if generator is not None else x.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=torch.float32).to(x)
