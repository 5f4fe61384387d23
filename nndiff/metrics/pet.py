"""Metrics of PET: the uptake in each region, and the best result that a Gaussian filter of the source could reach.

    bias of a region    estimate over truth - 1, of the region's mean (SUVmean) and of its largest voxel (SUVmax)
    variation           std over mean within a region: the noise of the background, in a region of uniform uptake
    best Gaussian       the source, filtered by the isotropic Gaussian whose width w gives the highest PSNR:

        w* = argmax_w PSNR(G_w * source, truth),       σ = w / (2 √(2 ln 2)) mm, over the spacing of each axis

The best Gaussian uses the truth: it is an oracle, an upper bound of what a Gaussian filter can reach on this case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nndiff.metrics.image import psnr
from nndiff.metrics.smooth import gaussian_filter
from nndiff.words.volume import FloatArray, Floats, Mask, Range, Spacing

Labels = npt.NDArray[np.int32]  # [Z, Y, X]; 0 belongs to no region

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
TRUNCATE = 4.0  # sigma: the length of a kernel to either side
FWHM_TOLERANCE = 0.01  # of the smallest voxel edge
PERFECT = 1e3  # dB: replaces an infinite PSNR, with which the search cannot compute


@dataclass(frozen=True)
class Region:
    """The results of one label in one volume. NaN replaces a ratio whose denominator is not above 0."""

    label: int
    voxels: int
    mean_bias: float
    max_bias: float
    variation: float  # of the estimate
    true_variation: float


def region_biases(estimate: FloatArray, truth: FloatArray, labels: Labels) -> tuple[Region, ...]:
    """Return the results of every label above 0, in order.  estimate, truth: [Z, Y, X]."""
    regions = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            inside = labels[box] == label
            regions.append(_region(label, _values(estimate[box], inside), _values(truth[box], inside)))
    return tuple(regions)


def best_gaussian(
    source: FloatArray, truth: FloatArray, spacing: Spacing, bounds: Range, mask: Mask | None = None
) -> tuple[FloatArray, float]:
    """Return the filtered source and the FWHM in mm; the source itself and 0 if no filter improves the PSNR."""
    from scipy import optimize  # takes long to import

    def loss(fwhm: float) -> float:
        return -min(PERFECT, psnr(gaussian(source, fwhm, spacing), truth, bounds, mask))

    low, high = _bracket(loss, min(spacing), max(n * s for n, s in zip(source.shape, spacing, strict=True)))
    options = {"xatol": FWHM_TOLERANCE * min(spacing)}
    found = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options=options)
    fwhm = float(found.x) if found.fun < loss(0.0) else 0.0
    return gaussian(source, fwhm, spacing), fwhm


def gaussian(array: FloatArray, fwhm: float, spacing: Spacing) -> FloatArray:
    """Return the array filtered by a Gaussian of the given FWHM in millimetres, which is the same along every axis."""
    if fwhm == 0:
        return array
    sigmas = [fwhm / FWHM_PER_SIGMA / edge for edge in spacing]
    return gaussian_filter(array, sigmas, mode="nearest", truncate=TRUNCATE)


# ---------------------------------------------------------------- inside


def _values(array: FloatArray, inside: Mask) -> Floats:
    return array[inside].astype(np.float64)


def _region(label: int, estimate: Floats, truth: Floats) -> Region:
    return Region(
        label=label,
        voxels=truth.size,
        mean_bias=_over(estimate.mean(), truth.mean()) - 1,
        max_bias=_over(estimate.max(), truth.max()) - 1,
        variation=_over(estimate.std(), estimate.mean()),
        true_variation=_over(truth.std(), truth.mean()),
    )


def _over(value: float, reference: float) -> float:
    return float(value / reference) if reference > 0 else math.nan


def _bracket(loss: Callable[[float], float], start: float, limit: float) -> tuple[float, float]:
    """Return a bracket of the best width, found by doubling the width while the loss improves, up to the limit.

    The best width lies between half and twice the last width that improved the loss.
    """
    width, best = start, loss(start)
    while 2 * width <= limit and (wider := loss(2 * width)) < best:
        width, best = 2 * width, wider
    return (0.0 if width == start else width / 2), 2 * width
