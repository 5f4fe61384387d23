"""Tests of the statistics of one case, against numpy and against cases with known results."""

import numpy as np
import pytest

from nndiff.data import statistics
from nndiff.data.statistics import channel_statistics, foregrounds, links, noise_share, samples, tidy
from nndiff.imaging.crop import foreground
from nndiff.imaging.normalize import Affine
from nndiff.words.kind import CT, MR, PET
from nndiff.words.volume import Grid, Volume
from tests.conftest import make_phantom

SHAPE = (24, 24, 24)
EVERYWHERE = np.ones(SHAPE, dtype=bool)


def white(seed=0, sigma=1.0):
    return (sigma * np.random.default_rng(seed).standard_normal(SHAPE)).astype(np.float32)


def volume(*channels):
    array = np.stack(channels).astype(np.float32)
    return Volume(array, Grid(array.shape[1:], (2.0, 2.0, 2.0), (0.0, 0.0, 0.0)))


# ---------------------------------------------------------------- noise or structure


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sigma", [0.02, 1.0])
def test_white_noise_is_noise(seed, sigma):
    x = make_phantom(seed, SHAPE)
    assert noise_share(x + white(seed, sigma), x, EVERYWHERE) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "change", [lambda x: 1.3 * x, lambda x: -x + 2, lambda x: np.sqrt(x)], ids=["gain", "minus", "root"]
)
def test_a_change_of_contrast_is_structure(seed, change):
    x = make_phantom(seed, SHAPE)
    assert noise_share(change(x), x, EVERYWHERE) < 0.2  # a root is infinitely steep at 0


def test_noise_that_is_structured_in_itself_lies_between():
    x = make_phantom(0, SHAPE)
    y = 1.2 * x + white(0, 0.15)
    assert 0.1 < noise_share(y, x, EVERYWHERE) < 0.95


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_no_difference_or_a_constant_one_is_no_noise(shift):
    x = make_phantom(0, SHAPE)
    assert noise_share(x + np.float32(shift), x, EVERYWHERE) == pytest.approx(0, abs=0.01)


def test_noise_counts_where_the_mask_says():
    x = make_phantom(0, SHAPE)
    where = foreground(x, PET)
    y = np.where(where, x + white(), x + 100)
    assert noise_share(y, x, where) > 0.8
    z = np.where(where, 1.2 * x, x + 100 * white())
    assert noise_share(z, x, where) < 0.1


def test_the_share_that_smoothing_keeps_of_white_noise():
    from scipy import ndimage

    noise = np.random.default_rng(0).standard_normal((64, 64, 64))
    kept = ndimage.gaussian_filter(noise, statistics.SMOOTHING, mode="wrap").var() / noise.var()
    assert kept == pytest.approx(statistics.KEPT, rel=0.1)


# ---------------------------------------------------------------- links


def test_the_moments_of_both_sides_give_back_the_rmse():
    """rmse² = (mean_y - mean_x)² + σ_y² + σ_x² - 2 r σ_y σ_x under one affine map: planning relies on it."""
    x = make_phantom(0, SHAPE)
    y = np.clip(0.9 * x + white(1, 0.2), 0, None)
    source, target = volume(y), volume(x)
    inside = foregrounds(source, [PET]), foregrounds(target, [PET])
    ((link,),) = links(source, target, ([PET], [PET]), inside)
    peak = np.percentile(y, 99.99)
    square = (link.source_mean - link.target_mean) ** 2 + link.source_std**2 + link.target_std**2
    square -= 2 * link.correlation * link.source_std * link.target_std
    assert link.rmse == pytest.approx(np.sqrt(square) / peak, rel=1e-3)
    where = inside[0][0] | inside[1][0]
    assert link.rmse == pytest.approx(np.sqrt(np.mean((y - x)[where].astype(float) ** 2)) / peak, rel=1e-4)
    assert link.correlation == pytest.approx(np.corrcoef(y[where], x[where])[0, 1], abs=1e-4)
    assert link.source_std == pytest.approx(y[where].std(), rel=1e-4)


def test_links_are_by_target_then_source():
    x = make_phantom(0, SHAPE)
    source, target = volume(x, -x, white()), volume(x, -x)
    kinds = [MR] * 3, [MR] * 2
    rows = links(source, target, kinds, (foregrounds(source, kinds[0]), foregrounds(target, kinds[1])))
    assert [len(row) for row in rows] == [3, 3]
    signs = [[round(link.correlation) for link in row] for row in rows]
    assert signs == [[1, -1, 0], [-1, 1, 0]]
    assert links(None, target, ([], [MR] * 2), ([], [])) == ()
    shares = [link.noise_share for row in rows for link in row]
    assert shares == [round(share, 3) for share in shares], "it is written with three decimals"


def test_each_side_of_another_kind_has_its_own_map():
    ct, pet = make_phantom(0, SHAPE, "ct"), make_phantom(0, SHAPE)
    ((link,),) = links(volume(ct), volume(pet), ([CT], [PET]), ([EVERYWHERE], [EVERYWHERE]))
    y, x = Affine(4095 / 2, -1024 + 4095 / 2).forward(ct), pet / np.percentile(pet, 99.99)
    assert link.rmse == pytest.approx(np.sqrt(np.mean((y - x) ** 2)), rel=1e-3)


def test_a_channel_without_range_breaks_nothing():
    flat = volume(np.zeros(SHAPE))
    ((link,),) = links(flat, volume(make_phantom(0, SHAPE)), ([PET], [PET]), ([EVERYWHERE], [EVERYWHERE]))
    assert link.correlation == 0
    assert np.isfinite(link.rmse)


# ---------------------------------------------------------------- one channel


def test_statistics_against_numpy():
    channel = make_phantom(3, SHAPE, "mr", noise=0.2)
    mask = channel > 50
    row = channel_statistics(channel, channel[mask], mask.mean())
    values = channel[mask].astype(np.float64)
    assert row.minimum == pytest.approx(channel.min(), rel=1e-5)
    assert row.maximum == pytest.approx(channel.max(), rel=1e-5)
    assert row.peak == pytest.approx(np.percentile(channel, 99.99), rel=1e-5)
    assert (row.mean, row.std) == (pytest.approx(values.mean(), rel=1e-5), pytest.approx(values.std(), rel=1e-5))
    assert row.foreground == pytest.approx(mask.mean(), abs=1e-4)
    assert list(row.percentiles) == ["0.5", "1", "5", "25", "50", "75", "95", "99", "99.5"]
    for name, value in row.percentiles.items():
        assert value == pytest.approx(np.percentile(values, float(name)), rel=1e-4)


def test_means_do_not_drift_in_float32():
    channel = np.full((128, 128, 128), 1000.1, dtype=np.float32)
    row = channel_statistics(channel, channel.ravel(), 1.0)
    assert row.mean == pytest.approx(1000.1, rel=1e-6)
    assert row.std < 1e-3


def test_samples_are_as_many_from_every_case_and_span_it():
    x = make_phantom(0, SHAPE)
    masks = [x > 0.5, EVERYWHERE]
    drawn = samples(volume(x, x), masks)
    assert drawn.shape == (2, statistics.POOLED_SAMPLES)
    assert np.isin(drawn[0], x[masks[0]]).all()
    assert drawn[0].mean() == pytest.approx(x[masks[0]].mean(), rel=0.02)
    assert (drawn[1][0], drawn[1][-1]) == (x.flat[0], x.flat[-1])
    assert samples(None, []).shape == (0, statistics.POOLED_SAMPLES)


def test_an_empty_foreground_becomes_the_whole_volume():
    air = np.full(SHAPE, -1000.0)
    air[0, 0, 0] = -999.0
    (mask,) = foregrounds(volume(air), [CT])
    assert mask.all()


@pytest.mark.parametrize(
    ("value", "kept"), [(1 / 3, 0.333333), (123456.789, 123457.0), (np.float32(0.1), 0.1), (0, 0.0)]
)
def test_six_digits_are_kept(value, kept):
    assert tidy(value) == kept
    assert type(tidy(value)) is float
