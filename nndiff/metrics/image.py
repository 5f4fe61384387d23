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

import numpy as np
from scipy import ndimage

from nndiff.words.volume import FloatArray, Floats, Mask, Range

WINDOW = 7
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
    difference = np.clip(_inside(estimate, mask), *bounds) - np.clip(_inside(truth, mask), *bounds)
    error = float(np.square(difference).mean())
    return math.inf if error == 0 else 10 * math.log10((bounds[1] - bounds[0]) ** 2 / error)


def ssim(estimate: FloatArray, truth: FloatArray, bounds: Range, mask: Mask | None = None) -> float:
    """Return the mean SSIM over the mask, without windows that reach over the border of the volume."""
    a, b = _prepared(estimate, bounds, mask), _prepared(truth, bounds, mask)
    luminance, contrast, structure = _terms(a, b, bounds[1] - bounds[0])
    return _mean(luminance * contrast * structure, mask)


def ms_ssim(estimate: FloatArray, truth: FloatArray, bounds: Range, mask: Mask | None = None) -> float:
    a, b = _prepared(estimate, bounds, mask), _prepared(truth, bounds, mask)
    pads = [((short := max(0, SMALLEST_AXIS - n)) // 2, short - short // 2) for n in a.shape]
    a, b = np.pad(a, pads, mode="edge"), np.pad(b, pads, mode="edge")
    inside: Mask = np.pad(np.ones(truth.shape, dtype=bool) if mask is None else mask, pads, mode="edge")
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            a, b, inside = _halved(a), _halved(b), inside[::2, ::2, ::2]
        terms = [np.maximum(term, 0) ** weight for term in _terms(a, b, bounds[1] - bounds[0])]
        product *= min(1.0, max(0.0, _mean(terms[0] * terms[1] * terms[2], inside)))
    return product


def high_frequency_ratio(estimate: FloatArray, truth: FloatArray, mask: Mask | None = None) -> float:
    """Return the power above half the Nyquist frequency (radius > 1/4 cycles per voxel), estimate over truth."""
    powers = [_high_power(_masked(array, mask)) for array in (estimate, truth)]
    return powers[0] / powers[1] if powers[1] > 0 else math.nan


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


def _terms(a: Floats, b: Floats, span: float) -> tuple[Floats, Floats, Floats]:
    """Return luminance, contrast and structure of every window."""
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    unbiased = WINDOW**3 / (WINDOW**3 - 1)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    var_a = unbiased * np.maximum(_window_mean(a * a) - mean_a**2, 0)
    var_b = unbiased * np.maximum(_window_mean(b * b) - mean_b**2, 0)
    covariance = unbiased * (_window_mean(a * b) - mean_a * mean_b)
    deviations = np.sqrt(var_a * var_b)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast = (2 * deviations + c2) / (var_a + var_b + c2)
    structure = (covariance + c2 / 2) / (deviations + c2 / 2)
    return luminance, contrast, structure


def _window_mean(array: Floats) -> Floats:
    mean: Floats = ndimage.uniform_filter(array, WINDOW)
    return mean


def _mean(scores: Floats, mask: Mask | None) -> float:
    """Return the mean over the mask, without windows that reach over the border, unless an axis has no others."""
    edge = WINDOW // 2
    core = tuple(slice(edge, n - edge) if n > 2 * edge else slice(None) for n in scores.shape)
    values = scores[core] if mask is None else scores[core][mask[core]]
    return float(values.mean()) if values.size else math.nan


def _halved(array: Floats) -> Floats:
    """Return every second voxel after averaging voxels n-1 and n along each axis, with zero before the first."""
    for axis in range(3):
        before = np.roll(array, 1, axis)
        first = [slice(None)] * 3
        first[axis] = slice(0, 1)
        before[tuple(first)] = 0
        array = (array + before) / 2
    return array[::2, ::2, ::2]


def _masked(array: FloatArray, mask: Mask | None) -> Floats:
    values = array.astype(np.float64)
    return values if mask is None else np.where(mask, values, 0.0)


def _high_power(array: Floats) -> float:
    """Return the power above 1/4 cycles per voxel of an array tapered to 0 at its border.

    Without the taper, the jump at the periodic border would contribute the most to the high frequencies.
    """
    tapered = array - array.mean()
    for axis, n in enumerate(array.shape):
        tapered = tapered * np.hanning(n + 2)[1:-1].reshape([-1 if i == axis else 1 for i in range(3)])
    spectrum = np.abs(np.fft.rfftn(tapered)) ** 2
    axes = [*(np.fft.fftfreq(n) for n in array.shape[:-1]), np.fft.rfftfreq(array.shape[-1])]
    frequencies = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = np.sqrt(frequencies[0] ** 2 + frequencies[1] ** 2 + frequencies[2] ** 2)
    return float(spectrum[radius > 0.25].sum())
