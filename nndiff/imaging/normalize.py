"""Intensities → network units, and back without the target: n = (x - offset) / scale, x = n · scale + offset.

Every map is affine and none clips, so a lesion's maximum survives the way there and back. A normaliser looks at a
channel (or at nothing) and returns its map; at test time the target's map comes from `Fixed` or from its anchor's fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from nndiff.words.errors import NndiffError
from nndiff.words.registry import Registry
from nndiff.words.volume import FloatArray, Floats, Mask

FLAT = 1e-6  # of the magnitude: a range below it is rounding in float32


@dataclass(frozen=True)
class Affine:
    """Computed in float64 and rounded once, so that inverse(forward(x)) differs from x by float32's rounding alone."""

    scale: float
    offset: float

    def forward(self, array: FloatArray) -> FloatArray:
        return _by_plane(array, lambda plane: (plane - self.offset) / self.scale)

    def inverse(self, array: FloatArray) -> FloatArray:
        return _by_plane(array, lambda plane: plane * self.scale + self.offset)


def _by_plane(array: FloatArray, function: Callable[[Floats], Floats]) -> FloatArray:
    """[..., Y, X] plane by plane: float64 costs no second volume."""
    result = np.empty(array.shape, dtype=np.float32)
    for index in np.ndindex(array.shape[:-2]):
        result[index] = function(array[index].astype(np.float64))
    return result


class Normalizer(Protocol):
    looks_inside: ClassVar[bool]  # whether it needs the foreground, which costs a pass over the volume

    def fit(self, channel: FloatArray, foreground: Mask) -> Affine:
        """The map of one channel [Z, Y, X]."""
        ...


@dataclass(frozen=True)
class Fixed:
    """low → onto_low, high → onto_high, whatever the data: CT's window, or a whole dataset's range."""

    low: float
    high: float
    onto_low: float = -1.0
    onto_high: float = 1.0
    looks_inside: ClassVar[bool] = False

    def fit(self, channel: FloatArray | None = None, foreground: Mask | None = None) -> Affine:
        return _between(self.low, self.high, self.onto_low, self.onto_high, self)


@dataclass(frozen=True)
class Maximum:
    """n = x / P99.99 of the whole volume: PET, whose scale differs by dose and patient and whose zero is zero."""

    percentile: float = 99.99
    looks_inside: ClassVar[bool] = False

    def fit(self, channel: FloatArray, foreground: Mask) -> Affine:
        (peak,) = _percentiles(channel, self.percentile)
        return _between(0.0, peak, 0.0, 1.0, self)


@dataclass(frozen=True)
class Percentiles:
    """Foreground percentiles → [-1, 1]: MR, whose units are the scanner's own."""

    low: float = 0.5
    high: float = 99.5
    looks_inside: ClassVar[bool] = True

    def fit(self, channel: FloatArray, foreground: Mask) -> Affine:
        inside = channel[foreground]
        if inside.size == 0:
            raise NndiffError("A channel has no foreground to take its range from.", where=self)
        low, high = _percentiles(inside, self.low, self.high)
        return _between(low, high, -1.0, 1.0, self)


def _between(low: float, high: float, onto_low: float, onto_high: float, where: Any) -> Affine:
    """The affine map low → onto_low, high → onto_high."""
    width = high - low
    if not (np.isfinite(width) and width > FLAT * max(abs(low), abs(high)) and onto_high > onto_low):
        raise NndiffError(
            "A channel has no range of intensities to normalise.",
            expected="values that differ, the upper above the lower",
            found=f"{low:g} to {high:g}",
            where=where,
            remedy="look at the image: it may be empty or constant; leave the case out, or mend its file",
        )
    scale = width / (onto_high - onto_low)
    return Affine(scale, low - onto_low * scale)


def _percentiles(values: FloatArray, *percents: float) -> list[float]:
    # float64 percents: in float32 the rank of the last 0.01 % of 10^8 voxels would be off
    return [float(value) for value in np.percentile(values, np.array(percents, dtype=np.float64))]


NORMALIZERS: Registry[Callable[..., Normalizer]] = Registry(
    "normalization", {"fixed": Fixed, "maximum": Maximum, "percentiles": Percentiles}
)
