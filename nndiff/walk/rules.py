"""Step rules: how a sampler computes x_s from x_t, given the network's estimate at t.

    first   the process's own update (process.py), eta from 0 (deterministic) to 1 (ancestral)
    second  with eta = 0:  + a_s·(e^{-h} + h - 1)·(x̂0_t - x̂0_u)/h2,  λ = log(a/sigma), h = λ_s - λ_t, h2 = λ_t - λ_u
    hot     k steps down at once, to u, then noised up to s (PRDiT; k = 1: "cold", nothing is noised):
            x_u = x_t + (a_u - a_t)·x̂0 + (b_u - b_t)·y + (sigma_u - sigma_t)·ε̂
            x_s = c·x_u + (a_s - c·a_u)·x̂0 + (b_s - c·b_u)·y + sqrt(sigma_s² - c²·sigma_u²)·z,  c = a_s/a_u (rddm: 1)

The second-order correction is skipped where λ is infinite: at the first and the last step, and without noise.
The step up of `hot` preserves every marginal. Its step down was published as an Euler step along the trigonometric
path, which has a second-order error. The difference of the coefficients, used here, is exact, applies to every process
and agrees with the Euler step to first order. Where k steps would lead to the target or past it, `hot` takes one step;
the last step ends at x̂0.
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

ROUNDING = 1e-9  # tolerance in t: k steps that end this close to 0 count as leading to the target
HOT_TRIED = (1, 3)  # values that tuning tries beside the planned 2


class Rule(Part):
    """The base class of every step rule."""

    seam = "rule"
    order: ClassVar[int] = 1  # order of convergence
    least_steps: ClassVar[int] = 2  # tuning does not try the rule on walks with fewer steps

    @classmethod
    def table(cls) -> Registry[type[Rule]]:
        return RULES

    def step(self, course: Course, x_t: Tensor, estimate: Estimate, past: Past | None, t: float, s: float) -> Tensor:
        """Return x_s."""
        raise NotImplementedError

    def draws_noise(self, process: Process, times: Sequence[float]) -> bool:
        """Return whether the rule draws fresh noise in some step between these times."""
        raise NotImplementedError

    @classmethod
    def variants(cls) -> Iterator[Rule]:
        """Yield the settings of this rule that tuning tries on a walk of several steps."""
        return iter(())

    def neighbours(self) -> Iterator[Rule]:
        """Yield other settings of this rule that tuning tries if this one was planned."""
        return iter(())

    def label(self) -> str:
        return self.name


@dataclass(frozen=True)
class First(Rule):
    """The first-order update of the process; eta sets the amount of fresh noise."""

    name = "first"

    eta: float = option(
        0.0,
        within(0, 1),
        help="fresh noise per step; 0: deterministic, 1: ancestral",
        flag="eta",
        metavar="X",
        type=float,
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
    def variants(cls) -> Iterator[Rule]:
        """Yield the deterministic step and the ancestral one, which forgets the errors of earlier estimates."""
        yield from (cls(0.0), cls(1.0))

    def label(self) -> str:
        return f"eta {self.eta:g}"


@dataclass(frozen=True)
class Second(Rule):
    """The deterministic update with a second-order correction from the previous estimate."""

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
    def variants(cls) -> Iterator[Rule]:
        yield cls()

    def label(self) -> str:
        return "eta 0, order 2"


@dataclass(frozen=True)
class Hot(Rule):
    """Several steps down at once; then noise brings x back up, so that the result is one step down."""

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
        eps = estimate.eps if before[2] > 0 else course.noise_like(x_t)  # the start of a bridge contains no noise
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
    """Return log(a / sigma); infinite where a or sigma is 0."""
    a, _, sigma = process.at(t)
    return math.log(a / sigma) if a > 0 and sigma > 0 else math.inf


def revised_rule(own: Rule, asked: Asked) -> Rule:
    """Return the rule that runs: `--rule` names it; `--eta`, `--order` and `--hot` each select the rule they belong to.

    Neutral values select no rule; they only exclude one: `--eta 0` makes a planned `first` deterministic, and
    `--order 1` and `--hot 0` replace a planned `second` or `hot` by the deterministic `first`.
    """
    eta: Any = asked.get("eta")
    order, hot = asked.get("order"), asked.get("hot")
    wanted = [rule for rule, flag in ((First, eta), (Second, order == 2), (Hot, hot)) if flag]
    named = None if asked.get(own.seam) is None else revised(own, asked)
    if len(wanted) > 1 or (named is not None and any(not isinstance(named, rule) for rule in wanted)):
        raise NndiffError(
            "Only one step rule can be chosen, but these flags choose several.",
            expected="one of --eta above 0 (first), --order 2 (second), --hot above 0 (hot)",
            found=" ".join(f"--{k} {asked[k]}" for k in ("rule", "eta", "order", "hot") if asked.get(k) is not None),
            remedy="pass only one of these flags",
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
    if hot == 0 and isinstance(own, Hot):
        return First(0.0)
    others = [row for row in RULES.table.values() if row not in (First, Second, Hot) and row.asked_for(asked)]
    return revised(own if not others or isinstance(own, others[0]) else others[0](), asked)


RULES: Registry[type[Rule]] = Registry("rule", {"first": First, "second": Second, "hot": Hot})
