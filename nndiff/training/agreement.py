"""Whether a training that exists was begun with what is asked for now: then the same command goes on with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nndiff.checkpoint import Checkpoint
from nndiff.training.request import Request
from nndiff.words.strict_json import encode
from nndiff.words.telling import in_words

APART = ("budget", "predicted")  # fields of a configuration that follow from the machine, or from other fields
SHOWN = 4  # differences that an error names


def differences(found: Checkpoint, request: Request) -> list[str]:
    """Return what was asked for when the training began and is asked for otherwise now, in words."""
    earlier, later = _durations(found.run.time_budget, request.time_budget)
    then = _settings(found.plan, found.configuration) | {
        "--seed": found.run.seed,
        "--time_budget": earlier,
        "--from": found.run.begun_with,
    }
    now = _settings(request.plan, request.configuration) | {
        "--seed": request.seed,
        "--time_budget": later,
        "--from": request.begun_with,
    }
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return [f"{name} was {_said(then.get(name))}, is {_said(now.get(name))}" for name in names]


def in_short(differing: list[str]) -> str:
    more = len(differing) - SHOWN
    return "; ".join(differing[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _settings(plan: Any, name: str) -> dict[str, Any]:
    """Return what decides on a training, by its path in the plan."""
    own = {field: value for field, value in encode(plan.configurations[name]).items() if field not in APART}
    return dict(_leaves(own)) | dict(_leaves({"dataset": encode(plan.preparation(name))}))


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value below `tree`; lists of numbers are one value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if _has_objects(tree) else None
    if items is None:
        yield path, tree
        return
    for key, value in items:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _has_objects(tree: Any) -> bool:
    return isinstance(tree, list) and any(isinstance(item, dict) for item in tree)


def _durations(*seconds: float | None) -> list[str]:
    """Return durations in words, or to the second where words would make different ones the same."""
    rounded = ["" if each is None else in_words(each) for each in seconds]
    return rounded if len({*rounded}) == len({*seconds}) else [f"{each:g} s" for each in seconds]


def _said(value: Any) -> str:
    return "not given" if value in (None, "") else str(value)
