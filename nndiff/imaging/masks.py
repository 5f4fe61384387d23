"""Compute a mask of the body or the head by a threshold and morphology.

    foreground → (head: close, fill) → open, which removes table sheets and wires → large parts → close, fill

Of large volumes only every second or third voxel is used, which limits the precision of the mask's border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nndiff.imaging.crop import every, foreground, large_parts, strides_of
from nndiff.words.kind import Kind
from nndiff.words.volume import FloatArray, Mask, Spacing

LEAST_SHARE, MOST_SHARE = 0.01, 0.95  # of the volume: a mask outside this range is reported as doubtful


@dataclass(frozen=True)
class Region:
    """A region to find: its least thickness, the width of the gaps to close, and the smallest part to keep."""

    thick_mm: float
    gap_mm: float
    part: float  # the smallest part to keep, as a share of the largest part's voxels
    hollow: bool = False  # whether the region has a thin shell around a gap, as the scalp around the skull in MR


REGIONS = {
    "body": Region(10.0, 6.0, 0.05),  # arms beside the trunk
    "head": Region(10.0, 10.0, 1.0, hollow=True),
}


def mask(channel: FloatArray, kind: Kind, spacing: Spacing, region: str) -> tuple[Mask, str]:
    """Return the mask of a channel [Z, Y, X] and the reason to doubt it, which is empty if there is none."""
    wanted, strides = REGIONS[region], strides_of(channel.shape)
    steps = tuple(s * stride for s, stride in zip(spacing, strides, strict=True))
    found = foreground(every(channel, strides), kind)
    if wanted.hollow:
        found = _solid(found, wanted.gap_mm / 2, steps)
    found = large_parts(_grown(_shrunk(found, wanted.thick_mm / 2, steps), wanted.thick_mm / 2, steps), wanted.part)
    found = _solid(found, wanted.gap_mm / 2, steps)
    share = float(found.mean())
    doubt = "" if LEAST_SHARE <= share <= MOST_SHARE else f"the {region} mask covers {share:.1%} of the volume"
    for axis, stride in enumerate(strides):
        found = np.repeat(found, stride, axis)
    z, y, x = channel.shape
    return found[:z, :y, :x], doubt


def _solid(found: Mask, by_mm: float, spacing: tuple[float, ...]) -> Mask:
    """Return the mask with its gaps closed and with the holes filled that are enclosed in a plane of any axis."""
    found = _shrunk(_grown(found, by_mm, spacing), by_mm, spacing)
    for axis in range(3):
        found = np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(found, axis, 0)], axis)
    return found


def _shrunk(found: Mask, by_mm: float, spacing: tuple[float, ...]) -> Mask:
    """Return the voxels deeper than `by_mm` in the mask; the body is assumed to continue beyond the volume."""
    if found.all():
        return found
    return np.asarray(ndimage.distance_transform_edt(found, spacing) > by_mm)


def _grown(found: Mask, by_mm: float, spacing: tuple[float, ...]) -> Mask:
    if not found.any():
        return found
    return np.asarray(ndimage.distance_transform_edt(~found, spacing) <= by_mm)
