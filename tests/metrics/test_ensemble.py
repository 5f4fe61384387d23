"""Tests of the CRPS against the integral that defines it, and of the uncertainty correlation against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nndiff.metrics import ensemble
from nndiff.metrics.ensemble import crps, uncertainty_correlation


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3, 4, 5)).astype(np.float32)
    return [rng.normal(0.3, 1.5, truth.shape).astype(np.float32) for _ in range(6)], truth


def test_by_hand() -> None:
    """Samples 0 and 4, truth 1: mean |x_k - x| = 2, mean |X - X'| over the two true pairs = 4."""
    samples = [np.full((1, 1, 1), value, np.float32) for value in (4.0, 0.0)]
    assert crps(samples, np.ones((1, 1, 1), np.float32)) == 2 - 4 / 2


def test_it_is_the_integral_of_the_squared_distance_of_distributions(drawn) -> None:
    """∫ (F(z) - 1[z ≥ x])² dz with F of the samples is the form that counts self-pairs; 1/(K-1) for 1/K mends that."""
    samples, truth = drawn
    k, z = len(samples), np.linspace(-9, 9, 200_001)
    expected = []
    for index in np.ndindex(truth.shape):
        values = np.array([float(sample[index]) for sample in samples])
        steps = np.searchsorted(np.sort(values), z, side="right") / k
        standard = np.trapezoid((steps - (z >= float(truth[index]))) ** 2, z)
        pairs = np.abs(values[:, None] - values[None]).sum()
        expected.append(standard + pairs / (2 * k * k) - pairs / (2 * k * (k - 1)))
    assert crps(samples, truth) == pytest.approx(np.mean(expected), abs=2e-4)


def test_it_does_not_depend_on_how_many_samples_are_drawn() -> None:
    """Of N(0, 1) with the truth at 0: √2/√π - 1/√π in closed form, for any K."""
    rng = np.random.default_rng(0)
    truth = np.zeros((50, 50, 40), np.float32)
    for k in (2, 8):
        samples = [rng.normal(size=truth.shape).astype(np.float32) for _ in range(k)]
        assert crps(samples, truth) == pytest.approx((math.sqrt(2) - 1) / math.sqrt(math.pi), abs=0.01)


def test_samples_that_all_agree_score_their_absolute_error(drawn) -> None:
    samples, truth = drawn
    assert crps([samples[0]] * 3, truth) == pytest.approx(np.abs(samples[0] - truth).mean())


@pytest.mark.parametrize("numbers", [1, 150, 1 << 22])
def test_slabs_change_nothing_and_the_mask_counts(drawn, monkeypatch, numbers) -> None:
    samples, truth = drawn
    mask = np.random.default_rng(1).random(truth.shape) < 0.5
    mask[1] = False
    expected = crps([sample[mask].reshape(1, 1, -1) for sample in samples], truth[mask].reshape(1, 1, -1))
    monkeypatch.setattr(ensemble, "SLAB_NUMBERS", numbers)
    assert crps(samples, truth, mask) == pytest.approx(expected)
    assert crps(samples, truth, mask) != pytest.approx(crps(samples, truth))


def test_samples_are_left_as_they_were(drawn) -> None:
    samples, truth = drawn
    before = [sample.copy() for sample in samples]
    crps(samples, truth)
    np.testing.assert_array_equal(samples, before)


def test_correlation_is_spearmans_with_ties(drawn) -> None:
    samples, truth = drawn
    deviation = np.round(np.abs(samples[1]), 1)
    expected = stats.spearmanr(deviation.ravel(), np.abs(samples[0] - truth).ravel()).statistic
    assert uncertainty_correlation(deviation, samples[0], truth) == pytest.approx(expected)


def test_correlation_counts_only_the_mask(drawn) -> None:
    samples, truth = drawn
    mask = np.zeros(truth.shape, bool)
    mask[0] = True
    error = np.abs(samples[0] - truth)
    deviation = np.where(mask, error**2, -error)
    assert uncertainty_correlation(deviation, samples[0], truth, mask) == pytest.approx(1.0)
    assert uncertainty_correlation(deviation, samples[0], truth) < 0.9


def test_a_constant_map_correlates_with_nothing(drawn) -> None:
    samples, truth = drawn
    assert math.isnan(uncertainty_correlation(np.ones_like(truth), samples[0], truth))
