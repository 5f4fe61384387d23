"""Tests of the grid index: it detects synthetic artefacts and is near zero without them."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from scipy import ndimage

from nndiff.metrics.grid import grid_index, null, powers

TWO, FOUR, FLAT = (2, 2, 2), (4, 4, 4), (1, 2, 2)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(rng.normal(size=(32, 36, 40)), 1.0).astype(np.float32)
    return truth + 0.1 * rng.normal(size=truth.shape).astype(np.float32), truth


def stripes(shape, r, phase):
    field = np.zeros(shape, np.float32)
    field[..., phase::r] = 1
    return field


@pytest.mark.parametrize("factor", [TWO, FOUR, FLAT])
def test_without_a_grid_it_reads_what_chance_reads(pair, factor) -> None:
    _, truth = pair
    rows = []
    for seed in range(5):
        noise = 0.1 * np.random.default_rng(seed).normal(size=truth.shape).astype(np.float32)
        found, chance = grid_index(truth + noise, truth, factor), null(truth + noise, truth, factor)
        rows.append((found.phase_bias / chance.phase_bias, found.phase_imbalance / chance.phase_imbalance))
    assert np.all(np.median(rows, axis=0) < 1)
    assert abs(grid_index(*pair, factor).excess_power) < 0.5


@pytest.mark.parametrize("factor", [TWO, FOUR])
def test_one_phase_too_bright_is_a_bias_and_a_line_in_the_spectrum(pair, factor) -> None:
    estimate, truth = pair
    found = grid_index(estimate + 0.3 * stripes(truth.shape, factor[0], 1), truth, factor)
    assert found.phase_bias > 20 * null(*pair, factor).phase_bias
    assert found.excess_power > 10


@pytest.mark.parametrize("factor", [TWO, (1, 3, 5), (4, 1, 2)])
def test_the_index_is_its_definition_written_out(pair, factor) -> None:
    estimate, truth = (array[:31, :35, :38] for array in pair)
    error, rows = estimate.astype(float) - truth, []
    for axis, r in enumerate(factor):
        if r == 1:
            continue
        phases = [np.take(error, range(k, error.shape[axis], r), axis) for k in range(r)]
        sizes = np.array([np.sqrt(np.square(phase).mean()) for phase in phases])
        bias = np.std([phase.mean() for phase in phases]) / np.sqrt(np.square(error).mean())
        n, excess = error.shape[axis] // r * r, []
        spectra = []
        for array in (estimate, truth):
            lines = np.take(array, range(n), axis).astype(float)
            spectrum = np.square(np.abs(np.fft.fft(lines - lines.mean(), axis=axis))).mean(axis=(*{0, 1, 2} - {axis},))
            spectra.append(spectrum[: n // 2 + 1] + 1e-12 * spectrum.max())
        for j in range(1, r // 2 + 1):
            around = [j * n // r + d for d in (-3, -2, -1, 1, 2, 3) if 0 < j * n // r + d <= n // 2]
            a, b = (spectrum[j * n // r] / spectrum[around].mean() for spectrum in spectra)
            excess.append(a / b - 1)
        rows.append((bias, np.ptp(sizes) / sizes.mean(), max(excess)))
    found = astuple(grid_index(estimate, truth, factor))
    assert found == pytest.approx(np.max(rows, axis=0), rel=1e-9)
    assert astuple(grid_index(estimate, truth, factor, powers(truth, factor))) == found


def test_alternating_signs_are_seen_too(pair) -> None:
    estimate, truth = pair
    sign = np.where(np.arange(truth.shape[2]) % 2, 0.3, -0.3).astype(np.float32)
    found = grid_index(estimate + sign, truth, TWO)
    assert found.phase_bias > 0.5
    assert found.excess_power > 10


def test_one_phase_too_noisy_is_an_imbalance(pair) -> None:
    estimate, truth = pair
    noise = np.random.default_rng(1).normal(size=truth.shape).astype(np.float32)
    found = grid_index(estimate + 0.2 * noise * stripes(truth.shape, 2, 0), truth, TWO)
    assert found.phase_imbalance > 5 * null(*pair, TWO).phase_imbalance


def test_axes_without_a_puzzle_do_not_count(pair) -> None:
    estimate, truth = pair
    turned = stripes(truth.shape[::-1], 2, 1).transpose(2, 1, 0)
    spoilt = estimate + 0.3 * turned
    assert grid_index(spoilt, truth, FLAT).phase_bias < 0.05 < grid_index(spoilt, truth, TWO).phase_bias
    assert grid_index(spoilt, truth, (1, 1, 1)) == grid_index(truth, truth, (1, 1, 1))


def test_null_is_what_95_of_100_random_orders_of_the_planes_stay_below() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(12, 12, 16)).astype(np.float32)
    slope = np.linspace(-1, 1, 16)  # which planes in their own order would not show as a bias
    error = (rng.normal(size=truth.shape) + slope + slope[:12, None] + slope[:12, None, None]).astype(np.float32)
    chance = null(truth + error, truth, TWO, draws=150)
    rows = []
    for _ in range(150):
        z, y, x = (rng.permutation(n) for n in error.shape)
        found = grid_index(truth + error[z][:, y][:, :, x], truth, TWO)
        rows.append((found.phase_bias < chance.phase_bias, found.phase_imbalance < chance.phase_imbalance))
    np.testing.assert_allclose(np.mean(rows, axis=0), 0.95, atol=0.04)
    assert chance.excess_power == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_null_does_not_see_the_grid_itself(pair, axis: int) -> None:
    estimate, truth = pair
    planes = np.arange(truth.shape[axis]).reshape([-1 if i == axis else 1 for i in range(3)])
    spoilt = estimate + np.where(planes % 2, 0.3, -0.3).astype(np.float32)
    assert null(spoilt, truth, TWO).phase_bias < 0.6 * grid_index(spoilt, truth, TWO).phase_bias


def test_an_axis_of_fewer_than_four_pieces_has_no_spectrum() -> None:
    array = np.random.default_rng(0).normal(size=(15, 16, 19)).astype(np.float32)
    assert [power is None for power in powers(array, FOUR)] == [True, False, False]
    assert [power is None for power in powers(array, (1, 2, 5))] == [True, False, True]
