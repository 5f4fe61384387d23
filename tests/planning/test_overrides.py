"""Tests of --set: values are checked, applied and recorded."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nndiff.assemble import build_objective, formulation_of
from nndiff.families.prdit import TokenRung
from nndiff.planning.overrides import Overrides, parse, put_in
from nndiff.planning.planner import _fixed, plan
from nndiff.plans.plan import DENOISING
from nndiff.resources.memory import training_cost
from nndiff.walk.layers import Shifts, Tiles
from nndiff.walk.rules import First, Hot, Rule, Second
from nndiff.walk.starts import STARTS
from nndiff.words.errors import NndiffError
from nndiff.words.strict_json import encode
from tests.laws.test_planner_laws import closed_form
from tests.planning.fingerprints import GOLDEN, budget, fingerprint
from tests.training.tiny import tiny_plan

FOUND = fingerprint("Dataset001_A", (64, 64, 64), (2.0, 2.0, 2.0), ("PET", "CT"), ("PET",))


def planned(*assignments: str):
    return plan(FOUND, budget(24), ("bridge", "ddpm"), parse(assignments, ("bridge", "ddpm")), closed_form)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("configurations.bridge.puzle_factor=[1,1,1]", "did you mean 'puzzle_factor'"),
        ("puzzle_factor=[1,1,1]", "write configurations.bridge.puzzle_factor=…"),
        ("configurations.prdit.batch_size=2", "not among those to be planned"),
        ("configurations.bridge.batch_size=two", "a whole number"),
        ("configurations.bridge.batch_size=0", "at least 1"),
        ("configurations.bridge.network.blocks=10000000", "at most 1000"),
        ("configurations.bridge.network.width=1e9", "a whole number"),
        ("configurations.bridge.network.width=1000000000", "at most 10000"),
        ("configurations.bridge.patch_size=[1000000,8,8]", "at most 100000"),
        ("configurations.bridge.training_steps=" + "9" * 5000, "a whole number"),
        ("configurations.bridge.network=" + "[" * 10**5, "network"),
        ("configurations.bridge.puzzle_factor=[2,2]", "a list of 3"),
        ("configurations.bridge.precision=fp16", "bf16 or fp32"),
        ("configurations.bridge.network.recompute=all", "none or norms or blocks"),
        ("decisions=[]", "not a field that can be set"),
        ("batch_size", "key=value"),
        ("cropp.enabled=true", "did you mean 'crop'"),
        ("crop.enabled.x=true", "is a single value and has no fields"),
    ],
)  # fmt: skip
def test_a_wrong_assignment_says_what_would_be_right(text: str, words: str) -> None:
    with pytest.raises(NndiffError, match=words.replace("(", r"\(")):
        parse([text], ("bridge", "ddpm"))


def test_the_record_says_what_the_rule_gives_unless_the_rule_followed() -> None:
    """The search for a size takes a size that is set by hand as given: its result is no other opinion."""
    made = planned(
        "configurations.bridge.batch_size=3",
        "configurations.bridge.network.width=24",
        "configurations.bridge.learning_rate=5e-4",
        "crop.margin_mm=3",
    )
    rows = {decision.name: decision for decision in made.decisions if decision.configuration in ("", "bridge")}
    for name, key in (("batch_size", "batch_size"), ("network", "network.width")):
        assert rows[name].reason == f"set by hand (configurations.bridge.{key}); the other decisions follow it"
        assert rows[name].alternatives == ()
    rate = rows["learning_rate"]
    assert rate.reason == "set by hand (configurations.bridge.learning_rate); the rule gives 0.0002"
    assert rate.alternatives[0].value == 0.0002
    assert rows["crop"].reason == "set by hand (crop.margin_mm); the rule gives 10.0"


def test_a_field_inside_a_decision_is_set_and_the_rest_stays() -> None:
    made = planned(
        "configurations.bridge.process.options.gamma=0.05", "crop.margin_mm=20", "source_channels.1.background=-1000"
    )
    assert made.configurations["bridge"].process.options == {"gamma": 0.05}
    assert made.crop.margin_mm == 20.0
    assert made.source_channels[1].background == -1000.0
    assert made.source_channels[0].background == 0.0
    assert made.overrides["crop.margin_mm"] == 20
    (decision,) = [d for d in made.decisions if d.name == "crop"]
    assert "set by hand" in decision.reason


@pytest.mark.parametrize("path", ["start_step", "sampler.times.first"])
def test_what_follows_from_an_override_is_decided_anew(path: str) -> None:
    """Under the name of today, and under that of version 1."""
    free, fixed = planned(), planned(f"configurations.ddpm.{path}=7")
    times = free.configurations["ddpm"].sampler.times
    assert times.steps != 7
    assert fixed.configurations["ddpm"].sampler.times == replace(times, first=7, steps=7)
    assert fixed.overrides == {"configurations.ddpm.sampler.times.first": 7}
    wide = planned("configurations.bridge.network.width=128")
    assert wide.configurations["bridge"].network.width == 128
    assert wide.configurations["bridge"].learning_rate < free.configurations["bridge"].learning_rate


@pytest.mark.parametrize(("prediction", "skip"), [("x0", (1,)), ("x0_skip", (1,)), ("residual", ())])
def test_a_prediction_set_by_hand_is_trained_by_an_objective_that_serves_it(prediction, skip) -> None:
    made = planned(f"configurations.bridge.prediction={prediction}").configurations["bridge"]
    (stage,), (free,) = made.stages, planned().configurations["bridge"].stages
    assert (free.objective.name, stage) == ("posterior", replace(free, objective=DENOISING))
    assert (made.network.out_channels, made.network.errors, made.network.skip) == (1, 0, skip)
    build_objective(stage, formulation_of(made))


def test_sizes_set_by_hand_leave_the_rest_to_the_ladder() -> None:
    made = planned("configurations.bridge.patch_size=[32,32,32]", "configurations.bridge.batch_size=3")
    configuration = made.configurations["bridge"]
    assert configuration.patch_size == (32, 32, 32)
    assert configuration.batch_size == 3
    assert configuration.network.width >= 16


def test_too_large_a_size_set_by_hand_is_refused_with_the_number() -> None:
    with pytest.raises(NndiffError, match="at least"):
        plan(FOUND, budget(2), ("bridge",), {"configurations.bridge.patch_size": [2000, 2000, 2000]}, closed_form)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("anchor", [7], "0 PET, 1 CT"),
        ("anchor", [2], "0 PET, 1 CT"),
        ("anchor", [-1], "0 PET, 1 CT"),
        ("anchor", [0, 1], "for each target channel"),
        ("source_channels.0.normalization.name", "zscore", "use one of: fixed"),
        ("source_channels.1.normalization.options", {"lower": 0.0}, "options low, high"),
        ("target_channels.0.normalization", {"name": "percentiles", "options": {}}, "depend on the target"),
    ],
)
def test_a_choice_that_no_case_could_be_prepared_with_is_refused_while_planning(path, value, words) -> None:
    with pytest.raises(NndiffError, match=words):
        plan(FOUND, budget(24), ("bridge",), {path: value}, closed_form)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_prediction_that_says_nothing_where_a_bridge_starts_is_refused_while_planning(prediction) -> None:
    with pytest.raises(NndiffError, match=f"'{prediction}' is undefined at t = 1, where the process 'bridge' starts"):
        plan(FOUND, budget(24), ("bridge",), {"configurations.bridge.prediction": prediction}, closed_form)


@pytest.mark.parametrize("path", ["shifts", "sampler.layers.shifts.places"])
def test_more_shifts_than_the_puzzle_has_places_are_refused(path: str) -> None:
    assert planned(f"configurations.bridge.{path}=2").configurations["bridge"].sampler.part(Shifts) == Shifts(2)
    with pytest.raises(NndiffError, match="fewer positions than the shifts"):
        planned(f"configurations.bridge.{path}=3")


# ---------------------------------------------------------------- parts of the sampler


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sampler.rule.etta=1", "did you mean 'eta'"),
        ("sampler.rule.eta=2", "0 to 1"),
        ("sampler.rule.name=hott", "did you mean 'hot'"),
        ("sampler.times.steps=0", "1 to 1000"),
        ("sampler.layers.tils.overlap=0.5", "did you mean 'tiles'"),
        ("sampler.layers.tiles.overlap=1.5", "0 to 0.999"),
        ("sampler.caches.deep.listed=[-1]", "at least 0"),
        ("sampler.samples=0", "at least 1"),
        ("eta=2", "0 to 1"),
        ("network.recompute=all", "prdit: none or blocks; unet: none or norms or blocks"),
        ("stages.0.share=-3", "above 0"),
        ("open_curve=[[[0.5,1.0],[0.1,1.0]]]", "from the lowest up"),
        ("open_curve=[[[0.1,1.0],[0.5,0.0]]]", "a share above 0"),
        ("open_curve=[[]]", "pairs of an intensity"),
        ("grain=-1", "at least 0"),
        ("budget.memory_bytes=many", "a whole number"),
    ],
)
def test_a_wrong_assignment_to_a_part_says_what_would_be_right(text: str, words: str) -> None:
    with pytest.raises(NndiffError, match=words):
        planned(f"configurations.bridge.{text}")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('sampler.rule={"name": "first", "eta": 0.5}', First(0.5)),
        ("eta=0.5", First(0.5)),
        ('sampler.rule={"name": "second"}', Second()),
        ("order=2", Second()),
        ('sampler.rule={"name": "hot", "ahead": 3}', Hot(3)),
        ("hot=3", Hot(3)),
    ],
)
def test_a_rule_is_set_whole(text: str, rule: Rule) -> None:
    assert planned(f"configurations.bridge.{text}").configurations["bridge"].sampler.rule == rule


def test_an_option_of_the_planned_rule_is_set_alone() -> None:
    found, path = GOLDEN["chest_ct_generation"], "configurations.ddpm.sampler.rule.eta"
    made = plan(found, budget(24), ("ddpm",), parse([f"{path}=0.5"], ("ddpm",)), closed_form)
    assert made.configurations["ddpm"].sampler.rule == First(0.5)


@pytest.mark.parametrize("mode", ["none", "norms", "blocks"])
def test_what_one_family_allows_is_not_refused_because_another_does_not(mode: str) -> None:
    made = planned(f"configurations.bridge.network.recompute={mode}")
    assert made.configurations["bridge"].network.recompute == mode
    assert made.configurations["bridge"].network.name == "unet"


@pytest.mark.parametrize("name", ["draft", "noise"])
@pytest.mark.parametrize("path", ["start", "sampler.start.name"])
def test_a_start_is_set_by_its_name(path: str, name: str) -> None:
    assert planned(f"configurations.ddpm.{path}={name}").configurations["ddpm"].sampler.start == STARTS[name]()


def test_what_no_method_decides_is_set_too_and_recorded() -> None:
    made = planned("configurations.ddpm.sampler.samples=3")
    assert made.configurations["ddpm"].sampler.samples == 3
    assert made.configurations["bridge"].sampler.samples == 1
    assert made.overrides == {"configurations.ddpm.sampler.samples": 3}


def test_draws_that_would_all_be_the_same_are_refused_while_planning() -> None:
    by_hand = ("configurations.bridge.sampler.samples=2", "configurations.bridge.sampler.times.steps=1")
    with pytest.raises(NndiffError, match="the same volume"):
        planned(*by_hand, "configurations.bridge.process.options.gamma=0")


# ---------------------------------------------------------------- for one training


def test_a_training_changes_fields_of_its_configuration_and_pays_anew_for_what_is_sized_by_them() -> None:
    plan = tiny_plan(("bridge", "ddpm"))
    made = put_in(plan, "bridge", ["learning_rate=1e-4", "sampler.layers.tiles.overlap=0.25", "batch_size=3"])
    changed, before = made.configurations["bridge"], plan.configurations["bridge"]
    assert (changed.learning_rate, changed.batch_size) == (1e-4, 3)
    assert changed.sampler == before.sampler.with_part(Tiles(0.25))
    assert changed.predicted.training_flops == training_cost(changed.workload(), changed.lesson).flops
    assert made.configurations["ddpm"] == plan.configurations["ddpm"]
    assert made.overrides["configurations.bridge.sampler.layers.tiles.overlap"] == 0.25


@pytest.mark.parametrize("name", ["spacing", "volume_shape", "budget", "predicted"])
def test_what_the_cases_were_prepared_by_is_too_late_to_change(name: str) -> None:
    plan = tiny_plan()
    value = json.dumps(encode(getattr(plan.configurations["bridge"], name)))
    with pytest.raises(NndiffError, match=f"'{name}' cannot change after planning and preprocessing"):
        put_in(plan, "bridge", [f"{name}={value}"])


def test_a_part_that_the_sampler_does_not_list_is_refused_in_words() -> None:
    plan = tiny_plan()
    bare = put_in(plan, "bridge", ["sampler.caches=[]"])
    assert bare.configurations["bridge"].sampler.caches == ()
    with pytest.raises(NndiffError, match=r"no 'deep' in this list\.\n.*the list is empty"):
        put_in(bare, "bridge", ["sampler.caches.deep.interval=2"])
    with pytest.raises(NndiffError, match=r"no '1' in this list\.\n.*expected 0"):
        put_in(plan, "bridge", ["stages.1.share=2"])
    with pytest.raises(NndiffError, match="no '1' in this list"):
        planned("configurations.bridge.stages.1.share=2")


@pytest.mark.parametrize("text", ["hot=0", "order=1"])
def test_an_old_value_that_left_the_rule_as_planned_is_refused_rather_than_taken_for_a_rule(text: str) -> None:
    with pytest.raises(NndiffError, match="does not name a step rule"):
        parse([f"configurations.ddpm.{text}"], ["ddpm"])


@pytest.mark.parametrize(
    ("text", "rule"),
    [("hot=3", {"name": "hot", "ahead": 3}), ("order=2", {"name": "second"}), ("eta=0", {"name": "first", "eta": 0.0})],
)
def test_an_old_name_still_chooses_its_rule(text: str, rule: dict[str, object]) -> None:
    assert parse([f"configurations.ddpm.{text}"], ["ddpm"]) == {"configurations.ddpm.sampler.rule": rule}


def test_every_size_of_a_network_that_is_set_holds_on_the_whole_ladder() -> None:
    rung = TokenRung((1, 1, 1), (32, 32, 32), (2.0, 2.0, 2.0), 1, 96, "none", 12, (2, 2, 2))
    path = "configurations.prdit"
    given = {f"{path}.network.depth": 3, f"{path}.network.block": [4, 4, 4], f"{path}.batch_size": 2}
    fixed = _fixed([rung, replace(rung, depth=6), replace(rung, width=48)], Overrides(given), path)
    assert fixed == [
        replace(rung, depth=3, block=(4, 4, 4), batch_size=2),
        replace(rung, depth=3, block=(4, 4, 4), batch_size=2, width=48),
    ]
