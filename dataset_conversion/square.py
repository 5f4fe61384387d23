"""Pad slices to squares, because the simulated scanners only handle square slices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nndiff.words.errors import NndiffError
from nndiff.words.volume import SPACING_TOLERANCE, Box, FloatArray, Grid


def squared(grid: Grid) -> tuple[Grid, Box]:
    """Return the smallest grid with square slices around this one, and the box of this one in it."""
    z, y, x = grid.shape
    _, dy, dx = grid.spacing
    if abs(dy / dx - 1) > SPACING_TOLERANCE:
        raise NndiffError(
            "The pixels of a slice must be square.",
            expected="one spacing in the slice",
            found=f"{dy} x {dx} mm",
            remedy="resample the scan to square pixels",
        )
    side = max(y, x)
    start = (0, (side - y) // 2, (side - x) // 2)
    return replace(grid, shape=(z, side, side)), Box(start, (z, start[1] + y, start[2] + x))


def into(array: FloatArray, grid: Grid, box: Box) -> FloatArray:
    """Return the array in a larger grid, surrounded by zeros: no activity and no attenuation."""
    whole = np.zeros(grid.shape, dtype=np.float32)
    whole[box.slices] = array
    return whole
