"""How far a set of generated volumes lies from a set of real ones, measured between their features [N, D].

    Fréchet   |μ₁ - μ₂|² + tr(C₁ + C₂ - 2·√(C₁C₂))                 of the two Gaussians with the sets' moments
    MMD²      mean k(x, x') + mean k(y, y') - 2·mean k(x, y)         k = exp(-d²/2σ²), σ the median pooled distance
    SW²       mean over directions u of W₂²(u·x, u·y)                in one dimension W₂ matches the sorted values

With N ≤ D the covariances are singular, so the root is never formed. Where Cᵢ = RᵢᵀRᵢ,

    tr(C₁ + C₂ - 2·√(C₁C₂)) = min over orthogonal U of |R₁ - U·R₂|²,      U = PQᵀ from the SVD R₁R₂ᵀ = P·S·Qᵀ

(Procrustes: tr √(C₁C₂) is the sum of S), which is exact at any rank and never below 0. All three depend on N: compare
them at equal N only. A figure is worth what its features are, so it carries the extractor's name.

As published for 3D generation, FID and MMD are taken on MedicalNet's features of 1000 volumes a side, MMD as the root
of the biased form. There σ is the median over the real set alone; pooling it makes the measure symmetric. The critic
of the published Wasserstein distance is not released: the sliced one stands in its place, and has other numbers.
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
    unbiased: float  # MMD² without the pairs of a sample with itself: 0 there on average, so it can lie below 0


@dataclass(frozen=True)
class Nearest:
    """Whether a model repeats its training set. Copies bring `ratio` to 0 and `closer` to 1.

    For fresh draws the ratio is about 1, and `closer` the chance that two nearest neighbours are mutual: 2/3 in one
    dimension, .62 in two, .59 in three (Cox 1981), less in many. So judge it beside that of held-out real volumes.
    """

    generated: float  # median distance from a generated sample to its nearest training sample
    training: float  # median distance from a training sample to its nearest other one
    ratio: float  # of these two; NaN where the training samples have twins
    closer: float  # share of generated samples no farther from a training sample than that one's nearest other


@dataclass(frozen=True)
class Figures:
    fid: float
    mmd: float  # root of the biased form
    mmd_unbiased: float
    sliced_wasserstein: float
    n: int  # volumes a side
    dimensions: int
    features: str  # the extractor's name
    note: str = ""


def compare_sets(real: Floats, generated: Floats, extractor_name: str) -> Figures:
    """Every figure between two sets of features.  real, generated: [N, D]."""
    discrepancy, (n, dimensions) = mmd(real, generated), real.shape
    singular = f"{n} volumes in {dimensions} dimensions: the covariances are singular; compare this FID at N = {n} only"
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
    """FID, with the covariances' divisor N - 1.  real, generated: [N, D]."""
    real, generated = _pair(real, generated)
    shift = real.mean(axis=0) - generated.mean(axis=0)
    r1, r2 = _root(real), _root(generated)  # [min(N, D), D]
    left, _, right = np.linalg.svd(r1 @ r2.T)
    return float(shift @ shift + np.square(r1 - left @ (right @ r2)).sum())


def mmd(real: Floats, generated: Floats) -> MMD:
    """Maximum mean discrepancy under a Gaussian kernel.  real, generated: [N, D]."""
    real, generated = _pair(real, generated)
    n = len(real)
    squares = distance.pdist(np.concatenate([real, generated]), "sqeuclidean")
    bandwidth = float(np.median(np.sqrt(squares))) ** 2
    # a bandwidth of 0 leaves the kernel's limit: 1 for equal samples, else 0
    kernel = np.exp(-distance.squareform(squares) / max(2 * bandwidth, np.finfo(np.float64).tiny))  # [2N, 2N]
    within, across = kernel[:n, :n].sum() + kernel[n:, n:].sum(), 2 * kernel[:n, n:].mean()
    biased, unbiased = within / n**2 - across, (within - 2 * n) / (n * (n - 1)) - across
    return MMD(math.sqrt(max(0.0, biased)), float(unbiased))


def sliced_wasserstein(real: Floats, generated: Floats, projections: int = 256, seed: int = 0) -> float:
    """Root of the mean of W₂² over random unit directions.  real, generated: [N, D]."""
    real, generated = _pair(real, generated)
    directions = np.random.default_rng(seed).normal(size=(real.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    along = [np.sort(features @ directions, axis=0) for features in (real, generated)]  # [N, projections]
    return float(np.sqrt(np.square(along[0] - along[1]).mean()))


def nearest(generated: Floats, training: Floats) -> Nearest:
    """The memorisation check; the two sets may differ in size.  generated: [N, D], training: [M ≥ 2, D]."""
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
    """The 95 % percentile interval of a measure, both sets resampled with replacement at their N.

    A resampled set holds fewer different samples, which lifts every figure that is biased at small N: with N near D the
    interval may lie wholly above the estimate. It shows the spread, not where the truth is.
    """
    real, generated = _pair(real, generated)
    generator, n = np.random.default_rng(seed), len(real)
    values = [measure(*(side[generator.integers(n, size=n)] for side in (real, generated))) for _ in range(draws)]
    low, high = np.percentile(values, INTERVAL)
    return float(low), float(high)


# ---------------------------------------------------------------- inside


def _root(features: Floats) -> Floats:
    """R with RᵀR = the sample covariance.  [N, D] → [min(N, D), D]."""
    return np.linalg.qr(features - features.mean(axis=0)).R / math.sqrt(len(features) - 1)


def _pair(real: Floats, generated: Floats) -> tuple[Floats, Floats]:
    real, generated = _features(real, "real", 2), _features(generated, "generated", 2)
    _same_features(real, generated)
    if len(real) != len(generated):
        raise NndiffError(
            "Two sets cannot be compared: every figure depends on how many volumes it is taken from.",
            expected="equal numbers",
            found=f"{len(real)} real, {len(generated)} generated",
            remedy="leave out volumes of the larger set",
        )
    return real, generated


def _same_features(first: Floats, second: Floats) -> None:
    if first.shape[1] != second.shape[1]:
        raise NndiffError(
            "Two sets cannot be compared: they have different features.",
            expected="equal numbers a volume",
            found=f"{first.shape[1]} and {second.shape[1]}",
            remedy="take both with the same extractor",
        )


def _features(features: Floats, which: str, least: int) -> Floats:
    where = f"the {which} set"
    if features.ndim != 2 or features.shape[1] == 0:
        raise NndiffError("These are no features.", expected="[N, D]", found=list(features.shape), where=where)
    if len(features) < least:
        raise NndiffError("Too few volumes to compare.", expected=f"{least} or more", found=len(features), where=where)
    if not (finite := np.isfinite(features).all(axis=1)).all():
        found = f"NaN or infinity in {int((~finite).sum())} of {len(features)}, first in number {int(finite.argmin())}"
        remedy = "look at that volume: its values may be NaN or far outside [-1, 1]"
        raise NndiffError("Features must be finite.", found=found, where=where, remedy=remedy)
    return features.astype(np.float64)
