"""The table of metrics: for each, how it is computed, which values are bad, and how it is shown in a terminal.

    Comparison (estimate, truth, mask, …) ─ METRICS ─▶ name → value      columns of metrics.csv, entries of summary.json

documentation/reference/metrics.md explains the metrics. A new metric is a row of METRICS or, in another package, an
entry point of the group nndiff.metric that names a `Metric`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nndiff.metrics.ensemble import crps, uncertainty_correlation
from nndiff.metrics.grid import GridIndex, Powers, grid_index, powers
from nndiff.metrics.image import high_frequency_ratio, high_power, mae, nrmse, psnr, ssim_and_ms_ssim
from nndiff.metrics.pet import Labels, Region, region_biases
from nndiff.metrics.texture import Reference, Texture, texture
from nndiff.words.registry import Registry
from nndiff.words.volume import FloatArray, Mask, Range, Spacing, Triple


@dataclass(frozen=True, eq=False)
class Known:
    """What some metrics compute from the truth alone, computed when first asked for and shared by its comparisons."""

    truth: FloatArray
    mask: Mask | None
    puzzle_factor: Triple

    def fits(self, truth: FloatArray, mask: Mask | None, puzzle_factor: Triple) -> bool:
        return self.truth is truth and self.mask is mask and self.puzzle_factor == puzzle_factor

    @cached_property
    def texture(self) -> Reference:
        return Reference.of(self.truth, self.mask)

    @cached_property
    def high_power(self) -> float:
        return high_power(self.truth, self.mask)

    @cached_property
    def line_powers(self) -> Powers:
        return powers(self.truth, self.puzzle_factor)


@dataclass(frozen=True, eq=False)
class Comparison:
    """An estimate of one channel, its truth, and further inputs of some metrics. Arrays are [Z, Y, X].

    `replace` with another estimate keeps what is known of the truth.
    """

    estimate: FloatArray
    truth: FloatArray
    spacing: Spacing
    bounds: Range  # the range to which some metrics clip, and to whose width they are relative
    mask: Mask | None = None
    labels: Labels | None = None  # regions whose mean and maximum are compared
    puzzle_factor: Triple = (1, 1, 1)
    samples: tuple[FloatArray, ...] = ()  # drawn from the model that made the estimate
    deviation: FloatArray | None = None  # standard deviation per voxel over the draws of that model
    fwhm: float | None = None  # mm, of the Gaussian filter that made the estimate
    known: Known = field(default=None, repr=False)  # type: ignore[assignment]  # unset: made here

    def __post_init__(self) -> None:
        """Make what is known of the truth, unless it was handed over and is of the same truth, mask and factor."""
        known = self.known
        if known is None or not known.fits(self.truth, self.mask, self.puzzle_factor):
            object.__setattr__(self, "known", Known(self.truth, self.mask, self.puzzle_factor))

    @cached_property
    def grid(self) -> GridIndex:
        """Return the puzzle's grid artefacts. They need complete lines, so the residual is 0 outside the mask."""
        inside = self.estimate if self.mask is None else np.where(self.mask, self.estimate, self.truth)
        return grid_index(inside, self.truth, self.puzzle_factor, self.known.line_powers)

    @cached_property
    def similarity(self) -> tuple[float, float]:
        """Return SSIM and MS-SSIM."""
        return ssim_and_ms_ssim(self.estimate, self.truth, self.bounds, self.mask)

    @cached_property
    def texture(self) -> Texture:
        return texture(self.estimate, self.truth, self.mask, self.known.texture)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        return () if self.labels is None else region_biases(self.estimate, self.truth, self.labels)


@dataclass(frozen=True)
class Metric:
    """One metric: a column of metrics.csv and an entry of summary.json."""

    name: str
    measure: Callable[[Comparison], float | None]  # None: it does not apply; NaN: it is undefined
    meaning: str
    badness: Callable[[float], float] | None  # the case with the largest is the worst; None: values are not ranked
    heading: str = ""  # of its column in the terminal's table; without a heading it is not shown there
    percent: bool = False  # whether that table shows it in percent


def measured(comparison: Comparison) -> dict[str, float]:
    """Return the value of every metric that applies, by its name."""
    found = ((metric.name, metric.measure(comparison)) for metric in METRICS.values())
    return {name: float(value) for name, value in found if value is not None}


# ---------------------------------------------------------------- which values are bad


def low_is_good(value: float) -> float:
    return value


def high_is_good(value: float) -> float:
    return -value


def near_zero_is_good(value: float) -> float:
    return abs(value)


def near_one_is_good(value: float) -> float:
    """Return |log value|, so that a ratio of one half is as bad as a ratio of two."""
    return abs(math.log(value)) if value > 0 else math.inf


# ---------------------------------------------------------------- metrics that do not always apply


def _crps(c: Comparison) -> float | None:
    return crps(c.samples, c.truth, c.mask) if len(c.samples) >= 2 else None


def _uncertainty_correlation(c: Comparison) -> float | None:
    return None if c.deviation is None else uncertainty_correlation(c.deviation, c.estimate, c.truth, c.mask)


def _mean_over_regions(values: list[float]) -> float | None:
    """Return the signed mean over the labels with a defined value, each with equal weight; None if there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else None


# ---------------------------------------------------------------- the table

ROWS = (
    Metric(
        "PSNR",
        lambda c: psnr(c.estimate, c.truth, c.bounds, c.mask),
        "the range's width over the root mean square error, in dB",
        high_is_good,
        heading="PSNR",
    ),
    Metric(
        "SSIM",
        lambda c: c.similarity[0],
        "luminance, contrast and structure of 7³ windows",
        high_is_good,
        heading="SSIM",
    ),
    Metric(
        "MS_SSIM",
        lambda c: c.similarity[1],
        "SSIM over five scales",
        high_is_good,
        heading="MS_SSIM",
    ),
    Metric(
        "MAE",
        lambda c: mae(c.estimate, c.truth, c.mask),
        "mean absolute error, in the image's unit",
        low_is_good,
        heading="MAE",
    ),
    Metric(
        "NRMSE",
        lambda c: nrmse(c.estimate, c.truth, c.mask),
        "root mean square error over the truth's root mean square",
        low_is_good,
    ),
    Metric(
        "HF",
        lambda c: high_frequency_ratio(c.estimate, c.truth, c.mask, c.known.high_power),
        "power above half the Nyquist frequency over the truth's: below 1 is blur, above 1 is noise",
        near_one_is_good,
        heading="HF",
    ),
    Metric(
        "HF_body",
        lambda c: c.texture.body.fine,
        "power of the fine band in the body without its hottest part, over the truth's",
        near_one_is_good,
        heading="HF_body",
    ),
    Metric(
        "HF_air",
        lambda c: c.texture.air.fine,
        "power of the fine band outside the body over the truth's: above 1 is noise in the air",
        near_one_is_good,
        heading="HF_air",
    ),
    Metric(
        "HF_hot",
        lambda c: c.texture.hot.fine,
        "power of the fine band in the hottest 5 % of the body over the truth's",
        near_one_is_good,
    ),
    Metric(
        "band_middle",
        lambda c: c.texture.body.middle,
        "power around 0.15 cycles per voxel in the body over the truth's",
        near_one_is_good,
    ),
    Metric(
        "band_coarse",
        lambda c: c.texture.body.coarse,
        "power around 0.08 cycles per voxel in the body over the truth's",
        near_one_is_good,
    ),
    Metric(
        "neighbour_correlation_bias",
        lambda c: c.texture.correlation_bias,
        "correlation of neighbouring voxels of the fine band in the body, minus the truth's: below 0 is whiter grain",
        near_zero_is_good,
    ),
    Metric(
        "texture_dB",
        lambda c: c.texture.distance,
        "distance from the truth's texture over three regions, three bands and the correlation, in dB",
        low_is_good,
        heading="texture_dB",
    ),
    Metric(
        "grid_bias",
        lambda c: c.grid.phase_bias,
        "how far the puzzle's phases differ in their mean error, over the root mean square error",
        low_is_good,
        heading="grid_bias",
    ),
    Metric(
        "grid_imbalance",
        lambda c: c.grid.phase_imbalance,
        "how far the puzzle's phases differ in the size of their error",
        low_is_good,
    ),
    Metric(
        "grid_excess",
        lambda c: c.grid.excess_power,
        "power at the puzzle's frequencies beyond the truth's",
        low_is_good,
    ),
    Metric(
        "CRPS",
        _crps,
        "distance of the samples' distribution from the truth, in the image's unit",
        low_is_good,
        heading="CRPS",
    ),
    Metric(
        "uncertainty_correlation",
        _uncertainty_correlation,
        "rank correlation of the map of standard deviations with the absolute error",
        high_is_good,
    ),
    Metric(
        "SUVmean_bias",
        lambda c: _mean_over_regions([region.mean_bias for region in c.regions]),
        "relative error of the regions' means",
        near_zero_is_good,
        heading="SUVmean_bias",
        percent=True,
    ),
    Metric(
        "SUVmax_bias",
        lambda c: _mean_over_regions([region.max_bias for region in c.regions]),
        "relative error of the regions' largest voxels",
        near_zero_is_good,
        heading="SUVmax_bias",
        percent=True,
    ),
    Metric("FWHM_mm", lambda c: c.fwhm, "width of the best Gaussian", None),
)

METRICS: Registry[Metric] = Registry("metric", {metric.name: metric for metric in ROWS})  # in the columns' order
