"""A layer that averages the outputs of the network for the volume and for its mirror image along x."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nndiff.walk.layers import Asks, Layer, Where
from nndiff.words.fields import option, within
from nndiff.words.volume import Triple


@dataclass(frozen=True)
class Mirrors(Layer):
    name = "mirrors"

    images: int = option(2, within(1, 2), help="1: the volume alone, 2: its mirror image as well")

    @property
    def is_identity(self) -> bool:
        return self.images == 1

    @property
    def passes(self) -> int:
        return self.images

    def around(self, network: Asks, puzzle_factor: Triple) -> Asks:
        def mirrored(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where) -> Tensor:
            first = network(x_t, t, condition, (*where, 0))
            if self.is_identity:
                return first
            seen = None if condition is None else condition.flip(-1)
            return (first + network(x_t.flip(-1), t, seen, (*where, 1)).flip(-1)) / 2

        return mirrored
