"""Short constructors of samplers and networks for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nndiff.families.prdit import PRDiTSpec
from nndiff.families.unet import UNetSpec
from nndiff.walk.caches import Deep
from nndiff.walk.layers import Shifts, Tiles
from nndiff.walk.rules import First, Hot, Rule, Second
from nndiff.walk.sampler import SamplerPlan
from nndiff.walk.starts import STARTS
from nndiff.walk.times import Suited, Times


def walk_of(
    start: str = "source",
    first: int = 1000,
    steps: int = 1,
    eta: float = 0.0,
    order: int = 1,
    samples: int = 1,
    reuse: Deep | None = None,
    hot: int = 0,
    shifts: int = 1,
    overlap: float = 0.5,
    grid: type[Times] = Suited,
) -> SamplerPlan:
    rule: Rule = Hot(hot) if hot else Second() if order == 2 else First(eta)
    return SamplerPlan(
        start=STARTS[start](),
        times=grid(first, steps),
        rule=rule,
        layers=(Tiles(overlap), Shifts(shifts)),
        caches=(reuse or Deep(),),
        samples=samples,
    )


def changed(sampler: SamplerPlan, **words: Any) -> SamplerPlan:
    """Return the sampler with some of the words of `walk_of` changed."""
    for name, value in words.items():
        if name == "start":
            sampler = replace(sampler, start=STARTS[value]())
        elif name in ("first", "steps"):
            sampler = replace(sampler, times=replace(sampler.times, **{name: value}))
        elif name == "samples":
            sampler = replace(sampler, samples=value)
        elif name in ("reuse", "shifts", "overlap"):
            parts = {"reuse": lambda v: v, "shifts": Shifts, "overlap": Tiles}
            sampler = sampler.with_part(parts[name](value))
        else:
            rules: dict[str, Any] = {"eta": First, "hot": Hot, "order": lambda v: Second() if v == 2 else First(0.0)}
            sampler = replace(sampler, rule=rules[name](value))
    return sampler


def denoising(configuration: str, prediction: str = "x0") -> dict[str, Any]:
    """Return the overrides with which a model is planned whose prediction states no error."""
    return {f"configurations.{configuration}.prediction": prediction}


def unet(**words: Any) -> UNetSpec:
    """Return a small UNet of two levels for one source and one target."""
    plain: dict[str, Any] = {
        "in_channels": 2,
        "out_channels": 1,
        "width": 8,
        "multipliers": (1, 2),
        "kernels": ((3, 3, 3), (3, 3, 3)),
        "strides": ((1, 1, 1), (2, 2, 2)),
        "blocks": 1,
        "head_width": 0,
        "recompute": "none",
    }
    return UNetSpec(**{**plain, **words})


def prdit(**words: Any) -> PRDiTSpec:
    """Return a small transformer for one source and one target, which answers with image and noise."""
    plain: dict[str, Any] = {
        "in_channels": 2,
        "out_channels": 2,
        "answers": 2,
        "width": 24,
        "token": (6, 6, 6),
        "block": (4, 4, 4),
        "depth": 2,
        "recompute": "none",
    }
    return PRDiTSpec(**{**plain, **words})


def even_times(start: float, steps: int) -> list[float]:
    """Return the times from `start` to 0 in equal steps."""
    return [start * (1 - i / steps) for i in range(steps)] + [0.0]
