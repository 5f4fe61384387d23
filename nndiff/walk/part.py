"""What every part of a walk has in common.

A part is a frozen dataclass. It holds its mathematics, its options (with their range, one sentence of help and, where
given, a flag), what it costs, what it refuses, how a label names it, and the candidates that tuning tries. Flags, JSON,
records, checks and the tuning grid are derived from that. A seam (starts, times, rules, layers, caches, guides) is a
base class and its table in one file; a new part is a class and a row there, or an entry point of another package.

Modules of this room import torch inside functions only, so that a command's --help does not wait for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from nndiff.families.family import NetworkSpec
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.fields import Checked, options_of
from nndiff.words.registry import Registry
from nndiff.words.strict_json import Tagged, decode
from nndiff.words.volume import Triple

if TYPE_CHECKING:
    from nndiff.diffusion.process import Process

STEPS = 1000  # the starting steps of plans and flags count in thousandths of the whole path

Asked = Mapping[str, Any]  # flag → what the user typed, converted
P = TypeVar("P", bound="Part")


@dataclass(frozen=True)
class Setting:
    """What a part may know of the model that it walks with."""

    process: Process
    network: NetworkSpec
    puzzle_factor: Triple

    @property
    def from_source(self) -> bool:
        """Return whether the path begins at the source itself, as a bridge's does."""
        return self.process.at(1.0)[1] > 0


class Part(Tagged, Checked):
    """A row of one of the seams' tables."""

    seam: ClassVar[str]  # start | times | rule | layer | cache | guide

    @property
    def is_identity(self) -> bool:
        """Return whether the walk with this part is bit for bit the walk without it."""
        return False

    def label(self) -> str:
        """Return what a label says of it; empty where it does nothing."""
        return "" if self.is_identity else self.name

    def demand(self, setting: Setting) -> None:
        """Refuse a model that it cannot walk with."""

    @classmethod
    def asked_for(cls, asked: Asked) -> dict[str, Any]:
        """Return the options of this row that flags of its own set."""
        return {o.field: o.of(asked[o.flag]) for o in options_of(cls) if asked.get(o.flag) is not None}


def revised(own: P, asked: Asked) -> P:
    """Return the part that runs: the row named on the command line, else `own`, with the options that were typed."""
    named = asked.get(own.seam)
    if named is not None:
        own = own if named == own.name else typed(type(own), named)
    changes = own.asked_for(asked)
    return dataclasses.replace(own, **changes) if changes else own  # type: ignore[type-var]


def typed(cls: type[P], text: str) -> P:
    """Return the part that NAME or NAME:option=value,option=value names, of the family that `cls` belongs to."""
    name, _, written = text.partition(":")
    table: Registry[type[P]] = cls.table()
    row = table[name]
    options: dict[str, Any] = {}
    known = {field.name: field for field in dataclasses.fields(row)}  # type: ignore[arg-type]
    for pair in filter(None, written.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise NndiffError(
                f"The {table.kind} '{name}' has no option '{pair}'.",
                expected=f"{name}:OPTION=VALUE",
                remedy=nearest(key, known),
            )
        options[key] = _value(value)
    return decode(row, {"name": name, **options}, f"{table.kind} {name}")


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)
