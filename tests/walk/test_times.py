"""Where a walk stops on its way: every grid falls from its first time to 0, and the suited one is as its rule asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from nndiff.diffusion.process import PROCESSES, Process
from nndiff.walk.rules import RULES, First, Second
from nndiff.walk.times import TIMES, Even, Ratio, Sine, Suited
from tests.walks import even_times

BRIDGES = {"bridge", "i2sb", "rddm"}


@pytest.mark.parametrize("name", list(TIMES))
@pytest.mark.parametrize("process", list(PROCESSES))
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize(("first", "steps"), [(1000, 1), (1000, 7), (40, 40), (1, 1)])
def test_times_fall_from_the_first_to_nought(name: str, process: str, rule: str, first: int, steps: int) -> None:
    times = TIMES[name](first, steps)(PROCESSES[process](), RULES[rule]())
    assert len(times) == steps + 1
    assert times[0] == first / 1000
    assert times[-1] == 0.0
    assert all(t > s for t, s in pairwise(times))


def test_even_times_are_those_of_the_loop() -> None:
    assert Even(300, 6)(PROCESSES["ddpm"](), First()) == even_times(0.3, 6)


def test_sine_is_dense_at_both_ends() -> None:
    steps = [t - s for t, s in pairwise(Sine(1000, 8)(PROCESSES["bridge"](), First()))]
    assert steps[:4] == sorted(steps[:4])
    assert steps == pytest.approx(steps[::-1])
    assert sum(steps) == pytest.approx(1)


@pytest.mark.parametrize("process", list(PROCESSES))
@pytest.mark.parametrize("rule", [First(), Second()], ids=str)
def test_suited_is_sine_where_a_second_order_walks_a_bridge_and_else_even(process: str, rule: First | Second) -> None:
    grid = Sine if rule == Second() and process in BRIDGES else Even
    there = PROCESSES[process]()
    assert Suited(1000, 9)(there, rule) == grid(1000, 9)(there, rule)


def test_every_step_is_as_many_as_the_first_counts() -> None:
    assert Suited(74, 5).whole() == Suited(74, 74)
    assert [times.steps for times in Suited(74, 74).paces(from_source=False)] == [37, 14, 7]
    assert [times.steps for times in Suited(1000, 1).paces(from_source=True)] == [1, 2, 4, 10, 20]


# ---------------------------------------------------------------- equal steps in log(sigma/a)

HIGH, LOW = 0.24, 0.003
every_process = pytest.mark.parametrize("process", [row() for row in PROCESSES.table.values()], ids=list(PROCESSES))


def walked(process: Process, **words: float) -> list[float]:
    times = replace(Ratio(1000, 9, high=HIGH, low=LOW), **words)(process, Second())
    assert all(t > s for t, s in pairwise(times))
    assert times[-1] == 0.0
    return times


def demand_even(process: Process, times: Sequence[float], high: float, low: float) -> None:
    """Demand ratios at `times` from `high` to `low` with equal steps in their logarithm."""
    levels = [math.log(process.ratio(t)) for t in times]
    step = math.log(low / high) / (len(times) - 1)
    assert levels == pytest.approx([math.log(high) + i * step for i in range(len(times))], abs=1e-6)


@every_process
@pytest.mark.parametrize("steps", [3, 4, 10, 50])
def test_from_the_start_one_step_leads_to_the_largest_ratio_and_the_others_are_equal(
    process: Process, steps: int
) -> None:
    first, *inside, _ = walked(process, steps=steps)
    assert (first, len(inside)) == (1.0, steps - 1)
    demand_even(process, inside, HIGH, LOW)


@every_process
def test_one_step_has_no_ratio_and_two_have_the_middle_one(process: Process) -> None:
    assert walked(process, steps=1) == [1.0, 0.0]
    assert walked(process, steps=1, first=300) == [0.3, 0.0]
    _, middle, _ = walked(process, steps=2)
    assert process.ratio(middle) == pytest.approx(math.sqrt(HIGH * LOW))


@every_process
@pytest.mark.parametrize("first", [100, 300])
def test_a_late_start_goes_from_its_own_ratio_to_the_smallest(process: Process, first: int) -> None:
    begins = process.ratio(first / 1000)
    times = walked(process, first=first, high=2 * begins, low=begins / 30)
    assert times[0] == first / 1000
    assert len(times) == 10
    demand_even(process, times[:-1], begins, begins / 30)


@every_process
def test_a_start_below_the_smallest_ratio_goes_down_by_the_same_factor(process: Process) -> None:
    begins = process.ratio(0.1)
    times = walked(process, first=100, high=40 * begins, low=2 * begins)
    demand_even(process, times[:-1], begins, begins / 20)


def test_times_by_ratio_are_the_same_noise_for_every_process() -> None:
    found = [
        [process.ratio(t) for t in walked(process)[1:-1]] for process in (row() for row in PROCESSES.table.values())
    ]
    assert all(ratios == pytest.approx(found[0]) for ratios in found)
