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

from nndiff.words.volume import FloatArray, Floats, Triple

NEIGHBOURS = 3  # frequency bins on either side


@dataclass(frozen=True)
class GridIndex:
    phase_bias: float
    phase_imbalance: float
    excess_power: float


def grid_index(estimate: FloatArray, truth: FloatArray, factor: Triple) -> GridIndex:
    """Return the largest values over the puzzled axes; zeros if no axis is puzzled.  estimate, truth: [Z, Y, X]."""
    residual = estimate.astype(np.float64) - truth
    rows = [(*_phases(residual, axis, r), _excess(estimate, truth, axis, r)) for axis, r in enumerate(factor) if r > 1]
    return GridIndex(*(float(max(column)) for column in zip(*rows, strict=True))) if rows else GridIndex(0.0, 0.0, 0.0)


def null(estimate: FloatArray, truth: FloatArray, factor: Triple, seed: int = 0, draws: int = 20) -> GridIndex:
    """Return the 95th percentile of bias and imbalance under random permutations of the planes; excess power is 0."""
    generator = np.random.default_rng(seed)
    residual = estimate.astype(np.float64) - truth
    rows = []
    for _ in range(draws):
        shuffled = residual
        for axis, n in enumerate(residual.shape):
            shuffled = np.take(shuffled, generator.permutation(n), axis)
        figures = [_phases(shuffled, axis, r) for axis, r in enumerate(factor) if r > 1]
        rows.append([max(column) for column in zip(*figures, strict=True)] if figures else [0.0, 0.0])
    bias, imbalance = np.percentile(rows, 95, axis=0)
    return GridIndex(float(bias), float(imbalance), 0.0)


def _phases(residual: Floats, axis: int, r: int) -> tuple[float, float]:
    phases = [np.take(residual, range(phase, residual.shape[axis], r), axis) for phase in range(r)]
    rms = float(np.sqrt(np.square(residual).mean()))
    if rms == 0:
        return 0.0, 0.0
    each = np.array([np.sqrt(np.square(phase).mean()) for phase in phases])
    bias = float(np.std([phase.mean() for phase in phases]) / rms)
    return bias, float((each.max() - each.min()) / each.mean())


def _excess(estimate: FloatArray, truth: FloatArray, axis: int, r: int) -> float:
    """Return the excess power along one axis; its length is cut to a multiple of r, so that j/r falls on a bin."""
    n = estimate.shape[axis] // r * r
    if n < 4 * r:
        return 0.0
    ratios = []
    powers = [_power(np.take(array, range(n), axis), axis) for array in (estimate, truth)]
    for j in range(1, r // 2 + 1):
        centre = j * n // r
        around = [k for d in range(1, NEIGHBOURS + 1) for k in (centre - d, centre + d) if 0 < k < len(powers[0])]
        of_estimate, of_truth = (power[centre] / power[around].mean() for power in powers)
        ratios.append(of_estimate / of_truth - 1)
    return float(max(ratios))


def _power(array: FloatArray, axis: int) -> Floats:
    """Return the mean power of each frequency along one axis, plus a small floor that avoids division by zero."""
    lines = np.moveaxis(array.astype(np.float64), axis, -1)
    power: Floats = np.square(np.abs(np.fft.rfft(lines - lines.mean(), axis=-1))).mean(axis=(0, 1))
    floor: Floats = power + 1e-12 * power.max()
    return floor
