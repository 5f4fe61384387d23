"""Filter a volume by a Gaussian, with one banded matrix per axis; the weights and borders are those of scipy.ndimage.

A product of matrices takes a fraction of the time of a convolution line by line (`words/band.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nndiff.words.band import along, band
from nndiff.words.volume import FloatArray


def gaussian_filter(array: FloatArray, sigmas: Sequence[float], mode: str, truncate: float) -> FloatArray:
    """Return [Z, Y, X] in float32, filtered along each axis by its sigma in voxels; 0 leaves an axis as it is.

    `mode` continues the array beyond its border; kernels end at `truncate` sigmas.
    """
    level = np.float32(array.flat[0])
    result: FloatArray = np.subtract(array, level, dtype=np.float32)
    for axis, (n, sigma) in enumerate(zip(array.shape, sigmas, strict=True)):
        if sigma > 0:
            weights = ndimage.gaussian_filter1d(np.eye(n), sigma, axis=0, mode=mode, truncate=truncate)
            result = along(axis, band(weights), result)
    result += level  # weights in float32 do not add up to 1, so a constant would not stay one
    return result
