"""Samples of a case for the estimate of the open part: what the sources show around some voxels, and the target there.

Most voxels are in the foreground, and some of them beside it, because in the background least is open.

Each source channel gives 26 numbers per voxel: Gaussian means from fine to coarse and their differences, local
deviations, gradients, extremes and directional means. The grain of the target is measured at the same voxels: the rms
of the white noise whose finest band is as strong as the target's. Larger volumes are sampled in a few blocks around
voxels of the foreground, so that a whole body takes about a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nndiff.data.statistics import default_map
from nndiff.imaging.crop import every, strides_of
from nndiff.imaging.normalize import Affine
from nndiff.words.kind import Kind
from nndiff.words.volume import Box, FloatArray, Mask, Spacing, Triple, Volume

SCALES = (0.6, 1.2, 2.4, 4.8)  # standard deviations of the Gaussians, in edges of the finest axis
REACH = 2.5  # standard deviations after which a Gaussian is cut off
WHOLE = 200_000  # voxels: smaller volumes are one block
BLOCKS, BLOCK = 12, 16  # number of blocks of a larger volume, and voxels along their edges
BESIDE = 0.5  # background voxels per foreground voxel
LOCAL = 3  # voxels along each axis of which a level is the mean, as in the prediction fused
FINEST = 1.0  # voxels: the finest band is what a Gaussian of this standard deviation removes


@dataclass(frozen=True, eq=False)
class Sample:
    """Some voxels of one case: the sources around them, and the targets."""

    features: FloatArray  # [n, F]
    targets: FloatArray  # [n, T], normalised
    levels: FloatArray  # [n, S], the local mean of each source, normalised
    inside: Mask  # [n], whether the voxel is foreground
    scales: tuple[float, ...]  # per target channel, the file's units per normalised unit
    grain: tuple[float, ...]  # per target channel, the rms of its finest texture, normalised


def sample(
    source: Volume,
    target: Volume,
    kinds: tuple[Sequence[Kind], Sequence[Kind]],
    names: tuple[Sequence[str], Sequence[str]],
    inside: tuple[Sequence[Mask], Sequence[Mask]],
    count: int,
) -> Sample:
    """Return about `count` voxels of the foreground of any channel, and half as many beside it."""
    source_maps, target_maps = _maps(source, target, kinds, names)
    where = np.logical_or.reduce([*inside[0], *inside[1]])  # [Z, Y, X]
    boxes = _boxes(where)
    rows = [_of_block(source, target, source_maps, target_maps, where, box, -(-count // len(boxes))) for box in boxes]
    features, targets, levels, fine, is_inside = (np.concatenate(side) for side in zip(*rows, strict=True))
    return Sample(features, targets, levels, is_inside, tuple(m.scale for m in target_maps), _grain(fine[is_inside]))


def _maps(
    source: Volume,
    target: Volume,
    kinds: tuple[Sequence[Kind], Sequence[Kind]],
    names: tuple[Sequence[str], Sequence[str]],
) -> tuple[list[Affine], list[Affine]]:
    """Return the map of each channel: the default of its kind, but a target shares the map of a source in its units.

    That is the source of its name or, where the scale of a kind varies from scan to scan, of its kind. Maps of large
    volumes are fitted to a part of the voxels.
    """
    strides = strides_of(source.grid.shape)
    source_maps = [
        default_map(every(channel, strides), kind) for channel, kind in zip(source.array, kinds[0], strict=True)
    ]
    target_maps = []
    for channel, kind, name in zip(target.array, kinds[1], names[1], strict=True):
        same = [s for s, other in enumerate(names[0]) if other == name]
        same += [s for s, other in enumerate(kinds[0]) if other == kind and kind.scale_varies]
        target_maps.append(source_maps[same[0]] if same else default_map(every(channel, strides), kind))
    return source_maps, target_maps


# ---------------------------------------------------------------- blocks


def _boxes(where: Mask) -> list[Box]:
    """Return the blocks whose voxels are sampled: the whole of a small volume, else blocks around its foreground."""
    shape: Triple = where.shape
    if where.size <= WHOLE:
        return [Box((0, 0, 0), shape)]
    strides = strides_of(shape)
    thinned = every(where, strides)
    hits = np.flatnonzero(thinned)
    chosen = hits[((np.arange(BLOCKS) + 0.5) / BLOCKS * len(hits)).astype(int)]
    centres = np.stack(np.unravel_index(chosen, thinned.shape), axis=1) * strides
    return [_around(centre, shape) for centre in centres.tolist()]


def _around(centre: Sequence[int], shape: Triple) -> Box:
    sides = [min(BLOCK, n) for n in shape]
    a, b, c = (min(max(0, i - side // 2), n - side) for i, side, n in zip(centre, sides, shape, strict=True))
    return Box((a, b, c), (a + sides[0], b + sides[1], c + sides[2]))


def _of_block(
    source: Volume,
    target: Volume,
    source_maps: Sequence[Affine],
    target_maps: Sequence[Affine],
    where: Mask,
    box: Box,
    count: int,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, Mask]:
    """Return of some voxels the features, the targets, the levels, the targets' finest band and whether each is inside.

    At most `count` voxels are foreground.
    """
    wide, inner = _widened(box, source.grid.shape, source.spacing)
    inside = where[box.slices].reshape(-1)
    picked = np.concatenate([_some(inside, count), _some(~inside, int(BESIDE * count))])

    def at(channels: Iterable[FloatArray]) -> FloatArray:
        return np.stack([channel[inner].reshape(-1)[picked] for channel in channels], axis=1).astype(np.float32)

    sources, targets = (
        [m.forward(channel[wide.slices]) for m, channel in zip(maps, volume.array, strict=True)]
        for maps, volume in ((source_maps, source), (target_maps, target))
    )
    return (
        at(feature for channel in sources for feature in features_of(channel, source.spacing)),
        at(targets),
        at(ndimage.uniform_filter(channel, LOCAL, mode="nearest") for channel in sources),
        at(channel - _smoothed(channel) for channel in targets),
        inside[picked],
    )


def _some(among: Mask, count: int) -> npt.NDArray[np.intp]:
    """Return the positions of at most `count` voxels, evenly spread."""
    hits = np.flatnonzero(among)
    picked: npt.NDArray[np.intp] = hits[np.linspace(0, len(hits) - 1, min(count, len(hits))).astype(int)]
    return picked


def _widened(box: Box, shape: Triple, spacing: Spacing) -> tuple[Box, tuple[slice, ...]]:
    """Return the box with the margin that its filters reach, and the box inside that one."""
    margins = [math.ceil(REACH * max(SCALES) * min(spacing) / edge) + 2 for edge in spacing]
    start = tuple(max(0, a - margin) for a, margin in zip(box.start, margins, strict=True))
    stop = tuple(min(n, b + margin) for b, margin, n in zip(box.stop, margins, shape, strict=True))
    inner = tuple(slice(a - first, b - first) for a, b, first in zip(box.start, box.stop, start, strict=True))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])), inner


# ---------------------------------------------------------------- grain


def _grain(fine: FloatArray) -> tuple[float, ...]:
    """Return the rms of the white noise that has these finest bands, [n, T].

    The median ignores edges, which are strong but few. 0.6745 is the median of |x| for standard normal x.
    """
    return tuple(float(size) / (0.6745 * _passed()) for size in np.median(np.abs(fine), axis=0))


def _smoothed(channel: FloatArray) -> FloatArray:
    smooth: FloatArray = ndimage.gaussian_filter(channel, FINEST, mode="nearest", truncate=REACH)
    return smooth


@cache
def _passed() -> float:
    """Return the rms of the finest band of white noise of rms 1."""
    point = np.zeros((9, 9, 9), dtype=np.float32)
    point[4, 4, 4] = 1
    return float(np.linalg.norm(point - _smoothed(point)))


# ---------------------------------------------------------------- features


def features_of(channel: FloatArray, spacing: Spacing) -> Iterator[FloatArray]:
    """Yield what a channel [Z, Y, X] shows around each voxel, one volume per feature."""
    smooth = [channel, *(_gaussian(channel, scale, spacing) for scale in SCALES)]
    yield from (fine - coarse for fine, coarse in pairwise(smooth))
    yield from smooth
    for coarse, scale in zip(smooth[2:4], SCALES[1:3], strict=True):
        yield np.sqrt(_gaussian(np.square(channel - coarse), scale, spacing).clip(0))
    yield from (_steepness(image) for image in smooth[1:4])
    yield ndimage.maximum_filter(channel, 3, mode="nearest") - channel
    yield ndimage.minimum_filter(channel, 3, mode="nearest") - channel
    yield ndimage.median_filter(channel, 3, mode="nearest") - channel
    for axis in range(3):
        yield from (ndimage.uniform_filter1d(channel, n, axis, mode="nearest") - channel for n in (3, 5))
        yield ndimage.gaussian_filter1d(channel, 2, axis, order=1, mode="nearest")


def _gaussian(channel: FloatArray, scale: float, spacing: Spacing) -> FloatArray:
    sigma = [scale * min(spacing) / edge for edge in spacing]
    smooth: FloatArray = ndimage.gaussian_filter(channel, sigma, mode="nearest", truncate=REACH)
    return smooth


def _steepness(channel: FloatArray) -> FloatArray:
    slopes = [ndimage.correlate1d(channel, [-0.5, 0, 0.5], axis, mode="nearest") for axis in range(3)]
    norm: npt.NDArray[np.float32] = np.sqrt(sum(np.square(slope) for slope in slopes))
    return norm
