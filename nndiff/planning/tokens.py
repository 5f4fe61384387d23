"""The size of a transformer over tokens: the same search as a UNet's, on a ladder of its own.

A token answers for a block of 2, 4, 8 or 16 voxels of the finest spacing an axis; the finest block is taken with which
the volume makes no more tokens than this class of device should attend to. Then widths and depths are tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nndiff.planning.search import Build, Limits, Predict, Rung, Sized, explaining, fits
from nndiff.planning.size import coarsened, patches
from nndiff.planning.verdict import Verdict, in_words
from nndiff.plans.plan import NetworkSpec
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Spacing, Triple

BLOCKS = (2, 4, 8, 16)  # voxels of the finest spacing; published: 8, at 128 voxels
MOST_TOKENS = {"cuda": 4096, "mps": 2048, "cpu": 1024}  # published: 4096
LARGEST_TILED = {"cuda": 8, "mps": 4, "cpu": 4}  # blocks where a volume may be cut instead: published 8
TOO_MANY = 32_768  # where attention, whose work grows with their square, is all that a step does
VARIANTS = {  # (width, depth), best first; published: 768 and 12, 1152 and up to 28
    "cuda": ((768, 12), (512, 8), (384, 8), (256, 6), (128, 4)),
    "mps": ((384, 8), (256, 6), (128, 4)),
    "cpu": ((192, 6), (128, 4), (96, 4), (64, 3)),
}
BATCHES = {"cuda": (8, 4, 2, 1), "mps": (2, 1), "cpu": (4, 2, 1)}


def ladder(shape: Triple, spacing: Spacing, tiled: bool, device: str) -> Iterator[Rung]:
    """All rungs, best first: the whole volume, then (tiled) smaller parts of it or (untiled) a coarser spacing."""
    if tiled:
        sizes = [(patch, spacing) for patch in patches(shape, spacing)]
    else:
        sizes = [(shape, spacing), *coarsened(shape, spacing)]
    found = False
    for patch, grain in sizes:
        block = finest_block(patch, grain, MOST_TOKENS[device], LARGEST_TILED[device] if tiled else max(BLOCKS))
        if block is None:
            continue
        for width, depth in VARIANTS[device]:
            for batch in BATCHES[device]:
                for recompute in ("none", "blocks"):
                    found = True
                    yield Rung(
                        puzzle_factor=(1, 1, 1),
                        patch_size=patch,
                        spacing=grain,
                        batch_size=batch,
                        width=width,
                        recompute=recompute,
                        depth=depth,
                        block=block,
                    )
    assert found


def finest_block(shape: Triple, spacing: Spacing, most: int, largest: int) -> Triple | None:
    blocks = (block_of(size, spacing) for size in BLOCKS if size <= largest)
    return next((block for block in blocks if count(shape, block) <= most), None)


def block_of(size: int, spacing: Spacing) -> Triple:
    """About as long along every axis, in mm; a power of two of voxels."""
    z, y, x = (max(1, 2 ** round(math.log2(size * min(spacing) / s))) for s in spacing)
    return z, y, x


def count(shape: Triple, block: Triple) -> int:
    return math.prod(-(-n // b) for n, b in zip(shape, block, strict=True))


def patch_of(block: Triple) -> Triple:
    """The token around a block: a quarter of it more on every side, as published (12 around 8)."""
    z, y, x = (b + 2 * max(1, b // 4) if b > 1 else b for b in block)
    return z, y, x


def network(rung: Rung, in_channels: int, out_channels: int) -> NetworkSpec:
    """`out_channels`: of image and noise together."""
    return NetworkSpec(
        name="prdit",
        in_channels=in_channels,
        out_channels=out_channels,
        width=rung.width,
        multipliers=(1,),
        kernels=(patch_of(rung.block),),
        strides=(rung.block,),
        blocks=rung.depth,
        head_width=0,
        recompute=rung.recompute,
        answers=2,
    )


def halved(rung: Rung) -> Rung:
    """The same tokens of half as many voxels along every axis of theirs that can be halved: for coarse to fine."""
    axes = [2 if b > 1 else 1 for b in rung.block]
    pz, py, px = (-(-n // a) for n, a in zip(rung.patch_size, axes, strict=True))
    bz, by, bx = (b // a for b, a in zip(rung.block, axes, strict=True))
    sz, sy, sx = (s * a for s, a in zip(rung.spacing, axes, strict=True))
    return replace(rung, patch_size=(pz, py, px), block=(bz, by, bx), spacing=(sz, sy, sx))


def demand_countable(shape: Triple, spec: NetworkSpec) -> None:
    found = count(shape, spec.strides[0])
    if found > TOO_MANY:
        raise NndiffError(
            "The volume makes too many tokens.",
            expected=f"at most {TOO_MANY}",
            found=f"{found}: {in_words(shape)} voxels in blocks of {in_words(spec.strides[0])}",
            remedy="larger blocks (--set configurations.NAME.network.strides=…, kernels), or a coarser spacing",
        )


def reasons(sized: Sized, whole: Triple, build: Build, predict: Predict, limits: Limits) -> dict[str, Verdict[Any]]:
    """The rung taken, field by field."""
    rung, verdict = sized.rung, explaining(sized.rung, build, predict, limits)
    tokens, seen = count(rung.patch_size, rung.block), in_words(patch_of(rung.block))
    is_whole = rung.patch_size == whole
    again = "blocks" if rung.recompute == "none" else "none"
    doubled = tuple(2 * b for b in rung.block)
    return {
        "puzzle_factor": verdict(rung.puzzle_factor, f"tokens take its place; {fits(sized, limits)}"),
        "patch_size": verdict(
            rung.patch_size, "the whole volume" if is_whole else "the largest part of the volume that fits"
        ),
        "batch_size": verdict(
            rung.batch_size,
            "more than 2 only while a step stays a quarter of what it may cost",
            (2 * rung.batch_size, {"batch_size": 2 * rung.batch_size}),
        ),
        "network": verdict(
            sized.network,
            f"{tokens} tokens, a block of {in_words(rung.block)} voxels each that sees {seen}: "
            f"the finest that makes no more than {MOST_TOKENS[limits.device]}; width {rung.width}, depth {rung.depth}, "
            f"recompute {rung.recompute}: the best on the ladder that fits",
            (f"blocks of {in_words(doubled)}", {"block": doubled}),
            (f"recompute {again}", {"recompute": again}),
        ),
    }
