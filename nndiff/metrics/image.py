"""Compare one channel with the truth: fidelity and texture of [Z, Y, X] arrays in their own units, inside a mask.

    MAE      mean |x̂ - x|, unclipped
    PSNR     10·log10(range² / mean (x̂ - x)²), both clipped to the range
    SSIM     mean of l·c·s over 7³ windows, uniform, with sample covariance (Wang 2004; K1 .01, K2 .03)
    MS-SSIM  product over five scales of mean (l·c·s)^w, each factor floored at 0

MAE, PSNR and MS-SSIM follow the code of the SynthRAD challenges exactly. For SSIM and MS-SSIM both images are set to
the lower end of the range outside the mask; between scales they are averaged over voxels n-1 and n along each axis
(2³), then every second voxel is kept. A blurry mean achieves the best PSNR, so PSNR is reported together with

    HF power  power of x̂ over that of x above half the Nyquist frequency: below 1 is blur, above 1 is noise
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np
from scipy import fft

from nndiff.words.volume import FloatArray, Floats, Mask, Range

WINDOW = 7
EDGE = WINDOW // 2
STRIP = 64  # rows of a plane whose windows are summed at once: they stay in the processor's cache
CHUNK = 1 << 15  # voxels, for the same reason
K1, K2 = 0.01, 0.03
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003; their sum of 1.0001 is not normalised
SMALLEST_AXIS = 97  # voxels, of MS-SSIM: shorter axes are padded with their edge values


def mae(estimate: FloatArray, truth: FloatArray, mask: Mask | None = None) -> float:
    return float(np.abs(_inside(estimate, mask) - _inside(truth, mask)).mean())


def nrmse(estimate: FloatArray, truth: FloatArray, mask: Mask | None = None) -> float:
    """Return the root mean square error divided by the root mean square of the truth."""
    difference = _inside(estimate, mask) - _inside(truth, mask)
    return float(np.sqrt(np.square(difference).mean() / np.square(_inside(truth, mask)).mean()))


def psnr(estimate: FloatArray, truth: FloatArray, bounds: Range, mask: Mask | None = None) -> float:
    a, b = ((array if mask is None else array[mask]).ravel() for array in (estimate, truth))
    total = 0.0
    for start in range(0, a.size, CHUNK):
        here = slice(start, start + CHUNK)
        difference = np.clip(a[here].astype(np.float64), *bounds) - np.clip(b[here].astype(np.float64), *bounds)
        total += float(difference @ difference)
    error = total / a.size if a.size else math.nan
    return math.inf if error == 0 else 10 * math.log10((bounds[1] - bounds[0]) ** 2 / error)


def ssim(estimate: FloatArray, truth: FloatArray, bounds: Range, mask: Mask | None = None) -> float:
    """Return the mean SSIM over the mask, without windows that reach over the border of the volume."""
    a, b = _prepared(estimate, bounds, mask), _prepared(truth, bounds, mask)
    return _mean(_scores(a, b, bounds[1] - bounds[0]), mask)


def ms_ssim(estimate: FloatArray, truth: FloatArray, bounds: Range, mask: Mask | None = None) -> float:
    return ssim_and_ms_ssim(estimate, truth, bounds, mask)[1]


def ssim_and_ms_ssim(
    estimate: FloatArray, truth: FloatArray, bounds: Range, mask: Mask | None = None
) -> tuple[float, float]:
    """Return both; if no axis is padded, the first scale of MS-SSIM has the windows of SSIM."""
    span = bounds[1] - bounds[0]
    a, b = _prepared(estimate, bounds, mask), _prepared(truth, bounds, mask)
    scores = _scores(a, b, span)
    single, product = _mean(scores, mask), 1.0
    inside: Mask = np.ones(truth.shape, dtype=bool) if mask is None else mask
    pads = [((short := max(0, SMALLEST_AXIS - n)) // 2, short - short // 2) for n in a.shape]
    if np.any(pads):
        a, b, inside = np.pad(a, pads, mode="edge"), np.pad(b, pads, mode="edge"), np.pad(inside, pads, mode="edge")
        scores = _scores(a, b, span)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            a, b, inside = _halved(a), _halved(b), inside[::2, ::2, ::2]
            scores = _scores(a, b, span)
        product *= min(1.0, max(0.0, _mean(np.maximum(scores, 0) ** weight, inside)))
    return single, product


def high_frequency_ratio(
    estimate: FloatArray, truth: FloatArray, mask: Mask | None = None, true_power: float | None = None
) -> float:
    """Return the power above half the Nyquist frequency (radius > 1/4 cycles per voxel), estimate over truth.

    `true_power`: the `high_power` of the truth, if it has been computed before.
    """
    reference = high_power(truth, mask) if true_power is None else true_power
    return high_power(estimate, mask) / reference if reference > 0 else math.nan


def high_power(array: FloatArray, mask: Mask | None = None) -> float:
    """Return the power above 1/4 cycles per voxel of an array, set to 0 outside the mask and tapered to its border.

    Without the taper, the jump at the periodic border would contribute the most to the high frequencies.
    """
    tapered = array.astype(np.float64)
    if mask is not None:
        tapered[~mask] = 0
    tapered -= tapered.mean()
    for axis, n in enumerate(array.shape):
        tapered *= np.hanning(n + 2)[1:-1].reshape([-1 if i == axis else 1 for i in range(3)])
    spectrum = fft.rfftn(tapered, overwrite_x=True)
    z, y, x = (np.square(f(n)) for f, n in zip((fft.fftfreq, fft.fftfreq, fft.rfftfreq), array.shape, strict=True))
    total = 0.0
    for plane, squared in zip(spectrum, z, strict=True):
        values = plane[np.sqrt(squared + y[:, None] + x) > 0.25]
        total += float(np.vdot(values, values).real)
    return total


# ---------------------------------------------------------------- inside


def _inside(array: FloatArray, mask: Mask | None) -> Floats:
    values = array if mask is None else array[mask]
    return values.astype(np.float64)


def _prepared(array: FloatArray, bounds: Range, mask: Mask | None) -> Floats:
    """Return the array clipped to the range, set to its lower end outside the mask, and shifted to start at 0.

    A range that starts above 0 is not shifted.
    """
    clipped = np.clip(array.astype(np.float64), *bounds)
    if mask is not None:
        clipped = np.where(mask, clipped, bounds[0])
    shifted: Floats = clipped - min(0.0, bounds[0])
    return shifted


def _scores(a: Floats, b: Floats, span: float) -> Floats:
    """Return l·c·s of every window inside the volume; an axis without any is continued by its mirror image."""
    short = [(EDGE, EDGE) if n <= 2 * EDGE else (0, 0) for n in a.shape]
    if np.any(short):
        a, b = (np.pad(array, short, mode="symmetric") for array in (a, b))
    scores = np.empty([n - 2 * EDGE for n in a.shape])
    for top in range(0, scores.shape[1], STRIP):
        rows = slice(top, top + STRIP + 2 * EDGE)
        for z, sums in enumerate(_window_sums(a[:, rows], b[:, rows])):
            scores[z, top : top + STRIP] = _score(sums / WINDOW**3, span)
    return scores


def _window_sums(a: Floats, b: Floats) -> Iterator[Floats]:
    """Yield, plane by plane, the sums over the windows of x̂, x, x̂² + x² and x̂·x, [4, Y, X] each.

    The sum over z is carried from one plane to the next.
    """
    total = np.zeros((4, *a.shape[1:]))
    window: deque[Floats] = deque()
    for p, q in zip(a, b, strict=True):
        window.append(np.stack([p, q, p * p + q * q, p * q]))
        total += window[-1]
        if len(window) > WINDOW:
            total -= window.popleft()
        if len(window) == WINDOW:
            yield _sums(_sums(total, 1), 2)


def _score(means: Floats, span: float) -> Floats:
    """Return l·c·s from the means of `_window_sums`; with C3 = C2/2, c·s is one ratio without a root."""
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    unbiased = WINDOW**3 / (WINDOW**3 - 1)
    mean_a, mean_b, square, product = means
    means_product, means_square = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    variances = unbiased * np.maximum(square - means_square, 0)
    covariance = unbiased * (product - means_product)
    score: Floats = (2 * means_product + c1) * (2 * covariance + c2) / ((means_square + c1) * (variances + c2))
    return score


def _sums(array: Floats, axis: int) -> Floats:
    """Return the sums of WINDOW = 7 neighbours along an axis."""
    lines = array.swapaxes(0, axis)
    two = lines[:-1] + lines[1:]
    seven = two[:-5] + two[2:-3]
    seven += two[4:-1]
    seven += lines[6:]
    return seven.swapaxes(0, axis)


def _mean(scores: Floats, mask: Mask | None) -> float:
    """Return the mean over the mask of the scores of `_scores`, which lack the border of every axis that is long."""
    if mask is not None:
        scores = scores[mask[tuple(slice(EDGE, n - EDGE) if n > 2 * EDGE else slice(None) for n in mask.shape)]]
    return float(scores.mean()) if scores.size else math.nan


def _halved(array: Floats) -> Floats:
    """Return every second voxel after averaging voxels n-1 and n along each axis, with zero before the first."""
    for axis in range(3):
        lines = np.moveaxis(array, axis, 0)
        halves = lines[::2] / 2
        halves[1:] += lines[1:-1:2] / 2
        array = np.moveaxis(halves, 0, axis)
    return array
