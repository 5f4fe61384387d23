"""Crop a volume to the bounding box of the body, and place the result back.

    foreground → union over channels → components ≥ 1 % of the largest → bounding box + margin

`crop` returns a view. `place` undoes it: inside the box it is the identity, outside it fills the channel's background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nndiff.words.kind import Kind
from nndiff.words.registry import Registry
from nndiff.words.volume import Box, FloatArray, Mask, Triple

SAMPLE = 4_000_000  # most voxels used for percentiles and labelling: enough for a box, and at most a second
SMALLEST_PART = 0.01  # of the largest component: smaller ones are noise or a bed screw


# ---------------------------------------------------------------- foreground


def foreground(channel: FloatArray, kind: Kind) -> Mask:
    """Return the foreground mask by the rule of the channel's kind; all voxels if the channel is constant."""
    assert channel.ndim == 3, channel.shape
    if channel.min() == channel.max():
        return np.ones(channel.shape, dtype=np.bool_)
    rule: Callable[[FloatArray], Mask] = FOREGROUNDS.make(kind.foreground.name, kind.foreground.options)
    return rule(channel)


@dataclass(frozen=True)
class Above:
    """A foreground of all values above a level, in the channel's units."""

    level: float

    def __call__(self, channel: FloatArray) -> Mask:
        return channel > self.level


@dataclass(frozen=True)
class OfPeak:
    """A foreground of all values above a share of the peak (P99.9), after a mean filter over 27 voxels.

    The filter reduces the noise to a fifth, so that counts scattered outside the body fall below the level.
    """

    share: float

    def __call__(self, channel: FloatArray) -> Mask:
        smooth = ndimage.uniform_filter(channel.astype(np.float32, copy=False), size=3, mode="nearest")
        (peak,) = _levels(smooth, 99.9)
        body: Mask = smooth > self.share * peak
        return body


@dataclass(frozen=True)
class OfSpan:
    """A foreground of all values above dark + share · (bright - dark), where dark is P0.5 and bright is P99."""

    share: float

    def __call__(self, channel: FloatArray) -> Mask:
        dark, bright = _levels(channel, 0.5, 99.0)
        return channel > dark + self.share * (bright - dark)


def _levels(channel: FloatArray, *percents: float) -> list[float]:
    return [float(value) for value in np.percentile(_thinned(channel), np.array(percents))]


# ---------------------------------------------------------------- box


def body_box(array: FloatArray, kinds: Sequence[Kind], margin_voxels: Triple) -> Box:
    """Return the box of the foreground of all channels of `array` [C, Z, Y, X]; the whole volume if there is none."""
    shape = array.shape[1:]
    strides = strides_of(shape)
    masks = [foreground(every(channel, strides), kind) for channel, kind in zip(array, kinds, strict=True)]
    body = large_parts(np.logical_or.reduce(masks))
    if not body.any():
        return Box((0, 0, 0), shape)
    occupied = [np.flatnonzero(body.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    (a, d), (b, e), (c, f) = map(_span, occupied, strides, margin_voxels, shape)
    return Box((a, b, c), (d, e, f))


def large_parts(mask: Mask, least: float = SMALLEST_PART) -> Mask:
    """Return the connected components with at least the share `least` of the largest component's voxels."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep: Mask = (sizes >= least * sizes.max()) & (sizes > 0)
    kept: Mask = keep[labels]
    return kept


def _span(hits: npt.NDArray[np.intp], stride: int, margin: int, length: int) -> tuple[int, int]:
    """Return start and stop on one axis; between two sampled voxels the body may reach up to the next sample."""
    start = int(hits[0]) * stride - (stride - 1) - margin
    stop = int(hits[-1]) * stride + stride + margin
    return max(0, start), min(length, stop)


def strides_of(shape: Sequence[int]) -> Triple:
    """Return the strides that leave at most SAMPLE voxels; the stride of the longest remaining axis grows first."""
    steps = [1, 1, 1]
    while np.prod(left := [-(-n // step) for n, step in zip(shape, steps, strict=True)]) > SAMPLE:
        steps[int(np.argmax(left))] += 1
    return steps[0], steps[1], steps[2]


def every(channel: npt.NDArray[Any], strides: Triple) -> npt.NDArray[Any]:
    return channel[tuple(slice(None, None, step) for step in strides)]


def _thinned(channel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return every(channel, strides_of(channel.shape))


# ---------------------------------------------------------------- crop and back


def crop(array: npt.NDArray[Any], box: Box) -> npt.NDArray[Any]:
    """Return the view of `array` [..., Z, Y, X] inside `box`."""
    return array[(..., *box.slices)]


def place(array: npt.NDArray[Any], offset: Triple, shape: Triple, background: Sequence[float]) -> npt.NDArray[Any]:
    """Return a volume [C, *shape] of background with `array` [C, z, y, x] placed at `offset`.

    Parts beyond the border are cut off. `place(place(a, o, ...), -o, a's shape, ...)` equals `a` where nothing was cut.
    """
    if offset == (0, 0, 0) and array.shape[1:] == shape:
        return array
    whole = np.empty((array.shape[0], *shape), dtype=array.dtype)  # [C, Z, Y, X]
    for channel, value in zip(whole, background, strict=True):
        channel[...] = value
    to, of = zip(*(_overlap(o, n, m) for o, n, m in zip(offset, array.shape[1:], shape, strict=True)), strict=True)
    whole[(slice(None), *to)] = array[(slice(None), *of)]
    return whole


def _overlap(offset: int, length: int, room: int) -> tuple[slice, slice]:
    """Return, for one axis, the slice of the volume that the piece fills, and the slice of the piece that fills it."""
    start, stop = max(0, offset), max(0, min(room, offset + length))
    return slice(start, stop), slice(start - offset, max(start, stop) - offset)


FOREGROUNDS: Registry[Callable[..., Callable[[FloatArray], Mask]]] = Registry(
    "foreground", {"above": Above, "of_peak": OfPeak, "of_span": OfSpan}
)
