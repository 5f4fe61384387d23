"""From what was planned and what is asked for to the sampler that runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nndiff.prediction.sampling import demand_sampler, sampler_of

from nndiff.checkpoint import BEST
from nndiff.prediction import Request, models
from nndiff.walk.caches import ReusePlan
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from tests.prediction.trained import model_folder

EVERY_THIRD = ReusePlan(3)  # what ddpm plans
PLANNED = {
    "bridge": {},
    "ddpm": {"configuration": "ddpm", "start_step": 40, "steps": 40},
    "ordered": {"configuration": "ddpm", "start_step": 40, "steps": 40, "eta": 0.0, "order": 2},
    "prdit": {"configuration": "prdit", "start_step": 60, "steps": 60},
    "generation": {"configuration": "ddpm", "sources": (), "targets": ("CT",)},
}


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    """sampler(kind, **asked) → the sampler that the model of that kind runs."""
    root = tmp_path_factory.mktemp("models")
    trained = {
        kind: models.load(model_folder(root / kind, **words), None, BEST, torch.device("cpu"), None)
        for kind, words in PLANNED.items()
    }

    def resolve(kind, **asked):
        sampler = sampler_of(Request(Path("out"), Path("model"), **asked), trained[kind])
        demand_sampler(sampler, trained[kind])
        return sampler

    return resolve


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bridge", SamplerPlan("source", 1000, 1, 0.0, 1)),
        ("ddpm", SamplerPlan("shortcut", 40, 40, 1.0, 1, reuse=EVERY_THIRD)),
        ("prdit", SamplerPlan("shortcut", 60, 60, 0.0, 1, hot=2)),
        ("generation", SamplerPlan("noise", 1000, 1000, 1.0, 1)),
    ],
)
def test_asked_for_nothing_it_is_as_planned(sampler, kind, expected):
    assert sampler(kind) == expected


@pytest.mark.parametrize(
    ("kind", "asked", "expected"),
    [
        ("bridge", {"steps": 4}, SamplerPlan("source", 1000, 4, 0.0, 1)),
        ("bridge", {"ts": 300, "steps": 4}, SamplerPlan("source", 300, 4, 0.0, 1)),
        ("bridge", {"start": "noise"}, SamplerPlan("noise", 1000, 1, 0.0, 1)),
        ("bridge", {"start": "draft", "ts": 300, "steps": 3}, SamplerPlan("draft", 300, 3, 0.0, 1)),
        ("bridge", {"steps": 4, "eta": 1.0}, SamplerPlan("source", 1000, 4, 1.0, 1)),
        ("bridge", {"steps": 4, "samples": 8}, SamplerPlan("source", 1000, 4, 0.0, 1, 8)),
        ("ddpm", {"ts": 25}, SamplerPlan("shortcut", 25, 25, 1.0, 1, reuse=EVERY_THIRD)),
        ("ddpm", {"ts": 25, "steps": 5}, SamplerPlan("shortcut", 25, 5, 1.0, 1, reuse=EVERY_THIRD)),
        ("ddpm", {"steps": 5}, SamplerPlan("shortcut", 40, 5, 1.0, 1, reuse=EVERY_THIRD)),
        ("ddpm", {"start": "draft"}, SamplerPlan("draft", 40, 40, 1.0, 1, reuse=EVERY_THIRD)),
        ("ddpm", {"start": "noise"}, SamplerPlan("noise", 1000, 1000, 1.0, 1, reuse=EVERY_THIRD)),
        ("ddpm", {"start": "source"}, SamplerPlan("source", 1000, 1000, 1.0, 1, reuse=EVERY_THIRD)),
        ("ddpm", {"start": "noise", "ts": 500}, SamplerPlan("noise", 500, 500, 1.0, 1, reuse=EVERY_THIRD)),
        ("ddpm", {"order": 2, "steps": 10}, SamplerPlan("shortcut", 40, 10, 0.0, 2, reuse=EVERY_THIRD)),
        ("ddpm", {"order": 2, "eta": 0.0, "steps": 10}, SamplerPlan("shortcut", 40, 10, 0.0, 2, reuse=EVERY_THIRD)),
        ("ddpm", {"order": 1, "eta": 0.0}, SamplerPlan("shortcut", 40, 40, 0.0, 1, reuse=EVERY_THIRD)),
        ("prdit", {"steps": 7, "hot": 3}, SamplerPlan("shortcut", 60, 7, 0.0, 1, hot=3)),
        ("prdit", {"eta": 1.0}, SamplerPlan("shortcut", 60, 60, 1.0, 1)),
        ("prdit", {"order": 2}, SamplerPlan("shortcut", 60, 60, 0.0, 2)),
        ("ddpm", {"hot": 2, "steps": 10, "reuse": 1}, SamplerPlan("shortcut", 40, 10, 0.0, 1, hot=2)),
        ("ordered", {"hot": 2}, SamplerPlan("shortcut", 40, 40, 0.0, 1, reuse=EVERY_THIRD, hot=2)),
        ("bridge", {"shifts": 2}, SamplerPlan("source", 1000, 1, 0.0, 1, shifts=2)),
        ("generation", {"steps": 50}, SamplerPlan("noise", 1000, 50, 1.0, 1)),
    ],
    ids=str,
)
def test_what_is_asked_for_is_put_in_and_what_follows_from_it_follows(sampler, kind, asked, expected):
    assert sampler(kind, **asked) == expected


@pytest.mark.parametrize(
    ("kind", "asked", "words"),
    [
        ("ddpm", {"order": 2, "eta": 0.5}, ("second order is deterministic", "found eta 0.5")),
        ("ddpm", {"hot": 2, "eta": 0.5}, ("step rule of its own", "found hot 2, order 1, eta 0.5")),
        ("prdit", {"hot": -1}, ("'hot'", "at least 0")),
        ("bridge", {"shifts": 3}, ("so many places", "1 to 2", "found shifts 3")),
        ("bridge", {"shifts": 0}, ("'shifts'", "at least 1")),
        ("prdit", {"shifts": 2}, ("so many places", "1 to 1")),
        ("prdit", {"reuse": 3}, ("keeps no features", "--reuse 1")),
        ("bridge", {"samples": 2}, ("the same volume", "source, 1 steps, eta 0", "--steps 4")),
        ("bridge", {"samples": 2, "start": "noise"}, ("the same volume",)),  # at a bridge's start no noise has room
        ("bridge", {"samples": 0}, ("'samples'", "at least 1")),
        ("bridge", {"ts": 1001}, ("'start_step'", "1 to 1000")),
        ("bridge", {"ts": -1}, ("'start_step'", "1 to 1000")),
        ("bridge", {"steps": 1001}, ("'steps'", "1 to 1000")),
        ("bridge", {"eta": 1.5}, ("'eta'", "0 to 1")),
        ("bridge", {"start": "nowhere"}, ("'start'", "source or noise or shortcut or draft")),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(sampler, kind, asked, words):
    with pytest.raises(NndiffError) as caught:
        sampler(kind, **asked)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("asked", [{"ts": 0}, {"steps": 0}, {"order": 0}], ids=str)
def test_nought_is_refused_rather_than_taken_for_nothing_asked(sampler, asked):
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
def test_where_there_is_noise_on_the_way_several_samples_are_allowed(sampler, kind, asked):
    assert sampler(kind, samples=3, **asked).samples == 3


def test_a_planned_starting_step_holds_for_every_planned_start(tmp_path):
    folder = model_folder(tmp_path, start="source", start_step=500, steps=4)
    trained = models.load(folder, None, BEST, torch.device("cpu"), None)
    assert sampler_of(Request(Path("out"), folder), trained).start_step == 500


# ---------------------------------------------------------------- kept features


@pytest.mark.parametrize(
    ("kind", "asked", "expected"),
    [
        ("ddpm", {"reuse": 5}, ReusePlan(5)),
        ("ddpm", {"reuse": 1}, ReusePlan(1)),
        ("ddpm", {"reuse_depth": 2}, ReusePlan(3, 2)),
        ("ddpm", {"reuse_threshold": 0.1}, ReusePlan(1, 1, (), 0.1)),
        ("ddpm", {"steps": 2}, ReusePlan(1)),  # the planned interval is longer than this walk
        ("bridge", {"steps": 4, "reuse": 2}, ReusePlan(2)),
        ("bridge", {"reuse": 3}, ReusePlan(3)),  # pointless in one step, and said to be
    ],
    ids=str,
)
def test_reuse_is_as_asked_for(sampler, kind, asked, expected):
    assert sampler(kind, **asked).reuse == expected


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"reuse": 41}, ("ever be refreshed", "1 to 40, the steps of the walk", "found 41")),
        ({"reuse": 0}, ("'interval'", "at least 1")),
        ({"reuse_depth": 99}, ("no such reuse depth", "1 (cheapest) to")),
        ({"reuse_depth": 0}, ("'depth'", "at least 1")),
        ({"reuse_threshold": -1.0}, ("'threshold'", "at least 0")),
    ],
    ids=str,
)
def test_reuse_that_cannot_be_is_refused(sampler, asked, words):
    with pytest.raises(NndiffError) as caught:
        sampler("ddpm", **asked)
    for word in words:
        assert word in str(caught.value)


def test_a_list_of_full_steps_holds_for_its_own_walk_alone(tmp_path):
    trained = models.load(model_folder(tmp_path, **PLANNED["ddpm"]), None, BEST, torch.device("cpu"), None)
    tuned = replace(trained, sampler=replace(trained.sampler, reuse=ReusePlan(3, 1, (0, 5, 9))))
    request = Request(Path("out"), Path("model"))
    assert sampler_of(request, tuned).reuse.listed == (0, 5, 9)
    assert sampler_of(replace(request, steps=20), tuned).reuse == ReusePlan(3)
    assert sampler_of(replace(request, reuse=4), tuned).reuse == ReusePlan(4)


def test_one_step_with_reuse_is_said_to_be_pointless(tmp_path):
    trained = models.load(model_folder(tmp_path), None, BEST, torch.device("cpu"), None)
    (line,) = demand_sampler(sampler_of(Request(Path("out"), Path("model"), reuse=3), trained), trained)
    assert "pointless" in line
