"""Distances between a set of generated volumes and a set of real ones, computed from their features [N, D].

    Fréchet   |μ₁ - μ₂|² + tr(C₁ + C₂ - 2·√(C₁C₂))                 of the two Gaussians with the sets' moments
    MMD²      mean k(x, x') + mean k(y, y') - 2·mean k(x, y)         k = exp(-d²/2σ²), σ the median pooled distance
    SW²       mean over directions u of W₂²(u·x, u·y)                in one dimension W₂ matches the sorted values

With N ≤ D the covariances are singular, so the root is never formed. With Cᵢ = RᵢᵀRᵢ,

    tr(C₁ + C₂ - 2·√(C₁C₂)) = min over orthogonal U of |R₁ - U·R₂|²,      U = PQᵀ from the SVD R₁R₂ᵀ = P·S·Qᵀ

(Procrustes: tr √(C₁C₂) is the sum of S), which is exact at any rank and never below 0. All three depend on N, so
compare them only at equal N. Their meaning depends on the features, so each result names its extractor.

In publications on 3D generation, FID and MMD are computed from MedicalNet features of 1000 volumes per set, and MMD is
the root of the biased form. There σ is the median over the real set alone; pooling makes the measure symmetric. The
critic of the published Wasserstein distance is not released; the sliced distance replaces it and has other values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import distance

from nndiff.words.errors import NndiffError
from nndiff.words.volume import Floats

Measure = Callable[[Floats, Floats], float]

INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class MMD:
    biased_root: float  # √ of the biased MMD², as published; above 0 even for two samples of one distribution
    unbiased: float  # MMD² without pairs of a sample with itself: 0 on average in that case, so it can be negative


@dataclass(frozen=True)
class Nearest:
    """A test whether a model reproduces its training set. For copies `ratio` is 0 and `closer` is 1.

    For independent samples the ratio is about 1, and `closer` is the probability that nearest neighbours are mutual:
    2/3 in one dimension, .62 in two, .59 in three (Cox 1981), less in many. Compare it with that of held-out real
    volumes.
    """

    generated: float  # median distance from a generated sample to its nearest training sample
    training: float  # median distance from a training sample to its nearest other one
    ratio: float  # generated / training; NaN if the training samples have duplicates
    closer: float  # share of generated samples no farther from a training sample than its nearest other one


@dataclass(frozen=True)
class Figures:
    fid: float
    mmd: float  # root of the biased form
    mmd_unbiased: float
    sliced_wasserstein: float
    n: int  # volumes per set
    dimensions: int
    features: str  # the extractor's name
    note: str = ""


def compare_sets(real: Floats, generated: Floats, extractor_name: str) -> Figures:
    """Return all distances between two sets of features.  real, generated: [N, D]."""
    discrepancy, (n, dimensions) = mmd(real, generated), real.shape
    singular = f"{n} volumes, {dimensions} features: the covariances are singular; compare this FID only at N = {n}"
    return Figures(
        fid=frechet(real, generated),
        mmd=discrepancy.biased_root,
        mmd_unbiased=discrepancy.unbiased,
        sliced_wasserstein=sliced_wasserstein(real, generated),
        n=n,
        dimensions=dimensions,
        features=extractor_name,
        note=singular if n <= dimensions else "",
    )


# ---------------------------------------------------------------- measures


def frechet(real: Floats, generated: Floats) -> float:
    """Return the FID, with covariances of divisor N - 1.  real, generated: [N, D]."""
    real, generated = _pair(real, generated)
    shift = real.mean(axis=0) - generated.mean(axis=0)
    r1, r2 = _root(real), _root(generated)  # [min(N, D), D]
    left, _, right = np.linalg.svd(r1 @ r2.T)
    return float(shift @ shift + np.square(r1 - left @ (right @ r2)).sum())


def mmd(real: Floats, generated: Floats) -> MMD:
    """Return the maximum mean discrepancy under a Gaussian kernel.  real, generated: [N, D]."""
    real, generated = _pair(real, generated)
    n = len(real)
    squares = distance.pdist(np.concatenate([real, generated]), "sqeuclidean")
    bandwidth = float(np.median(np.sqrt(squares))) ** 2
    # a bandwidth of 0 gives the limit of the kernel: 1 for equal samples, otherwise 0
    kernel = np.exp(-distance.squareform(squares) / max(2 * bandwidth, np.finfo(np.float64).tiny))  # [2N, 2N]
    within, across = kernel[:n, :n].sum() + kernel[n:, n:].sum(), 2 * kernel[:n, n:].mean()
    biased, unbiased = within / n**2 - across, (within - 2 * n) / (n * (n - 1)) - across
    return MMD(math.sqrt(max(0.0, biased)), float(unbiased))


def sliced_wasserstein(real: Floats, generated: Floats, projections: int = 256, seed: int = 0) -> float:
    """Return the root of the mean of W₂² over random unit directions.  real, generated: [N, D]."""
    real, generated = _pair(real, generated)
    directions = np.random.default_rng(seed).normal(size=(real.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    along = [np.sort(features @ directions, axis=0) for features in (real, generated)]  # [N, projections]
    return float(np.sqrt(np.square(along[0] - along[1]).mean()))


def nearest(generated: Floats, training: Floats) -> Nearest:
    """Return the test of memorisation; the sets may differ in size.  generated: [N, D], training: [M ≥ 2, D]."""
    generated, training = _features(generated, "generated", 1), _features(training, "training", 2)
    _same_features(generated, training)
    between = distance.cdist(generated, training)  # [N, M]
    among = distance.squareform(distance.pdist(training))  # [M, M]
    np.fill_diagonal(among, np.inf)
    to_training, to_other, twin = between.min(axis=1), among.min(axis=1), between.argmin(axis=1)
    medians = float(np.median(to_training)), float(np.median(to_other))
    ratio = medians[0] / medians[1] if medians[1] > 0 else math.nan
    return Nearest(*medians, ratio, float((to_training <= to_other[twin]).mean()))


def bootstrap(
    measure: Measure, real: Floats, generated: Floats, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a measure when both sets are resampled with replacement at their N.

    A resampled set holds fewer distinct samples, which increases every measure that is biased at small N: with N near D
    the whole interval may lie above the estimate. It shows the spread, not the true value.
    """
    real, generated = _pair(real, generated)
    generator, n = np.random.default_rng(seed), len(real)
    values = [measure(*(side[generator.integers(n, size=n)] for side in (real, generated))) for _ in range(draws)]
    low, high = np.percentile(values, INTERVAL)
    return float(low), float(high)


# ---------------------------------------------------------------- inside


def _root(features: Floats) -> Floats:
    """Return R such that RᵀR is the sample covariance.  [N, D] → [min(N, D), D]."""
    return np.linalg.qr(features - features.mean(axis=0)).R / math.sqrt(len(features) - 1)


def _pair(real: Floats, generated: Floats) -> tuple[Floats, Floats]:
    real, generated = _features(real, "real", 2), _features(generated, "generated", 2)
    _same_features(real, generated)
    if len(real) != len(generated):
        raise NndiffError(
            "The two sets must have the same number of volumes, because every measure depends on that number.",
            expected="equal numbers",
            found=f"{len(real)} real, {len(generated)} generated",
            remedy="remove volumes from the larger set",
        )
    return real, generated


def _same_features(first: Floats, second: Floats) -> None:
    if first.shape[1] != second.shape[1]:
        raise NndiffError(
            "The two sets must have the same number of features per volume.",
            expected="equal numbers",
            found=f"{first.shape[1]} and {second.shape[1]}",
            remedy="compute both sets with the same extractor",
        )


def _features(features: Floats, which: str, least: int) -> Floats:
    where = f"the {which} set"
    if features.ndim != 2 or features.shape[1] == 0:
        raise NndiffError(
            "The features must be an array of two axes.", expected="[N, D]", found=list(features.shape), where=where
        )
    if len(features) < least:
        raise NndiffError(
            "There are too few volumes to compare.", expected=f"{least} or more", found=len(features), where=where
        )
    if not (finite := np.isfinite(features).all(axis=1)).all():
        bad, first = int((~finite).sum()), int(finite.argmin())
        found = f"NaN or infinity in {bad} of {len(features)} volumes, the first one number {first}"
        remedy = "check that volume: its values may be NaN or far outside [-1, 1]"
        raise NndiffError("The features must be finite.", found=found, where=where, remedy=remedy)
    return features.astype(np.float64)
