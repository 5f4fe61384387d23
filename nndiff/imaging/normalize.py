"""Map intensities to network units and back: n = (x - offset) / scale, x = n · scale + offset.

Every map is affine and none clips, so the maximum of a lesion is preserved in both directions. A normaliser is fitted
to a channel (`Fixed` needs no data) and returns its map. No map is fitted to the target, which is unknown at test time:
the target's map comes from `Fixed` or from the fit to its anchor, a source channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from nndiff.words.errors import NndiffError
from nndiff.words.registry import Registry
from nndiff.words.volume import FloatArray, Floats, Mask

FLAT = 1e-6  # of the magnitude: a smaller range of values is rounding error of float32


@dataclass(frozen=True)
class Affine:
    """An affine map of intensities.

    It is computed in float64 and rounded once, so that inverse(forward(x)) differs from x only by float32 rounding.
    """

    scale: float
    offset: float

    def forward(self, array: FloatArray) -> FloatArray:
        return _by_plane(array, lambda plane: (plane - self.offset) / self.scale)

    def inverse(self, array: FloatArray) -> FloatArray:
        return _by_plane(array, lambda plane: plane * self.scale + self.offset)


def _by_plane(array: FloatArray, function: Callable[[Floats], Floats]) -> FloatArray:
    """Return `function` of an array [..., Y, X], applied per plane, so that float64 needs no second volume."""
    result = np.empty(array.shape, dtype=np.float32)
    for index in np.ndindex(array.shape[:-2]):
        result[index] = function(array[index].astype(np.float64))
    return result


class Normalizer(Protocol):
    looks_inside: ClassVar[bool]  # whether it needs the foreground, which takes a pass over the volume

    def fit(self, channel: FloatArray, foreground: Mask) -> Affine:
        """Return the map of one channel [Z, Y, X]."""
        ...


@dataclass(frozen=True)
class Fixed:
    """The map low → onto_low, high → onto_high for any data: the window of CT, or the range of a whole dataset."""

    low: float
    high: float
    onto_low: float = -1.0
    onto_high: float = 1.0
    looks_inside: ClassVar[bool] = False

    def fit(self, channel: FloatArray | None = None, foreground: Mask | None = None) -> Affine:
        return _between(self.low, self.high, self.onto_low, self.onto_high, self)


@dataclass(frozen=True)
class Maximum:
    """The map n = x / P99.99 of the whole volume, for PET: its scale depends on dose and patient, and 0 stays 0."""

    percentile: float = 99.99
    looks_inside: ClassVar[bool] = False

    def fit(self, channel: FloatArray, foreground: Mask) -> Affine:
        (peak,) = _percentiles(channel, self.percentile)
        return _between(0.0, peak, 0.0, 1.0, self)


@dataclass(frozen=True)
class Percentiles:
    """The map of two foreground percentiles to [-1, 1], for MR, whose units depend on the scanner."""

    low: float = 0.5
    high: float = 99.5
    looks_inside: ClassVar[bool] = True

    def fit(self, channel: FloatArray, foreground: Mask) -> Affine:
        inside = channel[foreground]
        if inside.size == 0:
            raise NndiffError(
                "A channel has no foreground, so its intensity range cannot be measured.",
                where=self,
                remedy="check the image: it may be empty; remove the case, or correct its file",
            )
        low, high = _percentiles(inside, self.low, self.high)
        return _between(low, high, -1.0, 1.0, self)


def _between(low: float, high: float, onto_low: float, onto_high: float, where: Any) -> Affine:
    """Return the affine map low → onto_low, high → onto_high; refuse an empty range."""
    width = high - low
    if not (np.isfinite(width) and width > FLAT * max(abs(low), abs(high)) and onto_high > onto_low):
        raise NndiffError(
            "A channel cannot be normalised: its intensities do not differ.",
            expected="an upper value above the lower one",
            found=f"{low:g} to {high:g}",
            where=where,
            remedy="check the image: it may be empty or constant; remove the case, or correct its file",
        )
    scale = width / (onto_high - onto_low)
    return Affine(scale, low - onto_low * scale)


def _percentiles(values: FloatArray, *percents: float) -> list[float]:
    # float64 percents: in float32 the rank of the last 0.01 % of 10^8 voxels would be inexact
    return [float(value) for value in np.percentile(values, np.array(percents, dtype=np.float64))]


NORMALIZERS: Registry[Callable[..., Normalizer]] = Registry(
    "normalization", {"fixed": Fixed, "maximum": Maximum, "percentiles": Percentiles}
)
