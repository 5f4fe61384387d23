"""The times of a walk: the grid from the starting time down to 0.

suited   suits the step rule: even, but sine for a second-order rule on a bridge
even     equal steps in t
sine     t = sin²(πu/2) with equal steps in u: dense at both ends, so that second order holds on a bridge
squared  t = u² with equal steps in u: dense towards 0, where fine detail is decided
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nndiff.walk.part import STEPS, Asked, Part, revised, written
from nndiff.words.fields import option, within
from nndiff.words.registry import Registry

if TYPE_CHECKING:
    from nndiff.diffusion.process import Process
    from nndiff.walk.rules import Rule
    from nndiff.walk.starts import Start

SHARES = (2, 5, 10)  # for a late start, tuning tries its number of steps divided by each of these
FROM_SOURCE = (1, 2, 4, 10, 20)  # numbers of steps that tuning tries where the process starts at the source


@dataclass(frozen=True)
class Times(Part):
    """The base class of every grid of times."""

    seam = "times"

    first: int = option(STEPS, within(1, STEPS), help="starting step, from 1 to 1000", flag="ts")
    steps: int = option(1, within(1, STEPS), help="network evaluations per volume", flag="steps", metavar="auto|N")

    @classmethod
    def table(cls) -> Registry[type[Times]]:
        return TIMES

    def __call__(self, process: Process, rule: Rule) -> list[float]:
        """Return the times in decreasing order; the last one is 0."""
        raise NotImplementedError

    def label(self) -> str:
        return f"{self.steps} step{'s' if self.steps > 1 else ''}"

    def paces(self, from_source: bool) -> Iterator[Times]:
        """Yield the same path with the other numbers of steps that tuning tries."""
        counts = FROM_SOURCE if from_source else [self.first // share for share in SHARES]
        yield from (replace(self, steps=steps) for steps in counts if from_source or 1 <= steps < self.first)

    def whole(self) -> Times:
        """Return the same path with all of its steps."""
        return replace(self, steps=self.first)


@dataclass(frozen=True)
class Even(Times):
    """Equal steps in t."""

    name = "even"

    def __call__(self, process: Process, rule: Rule) -> list[float]:
        return [self.first / STEPS * (1 - i / self.steps) for i in range(self.steps)] + [0.0]

    def label(self) -> str:
        return f"{super().label()} evenly"


@dataclass(frozen=True)
class Sine(Times):
    """t = sin²(πu/2) with equal steps in u."""

    name = "sine"

    def __call__(self, process: Process, rule: Rule) -> list[float]:
        shares = [1 - i / self.steps for i in range(self.steps)] + [0.0]
        return [self.first / STEPS * math.sin(math.pi / 2 * share) ** 2 for share in shares]

    def label(self) -> str:
        return f"{super().label()} by sine"


@dataclass(frozen=True)
class Squared(Times):
    """t = u² with equal steps in u: the last of 100 steps begins at t = 1e-4 instead of 0.01."""

    name = "squared"

    def __call__(self, process: Process, rule: Rule) -> list[float]:
        return [self.first / STEPS * (1 - i / self.steps) ** 2 for i in range(self.steps)] + [0.0]

    def label(self) -> str:
        return f"{super().label()} by squares"


@dataclass(frozen=True)
class Suited(Times):
    """The grid that suits the step rule: sine for a second-order rule on a bridge, else even."""

    name = "suited"

    def __call__(self, process: Process, rule: Rule) -> list[float]:
        grid = Sine if rule.order == 2 and process.from_source else Even
        return grid(self.first, self.steps)(process, rule)


def revised_times(own: Times, asked: Asked, start: Start, before: Start) -> Times:
    """Return the times that run when `start` replaces the planned start `before`.

    A new start of the whole path begins at step 1000. A walk that was planned to take every step takes every step.
    """
    times = revised(own, asked)
    typed_here = written(asked.get("times"))
    if asked.get("ts") is None and "first" not in typed_here:
        times = replace(times, first=STEPS if start.whole and start.name != before.name else own.first)
    if asked.get("steps") is None and "steps" not in typed_here:
        times = replace(times, steps=times.first if own.steps == own.first else own.steps)
    return times


TIMES: Registry[type[Times]] = Registry("times", {"suited": Suited, "even": Even, "sine": Sine, "squared": Squared})
