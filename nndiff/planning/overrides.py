"""`--set a.b=value`: checked against the plan's own types, applied where a rule would decide, recorded in the plan."""

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
SIZED = ("puzzle_factor", "patch_size", "batch_size", "network", "precision")  # what the predicted cost follows from
SETTLED = ("spacing", "volume_shape", "budget", "predicted")  # of a configuration: too late to change in training


REST = ("layers", "guides", "caches", "samples")  # of a sampler, set as a whole


@dataclass(frozen=True)
class Rest:
    values: dict[str, Any]
    used: tuple[str, ...]


class Overrides:
    """What a person fixed by hand, by dotted path; the rules decide around it."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = dict(values)

    def apply(self, path: str, value: Any) -> tuple[Any, list[str]]:
        """Return `value`, decided at `path`, with every override at or below that path; and the paths that were used.

        An override below the path changes that part alone.
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
        """Return what will hold at `path`, where `value` would be decided: also as a part of something set above it."""
        above, _, name = path.rpartition(".")
        whole = self.values.get(above)
        return self.values.get(path, whole.get(name, value) if isinstance(whole, dict) else value)

    def rest(self, path: str, cls: type) -> Rest:
        """Return the overrides of fields of `cls` right below `path` that are no decision of their own."""
        keys = [key for key in self.values if key.startswith(path + ".") and "." not in key[len(path) + 1 :]]
        fields = {key: key[len(path) + 1 :] for key in keys}
        values = {
            field: decode(type_at(Plan, key), self.values[key], key) for key, field in fields.items() if field in REST
        }
        return Rest(values, tuple(key for key, field in fields.items() if field in REST))


def parse(assignments: Sequence[str], configurations: Sequence[str]) -> dict[str, Any]:
    """["configurations.bridge.puzzle_factor=[1,1,1]"] → {path: value}, each path and type checked."""
    values = {}
    for text in assignments:
        path, equals, written = text.partition("=")
        if not equals:
            raise NndiffError("--set needs key=value.", found=text, remedy="for instance --set crop.enabled=false")
        path, value = renamed(path, _value(written))  # the short names of fields that moved are still understood
        values[path] = _checked(path, value, configurations)
    return values


def put_in(plan: Plan, name: str, assignments: Sequence[str]) -> Plan:
    """The plan with fields of one configuration changed for a training, checked and recorded."""
    prefix = f"configurations.{name}."
    full = [text if text.startswith("configurations.") else prefix + text for text in assignments]
    values = parse(full, [name])
    for path in values:
        if path[len(prefix) :].partition(".")[0] in SETTLED:
            raise NndiffError(
                f"--set: '{path[len(prefix) :]}' was settled when the cases were prepared.",
                remedy=f"plan and preprocess anew: nndiff_plan_and_preprocess -d {plan.dataset[7:10]} --set {path}=…",
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
    """Return what a step and an evaluation of this very configuration cost."""
    training = training_cost(configuration.workload(), configuration.lesson)
    return Predicted(training.bytes, prediction_cost(configuration.workload()).bytes, training.flops)


def _checked(path: str, value: Any, configurations: Sequence[str]) -> Any:
    first, *rest = path.split(".")
    if first in hints_of(Configuration):
        raise NndiffError(
            f"--set: '{first}' belongs to a configuration.", remedy=f"write configurations.{configurations[0]}.{path}=…"
        )
    if first in NEVER_DECIDED and (first != "configurations" or len(rest) < 2):
        raise NndiffError(
            f"--set: '{path}' is not a decision.", remedy="name one field, such as configurations.bridge.batch_size"
        )
    if first == "configurations" and rest[0] not in configurations:
        raise NndiffError(
            f"--set: configuration '{rest[0]}' is not being planned.",
            expected=" or ".join(configurations),
            remedy="add it to -c",
        )
    try:
        decode(type_at(Plan, path), value, path)
        _demand_in_range(path, value)
    except NndiffError as error:
        raise error.at(prefix="--set: ") from None
    return value


def _demand_in_range(path: str, value: Any) -> None:
    """Refuse what the field's own rule refuses, before anything long has begun.

    Where it is not yet known which class of a family it will be, only what every one of them refuses.
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
    except json.JSONDecodeError:
        return text  # a bare word is a text: precision=fp32


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
            remedy="set the list as a whole",
        )
    return keys.index(key)
