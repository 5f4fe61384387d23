"""Where a walk starts: x at the first time t, from which the sampler walks down.

x_t = a·x + b·y + sigma·eps      with, in the target's place,

noise     x = 0                  at t = 1: the start of processes without a source
source    x = y                  at t = 1 a bridge is y itself
shortcut  x = y                  at a late t: all steps before it are saved (Less Is More)
draft     x = x̂0 of one step     at a late t: a better start than y, for one evaluation more
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

LATE = (1, 5, 10, 25, 50, 100, 250, 500)  # starting steps that tuning tries, of 1000


class Start(Part):
    """A row: x at time t, of the shape of `like` [B, C, Z, Y, X]; its noise was drawn once for the whole volume."""

    seam = "start"
    needs_source: ClassVar[bool] = True
    whole: ClassVar[bool] = False  # whether it stands for the whole path, from t = 1
    evaluations: ClassVar[int] = 0  # of the network, before the first step
    refines: ClassVar[bool] = False  # whether tuning tries it after a start without an evaluation was found

    @classmethod
    def table(cls) -> Registry[type[Start]]:
        return STARTS

    def __call__(
        self, process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor
    ) -> Tensor:
        raise NotImplementedError

    @classmethod
    def late_steps(cls, best: int) -> Iterator[int]:
        """Yield the starting steps at which tuning tries this row when the best one so far starts at `best`."""
        return iter(())

    def demand_source(self, source: object) -> None:
        if self.needs_source and source is None:
            raise NndiffError(f"Start '{self.name}' needs a source.", remedy="--start noise")

    def label(self) -> str:
        return self.name


@dataclass(frozen=True)
class Noise(Start):
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
    """At t = 1 x0 has no weight on a bridge; before it, the source stands in for it."""

    name = "source"
    whole = True

    def __call__(
        self, process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor
    ) -> Tensor:
        return _drawn(process, _needed(y), y, t, noise)


@dataclass(frozen=True)
class Shortcut(Source):
    name = "shortcut"
    whole = False

    @classmethod
    def late_steps(cls, best: int) -> Iterator[int]:
        yield from sorted({*LATE, best})


@dataclass(frozen=True)
class Draft(Start):
    """One evaluation first: from a bridge's own beginning, else from where the walk is to start."""

    name = "draft"
    evaluations = 1
    refines = True

    def __call__(
        self, process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor
    ) -> Tensor:
        first = 1.0 if process.at(1.0)[1] else t
        estimate = denoise(_drawn(process, _needed(y), y, first, noise), first).x0
        return _drawn(process, estimate, y, t, noise)

    @classmethod
    def late_steps(cls, best: int) -> Iterator[int]:
        """Yield the best step so far, and the steps of the list that lie nearest to it."""
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
