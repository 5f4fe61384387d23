"""A guide that keeps the estimate within a given distance of the source."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from nndiff.diffusion.prediction import Estimate
from nndiff.diffusion.walk import Course
from nndiff.walk.guides import Guide
from nndiff.words.fields import at_least, option


@dataclass(frozen=True)
class Within(Guide):
    name = "within"

    distance: float = option(1.0, at_least(0), help="from the source, in network units")

    def __call__(self, course: Course, x_t: Tensor, estimate: Estimate, t: float, s: float) -> tuple[Tensor, Estimate]:
        if course.y is None:
            return x_t, estimate
        near = estimate.x0.clamp(course.y - self.distance, course.y + self.distance)
        return x_t, replace(estimate, x0=near)
