"""One case → its rows: every method on every channel, one channel in memory at a time.

prediction      what is evaluated
input           what it started from, in the target's units
best Gaussian   the most that a Gaussian filter could have made of the input; it knows the truth
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nndiff.evaluation.cases import Case
from nndiff.imaging import io
from nndiff.metrics.ensemble import crps, uncertainty_correlation
from nndiff.metrics.grid import grid_index
from nndiff.metrics.image import (
    Range,
    high_frequency_ratio,
    mae,
    ms_ssim,
    nrmse,
    psnr,
    ssim,
)
from nndiff.metrics.pet import Labels, Region, best_gaussian, region_biases
from nndiff.words.errors import NndiffError
from nndiff.words.kind import Kind, kind_by_values
from nndiff.words.volume import FloatArray, Grid, Mask, Triple

PREDICTION, INPUT, BEST_GAUSSIAN = "prediction", "input", "best Gaussian"
BYTES_A_VOXEL = 130  # in a worker: volumes, and MS-SSIM's temporaries, which are the most
SMALLEST_VOXELS = 97**3  # MS-SSIM pads what is smaller


@dataclass(frozen=True)
class Row:
    """One method on one channel of one case."""

    case: str
    channel: int
    method: str
    kind: Kind
    bounds: Range
    scores: dict[str, float]  # the names of BADNESS; what does not apply is absent, what is undefined NaN
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, eq=False)
class Pair:
    """What an estimate of one channel is compared with, and where."""

    truth: FloatArray  # [Z, Y, X], like all others
    grid: Grid
    bounds: Range
    mask: Mask | None
    regions: Labels | None
    puzzle_factor: Triple

    def scores(self, estimate: FloatArray) -> dict[str, float]:
        truth, bounds, mask = self.truth, self.bounds, self.mask
        # the lines along which a grid is sought must be whole: outside the mask the estimate is taken as right
        grid = grid_index(estimate if mask is None else np.where(mask, estimate, truth), truth, self.puzzle_factor)
        return {
            "PSNR": psnr(estimate, truth, bounds, mask),
            "SSIM": ssim(estimate, truth, bounds, mask),
            "MS_SSIM": ms_ssim(estimate, truth, bounds, mask),
            "MAE": mae(estimate, truth, mask),
            "NRMSE": nrmse(estimate, truth, mask),
            "HF": high_frequency_ratio(estimate, truth, mask),
            "grid_bias": grid.phase_bias,
            "grid_imbalance": grid.phase_imbalance,
            "grid_excess": grid.excess_power,
        }

    def region_biases(self, estimate: FloatArray) -> tuple[Region, ...]:
        return () if self.regions is None else region_biases(estimate, self.truth, self.regions)


@dataclass(frozen=True)
class Scorer:
    kinds: tuple[Kind | None, ...]  # one per channel, the last one for all that follow; None: as the values say
    edition: str
    puzzle_factor: Triple

    def __call__(self, case: Case) -> list[Row]:
        grid = io.read(case.truth[:1]).grid
        mask = _read_mask(case.mask, grid)
        regions = _read_regions(case.regions, grid, mask)
        return [row for channel in range(len(case.truth)) for row in self._channel(case, channel, grid, mask, regions)]

    def _channel(
        self, case: Case, channel: int, grid: Grid, mask: Mask | None, regions: Labels | None
    ) -> Iterator[Row]:
        truth = _read(case.truth[channel], grid, f"truth's channel {channel}")
        kind = self.kind(channel, truth)
        pair = Pair(truth, grid, self._bounds(kind, truth), mask, regions if kind.ratios else None, self.puzzle_factor)
        for method, estimate, more in _estimates(case, channel, pair):
            biases = pair.region_biases(estimate)
            scores = {**pair.scores(estimate), **more, **_averaged(biases)}
            yield Row(case.name, channel, method, kind, pair.bounds, scores, biases)

    def kind(self, channel: int, truth: FloatArray) -> Kind:
        return self.kinds[min(channel, len(self.kinds) - 1)] or kind_by_values(float(truth.min()))

    def _bounds(self, kind: Kind, truth: FloatArray) -> Range:
        own = min(0.0, float(truth.min())), float(truth.max())
        low, high = kind.range_of(self.edition) or own
        if not low < high:
            raise NndiffError(
                "The truth is the same everywhere: no error can be measured against its range.",
                found=f"{high:g} in every voxel",
                remedy="leave this case out, or pass --kind ct if these are HU",
            )
        return low, high


def _estimates(case: Case, channel: int, pair: Pair) -> Iterator[tuple[str, FloatArray, dict[str, float]]]:
    """Each method's volume, one in memory at a time, with the figures that it alone has."""
    prediction = _read(case.prediction[channel], pair.grid, "prediction")
    yield PREDICTION, prediction, _ensemble_scores(case, channel, prediction, pair)
    del prediction
    if case.source is not None:
        source = _read(case.source, pair.grid, "input")
        yield INPUT, source, {}
        filtered, fwhm = best_gaussian(source, pair.truth, pair.grid.spacing, pair.bounds, pair.mask)
        yield BEST_GAUSSIAN, filtered, {"FWHM_mm": fwhm}


def _ensemble_scores(case: Case, channel: int, prediction: FloatArray, pair: Pair) -> dict[str, float]:
    scores = {}
    if len(case.samples[channel]) >= 2:
        samples = [_read(path, pair.grid, "sample") for path in case.samples[channel]]
        scores["CRPS"] = crps(samples, pair.truth, pair.mask)
    uncertainty = case.uncertainty[channel]
    if uncertainty is not None:
        deviation = _read(uncertainty, pair.grid, "uncertainty")
        scores["uncertainty_correlation"] = uncertainty_correlation(deviation, prediction, pair.truth, pair.mask)
    return scores


def _averaged(regions: Sequence[Region]) -> dict[str, float]:
    """Over the labels that have a figure, each with equal weight, signs kept."""
    columns = {
        "SUVmean_bias": [region.mean_bias for region in regions],
        "SUVmax_bias": [region.max_bias for region in regions],
    }
    defined = {name: [value for value in values if not math.isnan(value)] for name, values in columns.items()}
    return {name: float(np.mean(values)) for name, values in defined.items() if values}


# ---------------------------------------------------------------- reading


def _read(path: Path, grid: Grid, side: str) -> FloatArray:
    """[Z, Y, X] on the truth's grid, all numbers."""
    volume = io.read([path])
    difference = grid.difference(volume.grid)
    if difference is not None:
        raise NndiffError(
            f"The {side} lies on another grid than the truth: {difference}.",
            where=path,
            remedy="resample it onto the truth's grid, and say so where the figures are shown",
        )
    array: FloatArray = volume.array[0]
    if not np.isfinite(array).all():
        raise NndiffError(
            f"The {side} holds NaN or infinite voxels.",
            found=f"{int((~np.isfinite(array)).sum())} of {array.size}",
            where=path,
            remedy="mend the file, or predict the case again",
        )
    return array


def _read_mask(path: Path | None, grid: Grid) -> Mask | None:
    if path is None:
        return None
    mask: Mask = _read(path, grid, "mask") > 0.5
    if not mask.any():
        raise NndiffError("The mask is empty.", expected="voxels above 0.5", where=path, remedy="mend the mask")
    return mask


def _read_regions(path: Path | None, grid: Grid, mask: Mask | None) -> Labels | None:
    if path is None:
        return None
    values = _read(path, grid, "label map")
    if (values < 0).any() or (values != np.rint(values)).any():
        raise NndiffError(
            "The label map holds values that are no labels.",
            expected="whole numbers from 0",
            found=f"{float(values.min()):g} to {float(values.max()):g}",
            where=path,
            remedy="write one whole number a region; 0 belongs to none",
        )
    labels: Labels = values.astype(np.int32)
    return labels if mask is None else labels * mask


def bytes_each(cases: Sequence[Case]) -> int:
    """Of the largest case, from its header."""
    largest = 0
    for case in cases:
        try:
            voxels = math.prod(io.read_header(case.truth[0]).shape)
        except NndiffError:  # this case will fail by itself, and alone
            continue
        samples = max(len(paths) for paths in case.samples)
        largest = max(largest, BYTES_A_VOXEL * max(voxels, SMALLEST_VOXELS) + 4 * samples * voxels)
    return largest
