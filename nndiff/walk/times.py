"""The times of a walk: the grid from the starting time down to 0.

suited   suits the step rule: even, but sine for a second-order rule on a bridge
even     equal steps in t
sine     t = sin²(πu/2) with equal steps in u: dense at both ends, so that second order holds on a bridge
ratio    equal steps in log(sigma/a), from `high` to `low`, after the starting time: a walk has texture if these are
         far above the open part, the rms of what the source leaves open, and below the target's finest texture
squared  t = u² with equal steps in u: dense towards 0, where fine detail is decided
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nndiff.walk.part import STEPS, Asked, Part, Setting, revised, written
from nndiff.words.errors import NndiffError
from nndiff.words.fields import above, option, within
from nndiff.words.registry import Registry

if TYPE_CHECKING:
    from nndiff.diffusion.process import Process
    from nndiff.walk.rules import Rule
    from nndiff.walk.starts import Start

SHARES = (2, 5, 10)  # for a late start, tuning tries its number of steps divided by each of these
# Multiples of the smallest sigma/a that tuning tries, and their steps. The planned one is right for a perfect network.
# After ten minutes on real low-count PET, it drew 1.3 times the truth's fine power, and twice that noise 1.1 times.
EARLIER, SHORT_WALK = (2.0, 4.0, 10.0), 6
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


@dataclass(frozen=True)
class Ratio(Times):
    """Equal steps in log(sigma/a) from `high` to `low`.

    A walk that begins above `high` first takes one step there. One that begins below it goes from its start to `low`,
    or, if its start is below `low` too, down by the same factor.
    """

    name = "ratio"

    high: float = option(1.0, above(0), help="largest sigma/a after the start", metavar="X", type=float)
    low: float = option(0.01, above(0), help="smallest sigma/a", metavar="X", type=float)

    def __call__(self, process: Process, rule: Rule) -> list[float]:
        first = self.first / STEPS
        begins = process.ratio(first)
        if begins <= self.high:  # a late start
            low = self.low if self.low < begins else begins * min(self.low / self.high, 1.0)
            ratios = _levels(begins, low, self.steps)[1:]
        else:
            ratios = _levels(self.high, self.low, self.steps - 1)
        times = [first, *(process.time_of_ratio(ratio) for ratio in ratios), 0.0]
        return sorted(times, reverse=True)

    def demand(self, setting: Setting) -> None:
        if setting.process.scale == 0 and self.steps > 1:
            raise NndiffError(
                "Times by the ratio of noise to signal need a process with noise.",
                found="a process without noise (gamma 0)",
                remedy="pass --steps 1, or --times even",
            )

    def label(self) -> str:
        return f"{super().label()} by ratio {self.high:.2g} to {self.low:.2g}" if self.steps > 1 else super().label()

    def paces(self, from_source: bool) -> Iterator[Times]:
        """Yield other numbers of steps, and walks that stop at more noise: they are nearer to the mean."""
        yield from super().paces(from_source)
        lows = [low for low in (self.low, *(self.low * factor for factor in EARLIER)) if low < self.high]
        yield from (replace(self, steps=SHORT_WALK, low=float(f"{low:.3g}")) for low in lows)


def _levels(high: float, low: float, count: int) -> list[float]:
    """Return `count` values from `high` to `low`, equally spaced in their logarithm; a single one in the middle."""
    if count == 1:
        return [math.sqrt(high * low)]
    return [high * (low / high) ** (i / (count - 1)) for i in range(count)]


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


TIMES: Registry[type[Times]] = Registry(
    "times", {"suited": Suited, "even": Even, "sine": Sine, "squared": Squared, "ratio": Ratio}
)
