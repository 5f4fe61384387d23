"""Compute the metrics of one case: one row per method and channel, with one channel in memory at a time.

prediction      the volume that is evaluated
input           the source that it was predicted from, in the target's units
best Gaussian   the Gaussian filter of the input with the highest PSNR, which is chosen with the truth
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nndiff.evaluation.cases import Case
from nndiff.imaging import io
from nndiff.metrics.pet import Labels, Region, best_gaussian
from nndiff.metrics.table import Comparison, measured
from nndiff.words.errors import NndiffError
from nndiff.words.kind import Kind, kind_by_values
from nndiff.words.volume import FloatArray, Grid, Mask, Range, Triple, Volume

PREDICTION, INPUT, BEST_GAUSSIAN = "prediction", "input", "best Gaussian"
BYTES_A_VOXEL = 80  # per worker: volumes, and the temporaries of the metrics (56 were measured)
SMALLEST_VOXELS = 97**3  # MS-SSIM pads smaller volumes


@dataclass(frozen=True)
class Row:
    """The metrics of one method on one channel of one case."""

    case: str
    channel: int
    method: str
    kind: Kind
    bounds: Range
    scores: dict[str, float]  # by name in METRICS; absent if a metric does not apply, NaN if it is undefined
    regions: tuple[Region, ...] = ()
    apart: str = ""  # why the input is not compared: its units are not the truth's


@dataclass(frozen=True)
class Named:
    """What dataset.json says of a channel."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Scorer:
    kinds: tuple[Kind | None, ...]  # one per channel, the last one also for later ones; None: determined by the values
    edition: str
    puzzle_factor: Triple
    truth: tuple[Named, ...] = ()  # the channels of the truth, as far as they are described
    source: Named | None = None  # the channel of the input

    def __call__(self, case: Case) -> list[Row]:
        first = io.read(case.truth[:1])
        grid, rows = first.grid, list[Row]()
        mask = _read_mask(case.mask, grid)
        regions = _read_regions(case.regions, grid, mask)
        for channel, path in enumerate(case.truth):
            volume = io.read([path]) if channel else first
            truth = _checked(volume, path, grid, f"truth's channel {channel}")
            rows += self._channel(case, channel, truth, grid, mask, regions)
        return rows

    def _channel(
        self, case: Case, channel: int, truth: FloatArray, grid: Grid, mask: Mask | None, regions: Labels | None
    ) -> Iterator[Row]:
        kind = self.kind(channel, truth)
        apart = self._apart(case, channel, kind, grid)
        bounds, labels = self._bounds(kind, truth), regions if kind.ratios else None
        itself = Comparison(
            estimate=truth,
            truth=truth,
            spacing=grid.spacing,
            bounds=bounds,
            mask=mask,
            labels=labels,
            puzzle_factor=self.puzzle_factor,
        )
        for method, comparison in _comparisons(replace(case, source=None) if apart else case, channel, grid, itself):
            yield Row(
                case=case.name,
                channel=channel,
                method=method,
                kind=kind,
                bounds=bounds,
                scores=measured(comparison),
                regions=comparison.regions,
                apart=apart,
            )

    def _apart(self, case: Case, channel: int, kind: Kind, grid: Grid) -> str:
        """Return why the input has other units than the truth, or "".

        Without a description the values decide, as far as they can: only CT is certain.
        """
        if case.source is None:
            return ""
        own = self.truth[channel].name if channel < len(self.truth) else None
        if self.source is not None:
            other = self.source.kind
        else:
            by_values = kind_by_values(float(_read(case.source, grid, "input").min()))
            other = by_values if by_values.absolute or kind.absolute else kind
        if other != kind:
            return f"it is {other.title} ({other.units}), the truth {kind.title} ({kind.units})"
        if kind.one_scale or self.source is None or own is None or self.source.name.casefold() == own.casefold():
            return ""
        return f"{self.source.name} and {own} have no common scale ({kind.units})"

    def kind(self, channel: int, truth: FloatArray) -> Kind:
        return self.kinds[min(channel, len(self.kinds) - 1)] or kind_by_values(float(truth.min()))

    def _bounds(self, kind: Kind, truth: FloatArray) -> Range:
        own = min(0.0, float(truth.min())), float(truth.max())
        low, high = kind.range_of(self.edition) or own
        if not low < high:
            raise NndiffError(
                "All voxels of the truth are equal, so it has no range against which to measure errors.",
                found=f"the value {high:g} in every voxel",
                remedy="remove this case, or pass --kind ct if the values are HU",
            )
        return low, high


def _comparisons(case: Case, channel: int, grid: Grid, itself: Comparison) -> Iterator[tuple[str, Comparison]]:
    """Yield each method and its comparison, with one volume in memory at a time; `itself` compares truth with truth."""
    yield PREDICTION, _predicted(case, channel, grid, itself)
    if case.source is not None:
        source = _read(case.source, grid, "input")
        yield INPUT, replace(itself, estimate=source)
        filtered, fwhm = best_gaussian(source, itself.truth, itself.spacing, itself.bounds, itself.mask)
        yield BEST_GAUSSIAN, replace(itself, estimate=filtered, fwhm=fwhm)


def _predicted(case: Case, channel: int, grid: Grid, itself: Comparison) -> Comparison:
    """Return the comparison of the prediction, which alone may have samples and an uncertainty."""
    prediction = _read(case.prediction[channel], grid, "prediction")
    samples = tuple(_read(path, grid, "sample") for path in case.samples[channel])
    uncertainty = case.uncertainty[channel]
    deviation = None if uncertainty is None else _read(uncertainty, grid, "uncertainty")
    return replace(itself, estimate=prediction, samples=samples, deviation=deviation)


# ---------------------------------------------------------------- reading


def _read(path: Path, grid: Grid, side: str) -> FloatArray:
    return _checked(io.read([path]), path, grid, side)


def _checked(volume: Volume, path: Path, grid: Grid, side: str) -> FloatArray:
    """Return the array [Z, Y, X] of a file; refuse another grid than the truth's, and NaN or infinite voxels."""
    difference = grid.difference(volume.grid)
    if difference is not None:
        raise NndiffError(
            f"The voxel grid of the {side} differs from that of the truth: {difference}.",
            where=path,
            remedy="resample it onto the grid of the truth, and state this with the results",
        )
    array: FloatArray = volume.array[0]
    if not np.isfinite(array).all():
        raise NndiffError(
            f"The {side} contains NaN or infinite values.",
            found=f"{int((~np.isfinite(array)).sum())} of {array.size} voxels",
            where=path,
            remedy="correct the file, or predict the case again",
        )
    return array


def _read_mask(path: Path | None, grid: Grid) -> Mask | None:
    if path is None:
        return None
    mask: Mask = _read(path, grid, "mask") > 0.5
    if not mask.any():
        raise NndiffError(
            "The mask is empty.", expected="voxels above 0.5", where=path, remedy="correct the mask, or remove it"
        )
    return mask


def _read_regions(path: Path | None, grid: Grid, mask: Mask | None) -> Labels | None:
    if path is None:
        return None
    values = _read(path, grid, "label map")
    if (values < 0).any() or (values != np.rint(values)).any():
        raise NndiffError(
            "A label map must contain whole numbers from 0.",
            found=f"values from {float(values.min()):g} to {float(values.max()):g}",
            where=path,
            remedy="write one whole number per region, and 0 outside all regions",
        )
    labels: Labels = values.astype(np.int32)
    return labels if mask is None else labels * mask


def bytes_each(cases: Sequence[Case]) -> int:
    """Return the memory that the largest case needs, from the headers."""
    largest = 0
    for case in cases:
        try:
            voxels = math.prod(io.read_header(case.truth[0]).shape)
        except NndiffError:  # this case fails later, without stopping the others
            continue
        samples = max(len(paths) for paths in case.samples)
        largest = max(largest, BYTES_A_VOXEL * max(voxels, SMALLEST_VOXELS) + 4 * samples * voxels)
    return largest
