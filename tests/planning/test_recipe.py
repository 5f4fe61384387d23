"""Tests of the planning rules that all methods share, one by one."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from nndiff.methods.method import Data
from nndiff.planning import recipe
from nndiff.plans.channels import TIED
from nndiff.walk.layers import Shifts, Tiles
from nndiff.words.kind import KINDS
from nndiff.words.scheme import Scheme
from nndiff.words.spread import Spread
from tests.planning.fingerprints import GOLDEN, budget
from tests.training.tiny import tiny_plan


def data(share: float | None = None, anchor: tuple[int, ...] = ()) -> Data:
    return Data(
        "translation" if anchor else "generation", anchor, (0.1,) if anchor else (), share, "", 0.03 if anchor else 0.0
    )


def test_a_step_that_costs_more_gets_fewer_steps() -> None:
    cheap, dear = (recipe.training_steps(budget(24), flops).value for flops in (10**13, 10**14))
    assert cheap > dear >= 20_000
    assert recipe.training_steps(budget(24, "cpu"), 10**11).value <= 20_000


@pytest.mark.parametrize(("task", "steps"), [("translation", 200_000), ("generation", 25_000)])
@pytest.mark.parametrize("gigabytes", [8, 24, 80])
def test_the_dearest_step_of_a_card_leaves_enough_steps(task: str, steps: int, gigabytes: float) -> None:
    card = budget(gigabytes)
    assert recipe.steps_within(card, recipe.step_flops(card, task)) == pytest.approx(steps, rel=1e-6)


def test_a_training_time_says_where_its_rate_is_from() -> None:
    unknown, named = budget(24), replace(budget(24), device_name="NVIDIA GeForce RTX 4090")
    assert "if the card is as fast as an RTX 3090" in recipe.training_steps(unknown, 10**13).reason
    assert "by its data sheet" in recipe.training_steps(named, 10**13).reason
    assert recipe.training_steps(named, 10**13).value > recipe.training_steps(unknown, 10**13).value
    old = replace(named, device_name="Tesla V100-SXM2-16GB", bf16=False)
    assert recipe.training_steps(old, 10**13).value < recipe.training_steps(named, 10**13).value


def test_without_bf16_the_plan_says_fp32() -> None:
    assert recipe.precision(budget(24)).value == "bf16"
    assert recipe.precision(replace(budget(24), bf16=False)).value == "fp32"


@pytest.mark.parametrize(
    ("prediction", "anchor", "share", "skip"),
    [
        ("x0", (0,), 0.9, (1,)),
        ("x0_skip", (1, 0), 0.9, (3, 2)),
        ("x0", (0,), 0.3, ()),
        ("eps", (0,), 0.9, ()),
        ("residual", (0,), 0.9, ()),
        ("both", (0,), 0.9, ()),
        ("x0", (), None, ()),
    ],
)
def test_where_noise_is_taken_away_an_image_starts_from_its_anchor(prediction, anchor, share, skip) -> None:
    """The network sees x_t (one channel per target), then all sources."""
    assert recipe.skip(prediction, data(share, anchor)) == skip


def test_shifting_the_grid_is_left_to_whoever_sees_one() -> None:
    assert [recipe.shifts(factor).value for factor in ((1, 1, 1), (1, 2, 2), (4, 4, 4))] == [Shifts(1)] * 3
    assert recipe.shifts((1, 1, 1)).alternatives == ()
    assert [each.value for each in recipe.shifts((2, 2, 2)).alternatives] == [{"places": 2}], "twice the work, as told"


def test_tiles_overlap_by_half_and_a_generated_volume_has_none() -> None:
    assert recipe.tiles(whole=True, tiled=True).value == recipe.tiles(whole=False, tiled=True).value == Tiles(0.25)
    assert recipe.tiles(whole=True, tiled=False).value == Tiles(0.0)


def test_a_pair_is_changed_only_where_what_is_true_of_it_stays_true() -> None:
    plan = tiny_plan()
    (pet,) = plan.source_channels
    mr = replace(pet, kind=KINDS["mr"])
    tied, free = replace(pet, normalization=Scheme(TIED, {})), replace(pet, normalization=Scheme("fixed", {}))

    def names(source, target, share) -> list[str]:  # type: ignore[no-untyped-def]
        return [row.name for row in recipe.augmentation([source], [target], data(share, (0,))).value]

    assert names(pet, free, 0.9) == ["mirror"]
    assert names(pet, free, 0.6) == []
    assert names(pet, tied, 0.1) == ["scale"]
    assert names(mr, free, 0.1) == ["contrast"]


def test_what_methods_are_told_of_source_and_target_is_the_median_over_cases() -> None:
    found = GOLDEN["brain_mr"]
    told = recipe.data_of(found, (0,), [0.1, 0.2], 0.04)
    assert (told.task, told.anchor, told.distances, told.noise_share) == ("translation", (0,), (0.1, 0.2), 0.1)
    assert told.open_part == 0.04
    assert "mostly structure (10%" in told.noise_or_structure
    alone = recipe.data_of(GOLDEN["chest_ct_generation"], (), [], 0.0)
    assert (alone.distances, alone.noise_share, alone.noise_or_structure) == ((), None, "")


def test_the_distance_is_the_median_and_never_zero() -> None:
    assert recipe.source_distance([0.1, 0.3, 0.2]).value == 0.2
    assert recipe.source_distance([0.0]).value == 1e-4
    assert recipe.source_distance([]).value == 1.0


def test_an_open_part_is_never_zero_where_there_is_a_source() -> None:
    assert recipe.open_part([0.0, 0.0], 1e-4).value == recipe.open_part(None, 1e-4).value == 3e-5


def test_the_open_part_is_the_median_over_cases_and_the_reason_states_the_distance() -> None:
    verdict = recipe.open_part([0.01, 0.03, 0.02], 0.05)
    assert verdict.value == 0.02
    assert "held-out" in verdict.reason
    assert "0.05" in verdict.reason


def test_an_open_part_that_was_not_estimated_is_a_share_of_the_distance_or_nothing() -> None:
    verdict = recipe.open_part(None, 0.05)
    assert verdict.value == pytest.approx(0.015)
    assert "two patients" in verdict.reason
    assert recipe.open_part(None, None).value == 0.0


def test_a_curve_is_taken_as_measured_and_the_reason_states_its_range() -> None:
    curves = (((0.0, 0.03), (0.5, 1.0)), ((0.2, 4.5),))
    verdict = recipe.open_curve(curves, data(anchor=(0, 0)))
    assert verdict.value == curves
    assert "from 0.03 to 4.5" in verdict.reason
    assert recipe.open_curve((), data(anchor=(0,))).value == recipe.open_curve(curves, data()).value == ()


def test_a_grain_is_taken_as_measured_or_not_known() -> None:
    assert recipe.grain(0.0123456, "translation").value == 0.01235
    assert recipe.grain(None, "translation").value == recipe.grain(0.01, "generation").value == 0.0


def test_sources_are_standardised_as_measured_or_seen_as_they_are() -> None:
    spreads = (Spread(-0.87, 0.43),)
    assert recipe.sources(spreads, "translation").value == spreads
    assert recipe.sources(None, "translation").value == recipe.sources(spreads, "generation").value == ()


def test_warm_up_and_memory_are_a_twentieth_of_the_training_within_limits() -> None:
    assert [recipe.warmup_steps(steps).value for steps in (100, 10_000, 10**6)] == [20, 500, 1000]
    assert [recipe.ema_half_life(steps).value for steps in (100, 10_000, 10**6)] == [10, 500, 5000]
    assert [recipe.accumulate(batch).value for batch in (1, 2)] == [2, 1]


def test_a_published_batch_is_accumulated_as_far_as_it_leaves_a_long_training() -> None:
    chosen = {
        (batch, steps): recipe.accumulate(batch, 64, steps).value
        for batch in (1, 8)
        for steps in (1e3, 99_999, 2.5e5, 1e9)
    }
    assert chosen == {
        (1, 1e3): 2, (1, 99_999): 2, (1, 2.5e5): 5, (1, 1e9): 64,
        (8, 1e3): 1, (8, 99_999): 1, (8, 2.5e5): 5, (8, 1e9): 8,
    }  # fmt: skip
    assert "would leave too few steps" in recipe.accumulate(1, 64, 1e3).reason
    assert "published" not in recipe.accumulate(1).reason


@pytest.mark.parametrize(
    ("share", "words"), [(0.61, "mostly noise"), (0.59, "noise and"), (0.31, "noise and"), (0.29, "mostly structure")]
)
def test_the_words_for_a_share_of_noise(share: float, words: str) -> None:
    found = GOLDEN["brain_mr"]
    cases = [replace(case, links=((replace(case.links[0][0], noise_share=share),),)) for case in found.cases]
    told = recipe.data_of(replace(found, cases=tuple(cases)), (0,), [0.1], 0.04)
    assert words in told.noise_or_structure
    assert (recipe.skip("x0", told) != ()) is (words == "mostly noise")


@pytest.mark.parametrize(
    ("device", "steps"), [("cuda", (20_000, 250_000)), ("mps", (5_000, 100_000)), ("cpu", (500, 20_000))]
)
def test_a_training_is_neither_too_short_nor_too_long(device: str, steps: tuple[int, int]) -> None:
    dear, cheap = (recipe.training_steps(replace(budget(24), device=device), flops).value for flops in (10**18, 1))
    assert (dear, cheap) == steps


@pytest.mark.parametrize(
    ("device", "flops_a_second", "hours", "steps"), [("mps", 2 * 10**12, 12, 43_000), ("cpu", 35 * 10**9, 0.5, 1_800)]
)
def test_a_step_of_a_second_is_made_as_often_as_the_hours_allow(device, flops_a_second, hours, steps) -> None:
    """To two digits; a processor has the rate for each of its cores."""
    machine = replace(budget(24, "cpu"), device=device, cores=4)
    verdict = recipe.training_steps(machine, flops_a_second * (4 if device == "cpu" else 1))
    assert verdict.value == steps
    assert f"about {steps / 3600:.2g} hours" in verdict.reason
    assert steps / 3600 == pytest.approx(hours, rel=0.02)


def test_a_card_trains_for_a_day() -> None:
    card = budget(24)
    steps = recipe.training_steps(card, recipe.step_flops(card, "translation"))
    assert steps.value == pytest.approx(200_000, rel=0.06)
    assert steps.value / recipe.steps_within(card, recipe.step_flops(card, "translation")) <= 1
    assert re.search(r"about 2[34] hours", steps.reason)


@pytest.mark.parametrize(("device", "most"), [("mps", 2 * 10**12), ("cpu", 10**11)])
def test_a_step_elsewhere_is_about_a_second_of_work_and_a_large_one_a_quarter(device: str, most: int) -> None:
    machine = replace(budget(24, "cpu"), device=device, cores=4)
    assert recipe.step_flops(machine, "translation") == recipe.step_flops(machine, "generation") == most
    assert recipe.large_step_flops(machine) == most // 4
    card = budget(24)
    assert recipe.large_step_flops(card) == recipe.step_flops(card, "translation")
