"""The cost model of many workers: exact where there is no chance, and near its simulation where there is."""

from __future__ import annotations

import pytest

from benchmarks.nodes import Work, needed, rows


def test_without_chance_the_simulation_is_exact() -> None:
    work = Work(cases=64, seconds=2.0, load=4.0, spread=0.0, failures=0.0)
    assert (work.parts, work.part) == (8, 20.0)
    assert work.simulated(1, 0) == pytest.approx(160)
    assert work.simulated(8, 0) == pytest.approx(20)
    assert work.simulated(5, 0) == pytest.approx(40), "the last three wait for a second round"
    assert work.predicted(1) == pytest.approx(160)


@pytest.mark.parametrize("workers", [1, 7, 32])
@pytest.mark.parametrize("failures", [0.0, 0.5])
@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_the_closed_form_is_near_the_simulation(workers: int, failures: float, spread: float) -> None:
    work = Work(cases=4000, seconds=3.0, load=8.0, spread=spread, failures=failures)
    ((_, predicted, simulated, late),) = rows(work, [workers], trials=8)
    assert predicted == pytest.approx(simulated, rel=0.1)
    assert late >= simulated * 0.999


def test_the_fewest_workers_that_are_in_time() -> None:
    work = Work(cases=4000, seconds=3.0)
    n = needed(work, hours=0.5)
    assert work.predicted(n) <= 1800 < work.predicted(n - 1)
    assert needed(work, hours=1e-3) == work.parts


def test_a_worker_that_dies_gives_its_part_back() -> None:
    """One worker alone does all of the work, and what it lost besides."""
    calm, deadly = (Work(cases=160, seconds=5.0, spread=0.0, failures=f) for f in (0.0, 20.0))
    assert all(calm.simulated(1, 0) < deadly.simulated(1, seed) for seed in range(5))


def test_half_of_a_part_is_lost_with_its_worker() -> None:
    """Parts of eight minutes, whose worker dies once an hour."""
    work = Work(cases=800, seconds=60.0, spread=0.0, failures=1.0)
    ((_, predicted, simulated, _),) = rows(work, [1], trials=20)
    assert predicted == pytest.approx(simulated, rel=0.03)
