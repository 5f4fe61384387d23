"""Compare texture locally: the power of an estimate in three frequency bands and three regions, relative to the truth.

Levels of Gaussian smoothing, with σ in voxels, divide an image into bands whose centres are an octave apart:

    fine    x - G₁x         above half the Nyquist frequency (1/4 cycle per voxel, where it passes half of the power)
    middle  G₁x - G₂x       around 0.15 cycles per voxel
    coarse  G₂x - G₄x       around 0.08 cycles per voxel

Regions are determined by the truth alone, from G₂x. With the values above median (x | x > mean x) set to that median,
Otsu's threshold forms two classes whose medians are d (dark) and b (bright):

    body    G₂x > d + (b - d)/4, without hot        air    farther than 4 voxels from body and hot
    hot     the top 5 % of G₂x in the body

For each band and region, with P the variance of the band within the region,

    ratio       = (P(x̂) + f) / (P(x) + f),      f = 10⁻⁴ · P(x) in the body        (air may be exactly 0)
    ρ           = mean over the axes of the correlation of neighbouring voxels of the fine band, in the body
    distance    = mean over bands and regions of |10·log₁₀ ratio| + 10·|ρ(x̂) - ρ(x)|        in dB

Each |10·log₁₀ ratio| is limited to 30 dB. The power of the whole volume cannot distinguish noise in the body from noise
in the air, and no power distinguishes white noise from grain with correlated voxels; the regions and ρ do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nndiff.metrics.smooth import gaussian_filter
from nndiff.words.volume import FloatArray, Floats, Mask

Regions = npt.NDArray[np.int8]  # [Z, Y, X]: NOWHERE, AIR, BODY or HOT

NOWHERE, AIR, BODY, HOT = range(4)
SIGMAS = (1.0, 2.0, 4.0)  # voxels
TRUNCATE = 3.0  # σ: the length of a kernel to either side
MARGIN = 4  # voxels between air and body: beyond it, the fine band does not contain the body's surface
BODY_SHARE = 0.25  # of the way from dark to bright, so that lungs and fat belong to the body in PET
HOT_SHARE = 0.05  # of the body's voxels
LEAST_VOXELS = (100, 800, 6400)  # of a region, for each band: with fewer, chance changes the power by a decibel
FLOOR = 1e-4  # of the truth's power in the body: 1 % of its amplitude is not visible
ROUNDING = 1e-5  # of the truth's range: a body whose bands have smaller amplitudes is flat except for rounding
LIMIT_DB = 30.0
CORRELATION_IN_DB = 10.0  # a difference of 0.1 counts as 1 dB
BINS = 256  # of the histogram for Otsu's threshold


@dataclass(frozen=True)
class Bands:
    """Power ratios of one region, estimate over truth: below 1 is blur, above 1 is noise.

    None replaces a band for which the region has too few voxels. The coarser a band, the more it needs.
    """

    fine: float | None = None
    middle: float | None = None
    coarse: float | None = None

    @property
    def defined(self) -> list[float]:
        return [ratio for ratio in (self.fine, self.middle, self.coarse) if ratio is not None]


@dataclass(frozen=True)
class Texture:
    """The texture of an estimate compared with the truth. None replaces what cannot be measured."""

    air: Bands = Bands()
    body: Bands = Bands()
    hot: Bands = Bands()
    correlation: float | None = None  # of neighbouring voxels of the estimate's fine band in the body
    true_correlation: float | None = None  # the same of the truth

    @property
    def correlation_bias(self) -> float | None:
        """Return the estimate's correlation minus the truth's: below 0, the grain is too white."""
        if self.correlation is None or self.true_correlation is None:
            return None
        return self.correlation - self.true_correlation

    @property
    def distance(self) -> float | None:
        """Return the distance from the truth's texture in dB, 0 for equal textures; None if no region is large enough.

        A missing ratio does not count. A missing correlation counts as equal: where the estimate has no fine band,
        the ratios already state this.
        """
        ratios = [ratio for region in (self.air, self.body, self.hot) for ratio in region.defined]
        if not ratios:
            return None
        return sum(map(decibels, ratios)) / len(ratios) + CORRELATION_IN_DB * abs(self.correlation_bias or 0.0)


@dataclass(frozen=True, eq=False)
class Reference:
    """What the comparison needs of a truth. Estimates of one truth can share it."""

    regions: Regions  # [Z, Y, X]
    sizes: npt.NDArray[np.intp]  # voxels of each region
    powers: Floats  # [3 bands, 4 regions]
    correlation: float | None
    range: float  # the highest minus the lowest value

    @classmethod
    def of(cls, truth: FloatArray, mask: Mask | None = None) -> Reference:
        levels = _levels(truth)
        regions = _regions(levels[2], mask)
        sizes = np.bincount(regions.ravel(), minlength=4)
        correlation = _correlation(levels, regions == BODY)
        return cls(regions, sizes, _powers(levels, regions), correlation, float(np.ptp(truth)))

    @property
    def has_texture(self) -> bool:
        large = int(self.sizes[BODY]) >= min(LEAST_VOXELS)
        return large and float(self.powers[:, BODY].min()) > (ROUNDING * self.range) ** 2


def texture(
    estimate: FloatArray, truth: FloatArray, mask: Mask | None = None, reference: Reference | None = None
) -> Texture:
    """Return the comparison within the mask; outside it, the estimate is replaced by the truth.  [Z, Y, X] each.

    `reference`: that of the truth and the mask, if it has been made before.
    """
    reference = reference or Reference.of(truth, mask)
    if not reference.has_texture:
        return Texture()
    levels = _levels(estimate if mask is None else np.where(mask, estimate, truth))
    powers, true_powers = _powers(levels, reference.regions), reference.powers  # [3 bands, 4 regions]
    floor = FLOOR * true_powers[:, BODY]
    ratios = (powers + floor[:, None]) / (true_powers + floor[:, None])
    air, body, hot = (_ratios(ratios[:, region], int(reference.sizes[region])) for region in (AIR, BODY, HOT))
    correlation = _correlation(levels, reference.regions == BODY) if powers[0, BODY] > floor[0] else None
    return Texture(air, body, hot, correlation, reference.correlation)


def decibels(ratio: float) -> float:
    """Return |10·log₁₀ ratio|, limited to 30 dB."""
    return min(LIMIT_DB, abs(10 * math.log10(ratio))) if ratio > 0 else LIMIT_DB


def regions_of(truth: FloatArray, mask: Mask | None = None) -> Regions:
    """Return the region of each voxel: AIR, BODY, HOT, or NOWHERE beside the body's surface and outside the mask."""
    return _regions(_levels(truth)[2], mask)


# ---------------------------------------------------------------- bands


def _levels(array: FloatArray) -> list[FloatArray]:
    """Return x, G₁x, G₂x and G₄x; each is computed from the one before, because variances of Gaussians add."""
    levels, before = [array.astype(np.float32, copy=False)], 0.0
    for sigma in SIGMAS:
        more = math.sqrt(sigma**2 - before**2)
        levels.append(gaussian_filter(levels[-1], (more, more, more), mode="reflect", truncate=TRUNCATE))
        before = sigma
    return levels


def _bands(levels: list[FloatArray]) -> Iterator[FloatArray]:
    for sharp, smooth in pairwise(levels):
        yield sharp - smooth


def _powers(levels: list[FloatArray], regions: Regions) -> Floats:
    """Return the variance of each band in each region, [3 bands, 4 regions]; 0 for NOWHERE and for an empty region.

    The mean of a band is not texture: it is above 0 throughout a hot region, which is brighter than its surroundings.
    """
    inside = {region: regions == region for region in (AIR, BODY, HOT)}
    powers = np.zeros((len(levels) - 1, 4))
    for row, band in zip(powers, _bands(levels), strict=True):
        for region, voxels in inside.items():
            values = band[voxels]
            row[region] = values.var(dtype=np.float64) if values.size else 0.0
    return powers


def _ratios(ratios: Floats, size: int) -> Bands:
    """Return the ratios of the bands for which a region of `size` voxels is large enough.  ratios: [3 bands]."""
    return Bands(*(float(r) if size >= least else None for r, least in zip(ratios, LEAST_VOXELS, strict=True)))


def _correlation(levels: list[FloatArray], inside: Mask) -> float | None:
    """Return the mean over the axes of the correlation of neighbours in the fine band; None if it is constant."""
    fine = levels[0] - levels[1]
    fine -= fine.mean(where=inside) if inside.any() else 0
    fine *= inside
    squares = np.square(fine)
    found = []
    for axis in range(3):
        first, second = (slice(None),) * axis + (slice(1, None),), (slice(None),) * axis + (slice(-1),)
        powers = (_sum(squares[one], inside[other]) for one, other in ((first, second), (second, first)))
        norm = math.sqrt(math.prod(powers))
        if norm > 0:  # an axis of one voxel has no neighbours
            found.append(_sum(fine[first], fine[second]) / norm)
    return sum(found) / len(found) if found else None


def _sum(a: FloatArray, b: npt.NDArray[np.generic]) -> float:
    """Return the sum of the products of two volumes."""
    return float(np.multiply(a, b).sum(dtype=np.float64))


# ---------------------------------------------------------------- regions


def _regions(smooth: FloatArray, mask: Mask | None) -> Regions:
    """Return the region of each voxel from G₂ of the truth; NOWHERE throughout if it is constant."""
    regions: Regions = np.zeros(smooth.shape, dtype=np.int8)
    level = _body_level(smooth)
    if level is None:
        return regions
    body = smooth > level
    near = _near(body)
    inside = np.True_ if mask is None else mask
    regions[~near & inside] = AIR
    regions[body & inside] = BODY
    values = smooth[body & inside]
    if values.size:
        regions[body & inside & (smooth > np.quantile(values, 1 - HOT_SHARE))] = HOT
    return regions


def _near(body: Mask) -> Mask:
    """Return the voxels that are at most MARGIN from the body along every axis: a cube is separable."""
    for axis in range(3):
        before = np.moveaxis(body, axis, 0)
        near = before.copy(order="K")
        for step in range(1, MARGIN + 1):
            near[step:] |= before[:-step]
            near[:-step] |= before[step:]
        body = np.moveaxis(near, 0, axis)
    return body


def _body_level(smooth: FloatArray) -> float | None:
    """Return the lowest value of the body; None if the volume is constant.

    Without the upper limit, Otsu's threshold of a PET would separate the brain and the bladder from all else.
    """
    above = smooth[smooth > smooth.mean(dtype=np.float64)]
    if not above.size:
        return None
    values = np.minimum(smooth, np.median(above))
    threshold = _otsu(values)
    dark, bright = (float(np.median(side)) for side in (values[values <= threshold], values[values > threshold]))
    return dark + BODY_SHARE * (bright - dark)


def _otsu(values: FloatArray) -> float:
    """Return the threshold with the largest variance between the two classes (Otsu 1979)."""
    counts, edges = np.histogram(values.astype(np.float64), BINS)  # float32 cannot hold the edges of a small range
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * centres)
    above = values.size - below
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1:-1][np.argmax(between)])
