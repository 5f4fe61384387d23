"""The ladder, the topology on each rung, and the search."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nndiff.families import search, size, tokens
from nndiff.words.errors import NndiffError
from tests.laws.test_planner_laws import Closed, shapes, spacings
from tests.planning.fingerprints import budget


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


def steep(spec, puzzle, patch, batch) -> Closed:
    """What is computed twice is more work and attention's is quadratic; a smaller patch costs a little less a voxel."""
    voxels = math.prod(patch) / math.prod(puzzle)
    attended = (voxels / math.prod(spec.strides[0])) ** 2 if spec.name == "prdit" else 0
    kept = {"none": 40, "norms": 28, "blocks": 14}[spec.recompute]
    work = (
        spec.width * (voxels**1.01 * math.prod(spec.strides[0]) + attended) * (4 if spec.recompute == "blocks" else 3)
    )
    return Closed(10**6 + int(kept * batch * spec.width * voxels**1.01), batch * int(work))


@pytest.mark.parametrize(("room", "tiled"), [(size, True), (tokens, True), (tokens, False)])
def test_each_rung_is_taken_where_it_is_the_first_that_fits(room, tiled) -> None:
    rungs = list(room.ladder((128, 128, 128), (1.0, 1.0, 1.0), tiled, "cuda"))
    networks = {rung: room.network(rung, 2, 1) for rung in rungs}
    every = [search.sized(rung, networks.__getitem__, steep) for rung in rungs]
    for just in every[::5]:
        slow = 4 if just.rung.batch_size > 2 else 1
        for bounds in (limits(just.cost.bytes), limits(10**18, slow * just.cost.flops)):
            first = next(sized for sized in every if bounds.affordable(sized))
            assert search.choose(rungs, networks.__getitem__, steep, bounds) == first


@pytest.mark.parametrize(
    ("device", "batch", "depth", "part"),
    [("cuda", 1, 0, 1), ("cuda", 2, 0, 1), ("cuda", 4, 0, 4), ("cpu", 1, 0, 4), ("cpu", 2, 0, 1), ("cpu", 1, 6, 1)],
)
def test_a_batch_that_gains_little_must_cost_little(device, batch, depth, part) -> None:
    rung = replace(RUNGS[0], batch_size=batch, depth=depth)
    assert replace(limits(1, 100), device=device).flops_for(rung) == 100 / part


@pytest.mark.parametrize(("gigabytes", "expected"), [(8, 15), (15.9, 15), (16, 30), (24, 30), (40, 100), (80, 100)])
def test_a_gpus_memory_stands_for_what_a_step_may_cost(gigabytes, expected) -> None:
    assert search.step_flops(budget(gigabytes)) == expected * 10**12


def test_few_predictions_are_needed() -> None:
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return linear(*arguments)

    search.choose(RUNGS, build, counted, limits(10**7))
    assert len(calls) < len(RUNGS) / 3


def test_a_step_that_is_too_much_work_takes_a_smaller_rung_but_is_never_refused() -> None:
    bounds, last = limits(10**18, 1), RUNGS[-1]
    slow = search.choose(RUNGS, build, steep, bounds)
    assert (slow.rung.patch_size, slow.rung.puzzle_factor) == (last.patch_size, last.puzzle_factor)
    assert slow.cost.flops == min(search.sized(rung, build, steep).cost.flops for rung in RUNGS), "the least work"
    assert "slow" in size.reasons(slow, (128, 128, 128), build, steep, bounds)["puzzle_factor"].reason


def test_too_little_memory_names_the_number() -> None:
    with pytest.raises(NndiffError, match=r"at least 0.01 GB in all"):
        search.choose(RUNGS, build, linear, limits(100))


def test_too_little_memory_names_the_least_that_suffices() -> None:
    least = min(search.sized(rung, build, steep).cost.bytes for rung in RUNGS)
    with pytest.raises(search.DoesNotFit, match=f"at least {math.ceil(2 * least / 10**7) / 100} GB") as refusal:
        search.choose(RUNGS, build, steep, replace(limits(least - 1), total_needed=lambda step: 2 * step))
    assert refusal.value.needed == 2 * least
    assert search.choose(RUNGS, build, steep, limits(least)).cost.bytes == least


@pytest.mark.parametrize(("step", "flops", "words"), [(60, 1, "more memory"), (50, 101, "more work"), (50, 100, "fit")])
def test_an_alternative_says_what_it_lacks(step, flops, words) -> None:
    bounds = search.Limits(100, 50, 100, int)
    assert words in bounds.note(search.Sized(replace(RUNGS[0], batch_size=2), build(RUNGS[0]), Closed(step, flops)))


def test_alternatives_change_one_field_and_carry_their_cost() -> None:
    bounds = limits(10**8)
    sized = search.choose(RUNGS, build, linear, bounds)
    verdict = size.reasons(sized, (128, 128, 128), build, linear, bounds)["puzzle_factor"]
    whole = linear(
        build(replace(sized.rung, puzzle_factor=(1, 1, 1))), (1, 1, 1), sized.rung.patch_size, sized.rung.batch_size
    )
    assert verdict.alternatives[0].value == (1, 1, 1)
    assert f"{whole.bytes / 1e9:.2f} GB" in verdict.alternatives[0].note
