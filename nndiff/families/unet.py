"""The UNet family: a convolutional network after the pixel puzzle, and a ladder of sizes for it.

    P⁻¹ UNet(P[x_t; condition], t), then a light head at full resolution, plus the source's local mean where that helps

The ladder lists (puzzle, patch, width, batch, recompute), best first. Down the ladder the patch never grows and the
puzzle factor never shrinks, so a device with more memory never gets a worse plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from nndiff.families.family import FAMILIES, Channels, Explain, NetworkSpec, Rung
from nndiff.families.search import about_batches
from nndiff.families.sizes import at_spacing, coarsened, patches
from nndiff.words.errors import NndiffError
from nndiff.words.fields import at_least, one_of
from nndiff.words.strict_json import LEFT_OUT
from nndiff.words.verdict import Verdict, in_words
from nndiff.words.volume import Spacing, Triple

if TYPE_CHECKING:
    from torch import nn

SAME_SCALE = 2.0  # axes whose spacing is below this multiple of the finest are pooled and puzzled like the finest
SMALLEST_FEATURE = 4  # the fewest voxels per axis at the bottom of the network
MAX_LEVELS = 5
MAX_MULTIPLIER = 4
# Voxels of the finest spacing: below this size the puzzle factor grows before the patch shrinks further. On a CPU work
# is scarce, not memory: many small steps of a wide network learned two and a half times faster than few whole volumes.
FLOOR_PATCH = {"cuda": 64, "mps": 64, "cpu": 32}
NARROWEST = 16  # the width of the last rung
HEAD_WIDTH = 16
# Measured on low-count PET at equal training time (documentation/explanation/puzzle.md).
PRICE_OF_2 = (
    "in trials on PET, 1.4 to 1.8 dB better than full resolution in equal time (0.2 dB in equal steps), with a fifth "
    "to a third of its memory"
)
PRICE_OF_4 = "in trials on PET, 0.6 to 0.8 dB worse than 2 in equal time, so used only if memory or work is short"


@FAMILIES.row
@dataclass(frozen=True, kw_only=True)
class UNetSpec(NetworkSpec):
    """A 3D UNet without attention. Multipliers, kernels and strides have one entry per level."""

    name = "unet"

    multipliers: tuple[int, ...]
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]  # strides[0] is (1, 1, 1)
    blocks: Annotated[int, at_least(1, 1000)]  # residual blocks per level, on each side
    head_width: Annotated[int, at_least(0, 10**4)]  # width of the full-resolution head after the puzzle; 0: no head
    recompute: Annotated[str, one_of("none", "norms", "blocks")]
    timed: bool = False  # whether the heads at full resolution are told the time
    # whether the head is added to an image that the core makes itself; False: it makes the image, in older plans
    corrects: bool = field(default=False, metadata={LEFT_OUT: True})
    mix: Annotated[str, one_of("none", "haar")] = "none"  # mix of the puzzle's channels, before and after the network
    errors: Annotated[int, at_least(0)] = 0  # output channels, the last ones, with a head of their own (Puzzled.aside)
    skip: tuple[int, ...] = ()  # per output channel, the input channel whose local mean it is before training; (): zero

    # ------------------------------------------------------------ size

    @classmethod
    def ladder(cls, shape: Triple, spacing: Spacing, tiled: bool, device: str) -> Iterator[Rung]:
        rung = None
        for puzzle, patch, coarser in dict.fromkeys(_sizes(shape, spacing, tiled, FLOOR_PATCH[device])):
            for width, batch, recompute in _variants(device, puzzle):
                rung = Rung(
                    puzzle_factor=puzzle,
                    patch_size=patch,
                    spacing=coarser,
                    batch_size=batch,
                    width=width,
                    recompute=recompute,
                )
                yield rung
        assert rung is not None
        if rung != (last := replace(rung, batch_size=1, width=NARROWEST, recompute="blocks")):
            yield last

    @classmethod
    def on(cls, rung: Rung, channels: Channels) -> UNetSpec:
        multipliers, kernels, strides = topology(rung.patch_size, rung.puzzle_factor, rung.spacing)
        return cls(
            in_channels=channels.inputs,
            out_channels=channels.outputs,
            width=rung.width,
            multipliers=multipliers,
            kernels=kernels,
            strides=strides,
            blocks=2,
            head_width=HEAD_WIDTH if math.prod(rung.puzzle_factor) > 1 else 0,
            recompute=rung.recompute,
            skip=channels.skip,
            sources=channels.sources,
            answers=channels.answers,
            errors=channels.errors,
            timed=True,
            corrects=True,
        )

    def reasons(self, rung: Rung, whole: Triple, device: str, fits: str, verdict: Explain) -> dict[str, Verdict[Any]]:
        is_whole = rung.patch_size == whole
        coarse = _doubled(rung.puzzle_factor, rung.patch_size)
        puzzles = [(p, {"puzzle_factor": p}) for p in dict.fromkeys([(1, 1, 1), coarse]) if p != rung.puzzle_factor]
        grain = tuple(n * s for n, s in zip(rung.patch_size, rung.spacing, strict=True))
        larger = [] if is_whole else [(whole, {"patch_size": whole})]
        batches = [(2 * rung.batch_size, {"batch_size": 2 * rung.batch_size})]
        wider = rung.width * 3 // 2
        again = "norms" if rung.recompute == "none" else "none"
        starts = "; before training, its output is the local mean of the source" if self.skip else ""
        return {
            "puzzle_factor": verdict(rung.puzzle_factor, f"{_puzzle_words(rung.puzzle_factor)}; {fits}", *puzzles),
            "patch_size": verdict(
                rung.patch_size,
                f"{'the whole volume' if is_whole else 'the largest part of the volume within both limits'}, "
                f"{in_words(grain)} mm",
                *larger,
            ),
            "batch_size": verdict(
                rung.batch_size,
                about_batches(device),
                *batches,
            ),
            "network": verdict(
                self,
                f"{len(self.strides)} levels; each axis is pooled as far as its spacing and length allow; "
                f"width {rung.width} and recompute {rung.recompute} are the best combination that fits{starts}",
                (f"width {wider}", {"width": wider}),
                (f"recompute {again}", {"recompute": again}),
            ),
        }

    # ------------------------------------------------------------ network

    def build(self, puzzle_factor: Triple) -> nn.Module:
        import torch

        from nndiff.networks.puzzle import HEAD_CHANNELS, Head, Puzzled, averaging
        from nndiff.networks.unet import UNet

        self._demand_buildable(puzzle_factor)
        self.demand_sources()
        pieces = math.prod(puzzle_factor)
        outputs = self.out_channels - self.errors
        out = max(HEAD_CHANNELS, outputs if self.corrects else 0) if self.head_width else outputs
        core = UNet(
            in_channels=self.in_channels * pieces,
            out_channels=out * pieces,
            width=self.width,
            multipliers=self.multipliers,
            kernels=self.kernels,
            strides=self.strides,
            blocks=self.blocks,
            recompute=self.recompute,
            zero=self.corrects or not self.head_width,
        )
        head = aside = None
        if self.head_width:
            corrected = outputs if self.corrects else 0
            head = Head(out + self.in_channels, outputs, self.head_width, self.timed, corrected)
        if self.errors:
            aside = Head(out + self.in_channels, self.errors, self.head_width or HEAD_WIDTH, self.timed)
        kernel = self.local_mean_kernel(puzzle_factor)
        skip = averaging(self.in_channels, self.skip, kernel, self.sources) if self.skip else None
        network = Puzzled(
            core=core,
            factor=puzzle_factor,
            multiple=self.multiple(puzzle_factor),
            head=head,
            haar=self.mix == "haar",
            skip=skip,
            aside=aside,
            spreads=self.sources,
        )
        return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]

    def _demand_buildable(self, puzzle_factor: Triple) -> None:
        inputs, outputs = range(self.in_channels), self.out_channels - self.errors
        if outputs < 1:
            raise NndiffError(
                "'network.errors' counts output channels, so it must be smaller than 'network.out_channels'.",
                expected=f"0 to {self.out_channels - 1}",
                found=self.errors,
                remedy="pass --set configurations.NAME.network.errors=0",
            )
        if self.skip and (len(self.skip) != outputs or not all(channel in inputs for channel in self.skip)):
            raise NndiffError(
                "'network.skip' must be empty or name one input channel per output channel that is no error.",
                expected=f"{outputs} numbers from 0 to {self.in_channels - 1} (x_t first, then the sources)",
                found=list(self.skip),
                remedy="pass --set 'configurations.NAME.network.skip=[]'",
            )
        if self.mix == "haar" and max(puzzle_factor) != 2:
            raise NndiffError(
                "The Haar mix needs a puzzle factor of 2.",
                expected="puzzle_factor 1 or 2 along each axis, and 2 along at least one",
                found=list(puzzle_factor),
                remedy="pass --set configurations.NAME.network.mix=none",
            )

    def local_mean_kernel(self, puzzle_factor: Triple) -> Triple:
        """Return the kernel of level 0, but 3 along every puzzled axis."""
        z, y, x = (3 if r > 1 else k for k, r in zip(self.kernels[0], puzzle_factor, strict=True))
        return z, y, x

    @property
    def reuse_depths(self) -> int:
        """Return the number of decoder blocks: features can be kept at the depth of each."""
        return len(self.multipliers) * self.blocks


# ---------------------------------------------------------------- the ladder


def first_puzzle(shape: Triple, spacing: Spacing) -> Triple:
    """Return the smallest puzzle factor to try: 2 on every axis that is fine and long enough, 1 across thick slices."""
    finest = min(spacing)
    z, y, x = (
        2 if s < SAME_SCALE * finest and n >= 4 * SMALLEST_FEATURE else 1 for n, s in zip(shape, spacing, strict=True)
    )
    return z, y, x


def _sizes(shape: Triple, spacing: Spacing, tiled: bool, floor_patch: int) -> Iterator[tuple[Triple, Triple, Spacing]]:
    """Yield (puzzle, patch, spacing), best first."""
    fine = first_puzzle(shape, spacing)
    coarse = _doubled(fine, shape)
    if not tiled:
        yield fine, shape, spacing
        yield coarse, shape, spacing
        yield from ((coarse, smaller, wider) for smaller, wider in coarsened(shape, spacing))
        return
    every = list(patches(shape, spacing))
    floor = [patch for patch in every if _above_floor(patch, shape, spacing, floor_patch)]
    yield from ((fine, patch, spacing) for patch in floor)
    yield from ((coarse, patch, spacing) for patch in every[len(floor) - 1 :])


def _above_floor(patch: Triple, shape: Triple, spacing: Spacing, floor: int) -> bool:
    return all(
        n >= min(whole, at_spacing(floor, s, spacing)) for n, whole, s in zip(patch, shape, spacing, strict=True)
    )


def _doubled(puzzle: Triple, shape: Triple) -> Triple:
    z, y, x = (2 * r if r > 1 and n >= 8 * SMALLEST_FEATURE else r for r, n in zip(puzzle, shape, strict=True))
    return z, y, x


def _variants(device: str, puzzle: Triple) -> list[tuple[int, int, str]]:
    """Return the (width, batch, recompute) to try at one puzzle and patch, best first; the last needs least memory.

    Computing norms twice takes 1 % more time at 96³ voxels on a CPU, whole blocks 13 %.
    """
    wide = 48 if math.prod(puzzle) > 8 else 0  # a narrow stem would lose information of the many input channels
    last = [(32, 2, "blocks"), (32, 1, "norms"), (32, 1, "blocks")]
    if device == "cuda":
        sizes = [(64, 8), (64, 4), (64, 2), (48, 2), (32, 2)]
        rows = [(w, batch, again) for w, batch in sizes for again in ("none", "norms")] + last
    else:
        rows = [(32, 8, "none"), (32, 4, "none"), (32, 2, "none"), (32, 2, "norms"), *last]
    return list(dict.fromkeys((max(width, wide), batch, again) for width, batch, again in rows))


# ---------------------------------------------------------------- levels


def topology(
    patch: Triple, puzzle: Triple, spacing: Spacing
) -> tuple[tuple[int, ...], tuple[Triple, ...], tuple[Triple, ...]]:
    """Return (multipliers, kernels, strides), each with one entry per level.

    From one level to the next, an axis is pooled while it is long enough and about as fine as the finest such axis.
    """
    size = [math.ceil(n / r) for n, r in zip(patch, puzzle, strict=True)]
    grain = [s * r for s, r in zip(spacing, puzzle, strict=True)]
    kernels, strides = [_kernel(grain)], [(1, 1, 1)]
    while len(strides) < MAX_LEVELS:
        long_enough = [i for i in range(3) if size[i] >= 2 * SMALLEST_FEATURE]
        pooled = [i for i in long_enough if grain[i] < SAME_SCALE * min(grain[j] for j in long_enough)]
        if not pooled:
            break
        z, y, x = (2 if i in pooled else 1 for i in range(3))
        size = [math.ceil(n / step) for n, step in zip(size, (z, y, x), strict=True)]
        grain = [g * step for g, step in zip(grain, (z, y, x), strict=True)]
        strides.append((z, y, x))
        kernels.append(_kernel(grain))
    multipliers = tuple(min(2**level, MAX_MULTIPLIER) for level in range(len(strides)))
    return multipliers, tuple(kernels), tuple(strides)


def _kernel(grain: Sequence[float]) -> Triple:
    """Return a kernel of 3 along every axis, but 1 across slices that are much thicker than the other axes."""
    z, y, x = (3 if g < SAME_SCALE * min(grain) else 1 for g in grain)
    return z, y, x


def _puzzle_words(puzzle: Triple) -> str:
    if max(puzzle) == 1:
        return "no puzzle, because the volume is too small to benefit from one"
    price = PRICE_OF_2 if max(puzzle) == 2 else PRICE_OF_4
    thick = ", none along thick or short axes" if min(puzzle) == 1 else ""
    return f"{max(puzzle)} along each fine axis{thick}: {math.prod(puzzle)} times fewer positions to compute; {price}"
