"""Resample a volume to another shape over the same extent, with one cubic-spline matrix per axis.

    refine    n → m ≥ n    R[i, j] = spline through e_j at (i + ½)·n/m - ½     (the outer faces of both grids coincide)
    coarsen   m → n        R⁺ = (RᵀR)⁻¹Rᵀ: the coarse volume whose refinement is nearest to the fine one

The least-squares inverse acts as anti-aliasing, and R⁺R = 1: coarse → fine → coarse is the identity. Without
coarsening, the result equals scipy.ndimage at order 3, an order of magnitude faster.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from nndiff.words.band import along, band
from nndiff.words.volume import FloatArray, Floats, Grid, Mask, Spacing, Triple

CUBIC, LINEAR = 3, 1
TIE = 1e-4  # tolerance, so that float32 rounding does not decide whether exactly half a voxel counts


def resample(array: FloatArray, shape: Triple, *, antialias: bool = True) -> FloatArray:
    """Return an array [C, Z, Y, X] resampled to [C, *shape]; the array itself if the shapes are equal."""
    array = np.asarray(array, dtype=np.float32)
    if array.shape[1:] == tuple(shape):
        return array
    result = np.empty((array.shape[0], *shape), dtype=np.float32)
    for channel, target in zip(array, result, strict=True):
        target[...] = _resample_channel(channel, shape, CUBIC, antialias)
    return result


def resample_mask(mask: Mask, shape: Triple) -> Mask:
    """Return a mask [Z, Y, X] resampled to `shape`: true where its linear interpolation is at least one half."""
    if mask.shape == tuple(shape):
        return mask
    inside: Mask = _resample_channel(mask.astype(np.float32), shape, LINEAR, False) >= 0.5 - TIE
    return inside


def new_shape(grid: Grid, spacing: Spacing) -> Triple:
    """Return the shape that fills the grid's extent with voxels of about `spacing`."""
    a, b, c = (max(1, round(extent / size)) for extent, size in zip(grid.extent_mm, spacing, strict=True))
    return a, b, c


def _resample_channel(channel: FloatArray, shape: Triple, order: int, antialias: bool) -> FloatArray:
    """Return a channel resampled axis by axis, the strongest reduction first, which makes the other axes cheaper."""
    axes = sorted((0, 1, 2), key=lambda axis: shape[axis] / channel.shape[axis])
    for axis in axes:
        if channel.shape[axis] != shape[axis]:
            channel = along(axis, matrix(channel.shape[axis], shape[axis], order, antialias), channel)
    return channel


@lru_cache(maxsize=256)
def matrix(old: int, new: int, order: int = CUBIC, antialias: bool = True) -> FloatArray:
    """Return the resampling matrix of one axis, read-only: [new, old]."""
    inverted = antialias and new < old
    return band(np.linalg.pinv(_sampling(new, old, order)) if inverted else _sampling(old, new, order))


def _sampling(old: int, new: int, order: int) -> Floats:
    """Return the unit vectors interpolated at the centres of the new voxels: [new, old]."""
    if old == 1:
        return np.ones((new, 1))
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    columns: list[Any] = [
        ndimage.map_coordinates(column, [centres], order=order, mode="nearest") for column in np.eye(old)
    ]
    return np.stack(columns, axis=1)
