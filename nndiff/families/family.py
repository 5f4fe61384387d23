"""The base class of every network family: a specification that a plan stores, and a ladder of sizes to choose from.

    rungs   = Family.ladder(shape, spacing, tiled, device)     the sizes to try, best first; each is a rung
    network = Family.on(rung, channels)                        the network of one size, as a plan stores it
    module  = network.build(puzzle_factor)                     (x_t, t, condition) → output, in image space

A family is one class with its own fields. No other code depends on which family a network belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from nndiff.words.errors import NndiffError
from nndiff.words.fields import Checked, at_least
from nndiff.words.registry import Registry
from nndiff.words.spread import Spread
from nndiff.words.strict_json import LEFT_OUT, Tagged
from nndiff.words.verdict import Verdict, in_words
from nndiff.words.volume import Spacing, Triple

if TYPE_CHECKING:
    from torch import Tensor, nn

FREE = ("recompute", "sources")  # fields of a network that its weights do not depend on
Explain = Callable[..., Verdict[Any]]  # (value, reason, (value shown for a neighbour, fields that differ there) …)


@dataclass(frozen=True)
class Channels:
    """The numbers of image channels of a network: inputs (x_t and condition) and outputs (all answers together)."""

    inputs: int
    outputs: int
    answers: int = 1  # outputs per target channel
    skip: tuple[int, ...] = ()  # per output, the input whose local mean it is before training; (): zero
    errors: int = 0  # of the outputs, the last ones: expected errors of the others
    anchors: tuple[int, ...] = ()  # per target, the channel of the condition that it starts from; (): no sources
    sources: tuple[Spread, ...] = ()  # of the channels of the condition; (): none, or not known


@dataclass(frozen=True)
class Rung:
    """A size on the ladder: the part of the volume that a training step sees, and the size of the network."""

    puzzle_factor: Triple
    patch_size: Triple
    spacing: Spacing
    batch_size: int
    width: int
    recompute: str

    power: ClassVar[int] = 1  # the work of a step grows at most with this power of the number of voxels
    slow_alone: ClassVar[bool] = True  # whether PyTorch uses slower convolutions for a batch of 1 on a CPU

    @property
    def shape_of_work(self) -> tuple[Any, ...]:
        """Return the fields that are equal in two rungs whose work differs only by patch and batch."""
        return self.puzzle_factor, self.width

    def __str__(self) -> str:
        again = "" if self.recompute == "none" else f", {self.recompute} computed twice"
        size = f"puzzle {in_words(self.puzzle_factor)}, patch {in_words(self.patch_size)}"
        return f"{size}, batch {self.batch_size}, width {self.width}{again}"


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Tagged, Checked):
    """A network as a plan stores it. These are the fields that every family has; each family adds its own."""

    in_channels: Annotated[int, at_least(1, 1000)]  # image channels of x_t and condition together, before the puzzle
    out_channels: Annotated[int, at_least(1, 1000)]  # image channels of the output, all answers together
    width: Annotated[int, at_least(4, 10**4)]
    recompute: str  # what is computed twice to save memory: none, blocks, …
    answers: Annotated[int, at_least(1)] = 1  # per target channel: 2 where both image and noise are predicted
    # the network sees (source - mean)/std of each channel of the condition; (): as it is, in older plans
    sources: tuple[Spread, ...] = field(default=(), metadata={LEFT_OUT: True})

    keeps_patch: ClassVar[bool] = False  # whether it can be run only at the patch size that it was trained on

    @classmethod
    def table(cls) -> Registry[type[NetworkSpec]]:
        return FAMILIES

    @property
    def targets(self) -> int:
        return self.out_channels // self.answers

    # ------------------------------------------------------------ size

    @classmethod
    def ladder(cls, shape: Triple, spacing: Spacing, tiled: bool, device: str) -> Iterator[Rung]:
        """Yield all sizes, best first.

        If not `tiled` (generation), the volume stays whole and its spacing grows instead.
        """
        raise NotImplementedError

    @classmethod
    def on(cls, rung: Rung, channels: Channels) -> NetworkSpec:
        """Return the network of the size `rung`."""
        raise NotImplementedError

    def reasons(self, rung: Rung, whole: Triple, device: str, fits: str, verdict: Explain) -> dict[str, Verdict[Any]]:
        """Return a verdict for each of puzzle_factor, patch_size, batch_size and network; `self` is the chosen one."""
        raise NotImplementedError

    def demand_size(self, shape: Triple) -> None:
        """Refuse a volume that is too large for this network, however much memory there is."""

    # ------------------------------------------------------------ network

    def build(self, puzzle_factor: Triple) -> nn.Module:
        """Return the network (x_t, t, condition) → output, with its weights in channels-last memory format."""
        raise NotImplementedError

    def demand_sources(self) -> None:
        """Refuse means and stds of another number of sources than the network has."""
        sources = self.in_channels - self.targets
        if self.sources and len(self.sources) != sources:
            raise NndiffError(
                "'network.sources' must be empty or have one mean and std per source channel.",
                expected=f'{sources} of {{"mean": …, "std": …}}',
                found=len(self.sources),
                remedy="pass --set 'configurations.NAME.network.sources=[]'",
            )

    def multiple(self, puzzle_factor: Triple) -> Triple:
        """Return the number, per axis, to whose multiples a patch is padded."""
        return puzzle_factor

    def local_mean_kernel(self, puzzle_factor: Triple) -> Triple:
        """Return the kernel size over which the local mean of the source is taken, the simplest output of a network."""
        z, y, x = (3 if r > 1 else 1 for r in puzzle_factor)
        return z, y, x

    def beyond(self, channel: int) -> float:
        """Return what a convolution padded by zeros sees of a source channel outside the volume."""
        return self.sources[channel].mean if self.sources else 0.0

    def signs(self, network: nn.Module, x_t: Tensor, t: Tensor) -> dict[str, float]:
        """Return measures of the health of a trained network, by their names in `Epoch`; empty: none are known."""
        return {}

    # ------------------------------------------------------------ kept features and inherited weights

    @property
    def reuse_depths(self) -> int:
        """Return the number of depths at which deep features can be kept between steps; 0: none."""
        return 0

    def inherit(self, own: Mapping[str, Tensor], other: NetworkSpec, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the initial weights of this network, from those of another run; refuse a network that does not fit."""
        if not self.is_like(other):
            raise self.cannot_begin_with(other)
        return dict(theirs)

    def is_like(self, other: NetworkSpec) -> bool:
        """Return whether both networks have weights of the same shapes: all fields but those of FREE are equal."""
        return type(self) is type(other) and self == replace(other, **{name: getattr(self, name) for name in FREE})

    def cannot_begin_with(self, other: NetworkSpec, fields: Sequence[str] | None = None) -> NndiffError:
        """Return the error that refuses the weights of another network and names the fields in which the two differ."""
        names = fields or [name for name in vars(self) if name not in FREE]
        differing = [name for name in names if getattr(self, name, None) != getattr(other, name, None)]
        words = [f"{name} {getattr(other, name, 'absent')} instead of {getattr(self, name)}" for name in differing]
        if self.name != other.name:
            words.insert(0, f"name {other.name} instead of {self.name}")
        return NndiffError(
            "The weights of the other network do not fit this network.",
            expected="the same network, or a prdit of the same width and depth at a coarser resolution",
            found=", ".join(words),
            remedy="plan both configurations together (-c prdit_lowres prdit)",
        )


def padded(shape: Sequence[int], steps: Sequence[int]) -> list[int]:
    """Return the shape of a volume inside the network: each axis is rounded up to a multiple of its step."""
    return [-(-n // m) * m for n, m in zip(shape, steps, strict=True)]


FAMILIES: Registry[type[NetworkSpec]] = Registry("network")
