"""Tests of the Gaussian filter against scipy.ndimage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nndiff.metrics.smooth import gaussian_filter


@pytest.mark.parametrize("mode", ["reflect", "nearest"])
@pytest.mark.parametrize("sigmas", [(1.0, 1.0, 1.0), (3.5, 0.0, 0.4), (0.7, 12.0, 60.0)])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_it_is_scipys(mode: str, sigmas: tuple[float, float, float], offset: float) -> None:
    """Also where the kernel is longer than the axis."""
    noise = np.random.default_rng(0).normal(offset, 1, size=(70, 9, 131)).astype(np.float32)
    found = gaussian_filter(noise, sigmas, mode, truncate=3.0)
    expected = ndimage.gaussian_filter(noise.astype(np.float64), sigmas, mode=mode, truncate=3.0)
    assert np.abs(found - expected).max() < 1e-6 + 1e-7 * offset
    assert found.dtype == np.float32


@pytest.mark.parametrize("value", [0.0, 1000.0, -0.1])
def test_a_constant_stays_exactly_constant(value: float) -> None:
    constant = np.full((10, 11, 12), value, np.float32)
    np.testing.assert_array_equal(gaussian_filter(constant, (1.0, 2.0, 3.0), "reflect", 3.0), constant)
