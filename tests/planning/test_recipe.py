"""Rules about the method, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nndiff.diffusion.process import DDPM, Bridge, Trig
from nndiff.planning import recipe
from tests.planning.fingerprints import budget


def test_the_starting_step_is_where_the_noise_is_a_multiple_of_the_distance() -> None:
    # sqrt(1 - abar) / sqrt(abar) at step 50 of the linear schedule is 0.1728
    assert recipe.start_step("ddpm", "shortcut", "x0_skip", DDPM(), [0.1727], "").value == 50
    assert recipe.start_step("ddpm", "shortcut", "eps", DDPM(), [0.01727], "").value == 50
    assert recipe.start_step("ddpm", "shortcut", "x0_skip", DDPM(), [0.0], "").value == 1
    assert recipe.start_step("prdit", "shortcut", "both", Trig(), [0.4999], "").value == 500  # sigma_eps·tan(pi/4)
    assert recipe.start_step("bridge", "source", "x0", Bridge(), [0.5], "").value == 1000


def test_a_step_that_costs_more_gets_fewer_steps() -> None:
    cheap, dear = (recipe.training_steps(budget(24), flops).value for flops in (10**13, 10**14))
    assert cheap > dear >= 20_000
    assert recipe.training_steps(budget(24, "cpu"), 10**11).value <= 20_000


def test_without_bf16_the_plan_says_fp32() -> None:
    assert recipe.precision(budget(24)).value == "bf16"
    assert recipe.precision(replace(budget(24), bf16=False)).value == "fp32"


@pytest.mark.parametrize(
    ("name", "start", "steps", "interval"),
    [("bridge", "source", 1, 1), ("ddpm", "shortcut", 50, 3), ("ddpm", "noise", 1000, 1), ("ddpm", "shortcut", 2, 1)],
)
def test_features_are_reused_where_that_was_measured_to_pay(name, start, steps, interval) -> None:
    assert recipe.reuse_interval(name, start, steps).value == interval


def test_wide_networks_learn_more_slowly() -> None:
    assert recipe.learning_rate("bridge", 32, 50_000).value == recipe.learning_rate("bridge", 64, 50_000).value == 2e-4
    assert recipe.learning_rate("bridge", 128, 50_000).value == 1e-4
    assert recipe.learning_rate("bridge", 64, 1000).value == recipe.learning_rate("bridge", 32, 1000).value / 2 == 5e-4


@pytest.mark.parametrize(
    ("prediction", "anchor", "share", "skip"),
    [
        ("x0", (0,), 0.9, (1,)),
        ("x0_skip", (1, 0), 0.9, (3, 2)),
        ("x0", (0,), 0.3, ()),
        ("eps", (0,), 0.9, ()),
        ("residual", (0,), 0.9, ()),
        ("x0", (), None, ()),
    ],
)
def test_where_noise_is_taken_away_an_image_starts_from_its_anchor(prediction, anchor, share, skip) -> None:
    """The network sees x_t (a channel a target), then all sources."""
    assert recipe.skip(prediction, anchor, share) == skip


def test_shifting_the_grid_is_left_to_whoever_sees_one() -> None:
    assert [recipe.shifts(factor).value for factor in ((1, 1, 1), (1, 2, 2), (4, 4, 4))] == [1, 1, 1]
    assert [len(recipe.shifts(factor).alternatives) for factor in ((1, 1, 1), (2, 2, 2))] == [0, 1]
