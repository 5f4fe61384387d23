"""What every network family has in common: a specification as a plan stores it, and a ladder of sizes to choose from.

    rungs   = Family.ladder(shape, spacing, tiled, device)     the sizes to try, best first
    network = Family.on(rung, channels)                        the network of one size, as a plan stores it
    module  = network.build(puzzle_factor)                     (x_t, t, condition) → output, in image space

A family is one class with its own fields; nothing outside asks which family a network is of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from nndiff.words.errors import NndiffError
from nndiff.words.fields import Checked, at_least
from nndiff.words.registry import Registry
from nndiff.words.strict_json import Tagged
from nndiff.words.verdict import Verdict, in_words
from nndiff.words.volume import Spacing, Triple

if TYPE_CHECKING:
    from torch import Tensor, nn

Explain = Callable[..., Verdict[Any]]  # (value, reason, (what is shown of a neighbour, how its rung differs) …)


@dataclass(frozen=True)
class Channels:
    """How many image channels a network takes in (x_t and condition) and gives back, all answers together."""

    inputs: int
    outputs: int
    answers: int = 1  # outputs per target channel
    skip: tuple[int, ...] = ()  # for each output the input whose local mean it starts from; () = zeros


@dataclass(frozen=True)
class Rung:
    """A size to try: what of the volume a step sees, and how large the network is."""

    puzzle_factor: Triple
    patch_size: Triple
    spacing: Spacing
    batch_size: int
    width: int
    recompute: str

    power: ClassVar[int] = 1  # of the patch's voxels, that a step's work grows with at most
    slow_alone: ClassVar[bool] = True  # whether a batch of 1 goes to slower convolutions on a CPU

    @property
    def shape_of_work(self) -> tuple[Any, ...]:
        """Return what two rungs share whose work differs by patch and batch alone."""
        return self.puzzle_factor, self.width

    def __str__(self) -> str:
        again = "" if self.recompute == "none" else f", {self.recompute} computed twice"
        size = f"puzzle {in_words(self.puzzle_factor)}, patch {in_words(self.patch_size)}"
        return f"{size}, batch {self.batch_size}, width {self.width}{again}"


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Tagged, Checked):
    """The fields that every family has; each family adds its own."""

    in_channels: Annotated[int, at_least(1)]  # image channels of x_t and condition together, before the puzzle
    out_channels: Annotated[int, at_least(1)]  # image channels of the output, all answers together
    width: Annotated[int, at_least(4)]
    recompute: str  # what is computed twice to save memory: none, blocks, …
    answers: Annotated[int, at_least(1)] = 1  # per target channel: 2 where both image and noise are predicted

    keeps_patch: ClassVar[bool] = False  # whether it answers only at the patch size that it was trained on

    @classmethod
    def table(cls) -> Registry[type[NetworkSpec]]:
        return FAMILIES

    @property
    def targets(self) -> int:
        return self.out_channels // self.answers

    # ------------------------------------------------------------ size

    @classmethod
    def ladder(cls, shape: Triple, spacing: Spacing, tiled: bool, device: str) -> Iterator[Rung]:
        """Yield all sizes, best first. Untiled (generation) the volume stays whole: its spacing grows instead."""
        raise NotImplementedError

    @classmethod
    def on(cls, rung: Rung, channels: Channels) -> NetworkSpec:
        """Return the network of that size."""
        raise NotImplementedError

    def reasons(self, rung: Rung, whole: Triple, device: str, fits: str, verdict: Explain) -> dict[str, Verdict[Any]]:
        """Return a verdict for each of puzzle_factor, patch_size, batch_size and network; `self` is what was taken."""
        raise NotImplementedError

    def demand_size(self, shape: Triple) -> None:
        """Refuse a volume that is too large for this network, whatever the memory."""

    # ------------------------------------------------------------ network

    def build(self, puzzle_factor: Triple) -> nn.Module:
        """Return the network (x_t, t, condition) → output, with weights channels last."""
        raise NotImplementedError

    def multiple(self, puzzle_factor: Triple) -> Triple:
        """Return what every axis of a patch is padded to a multiple of."""
        return puzzle_factor

    def local_mean_kernel(self, puzzle_factor: Triple) -> Triple:
        """Return the voxels over which the source's local mean is taken, the plainest answer of such a network."""
        z, y, x = (3 if r > 1 else 1 for r in puzzle_factor)
        return z, y, x

    # ------------------------------------------------------------ kept features and inherited weights

    @property
    def reuse_depths(self) -> int:
        """Return how many depths there are at which deep features can be kept between steps; 0: none."""
        return 0

    def inherit(self, own: Mapping[str, Tensor], other: NetworkSpec, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of another run as this network begins with them; refuse a network that does not fit."""
        if not self.is_like(other):
            raise self.cannot_begin_with(other)
        return dict(theirs)

    def is_like(self, other: NetworkSpec) -> bool:
        """Return whether both have the same weights: all fields but `recompute` are equal."""
        return type(self) is type(other) and self == replace(other, recompute=self.recompute)

    def cannot_begin_with(self, other: NetworkSpec, fields: Sequence[str] | None = None) -> NndiffError:
        """Return the refusal of another network's weights, with the fields in which the two differ."""
        names = fields or [name for name in vars(self) if name != "recompute"]
        differing = [name for name in names if getattr(self, name, None) != getattr(other, name, None)]
        words = [f"{name} {getattr(other, name, 'absent')}, here {getattr(self, name)}" for name in differing]
        if self.name != other.name:
            words.insert(0, f"name {other.name}, here {self.name}")
        return NndiffError(
            "This network cannot begin with the weights of that one.",
            expected="the same network, or a prdit of the same width and depth at a coarser resolution",
            found=", ".join(words),
            remedy="plan both together (-c prdit_lowres prdit)",
        )


def padded(shape: Sequence[int], steps: Sequence[int]) -> list[int]:
    """Return the shape at which a network works on a volume: each axis up to the next multiple."""
    return [-(-n // m) * m for n, m in zip(shape, steps, strict=True)]


def product_of_strides(strides: Sequence[Triple], puzzle_factor: Triple) -> Triple:
    z, y, x = (r * math.prod(axis) for r, axis in zip(puzzle_factor, zip(*strides, strict=True), strict=True))
    return z, y, x


FAMILIES: Registry[type[NetworkSpec]] = Registry("network")
