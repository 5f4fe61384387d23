"""Where the body is: a threshold and morphology.

    foreground → (a head: closed, filled) → opened: sheets of a table and wires go → large parts → closed, filled

Large volumes are looked at in every second or third voxel: the rim is as precise as that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nndiff.imaging.crop import every, foreground, large_parts, strides_of
from nndiff.words.kind import Kind
from nndiff.words.volume import FloatArray, Mask, Spacing

LEAST_SHARE, MOST_SHARE = 0.01, 0.95  # of the volume: less or more than that is doubted


@dataclass(frozen=True)
class Region:
    """What is looked for: how thick it is at least, how wide its gaps are, and which parts belong to it."""

    thick_mm: float
    gap_mm: float
    part: float  # of the largest part's voxels
    hollow: bool = False  # a thin shell around a gap, as the scalp is around the skull in MR


REGIONS = {
    "body": Region(10.0, 6.0, 0.05),  # arms beside the trunk
    "head": Region(10.0, 10.0, 1.0, hollow=True),
}


def mask(channel: FloatArray, kind: Kind, spacing: Spacing, region: str) -> tuple[Mask, str]:
    """Of [Z, Y, X]; and why not to trust it, or nothing."""
    wanted, strides = REGIONS[region], strides_of(channel.shape)
    steps = tuple(s * stride for s, stride in zip(spacing, strides, strict=True))
    found = foreground(every(channel, strides), kind)
    if wanted.hollow:
        found = _solid(found, wanted.gap_mm / 2, steps)
    found = large_parts(_grown(_shrunk(found, wanted.thick_mm / 2, steps), wanted.thick_mm / 2, steps), wanted.part)
    found = _solid(found, wanted.gap_mm / 2, steps)
    share = float(found.mean())
    doubt = "" if LEAST_SHARE <= share <= MOST_SHARE else f"the {region} fills {share:.1%} of the volume"
    for axis, stride in enumerate(strides):
        found = np.repeat(found, stride, axis)
    z, y, x = channel.shape
    return found[:z, :y, :x], doubt


def _solid(found: Mask, by_mm: float, spacing: tuple[float, ...]) -> Mask:
    """Gaps closed, and what is enclosed in a plane filled."""
    found = _shrunk(_grown(found, by_mm, spacing), by_mm, spacing)
    for axis in range(3):
        found = np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(found, axis, 0)], axis)
    return found


def _shrunk(found: Mask, by_mm: float, spacing: tuple[float, ...]) -> Mask:
    """What lies deeper than that; where the volume ends, the body is taken to go on."""
    if found.all():
        return found
    return np.asarray(ndimage.distance_transform_edt(found, spacing) > by_mm)


def _grown(found: Mask, by_mm: float, spacing: tuple[float, ...]) -> Mask:
    if not found.any():
        return found
    return np.asarray(ndimage.distance_transform_edt(~found, spacing) <= by_mm)
