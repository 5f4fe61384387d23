"""Layers stand between the sampler and the network, each obeying the network's own contract.

    (x_t, t, condition) → output          tiles( folds( shifts( network ) ) )

The order is the table's: the first row is the outermost. Tiles see the whole volume, the mean over folds stands below
them whatever the plan says, and every other layer is wrapped around the network of each fold. The sampler knows none of
them, and neither does the network.
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

Where = tuple[int, ...]  # which tile, fold, shift, … an evaluation belongs to: what is kept from step to step, by place
Asks = Callable[..., "Tensor"]  # (x_t, t, condition, where) → output


class Layer(Part):
    """A row: what is wrapped around a network."""

    seam = "layer"
    sees_volume: ClassVar[bool] = False  # whether it stands outside the mean over folds, around the whole volume

    @classmethod
    def table(cls) -> Registry[type[Layer]]:
        return LAYERS

    def around(self, network: Asks, puzzle_factor: Triple) -> Asks:
        """Return the network with this layer around it; it adds one number to `where` per evaluation."""
        raise NotImplementedError

    @property
    def passes(self) -> int:
        """Return how many evaluations of the network one evaluation of the layer takes."""
        return 1

    def bytes(self, network: NetworkSpec, tile: Triple) -> int:
        """Return what it needs beside the network's own evaluation of a tile."""
        return 0


@dataclass(frozen=True)
class Tiles(Layer):
    """A volume goes through in overlapping tiles. Where it fits into memory as one tile, there is one."""

    name = "tiles"
    sees_volume = True

    overlap: float = option(
        0.5,
        within(0, 0.999),
        help="of tiles, as a share of their size",
        flag="step_size",
        metavar="X",
        type=float,
        of=lambda step_size: 1 - step_size,
    )

    def label(self) -> str:
        return "" if self == Tiles() else f"tiles overlap {self.overlap:g}"


@dataclass(frozen=True)
class Shifts(Layer):
    """The mean answer over places of the puzzle's grid, in fp32.

        (1/k) Σ_o S_o⁻¹ f(S_o x_t, t, S_o y)          S_o: the first o voxels cut away, the last one repeated o times

    Errors that depend on a voxel's place within a piece of the puzzle are averaged out; all other errors stay. What S_o
    cuts away has the unshifted answer. A network knows both borders from training: patches are cut anywhere, and padded
    at their far end; a repeated near border cost 0.5 dB on real PET.
    """

    name = "shifts"

    places: int = option(1, at_least(1), help="mean over K places of the puzzle's grid", flag="shifts", metavar="K")

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
        """Return the bytes of a moved copy of the input, of the sum of the answers so far, and of the next answer."""
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
    """Return shifts spread evenly along a piece's diagonal, from (0, 0, 0): each place of an axis equally often."""
    most = max(puzzle_factor)
    if not 1 <= places <= most:
        raise NndiffError(
            "The puzzle's grid has fewer places than that.",
            expected=f"1 to {most}: the puzzle's factor is {' x '.join(map(str, puzzle_factor))}",
            found=f"shifts {places}",
            remedy=f"shifts {min(max(places, 1), most)}",
        )
    z, y, x = ([i * r // places for i in range(places)] for r in puzzle_factor)
    return tuple(zip(z, y, x, strict=True))


def moved(x: Tensor, by: Triple) -> Tensor:  # [B, C, Z, Y, X] → the same
    import torch

    for axis, voxels in enumerate(by, start=2):
        if voxels:
            places = torch.arange(x.shape[axis], device=x.device) + voxels
            x = x.index_select(axis, places.clamp(max=x.shape[axis] - 1))
    return x


def _back(answer: Tensor, unmoved: Tensor, by: Triple) -> Tensor:
    """Return the answer in its own place; where it has none, the unmoved one."""
    size = [max(0, n - voxels) for n, voxels in zip(answer.shape[2:], by, strict=True)]
    (z, y, x), (i, j, k), out = size, by, unmoved.clone()
    out[:, :, i : i + z, j : j + y, k : k + x] = answer[:, :, :z, :y, :x]
    return out


def ordered(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers outermost first: in the order of the table, whatever order they are listed in."""
    ranks = {name: rank for rank, name in enumerate(LAYERS)}
    return tuple(sorted(layers, key=lambda layer: ranks[layer.name]))


LAYERS: Registry[type[Layer]] = Registry("layer", {"tiles": Tiles, "shifts": Shifts})
