"""Measure the grid artefacts of a puzzle of factor r, along each puzzled axis, from the residual e = x̂ - x.

    phase bias       std over the r phases of mean(e), over rms(e)
    phase imbalance  (max - min)/mean over the phases of rms(e)
    excess power     of x̂ over the truth at frequencies j/r, j = 1 … r/2, relative to that at their neighbours, minus 1

All three are about 0 if there is no grid. `null` gives the values that chance alone produces for the first two: the
planes of the residual are permuted at random along every axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from nndiff.words.volume import FloatArray, Floats, Triple

Powers = list[Floats | None]  # per axis

NEIGHBOURS = 3  # frequency bins on either side


@dataclass(frozen=True)
class GridIndex:
    phase_bias: float
    phase_imbalance: float
    excess_power: float


def grid_index(estimate: FloatArray, truth: FloatArray, factor: Triple, true_powers: Powers | None = None) -> GridIndex:
    """Return the largest values over the puzzled axes; zeros if no axis is puzzled.  estimate, truth: [Z, Y, X].

    `true_powers`: those of the truth and the factor, if they have been computed before.
    """
    residual = estimate.astype(np.float64) - truth
    phases = _phases(residual, factor)
    reference = powers(truth, factor) if true_powers is None else true_powers
    axes = zip(powers(estimate, factor), reference, truth.shape, factor, strict=True)
    excess = [_excess(power, true_power, n // r, r) for power, true_power, n, r in axes if r > 1]
    rows = [(*phase, more) for phase, more in zip(phases, excess, strict=True)]
    return GridIndex(*(float(max(column)) for column in zip(*rows, strict=True))) if rows else GridIndex(0.0, 0.0, 0.0)


def powers(array: FloatArray, factor: Triple) -> Powers:
    """Return the power of each frequency along each axis, None for an axis that is not puzzled or too short.

    An axis is cut to a multiple of its factor r, so that the frequencies j/r fall on bins.
    """
    found = []
    for axis, (n, r) in enumerate(zip(array.shape, factor, strict=True)):
        whole = (slice(None),) * axis + (slice(n // r * r),)
        found.append(_power(array[whole], axis) if r > 1 and n // r * r >= 4 * r else None)
    return found


def null(estimate: FloatArray, truth: FloatArray, factor: Triple, seed: int = 0, draws: int = 20) -> GridIndex:
    """Return the 95th percentile of bias and imbalance under random permutations of the planes; excess power is 0."""
    generator = np.random.default_rng(seed)
    residual = estimate.astype(np.float64) - truth
    rows = []
    for _ in range(draws):
        shuffled = residual
        for axis, n in enumerate(residual.shape):
            shuffled = np.take(shuffled, generator.permutation(n), axis)
        figures = _phases(shuffled, factor)
        rows.append([max(column) for column in zip(*figures, strict=True)] if figures else [0.0, 0.0])
    bias, imbalance = np.percentile(rows, 95, axis=0)
    return GridIndex(float(bias), float(imbalance), 0.0)


def _phases(residual: Floats, factor: Triple) -> list[tuple[float, float]]:
    """Return the bias and the imbalance along each puzzled axis, from the sums over each plane."""
    squares = np.square(residual)
    rms = float(np.sqrt(squares.mean()))
    found = []
    for axis, r in enumerate(factor):
        if r > 1:
            others = tuple({0, 1, 2} - {axis})
            found.append(_of_planes(residual.mean(axis=others), squares.mean(axis=others), r) if rms else (0.0, 0.0))
    return found


def _of_planes(means: Floats, squares: Floats, r: int) -> tuple[float, float]:
    """Return the bias and the imbalance from the mean error and the mean squared error of each plane of an axis."""
    each = np.sqrt([squares[phase::r].mean() for phase in range(r)])
    bias = np.std([means[phase::r].mean() for phase in range(r)]) / np.sqrt(squares.mean())
    return float(bias), float((each.max() - each.min()) / each.mean())


def _excess(power: Floats | None, true_power: Floats | None, cells: int, r: int) -> float:
    """Return the excess power along one axis of `cells` cells of the puzzle; 0 if it is too short."""
    if power is None or true_power is None:
        return 0.0
    ratios = []
    for j in range(1, r // 2 + 1):
        centre = j * cells
        around = [k for d in range(1, NEIGHBOURS + 1) for k in (centre - d, centre + d) if 0 < k < len(power)]
        of_estimate, of_truth = (each[centre] / each[around].mean() for each in (power, true_power))
        ratios.append(of_estimate / of_truth - 1)
    return float(max(ratios))


def _power(array: FloatArray, axis: int) -> Floats:
    """Return the mean power of each frequency along one axis, plus a small floor that avoids division by zero."""
    mean = array.mean(dtype=np.float64)
    planes = np.moveaxis(array, (0 if axis else 1, axis), (0, -1))  # of lines [_, n]
    power = np.zeros(array.shape[axis] // 2 + 1)
    for plane in planes:  # one after the other, which the processor's cache can hold
        spectrum = fft.rfft(plane.astype(np.float64) - mean)
        power += (np.square(spectrum.real) + np.square(spectrum.imag)).sum(axis=0)
    power /= array.size / array.shape[axis]
    floor: Floats = power + 1e-12 * power.max()
    return floor
