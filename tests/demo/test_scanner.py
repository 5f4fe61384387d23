"""Tests of the simulated scanner against physics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nndiff.demo.bodies import random_body
from nndiff.demo.scanner import Scan, Scanner, acquire, ceiling

SCANNER = Scanner(32, 12.0, angles=24, subsets=4)
COUNTS = 2e5


@pytest.fixture(scope="module")
def body():
    return random_body(np.random.default_rng(0), (6, 32, 32), (20.0, 12.0, 12.0))


@pytest.fixture(scope="module")
def scan(body):
    return SCANNER.scan(body.activity, body.attenuation, COUNTS, np.random.default_rng(1))


def noiseless(body, scan: Scan) -> Scan:
    columns = body.activity.reshape(6, -1).T.astype(float)
    trues = scan.sensitivity * scan.survived * (SCANNER.projector @ columns)
    return Scan(trues + scan.background, scan.survived, scan.background, scan.sensitivity)


def test_a_disc_casts_the_shadow_that_geometry_says() -> None:
    axis = (np.arange(32) - 15.5) * 12.0
    y, x = np.meshgrid(axis, axis, indexing="ij")
    disc = np.clip((100 - np.hypot(y, x)) / 12.0 + 0.5, 0, 1)  # radius 100 mm
    shadow = (SCANNER.projector @ disc.ravel()).reshape(24, -1)
    bins = (np.arange(SCANNER.bins) - (SCANNER.bins - 1) / 2) * 12.0
    chord = 2 * np.sqrt(np.clip(100**2 - bins**2, 0, None))
    inside = np.abs(bins) < 80
    np.testing.assert_allclose(shadow[:, inside].mean(axis=0), chord[inside], rtol=0.03)
    np.testing.assert_allclose(shadow.sum(axis=1) * 12.0, disc.sum() * 144, rtol=1e-9)  # no count is lost at any angle


def test_counts_are_poisson(body, scan) -> None:
    expected = noiseless(body, scan).counts
    draws = np.stack(
        [SCANNER.scan(body.activity, body.attenuation, COUNTS, np.random.default_rng(s)).counts for s in range(60)]
    )
    seen = expected > 20
    assert draws.mean(axis=0)[seen].sum() == pytest.approx(expected[seen].sum(), rel=2e-3)
    assert np.mean(draws.var(axis=0, ddof=1)[seen] / expected[seen]) == pytest.approx(1.0, abs=0.02)


def test_what_is_expected_is_the_scan_without_chance(body, scan) -> None:
    expected = SCANNER.expected(body.activity, body.attenuation, COUNTS)
    np.testing.assert_allclose(expected.counts, noiseless(body, scan).counts, rtol=1e-12)
    trues = (expected.counts - expected.background).sum()
    assert trues == pytest.approx(COUNTS * 6)
    np.testing.assert_array_equal(expected.counted(np.random.default_rng(1)).counts, scan.counts)


def test_a_tenth_of_the_counts_has_ten_times_the_variance(body, scan) -> None:
    """So without noise the PSNR is about 9.5 dB higher than that of the low-count image: 9 variances against one."""
    expected = SCANNER.expected(body.activity, body.attenuation, COUNTS)
    clean = SCANNER.reconstruct(expected, body.grid)
    rows = []
    for seed in range(8):
        low, _, full = acquire(SCANNER, expected, body.grid, 0.1, np.random.default_rng(seed))
        variances = (np.var((image - clean)[body.inside]) for image in (low, full))
        rows.append((*variances, ceiling(clean, full) - ceiling(low, full)))
    of_low, of_full, gain = np.mean(rows, axis=0)
    assert of_low / of_full == pytest.approx(10, rel=0.1)
    assert gain == pytest.approx(9.5, abs=0.3)


def test_low_and_full_are_one_scan(body, scan) -> None:
    expected = SCANNER.expected(body.activity, body.attenuation, COUNTS)
    low, uncorrected, full = acquire(SCANNER, expected, body.grid, 0.1, generator := np.random.default_rng(1))
    np.testing.assert_array_equal(full, SCANNER.reconstruct(scan, body.grid))
    again = np.random.default_rng(1)
    thin = expected.counted(again).thinned(0.1, again)
    np.testing.assert_array_equal(low, SCANNER.reconstruct(thin, body.grid))
    np.testing.assert_array_equal(uncorrected, SCANNER.reconstruct(thin, body.grid, corrected=False))
    assert generator.random() == again.random()


def test_scatter_and_randoms_have_their_share_of_the_counts(body, scan) -> None:
    trues = noiseless(body, scan).counts - scan.background
    assert scan.background.sum() / trues.sum() == pytest.approx(0.4, abs=0.02)


def test_thinning_keeps_poisson_and_the_share(scan) -> None:
    thin = scan.thinned(0.1, np.random.default_rng(2))
    assert thin.counts.sum() == pytest.approx(0.1 * scan.counts.sum(), rel=5e-3)
    assert (thin.counts <= scan.counts).all()
    assert (thin.counts == np.round(thin.counts)).all()
    assert thin.sensitivity == pytest.approx(0.1 * scan.sensitivity)


def test_corrected_the_mean_activity_is_right_within_two_per_cent(body, scan) -> None:
    image = SCANNER.reconstruct(scan, body.grid)
    assert image[body.inside].mean() == pytest.approx(body.activity[body.inside].mean(), rel=0.02)


def test_uncorrected_the_middle_is_dark_and_the_skin_bright(body, scan) -> None:
    uncorrected = SCANNER.reconstruct(noiseless(body, scan), body.grid, corrected=False)
    ratio = uncorrected / np.maximum(body.activity, 0.2)
    depth = ndimage.distance_transform_edt(body.inside, sampling=body.grid.spacing)
    rim, core = body.inside & (depth <= 12), depth > 50
    assert np.median(ratio[rim]) > 2 * np.median(ratio[core])


def test_each_slice_costs_the_same_and_knows_nothing_of_the_others(body) -> None:
    """The projector sees one slice: a volume's scan without noise is its slices' scans."""
    columns = body.activity.reshape(6, -1).T.astype(float)
    whole = SCANNER.projector @ columns
    np.testing.assert_allclose(whole[:, 2:3], SCANNER.projector @ columns[:, 2:3])


def test_a_case_depends_on_its_seed_alone() -> None:
    def made(seed: int) -> np.ndarray:
        generator = np.random.default_rng([seed, 3])
        body = random_body(generator, (6, 32, 32), (20.0, 12.0, 12.0))
        expected = SCANNER.expected(body.activity, body.attenuation, COUNTS)
        return acquire(SCANNER, expected, body.grid, 0.1, generator)[0]

    np.testing.assert_array_equal(made(5), made(5))
    assert not np.array_equal(made(5), made(6))


def test_a_body_has_lesions_hotter_than_what_surrounds_them(body) -> None:
    assert body.lesions.any()
    assert body.activity[body.lesions].mean() > 2 * np.median(body.activity[body.inside])
    assert body.attenuation[~body.inside].max() < 0.006
