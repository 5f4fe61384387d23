"""Overrides (`--set a.b=value`): checked against the types of the plan, used in place of rules, and recorded in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nndiff.plans.migrate import renamed
from nndiff.plans.plan import Configuration, Plan, Predicted
from nndiff.resources.memory import prediction_cost, training_cost
from nndiff.words.errors import NndiffError
from nndiff.words.strict_json import decode, encode, hints_of, rules_at, type_at

NEVER_DECIDED = ("version", "dataset", "task", "file_ending", "configurations", "overrides", "decisions", "seals")
SIZED = ("puzzle_factor", "patch_size", "batch_size", "network", "precision")  # fields that change the predicted cost
SETTLED = ("spacing", "volume_shape", "budget", "predicted")  # fields that can no longer be changed in training


REST = ("layers", "guides", "caches", "samples")  # fields of a sampler that can be set as a whole


@dataclass(frozen=True)
class Rest:
    """Overrides of fields that are not decisions of their own."""

    values: dict[str, Any]  # field → value
    used: tuple[str, ...]  # the paths of the overrides


class Overrides:
    """The values that the user set, by dotted path; the rules decide all other fields."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = dict(values)

    def apply(self, path: str, value: Any) -> tuple[Any, list[str]]:
        """Return `value`, decided at `path`, with every override at or below that path, and the paths that were used.

        An override below the path changes only its part of the value.
        """
        used = [key for key in self.values if key == path or key.startswith(path + ".")]
        for key in used:
            inside = key[len(path) + 1 :]
            tree = _put(encode(value), inside.split("."), self.values[key]) if inside else self.values[key]
            value = decode(type_at(Plan, path), tree, key)
        return value, used

    def get(self, path: str) -> Any:
        return self.values.get(path)

    def at(self, path: str, value: Any) -> Any:
        """Return the value that `path` will have: an override of it, or of the field above it, else `value`."""
        above, _, name = path.rpartition(".")
        whole = self.values.get(above)
        return self.values.get(path, whole.get(name, value) if isinstance(whole, dict) else value)

    def rest(self, path: str) -> Rest:
        """Return the overrides of fields directly below `path` that are not decisions of their own."""
        keys = [key for key in self.values if key.startswith(path + ".") and "." not in key[len(path) + 1 :]]
        fields = {key: key[len(path) + 1 :] for key in keys}
        values = {
            field: decode(type_at(Plan, key), self.values[key], key) for key, field in fields.items() if field in REST
        }
        return Rest(values, tuple(key for key, field in fields.items() if field in REST))


def parse(assignments: Sequence[str], configurations: Sequence[str]) -> dict[str, Any]:
    """Return {path: value} for texts such as "configurations.bridge.puzzle_factor=[1,1,1]"; check paths and types."""
    values = {}
    for text in assignments:
        path, equals, written = text.partition("=")
        if not equals:
            raise NndiffError("--set needs key=value.", found=text, remedy="write for example --set crop.enabled=false")
        path, value = renamed(path, _value(written))  # the old names of fields that moved are still accepted
        if path.rpartition(".")[2] in ("order", "hot"):
            raise NndiffError(
                f"--set: '{text}' does not name a step rule.",
                expected="order=2, hot=K with K of 1 or more, or a whole rule",
                remedy=f'--set \'{path.rpartition(".")[0]}.sampler.rule={{"name":"first","eta":0}}\'',
            )
        values[path] = _checked(path, value, configurations)
    return values


def put_in(plan: Plan, name: str, assignments: Sequence[str]) -> Plan:
    """Return the plan with changed fields of one configuration, checked and recorded; used when training starts."""
    prefix = f"configurations.{name}."
    full = [text if text.startswith("configurations.") else prefix + text for text in assignments]
    values = parse(full, [name])
    for path in values:
        if path[len(prefix) :].partition(".")[0] in SETTLED:
            raise NndiffError(
                f"--set: '{path[len(prefix) :]}' cannot change after planning and preprocessing.",
                remedy=f"plan and preprocess again: nndiff_plan_and_preprocess -d {plan.dataset[7:10]} --set {path}=…",
            )
    tree = encode(plan)
    for path, value in values.items():
        tree = _put(tree, path.split("."), value)
    tree["overrides"] = {**plan.overrides, **values}
    changed = decode(Plan, tree, "plan")
    configuration = changed.configurations[name]
    if any(path[len(prefix) :].partition(".")[0] in SIZED for path in values):
        configuration = replace(configuration, predicted=cost_of(configuration))
    return replace(changed, configurations={**changed.configurations, name: configuration})


def cost_of(configuration: Configuration) -> Predicted:
    """Return the predicted cost of a training step and of an evaluation of this configuration."""
    training = training_cost(configuration.workload(), configuration.lesson)
    return Predicted(training.bytes, prediction_cost(configuration.workload()).bytes, training.flops)


def _checked(path: str, value: Any, configurations: Sequence[str]) -> Any:
    first, *rest = path.split(".")
    if first in hints_of(Configuration):
        raise NndiffError(
            f"--set: '{first}' is a field of each configuration, so its key must name one.",
            remedy=f"write configurations.{configurations[0]}.{path}=…",
        )
    if first in NEVER_DECIDED and (first != "configurations" or len(rest) < 2):
        raise NndiffError(
            f"--set: '{path}' is not a field that can be set.",
            remedy="name one field, such as configurations.bridge.batch_size",
        )
    if first == "configurations" and rest[0] not in configurations:
        raise NndiffError(
            f"--set: configuration '{rest[0]}' is not among those to be planned.",
            expected=" or ".join(configurations),
            remedy="correct the name, or add it to -c",
        )
    try:
        decode(type_at(Plan, path), value, path)
        _demand_in_range(path, value)
    except NndiffError as error:
        raise error.at(prefix="--set: ") from None
    return value


def _demand_in_range(path: str, value: Any) -> None:
    """Refuse a value that the rule of the field refuses, before any long work begins.

    Where the class of a family is not known yet, refuse only what every class of it refuses.
    """
    above, _, name = path.rpartition(".")
    rules = rules_at(Plan, above, name)
    words = {rule.words for rule in rules.values()}
    if len(words) == 1:
        next(iter(rules.values())).demand(name, value)
    elif rules and not any(rule.holds(value) for rule in rules.values()):
        each = "; ".join(f"{row}: {rule.words}" for row, rule in rules.items())
        raise NndiffError(f"'{name}' is out of range.", expected=each, found=value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # a bare word is a string, as in precision=fp32


def in_tree(tree: Any, keys: Sequence[str]) -> Any:
    """Return the value at a path below a tree of plain values."""
    for key in keys:
        tree = tree[_place(tree, key)] if isinstance(tree, list) else tree[key]
    return tree


def _put(tree: Any, keys: Sequence[str], value: Any) -> Any:
    head, *rest = keys
    if isinstance(tree, list):
        place = _place(tree, head)
        new = _put(tree[place], rest, value) if rest else value
        return [new if i == place else item for i, item in enumerate(tree)]
    return {**tree, head: _put(tree[head], rest, value) if rest else value}


def _place(items: Sequence[Any], key: str) -> int:
    """Return the number of the item that `key` names, by its number or by its own name."""
    keys = [str(i) for i in range(len(items))] if key.isdigit() else [item["name"] for item in items]
    if key not in keys:
        raise NndiffError(
            f"--set: there is no '{key}' in this list.",
            expected=" or ".join(keys) or "no item: the list is empty",
            remedy="set the whole list",
        )
    return keys.index(key)
