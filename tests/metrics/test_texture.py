"""Tests of the local texture: laws of the ratios and the distance on made bodies whose noise is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from nndiff.metrics import texture as module
from nndiff.metrics.image import high_frequency_ratio
from nndiff.metrics.texture import AIR, BODY, HOT, NOWHERE, Bands, Reference, Texture, regions_of, texture
from nndiff.words.volume import FloatArray

SHAPE = (40, 48, 52)
GRAIN = 0.8  # voxels: the σ of the filter that correlates the noise


def smooth_body(shape=SHAPE) -> FloatArray:
    """Return an ellipsoid of value 1 with a hot sphere of value 4, in air of exactly 0."""
    z, y, x = (np.linspace(-1, 1, n) for n in shape)
    radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    hot = np.sqrt((z[:, None, None] - 0.1) ** 2 + (y[:, None] + 0.1) ** 2 + x**2) < 0.25
    levels = np.where(radius < 0.7, 1.0, 0.0) + 3.0 * hot
    body: FloatArray = ndimage.gaussian_filter(levels, 0.8, truncate=2).astype(np.float32)
    return body


def grain(seed: int, sigma: float = GRAIN, shape=SHAPE) -> FloatArray:
    """Return noise of standard deviation 1 with Gaussian-correlated neighbours; σ 0 is white noise."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma, mode="wrap")
    scaled: FloatArray = (noise / noise.std()).astype(np.float32)
    return scaled


def drawn(seed: int, sigma: float = GRAIN) -> FloatArray:
    """Return the body with noise in proportion to its values, and therefore none in the air."""
    body = smooth_body()
    image: FloatArray = body * (1 + np.float32(0.2) * grain(seed, sigma))
    return image


@pytest.fixture(scope="module")
def truth() -> FloatArray:
    return drawn(0)


def ratios(found: Texture) -> list[float]:
    return [ratio for region in (found.air, found.body, found.hot) for ratio in region.defined]


def distance(estimate: FloatArray, truth: FloatArray) -> float:
    found = texture(estimate, truth).distance
    assert found is not None
    return found


def of_equal_total(truth: FloatArray) -> FloatArray:
    """Return the blurred truth with white noise everywhere that restores the total power at high frequencies."""
    blurred, white = ndimage.gaussian_filter(truth, 1.0), grain(7, 0.0)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = np.float32((low + high) / 2)
        below = high_frequency_ratio(blurred + middle * white, truth) < 1
        low, high = (float(middle), high) if below else (low, float(middle))
    return blurred + np.float32(low) * white


# ---------------------------------------------------------------- the distance


def test_the_truth_is_at_no_distance_from_itself(truth) -> None:
    found = texture(truth.copy(), truth)
    assert ratios(found) == [1.0] * 8  # the hot region has too few voxels for the coarse band
    assert (found.correlation_bias, found.distance) == (0.0, 0.0)


@pytest.mark.parametrize("seed", [1, 2])
def test_law_an_independent_draw_of_the_same_covariance_is_near(truth, seed) -> None:
    found = texture(drawn(seed), truth)
    assert ratios(found) == pytest.approx([1.0] * 8, rel=0.3)
    assert found.body.fine == pytest.approx(1.0, rel=0.05)
    assert found.body.coarse == pytest.approx(1.0, rel=0.1)
    assert found.correlation == pytest.approx(found.true_correlation, abs=0.03)
    assert found.distance < 0.5


def test_white_noise_of_the_right_total_power_is_far(truth) -> None:
    """The case that the power of the whole volume cannot see."""
    estimate = of_equal_total(truth)
    assert high_frequency_ratio(estimate, truth) == pytest.approx(1.0, abs=0.01)
    found = texture(estimate, truth)
    assert found.air.fine > 100
    assert found.hot.fine < 0.7
    assert found.correlation < found.true_correlation - 0.2
    blurred = distance(ndimage.gaussian_filter(truth, 1.0), truth)
    assert found.distance > blurred > 10 * distance(drawn(1), truth)


def test_white_grain_of_the_right_power_in_the_right_place_is_told_by_its_correlation(truth) -> None:
    body = smooth_body()
    fine = texture(drawn(1, sigma=0.0), truth).body.fine
    estimate = body + (drawn(1, sigma=0.0) - body) / np.float32(np.sqrt(fine))
    found = texture(estimate, truth)
    assert found.body.fine == pytest.approx(1.0, rel=0.15)
    assert found.correlation_bias < -0.2
    correlation = module.CORRELATION_IN_DB * abs(found.correlation_bias)
    powers = sum(map(module.decibels, ratios(found))) / len(ratios(found))
    assert found.distance == pytest.approx(powers + correlation)
    assert correlation > 2


def test_the_figures_are_their_definition_written_out(truth) -> None:
    """With scipy's filters in float64."""
    estimate, regions = of_equal_total(truth), regions_of(truth)
    bands = []
    for array in (estimate, truth):
        levels = [array.astype(float)]
        for sigma in (1.0, np.sqrt(3), np.sqrt(12)):
            levels.append(ndimage.gaussian_filter(levels[-1], sigma, mode="reflect", truncate=3))
        bands.append([sharp - smooth for sharp, smooth in pairwise(levels)])
    found = texture(estimate, truth)
    for region, name in ((AIR, found.air), (BODY, found.body), (HOT, found.hot)):
        for k, ratio in enumerate(name.defined):
            floor = 1e-4 * bands[1][k][regions == BODY].var()
            p, q = (each[k][regions == region].var() + floor for each in bands)
            assert ratio == pytest.approx(p / q, rel=1e-5)
    for band, correlation in zip(bands, (found.correlation, found.true_correlation), strict=True):
        inside, rows = regions == BODY, []
        fine = band[0] - band[0][inside].mean()
        for axis in range(3):
            a, b = (np.moveaxis(array, axis, 0) for array in (fine, inside))
            both = b[1:] & b[:-1]
            x, y = a[1:][both], a[:-1][both]
            rows.append((x @ y) / np.sqrt((x @ x) * (y @ y)))
        assert correlation == pytest.approx(np.mean(rows), abs=1e-6)
    assert texture(estimate, truth, None, Reference.of(truth)) == found


# ---------------------------------------------------------------- the ratios


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0])
def test_law_blur_loses_the_finest_band_the_most(truth, sigma) -> None:
    found = texture(ndimage.gaussian_filter(truth, sigma), truth)
    assert found.body.fine < found.body.middle < found.body.coarse < 1
    assert found.hot.fine < found.hot.middle < 1
    assert found.correlation > found.true_correlation


@pytest.mark.parametrize("k", [0.5, 3.0])
def test_law_an_amplitude_of_k_is_a_power_of_k_squared(truth, k) -> None:
    found = texture(np.float32(k) * truth, truth)
    for region in (found.body, found.hot):
        assert region.defined == pytest.approx([k**2] * len(region.defined), rel=1e-3)
    assert found.correlation == pytest.approx(found.true_correlation, abs=1e-4)


def test_law_units_do_not_matter(truth) -> None:
    """The same figures in SUV, in HU and in network units."""
    estimate = drawn(1) + np.float32(0.05) * grain(2)
    expected = texture(estimate, truth)
    for scale, offset in ((500.0, -1000.0), (0.02, 0.3)):
        found = texture(*(np.float32(scale) * image + np.float32(offset) for image in (estimate, truth)))
        assert ratios(found) == pytest.approx(ratios(expected), rel=2e-2)
        assert found.distance == pytest.approx(expected.distance, rel=1e-3)


def test_law_flips_and_swapped_axes_change_nothing(truth) -> None:
    estimate = of_equal_total(truth)
    expected = texture(estimate, truth)
    others = [[np.flip(image, axis) for image in (estimate, truth)] for axis in range(3)]
    others.append([image.transpose(2, 0, 1) for image in (estimate, truth)])
    for pair in others:
        found = texture(*pair)
        assert ratios(found) == pytest.approx(ratios(expected), rel=1e-4)
        assert found.correlation == pytest.approx(expected.correlation, abs=1e-5)


def test_law_the_position_in_the_air_changes_nothing(truth) -> None:
    images = drawn(1), truth
    expected = texture(*images)
    found = texture(*(np.roll(image, (2, -3, 4), (0, 1, 2)) for image in images))
    assert ratios(found)[3:] == pytest.approx(ratios(expected)[3:], rel=1e-3)
    assert found.correlation == pytest.approx(expected.correlation, abs=1e-5)


def test_the_bands_add_up_to_the_image_and_each_passes_its_octave() -> None:
    noise = grain(3, 0.0)
    levels = module._levels(noise)
    np.testing.assert_allclose(sum(module._bands(levels)) + levels[-1], noise, atol=1e-5)
    for level, sigma in zip(levels[1:], module.SIGMAS, strict=True):
        exact = ndimage.gaussian_filter(noise, sigma, truncate=6)
        assert np.abs(level - exact).max() < 0.05 * exact.std()
    x = np.arange(64, dtype=np.float32)
    for k, frequency in enumerate((0.4, 0.15, 0.075)):
        wave = np.broadcast_to(np.cos(2 * np.pi * frequency * x), (64, 64, 64)).astype(np.float32)
        powers = [float(band[:, :, 12:-12].var()) for band in module._bands(module._levels(wave))]
        assert int(np.argmax(powers)) == k


def test_the_correlation_is_that_of_neighbours_along_every_axis() -> None:
    """Of white noise: the autocovariance of δ - g₁ at 1 over that at 0, a small negative number."""
    noise = grain(4, 0.0)
    kernel = np.zeros((21, 21, 21), np.float32)
    kernel[10, 10, 10] = 1
    kernel -= ndimage.gaussian_filter(kernel, 1.0, truncate=module.TRUNCATE)
    expected = float((kernel[1:] * kernel[:-1]).sum() / np.square(kernel).sum())
    found = module._correlation(module._levels(noise), np.ones(SHAPE, bool))
    assert found == pytest.approx(expected, abs=0.01)
    raised = [noise - module._levels(noise)[1] + np.float32(5), np.zeros_like(noise)]  # a mean is no correlation
    assert module._correlation(raised, np.ones(SHAPE, bool)) == pytest.approx(found, abs=1e-4)
    lines = np.repeat(noise[:, :, ::2], 2, axis=2)  # equal pairs along one axis alone
    one = module._correlation(module._levels(lines), np.ones(SHAPE, bool))
    assert one > found + 0.1


def test_the_power_is_a_variance_so_that_a_bright_region_is_not_texture() -> None:
    noise, regions = grain(6), np.full(SHAPE, HOT, np.int8)
    regions[:20] = AIR
    zero = np.zeros(SHAPE, np.float32)
    expected = [0.0, float(noise[:20].var()), 0.0, float(noise[20:].var())]
    for offset in (0, 3):
        (powers,) = module._powers([noise + np.float32(offset), zero], regions)
        assert powers == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------- regions


def test_the_regions_are_those_of_the_body(truth) -> None:
    regions, body = regions_of(truth), smooth_body()
    assert (body[regions == AIR] == 0).all()
    assert ndimage.gaussian_filter(body, 2)[regions == BODY].min() > 0.15
    hot, inside = int((regions == HOT).sum()), int((regions >= BODY).sum())
    assert hot == pytest.approx(module.HOT_SHARE * inside, rel=0.01)
    assert np.median(body[regions == HOT]) > 2
    surface = ndimage.maximum_filter(regions >= BODY, 2 * module.MARGIN + 1) & (regions < BODY)
    assert (regions[surface] == NOWHERE).all()


def test_the_margin_is_a_cube(truth) -> None:
    body = np.random.default_rng(0).random((5, 30, 31)) < 0.001
    expected = ndimage.maximum_filter(body, 2 * module.MARGIN + 1, mode="constant")
    np.testing.assert_array_equal(module._near(body), expected)
    assert 0 < np.count_nonzero(body) < np.count_nonzero(expected) < body.size


def test_the_threshold_of_two_classes_is_skimages(truth) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 9000), rng.normal(4, 1, 1000)]).astype(np.float32)
    for each in (values, np.minimum(truth, 1.5)):
        width = float(np.ptp(each)) / module.BINS
        assert module._otsu(each) == pytest.approx(threshold_otsu(each, nbins=module.BINS), abs=width)


def test_a_hot_bladder_does_not_hide_the_body(truth) -> None:
    """A fiftieth of the body has a hundred times its uptake, as in PET; a plain Otsu threshold keeps only that."""
    bright = truth + np.float32(100) * (smooth_body() > 3.5)
    cold = (smooth_body() > 0.5) & (regions_of(bright) != AIR)
    assert (regions_of(bright)[cold] >= BODY).mean() > 0.95


def test_what_lies_outside_the_mask_does_not_count(truth) -> None:
    mask = ndimage.binary_dilation(smooth_body() > 0.5, iterations=9)
    mask[:15] = False
    estimate = of_equal_total(truth)
    expected = texture(estimate, truth, mask)
    spoilt = np.where(mask, estimate, 50).astype(np.float32)
    assert texture(spoilt, truth, mask) == expected
    regions = regions_of(truth, mask)
    assert (regions[~mask] == NOWHERE).all()
    assert expected.air.fine is not None
    assert expected != texture(estimate, truth)


def test_a_mask_of_the_body_leaves_no_air(truth) -> None:
    found = texture(drawn(1), truth, smooth_body() > 0.5)
    assert found.air == Bands()
    assert len(ratios(found)) == 5
    assert found.distance < 1


def test_air_of_exactly_zero_divides_nothing_by_zero(truth) -> None:
    assert truth[regions_of(truth) == AIR].max() == 0
    clean = texture(drawn(1), truth)
    assert clean.air.fine == pytest.approx(1.0, abs=0.01)
    amplitude = texture(truth + np.float32(0.002) * grain(5, 0.0), truth)  # 1 % of the amplitude in the body
    assert 1 < amplitude.air.fine < 4
    loud = texture(truth + np.float32(0.2) * grain(5, 0.0), truth)
    assert 1000 < loud.air.fine < 1e5
    assert module.decibels(loud.air.fine) == module.LIMIT_DB


@pytest.mark.parametrize("amplitude", [0.0, 1e-4])
def test_a_mean_without_grain_is_limited_and_has_no_correlation(truth, amplitude) -> None:
    flat = np.full_like(truth, truth.mean()) + np.float32(amplitude) * grain(5, 0.0)
    found = texture(flat, truth)
    assert found.correlation is None
    assert found.body.fine == pytest.approx(module.FLOOR, rel=0.01)
    assert 15 < found.distance <= module.LIMIT_DB
    assert module.decibels(0.0) == module.decibels(np.inf) == module.decibels(np.nan) == module.LIMIT_DB


@pytest.mark.parametrize("value", [0.0, 1000.0])
def test_a_constant_truth_has_no_texture(value) -> None:
    constant = np.full(SHAPE, value, np.float32)
    assert texture(drawn(1), constant) == Texture()
    assert Texture().distance is None
    assert texture(constant, drawn(1)).body.defined


def test_a_flat_body_under_a_mask_has_no_texture() -> None:
    flat = np.where(smooth_body() > 0.5, 700, -1000).astype(np.float32)
    mask = ndimage.binary_erosion(flat > 0, iterations=10)
    assert mask.sum() > 100
    assert texture(flat + grain(1), flat, mask) == Texture()
    assert texture(flat + grain(1), flat).body.fine > 1


def test_a_range_of_a_few_rounding_errors_is_divided_into_regions() -> None:
    """Float32 cannot hold the 257 edges of Otsu's histogram between such values."""
    images = [np.float32(1000) + np.float32(2e-3) * drawn(seed) for seed in (1, 0)]
    assert texture(*images).distance is not None


@pytest.mark.parametrize("axis", range(3))
def test_a_single_slice_is_measured(truth, axis) -> None:
    pair = [np.take(image, [image.shape[axis] // 2], axis) for image in (drawn(1), truth)]
    found = texture(*pair)
    assert found.body.fine == pytest.approx(1.0, rel=0.5)
    assert 0 < found.true_correlation < 1


@pytest.mark.parametrize("shape", list(product((1, 3), repeat=3)))
def test_a_volume_too_small_for_a_region_has_none(shape) -> None:
    images = (np.random.default_rng(seed).random(shape, np.float32) for seed in (0, 1))
    assert texture(*images) == Texture()


def test_a_body_has_texture_from_as_many_voxels_on_as_the_finest_band_needs() -> None:
    found = Reference.of(drawn(0))
    for voxels, enough in ((module.LEAST_VOXELS[0] - 1, False), (module.LEAST_VOXELS[0], True)):
        sizes = found.sizes.copy()
        sizes[BODY] = voxels
        assert replace(found, sizes=sizes).has_texture is enough
