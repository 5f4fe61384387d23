"""Layers: wrappers between the sampler and the network, such as tiles, each with the interface of a network.

    (x_t, t, condition) → output          tiles( folds( shifts( network ) ) )

Layers are nested in the order of the table LAYERS, the first one outermost. Tiles process the whole volume. The mean
over folds always comes directly inside them, and every other layer is wrapped around the network of each fold. Neither
the sampler nor the network depends on the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from nndiff.families.family import NetworkSpec
from nndiff.walk.part import Part, Setting
from nndiff.words.errors import NndiffError
from nndiff.words.fields import at_least, option, within
from nndiff.words.registry import Registry
from nndiff.words.volume import Triple

if TYPE_CHECKING:
    from torch import Tensor

Where = tuple[int, ...]  # the tile, fold, shift, … of an evaluation: the key of the features kept from step to step
Asks = Callable[..., "Tensor"]  # (x_t, t, condition, where) → output


class Layer(Part):
    """The base class of every layer: a wrapper around a network."""

    seam = "layer"
    sees_volume: ClassVar[bool] = False  # whether it is outside the mean over folds and processes the whole volume

    @classmethod
    def table(cls) -> Registry[type[Layer]]:
        return LAYERS

    def around(self, network: Asks, puzzle_factor: Triple) -> Asks:
        """Return the network with this layer around it; the layer appends one number to `where` per evaluation."""
        raise NotImplementedError

    @property
    def passes(self) -> int:
        """Return the number of network evaluations per evaluation of the layer."""
        return 1

    def bytes(self, network: NetworkSpec, tile: Triple) -> int:
        """Return the bytes that the layer needs in addition to the evaluation of a tile by the network."""
        return 0


@dataclass(frozen=True)
class Tiles(Layer):
    """A layer that evaluates the network on overlapping tiles; on one tile if the volume is like the patch."""

    name = "tiles"
    sees_volume = True

    overlap: float = option(
        0.5,
        within(0, 0.999),
        help="distance between tiles, as a share of the tile size",
        flag="step_size",
        metavar="X",
        type=float,
        of=lambda step_size: 1 - step_size,
    )

    def label(self) -> str:
        return "" if self == Tiles() else f"tiles overlap {self.overlap:g}"


@dataclass(frozen=True)
class Shifts(Layer):
    """A layer that averages the network's output over shifts of the puzzle's grid, in fp32.

        (1/k) Σ_o S_o⁻¹ f(S_o x_t, t, S_o y)          S_o: the first o voxels cut off, the last one repeated o times

    Errors that depend on the position of a voxel within a piece of the puzzle are averaged out; all other errors stay.
    Voxels that S_o cuts off take the unshifted output. The network has seen both kinds of border in training, because
    patches are cut out anywhere and padded at their far end. Repeating the near border instead cost 0.5 dB on real PET.
    """

    name = "shifts"

    places: int = option(
        1, at_least(1, 10**4), help="average over K positions of the puzzle's grid", flag="shifts", metavar="K"
    )

    @property
    def is_identity(self) -> bool:
        return self.places == 1

    @property
    def passes(self) -> int:
        return self.places

    def label(self) -> str:
        return "" if self.is_identity else f"{self.places} shifts"

    def demand(self, setting: Setting) -> None:
        offsets(self.places, setting.puzzle_factor)

    def bytes(self, network: NetworkSpec, tile: Triple) -> int:
        """Return the bytes of a shifted copy of the input, of the sum of the outputs so far, and of the next output."""
        return 0 if self.is_identity else 4 * prod(tile) * (network.in_channels + 2 * network.out_channels)

    def around(self, network: Asks, puzzle_factor: Triple) -> Asks:
        moves = offsets(self.places, puzzle_factor)

        def shifted(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where) -> Tensor:
            first: Tensor = network(x_t, t, condition, (*where, 0)).float()
            if len(moves) == 1:
                return first
            total = first.clone()
            for i, by in enumerate(moves[1:], start=1):
                seen = None if condition is None else moved(condition, by)
                answer = network(moved(x_t, by), t, seen, (*where, i))
                total += _back(answer, first, by)
            return total / len(moves)

        return shifted


def offsets(places: int, puzzle_factor: Triple) -> tuple[Triple, ...]:
    """Return `places` shifts, spread evenly along the diagonal of a puzzle piece and beginning with (0, 0, 0)."""
    most = max(puzzle_factor)
    if not 1 <= places <= most:
        raise NndiffError(
            "The puzzle's grid has fewer positions than the shifts that were asked for.",
            expected=f"shifts 1 to {most}, because the puzzle factor is {' x '.join(map(str, puzzle_factor))}",
            found=f"shifts {places}",
            remedy=f"pass --shifts {min(max(places, 1), most)}",
        )
    z, y, x = ([i * r // places for i in range(places)] for r in puzzle_factor)
    return tuple(zip(z, y, x, strict=True))


def moved(x: Tensor, by: Triple) -> Tensor:  # [B, C, Z, Y, X] → the same
    """Return S_o x with o = `by`: the first voxels of each axis cut off, and the last one repeated."""
    import torch

    for axis, voxels in enumerate(by, start=2):
        if voxels:
            places = torch.arange(x.shape[axis], device=x.device) + voxels
            x = x.index_select(axis, places.clamp(max=x.shape[axis] - 1))
    return x


def _back(answer: Tensor, unmoved: Tensor, by: Triple) -> Tensor:
    """Return the output of a shifted input, shifted back; voxels that it does not cover come from `unmoved`."""
    size = [max(0, n - voxels) for n, voxels in zip(answer.shape[2:], by, strict=True)]
    (z, y, x), (i, j, k), out = size, by, unmoved.clone()
    out[:, :, i : i + z, j : j + y, k : k + x] = answer[:, :, :z, :y, :x]
    return out


def ordered(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers with the outermost first: in the order of the table LAYERS, however they are listed."""
    ranks = {name: rank for rank, name in enumerate(LAYERS)}
    return tuple(sorted(layers, key=lambda layer: ranks[layer.name]))


LAYERS: Registry[type[Layer]] = Registry("layer", {"tiles": Tiles, "shifts": Shifts})
