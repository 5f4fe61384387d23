"""The ordered list: from a fingerprint and a budget, rule by rule, to a plan with a reason beside each decision.

A rule that follows from an overridden decision is decided anew, since each one sees what was really chosen before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from nndiff.assemble import build_method, build_process
from nndiff.data.prepare import normalizer
from nndiff.diffusion.prediction import PREDICTIONS
from nndiff.planning import data, recipe, search, size, tokens
from nndiff.planning.overrides import Overrides
from nndiff.planning.verdict import Verdict
from nndiff.plans.plan import (
    DATASET_WIDE,
    PLAN_VERSION,
    Alternative,
    Budget,
    Channel,
    Configuration,
    Decision,
    Fingerprint,
    NetworkSpec,
    Plan,
    Predicted,
    ReusePlan,
    demand_channels,
    digest,
)
from nndiff.resources.memory import prediction_cost, reuse_cost, total_needed, training_cost, usable_bytes
from nndiff.sampling.layers import offsets
from nndiff.sampling.reuse import demand_reuse
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.strict_json import encode
from nndiff.words.volume import Spacing, Triple

T = TypeVar("T")


@dataclass
class Ledger:
    """Decisions in the order they fall; an override replaces the rule's value and says so."""

    overrides: Overrides
    decisions: list[Decision] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)  # configuration → field → what holds

    def decide(self, configuration: str, name: str, verdict: Verdict[T]) -> T:
        path = f"configurations.{configuration}.{name}" if configuration else name
        value, used = self.overrides.apply(path, verdict.value)
        reason, alternatives = verdict.reason, verdict.alternatives
        if used:
            self.used.update(used)
            reason = f"set by hand ({', '.join(used)}); the rule would say {encode(verdict.value)}"
            alternatives = (Alternative(encode(verdict.value), verdict.reason),)
        plain = tuple(Alternative(encode(other.value), other.note) for other in alternatives)
        self.decisions.append(
            Decision(configuration=configuration, name=name, value=encode(value), reason=reason, alternatives=plain)
        )
        self.values.setdefault(configuration, {})[name] = value
        return value  # type: ignore[no-any-return]

    def revise(self, configuration: str, name: str, value: Any, reason: str) -> None:
        """A later rule overrules an earlier one: the record says what holds, and what was first wanted."""
        for i, decision in enumerate(self.decisions):
            if (decision.configuration, decision.name) == (configuration, name):
                first = Alternative(decision.value, decision.reason)
                self.decisions[i] = Decision(
                    configuration=configuration, name=name, value=encode(value), reason=reason, alternatives=(first,)
                )
        self.values[configuration][name] = value


def plan(
    fingerprint: Fingerprint,
    budget: Budget,
    configurations: Sequence[str],
    overrides: Mapping[str, Any] | None = None,
    predict: search.Predict | None = None,
) -> Plan:
    """Decide everything. `predict` replaces the traced memory model (tests pass a closed form)."""
    recipe.demand_allowed(fingerprint.task, configurations)
    ledger = Ledger(Overrides(overrides or {}))
    sources = tuple(
        ledger.decide("", f"source_channels.{i}", data.source_channel(name))
        for i, name in enumerate(fingerprint.channel_names)
    )
    for channel in sources:
        normalizer(channel.normalization)  # refuses options that it does not have
    anchor = ledger.decide("", "anchor", data.anchors(fingerprint))
    targets = tuple(
        ledger.decide("", f"target_channels.{t}", _target(t, fingerprint, sources, anchor))
        for t in range(len(fingerprint.target_names))
    )
    demand_channels(sources, targets, anchor)
    crop = ledger.decide("", "crop", data.crop(fingerprint))
    target_range = ledger.decide("", "target_range", data.target_range(fingerprint, sources, targets, anchor))
    whole = Plan(
        version=PLAN_VERSION,
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
    )
    planned: dict[str, Configuration] = {}
    refusals: list[search.DoesNotFit] = []
    for name in configurations:
        try:
            planned[name] = _configuration(name, fingerprint, whole, budget, ledger, predict)
        except search.DoesNotFit as refusal:
            refusals.append(refusal)
    if refusals:  # the number that is told suffices for all of them
        raise max(refusals, key=lambda refusal: refusal.needed)
    _demand_used(ledger)
    return sealed(replace(whole, configurations=planned, decisions=tuple(ledger.decisions)))


def sealed(plan: Plan) -> Plan:
    """The plan with the digest of each of its parts as they stand now."""
    return replace(plan, seals={part: digest(part_of(plan, part)) for part in ("", *plan.configurations)})


def part_of(plan: Plan, part: str) -> Any:
    """What a seal covers: one configuration, or ("") all that is dataset-wide."""
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
    def decide(field_name: str, verdict: Verdict[T]) -> T:
        return ledger.decide(name, field_name, verdict)

    spacing = decide("spacing", data.spacing(fingerprint))
    shape = decide("volume_shape", data.volume_shape(fingerprint, plan.crop, spacing))
    precision = decide("precision", recipe.precision(budget))
    process = decide("process", recipe.process(name))
    prediction = decide("prediction", recipe.prediction(name, fingerprint.task))
    rmse = _rmse(fingerprint, plan)
    decide("source_distance", recipe.source_distance(rmse))

    skip = recipe.skip(prediction, plan.anchor, recipe.noise_share(fingerprint, plan.anchor))
    sized = _size(name, fingerprint, budget, shape, spacing, precision, prediction, skip, ledger, predict)
    rung, network = sized.rung, sized.network
    if rung.depth:
        tokens.demand_countable(rung.patch_size, network)
    if rung.spacing != spacing:
        why = "coarser than the data, so that a whole volume fits: generation is never tiled"
        if name == recipe.LOWRES:
            why = f"twice that of {recipe.PRDIT}, where a token can be halved: a transformer trained here goes on there"
        shape = rung.patch_size if fingerprint.task == "generation" else _coarser(shape, spacing, rung.spacing)
        spacing = rung.spacing
        ledger.revise(name, "spacing", spacing, why)
        ledger.revise(name, "volume_shape", shape, "the same extent at the coarser spacing")

    decide("stages", recipe.stages(name, rung.puzzle_factor))
    decide("augmentation", recipe.augmentation(fingerprint, plan.source_channels, plan.target_channels, plan.anchor))
    accumulate = decide("accumulate", recipe.accumulate(rung.batch_size))
    training_steps = decide("training_steps", recipe.training_steps(budget, sized.cost.flops * accumulate))
    decide("learning_rate", recipe.learning_rate(name, network.width, training_steps))
    decide("warmup_steps", recipe.warmup_steps(training_steps))
    decide("ema_half_life", recipe.ema_half_life(training_steps))

    noise = recipe.noise_or_structure(fingerprint, plan.anchor)
    start = decide("start", recipe.start(name, fingerprint.task))
    start_step = decide("start_step", recipe.start_step(name, start, prediction, build_process(process), rmse, noise))
    steps = decide("steps", recipe.steps(name, start_step))
    decide("eta", recipe.eta(name))
    decide("order", recipe.order())
    decide("hot", recipe.hot(name))
    shifts = decide("shifts", recipe.shifts(rung.puzzle_factor))
    offsets(shifts, rung.puzzle_factor)  # refuses more than there are
    reuse_interval = decide("reuse_interval", recipe.reuse_interval(name, start, steps))
    share = _shallow_share(sized, precision, budget) if reuse_interval > 1 and predict is None else None
    reuse_depth = decide("reuse_depth", recipe.reuse_depth(name, share))
    demand_reuse(ReusePlan(reuse_interval, reuse_depth), network)
    decide("tile_overlap", recipe.tile_overlap(rung.patch_size == shape, tiled=fingerprint.task != "generation"))

    predicted = _predicted(sized, precision, budget, predict)
    configuration = Configuration(budget=budget, predicted=predicted, **ledger.values[name])
    build_method(configuration)  # refuses a prediction that the process leaves undefined
    return configuration


def _coarser(shape: Triple, fine: Spacing, coarse: Spacing) -> Triple:
    z, y, x = (max(1, math.ceil(n * s / c - 1e-6)) for n, s, c in zip(shape, fine, coarse, strict=True))
    return z, y, x


# ---------------------------------------------------------------- size


def _size(
    name: str,
    fingerprint: Fingerprint,
    budget: Budget,
    shape: Triple,
    spacing: Spacing,
    precision: str,
    prediction: str,
    skip: tuple[int, ...],
    ledger: Ledger,
    predict: search.Predict | None,
) -> search.Sized:
    """One verdict, five decisions: what is fixed by hand leaves the ladder only the rungs that agree with it."""
    targets = len(fingerprint.target_names)
    in_channels, out_channels = targets + len(fingerprint.channel_names), targets * PREDICTIONS[prediction].channels
    path = f"configurations.{name}"

    def build(rung: search.Rung) -> NetworkSpec:
        spec = (tokens if rung.depth else size).network(rung, in_channels, out_channels)
        spec = replace(spec, skip=skip, answers=out_channels // targets)
        return ledger.overrides.apply(f"{path}.network", spec)[0]  # type: ignore[no-any-return]

    stages = ledger.overrides.apply(f"{path}.stages", recipe.stages(name, (1, 1, 1)).value)[0]
    parts = tuple(stage.trains for stage in stages)

    def traced(spec: NetworkSpec, puzzle: Triple, patch: Triple, batch: int) -> search.Cost:
        return training_cost(spec, puzzle, patch, batch, precision, budget.device, parts)

    tiled = fingerprint.task != "generation"
    room = tokens if recipe.is_prdit(name) else size
    rungs = _fixed(list(room.ladder(shape, spacing, tiled, budget.device)), ledger.overrides, path)
    usable = usable_bytes(budget.memory_bytes, budget.device)
    limits = search.Limits(
        total=budget.memory_bytes,
        bytes=usable,
        flops=search.step_flops(budget),
        total_needed=lambda step: total_needed(step, budget.device),
        device=budget.device,
    )
    sized = search.choose(rungs, build, predict or traced, limits)
    if name == recipe.LOWRES:
        sized = search.sized(tokens.halved(sized.rung), build, predict or traced)
    for field_name, verdict in room.reasons(
        sized, shape if tiled and name != recipe.LOWRES else sized.rung.patch_size, build, predict or traced, limits
    ).items():
        ledger.decide(name, field_name, verdict)
    return sized


def _fixed(rungs: Sequence[search.Rung], overrides: Overrides, path: str) -> list[search.Rung]:
    """The ladder with what was set by hand put into every rung, in the ladder's order."""
    fields = {"puzzle_factor": "puzzle_factor", "patch_size": "patch_size", "batch_size": "batch_size"}
    fields |= {"network.width": "width", "network.recompute": "recompute"}
    given = {rung_field: overrides.get(f"{path}.{name}") for name, rung_field in fields.items()}
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }
    return list(dict.fromkeys(replace(rung, **changes) for rung in rungs))


def _predicted(sized: search.Sized, precision: str, budget: Budget, predict: search.Predict | None) -> Predicted:
    rung = sized.rung
    if predict is None:
        forward = prediction_cost(sized.network, rung.puzzle_factor, rung.patch_size, precision, budget.device)
        return Predicted(sized.cost.bytes, forward.bytes, sized.cost.flops, forward.flops)
    return Predicted(sized.cost.bytes, sized.cost.bytes, sized.cost.flops, sized.cost.flops)


def _shallow_share(sized: search.Sized, precision: str, budget: Budget) -> float:
    words = sized.network, sized.rung.puzzle_factor, sized.rung.patch_size, precision
    return reuse_cost(*words, 1, budget.device)[0].flops / prediction_cost(*words, budget.device).flops


def _rmse(fingerprint: Fingerprint, plan: Plan) -> list[float]:
    if fingerprint.task == "generation":
        return []
    return data.normalised_rmse(fingerprint, plan.source_channels, plan.target_channels, plan.anchor)


# ---------------------------------------------------------------- refusals


def _demand_used(ledger: Ledger) -> None:
    unused = sorted(set(ledger.overrides.values) - ledger.used)
    if unused:
        known = [f"configurations.{d.configuration}.{d.name}" if d.configuration else d.name for d in ledger.decisions]
        raise NndiffError(f"--set: '{unused[0]}' is not a decision of this plan.", remedy=nearest(unused[0], known))
