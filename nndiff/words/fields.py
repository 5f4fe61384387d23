"""Dataclass fields with a rule: the allowed values of a field are declared next to the field.

    @dataclass(frozen=True)
    class Crop(Checked):
        margin_mm: Annotated[float, at_least(0)]

    class Shifts(Part):
        places: int = option(1, at_least(1), help="mean over so many places of the puzzle's grid", flag="shifts")

`Checked` applies the rules whenever an object is created: by the planner, from JSON, or from `--set`. An option is a
field that users set on a command line: besides its rule it has a default, one sentence of help, and a flag.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nndiff.words.errors import NndiffError


@dataclass(frozen=True)
class Rule:
    """A condition on a value, and its wording in error messages."""

    holds: Callable[[Any], bool]
    words: str

    def demand(self, name: str, value: Any) -> None:
        """Refuse a value of the field `name` that violates the rule."""
        if not self.holds(value):
            raise NndiffError(f"'{name}' is out of range.", expected=self.words, found=value)


def one_of(*names: Any) -> Rule:
    return Rule(lambda value: value in names, " or ".join(map(str, names)))


def at_least(low: float, most: float = math.inf) -> Rule:
    """Return the rule that every number of the value is `low` or more, and not absurd: `most` or less."""
    words = f"at least {low:g}" + (f" and at most {most:g}" if most < math.inf else "")
    return Rule(lambda value: all(low <= v <= most for v in _numbers(value)), words)


def above(low: float, unit: str = "") -> Rule:
    """Return the rule that every number of the value is more than `low`."""
    return Rule(lambda value: all(v > low for v in _numbers(value)), f"above {low:g}{unit}")


def within(low: float, high: float) -> Rule:
    return Rule(lambda value: low <= value <= high, f"{low:g} to {high:g}")


def _numbers(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else () if value is None else (value,)


@dataclass(frozen=True)
class Option:
    """A field that users can set, described for a command line."""

    field: str
    flag: str
    help: str
    metavar: str
    type: Callable[[str], Any]
    of: Callable[[Any], Any]  # converts the parsed argument to the field's value


def option(
    default: Any,
    rule: Rule,
    *,
    help: str,
    flag: str = "",
    metavar: str = "N",
    type: Callable[[str], Any] = int,
    of: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """Return a dataclass field with a default, a rule, one sentence of help and, if given, its own flag."""
    about = {"rule": rule, "help": help, "flag": flag, "metavar": metavar, "type": type, "of": of}
    return dataclasses.field(default=default, metadata=about)


def options_of(cls: Any) -> list[Option]:
    """Return the fields of a class that have a flag."""
    return [
        Option(field.name, **{key: field.metadata[key] for key in ("flag", "help", "metavar", "type", "of")})
        for field in dataclasses.fields(cls)
        if field.metadata.get("flag")
    ]


class Checked:
    """Base of dataclasses that refuse any value which violates the rule of its field."""

    def __post_init__(self) -> None:
        for name, rule in rules_of(type(self)).items():  # type: ignore[arg-type]
            rule.demand(name, getattr(self, name))


@functools.cache
def rules_of(cls: type) -> dict[str, Rule]:
    """Return field name → rule for the fields that have a rule, in their annotation or as options."""
    hints = typing.get_type_hints(cls, include_extras=True)
    rules = {}
    for field in dataclasses.fields(cls):
        noted = [note for note in getattr(hints[field.name], "__metadata__", ()) if isinstance(note, Rule)]
        for rule in [*noted, field.metadata.get("rule")][:1]:
            if rule is not None:
                rules[field.name] = rule
    return rules
