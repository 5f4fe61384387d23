"""Tests of regional biases against hand computation, and of the best Gaussian against filters of known width."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from nndiff.metrics.image import psnr
from nndiff.metrics.pet import FWHM_PER_SIGMA, best_gaussian, gaussian, region_biases

SPACING = (4.0, 2.0, 2.0)


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(size=(16, 24, 26)).astype(np.float32)


def test_biases_by_hand() -> None:
    truth = np.array([[[1, 2, 3, 10, 10, 7]]], np.float32)
    estimate = np.array([[[2, 2, 5, 9, 6, 99]]], np.float32)
    labels = np.array([[[1, 1, 1, 4, 4, 0]]], np.int32)
    first, fourth = region_biases(estimate, truth, labels)
    assert (first.label, first.voxels, fourth.label, fourth.voxels) == (1, 3, 4, 2)
    assert (first.mean_bias, first.max_bias) == pytest.approx((3 / 2 - 1, 5 / 3 - 1))
    assert (fourth.mean_bias, fourth.max_bias) == pytest.approx((-0.25, -0.1))
    assert (first.variation, first.true_variation) == pytest.approx((math.sqrt(2) / 3, math.sqrt(2 / 3) / 2))
    assert (fourth.variation, fourth.true_variation) == pytest.approx((0.2, 0.0))


def test_no_ratio_to_what_is_not_above_zero() -> None:
    truth, labels = np.zeros((1, 1, 2), np.float32), np.ones((1, 1, 2), np.int32)
    (region,) = region_biases(truth + 1, truth, labels)
    assert math.isnan(region.mean_bias)
    assert math.isnan(region.max_bias)
    assert (region.variation, region.voxels) == (0.0, 2)


def test_regions_are_measured_voxel_by_voxel_whatever_their_shape(noise) -> None:
    truth = np.abs(noise) + 1
    labels = np.random.default_rng(1).integers(0, 4, noise.shape).astype(np.int32)
    for region in region_biases(truth * 1.25, truth, labels):
        assert region.voxels == np.count_nonzero(labels == region.label)
        assert (region.mean_bias, region.max_bias) == pytest.approx((0.25, 0.25), rel=1e-5)


def test_the_filter_is_as_wide_as_it_says_along_every_axis() -> None:
    point = np.zeros((41, 81, 81), np.float32)
    point[20, 40, 40] = 1
    spread = gaussian(point, 16.0, SPACING).astype(float)
    for axis, edge in enumerate(SPACING):
        profile = spread.sum(axis=tuple({0, 1, 2} - {axis}))
        positions = (np.arange(len(profile)) - len(profile) // 2) * edge
        sigma = math.sqrt((profile * positions**2).sum() / profile.sum())
        assert sigma * 2.3548 == pytest.approx(16.0, rel=0.01)


@pytest.mark.parametrize("sigma", [3.0, 5.0, 11.0])
def test_it_finds_the_width_that_the_truth_was_made_with(noise, sigma) -> None:
    truth = ndimage.gaussian_filter(noise, [sigma / edge for edge in SPACING], mode="nearest")
    filtered, fwhm = best_gaussian(noise, truth, SPACING, (float(truth.min()), float(truth.max())))
    assert fwhm == pytest.approx(sigma * FWHM_PER_SIGMA, rel=0.02)
    assert np.abs(filtered - truth).max() < 0.02 * np.ptp(truth)


def test_no_other_width_is_better(noise) -> None:
    truth = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=noise.shape), 2).astype(np.float32)
    bounds = (float(truth.min()), float(truth.max()))
    source = truth + 0.1 * noise
    filtered, fwhm = best_gaussian(source, truth, SPACING, bounds)
    best = psnr(filtered, truth, bounds)
    others = [psnr(gaussian(source, other, SPACING), truth, bounds) for other in np.arange(0.0, 20.0, 0.25)]
    assert max(others) - 1e-3 < best
    assert best > others[0] + 3
    np.testing.assert_array_equal(filtered, gaussian(source, fwhm, SPACING))


def test_what_needs_no_filter_gets_none(noise) -> None:
    filtered, fwhm = best_gaussian(noise, noise, SPACING, (-3.0, 3.0))
    assert fwhm == 0
    np.testing.assert_array_equal(filtered, noise)


def test_only_the_mask_chooses_the_width(noise) -> None:
    truth = gaussian(noise, 12.0, SPACING)
    mask = np.zeros(noise.shape, bool)
    mask[:, :, :13] = True
    spoilt = np.where(mask, truth, noise).astype(np.float32)
    bounds = (float(noise.min()), float(noise.max()))
    _, inside = best_gaussian(noise, spoilt, SPACING, bounds, mask)
    _, everywhere = best_gaussian(noise, spoilt, SPACING, bounds)
    assert inside == pytest.approx(12.0, rel=0.02)
    assert everywhere < 8
