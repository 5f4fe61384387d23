"""The ladder, the topology on each rung, and the search."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nndiff.errors import NndiffError
from nndiff.planning import search, size
from tests.laws.test_planner_laws import Closed, shapes, spacings


@given(shapes, spacings, st.booleans(), st.sampled_from(["cuda", "cpu", "mps"]))
def test_down_the_ladder_the_patch_never_grows_and_the_puzzle_never_shrinks(shape, spacing, tiled, device) -> None:
    rungs = list(size.ladder(shape, spacing, tiled, device))
    for above, below in itertools.pairwise(rungs):
        assert math.prod(below.patch_size) <= math.prod(above.patch_size)
        assert all(b >= a for a, b in zip(above.puzzle_factor, below.puzzle_factor, strict=True))
    assert rungs[0].patch_size == shape
    assert len(set(rungs)) == len(rungs)


@given(shapes, spacings)
def test_untiled_the_extent_stays(shape, spacing) -> None:
    for rung in size.ladder(shape, spacing, False, "cuda"):
        extents = zip(shape, spacing, rung.patch_size, rung.spacing, strict=True)
        assert all(n * s == pytest.approx(m * t, rel=1e-4) for n, s, m, t in extents)


@pytest.mark.parametrize(
    ("shape", "spacing", "puzzle"),
    [
        ((100, 100, 100), (1.0, 1.0, 1.0), (2, 2, 2)),
        ((28, 448, 448), (5.0, 0.5, 0.5), (1, 2, 2)),
        ((100, 100, 100), (1.9, 1.0, 1.0), (2, 2, 2)),
        ((8, 100, 100), (1.0, 1.0, 1.0), (1, 2, 2)),
    ],
)
def test_the_first_puzzle_follows_spacing_and_length(shape, spacing, puzzle) -> None:
    assert size.first_puzzle(shape, spacing) == puzzle


def test_thick_slices_are_pooled_in_plane_first_with_flat_kernels() -> None:
    multipliers, kernels, strides = size.topology((25, 400, 400), (1, 2, 2), (5.0, 0.5, 0.5))
    assert strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert kernels[0] == (1, 3, 3)
    assert kernels[-1] == (3, 3, 3)
    assert multipliers == (1, 2, 4, 4, 4)


@given(shapes, spacings)
def test_no_axis_is_pooled_below_its_smallest_feature(shape, spacing) -> None:
    _, _, strides = size.topology(shape, (1, 1, 1), spacing)
    for n, steps in zip(shape, zip(*strides, strict=True), strict=True):
        pooled = math.prod(steps)
        assert pooled == 1 or n / pooled >= size.SMALLEST_FEATURE / 2


def linear(spec, puzzle, patch, batch) -> Closed:
    volume = batch * math.prod(patch) * spec.width
    return Closed(10**6 + volume, volume)


def limits(memory: int, flops: int = 10**18) -> search.Limits:
    return search.Limits(memory, memory, flops, lambda step: step)


def build(rung):
    return size.network(rung, 2, 1)


RUNGS = list(size.ladder((128, 128, 128), (1.0, 1.0, 1.0), True, "cuda"))


def test_skipping_hopeless_rungs_changes_nothing() -> None:
    for memory in (10**9, 10**8, 3 * 10**7, 5 * 10**6):
        for flops in (10**18, 10**8, 10**7):
            bounds = limits(memory, flops)
            sized = [
                search.Sized(r, build(r), linear(build(r), r.puzzle_factor, r.patch_size, r.batch_size)) for r in RUNGS
            ]
            first = next((s for s in sized if bounds.affordable(s)), None)
            if first is not None:
                assert search.choose(RUNGS, build, linear, bounds) == first


def test_few_predictions_are_needed() -> None:
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return linear(*arguments)

    search.choose(RUNGS, build, counted, limits(10**7))
    assert len(calls) < len(RUNGS) / 3


def test_a_step_that_is_too_much_work_takes_a_smaller_rung_but_is_never_refused() -> None:
    slow = search.choose(RUNGS, build, linear, limits(10**12, 1))
    assert slow.rung.patch_size == RUNGS[-1].patch_size
    assert "slow" in size.reasons(slow, (128, 128, 128), build, linear, limits(10**12, 1))["puzzle_factor"].reason


def test_too_little_memory_names_the_number() -> None:
    with pytest.raises(NndiffError, match=r"at least 0.01 GB in all"):
        search.choose(RUNGS, build, linear, limits(100))


def test_alternatives_change_one_field_and_carry_their_cost() -> None:
    bounds = limits(10**8)
    sized = search.choose(RUNGS, build, linear, bounds)
    verdict = size.reasons(sized, (128, 128, 128), build, linear, bounds)["puzzle_factor"]
    whole = linear(
        build(replace(sized.rung, puzzle_factor=(1, 1, 1))), (1, 1, 1), sized.rung.patch_size, sized.rung.batch_size
    )
    assert verdict.alternatives[0].value == (1, 1, 1)
    assert f"{whole.bytes / 1e9:.2f} GB" in verdict.alternatives[0].note
