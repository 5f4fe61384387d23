"""Tests of the sampler that results from the planned one and the requested options."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from nndiff.assemble import setting_of
from nndiff.diffusion.process import PROCESSES
from nndiff.walk.caches import CACHES, Cache, Deep
from nndiff.walk.guides import GUIDES, Guide
from nndiff.walk.layers import Layer, Shifts
from nndiff.walk.part import Setting
from nndiff.walk.rules import RULES, First, Hot, Second
from nndiff.walk.sampler import SamplerPlan, flags, revised_sampler
from nndiff.walk.starts import STARTS
from nndiff.walk.times import Even, Ratio, Sine, Squared
from nndiff.words.errors import NndiffError
from nndiff.words.fields import above, option
from tests.prediction.trained import plan_of
from tests.walks import changed, unet, walk_of

EVERY_THIRD = Deep(3)
PLANNED = {  # the model, and the sampler that its plan states
    "bridge": ({}, walk_of("source", 1000, 1)),
    "ddpm": ({"configuration": "ddpm"}, walk_of("shortcut", 40, 40, eta=1.0, reuse=EVERY_THIRD)),
    "ordered": ({"configuration": "ddpm"}, walk_of("shortcut", 40, 40, order=2, reuse=EVERY_THIRD)),
    "prdit": ({"configuration": "prdit"}, walk_of("shortcut", 60, 60, hot=2, grid=Squared)),
    "generation": (
        {"configuration": "ddpm", "sources": (), "targets": ("CT",)},
        walk_of("noise", 1000, 1000, eta=1.0, overlap=0.0),
    ),
}


def planned(kind):
    """Return the planned sampler of that kind, and what its parts may know of the model."""
    model, own = PLANNED[kind]
    (configuration,) = plan_of(**model).configurations.values()
    return own, setting_of(configuration)


def sampler(kind, **asked):
    """Return the sampler that the model of that kind runs."""
    own, setting = planned(kind)
    revised = revised_sampler(own, asked)
    revised.demand(setting)
    return revised


@pytest.mark.parametrize("kind", list(PLANNED))
def test_asked_for_nothing_it_is_as_planned(kind):
    assert sampler(kind) == planned(kind)[0]


@pytest.mark.parametrize("configuration", ["bridge", "ddpm", "prdit"])
def test_asked_for_nothing_a_plan_of_the_planner_stays(configuration):
    own = plan_of(configuration).configurations[configuration].sampler
    assert revised_sampler(own, {}) == own


def test_ratios_of_a_plan_stay_where_only_steps_are_asked_for():
    own = plan_of("bridge").configurations["bridge"].sampler
    assert isinstance(own.times, Ratio)
    assert revised_sampler(own, {"steps": 12}).times == replace(own.times, steps=12)
    assert revised_sampler(own, {"times": "ratio:high=0.5"}).times == replace(own.times, high=0.5)
    assert revised_sampler(own, {"times": "even"}).times == Even(own.times.first, own.times.steps)


@pytest.mark.parametrize(
    ("kind", "asked", "expected"),
    [
        ("bridge", {"steps": 4}, walk_of("source", 1000, 4)),
        ("bridge", {"ts": 300, "steps": 4}, walk_of("source", 300, 4)),
        ("bridge", {"start": "noise"}, walk_of("noise", 1000, 1)),
        ("bridge", {"start": "draft", "ts": 300, "steps": 3}, walk_of("draft", 300, 3)),
        ("bridge", {"steps": 4, "eta": 1.0}, walk_of("source", 1000, 4, eta=1.0)),
        ("bridge", {"steps": 4, "samples": 8}, walk_of("source", 1000, 4, samples=8)),
        ("ddpm", {"ts": 25}, walk_of("shortcut", 25, 25, eta=1.0, reuse=EVERY_THIRD)),
        ("ddpm", {"ts": 25, "steps": 5}, walk_of("shortcut", 25, 5, eta=1.0, reuse=EVERY_THIRD)),
        ("ddpm", {"steps": 5}, walk_of("shortcut", 40, 5, eta=1.0, reuse=EVERY_THIRD)),
        ("ddpm", {"start": "draft"}, walk_of("draft", 40, 40, eta=1.0, reuse=EVERY_THIRD)),
        ("ddpm", {"start": "noise"}, walk_of("noise", 1000, 1000, eta=1.0, reuse=EVERY_THIRD)),
        ("ddpm", {"start": "source"}, walk_of("source", 1000, 1000, eta=1.0, reuse=EVERY_THIRD)),
        ("ddpm", {"start": "noise", "ts": 500}, walk_of("noise", 500, 500, eta=1.0, reuse=EVERY_THIRD)),
        ("ddpm", {"order": 2, "steps": 10}, walk_of("shortcut", 40, 10, order=2, reuse=EVERY_THIRD)),
        ("ddpm", {"order": 2, "eta": 0.0, "steps": 10}, walk_of("shortcut", 40, 10, order=2, reuse=EVERY_THIRD)),
        ("ddpm", {"order": 1, "eta": 0.0}, walk_of("shortcut", 40, 40, reuse=EVERY_THIRD)),
        ("prdit", {"steps": 7, "hot": 3}, walk_of("shortcut", 60, 7, hot=3, grid=Squared)),
        ("prdit", {"eta": 1.0}, walk_of("shortcut", 60, 60, eta=1.0, grid=Squared)),
        ("prdit", {"order": 2}, walk_of("shortcut", 60, 60, order=2, grid=Squared)),
        ("prdit", {"hot": 0}, walk_of("shortcut", 60, 60, grid=Squared)),
        ("prdit", {"eta": 0.0}, walk_of("shortcut", 60, 60, hot=2, grid=Squared)),  # as every rule but 'first' has it
        ("ordered", {"order": 1}, walk_of("shortcut", 40, 40, reuse=EVERY_THIRD)),
        ("ddpm", {"step_size": 0.25}, walk_of("shortcut", 40, 40, eta=1.0, reuse=EVERY_THIRD, overlap=0.75)),
        ("ddpm", {"hot": 2, "steps": 10, "reuse": 1}, walk_of("shortcut", 40, 10, hot=2)),
        ("ordered", {"hot": 2}, walk_of("shortcut", 40, 40, reuse=EVERY_THIRD, hot=2)),
        ("bridge", {"shifts": 2}, walk_of("source", 1000, 1, shifts=2)),
        ("generation", {"steps": 50}, walk_of("noise", 1000, 50, eta=1.0, overlap=0.0)),
    ],
    ids=str,
)
def test_what_is_asked_for_is_put_in_and_what_follows_from_it_follows(kind, asked, expected):
    assert sampler(kind, **asked) == expected


@pytest.mark.parametrize(
    ("kind", "asked", "changes"),
    [
        ("ddpm", {"rule": "second"}, {"rule": Second()}),
        ("ddpm", {"rule": "first"}, {}),  # which it is, with its own options
        ("ddpm", {"rule": "first:eta=0.5"}, {"rule": First(0.5)}),
        ("ddpm", {"rule": "first", "eta": 0.25}, {"rule": First(0.25)}),
        ("ddpm", {"rule": "second", "order": 2}, {"rule": Second()}),
        ("ddpm", {"rule": "second", "eta": 0.0, "hot": 0}, {"rule": Second()}),
        ("prdit", {"rule": "hot"}, {"rule": Hot(2)}),
        ("prdit", {"rule": "hot:ahead=3"}, {"rule": Hot(3)}),
        ("ddpm", {"rule": "hot", "hot": 4}, {"rule": Hot(4)}),
        ("ddpm", {"times": "sine"}, {"times": Sine(40, 40)}),
        ("ddpm", {"times": "even:steps=5"}, {"times": Even(40, 5)}),
        ("ddpm", {"times": "even:first=30"}, {"times": Even(30, 30)}),
        ("ddpm", {"times": "suited:steps=6", "steps": 5}, {"times": walk_of(first=40, steps=5).times}),
        ("ddpm", {"times": "sine", "ts": 20, "steps": 4}, {"times": Sine(20, 4)}),
    ],
    ids=str,
)
def test_a_rule_and_times_are_named_with_their_options(kind, asked, changes):
    assert sampler(kind, **asked) == replace(sampler(kind), **changes)


def test_further_parts_take_the_place_of_their_own_kind_or_are_added():
    found = sampler("bridge", part=["shifts:places=2", "deep:interval=4,depth=2", "identity"], steps=8)
    assert [part.label() for part in (*found.layers, *found.caches)] == ["", "2 shifts", "reuse every 4 at depth 2"]
    assert [guide.name for guide in found.guides] == ["identity"]


@pytest.mark.parametrize(
    ("kind", "asked", "words"),
    [
        ("ddpm", {"order": 2, "eta": 0.5}, ("Only one step rule can be chosen", "found --eta 0.5 --order 2")),
        ("ddpm", {"hot": 2, "eta": 0.5}, ("Only one step rule can be chosen", "found --eta 0.5 --hot 2")),
        ("ddpm", {"hot": 2, "order": 2}, ("Only one step rule can be chosen", "found --order 2 --hot 2")),
        ("ddpm", {"rule": "hot", "eta": 0.5}, ("Only one step rule can be chosen", "found --rule hot --eta 0.5")),
        ("ddpm", {"rule": "first", "order": 2}, ("Only one step rule can be chosen", "found --rule first --order 2")),
        ("ddpm", {"rule": "second", "hot": 2}, ("Only one step rule can be chosen", "found --rule second --hot 2")),
        ("ddpm", {"order": 3}, ("'order'", "1 or 2")),
        ("prdit", {"hot": -1}, ("'ahead'", "at least 1")),
        ("bridge", {"shifts": 3}, ("has fewer positions", "1 to 2", "found shifts 3", "remedy: pass --shifts 2")),
        ("bridge", {"shifts": 0}, ("'places'", "at least 1")),
        ("prdit", {"shifts": 2}, ("has fewer positions", "1 to 1")),
        ("prdit", {"reuse": 3}, ("cannot reuse features", "--reuse 1")),
        ("bridge", {"samples": 2}, ("the same volume", "found source, 1 step", "--steps 4")),
        ("bridge", {"samples": 2, "start": "noise"}, ("the same volume",)),  # at a bridge's start no noise has room
        ("bridge", {"samples": 0}, ("'samples'", "at least 1")),
        ("bridge", {"ts": 1001}, ("'first'", "1 to 1000")),
        ("bridge", {"ts": -1}, ("'first'", "1 to 1000")),
        ("bridge", {"steps": 1001}, ("'steps'", "1 to 1000")),
        ("bridge", {"eta": 1.5}, ("'eta'", "0 to 1")),
        ("bridge", {"step_size": 1.5}, ("'overlap'", "0 to 0.999")),
        ("bridge", {"start": "nowhere"}, ("no start named 'nowhere'", "did you mean 'noise'")),
        ("bridge", {"stpes": 4}, ("no setting 'stpes'", "did you mean 'steps'")),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(kind, asked, words):
    with pytest.raises(NndiffError) as caught:
        sampler(kind, **asked)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("asked", [{"ts": 0}, {"steps": 0}, {"order": 0}], ids=str)
def test_nought_is_refused_rather_than_taken_for_nothing_asked(asked):
    with pytest.raises(NndiffError):
        sampler("bridge", **asked)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("bridge", {"steps": 2}),  # the first step draws the bridge's noise
        ("bridge", {"ts": 500, "steps": 1}),  # it begins inside the bridge
        ("ddpm", {"eta": 0.0}),
        ("generation", {"eta": 0.0, "steps": 3}),
    ],
    ids=str,
)
def test_where_there_is_noise_on_the_way_several_samples_are_allowed(kind, asked):
    assert sampler(kind, samples=3, **asked).samples == 3


def test_a_planned_starting_step_holds_for_every_planned_start():
    assert revised_sampler(walk_of("source", 500, 4), {}).times.first == 500


# ---------------------------------------------------------------- kept features


@pytest.mark.parametrize(
    ("kind", "asked", "expected"),
    [
        ("ddpm", {"reuse": 5}, Deep(5)),
        ("ddpm", {"reuse": 1}, Deep(1)),
        ("ddpm", {"reuse_depth": 2}, Deep(3, 2)),
        ("ddpm", {"reuse_threshold": 0.1}, Deep(1, 1, (), 0.1)),
        ("ddpm", {"steps": 2}, Deep(1)),  # the planned interval is longer than this walk
        ("bridge", {"steps": 4, "reuse": 2}, Deep(2)),
        ("bridge", {"reuse": 3}, Deep(3)),  # pointless in one step, and said to be
    ],
    ids=str,
)
def test_reuse_is_as_asked_for(kind, asked, expected):
    assert sampler(kind, **asked).part(Deep) == expected


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"reuse": 41}, ("longer than the walk", "1 to 40, the number of steps", "found 41")),
        ({"reuse": 0}, ("'interval'", "at least 1")),
        ({"reuse_depth": 99}, ("does not have this reuse depth", "1 (cheapest) to")),
        ({"reuse_depth": 0}, ("'depth'", "at least 1")),
        ({"reuse_threshold": -1.0}, ("'threshold'", "at least 0")),
    ],
    ids=str,
)
def test_reuse_that_cannot_be_is_refused(asked, words):
    with pytest.raises(NndiffError) as caught:
        sampler("ddpm", **asked)
    for word in words:
        assert word in str(caught.value)


def test_a_list_of_full_steps_holds_for_its_own_walk_alone():
    own, _ = planned("ddpm")
    tuned = changed(own, reuse=Deep(3, 1, (0, 5, 9)))
    assert revised_sampler(tuned, {}).part(Deep).listed == (0, 5, 9)
    assert revised_sampler(tuned, {"steps": 20}).part(Deep) == Deep(3)
    assert revised_sampler(tuned, {"reuse": 4}).part(Deep) == Deep(4)


def test_one_step_with_reuse_is_said_to_be_pointless():
    (line,) = sampler("bridge", reuse=3).oddities()
    assert "no effect" in line


# ---------------------------------------------------------------- flags of parts that are not planned


@dataclass(frozen=True)
class Halved(Guide):
    name = "halved"

    by: float = option(2.0, above(0), help="that the estimate is divided by", flag="halved_by", metavar="X", type=float)

    def __call__(self, course, x_t, estimate, t, s):
        return x_t, replace(estimate, x0=estimate.x0 / self.by)

    def draws_noise(self, process, times):
        return self.by == 7


def test_a_guides_own_flag_adds_it_and_changes_a_planned_one(monkeypatch) -> None:
    monkeypatch.setitem(GUIDES.table, "halved", Halved)
    assert "halved_by" in {flag.name for flag in flags()}
    added = revised_sampler(SamplerPlan(), {"halved_by": 3.0})
    assert added.guides == (Halved(3.0),)
    assert revised_sampler(added, {"halved_by": 4.0}).guides == (Halved(4.0),)
    assert revised_sampler(added, {}).guides == (Halved(3.0),)


def test_noise_that_a_guide_draws_makes_draws_differ() -> None:
    setting = Setting(PROCESSES["bridge"](), unet(), (2, 2, 2))
    sampler = SamplerPlan(start=STARTS["source"]())
    assert not replace(sampler, guides=(Halved(2.0),)).is_random(setting)
    assert replace(sampler, guides=(Halved(7.0),)).is_random(setting)


@dataclass(frozen=True)
class Slow(First):
    name = "slow"

    pace: float = option(1.0, above(0), help="of the step", flag="slow_pace", metavar="X", type=float)


def test_another_rules_own_flag_selects_it(monkeypatch) -> None:
    monkeypatch.setitem(RULES.table, "slow", Slow)
    assert revised_sampler(SamplerPlan(), {"slow_pace": 0.5}).rule == Slow(pace=0.5)
    assert revised_sampler(SamplerPlan(), {}).rule == First(0.0)


@dataclass(frozen=True)
class Quarter(Cache):
    name = "quarter"

    def work(self, steps, share):
        return steps / 4


def test_the_savings_of_two_caches_multiply() -> None:
    sampler = walk_of(steps=8, reuse=Deep(2)).with_part(Quarter())
    assert sampler.work(lambda depth: 0.5) == pytest.approx(8 * (6 / 8) * (2 / 8))


@dataclass(frozen=True)
class Twice(Layer):
    name = "twice"
    sees_volume = True

    @property
    def passes(self):
        return 2


def test_a_layer_that_sees_the_volume_counts_its_evaluations() -> None:
    assert replace(walk_of(steps=3), layers=(Twice(), Shifts(1))).work(lambda depth: 1.0) == 6


@dataclass(frozen=True)
class Paced(Cache):
    name = "paced"

    every: int = option(1, above(0), help="steps", flag="paced_every", metavar="N", type=int)


def test_a_caches_own_flag_changes_a_planned_one(monkeypatch) -> None:
    monkeypatch.setitem(CACHES.table, "paced", Paced)
    own = SamplerPlan(caches=(Paced(2),))
    assert revised_sampler(own, {"paced_every": 5}).caches == (Paced(5),)
    assert revised_sampler(own, {}).caches == (Paced(2),)
