"""Tests of the fidelity metrics against skimage, hand-computed arrays and their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.signal import fftconvolve
from skimage.metrics import structural_similarity

from nndiff.metrics import image
from nndiff.words.kind import SYNTHRAD_RANGES

CT = SYNTHRAD_RANGES["2025"]


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(rng.normal(size=(24, 26, 28)), 1.5).astype(np.float32)
    truth = (truth / np.abs(truth).max() * 900).astype(np.float32)
    return (truth + rng.normal(0, 60, truth.shape)).astype(np.float32), truth


def terms(a, b, span):
    """Return luminance, contrast and structure of the windows of whole arrays."""
    mean = lambda x: ndimage.uniform_filter(x, 7)  # noqa: E731
    ma, mb = mean(a), mean(b)
    n = 343 / 342
    va, vb, cab = n * (mean(a * a) - ma**2), n * (mean(b * b) - mb**2), n * (mean(a * b) - ma * mb)
    sd = np.sqrt(np.maximum(va, 0) * np.maximum(vb, 0))
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    return [
        (2 * ma * mb + c1) / (ma**2 + mb**2 + c1),
        (2 * sd + c2) / (va + vb + c2),
        (cab + c2 / 2) / (sd + c2 / 2),
    ]


def test_by_hand() -> None:
    truth = np.zeros((2, 2, 2), np.float32)
    estimate = truth.copy()
    estimate[0, 0, 0] = 8.0
    mask = np.zeros((2, 2, 2), bool)
    mask[0] = True
    assert image.mae(estimate, truth) == 1.0
    assert image.mae(estimate, truth, mask) == 2.0
    assert image.psnr(estimate, truth, (0.0, 10.0)) == pytest.approx(10 * math.log10(100 / 8))
    assert image.nrmse(truth + 1, truth + 2) == 0.5


def test_psnr_clips_and_mae_does_not() -> None:
    truth, estimate = np.full((4, 4, 4), 3071.0, np.float32), np.full((4, 4, 4), 5000.0, np.float32)
    assert image.psnr(estimate, truth, CT) == math.inf
    assert image.mae(estimate, truth) == 5000 - 3071


def test_ssim_is_skimages(pair) -> None:
    estimate, truth = pair
    expected = structural_similarity(
        truth.astype(float) + 1024, estimate.astype(float) + 1024, win_size=7, data_range=4095
    )
    assert image.ssim(estimate, truth, CT) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(24, 26, 28), (9, 150, 8), (3, 20, 30), (1, 2, 40)])
@pytest.mark.parametrize("bounds", [CT, (0.0, 500.0), (10.0, 300.0)])
def test_ssim_against_the_definition_written_out(shape, bounds) -> None:
    """Over whole arrays, with a mask, in long planes and along axes without a complete window."""
    rng = np.random.default_rng(3)
    truth = rng.normal(0, 300, shape).astype(np.float32)
    estimate = truth + rng.normal(0, 100, shape).astype(np.float32)
    mask = rng.random(shape) < 0.7
    a, b = (np.where(mask, np.clip(x.astype(float), *bounds), bounds[0]) - min(0, bounds[0]) for x in (estimate, truth))
    score = np.prod(terms(a, b, bounds[1] - bounds[0]), axis=0)
    core = tuple(slice(3, n - 3) if n > 6 else slice(None) for n in shape)
    assert image.ssim(estimate, truth, bounds, mask) == pytest.approx(score[core][mask[core]].mean(), abs=1e-11)


def test_both_similarities_at_once_are_those_of_each(pair, monkeypatch) -> None:
    estimate, truth = pair
    for smallest in (97, 17):  # with and without padding
        monkeypatch.setattr(image, "SMALLEST_AXIS", smallest)
        both = image.ssim_and_ms_ssim(estimate, truth, CT)
        assert both == (image.ssim(estimate, truth, CT), image.ms_ssim(estimate, truth, CT))


def test_what_lies_outside_the_mask_does_not_count(pair) -> None:
    estimate, truth = pair
    mask = np.zeros(truth.shape, bool)
    mask[5:19, 5:20, 5:22] = True
    spoilt = np.where(mask, estimate, 2000).astype(np.float32)
    for measure in (image.psnr, image.ssim, image.ms_ssim):
        assert measure(spoilt, truth, CT, mask) == pytest.approx(measure(estimate, truth, CT, mask))


def test_ms_ssim_against_the_definition_written_out(pair) -> None:
    """Five scales in plain loops, without the module's helpers."""
    estimate, truth = pair
    a, b = (np.clip(x.astype(float), *CT) + 1024 for x in (estimate, truth))
    pads = [((97 - n) // 2, 97 - n - (97 - n) // 2) for n in a.shape]
    a, b = np.pad(a, pads, "edge"), np.pad(b, pads, "edge")
    product = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            a, b = (fftconvolve(x, np.ones((2, 2, 2)) / 8, "same")[::2, ::2, ::2] for x in (a, b))
        parts = terms(a, b, 4095.0)
        score = np.prod([np.maximum(part, 0) ** weight for part in parts], axis=0)
        product *= np.clip(score[3:-3, 3:-3, 3:-3].mean(), 0, 1)
    assert image.ms_ssim(estimate, truth, CT) == pytest.approx(product, rel=1e-6)


def test_the_mean_of_two_looks_back_and_starts_from_nothing() -> None:
    line = np.arange(1.0, 9.0).reshape(1, 1, 8)
    halved = image._halved(np.broadcast_to(line, (2, 2, 8)).copy())
    # along x: (0+1)/2, (2+3)/2, (4+5)/2, (6+7)/2; along z and y the first plane has only itself over nothing: a quarter
    np.testing.assert_allclose(halved[0, 0], np.array([0.5, 2.5, 4.5, 6.5]) / 4)


@pytest.mark.parametrize("measure", [image.ssim, image.ms_ssim])
def test_a_perfect_estimate_scores_one(pair, measure) -> None:
    _, truth = pair
    assert measure(truth, truth, CT) == pytest.approx(1.0, abs=1e-9)


def test_blur_loses_and_noise_gains_high_frequencies(pair) -> None:
    estimate, truth = pair
    assert image.high_frequency_ratio(ndimage.gaussian_filter(truth, 1.0), truth) < 0.5
    assert image.high_frequency_ratio(estimate, truth) > 2
    assert image.high_frequency_ratio(truth, truth) == 1.0


@pytest.mark.parametrize(
    ("frequency", "high"),
    [
        ((0.2, 0.0, 0.0), False),
        ((0.3, 0.0, 0.0), True),
        ((0.0, 0.3, 0.0), True),
        ((0.0, 0.0, 0.2), False),
        ((0.2, 0.2, 0.0), True),
        ((0.1, 0.1, 0.1), False),
    ],
)
def test_a_wave_is_high_above_a_quarter_cycle_per_voxel_in_any_direction(frequency, high) -> None:
    places = np.stack(np.meshgrid(*(np.arange(40),) * 3, indexing="ij"))
    wave = np.cos(2 * np.pi * np.tensordot(frequency, places, 1))
    total = np.square(wave * np.einsum("i,j,k->ijk", *(np.hanning(42)[1:-1],) * 3)).sum() * wave.size / 2
    share = image.high_power(wave) / total
    assert (share > 0.95) if high else (share < 0.01)


def test_the_high_power_is_that_of_the_tapered_spectrum(pair) -> None:
    estimate, _ = pair
    mask = np.random.default_rng(1).random(estimate.shape) < 0.7
    inside = np.where(mask, estimate.astype(float), 0)
    taper = [np.hanning(n + 2)[1:-1] for n in inside.shape]
    spectrum = np.fft.rfftn((inside - inside.mean()) * np.einsum("i,j,k->ijk", *taper))
    axes = [np.fft.fftfreq(24), np.fft.fftfreq(26), np.fft.rfftfreq(28)]
    radius = np.sqrt(sum(np.square(f) for f in np.meshgrid(*axes, indexing="ij")))
    expected = np.square(np.abs(spectrum))[radius > 0.25].sum()
    assert image.high_power(estimate, mask) == pytest.approx(expected, rel=1e-10)
    half = image.high_frequency_ratio(estimate, estimate, mask, true_power=2 * expected)
    assert half == pytest.approx(0.5, rel=1e-10)
