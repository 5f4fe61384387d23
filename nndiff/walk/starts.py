"""Starts: how a sampler computes x at the first time t.

x_t = a·x + b·y + sigma·eps      where x takes the place of the target:

noise     x = 0                  at t = 1, for processes that do not start at the source
source    x = y                  at t = 1, where a bridge is y itself
shortcut  x = y                  at a late (smaller) t; this saves all steps before it (Less Is More)
draft     x = x̂0 of one step     at a late t: a better start than y, for one more evaluation
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nndiff.walk.part import STEPS, Part
from nndiff.words.errors import NndiffError
from nndiff.words.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from nndiff.diffusion.process import Process
    from nndiff.diffusion.walk import Denoise

LATE = (1, 5, 10, 25, 50, 100, 250, 500)  # starting steps, of 1000, that tuning tries


class Start(Part):
    """The base class of every start. A call returns x at time t, of the shape of `like`: [B, C, Z, Y, X].

    `noise` has been drawn once for the whole volume.
    """

    seam = "start"
    needs_source: ClassVar[bool] = True
    whole: ClassVar[bool] = False  # whether the walk covers the whole path, from t = 1
    evaluations: ClassVar[int] = 0  # network evaluations before the first step
    refines: ClassVar[bool] = False  # whether tuning tries it only after the best start without evaluations is known

    @classmethod
    def table(cls) -> Registry[type[Start]]:
        return STARTS

    def __call__(
        self, process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor
    ) -> Tensor:
        raise NotImplementedError

    @classmethod
    def late_steps(cls, best: int) -> Iterator[int]:
        """Yield the starting steps at which tuning tries this start if the best start so far is at step `best`."""
        return iter(())

    def demand_source(self, source: object) -> None:
        if self.needs_source and source is None:
            raise NndiffError(f"The start '{self.name}' needs a source.", remedy="pass --start noise")

    def label(self) -> str:
        return self.name


@dataclass(frozen=True)
class Noise(Start):
    """A start from noise; at t = 1."""

    name = "noise"
    needs_source = False
    whole = True

    def __call__(
        self, process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor
    ) -> Tensor:
        return _drawn(process, like.new_zeros(like.shape), y, t, noise)

    @classmethod
    def late_steps(cls, best: int) -> Iterator[int]:
        yield STEPS


@dataclass(frozen=True)
class Source(Start):
    """A start from the source, which takes the place of x0. On a bridge at t = 1, x0 has no weight and x is y."""

    name = "source"
    whole = True

    def __call__(
        self, process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor
    ) -> Tensor:
        return _drawn(process, _needed(y), y, t, noise)


@dataclass(frozen=True)
class Shortcut(Source):
    """A start from the source, noised to a late t."""

    name = "shortcut"
    whole = False

    @classmethod
    def late_steps(cls, best: int) -> Iterator[int]:
        yield from sorted({*LATE, best})


@dataclass(frozen=True)
class Draft(Start):
    """A start from the estimate of one network evaluation: at t = 1 on a bridge, at the starting time otherwise."""

    name = "draft"
    evaluations = 1
    refines = True

    def __call__(
        self, process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor
    ) -> Tensor:
        first = 1.0 if process.from_source else t
        estimate = denoise(_drawn(process, _needed(y), y, first, noise), first).x0
        return _drawn(process, estimate, y, t, noise)

    @classmethod
    def late_steps(cls, best: int) -> Iterator[int]:
        """Yield the best step so far and the three steps of LATE that are nearest to it."""
        near = sorted(LATE, key=lambda step: abs(step - best))[:3]
        yield from (step for step in sorted({best, *near}) if step < STEPS)


def _drawn(process: Process, x0: Tensor, y: Tensor | None, t: float, noise: Tensor) -> Tensor:
    import torch

    times = torch.full((x0.shape[0],), t, dtype=torch.float64, device=x0.device)
    return process.sample(x0, y, times, noise)


def _needed(y: Tensor | None) -> Tensor:
    assert y is not None, "this start needs a source"
    return y


STARTS: Registry[type[Start]] = Registry(
    "start", {"source": Source, "noise": Noise, "shortcut": Shortcut, "draft": Draft}
)
