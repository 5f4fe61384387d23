"""Guides stand between the network's estimate and the step rule:  (x_t, estimate, t, s) → (x_t, estimate).

    identity   changes nothing

A guide may move the image, its estimate, or both, for instance towards what was measured. They apply in the order in
which the walk lists them.
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
    """A row: what is done to x_t and the estimate before the step is taken."""

    seam = "guide"

    @classmethod
    def table(cls) -> Registry[type[Guide]]:
        return GUIDES

    def __call__(self, course: Course, x_t: Tensor, estimate: Estimate, t: float, s: float) -> tuple[Tensor, Estimate]:
        raise NotImplementedError


@dataclass(frozen=True)
class Identity(Guide):
    name = "identity"

    @property
    def is_identity(self) -> bool:
        return True

    def __call__(self, course: Course, x_t: Tensor, estimate: Estimate, t: float, s: float) -> tuple[Tensor, Estimate]:
        return x_t, estimate


GUIDES: Registry[type[Guide]] = Registry("guide", {"identity": Identity})
