"""Tests of grids: positions after cropping and resampling, and the equality of two grids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nndiff.words.volume import POSITION_TOLERANCE, SPACING_TOLERANCE, Box, Grid, Volume

lengths = st.tuples(*[st.integers(1, 40)] * 3)
sizes = st.tuples(*[st.floats(0.3, 6)] * 3)
places = st.tuples(*[st.floats(-500, 500)] * 3)


@st.composite
def grids(draw):
    turned, _ = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 1000))).standard_normal((3, 3)))
    return Grid(draw(lengths), draw(sizes), draw(places), tuple(turned.ravel()))


@given(grids(), st.data())
def test_law_a_crop_moves_no_voxel(grid, data):
    start = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.shape, strict=True))
    box = Box(start, stop)
    cropped = grid.cropped(box)
    assert cropped.shape == box.shape
    assert np.empty(grid.shape)[box.slices].shape == box.shape
    for index in ((0, 0, 0), tuple(n - 1 for n in box.shape)):
        there = tuple(i + a for i, a in zip(index, start, strict=True))
        np.testing.assert_allclose(cropped.position(index), grid.position(there), atol=1e-9)


@given(grids(), lengths)
def test_law_resampling_keeps_the_outer_faces(grid, shape):
    other = grid.resampled(shape)
    np.testing.assert_allclose(other.extent_mm, grid.extent_mm)
    for corner in ((0, 0, 0), (1, 1, 1), (0, 1, 0)):  # faces lie half a voxel outside the outer centres
        ours, theirs = (
            g.position(tuple(c * n - 0.5 for c, n in zip(corner, g.shape, strict=True))) for g in (grid, other)
        )
        np.testing.assert_allclose(theirs, ours, atol=1e-9)


@given(grids(), lengths)
def test_law_there_and_back_is_the_same_grid(grid, shape):
    back = grid.resampled(shape).resampled(grid.shape)
    assert back.difference(grid) is None
    np.testing.assert_allclose(back.origin, grid.origin, atol=1e-9)


def test_positions_by_the_formula():
    grid = Grid((4, 5, 6), (3.0, 2.0, 1.0), (10.0, 20.0, 30.0))
    np.testing.assert_allclose(grid.position((1, 2, 3)), (10 + 3 * 1, 20 + 2 * 2, 30 + 1 * 3))  # L, P, S
    assert grid.moved((1, 0, 0), (3, 5, 6)).origin == (10.0, 20.0, 33.0)


# ---------------------------------------------------------------- one grid or two

GRID = Grid((20, 20, 20), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))


def nudged(**change):
    return Grid(**{**vars(GRID), **change})


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_origins_within_and_beyond_the_tolerance(axis, sign):
    step = np.eye(3)[axis] * sign * POSITION_TOLERANCE * 2.0
    assert GRID.difference(nudged(origin=tuple(0.9 * step))) is None
    words = GRID.difference(nudged(origin=tuple(1.1 * step)))
    assert words.startswith("origin")
    assert "0.022 mm apart" in words


def test_other_shapes_spacings_and_directions_are_named_with_their_numbers():
    assert GRID.difference(nudged(shape=(20, 20, 21))) == "shape (20, 20, 21) instead of (20, 20, 20)"
    coarse = 2 * (1 + 2 * SPACING_TOLERANCE)
    assert GRID.difference(nudged(spacing=(coarse, 2.0, 2.0))) == "spacing (2.004, 2, 2) instead of (2, 2, 2) mm"
    mirrored = tuple(-value for value in GRID.direction)
    assert GRID.difference(nudged(direction=mirrored)).startswith("direction")


@pytest.mark.parametrize("axis", range(3))
def test_a_spacing_hardly_off_adds_up_over_many_voxels(axis):
    """Within the spacing's own tolerance, yet the far corner lies elsewhere: the words must not blame the origin."""
    long = nudged(shape=(200, 200, 200))
    spacing = np.full(3, 2.0)
    spacing[axis] *= 1 + 0.9 * SPACING_TOLERANCE
    words = long.difference(Grid(long.shape, tuple(spacing), long.origin))
    assert "spacing" in words
    assert "origin (0, 0, 0) instead of (0, 0, 0)" not in words
    assert "0.358 mm" in words


def test_a_slight_turn_is_not_blamed_on_the_origin():
    angle = 5e-4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    other = nudged(shape=(200,) * 3, direction=tuple((turn @ GRID.matrix).ravel()))
    words = nudged(shape=(200,) * 3).difference(other)
    assert "direction" in words
    assert "origin (0, 0, 0) instead of (0, 0, 0)" not in words


def test_a_volume_that_does_not_fill_its_grid_is_our_own_bug():
    with pytest.raises(AssertionError):
        Volume(np.zeros((1, 2, 2, 2), np.float32), GRID)
    with pytest.raises(AssertionError):
        Volume(np.zeros((20, 20, 20), np.float32), GRID)
