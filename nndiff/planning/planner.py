"""The planner: applies the rules in a fixed order to a fingerprint and a budget, and returns a plan with its reasons.

Each rule sees the values that were actually chosen before it, overrides included. All that depends on an overridden
decision therefore follows it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from nndiff.assemble import build_process, formulation_of, setting_of
from nndiff.data.prepare import normalizer
from nndiff.diffusion.prediction import PREDICTIONS
from nndiff.families import FAMILIES, NetworkSpec, search
from nndiff.families.family import Channels, Rung
from nndiff.methods import METHODS, demand_allowed
from nndiff.methods.method import Data, Method, Walk
from nndiff.planning import data, recipe
from nndiff.planning.overrides import Overrides, in_tree
from nndiff.plans.channels import Channel, demand_channels
from nndiff.plans.migrate import VERSION
from nndiff.plans.plan import DATASET_WIDE, Configuration, Decision, Lesson, Plan, Predicted, Workload, digest
from nndiff.resources.memory import prediction_cost, shallow_share, total_needed, training_cost, usable_bytes
from nndiff.walk.caches import Deep
from nndiff.walk.sampler import SamplerPlan
from nndiff.walk.times import Times
from nndiff.words.budget import Budget
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.fingerprint import Fingerprint
from nndiff.words.spread import Spread
from nndiff.words.strict_json import encode
from nndiff.words.verdict import Alternative, Verdict
from nndiff.words.version import versions
from nndiff.words.volume import Spacing, Triple

T = TypeVar("T")


@dataclass
class Ledger:
    """The decisions in the order in which they are made; an override replaces the value of a rule and is recorded."""

    overrides: Overrides
    decisions: list[Decision] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)  # configuration → field → current value

    def decide(self, configuration: str, name: str, verdict: Verdict[T]) -> T:
        """Record a decision and return its value: the override if there is one, else that of the verdict."""
        path = f"configurations.{configuration}.{name}" if configuration else name
        value, used = self.overrides.apply(path, verdict.value)
        reason, alternatives = verdict.reason, verdict.alternatives
        if used:
            self.used.update(used)
            rule, own = encode(verdict.value), encode(value)
            reason = "; ".join(_by_hand(key, path, rule, own) for key in used)
            alternatives = (Alternative(rule, verdict.reason),) if rule != own else ()
        plain = tuple(Alternative(encode(other.value), other.note) for other in alternatives)
        self.decisions.append(
            Decision(configuration=configuration, name=name, value=encode(value), reason=reason, alternatives=plain)
        )
        self.values.setdefault(configuration, {})[name] = value
        return value  # type: ignore[no-any-return]

    def extend(self, configuration: str, name: str, more: str) -> None:
        """Append a later finding to the reason of a decision."""
        for i, decision in enumerate(self.decisions):
            if (decision.configuration, decision.name) == (configuration, name):
                self.decisions[i] = replace(decision, reason=f"{decision.reason}, {more}")

    def revise(self, configuration: str, name: str, value: Any, reason: str) -> None:
        """Replace an earlier decision by a later rule; the record keeps the first value as an alternative."""
        for i, decision in enumerate(self.decisions):
            if (decision.configuration, decision.name) == (configuration, name):
                first = Alternative(decision.value, decision.reason)
                self.decisions[i] = Decision(
                    configuration=configuration, name=name, value=encode(value), reason=reason, alternatives=(first,)
                )
        self.values[configuration][name] = value


def _by_hand(key: str, path: str, rule: Any, own: Any) -> str:
    """Return what the record says of an override: what the rule gives, if the rule was not made to follow it."""
    inside = key[len(path) + 1 :].split(".") if key != path else []
    given, value = in_tree(rule, inside), in_tree(own, inside)
    return f"set by hand ({key}); " + (
        f"the rule gives {json.dumps(given)}" if given != value else "the other decisions follow it"
    )


def plan(
    fingerprint: Fingerprint,
    budget: Budget,
    configurations: Sequence[str],
    overrides: Mapping[str, Any] | None = None,
    predict: search.Predict | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Return the plan. `predict` replaces the traced memory model (tests pass a closed form).

    `say` hears what takes seconds.
    """
    demand_allowed(fingerprint.task, configurations)
    ledger = Ledger(Overrides(overrides or {}))
    sources = tuple(
        ledger.decide("", f"source_channels.{i}", data.source_channel(name))
        for i, name in enumerate(fingerprint.channel_names)
    )
    for channel in sources:
        normalizer(channel.normalization)  # refuses unknown options
    anchor = ledger.decide("", "anchor", data.anchors(fingerprint))
    targets = tuple(
        ledger.decide("", f"target_channels.{t}", _target(t, fingerprint, sources, anchor))
        for t in range(len(fingerprint.target_names))
    )
    demand_channels(sources, targets, anchor)
    crop = ledger.decide("", "crop", data.crop(fingerprint))
    target_range = ledger.decide("", "target_range", data.target_range(fingerprint, sources, targets, anchor))
    whole = Plan(
        version=VERSION,
        dataset=fingerprint.dataset,
        task=fingerprint.task,
        file_ending=fingerprint.file_ending,
        source_channels=sources,
        target_channels=targets,
        anchor=anchor,
        crop=crop,
        target_range=target_range,
        configurations={},
        overrides=dict(overrides or {}),
        decisions=(),
        seals={},
        versions=versions(),
    )
    planned: dict[str, Configuration] = {}
    refusals: list[search.DoesNotFit] = []
    for name in configurations:
        say(f"Planning {name} for {budget.memory_bytes / 1e9:.0f} GB: tracing networks of several sizes, some seconds.")
        try:
            planned[name] = _configuration(name, fingerprint, whole, budget, ledger, predict)
        except search.DoesNotFit as refusal:
            refusals.append(refusal)
    if refusals:  # the memory stated in the largest refusal suffices for all of them
        raise max(refusals, key=lambda refusal: refusal.needed)
    _demand_used(ledger)
    return sealed(replace(whole, configurations=planned, decisions=tuple(ledger.decisions)))


def sealed(plan: Plan) -> Plan:
    """Return the plan with the digests of all its parts in their current form."""
    return replace(plan, seals={part: digest(part_of(plan, part)) for part in ("", *plan.configurations)})


def part_of(plan: Plan, part: str) -> Any:
    """Return the part of the plan that a seal covers: one configuration, or for "" all dataset-wide fields."""
    if part:
        return encode(plan.configurations[part])
    return {name: encode(getattr(plan, name)) for name in DATASET_WIDE}


def _target(t: int, fingerprint: Fingerprint, sources: Sequence[Channel], anchor: Sequence[int]) -> Verdict[Channel]:
    index = anchor[t] if t < len(anchor) else None
    anchored = sources[index] if index is not None and 0 <= index < len(sources) else None
    return data.target_channel(t, fingerprint, anchored, index)


def _configuration(
    name: str, fingerprint: Fingerprint, plan: Plan, budget: Budget, ledger: Ledger, predict: search.Predict | None
) -> Configuration:
    method = METHODS[name]

    def decide(field_name: str, verdict: Verdict[T]) -> T:
        return ledger.decide(name, field_name, verdict)

    spacing = decide("spacing", data.spacing(fingerprint))
    shape = decide("volume_shape", data.volume_shape(fingerprint, plan.crop, spacing))
    decide("precision", recipe.precision(budget))
    distances = _distances(fingerprint, plan)
    distance = decide("source_distance", recipe.source_distance(distances))
    part = decide("open_part", recipe.open_part(_open_parts(fingerprint, plan), distance if distances else None))
    grain = decide("grain", recipe.grain(_grain(fingerprint, plan), fingerprint.task))
    facts = recipe.data_of(fingerprint, plan.anchor, distances, part, grain)
    decide("open_curve", recipe.open_curve(data.open_curve(fingerprint, plan.source_channels, plan.anchor), facts))
    process = build_process(decide("process", method.process(facts)))
    prediction = decide("prediction", method.prediction(facts))

    spreads = None if facts.task == "generation" else data.spreads(fingerprint, plan.source_channels)
    seen = decide("network.sources", recipe.sources(spreads, facts.task))

    sizing = _Sizing(method, facts, fingerprint, budget, ledger, predict, plan.anchor)
    sized = sizing.sized(shape, spacing, recipe.skip(prediction, facts), seen)
    rung, network = sized.rung, sized.network
    network.demand_size(rung.patch_size)
    if rung.spacing != spacing:
        shape = rung.patch_size if facts.task == "generation" else _coarser(shape, spacing, rung.spacing)
        ledger.revise(name, "spacing", rung.spacing, method.why_coarser)
        ledger.revise(name, "volume_shape", shape, "the same extent at the coarser spacing")

    decide("stages", recipe.stages(method.stages(facts, rung.puzzle_factor), prediction))
    decide("augmentation", recipe.augmentation(plan.source_channels, plan.target_channels, facts))
    affordable = recipe.steps_within(budget, sized.cost.flops)
    accumulate = decide("accumulate", recipe.accumulate(rung.batch_size, method.batch, affordable))
    training_steps = decide("training_steps", recipe.training_steps(budget, sized.cost.flops * accumulate))
    decide("learning_rate", method.learning_rate(network, training_steps))
    decide("warmup_steps", recipe.warmup_steps(training_steps))
    decide("ema_half_life", recipe.ema_half_life(training_steps))

    sampler = _sampler(method, Walk(facts, process, prediction, method.start(facts).value), sized, shape, ledger)
    values = {key: value for key, value in ledger.values[name].items() if "." not in key}
    predicted = Predicted(sized.cost.bytes, sized.cost.bytes, sized.cost.flops)
    configuration = Configuration(budget=budget, predicted=predicted, sampler=sampler, **values)
    if predict is None:
        forward = prediction_cost(configuration.workload()).bytes
        configuration = replace(configuration, predicted=replace(predicted, prediction_bytes=forward))
    formulation_of(configuration)  # refuses a prediction that is undefined where the process starts
    setting = setting_of(configuration)
    sampler.demand(setting)
    if predict is None and not sampler.part(Deep).is_identity:
        _tell_share(name, configuration, ledger)
    return configuration


def _sampler(method: Method, walk: Walk, sized: search.Sized, shape: Triple, ledger: Ledger) -> SamplerPlan:
    """Return the sampler, with one decision per part."""

    def decide(part: str, verdict: Verdict[T]) -> T:
        return ledger.decide(method.name, f"sampler.{part}", verdict)

    start = decide("start", method.start(walk.data))
    times = decide("times", _times(method, replace(walk, start=start), ledger))
    rule = decide("rule", method.rule(walk.data))
    tiled = walk.data.task != "generation"
    tiles = decide("layers.tiles", recipe.tiles(sized.rung.patch_size == shape, tiled))
    shifts = decide("layers.shifts", recipe.shifts(sized.rung.puzzle_factor))
    kept = method.cache(start, times.steps)
    cache = decide(f"caches.{kept.value.name}", kept)
    more = ledger.overrides.rest(f"configurations.{method.name}.sampler")
    ledger.used.update(more.used)
    own = SamplerPlan(start=start, times=times, rule=rule, layers=(tiles, shifts), caches=(cache,))
    for further in method.more(start, times.steps):
        own = own.with_part(decide(f"{further.value.seam}s.{further.value.name}", further))
    return replace(own, **more.values)


def _times(method: Method, walk: Walk, ledger: Ledger) -> Verdict[Times]:
    """Return the grid of times; the number of steps depends on the actual starting step, overrides included."""
    path = f"configurations.{method.name}.sampler.times"
    first = method.first_step(walk)
    steps = method.steps(ledger.overrides.at(f"{path}.first", first.value))
    reasons = dict.fromkeys([f"{first.reason}", f"{steps.reason}"])
    others = [Alternative({"first": other.value}, other.note) for other in first.alternatives]
    others += [Alternative({"steps": other.value}, other.note) for other in steps.alternatives]
    return Verdict(method.times(walk, first.value, steps.value), "; ".join(reasons), tuple(others))


def _tell_share(name: str, configuration: Configuration, ledger: Ledger) -> None:
    """Append the cost of a step with kept features to the reason for the cache."""
    deep = configuration.sampler.part(Deep)
    share = shallow_share(configuration.workload(), deep.depth)
    ledger.extend(name, "sampler.caches.deep", f"with {share:.2f} of the FLOPs of a whole step")


def _coarser(shape: Triple, fine: Spacing, coarse: Spacing) -> Triple:
    z, y, x = (max(1, math.ceil(n * s / c - 1e-6)) for n, s, c in zip(shape, fine, coarse, strict=True))
    return z, y, x


# ---------------------------------------------------------------- size


@dataclass(frozen=True)
class _Sizing:
    """The choice of the size: one search over the ladder, which gives several decisions.

    Values that the user set are put into every rung before the search.
    """

    method: Method
    facts: Data
    fingerprint: Fingerprint
    budget: Budget
    ledger: Ledger
    predict: search.Predict | None
    anchor: tuple[int, ...]

    @property
    def path(self) -> str:
        return f"configurations.{self.method.name}"

    def sized(self, shape: Triple, spacing: Spacing, skip: tuple[int, ...], seen: tuple[Spread, ...]) -> search.Sized:
        """Return the chosen rung; record the decisions on puzzle factor, patch, batch and network."""
        family, device = FAMILIES[self.method.family], self.budget.device
        tiled = self.fingerprint.task != "generation"
        channels = self._channels(skip, seen)

        def build(rung: Rung) -> NetworkSpec:
            return self.ledger.overrides.apply(f"{self.path}.network", family.on(rung, channels))[0]  # type: ignore[no-any-return]

        predict = self.predict or self._traced
        rungs = _fixed(list(family.ladder(shape, spacing, tiled, device)), self.ledger.overrides, self.path)
        chosen = search.choose(rungs, build, predict, self._limits)
        rung = self.method.resized(chosen.rung)
        sized = chosen if rung == chosen.rung else search.sized(rung, build, predict)
        whole = shape if tiled and rung == chosen.rung else rung.patch_size
        reasons = search.Reasons(rung, build, predict, self._limits)
        fits = search.fits(sized, self._limits)
        for field_name, verdict in sized.network.reasons(rung, whole, device, fits, reasons.verdict).items():
            self.ledger.decide(self.method.name, field_name, verdict)
        return sized

    def _channels(self, skip: tuple[int, ...], seen: tuple[Spread, ...]) -> Channels:
        targets, sources = len(self.fingerprint.target_names), len(self.fingerprint.channel_names)
        prediction = PREDICTIONS[self._decided("prediction")]
        answers, errors = prediction.channels, targets if prediction.tells_error else 0
        return Channels(targets + sources, targets * answers, answers, skip, errors, self.anchor, seen)

    def _decided(self, name: str) -> Any:
        return self.ledger.values[self.method.name][name]

    def _traced(self, network: NetworkSpec, puzzle: Triple, patch: Triple, batch: int) -> search.Cost:
        planned = recipe.stages(self.method.stages(self.facts, puzzle), self._decided("prediction")).value
        stages = self.ledger.overrides.apply(f"{self.path}.stages", planned)[0]
        fields = ("process", "prediction", "source_distance", "open_part", "open_curve", "grain")
        lesson = Lesson(**{name: self._decided(name) for name in fields}, stages=stages)
        work = Workload(
            network=network,
            puzzle_factor=puzzle,
            patch_size=patch,
            batch_size=batch,
            precision=self._decided("precision"),
            device=self.budget.device,
        )
        return training_cost(work, lesson)

    @property
    def _limits(self) -> search.Limits:
        device = self.budget.device
        return search.Limits(
            total=self.budget.memory_bytes,
            bytes=usable_bytes(self.budget.memory_bytes, device),
            flops=recipe.step_flops(self.budget, self.fingerprint.task),
            large_flops=recipe.large_step_flops(self.budget),
            total_needed=lambda step: total_needed(step, device),
            device=device,
        )


def _fixed(rungs: Sequence[Rung], overrides: Overrides, path: str) -> list[Rung]:
    """Return the ladder with the values that the user set in every rung, in the order of the ladder."""
    names = [field.name for field in dataclasses.fields(rungs[0])]
    own = ("puzzle_factor", "patch_size", "batch_size")  # of the configuration; all else are fields of the network
    paths = {name: name if name in own else f"network.{name}" for name in names if name != "spacing"}
    given = {name: overrides.get(f"{path}.{where}") for name, where in paths.items()}
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }
    return list(dict.fromkeys(replace(rung, **changes) for rung in rungs))


def _distances(fingerprint: Fingerprint, plan: Plan) -> list[float]:
    if fingerprint.task == "generation":
        return []
    return data.normalised_rmse(fingerprint, plan.source_channels, plan.target_channels, plan.anchor)


def _open_parts(fingerprint: Fingerprint, plan: Plan) -> list[float] | None:
    return data.open_part(fingerprint, plan.source_channels, plan.target_channels, plan.anchor)


def _grain(fingerprint: Fingerprint, plan: Plan) -> float | None:
    return data.grain(fingerprint, plan.source_channels, plan.target_channels, plan.anchor)


# ---------------------------------------------------------------- refusals


def _demand_used(ledger: Ledger) -> None:
    unused = sorted(set(ledger.overrides.values) - ledger.used)
    if unused:
        known = [f"configurations.{d.configuration}.{d.name}" if d.configuration else d.name for d in ledger.decisions]
        raise NndiffError(f"--set: '{unused[0]}' is not a decision of this plan.", remedy=nearest(unused[0], known))
