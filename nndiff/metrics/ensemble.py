"""Metrics of an ensemble of K samples per volume: do their spread and their std map describe the errors correctly?

    CRPS = E|X - x| - ½ E|X - X'|                                           X, X' drawn from the model, x the truth

estimated without bias for any K ≥ 2 (the fair form, Ferro 2014), which omits pairs of a sample with itself:

    CRPS ≈ 1/K Σ_k |x_k - x| - 1/(2 K (K-1)) Σ_k Σ_l |x_k - x_l|,      Σ_k Σ_l |x_k - x_l| = 2 Σ_k (2k - K - 1) x_(k)

with x_(1) ≤ … ≤ x_(K): sorting makes it O(K log K) per voxel. The CRPS has the image's unit, and lower is better; for a
single sample it would be the absolute error. Because the estimate is unbiased, it may be negative at a single voxel.

Whether the std map is large where the errors are large is measured by its Spearman rank correlation with |x̂ - x|:
neither is normally distributed, and their scales may differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nndiff.words.volume import FloatArray, Floats, Mask

SLAB_NUMBERS = 1 << 22  # numbers sorted at once: bounds the temporary memory for any K and any volume


def crps(samples: Sequence[FloatArray], truth: FloatArray, mask: Mask | None = None) -> float:
    """Return the mean of the fair CRPS over the mask.  samples: K ≥ 2 arrays [Z, Y, X]."""
    assert len(samples) >= 2, "one sample has no spread"
    planes = max(1, SLAB_NUMBERS // (len(samples) * math.prod(truth.shape[1:])))
    total, count = 0.0, 0
    for start in range(0, truth.shape[0], planes):
        slab = slice(start, start + planes)
        inside = np.ones(truth[slab].shape, dtype=bool) if mask is None else mask[slab]
        drawn = np.stack([sample[slab][inside] for sample in samples]).astype(np.float64)  # [K, voxels]
        total += float(_fair(drawn, truth[slab][inside].astype(np.float64)).sum())
        count += drawn.shape[1]
    return total / count if count else math.nan


def uncertainty_correlation(
    deviation: FloatArray, estimate: FloatArray, truth: FloatArray, mask: Mask | None = None
) -> float:
    """Return Spearman's correlation of the std map with the absolute error; NaN if either is constant."""
    inside = slice(None) if mask is None else mask
    error = np.abs(estimate[inside].astype(np.float64) - truth[inside])
    a, b = (_centred_ranks(values) for values in (deviation[inside], error))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else math.nan


def _fair(drawn: Floats, truth: Floats) -> Floats:
    """Return the fair CRPS of each voxel, and sort `drawn` in place.  drawn: [K, voxels], truth: [voxels]."""
    k = len(drawn)
    skill: Floats = np.abs(drawn - truth).mean(axis=0)
    drawn.sort(axis=0)
    weights = 2.0 * np.arange(1, k + 1) - k - 1
    return skill - weights @ drawn / (k * (k - 1))


def _centred_ranks(values: npt.NDArray[np.floating]) -> Floats:
    """Return the ranks minus their mean; equal values get their mean rank."""
    from scipy import stats  # takes long to import

    ranks: Floats = stats.rankdata(values, axis=None).astype(np.float64)
    ranks -= (ranks.size + 1) / 2
    return ranks
