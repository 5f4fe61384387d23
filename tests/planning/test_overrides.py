"""--set: checked, applied, recorded."""

from __future__ import annotations

import pytest

from nndiff.planning.overrides import parse
from nndiff.planning.planner import plan
from nndiff.words.errors import NndiffError
from tests.laws.test_planner_laws import closed_form
from tests.planning.fingerprints import budget, fingerprint

FOUND = fingerprint("Dataset001_A", (64, 64, 64), (2.0, 2.0, 2.0), ("PET", "CT"), ("PET",))


def planned(*assignments: str):
    return plan(FOUND, budget(24), ("bridge", "ddpm"), parse(assignments, ("bridge", "ddpm")), closed_form)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("configurations.bridge.puzle_factor=[1,1,1]", "did you mean 'puzzle_factor'"),
        ("puzzle_factor=[1,1,1]", "write configurations.bridge.puzzle_factor=…"),
        ("configurations.prdit.batch_size=2", "not being planned"),
        ("configurations.bridge.batch_size=two", "a whole number"),
        ("configurations.bridge.batch_size=0", "at least 1"),
        ("configurations.bridge.puzzle_factor=[2,2]", "a list of 3"),
        ("configurations.bridge.precision=fp16", "bf16 or fp32"),
        ("configurations.bridge.network.recompute=all", "none or norms or blocks"),
        ("decisions=[]", "not a decision"),
        ("batch_size", "key=value"),
        ("cropp.enabled=true", "did you mean 'crop'"),
        ("crop.enabled.x=true", "has no parts"),
    ],
)  # fmt: skip
def test_a_wrong_assignment_says_what_would_be_right(text: str, words: str) -> None:
    with pytest.raises(NndiffError, match=words.replace("(", r"\(")):
        parse([text], ("bridge", "ddpm"))


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


def test_what_follows_from_an_override_is_decided_anew() -> None:
    free, fixed = planned(), planned("configurations.ddpm.start_step=7")
    assert free.configurations["ddpm"].steps != 7
    assert fixed.configurations["ddpm"].steps == 7
    wide = planned("configurations.bridge.network.width=128")
    assert wide.configurations["bridge"].network.width == 128
    assert wide.configurations["bridge"].learning_rate < free.configurations["bridge"].learning_rate


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
        ("anchor", [0, 1], "for each target channel"),
        ("source_channels.0.normalization.name", "zscore", "use one of: fixed"),
        ("source_channels.1.normalization.options", {"lower": 0.0}, "options low, high"),
        ("target_channels.0.normalization", {"name": "percentiles", "options": {}}, "must not look at the target"),
    ],
)
def test_a_choice_that_no_case_could_be_prepared_with_is_refused_while_planning(path, value, words) -> None:
    with pytest.raises(NndiffError, match=words):
        plan(FOUND, budget(24), ("bridge",), {path: value}, closed_form)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_prediction_that_says_nothing_where_a_bridge_starts_is_refused_while_planning(prediction) -> None:
    with pytest.raises(NndiffError, match=f"'{prediction}' is undefined where the process 'bridge' starts"):
        plan(FOUND, budget(24), ("bridge",), {"configurations.bridge.prediction": prediction}, closed_form)


def test_more_shifts_than_the_puzzle_has_places_are_refused() -> None:
    assert planned("configurations.bridge.shifts=2").configurations["bridge"].sampler.shifts == 2
    with pytest.raises(NndiffError, match="so many places"):
        planned("configurations.bridge.shifts=3")
