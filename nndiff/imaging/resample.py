"""Other voxels over the same extent: one cubic-spline matrix an axis, three matrix products a channel.

    refine    n → m ≥ n    R[i, j] = spline through e_j at (i + ½)·n/m - ½     (the outer faces of both grids coincide)
    coarsen   m → n        R⁺ = (RᵀR)⁻¹Rᵀ: the coarse volume whose refinement is nearest to the fine one

The least-squares inverse is the anti-aliasing, and R⁺R = 1: coarse → fine → coarse is the identity. Equal to
scipy.ndimage at order 3 where nothing is coarsened, and an order of magnitude faster.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from nndiff.words.volume import FloatArray, Floats, Grid, Mask, Spacing, Triple

CUBIC, LINEAR = 3, 1
TIE = 1e-4  # rounding in float32 must not decide whether exactly half a voxel counts


def resample(array: FloatArray, shape: Triple, *, antialias: bool = True) -> FloatArray:
    """[C, Z, Y, X] → [C, *shape]. Equal shapes give the array itself back."""
    array = np.asarray(array, dtype=np.float32)
    if array.shape[1:] == tuple(shape):
        return array
    result = np.empty((array.shape[0], *shape), dtype=np.float32)
    for channel, target in zip(array, result, strict=True):
        target[...] = _resample_channel(channel, shape, CUBIC, antialias)
    return result


def resample_mask(mask: Mask, shape: Triple) -> Mask:
    """[Z, Y, X]: true where the linear interpolation is at least one half."""
    if mask.shape == tuple(shape):
        return mask
    inside: Mask = _resample_channel(mask.astype(np.float32), shape, LINEAR, False) >= 0.5 - TIE
    return inside


def new_shape(grid: Grid, spacing: Spacing) -> Triple:
    """The shape that fills the grid's extent with voxels of about `spacing`."""
    a, b, c = (max(1, round(extent / size)) for extent, size in zip(grid.extent_mm, spacing, strict=True))
    return a, b, c


def _resample_channel(channel: FloatArray, shape: Triple, order: int, antialias: bool) -> FloatArray:
    """Axis by axis, the strongest reduction first: what is small early stays cheap."""
    axes = sorted((0, 1, 2), key=lambda axis: shape[axis] / channel.shape[axis])
    for axis in axes:
        if channel.shape[axis] != shape[axis]:
            channel = _apply(matrix(channel.shape[axis], shape[axis], order, antialias), channel, axis)
    return channel


def _apply(weights: FloatArray, channel: FloatArray, axis: int) -> FloatArray:
    """One axis of [Z, Y, X] through `weights` [new, old]; the product is contiguous whatever the axis."""
    z, y, x = channel.shape
    product: FloatArray
    if axis == 0:
        product = (weights @ channel.reshape(z, y * x)).reshape(-1, y, x)
    elif axis == 1:
        product = weights @ channel  # a product a plane
    else:
        product = (channel.reshape(z * y, x) @ weights.T).reshape(z, y, -1)
    return product


@lru_cache(maxsize=256)
def matrix(old: int, new: int, order: int = CUBIC, antialias: bool = True) -> FloatArray:
    """[new, old], read-only."""
    inverted = antialias and new < old
    exact = np.linalg.pinv(_sampling(new, old, order)) if inverted else _sampling(old, new, order)
    weights = np.ascontiguousarray(exact, dtype=np.float32)
    weights.flags.writeable = False
    return weights


def _sampling(old: int, new: int, order: int) -> Floats:
    """[new, old]: the identity's columns, interpolated at the new voxels' centres."""
    if old == 1:
        return np.ones((new, 1))
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    columns: list[Any] = [
        ndimage.map_coordinates(column, [centres], order=order, mode="nearest") for column in np.eye(old)
    ]
    return np.stack(columns, axis=1)
