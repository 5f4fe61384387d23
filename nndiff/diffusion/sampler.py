"""From noise or source to target: one loop for all samplers, a generator of steps.

    for x, estimate, t in walk(x, times, denoise, rule, ...): ...        the last x is the result

A step rule takes x_t to x_s with what the loop has estimated so far:

    first   the process's own update (process.py), eta from 0 (deterministic) to 1 (ancestral)
    second  with eta = 0:  + a_s·(e^{-h} + h - 1)·(x̂0_t - x̂0_u)/h2,  λ = log(a/sigma), h = λ_s - λ_t, h2 = λ_t - λ_u
    hot     k steps down at once, to u, then noised up to s (PRDiT; k = 1: "cold", nothing is noised):
            x_u = x_t + (a_u - a_t)·x̂0 + (b_u - b_t)·y + (sigma_u - sigma_t)·ε̂
            x_s = c·x_u + (a_s - c·a_u)·x̂0 + (b_s - c·b_u)·y + sqrt(sigma_s² - c²·sigma_u²)·z,  c = a_s/a_u (rddm: 1)

The second order is skipped where λ is infinite: at the first and the last step, and without noise.
Hot's way up keeps every marginal. Its way down is published as an Euler step of the trigonometric path, which errs by
second order; the difference of the coefficients does not err, serves every process and is the same to first order.
Where k steps would lead past the target it takes one; the last one ends at x̂0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from nndiff.diffusion.prediction import Estimate
from nndiff.diffusion.process import Process

Denoise = Callable[[Tensor, float], Estimate]  # x_t, t → x̂0 and ε̂
Past = tuple[float, Estimate]  # the time before this one, and what was estimated there


class Rule(Protocol):
    def step(self, x_t: Tensor, estimate: Estimate, past: Past | None, y: Tensor | None, t: float, s: float) -> Tensor:
        """x_s."""
        ...


class First:
    """The family's update; eta mixes fresh noise in."""

    def __init__(self, process: Process, eta: float, generator: torch.Generator | None):
        self.process, self.eta, self.generator = process, eta, generator

    def step(self, x_t: Tensor, estimate: Estimate, past: Past | None, y: Tensor | None, t: float, s: float) -> Tensor:
        a_t, b_t, _ = self.process.at(t)
        update = self.process.update(t, s, self.eta)
        x_s = update.a * estimate.x0
        if y is not None and update.b:
            x_s = x_s + update.b * y
        if update.ratio:
            rest = x_t - a_t * estimate.x0
            x_s = x_s + update.ratio * (rest if y is None else rest - b_t * y)
        if update.noise:
            x_s = x_s + update.noise * noise_like(x_t, self.generator)
        return x_s


class Second(First):
    def __init__(self, process: Process, generator: torch.Generator | None):
        super().__init__(process, 0.0, generator)

    def step(self, x_t: Tensor, estimate: Estimate, past: Past | None, y: Tensor | None, t: float, s: float) -> Tensor:
        x_s = super().step(x_t, estimate, past, y, t, s)
        if past is None:
            return x_s
        u, before = past
        levels = [self._level(time) for time in (u, t, s)]
        if not all(math.isfinite(level) for level in levels):
            return x_s
        h2, h = levels[1] - levels[0], levels[2] - levels[1]
        return x_s + self.process.at(s)[0] * (math.exp(-h) + h - 1) / h2 * (estimate.x0 - before.x0)

    def _level(self, t: float) -> float:
        """log(a / sigma), infinite at either end."""
        a, _, sigma = self.process.at(t)
        return math.log(a / sigma) if a > 0 and sigma > 0 else math.inf


ROUNDING = 1e-9  # of a time: k steps that lead to 0 lead past it by as much


class Hot:
    def __init__(self, process: Process, ahead: int, generator: torch.Generator | None):
        self.process, self.ahead, self.generator = process, ahead, generator

    def step(self, x_t: Tensor, estimate: Estimate, past: Past | None, y: Tensor | None, t: float, s: float) -> Tensor:
        if s <= 0:
            return estimate.x0
        u = t - self.ahead * (t - s)
        if self.ahead == 1 or u < ROUNDING:
            return self._down(x_t, estimate, y, t, s)
        x_u = self._down(x_t, estimate, y, t, u)
        (a_u, b_u, sigma_u), (a_s, b_s, sigma_s) = self.process.at(u), self.process.at(s)
        c = self.process.forgetting(a_s, a_u)
        x_s = c * x_u + (a_s - c * a_u) * estimate.x0
        x_s = x_s + math.sqrt(max(0.0, sigma_s**2 - (c * sigma_u) ** 2)) * noise_like(x_u, self.generator)
        return x_s if y is None else x_s + (b_s - c * b_u) * y

    def _down(self, x_t: Tensor, estimate: Estimate, y: Tensor | None, t: float, u: float) -> Tensor:
        before, after = self.process.at(t), self.process.at(u)
        a, b, sigma = (new - old for new, old in zip(after, before, strict=True))
        eps = estimate.eps if before[2] > 0 else noise_like(x_t, self.generator)  # a bridge's start holds none yet
        x_u = x_t + a * estimate.x0 + sigma * eps
        return x_u if y is None else x_u + b * y


def walk(
    x: Tensor,
    times: Sequence[float],  # falling, from where x stands to 0
    denoise: Denoise,
    rule: Rule,
    y: Tensor | None = None,
    clamp: tuple[Tensor, Tensor] | None = None,  # lowest and highest x̂0, broadcastable
) -> Iterator[tuple[Tensor, Estimate, float]]:
    """Yield (x_s, the estimate it came from, s) after every step."""
    past: Past | None = None
    for t, s in pairwise(times):
        estimate = denoise(x, t)
        if clamp is not None:
            estimate = Estimate(torch.clamp(estimate.x0, *clamp), estimate.eps)
        x = rule.step(x, estimate, past, y, t, s)
        past = (t, estimate)
        yield x, estimate, s


def even_times(start: float, steps: int) -> list[float]:
    """start → 0 in equal steps."""
    return [start * (1 - i / steps) for i in range(steps)] + [0.0]


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal, drawn where the generator lives, so that a seed means one thing on every device."""
    device = generator.device if generator is not None else x.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=torch.float32).to(x)
