"""Tests of the search for a sampler: candidates and choice, with a bench whose scores and seconds are formulas."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nndiff.diffusion.process import DDPM, PROCESSES
from nndiff.sampling import inference
from nndiff.sampling.inference import Row
from nndiff.sampling.scoring import Figures
from nndiff.tuning import search as module
from nndiff.tuning.candidates import rounds, without_caches
from nndiff.tuning.measure import Bench, Measured
from nndiff.tuning.run import ends, points, summary
from nndiff.tuning.search import CASES_OF_LONG, NOBODY_SEES, OBJECTIVES, Search, behind, frontier, tune
from nndiff.walk.caches import Cache, Deep
from nndiff.walk.part import Setting
from nndiff.walk.rules import First, Hot, Second
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from nndiff.words.strict_json import decode, encode
from tests.walks import changed, unet, walk_of

CASES = ("a", "b", "c")
PLANNED = walk_of("shortcut", 74, 74, eta=1.0, reuse=Deep(3))
BRIDGE = walk_of("source", 1000, 1)
SHARE = 0.25  # of a full step's work that a shallow one does


class Invented(Bench):
    """Figures by a formula; a second an evaluation, in work rather than in waiting."""

    def __init__(
        self,
        figures: Callable[[SamplerPlan, str], Figures],
        process: Any,
        task: str = "translation",
        pace: Callable[[], float] = lambda: 1.0,  # seconds of an evaluation
    ):
        network = unet(blocks=2)
        model = SimpleNamespace(
            configuration=SimpleNamespace(network=network, prediction="x0", sampler=PLANNED),
            setting=Setting(process, network, (1, 1, 1)),
        )
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "plan", SimpleNamespace(task=task))
        object.__setattr__(self, "figures", figures)
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "pace", pace)

    def measure(self, sampler: SamplerPlan, cases: Sequence[str]) -> Measured:
        self.asked.append((sampler, tuple(cases)))
        seconds = {case: self.work(sampler) * self.pace() for case in cases}
        return Measured(sampler, {case: self.figures(sampler, case) for case in cases}, seconds, self.work(sampler))

    def share(self, depth: int) -> float:
        return SHARE * depth

    def changes(self, sampler: SamplerPlan, case: str, depth: int) -> list[float]:
        return [0.1] * (sampler.steps - 1)


def by_start(sampler: SamplerPlan, case: str) -> Figures:
    """Best at ts 25, every step walked; features that are kept cost a little with their age."""
    first = sampler.times.first
    loss = abs(math.log(first / 25)) + 0.01 * (sampler.part(Deep).interval - 1)
    loss += 0.2 if sampler.steps < first else 0.0
    return Figures(30 + ord(case) - loss, 0.9, 0.1, 1.0)


def searching(figures=by_start, process=None, **words: Any) -> Search:
    return Search(Invented(figures, process or DDPM(1000)), CASES, words.pop("budget", 1e9), **words)


def test_the_planned_sampler_is_measured_first_whatever_the_time() -> None:
    search = searching(budget=0.0)
    assert search.run(PLANNED).sampler == PLANNED
    assert [row.sampler for row in search.rows] == [PLANNED]
    assert search.left_out


def test_the_best_start_is_found_and_then_the_fewest_evaluations_that_are_as_good() -> None:
    search = searching()
    chosen = search.run(PLANNED).sampler
    assert chosen.times.first == 25
    cheapest = min(
        (row for row in search.rows if row.sampler.times.first == 25 and search.as_good(row, search.best())),
        key=lambda row: row.work,
    )
    assert chosen == cheapest.sampler
    assert chosen == walk_of("shortcut", 25, 25, eta=1.0, reuse=Deep(5))  # 10 behind is 0.09: somebody sees


def test_every_kind_of_candidate_is_tried() -> None:
    search = searching()
    search.run(PLANNED)
    tried = [row.sampler for row in search.rows]
    assert {s.start.name for s in tried} == {"shortcut", "noise", "draft"}
    assert {s.rule.order for s in tried} == {1, 2}
    assert {s.samples for s in tried} == {1, 4}
    assert any(s.part(Deep).listed for s in tried)
    assert {s.part(Deep).interval for s in tried} >= {1, 3, 5}
    assert {s.part(Deep).depth for s in tried} == {1, 2}
    assert len(tried) == len(set(tried))


def test_on_a_bridge_steps_noise_and_order_are_tried_and_a_sampler_that_ignores_them_stays_at_one() -> None:
    search = searching(lambda sampler, case: Figures(30, 0.9, 0.1, 1.0), PROCESSES.make("bridge", {"gamma": 0.1}))
    assert search.run(BRIDGE).sampler == BRIDGE
    tried = [row.sampler for row in search.rows]
    assert {(s.steps, s.rule) for s in tried} >= {(1, First(0.0)), (4, First(1.0)), (10, Second()), (20, First(0.0))}
    assert "noise" not in {s.start.name for s in tried}


def test_a_late_start_is_tried_with_every_rule_whichever_is_planned() -> None:
    for planned in (First(1.0), First(0.0), Second()):
        search = searching()
        search.run(replace(PLANNED, rule=planned))
        several = {row.sampler.rule for row in search.rows if row.sampler.steps >= 3}
        assert several >= {First(0.0), First(1.0), Second()}


def test_a_walk_of_a_thousand_steps_is_measured_on_two_cases_at_most() -> None:
    search = searching()
    search.run(PLANNED)
    long = [cases for sampler, cases in search.bench.asked if sampler.steps > 250]
    assert long
    assert all(len(cases) == CASES_OF_LONG for cases in long)


def measured(cost: float, *psnr: float, texture_db: float = 0.0) -> Measured:
    cases = CASES[: len(psnr)]
    figures = {case: Figures(value, 0.9, 0.1, 1.0, texture_db) for case, value in zip(cases, psnr, strict=True)}
    return Measured(changed(PLANNED, steps=round(cost)), figures, dict.fromkeys(cases, cost), work=cost)


def chosen_of(*rows: Measured, **words: Any) -> Measured:
    search = searching(**words)
    search.rows = list(rows)
    return search.chosen()


def test_the_cheapest_within_one_standard_error_is_chosen() -> None:
    best = measured(100, 32.0, 30.0, 31.0)
    unsure = measured(10, 30.0, 31.9, 29.9)  # behind by 0.4, give or take 1.2
    sure = measured(5, 31.0, 29.0, 30.0)  # behind by 1.0 on every case
    assert chosen_of(best, unsure, sure) is unsure
    assert chosen_of(best, sure) is best
    assert chosen_of(best, measured(5, 31.97, 29.97, 30.97)) is not best  # surely behind, by what nobody sees


def test_nothing_slower_than_asked_is_chosen_and_the_fastest_where_all_are() -> None:
    rows = measured(100, 32.0, 32.0), measured(10, 31.0, 31.0), measured(5, 30.0, 30.0)
    assert chosen_of(*rows) is rows[0]
    assert chosen_of(*rows, at_most=50) is rows[1]
    assert chosen_of(*rows, at_most=1) is rows[2]


def test_the_objective_decides_what_texture_is_worth() -> None:
    blurred, grained = measured(10, 31.0, 31.0, texture_db=10.0), measured(20, 30.0, 30.0)
    assert chosen_of(blurred, grained, objective="fidelity") is blurred
    assert chosen_of(blurred, grained, objective="texture") is grained
    assert OBJECTIVES["fidelity"] < OBJECTIVES["balanced"] < OBJECTIVES["texture"]


def test_a_row_is_the_mean_over_the_cases_that_have_a_figure_and_json_can_hold_it() -> None:
    figures = {
        "a": Figures(30, 0.9, 0.1, 1.0, texture_db=2.0, hf_body=0.5),
        "b": Figures(32, 0.9, 0.1, 0.5, texture_db=4.0),
    }
    row = Measured(PLANNED, figures, {"a": 1.0, "b": 1.0}, 25.0).row(0.5)
    assert (row.texture_db, row.hf_body, row.hf_air, row.correlation_bias) == (3.0, 0.5, None, None)
    assert row.score == pytest.approx(31 + 18 - 0.5 * 3.0)
    assert decode(Row, json.loads(json.dumps(encode(row), allow_nan=False))) == row


@given(st.lists(st.floats(0, 40), min_size=3, max_size=3), st.lists(st.floats(0, 40), min_size=3, max_size=3))
def test_behind_is_the_paired_mean_and_its_standard_error(one: list[float], other: list[float]) -> None:
    mean, error = behind(measured(1, *one), measured(1, *other), 0.0)
    differences = [b - a for a, b in zip(one, other, strict=True)]
    centre = sum(differences) / 3
    assert mean == pytest.approx(centre, abs=1e-9)
    assert error == pytest.approx(math.sqrt(sum((d - centre) ** 2 for d in differences) / 2 / 3), abs=1e-6)


def test_a_row_of_fewer_cases_is_compared_on_those_it_has() -> None:
    assert behind(measured(1, 30.0, 31.0, 10.0), measured(1, 31.0, 32.0), 0.0) == pytest.approx((1.0, 0.0))
    assert behind(measured(1, 30.0), measured(1, 31.0), 0.0) == pytest.approx((1.0, 0.0))


def test_on_the_frontier_each_is_dearer_and_better_than_the_last() -> None:
    rows = [measured(1, 30.0), measured(2, 29.0), measured(3, 31.0), measured(4, 31.0), measured(5, 32.0)]
    assert frontier(rows, 0.0) == [rows[0], rows[2], rows[4]]


def test_the_report_is_on_cases_that_did_not_choose_with_the_planned_and_the_best_beside() -> None:
    search = searching()
    found = tune(search, PLANNED, ("x", "y"), "checkpoint_best.pt", "abc")
    assert (found.chosen_on, found.reported_on) == (CASES, ("x", "y"))
    assert found.report[0].sampler == found.sampler
    assert PLANNED in [row.sampler for row in found.report]
    assert {row.cases for row in found.report} == {2}
    assert found.best_minus_chosen <= max(found.standard_error, NOBODY_SEES)
    for sampler, cases in search.bench.asked:
        assert not ({"x", "y"} & set(cases)) or sampler in [row.sampler for row in found.report]


def test_with_nobody_else_the_cases_that_chose_report_and_nothing_is_measured_twice() -> None:
    search = searching()
    found = tune(search, PLANNED, (), "c", "w")
    assert found.reported_on == CASES
    asked = [sampler for sampler, _ in search.bench.asked]
    assert len(asked) == len(set(asked))


def test_the_best_is_told_apart_from_the_chosen_and_the_planned_is_named_in_the_picture() -> None:
    search = searching()
    found = tune(search, PLANNED, ("x", "y"), "c", "w")
    assert found.best == search.best().sampler != found.sampler
    assert [row.sampler for row in found.report] == [found.sampler, found.best, PLANNED]
    shown = dict(zip([row.sampler for row in search.rows], points(search, found), strict=True))
    assert shown[PLANNED].label == f"planned: {PLANNED.label()}"
    assert shown[found.sampler].label == found.sampler.label()
    assert [sampler for sampler, point in shown.items() if point.chosen] == [found.sampler]
    front = {row.sampler for row in frontier(search.rows, search.texture)}
    assert {sampler for sampler, point in shown.items() if point.label} == front | {PLANNED, found.sampler}


def test_the_file_is_the_same_however_long_the_evaluations_took(tmp_path) -> None:
    files = []
    for seed in (0, 1):
        pace = random.Random(seed).random
        search = Search(Invented(by_start, DDPM(1000), pace=pace), CASES, 1e9)
        found = tune(search, PLANNED, ("x", "y"), "c", "w")
        assert all(row.seconds is not None for row in found.sweep + found.report), "told to who asked"
        files.append(inference.save(tmp_path / str(seed), found).read_bytes())
    assert files[0] == files[1]
    assert b"seconds" not in files[0]
    read = inference.load(tmp_path / "0", "c", PLANNED, "w")
    assert read is not None
    assert [row.evaluations for row in read.sweep] == sorted(search.bench.work(row.sampler) for row in read.sweep)
    assert {row.seconds for row in read.sweep} == {None}


def test_where_there_was_no_time_for_a_dial_that_is_said() -> None:
    search = searching(budget=0.0)
    found = tune(search, PLANNED, ("x",), "c", "w")
    assert found.untried == len(search.left_out) > 0
    assert f"no dial yet: {found.untried} samplers were not measured" in ends(found)
    assert "no sampler has a better texture" in ends(replace(found, untried=0))


def test_one_case_has_no_standard_error_and_the_best_is_not_compared_with_itself() -> None:
    one, two = (tune(searching(), PLANNED, cases, "c", "w") for cases in (("x",), ("x", "y")))
    assert one.best != one.sampler
    assert "differs from the chosen one by +0." in summary(one)
    assert "standard error" not in summary(one)
    assert "(standard error)" in summary(two)
    assert "differs" not in summary(replace(one, best=one.sampler))


def test_generation_has_nothing_to_compare_with() -> None:
    search = Search(Invented(by_start, DDPM(1000), task="generation"), CASES, 1e9)
    with pytest.raises(NndiffError, match="have no true target"):
        tune(search, PLANNED, (), "c", "w")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], tuple[Search, float]]:
    """timed(budget) → a search that ran by a clock that the work moves, and the seconds it took."""

    def run(budget: float) -> tuple[Search, float]:
        search = searching(budget=budget)
        spent = [0.0]
        real = search.bench.measure

        def measure(sampler, cases):
            row = real(sampler, cases)
            spent[0] += sum(row.seconds.values())
            return row

        object.__setattr__(search.bench, "measure", measure)
        monkeypatch.setattr(module.time, "perf_counter", lambda: spent[0])
        search._began = 0.0
        search.run(PLANNED)
        return search, spent[0]

    return run


def test_time_is_kept_by_what_evaluations_were_measured_to_cost(timed) -> None:
    """The end comes before the budget does, and cheap candidates were tried."""
    search, spent = timed(2000.0)
    assert spent <= 2000.0
    assert any(sampler.start.name == "noise" for sampler in search.left_out)
    assert len(search.rows) > 10


def test_where_time_is_enough_nothing_is_left_out(timed) -> None:
    _, whole = timed(1e9)
    search, spent = timed(1.001 * whole)
    assert spent == whole
    assert search.left_out == []


@pytest.mark.parametrize("process", [DDPM(1000), PROCESSES.make("bridge", {"gamma": 0.1})], ids=["ddpm", "bridge"])
@settings(deadline=None, max_examples=20)
@given(steps=st.integers(1, 1000), ts=st.integers(1, 1000))
def test_every_candidate_is_a_sampler_that_can_run(process, steps: int, ts: int) -> None:
    best = walk_of("shortcut", ts, min(steps, ts), eta=1.0)
    setting = Setting(process, unet(blocks=2), (1, 1, 1))
    for a_round in rounds(setting):
        for candidate in a_round(best):
            candidate.demand(setting)
            assert candidate.part(Deep).interval <= max(1, candidate.steps)
            assert candidate.label()


def test_where_hot_was_planned_its_neighbours_are_tried() -> None:
    search = searching(lambda sampler, case: Figures(30, 0.9, 0.1, 1.0))
    search.run(walk_of("shortcut", 20, 20, hot=2))
    assert {row.sampler.rule for row in search.rows} >= {Hot(1), Hot(2), Hot(3)}


@dataclass(frozen=True)
class Always(Cache):
    """Keeps something whatever its options are."""

    name = "always"

    @property
    def is_identity(self) -> bool:
        return False


def test_a_sampler_without_caches_keeps_nothing() -> None:
    sampler = walk_of("source", 1000, 4, reuse=Deep(2)).with_part(Always())
    assert without_caches(sampler).caches == (Deep(),)
