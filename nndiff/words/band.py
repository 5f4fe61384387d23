"""Multiply one axis of a volume by a matrix whose weights lie in a band, as those of splines and filters do.

    x'[..., i, ...] = Σ_j W[i, j]·x[..., j, ...]        in blocks of rows, each of which reads only what it weights

Weights below NEGLIGIBLE of the largest of their row are zero: float32 would hold the tails of a spline as subnormal
numbers, with which many processors compute slowly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nndiff.words.volume import FloatArray

NEGLIGIBLE = 1e-12  # of a row's largest weight; float32 rounds at 6e-8
BLOCK = 64  # rows: with many more, a block reads far beyond the band; with fewer, the products are small


def band(weights: npt.NDArray[np.floating]) -> FloatArray:
    """Return the weights [new, old] in float32, without the negligible ones, read-only."""
    largest = np.abs(weights).max(axis=1, keepdims=True)
    kept: FloatArray = np.where(np.abs(weights) < NEGLIGIBLE * largest, 0.0, weights).astype(np.float32)
    kept.flags.writeable = False
    return kept


def along(axis: int, weights: FloatArray, array: FloatArray) -> FloatArray:
    """Return [Z, Y, X] with one axis multiplied by `weights` [new, old]; the result is contiguous for every axis."""
    shape = [len(weights) if i == axis else n for i, n in enumerate(array.shape)]
    product = np.empty(shape, dtype=np.float32)
    for start in range(0, len(weights), BLOCK):
        new = slice(start, start + BLOCK)
        read = np.flatnonzero(weights[new].any(axis=0))
        old = slice(int(read[0]), int(read[-1]) + 1)
        block = weights[new, old]
        if axis == 0:
            np.matmul(block, array[old].reshape(block.shape[1], -1), out=product[new].reshape(len(block), -1))
        elif axis == 1:
            np.matmul(block, array[:, old], out=product[:, new])  # one product per plane
        else:
            np.matmul(array[..., old], block.T, out=product[..., new])
    return product
