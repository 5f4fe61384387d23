"""Step rules: how x_t becomes x_s, given what the network estimates at t.

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
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from nndiff.walk.part import Asked, Part, revised
from nndiff.words.errors import NndiffError
from nndiff.words.fields import at_least, option, within
from nndiff.words.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from nndiff.diffusion.prediction import Estimate
    from nndiff.diffusion.process import Process
    from nndiff.diffusion.walk import Course, Past

ROUNDING = 1e-9  # of a time: k steps that lead to 0 lead past it by as much
HOT_TRIED = (1, 3)  # beside the planned 2


class Rule(Part):
    """A row: one step of a walk."""

    seam = "rule"
    order: ClassVar[int] = 1
    least_steps: ClassVar[int] = 2  # of a walk, below which tuning does not try it

    @classmethod
    def table(cls) -> Registry[type[Rule]]:
        return RULES

    def step(self, course: Course, x_t: Tensor, estimate: Estimate, past: Past | None, t: float, s: float) -> Tensor:
        """Return x_s."""
        raise NotImplementedError

    def draws_noise(self, process: Process, times: Sequence[float]) -> bool:
        """Return whether two walks through these times differ by fresh noise on the way."""
        raise NotImplementedError

    @classmethod
    def variants(cls, from_source: bool) -> Iterator[Rule]:
        """Yield the settings of this row that tuning tries on a walk of several steps."""
        return iter(())

    def neighbours(self) -> Iterator[Rule]:
        """Yield other settings of this row that tuning tries where this one was planned."""
        return iter(())

    def label(self) -> str:
        return self.name


@dataclass(frozen=True)
class First(Rule):
    """The family's update; eta mixes fresh noise in."""

    name = "first"

    eta: float = option(
        0.0, within(0, 1), help="fresh noise: 0 deterministic, 1 ancestral", flag="eta", metavar="X", type=float
    )

    def step(self, course: Course, x_t: Tensor, estimate: Estimate, past: Past | None, t: float, s: float) -> Tensor:
        a_t, b_t, _ = course.process.at(t)
        update = course.process.update(t, s, self.eta)
        x_s = update.a * estimate.x0
        if course.y is not None and update.b:
            x_s = x_s + update.b * course.y
        if update.ratio:
            rest = x_t - a_t * estimate.x0
            x_s = x_s + update.ratio * (rest if course.y is None else rest - b_t * course.y)
        if update.noise:
            x_s = x_s + update.noise * course.noise_like(x_t)
        return x_s

    def draws_noise(self, process: Process, times: Sequence[float]) -> bool:
        return any(process.update(t, s, self.eta).noise > 0 for t, s in pairwise(times))

    @classmethod
    def variants(cls, from_source: bool) -> Iterator[Rule]:
        """Yield the deterministic step, and on a bridge the ancestral one; elsewhere that is planned already."""
        yield cls(0.0)
        if from_source:
            yield cls(1.0)

    def label(self) -> str:
        return f"eta {self.eta:g}"


@dataclass(frozen=True)
class Second(Rule):
    """The deterministic update with a correction of second order from the estimate before."""

    name = "second"
    order = 2
    least_steps = 3

    def step(self, course: Course, x_t: Tensor, estimate: Estimate, past: Past | None, t: float, s: float) -> Tensor:
        x_s = First(0.0).step(course, x_t, estimate, past, t, s)
        if past is None:
            return x_s
        u, before = past
        levels = [_level(course.process, time) for time in (u, t, s)]
        if not all(math.isfinite(level) for level in levels):
            return x_s
        h2, h = levels[1] - levels[0], levels[2] - levels[1]
        return x_s + course.process.at(s)[0] * (math.exp(-h) + h - 1) / h2 * (estimate.x0 - before.x0)

    def draws_noise(self, process: Process, times: Sequence[float]) -> bool:
        return First(0.0).draws_noise(process, times)

    @classmethod
    def variants(cls, from_source: bool) -> Iterator[Rule]:
        yield cls()

    def label(self) -> str:
        return "eta 0, order 2"


@dataclass(frozen=True)
class Hot(Rule):
    """Several steps down at once, then noised up again to one step down."""

    name = "hot"

    ahead: int = option(
        2, at_least(1), help="K steps at once, then noise; 1: no noise, 0: another rule", flag="hot", metavar="K"
    )

    def step(self, course: Course, x_t: Tensor, estimate: Estimate, past: Past | None, t: float, s: float) -> Tensor:
        if s <= 0:
            return estimate.x0
        u = t - self.ahead * (t - s)
        if self.ahead == 1 or u < ROUNDING:
            return self._down(course, x_t, estimate, t, s)
        x_u = self._down(course, x_t, estimate, t, u)
        (a_u, b_u, sigma_u), (a_s, b_s, sigma_s) = course.process.at(u), course.process.at(s)
        c = course.process.forgetting(a_s, a_u)
        x_s = c * x_u + (a_s - c * a_u) * estimate.x0
        x_s = x_s + math.sqrt(max(0.0, sigma_s**2 - (c * sigma_u) ** 2)) * course.noise_like(x_u)
        return x_s if course.y is None else x_s + (b_s - c * b_u) * course.y

    def _down(self, course: Course, x_t: Tensor, estimate: Estimate, t: float, u: float) -> Tensor:
        before, after = course.process.at(t), course.process.at(u)
        a, b, sigma = (new - old for new, old in zip(after, before, strict=True))
        eps = estimate.eps if before[2] > 0 else course.noise_like(x_t)  # a bridge's start holds none yet
        x_u = x_t + a * estimate.x0 + sigma * eps
        return x_u if course.y is None else x_u + b * course.y

    def draws_noise(self, process: Process, times: Sequence[float]) -> bool:
        return any(self._draws(process, t, s) for t, s in pairwise(times) if s > 0)

    def _draws(self, process: Process, t: float, s: float) -> bool:
        (_, _, sigma_t), (a_s, _, sigma_s) = process.at(t), process.at(s)
        u = t - self.ahead * (t - s)
        if sigma_t == 0 or self.ahead == 1 or u < ROUNDING:
            return sigma_t == 0 and sigma_s > 0
        a_u, _, sigma_u = process.at(u)
        return sigma_s > process.forgetting(a_s, a_u) * sigma_u

    def neighbours(self) -> Iterator[Rule]:
        yield from (Hot(ahead) for ahead in HOT_TRIED)

    def label(self) -> str:
        return f"hot {self.ahead}"


def _level(process: Process, t: float) -> float:
    """Return log(a / sigma), infinite at either end."""
    a, _, sigma = process.at(t)
    return math.log(a / sigma) if a > 0 and sigma > 0 else math.inf


def revised_rule(own: Rule, asked: Asked) -> Rule:
    """Return the rule that runs: `--rule` names it; `--eta`, `--order` and `--hot` each choose the rule they belong to.

    A value that every rule has anyway (eta 0, order 1, hot 0) only rules the others out.
    """
    eta: Any = asked.get("eta")
    order, hot = asked.get("order"), asked.get("hot")
    wanted = [rule for rule, flag in ((First, eta), (Second, order == 2), (Hot, hot)) if flag]
    named = None if asked.get(own.seam) is None else revised(own, asked)
    if len(wanted) > 1 or (named is not None and any(not isinstance(named, rule) for rule in wanted)):
        raise NndiffError(
            "These flags belong to different step rules.",
            expected="one of --eta above 0 (first), --order 2 (second), --hot above 0 (hot)",
            found=" ".join(f"--{k} {asked[k]}" for k in ("rule", "eta", "order", "hot") if asked.get(k) is not None),
            remedy="leave out all but one of them",
        )
    if order is not None and order not in (1, 2):
        raise NndiffError("'order' is out of range.", expected="1 or 2", found=order)
    if named is not None:
        return named
    if wanted == [First]:
        return First(float(eta))
    if wanted == [Second]:
        return Second()
    if wanted == [Hot]:
        return Hot(int(hot or 0))
    if (eta is not None and isinstance(own, First)) or (order == 1 and isinstance(own, Second)):
        return First(0.0)
    return First(0.0) if hot == 0 and isinstance(own, Hot) else own


RULES: Registry[type[Rule]] = Registry("rule", {"first": First, "second": Second, "hot": Hot})
