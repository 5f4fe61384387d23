import numpy as np
import pytest

from nndiff.imaging.normalize import Affine, Fixed, Maximum, Percentiles
from nndiff.words.errors import NndiffError

EVERYWHERE = np.ones((10, 10, 10), bool)


def test_affine_is_the_stated_equation() -> None:
    x = np.array([[[0.0, 10.0, 20.0]]], np.float32)
    assert Affine(scale=5.0, offset=10.0).forward(x).tolist() == [[[-2.0, 0.0, 2.0]]]
    assert Affine(scale=5.0, offset=10.0).inverse(Affine(5.0, 10.0).forward(x)).tolist() == x.tolist()


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 4), (2, 2, 3, 4)])
def test_affine_takes_any_shape(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    assert np.allclose(Affine(2.0, 1.0).forward(values), (values - 1) / 2)
    assert Affine(2.0, 1.0).forward(values).dtype == np.float32


def test_affine_error_is_the_rounding_of_n_alone() -> None:
    """A large offset is subtracted in float64; in float32 the result would be off in its last digits."""
    x = np.random.default_rng(0).uniform(0, 1, (4, 50, 50)).astype(np.float32)
    exact = (x.astype(np.float64) - 1000 / 3) / 0.7
    assert np.array_equal(Affine(0.7, 1000 / 3).forward(x), exact.astype(np.float32))


def test_fixed_maps_its_ends_and_never_clips() -> None:
    affine = Fixed(-1024, 3071).fit()
    n = affine.forward(np.array([[[-1024.0, 3071.0, 9000.0, -3000.0]]], np.float32))
    assert n[0, 0, :2].tolist() == [-1.0, 1.0]
    assert n[0, 0, 2] > 3.8
    assert n[0, 0, 3] < -1.9
    assert Fixed(0, 10, onto_low=0.0, onto_high=2.0).fit() == Affine(5.0, 0.0)


def test_maximum_takes_the_whole_volume_and_keeps_zero() -> None:
    channel = np.random.default_rng(0).gamma(1.0, size=(10, 10, 10)).astype(np.float32)
    nowhere = np.zeros((10, 10, 10), bool)
    affine = Maximum(99.0).fit(channel, nowhere)
    assert affine.scale == pytest.approx(np.sort(channel.ravel())[989], rel=1e-3)
    assert affine.offset == 0.0


def test_percentiles_look_at_the_foreground_alone() -> None:
    channel = np.full((10, 10, 10), -5e4, np.float32)
    inside = np.zeros((10, 10, 10), bool)
    inside[5:] = True
    channel[inside] = np.arange(500)
    n = Percentiles(0.0, 100.0).fit(channel, inside).forward(channel)
    assert n[inside].min() == -1.0
    assert n[inside].max() == 1.0


@pytest.mark.parametrize("value", [0.0, 5.0, -1e6])
def test_constant_channel_is_refused_where_a_range_is_needed(value: float) -> None:
    with pytest.raises(NndiffError, match="intensities do not differ"):
        Percentiles().fit(np.full((10, 10, 10), value, np.float32), EVERYWHERE)


@pytest.mark.parametrize("value", [0.0, -3.0, float("nan")])
def test_empty_or_broken_pet_is_refused(value: float) -> None:
    with pytest.raises(NndiffError, match=r"intensities do not differ(.|\n)*where: Maximum"):
        Maximum().fit(np.full((10, 10, 10), value, np.float32), EVERYWHERE)


def test_no_foreground_is_refused() -> None:
    with pytest.raises(NndiffError, match="no foreground"):
        Percentiles().fit(np.zeros((10, 10, 10), np.float32), ~EVERYWHERE)


def test_window_upside_down_is_refused() -> None:
    with pytest.raises(NndiffError, match="intensities do not differ"):
        Fixed(10, -10).fit()
    with pytest.raises(NndiffError, match="intensities do not differ"):
        Fixed(-10, 10, 1.0, -1.0).fit()
