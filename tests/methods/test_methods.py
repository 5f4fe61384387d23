"""Laws that hold for every method, and tests of the individual rules of each."""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import nndiff.planning
from nndiff.assemble import build_formulation, build_objective, build_process, setting_of
from nndiff.diffusion.losses import LOSSES
from nndiff.diffusion.objectives import OBJECTIVES
from nndiff.diffusion.prediction import PREDICTIONS
from nndiff.diffusion.process import DDPM, PROCESSES, Bridge, Process, Trig
from nndiff.families import FAMILIES
from nndiff.methods import METHODS, demand_allowed, planned_for
from nndiff.methods.method import Data, Method, Walk
from nndiff.planning.overrides import parse
from nndiff.planning.planner import plan
from nndiff.plans.plan import Plan
from nndiff.resources.memory import Cost
from nndiff.walk.caches import CACHES, Deep
from nndiff.walk.guides import GUIDES, Guide
from nndiff.walk.part import STEPS
from nndiff.walk.rules import RULES, First, Hot, Second
from nndiff.walk.starts import STARTS, Noise, Shortcut, Source, Start
from nndiff.walk.survival import bias, survival
from nndiff.walk.times import Ratio, Sine, Squared, Suited
from nndiff.words.errors import NndiffError
from nndiff.words.fields import above, option
from nndiff.words.strict_json import decode, encode
from nndiff.words.verdict import Verdict
from tests.planning.fingerprints import GOLDEN, budget
from tests.walks import prdit, unet

TASKS = ("translation", "generation")
TRANSLATION = Data("translation", (0,), (0.1,), 0.9, "", 0.03)
GENERATION = Data("generation", (), (), None, "", 0.0)
FOUND = {"translation": GOLDEN["sarcoma_crop"], "generation": GOLDEN["chest_ct_generation"]}
SERVED = [(name, task) for name in METHODS for task in METHODS[name].tasks]

every_method = pytest.mark.parametrize("name", list(METHODS))
every_service = pytest.mark.parametrize(("name", "task"), SERVED)


def data_of(task: str) -> Data:
    return TRANSLATION if task == "translation" else GENERATION


def planned(name: str, task: str) -> Plan:
    return plan(FOUND[task], budget(24), (name,), predict=lambda *_: Cost(10**6, 10**9))


# ---------------------------------------------------------------- laws of every method


@every_method
def test_a_method_stands_in_the_table_under_its_own_name_and_serves_tasks_that_exist(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    assert set(method.planned_for) <= set(method.tasks) <= set(TASKS)
    assert method.tasks


@pytest.mark.parametrize(("name", "task"), list(itertools.product(METHODS, TASKS)))
def test_a_method_is_planned_for_the_tasks_that_it_serves_and_refused_for_all_others(name: str, task: str) -> None:
    if task in METHODS[name].tasks:
        demand_allowed(task, [name])
        assert set(planned(name, task).configurations) == {name}
    else:
        with pytest.raises(NndiffError, match=f"Task {task} has no configuration '{name}'"):
            planned(name, task)


@every_service
def test_all_that_a_method_names_exists(name: str, task: str) -> None:
    method = METHODS[name]
    assert method.family in FAMILIES
    assert method.process(data_of(task)).value.name in PROCESSES
    assert method.prediction(data_of(task)).value in PREDICTIONS
    assert method.rule(data_of(task)).value.name in RULES
    assert method.start(data_of(task)).value.name in STARTS
    for factor in ((1, 1, 1), (2, 2, 2)):
        for stage in method.stages(data_of(task), factor).value:
            assert stage.loss.name in LOSSES
            assert stage.objective.name in OBJECTIVES
    for steps in (1, 2, 50, STEPS):
        assert method.cache(method.start(data_of(task)).value, steps).value.name in CACHES


@every_service
def test_its_process_prediction_and_objectives_are_built_and_fit_one_another(name: str, task: str) -> None:
    method = METHODS[name]
    formulation = build_formulation(
        method.process(data_of(task)).value, method.prediction(data_of(task)).value, 0.1, 0.03
    )
    for stage in method.stages(data_of(task), (2, 2, 2)).value:
        built = build_objective(stage, formulation)
        assert built.process is formulation.process
        assert 0 < built.time_of(0.3) <= 1


@every_service
def test_its_start_needs_a_source_only_where_there_is_one(name: str, task: str) -> None:
    start = METHODS[name].start(data_of(task)).value
    assert task == "translation" or not start.needs_source


@every_service
def test_its_sampler_passes_what_its_parts_demand_and_serves_every_part(name: str, task: str) -> None:
    configuration = planned(name, task).configurations[name]
    assert configuration.network.name == METHODS[name].family
    sampler = configuration.sampler
    sampler.demand(setting_of(configuration))
    assert sampler.oddities() == []
    times = sampler.walking_times(setting_of(configuration))
    assert len(times) == sampler.steps + 1
    assert times == sorted(times, reverse=True)


@every_service
def test_every_decision_of_a_method_says_why(name: str, task: str) -> None:
    for decision in planned(name, task).decisions:
        assert decision.reason
        assert all(other.note for other in decision.alternatives)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_plans_some_method_where_none_is_named(task: str) -> None:
    assert planned_for(task)
    demand_allowed(task, planned_for(task))
    assert planned_for("translation") == ("bridge", "ddpm")
    assert planned_for("generation") == ("ddpm", "prdit")


def test_an_unknown_method_is_refused_with_the_nearest_that_serves_the_task() -> None:
    with pytest.raises(NndiffError, match="did you mean 'bridge'"):
        demand_allowed("translation", ["bridg"])


def test_another_packages_method_is_planned_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant is a row: a name, and what differs."""
    monkeypatch.setitem(METHODS.table, "cold", replace(METHODS["prdit"], name="cold", planned_for=("translation",)))
    assert planned_for("translation") == ("bridge", "ddpm", "cold")
    made = planned("cold", "translation").configurations["cold"]
    assert made.sampler == planned("prdit", "translation").configurations["prdit"].sampler


# ---------------------------------------------------------------- the planner knows none of them

PLANNING = sorted(Path(nndiff.planning.__file__).parent.glob("*.py"))


def strings_of(code: str) -> list[str]:
    """Return the string literals of a module that are no docstrings."""
    tree = ast.parse(code)
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, holders)]
    docs = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs)
    return [node.value for node in nodes if isinstance(node.value, str)]


@pytest.mark.parametrize("path", PLANNING, ids=lambda path: path.stem)
def test_no_rule_of_the_planner_asks_for_a_methods_name(path: Path) -> None:
    assert not set(strings_of(path.read_text(encoding="utf-8"))) & set(METHODS)


def test_a_name_in_a_comparison_would_be_found_and_one_in_a_docstring_is_not() -> None:
    assert strings_of('"""bridge"""\ndef f(name):\n    "ddpm"\n    return name == "prdit"') == ["prdit"]


# ---------------------------------------------------------------- where a walk starts, and how many steps it takes


def first_step(name: str, process: Process, distance: float, prediction: str, start: Start | None = None) -> int:
    data = replace(TRANSLATION, distances=(distance,))
    method: Method = METHODS[name]
    return method.first_step(Walk(data, process, prediction, start or method.start(data).value)).value


def test_the_starting_step_is_where_the_noise_is_a_multiple_of_the_distance() -> None:
    # sqrt(1 - abar) / sqrt(abar) at step 50 of the linear schedule is 0.1728
    assert first_step("ddpm", DDPM(), 0.1727, "x0_skip") == 50
    assert first_step("ddpm", DDPM(), 0.01727, "eps") == 50
    assert first_step("ddpm", DDPM(), 0.0, "x0_skip") == 1
    assert first_step("prdit", Trig(), 0.4999, "both") == 500  # sigma_eps·tan(pi/4), above 16 times the open part
    assert first_step("bridge", Bridge(), 0.5, "x0") == 1000
    assert first_step("ddpm", DDPM(), 0.1727, "x0_skip", Noise()) == 1000


@pytest.mark.parametrize(("distance", "s"), [(0.036, 0.0166), (0.025, 0.0075), (0.5, 0.02)])
@pytest.mark.parametrize("name", ["ddpm", "prdit"])
def test_a_late_start_has_enough_noise_to_forget_what_the_source_has_beyond_the_mean(name, distance, s) -> None:
    """With a perfect network; with noise as large as the distance, 41 % would stay in the first case."""
    method, data = METHODS[name], replace(TRANSLATION, distances=(distance,), open_part=s)
    process = build_process(method.process(data).value)
    walk = Walk(data, process, method.prediction(data).value, Shortcut())
    first = method.first_step(walk).value
    assert process.ratio(first / STEPS) == pytest.approx(max(16 * s, distance), rel=0.1)
    times = method.times(walk, first, 12)(process, Second())
    assert bias(process, Second(), times, s, Shortcut()) < 0.15
    assert 0.9 < survival(process, Second(), times, s, Shortcut()) < 1.1


@pytest.mark.parametrize(
    ("name", "first", "steps"),
    [
        ("bridge", 1000, 1),
        ("ddpm", 1000, 1000),
        ("ddpm", 50, 12),
        ("ddpm", 7, 7),
        ("prdit", 1000, 100),
        ("prdit", 70, 12),
    ],
)
def test_a_bridge_takes_one_step_a_late_start_at_most_twelve_and_a_hot_walk_a_hundred(name, first, steps) -> None:
    assert METHODS[name].steps(first).value == steps


@pytest.mark.parametrize(
    ("name", "start", "steps", "interval"),
    [
        ("bridge", Source(), 1, 1),
        ("bridge", Source(), 20, 1),
        ("ddpm", Shortcut(), 50, 3),
        ("ddpm", Noise(), 1000, 1),
        ("ddpm", Shortcut(), 2, 1),
        ("prdit", Shortcut(), 50, 1),
    ],
)
def test_features_are_reused_where_that_was_measured_to_pay(name, start, steps, interval) -> None:
    assert METHODS[name].cache(start, steps).value == Deep(interval)


# ---------------------------------------------------------------- rates, predictions, stages


def test_wide_networks_learn_more_slowly() -> None:
    def rate(width: int, steps: int) -> float:
        return METHODS["bridge"].learning_rate(unet(width=width), steps).value

    assert rate(32, 50_000) == rate(64, 50_000) == 2e-4
    assert rate(128, 50_000) == 1e-4
    assert rate(64, 1000) == rate(32, 1000) / 2 == 5e-4


def test_a_transformer_learns_at_the_published_rate_unless_the_training_is_short() -> None:
    rates = [METHODS["prdit"].learning_rate(prdit(), steps).value for steps in (20_000, 20_001)]
    assert rates == [2e-3, 1e-4]


def test_each_predicts_what_its_task_asks_for() -> None:
    found = {(name, task): METHODS[name].prediction(data_of(task)).value for name, task in SERVED}
    assert found == {
        ("bridge", "translation"): "fused",
        ("ddpm", "translation"): "fused",
        ("ddpm", "generation"): "eps",
        ("prdit", "translation"): "both",
        ("prdit", "generation"): "both",
        ("prdit_lowres", "translation"): "both",
        ("prdit_lowres", "generation"): "both",
    }


def test_a_transformer_is_trained_in_two_stages_and_generates_by_hot_steps() -> None:
    stages = METHODS["prdit"].stages(GENERATION, (1, 1, 1)).value
    assert [(stage.trains, stage.share) for stage in stages] == [("core.local", 0.4), ("core.whole", 0.6)]
    assert METHODS["prdit"].rule(GENERATION).value == Hot(2)
    assert METHODS["prdit"].rule(TRANSLATION).value == Second()
    assert METHODS["prdit"].times(Walk(GENERATION, Trig(), "both", Noise()), 1000, 100) == Squared(1000, 100)


def test_the_gradients_of_a_puzzled_bridge_keep_the_grid_out_of_the_image() -> None:
    verdicts = [METHODS["bridge"].stages(TRANSLATION, factor) for factor in ((1, 1, 1), (1, 2, 2))]
    assert verdicts[0].value == verdicts[1].value
    assert ["grid" in verdict.reason for verdict in verdicts] == [False, True]


def test_every_process_that_a_method_names_is_built_with_its_options() -> None:
    for name in METHODS:
        assert build_process(METHODS[name].process(TRANSLATION).value).at(0.0)[0] == pytest.approx(1.0)


# ---------------------------------------------------------------- what follows from the open part

FUSED = [name for name, task in SERVED if METHODS[name].prediction(data_of(task)).value == "fused"]


@pytest.mark.parametrize("part", [0.0003, 0.01, 0.0317, 0.2])
def test_a_bridges_noise_is_half_of_the_open_part_and_the_reason_states_what_a_perfect_network_keeps(part) -> None:
    verdict = METHODS["bridge"].process(replace(TRANSLATION, open_part=part))
    assert verdict.value.options["gamma"] == pytest.approx(part / 2, rel=1e-2)

    def kept(gamma: float) -> str:
        return f"{survival(Bridge(gamma), Second(), Sine(STEPS, 10)(Bridge(gamma), Second()), part):.0%}"

    assert f"keep {kept(verdict.value.options['gamma'])} of what the source leaves open" in verdict.reason
    (other,) = verdict.alternatives
    assert other.note == f"keeps {kept(other.value['gamma'])}"


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("part", [0.0003, 0.01, 0.0317, 0.2])
def test_a_walk_with_texture_goes_from_16_times_the_open_part_to_a_tenth_of_it(name: str, part: float) -> None:
    method, data = METHODS[name], replace(TRANSLATION, open_part=part)
    process, start = build_process(method.process(data).value), method.start(data).value
    times = method.times(Walk(data, process, "fused", start), 300, 9)
    assert isinstance(times, Ratio)
    assert (times.first, times.steps) == (300, 9)
    assert (times.high, times.low) == pytest.approx((16 * part, part / 10), rel=1e-2)
    assert method.rule(data).value == Second()
    assert [stage.objective.name for stage in method.stages(data, (2, 2, 2)).value] == ["posterior"]


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize(("grain", "low"), [(0.09, 0.1), (0.015, 0.1), (0.006, 0.04), (1e-5, 0.01), (0.0, 0.1)])
def test_it_ends_below_the_grain_of_the_target_and_training_goes_a_little_further(name, grain, low) -> None:
    method, data = METHODS[name], replace(TRANSLATION, grain=grain)
    process, start = build_process(method.process(data).value), method.start(data).value
    assert method.times(Walk(data, process, "fused", start), 1000, 9).low == pytest.approx(low * data.open_part)
    (stage,) = method.stages(data, (2, 2, 2)).value
    built = build_objective(stage, build_formulation(method.process(data).value, "fused", 0.1, data.open_part))
    least = process.ratio(built.time_of(1 - 1e-9))
    assert least == pytest.approx(0.7 * low * data.open_part, rel=1e-3)


@pytest.mark.parametrize(("part", "grain", "coarse"), [(0.0166, 0.0068, 0.067), (0.135, 0.031, 1.7), (0.32, 0.1, 4.6)])
def test_a_walk_keeps_the_texture_of_correlated_open_parts_from_coarse_to_fine(part, grain, coarse) -> None:
    """Per component of the open part, with a perfect network: the figures are of low-count, uncorrected PET and FLAIR.

    From 8 to 0.1 times the open part, such a walk keeps a quarter of the coarsest variance of the second, and three
    quarters of the finest.
    """
    data = replace(TRANSLATION, open_part=part, grain=grain)
    process = build_process(METHODS["bridge"].process(data).value)
    rule = Second()
    times = METHODS["bridge"].times(Walk(data, process, "fused", Source()), 1000, 10)(process, rule)
    assert 0.85 < survival(process, rule, times, grain) < 1.2
    assert 0.85 < survival(process, rule, times, part) < 1.2
    assert survival(process, rule, times, coarse) > 0.5


@pytest.mark.parametrize("name", FUSED)
def test_a_plan_states_one_open_part_and_all_that_follows_from_it(name: str) -> None:
    values = parse([f"configurations.{name}.open_part=0.05"], (name,))
    made = plan(FOUND["translation"], budget(24), (name,), values, lambda *_: Cost(10**6, 10**9)).configurations[name]
    data = replace(TRANSLATION, open_part=0.05)
    assert made.process == METHODS[name].process(data).value
    assert isinstance(made.sampler.times, Ratio)
    assert (made.sampler.times.high, made.sampler.times.low) == (0.8, 0.0005)  # a fifth of the grain is less
    assert (made.network.out_channels, made.network.answers, made.network.errors) == (2, 2, 1)


def test_generation_keeps_its_published_walk() -> None:
    made = planned("ddpm", "generation").configurations["ddpm"]
    assert isinstance(made.sampler.times, Suited)
    assert (made.prediction, made.sampler.rule, made.sampler.steps) == ("eps", First(1.0), STEPS)
    assert [stage.objective.name for stage in made.stages] == ["denoising"]
    assert (made.network.out_channels, made.network.errors) == (1, 0)


def test_a_generation_with_a_fused_prediction_is_refused() -> None:
    values = parse(["configurations.ddpm.prediction=fused"], ("ddpm",))
    with pytest.raises(NndiffError, match="how much of the target the source leaves open") as caught:
        plan(FOUND["generation"], budget(24), ("ddpm",), values, lambda *_: Cost(10**6, 10**9))
    for word in ("'fused'", "translation, not generation", "found 0.0", "prediction=x0"):
        assert word in str(caught.value)


# ---------------------------------------------------------------- further planned parts


@dataclass(frozen=True)
class Nearer(Guide):
    name = "nearer"

    by: float = option(0.5, above(0), help="the share of the way to the source")


def test_a_further_part_of_a_method_is_planned_with_its_reason_and_can_be_set(monkeypatch) -> None:
    more = (Verdict(Nearer(), "it stays near the source"),)
    monkeypatch.setitem(GUIDES.table, "nearer", Nearer)
    monkeypatch.setitem(METHODS.table, "bridge", replace(METHODS["bridge"], more=lambda start, steps: more))
    path = "configurations.bridge.sampler.guides.nearer"

    def made(*assignments: str) -> Plan:
        values = parse(assignments, ("bridge",))
        return plan(FOUND["translation"], budget(24), ("bridge",), values, lambda *_: Cost(10**6, 10**9))

    own = made()
    assert own.configurations["bridge"].sampler.guides == (Nearer(0.5),)
    (decision,) = [each for each in own.decisions if each.name.endswith("guides.nearer")]
    assert "near the source" in decision.reason
    assert decode(Plan, encode(own)) == own
    assert made(f"{path}.by=0.25").configurations["bridge"].sampler.guides == (Nearer(0.25),)
