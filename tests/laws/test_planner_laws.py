"""Laws of the planner, over random datasets and budgets, with a closed form in place of the traced memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nndiff.families import NetworkSpec
from nndiff.methods import planned_for
from nndiff.planning import planner
from nndiff.planning.planner import plan
from nndiff.plans.plan import Configuration, Plan, Workload, decode_plan
from nndiff.resources.memory import usable_bytes
from nndiff.words.errors import NndiffError
from nndiff.words.strict_json import encode
from tests.planning.fingerprints import budget, fingerprint

MODEST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Closed:
    bytes: int
    flops: int


def closed_form(spec: NetworkSpec, puzzle: tuple[int, ...], patch: tuple[int, ...], batch: int) -> Closed:
    """Weights, image tensors, and core activations: the shape of the real thing."""
    pieces = math.prod(puzzle)
    core = batch * math.prod(math.ceil(n / r) for n, r in zip(patch, puzzle, strict=True))
    kept = {"none": 40, "norms": 28, "blocks": 14}[spec.recompute]
    weights = 150 * sum((spec.width * m) ** 2 * 27 for m in getattr(spec, "multipliers", (1,)))
    image = 80 * batch * math.prod(patch)
    extra = 1.33 if spec.recompute == "blocks" else 1.0
    flops = extra * 6 * 27 * core * (12 * spec.width**2 + spec.in_channels * pieces * spec.width)
    return Closed(int(weights + image + 2 * kept * spec.width * core), int(flops))


@pytest.fixture(scope="module", autouse=True)
def untraced() -> Iterator[None]:
    """Take the same for an evaluation: tracing one takes longer than all the rest of a plan."""

    def evaluation(work: Workload) -> Closed:
        return closed_form(replace(work.network, recompute="none"), work.puzzle_factor, work.patch_size, 1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planner, "prediction_cost", evaluation)
        patched.setattr(planner, "shallow_share", lambda work, depth: depth / 10)
        yield


shapes = st.tuples(*[st.integers(20, 700)] * 3)
spacings = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.5, 2.5, 3.3, 5.0])] * 3)
gigabytes = st.floats(2, 141)
tasks = st.sampled_from([(("PET",), ("PET",)), (("T1", "T2"), ("FLAIR",)), (("CBCT",), ("CT",)), ((), ("CT",))])


def planned(shape, spacing, sides, memory, device="cuda", overrides=None) -> Plan:
    found = fingerprint("Dataset001_Any", shape, spacing, *sides)
    return plan(found, budget(memory, device), planned_for(found.task), overrides, closed_form)


def rank(configuration: Configuration) -> tuple[int, int]:
    return math.prod(configuration.patch_size), -math.prod(configuration.puzzle_factor)


@MODEST
@given(shapes, spacings, tasks, gigabytes, st.sampled_from(["cuda", "cpu"]))
def test_what_is_planned_fits(shape, spacing, sides, memory, device) -> None:
    for configuration in planned(shape, spacing, sides, memory, device).configurations.values():
        assert configuration.predicted.training_bytes <= usable_bytes(configuration.budget.memory_bytes, device)


@MODEST
@given(shapes, spacings, tasks, gigabytes, gigabytes, st.sampled_from(["cuda", "cpu"]))
def test_more_memory_is_never_worse(shape, spacing, sides, one, other, device) -> None:
    less, more = (planned(shape, spacing, sides, memory, device) for memory in sorted((one, other)))
    for name in less.configurations:
        small, large = less.configurations[name], more.configurations[name]
        assert math.prod(large.patch_size) >= math.prod(small.patch_size)
        assert all(a <= b for a, b in zip(large.puzzle_factor, small.puzzle_factor, strict=True))


@MODEST
@given(shapes, spacings, tasks, gigabytes)
def test_same_input_same_plan(shape, spacing, sides, memory) -> None:
    assert encode(planned(shape, spacing, sides, memory)) == encode(planned(shape, spacing, sides, memory))


@MODEST
@given(shapes, spacings, tasks, gigabytes)
def test_json_brings_back_the_plan(shape, spacing, sides, memory) -> None:
    made = planned(shape, spacing, sides, memory)
    again = decode_plan(encode(made))
    assert again == decode_plan(encode(again))
    assert encode(again) == encode(made)


@MODEST
@given(shapes, spacings, gigabytes)
def test_generation_is_never_tiled(shape, spacing, memory) -> None:
    configuration = planned(shape, spacing, ((), ("CT",)), memory).configurations["ddpm"]
    assert configuration.patch_size == configuration.volume_shape


@MODEST
@given(shapes, spacings, tasks)
def test_too_little_memory_is_refused_with_the_number_that_suffices(shape, spacing, sides) -> None:
    with pytest.raises(NndiffError) as refusal:
        planned(shape, spacing, sides, 1.0005)
    needed = float(str(refusal.value).split("at least ")[1].split(" GB")[0])
    planned(shape, spacing, sides, needed)


@MODEST
@given(shapes, spacings, gigabytes)
def test_every_decision_has_a_reason_and_stands_in_the_plan(shape, spacing, memory) -> None:
    made = planned(shape, spacing, (("PET", "CT"), ("PET",)), memory)
    data = encode(made)
    for decision in made.decisions:
        assert decision.reason
        place = data["configurations"][decision.configuration] if decision.configuration else data
        for key in decision.name.split("."):
            place = _item(place, key) if isinstance(place, list) else place[key]
        assert place == encode(decision.value)


def _item(items, key: str):
    """An item of a list by its number, or by its own name."""
    return items[int(key)] if key.isdigit() else next(item for item in items if item["name"] == key)


@MODEST
@given(shapes, st.tuples(*[st.sampled_from([(1, 1, 1), (2, 2, 2), (1, 2, 2)])]))
def test_an_override_holds_and_what_follows_is_decided_anew(shape, puzzle) -> None:
    (factor,) = puzzle
    path = "configurations.bridge.puzzle_factor"
    found = fingerprint("Dataset001_Any", shape, (1.0, 1.0, 1.0), ("PET",), ("PET",))
    made = plan(found, budget(24), ("bridge",), {path: list(factor)}, closed_form)
    configuration = made.configurations["bridge"]
    assert configuration.puzzle_factor == factor
    assert (configuration.network.head_width > 0) == (math.prod(factor) > 1)
    assert configuration.predicted.training_bytes <= usable_bytes(24 * 10**9, "cuda")
