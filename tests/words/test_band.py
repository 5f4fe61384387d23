"""Tests of products with band matrices against whole products in float64."""

from __future__ import annotations

import numpy as np
import pytest

from nndiff.words.band import BLOCK, NEGLIGIBLE, along, band


def decaying(new: int, old: int, rate: float = 3.7) -> np.ndarray:
    """Return weights that fall like those of a cubic spline, below what float32 can hold."""
    rows, columns = np.indices((new, old))
    weights: np.ndarray = rate ** -np.abs(rows * (old / new) - columns) * (-1.0) ** columns
    return weights


@pytest.mark.parametrize(("new", "old"), [(1, 1), (5, 200), (BLOCK, 90), (BLOCK + 1, 90), (200, 5), (200, 131)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_law_the_product_is_that_with_the_whole_matrix(new: int, old: int, axis: int) -> None:
    weights = decaying(new, old)
    array = np.moveaxis(np.random.default_rng(0).normal(size=(old, 4, 3)), 0, axis).astype(np.float32)
    found = along(axis, band(weights), array)
    expected = np.moveaxis(np.tensordot(weights, array.astype(np.float64), (1, axis)), 0, axis)
    assert np.abs(found - expected).max() < 2e-6
    assert found.flags.c_contiguous
    view = np.flip(array, 1).copy()[:, ::-1]
    assert np.abs(along(axis, band(weights), view) - found).max() < 1e-6


def test_no_weight_is_too_small_to_matter() -> None:
    weights = decaying(100, 100)
    found = band(weights)
    kept = found != 0
    assert np.array_equal(kept, np.abs(weights) >= NEGLIGIBLE * np.abs(weights).max(axis=1, keepdims=True))
    assert np.abs(found[kept]).min() > np.finfo(np.float32).tiny > np.abs(weights).min()
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1
