"""Tests of the score: the mean over channels, the penalty of texture, and figures that cannot be measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from nndiff.metrics import image
from nndiff.metrics.texture import texture
from nndiff.sampling.scoring import Figures, TrueTexture, compare, mean_of
from tests.conftest import make_phantom

BOUNDS = (0.0, 5.0)
SHAPE = (24, 24, 24)


def test_the_score_is_psnr_plus_twenty_ssim_minus_the_weighted_texture() -> None:
    figures = Figures(30.0, 0.9, 0.1, hf=0.5, texture_db=4.0)
    assert figures.score() == pytest.approx(48.0)
    assert figures.score(0.25) == pytest.approx(47.0)
    assert Figures(30.0, 0.9, 0.1).score(1.0) == pytest.approx(48.0)


def test_the_figures_are_those_of_the_metrics() -> None:
    truth = make_phantom(0, SHAPE, noise=0.3)
    estimate, mask = ndimage.gaussian_filter(truth, 0.7), truth > 0.2
    local = texture(estimate, truth, mask)
    found = compare(estimate[None], truth[None], [BOUNDS], mask, texture=True)
    assert found.psnr == image.psnr(estimate, truth, BOUNDS, mask)
    assert found.hf == image.high_frequency_ratio(estimate, truth, mask)
    assert (found.texture_db, found.hf_body) == (local.distance, local.body.fine)
    assert found.correlation_bias == local.correlation_bias
    assert math.isnan(found.hf_air)  # the mask is the body
    assert compare(estimate[None], truth[None], [BOUNDS], None, texture=True).hf_air == pytest.approx(
        texture(estimate, truth).air.fine
    )
    assert math.isnan(compare(estimate[None], truth[None], [BOUNDS], mask).texture_db)
    for masks in (mask, None):
        known = [TrueTexture.of(truth, masks)]
        shared = compare(estimate[None], truth[None], [BOUNDS], masks, texture=True, known=known)
        alone = compare(estimate[None], truth[None], [BOUNDS], masks, texture=True)
        assert str(shared) == str(alone)  # NaN equals NaN


def test_a_channel_without_texture_does_not_count_but_one_without_numbers_does() -> None:
    truth = np.stack([make_phantom(0, SHAPE, noise=0.3), np.zeros(SHAPE, np.float32)])  # [C, Z, Y, X]
    estimate = truth + np.float32(0.1) * np.random.default_rng(0).standard_normal(truth.shape, np.float32)
    found = compare(estimate, truth, [BOUNDS] * 2, None, texture=True)
    assert found.texture_db == texture(estimate[0], truth[0]).distance
    estimate[1, 0] = np.nan
    assert math.isnan(compare(estimate, truth, [BOUNDS] * 2, None).score())
    assert math.isnan(mean_of([]))


def test_noise_in_the_air_costs_more_than_the_same_noise_in_the_body() -> None:
    """Both have the same PSNR; the power of the whole volume is the same, too."""
    truth = make_phantom(0, (32, 32, 32), noise=0.3)
    noise = np.random.default_rng(1).standard_normal(truth.shape).astype(np.float32)
    body = truth > 0.5
    inside, outside = (noise * where / np.sqrt(np.square(noise[where]).sum()) * 10 for where in (body, ~body))
    found = [compare((truth + e)[None], truth[None], [(-9.0, 9.0)], None, texture=True) for e in (inside, outside)]
    assert found[0].psnr == pytest.approx(found[1].psnr, abs=0.01)
    assert found[1].hf_air > 10 > 2 > found[0].hf_air
    assert found[1].texture_db > found[0].texture_db + 2
