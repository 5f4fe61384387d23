"""Tests of the search for a rung: the first that fits is taken after few predictions; an error names what suffices."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nndiff.families import search
from nndiff.families.family import Channels, NetworkSpec, Rung
from nndiff.families.prdit import PRDiTSpec, TokenRung
from nndiff.families.unet import UNetSpec
from nndiff.words.errors import NndiffError
from tests.laws.test_planner_laws import Closed

CHANNELS = Channels(2, 1)
RUNGS = list(UNetSpec.ladder((128, 128, 128), (1.0, 1.0, 1.0), True, "cuda"))


def build(rung: Rung) -> NetworkSpec:
    return UNetSpec.on(rung, CHANNELS)


def linear(spec: NetworkSpec, puzzle, patch, batch) -> Closed:
    volume = batch * math.prod(patch) * spec.width
    return Closed(10**6 + volume, volume)


def steep(spec: NetworkSpec, puzzle, patch, batch) -> Closed:
    """What is computed twice is more work and attention's is quadratic; a smaller patch costs a little less a voxel."""
    voxels, block = math.prod(patch) / math.prod(puzzle), math.prod(getattr(spec, "block", (1, 1, 1)))
    attended = (voxels / block) ** 2 if isinstance(spec, PRDiTSpec) else 0
    kept = {"none": 40, "norms": 28, "blocks": 14}[spec.recompute]
    work = spec.width * (voxels**1.01 * block + attended) * (4 if spec.recompute == "blocks" else 3)
    return Closed(10**6 + int(kept * batch * spec.width * voxels**1.01), batch * int(work))


def limits(memory: int, flops: int = 10**18, large: int | None = None) -> search.Limits:
    return search.Limits(memory, memory, flops, flops if large is None else large, lambda step: step)


def reasons_of(sized: search.Sized, predict: search.Predict, bounds: search.Limits):
    explain = search.Reasons(sized.rung, build, predict, bounds).verdict
    return sized.network.reasons(sized.rung, (128, 128, 128), "cuda", search.fits(sized, bounds), explain)


# ---------------------------------------------------------------- which rung


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


@pytest.mark.parametrize(("family", "tiled"), [(UNetSpec, True), (PRDiTSpec, True), (PRDiTSpec, False)])
def test_each_rung_is_taken_where_it_is_the_first_that_fits(family, tiled) -> None:
    rungs = list(family.ladder((128, 128, 128), (1.0, 1.0, 1.0), tiled, "cuda"))
    networks = {rung: family.on(rung, CHANNELS) for rung in rungs}
    every = [search.sized(rung, networks.__getitem__, steep) for rung in rungs]
    for just in every[::5]:
        slow = 2 if just.rung.batch_size == 1 else 1
        for bounds in (limits(just.cost.bytes), limits(10**18, slow * just.cost.flops)):
            first = next(sized for sized in every if bounds.affordable(sized))
            assert search.choose(rungs, networks.__getitem__, steep, bounds) == first


@pytest.mark.parametrize(
    ("device", "batch", "depth", "most"),
    [
        *[("cuda", 1, 0, 50), ("cuda", 2, 0, 100), ("cuda", 3, 0, 30), ("cuda", 4, 0, 30)],
        *[("cpu", 1, 0, 25), ("cpu", 2, 0, 100), ("cpu", 4, 0, 30), ("cpu", 1, 6, 100)],
    ],
)
def test_what_a_batch_may_cost(device, batch, depth, most) -> None:
    rung = replace(RUNGS[0], batch_size=batch)
    if depth:
        rung = TokenRung(**vars(rung), depth=depth, block=(8, 8, 8))
    assert replace(limits(1, 100, large=30), device=device).flops_for(rung) == most


@pytest.mark.parametrize(("step", "flops", "enough"), [(50, 70, True), (51, 70, False), (50, 71, False)])
def test_a_step_that_just_reaches_both_limits_is_affordable(step: int, flops: int, enough: bool) -> None:
    two = search.Sized(replace(RUNGS[0], batch_size=2), build(RUNGS[0]), Closed(step, flops))
    assert limits(50, 70).affordable(two) is enough


def test_few_predictions_are_needed() -> None:
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return linear(*arguments)

    search.choose(RUNGS, build, counted, limits(10**7))
    assert len(calls) < len(RUNGS) / 3


# ---------------------------------------------------------------- where none fits


def test_a_step_that_is_too_much_work_takes_a_smaller_rung_but_is_never_refused() -> None:
    bounds, last = limits(10**18, 1), RUNGS[-1]
    slow = search.choose(RUNGS, build, steep, bounds)
    assert (slow.rung.patch_size, slow.rung.puzzle_factor) == (last.patch_size, last.puzzle_factor)
    assert slow.cost.flops == min(search.sized(rung, build, steep).cost.flops for rung in RUNGS), "the least work"
    assert "slow" in reasons_of(slow, steep, bounds)["puzzle_factor"].reason


def test_too_little_memory_names_the_number() -> None:
    with pytest.raises(NndiffError, match=r"at least 0.01 GB in total"):
        search.choose(RUNGS, build, linear, limits(100))


def test_too_little_memory_names_the_least_that_suffices() -> None:
    least = min(search.sized(rung, build, steep).cost.bytes for rung in RUNGS)
    with pytest.raises(search.DoesNotFit, match=f"at least {math.ceil(2 * least / 10**7) / 100} GB") as refusal:
        search.choose(RUNGS, build, steep, replace(limits(least - 1), total_needed=lambda step: 2 * step))
    assert refusal.value.needed == 2 * least
    assert search.choose(RUNGS, build, steep, limits(least)).cost.bytes == least


# ---------------------------------------------------------------- why


@pytest.mark.parametrize(
    ("step", "flops", "words"), [(60, 1, "usable memory"), (50, 101, "limit on work"), (50, 100, "fit")]
)
def test_an_alternative_says_what_it_lacks(step, flops, words) -> None:
    bounds = search.Limits(100, 50, 100, 100, int)
    assert words in bounds.note(search.Sized(replace(RUNGS[0], batch_size=2), build(RUNGS[0]), Closed(step, flops)))


def test_alternatives_change_one_field_and_carry_their_cost() -> None:
    bounds = limits(10**8)
    sized = search.choose(RUNGS, build, linear, bounds)
    verdict = reasons_of(sized, linear, bounds)["puzzle_factor"]
    whole = linear(
        build(replace(sized.rung, puzzle_factor=(1, 1, 1))), (1, 1, 1), sized.rung.patch_size, sized.rung.batch_size
    )
    assert verdict.alternatives[0].value == (1, 1, 1)
    assert f"{whole.bytes / 1e9:.2f} GB" in verdict.alternatives[0].note


def test_a_cost_is_told_in_gigabytes_and_teraflops() -> None:
    assert search.cost_words(SimpleNamespace(bytes=2_500_000_000, flops=3_120_000_000_000)) == (
        "2.50 GB and 3.12 TFLOP per step"
    )
