"""Tests of patch sizes and coarser spacings: laws of both ladders."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nndiff.families.sizes import at_spacing, coarsened, patches
from nndiff.words.volume import Spacing, Triple

shapes = st.tuples(*(st.integers(1, 600),) * 3)
spacings = st.tuples(*(st.floats(0.3, 8.0),) * 3)


def test_from_a_cube_down_to_32_voxels() -> None:
    sizes = [128, 96, 64, 48, 32]
    found = list(patches((128, 128, 128), (1.0, 1.0, 1.0)))
    assert found[0] == (128, 128, 128)
    assert found[::3] == [(n, n, n) for n in sizes]
    assert found[1:3] == [(96, 128, 128), (96, 96, 128)]


def test_the_longest_side_in_mm_is_shortened() -> None:
    assert list(patches((20, 64, 64), (5.0, 1.0, 1.0)))[:3] == [(20, 64, 64), (12, 64, 64), (12, 48, 64)]


@settings(max_examples=60, deadline=None)
@given(shapes, spacings)
def test_patches_shrink_one_side_at_a_time_to_the_smallest(shape: Triple, spacing: Spacing) -> None:
    found = list(patches(shape, spacing))
    least = [min(n, at_spacing(32, s, spacing)) for n, s in zip(shape, spacing, strict=True)]
    assert (found[0], list(found[-1])) == (shape, least)
    for large, small in pairwise(found):
        (axis,) = [i for i in range(3) if large[i] != small[i]]
        longest = max(n * s for n, s, m in zip(large, spacing, least, strict=True) if n > m)
        assert large[axis] * spacing[axis] == longest
        assert small[axis] <= max(least[axis], 0.75 * large[axis])
        if small[axis] > least[axis]:
            divisor = 16 if small[axis] >= 64 else 8 if small[axis] >= 24 else 4
            assert small[axis] % divisor == 0
            assert small[axis] > 0.75 * large[axis] - 16


@pytest.mark.parametrize(("spacing", "voxels"), [(1.0, 32), (2.0, 16), (3.0, 8), (9.0, 8)])
def test_a_coarser_axis_needs_fewer_voxels_but_eight(spacing: float, voxels: int) -> None:
    assert at_spacing(32, spacing, (1.0, spacing, spacing)) == voxels


@settings(max_examples=60, deadline=None)
@given(shapes, spacings)
def test_coarser_volumes_have_the_same_extent_and_at_least_32_voxels(shape: Triple, spacing: Spacing) -> None:
    found = list(coarsened(shape, spacing))
    for k, (smaller, wider) in enumerate(found, 1):
        for n, s, m, w in zip(shape, spacing, smaller, wider, strict=True):
            assert m * w == pytest.approx(n * s, rel=1e-5)
            assert m == max(1, round(n / 1.15**k))
        assert max(smaller) >= 32
    assert round(max(shape) / 1.15 ** (len(found) + 1)) < 32
