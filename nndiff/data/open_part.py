"""The open part: what the sources leave undetermined of the target, measured on held-out cases.

It is stated as an rms per case and, because it differs between air and a hot organ by a factor of a hundred, as a curve
over the local mean of each source.

A regression predicts the target from the sources around each voxel (`neighbourhood.py`). With folds over patients, no
case is predicted by a fit that has seen its patient; the rms of what the fit misses is therefore an honest, if somewhat
large, estimate of the conditional standard deviation of the target given the source.

The regression is ridge on the features and on HIDDEN random hinges,

    h_j = max(0, Σ_i w_ij·asinh(z_i) - b_j)      z: standardised features, INPUTS of them per hinge

averaged over MEMBERS draws of the hinges. The penalty is the one with the least error over all held-out cases; the
largest penalty leaves only the mean of the target. Normal equations are summed per fold, so that every fit is one
solve, whatever the number of voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nndiff.data.neighbourhood import Sample
from nndiff.words.fingerprint import Curve
from nndiff.words.volume import FloatArray, Floats

FOLDS = 5  # or one per patient, if there are fewer
LEAST_PATIENTS = 2
HIDDEN, INPUTS, MEMBERS = 256, 3, 3
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e6)
SEEN = 8000  # voxels at whose values hinges are bent and by which inputs are scaled
KNOTS = (0.01, *(i / 12 for i in range(1, 12)), 0.96, 0.985, 0.995)  # quantiles of the levels: where a curve has points
LEAST_SHARE, LEAST_COUNT = 0.02, 20  # of a point of a curve, over the rms in the foreground; and its number of voxels
ALL_VOXELS, MOST_VOXELS, LEAST_VOXELS = 120_000, 8192, 128  # sampled in all cases, and at most and at least in one


def voxels_a_case(cases: int) -> int:
    """Return the number of voxels to sample in each case."""
    return int(np.clip(ALL_VOXELS // max(1, cases), LEAST_VOXELS, MOST_VOXELS))


@dataclass(frozen=True, eq=False)
class OpenPart:
    """What the sources leave open of the targets in the foreground, and as a function of the sources' levels."""

    rms: list[tuple[float, ...]]  # per case and target channel, in the file's units
    curves: tuple[tuple[Curve, ...], ...]  # [target][source]; levels are normalised


def open_part(samples: Sequence[Sample], groups: Sequence[str]) -> OpenPart | None:
    """Return the open part, or None with less than two patients: no case can be held out then."""
    patients = sorted(set(groups))
    if len(patients) < LEAST_PATIENTS:
        return None
    folds = [patients.index(group) % FOLDS for group in groups]
    centre, width = _spread([case.features for case in samples])
    standard = [(case.features - centre) / width for case in samples]
    members = [_predictions(standard, samples, folds, _hinges(standard, seed)) for seed in range(MEMBERS)]
    missed = [  # per case: [penalty, n, T]
        np.square(np.mean([member[i] for member in members], axis=0) - case.targets) for i, case in enumerate(samples)
    ]
    errors = [squares[:, case.inside].mean(axis=1) for squares, case in zip(missed, samples, strict=True)]
    best = np.mean(errors, axis=0).argmin(axis=0)  # [T]
    rms = [
        tuple(scale * float(np.sqrt(error[p, t])) for t, (p, scale) in enumerate(zip(best, case.scales, strict=True)))
        for error, case in zip(errors, samples, strict=True)
    ]
    squares = np.stack([np.concatenate([case[p, :, t] for case in missed]) for t, p in enumerate(best)])  # [T, n]
    whole = np.median([error[best, range(len(best))] for error in errors], axis=0)  # [T]
    levels = np.concatenate([case.levels for case in samples])  # [n, S]
    curves = tuple(
        tuple(_curve(level, square / size) for level in levels.T) for square, size in zip(squares, whole, strict=True)
    )
    return OpenPart(rms, curves)


def _curve(levels: FloatArray, squares: Floats) -> Curve:
    """Return the rms of the errors, relative to their usual size, at KNOTS quantiles of the levels."""
    knots = np.unique(np.quantile(levels, KNOTS))
    edges = (knots[1:] + knots[:-1]) / 2
    part = np.searchsorted(edges, levels)
    counts = np.bincount(part, minlength=len(knots))
    sums = np.bincount(part, squares, minlength=len(knots))
    return tuple(
        (float(knot), max(LEAST_SHARE, float(np.sqrt(total / count))))
        for knot, total, count in zip(knots, sums, counts, strict=True)
        if count >= LEAST_COUNT
    )


# ---------------------------------------------------------------- regression


@dataclass(frozen=True, eq=False)
class _Hinges:
    """Random hinges of standardised features: a second set of inputs, for what is not linear."""

    weights: FloatArray  # [F, HIDDEN]
    bends: FloatArray  # [HIDDEN]
    mean: FloatArray  # [F + HIDDEN]
    std: FloatArray

    def raw(self, features: FloatArray) -> FloatArray:
        bent = np.maximum(0, np.arcsinh(features) @ self.weights - self.bends)
        return np.concatenate([features, bent], axis=1)

    def __call__(self, features: FloatArray) -> Floats:
        """Return the inputs of the regression, the last of which is constant: [n, F + HIDDEN + 1]."""
        inputs = ((self.raw(features) - self.mean) / self.std).astype(np.float64)
        return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def _hinges(features: Sequence[FloatArray], seed: int) -> _Hinges:
    """Return hinges along random directions, each bent at one of the values that occur."""
    rng = np.random.default_rng(seed)
    width = features[0].shape[1]
    weights = np.zeros((width, HIDDEN), dtype=np.float32)
    for column in weights.T:
        count = rng.integers(1, INPUTS + 1)
        column[rng.choice(width, count, replace=False)] = rng.standard_normal(count)
    step = max(1, sum(map(len, features)) // SEEN)
    some = np.concatenate([case[::step] for case in features])
    bends = (np.arcsinh(some) @ weights)[rng.integers(len(some), size=HIDDEN), np.arange(HIDDEN)]
    plain = _Hinges(weights, bends, np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.float32))
    inputs = plain.raw(some)
    std = inputs.std(axis=0)
    return _Hinges(weights, bends, inputs.mean(axis=0), np.where(std > 0, std, 1))


def _predictions(
    features: Sequence[FloatArray], samples: Sequence[Sample], folds: Sequence[int], hinges: _Hinges
) -> list[Floats]:
    """Return, per case, its prediction with each penalty by the fit to the other folds: [penalty, n, T]."""
    grams: dict[int, Floats] = {}
    products: dict[int, Floats] = {}
    few = sum(map(len, features)) <= ALL_VOXELS  # then their inputs are kept, not computed twice
    kept: list[Floats | None] = []
    for case, own, fold in zip(samples, features, folds, strict=True):
        inputs = hinges(own)
        kept.append(inputs if few else None)
        grams[fold] = grams.get(fold, 0) + inputs.T @ inputs
        products[fold] = products.get(fold, 0) + inputs.T @ case.targets
    fits = {}
    for fold in grams:
        others = [other for other in grams if other != fold]
        fits[fold] = _ridge(np.sum([grams[f] for f in others], axis=0), np.sum([products[f] for f in others], axis=0))
    ranges = {fold: _range([case for case, f in zip(samples, folds, strict=True) if f != fold]) for fold in grams}
    return [
        np.clip((hinges(own) if inputs is None else inputs) @ fits[fold], *ranges[fold])
        for own, inputs, fold in zip(features, kept, folds, strict=True)
    ]


def _ridge(gram: Floats, product: Floats) -> Floats:
    """Return the coefficients for each penalty, [penalty, inputs, T]; the constant, the last input, has no penalty."""
    ridge = np.eye(len(gram)) * gram[-1, -1]  # the number of voxels
    ridge[-1, -1] = 0
    return np.stack([np.linalg.solve(gram + penalty * ridge, product) for penalty in PENALTIES])


def _range(samples: Sequence[Sample]) -> tuple[FloatArray, FloatArray]:
    return (
        np.min([case.targets.min(axis=0) for case in samples], axis=0),
        np.max([case.targets.max(axis=0) for case in samples], axis=0),
    )


def _spread(features: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Return the median and half the distance of the 16th and 84th percentile of each feature; or 1 if it is 0."""
    low, middle, high = np.percentile(np.concatenate(features), [16, 50, 84], axis=0).astype(np.float32)
    width = (high - low) / 2
    return middle, np.where(width > 0, width, 1)
