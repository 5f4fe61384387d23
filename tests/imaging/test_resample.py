import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from nndiff.imaging.resample import _sampling, matrix, new_shape, resample, resample_mask
from nndiff.words.volume import Grid

RNG = np.random.default_rng(0)


def oracle(channel: np.ndarray, shape: tuple[int, int, int], order: int) -> np.ndarray:
    axes = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(channel.shape, shape, strict=True)]
    points = np.meshgrid(*axes, indexing="ij")
    return map_coordinates(channel.astype(np.float64), points, order=order, mode="nearest")


@pytest.mark.parametrize(
    ("old", "new"),
    [((9, 10, 11), (13, 15, 20)), ((6, 20, 5), (12, 20, 7)), ((4, 1, 8), (5, 3, 9)), ((2, 3, 2), (7, 7, 7))],
)
def test_refining_equals_scipy(old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
    array = RNG.normal(size=(2, *old)).astype(np.float32)
    for channel, result in zip(array, resample(array, new), strict=True):
        assert np.abs(result - oracle(channel, new, 3)).max() < 1e-5


@pytest.mark.parametrize("new", [(5, 7, 3), (5, 20, 11), (9, 4, 16)])
def test_plain_sampling_equals_scipy(new: tuple[int, int, int]) -> None:
    array = RNG.normal(size=(1, 9, 10, 11)).astype(np.float32)
    assert np.abs(resample(array, new, antialias=False)[0] - oracle(array[0], new, 3)).max() < 1e-5


def test_coarsening_averages_what_the_coarse_grid_cannot_hold() -> None:
    """A checkerboard vanishes; plain sampling at a third of the rate turns it into another one."""
    board = (-1.0) ** np.indices((30, 30, 30)).sum(0)[None]
    assert np.abs(resample(board, (10, 10, 10))[0, 2:-2, 2:-2, 2:-2]).max() < 0.01
    assert np.abs(resample(board, (10, 10, 10), antialias=False)).max() > 0.9


@pytest.mark.parametrize("new", [(1, 1, 1), (3, 4, 5), (7, 8, 9), (2, 20, 1)])
@pytest.mark.parametrize("antialias", [True, False])
def test_constant_stays_constant(new: tuple[int, int, int], antialias: bool) -> None:
    assert np.allclose(resample(np.full((1, 6, 7, 8), 3.0, np.float32), new, antialias=antialias), 3.0, atol=1e-5)


def test_outer_faces_coincide() -> None:
    """A ramp over position keeps its values at the positions that Grid.resampled gives (away from the edges)."""
    grid = Grid((60, 2, 2), (2.0, 1.0, 1.0), (0.0, 0.0, 5.0))
    for count in (93, 27):
        finer = grid.resampled((count, 2, 2))
        ramp = np.broadcast_to((5 + 2 * np.arange(60.0))[:, None, None], (60, 2, 2))[None]
        found = resample(ramp, (count, 2, 2))[0, :, 0, 0]
        expected = np.array([finer.position((k, 0, 0))[2] for k in range(count)])
        middle = slice(count // 3, -(count // 3))
        assert np.allclose(found[middle], expected[middle], atol=1e-3)


def test_equal_axes_are_left_alone_and_equal_shapes_return_the_array() -> None:
    array = RNG.normal(size=(1, 4, 5, 6)).astype(np.float32)
    assert resample(array, (4, 5, 6)) is array
    one = resample(array, (4, 5, 9))
    by_plane = np.concatenate([resample(array[:, k : k + 1], (1, 5, 9)) for k in range(4)], axis=1)
    assert np.allclose(one, by_plane, atol=1e-6)


def test_views_and_other_types_are_taken() -> None:
    array = RNG.normal(size=(2, 8, 9, 10))
    expected = resample(np.ascontiguousarray(array[:, ::-1, 1:8, ::2], dtype=np.float32), (5, 9, 7))
    assert np.array_equal(resample(array[:, ::-1, 1:8, ::2], (5, 9, 7)), expected)
    assert expected.dtype == np.float32


def test_noise_gain_of_a_slight_coarsening_is_bounded() -> None:
    """Near equal sizes the least-squares inverse undoes half-voxel shifts: it amplifies white noise, under twofold."""
    for old, new in [(100, 99), (50, 49), (100, 90), (100, 50)]:
        assert np.linalg.norm(matrix(old, new), axis=1).max() < 2


def test_matrices_are_shared_and_cannot_be_changed() -> None:
    assert matrix(5, 9) is matrix(5, 9)
    with pytest.raises(ValueError, match="read-only"):
        matrix(5, 9)[0, 0] = 1.0


@pytest.mark.parametrize(("old", "new"), [(150, 301), (301, 150), (7, 200), (130, 129)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_long_axes_equal_the_product_with_the_whole_matrix(old: int, new: int, axis: int) -> None:
    whole = _sampling(old, new, 3) if new > old else np.linalg.pinv(_sampling(new, old, 3))
    array = np.moveaxis(RNG.normal(size=(old, 3, 2)), 0, axis).astype(np.float32)
    expected = np.moveaxis(np.tensordot(whole, array.astype(np.float64), (1, axis)), 0, axis)
    shape = expected.shape[0], expected.shape[1], expected.shape[2]
    assert np.abs(resample(array[None], shape)[0] - expected).max() < 3e-6


def test_mask_equals_the_linear_interpolation() -> None:
    mask = RNG.random((9, 10, 11)) > 0.4
    for new in [(18, 15, 13), (5, 10, 7)]:
        values = oracle(mask.astype(float), new, 1)
        clear = np.abs(values - 0.5) > 1e-3
        assert np.array_equal(resample_mask(mask, new)[clear], values[clear] > 0.5)
    assert resample_mask(mask, (18, 15, 13)).dtype == np.bool_


def test_mask_at_exactly_one_half_counts() -> None:
    mask = np.array([True, False] * 4).reshape(8, 1, 1)
    assert resample_mask(mask, (4, 1, 1)).all()


def test_new_shape_fills_the_extent() -> None:
    grid = Grid((100, 50, 1), (3.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert new_shape(grid, (2.0, 1.0, 9.0)) == (150, 50, 1)
    assert new_shape(grid, (4.01, 0.7, 0.5)) == (75, 71, 2)
