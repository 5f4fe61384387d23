"""Size is one decision: a ladder of (puzzle, patch, batch, width, recompute), best first; search.py takes a rung of it.

Down the ladder the patch never grows and the puzzle never shrinks, so more memory is never worse.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from nndiff.planning.search import Build, Limits, Predict, Rung, Sized, explaining, fits
from nndiff.planning.verdict import Verdict, in_words
from nndiff.plans.plan import NetworkSpec
from nndiff.words.volume import Spacing, Triple

SAME_SCALE = 2.0  # axes within this ratio of the finest are pooled and puzzled alike
SMALLEST_FEATURE = 4  # voxels an axis keeps at the bottom of the network
MAX_LEVELS = 5
MAX_MULTIPLIER = 4
# Voxels of the finest spacing: below this the puzzle grows before the patch shrinks further. On a CPU work is what is
# short, not memory: many small steps of a wide network learned two and a half times faster than few whole volumes.
FLOOR_PATCH = {"cuda": 64, "mps": 64, "cpu": 32}
SMALLEST_PATCH = 32
NARROWEST = 16  # the width of the very last rung
HEAD_WIDTH = 16
# Measured on low-count PET at equal training time (documentation/explanation/puzzle.md).
PRICE_OF_2 = "in trials on PET 1.4 to 1.8 dB ahead of full resolution in equal time, in a quarter of its memory"
PRICE_OF_4 = "its price, in trials on PET, is 0.6 to 0.8 dB behind 2 in equal time; taken where memory or work is short"


# ---------------------------------------------------------------- the ladder


def ladder(shape: Triple, spacing: Spacing, tiled: bool, device: str) -> Iterator[Rung]:
    """All rungs, best first. Untiled (generation) the volume stays whole: its spacing grows instead."""
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


def first_puzzle(shape: Triple, spacing: Spacing) -> Triple:
    """2 on every axis that is fine and long enough; 1 across thick slices."""
    finest = min(spacing)
    z, y, x = (
        2 if s < SAME_SCALE * finest and n >= 4 * SMALLEST_FEATURE else 1 for n, s in zip(shape, spacing, strict=True)
    )
    return z, y, x


def _sizes(shape: Triple, spacing: Spacing, tiled: bool, floor_patch: int) -> Iterator[tuple[Triple, Triple, Spacing]]:
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


def patches(shape: Triple, spacing: Spacing) -> Iterator[Triple]:
    """The whole volume, then ever smaller: the longest side in mm gives up a quarter, until all are at the smallest."""
    patch = list(shape)
    yield shape
    while True:
        smallest = [min(n, _at_spacing(SMALLEST_PATCH, s, spacing)) for n, s in zip(shape, spacing, strict=True)]
        open_axes = [i for i in range(3) if patch[i] > smallest[i]]
        if not open_axes:
            return
        axis = max(open_axes, key=lambda i: (patch[i] * spacing[i], -i))
        patch[axis] = max(smallest[axis], _neat(patch[axis] * 3 / 4))
        yield patch[0], patch[1], patch[2]


def _above_floor(patch: Triple, shape: Triple, spacing: Spacing, floor: int) -> bool:
    return all(
        n >= min(whole, _at_spacing(floor, s, spacing)) for n, whole, s in zip(patch, shape, spacing, strict=True)
    )


def coarsened(shape: Triple, spacing: Spacing) -> Iterator[tuple[Triple, Spacing]]:
    factor = 1.0
    while True:
        factor *= 1.15
        smaller = [max(1, round(n / factor)) for n in shape]
        if max(smaller) < SMALLEST_PATCH:
            return
        wider = [float(f"{n * s / m:.6g}") for n, s, m in zip(shape, spacing, smaller, strict=True)]
        yield (smaller[0], smaller[1], smaller[2]), (wider[0], wider[1], wider[2])


def _doubled(puzzle: Triple, shape: Triple) -> Triple:
    z, y, x = (2 * r if r > 1 and n >= 8 * SMALLEST_FEATURE else r for r, n in zip(puzzle, shape, strict=True))
    return z, y, x


def _at_spacing(voxels: int, s: float, spacing: Spacing) -> int:
    """As many voxels as `voxels` of the finest spacing, at least 8."""
    return max(8, _neat(voxels * min(spacing) / s))


def _neat(size: float) -> int:
    """Down to a multiple of 16, 8 or 4, so that puzzle and pooling divide it."""
    step = 16 if size >= 64 else 8 if size >= 24 else 4
    return max(step, int(size) // step * step)


def _variants(device: str, puzzle: Triple) -> list[tuple[int, int, str]]:
    """(width, batch, recompute) tried at one puzzle and patch, best first; the last needs the least memory of all."""
    wide = 48 if math.prod(puzzle) > 8 else 0  # many channels enter: a narrow stem would lose them
    last = [(32, 2, "blocks"), (32, 1, "norms"), (32, 1, "blocks")]
    if device == "cuda":
        rows = [(64, 8, "none"), (64, 4, "none")]
        rows += [(w, 2, again) for w in (64, 48, 32) for again in ("none", "norms")] + last
    else:
        rows = [(32, 8, "none"), (32, 4, "none"), (32, 2, "none"), (32, 2, "norms"), *last]
    return list(dict.fromkeys((max(width, wide), batch, again) for width, batch, again in rows))


# ---------------------------------------------------------------- the network on a rung


def topology(
    patch: Triple, puzzle: Triple, spacing: Spacing
) -> tuple[tuple[int, ...], tuple[Triple, ...], tuple[Triple, ...]]:
    """(multipliers, kernels, strides) a level: an axis is pooled while it is as fine as the finest and long enough."""
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


def network(rung: Rung, in_channels: int, out_channels: int) -> NetworkSpec:
    multipliers, kernels, strides = topology(rung.patch_size, rung.puzzle_factor, rung.spacing)
    head = HEAD_WIDTH if math.prod(rung.puzzle_factor) > 1 else 0
    return NetworkSpec(
        name="unet",
        in_channels=in_channels,
        out_channels=out_channels,
        width=rung.width,
        multipliers=multipliers,
        kernels=kernels,
        strides=strides,
        blocks=2,
        head_width=head,
        recompute=rung.recompute,
    )


def _kernel(grain: Sequence[float]) -> Triple:
    """3 on every axis, 1 across slices much thicker than the rest."""
    z, y, x = (3 if g < SAME_SCALE * min(grain) else 1 for g in grain)
    return z, y, x


# ---------------------------------------------------------------- why


def reasons(sized: Sized, whole: Triple, build: Build, predict: Predict, limits: Limits) -> dict[str, Verdict[Any]]:
    """The rung taken, field by field."""
    rung, verdict = sized.rung, explaining(sized.rung, build, predict, limits)
    is_whole = rung.patch_size == whole
    coarse = _doubled(rung.puzzle_factor, rung.patch_size)
    puzzles = [(p, {"puzzle_factor": p}) for p in dict.fromkeys([(1, 1, 1), coarse]) if p != rung.puzzle_factor]
    grain = tuple(n * s for n, s in zip(rung.patch_size, rung.spacing, strict=True))
    larger = [] if is_whole else [(whole, {"patch_size": whole})]
    batches = [(2 * rung.batch_size, {"batch_size": 2 * rung.batch_size})]
    wider = rung.width * 3 // 2
    again = "norms" if rung.recompute == "none" else "none"
    levels = len(sized.network.strides)
    starts = "; its answer starts from the source's local mean" if sized.network.skip else ""
    return {
        "puzzle_factor": verdict(
            rung.puzzle_factor, f"{_puzzle_words(rung.puzzle_factor)}; {fits(sized, limits)}", *puzzles
        ),
        "patch_size": verdict(
            rung.patch_size,
            f"{'the whole volume' if is_whole else 'the largest part of the volume that fits'}, {in_words(grain)} mm",
            *larger,
        ),
        "batch_size": verdict(
            rung.batch_size, "more than 2 only while a step stays a quarter of what it may cost", *batches
        ),
        "network": verdict(
            sized.network,
            f"{levels} levels, each axis pooled as its spacing and length allow; "
            f"width {rung.width}, recompute {rung.recompute}: the best on the ladder that fits{starts}",
            (f"width {wider}", {"width": wider}),
            (f"recompute {again}", {"recompute": again}),
        ),
    }


def _puzzle_words(puzzle: Triple) -> str:
    if max(puzzle) == 1:
        return "no puzzle: the volume is too small to gain from one"
    price = PRICE_OF_2 if max(puzzle) == 2 else PRICE_OF_4
    thick = ", none across thick or short axes" if min(puzzle) == 1 else ""
    return f"{max(puzzle)} along each fine axis{thick}: {math.prod(puzzle)} times fewer positions to compute; {price}"
