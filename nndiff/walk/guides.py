"""Guides, which change the network's estimate before the step rule uses it:  (x_t, estimate, t, s) → (x_t, estimate).

    identity   changes nothing

A guide may change the image, the estimate, or both, for instance towards measured data. Guides are applied in the order
in which the sampler lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nndiff.walk.part import Part
from nndiff.words.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from nndiff.diffusion.prediction import Estimate
    from nndiff.diffusion.walk import Course


class Guide(Part):
    """The base class of every guide: a function of x_t and the estimate that is applied before each step."""

    seam = "guide"

    @classmethod
    def table(cls) -> Registry[type[Guide]]:
        return GUIDES

    def __call__(self, course: Course, x_t: Tensor, estimate: Estimate, t: float, s: float) -> tuple[Tensor, Estimate]:
        raise NotImplementedError


@dataclass(frozen=True)
class Identity(Guide):
    """The guide that changes nothing."""

    name = "identity"

    @property
    def is_identity(self) -> bool:
        return True

    def __call__(self, course: Course, x_t: Tensor, estimate: Estimate, t: float, s: float) -> tuple[Tensor, Estimate]:
        return x_t, estimate


GUIDES: Registry[type[Guide]] = Registry("guide", {"identity": Identity})
