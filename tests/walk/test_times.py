"""Where a walk stops on its way: every grid falls from its first time to 0, and the suited one is as its rule asks."""

from __future__ import annotations

from itertools import pairwise

import pytest

from nndiff.diffusion.process import PROCESSES
from nndiff.walk.rules import RULES, First, Second
from nndiff.walk.times import TIMES, Even, Sine, Suited
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
