"""The patch sizes that a ladder of sizes tries, and the coarser volumes that it tries where no patch may be cut out."""

from __future__ import annotations

from collections.abc import Iterator

from nndiff.words.volume import Spacing, Triple

SMALLEST_PATCH = 32  # voxels of the finest spacing, per axis


def patches(shape: Triple, spacing: Spacing) -> Iterator[Triple]:
    """Yield the shape of the whole volume, then ever smaller patches.

    Each time the longest side in mm is shortened by a quarter, until every side has its smallest size.
    """
    patch = list(shape)
    yield shape
    while True:
        smallest = [min(n, at_spacing(SMALLEST_PATCH, s, spacing)) for n, s in zip(shape, spacing, strict=True)]
        open_axes = [i for i in range(3) if patch[i] > smallest[i]]
        if not open_axes:
            return
        axis = max(open_axes, key=lambda i: (patch[i] * spacing[i], -i))
        patch[axis] = max(smallest[axis], _neat(patch[axis] * 3 / 4))
        yield patch[0], patch[1], patch[2]


def coarsened(shape: Triple, spacing: Spacing) -> Iterator[tuple[Triple, Spacing]]:
    """Yield (shape, spacing) of the same volume at ever coarser spacings, by factors of 1.15."""
    factor = 1.0
    while True:
        factor *= 1.15
        smaller = [max(1, round(n / factor)) for n in shape]
        if max(smaller) < SMALLEST_PATCH:
            return
        wider = [float(f"{n * s / m:.6g}") for n, s, m in zip(shape, spacing, smaller, strict=True)]
        yield (smaller[0], smaller[1], smaller[2]), (wider[0], wider[1], wider[2])


def at_spacing(voxels: int, s: float, spacing: Spacing) -> int:
    """Return the number of voxels of spacing `s` that cover `voxels` of the finest spacing; at least 8."""
    return max(8, _neat(voxels * min(spacing) / s))


def _neat(size: float) -> int:
    """Return the size rounded down to a multiple of 16, 8 or 4, so that puzzle and pooling divide it."""
    step = 16 if size >= 64 else 8 if size >= 24 else 4
    return max(step, int(size) // step * step)
