"""The base class of every part of a sampler, and what a part may know of the model.

A part is a frozen dataclass. It defines its mathematics, its options (each with a range, one sentence of help and,
optionally, a flag), its cost, the models that it refuses, its label, and the candidates that tuning tries. Flags, JSON,
records, checks and the tuning grid are derived from these. Each kind of part (starts, times, rules, layers, caches,
guides) is called a seam: a base class and a table in one file. A new part is a class and an entry of that table, or an
entry point of another package.

The modules in this folder import torch only inside functions, so that a command's --help does not load it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from nndiff.families.family import NetworkSpec
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.fields import Checked, options_of
from nndiff.words.registry import Registry
from nndiff.words.strict_json import Tagged, decode, encode
from nndiff.words.volume import Triple

if TYPE_CHECKING:
    from nndiff.diffusion.process import Process

STEPS = 1000  # the starting steps of plans and flags are counted in thousandths of the whole path

Asked = Mapping[str, Any]  # flag → the value that the user gave, converted to its type
P = TypeVar("P", bound="Part")


@dataclass(frozen=True)
class Setting:
    """The properties of a model that the parts of a sampler may use."""

    process: Process
    network: NetworkSpec
    puzzle_factor: Triple


class Part(Tagged, Checked):
    """The base class of every part of a sampler."""

    seam: ClassVar[str]  # start | times | rule | layer | cache | guide

    @property
    def is_identity(self) -> bool:
        """Return whether sampling with this part gives bit for bit the same result as sampling without it."""
        return False

    def label(self) -> str:
        """Return the words that name the part in the label of a sampler; empty if the part does nothing."""
        return "" if self.is_identity else self.name

    def demand(self, setting: Setting) -> None:
        """Refuse a model with which the part cannot be used."""

    def draws_noise(self, process: Process, times: Sequence[float]) -> bool:
        """Return whether two draws through these times differ because of noise that this part draws."""
        return False

    @classmethod
    def asked_for(cls, asked: Asked) -> dict[str, Any]:
        """Return the values of this part's options for which the user gave the option's own flag."""
        return {o.field: o.of(asked[o.flag]) for o in options_of(cls) if asked.get(o.flag) is not None}


def revised(own: P, asked: Asked) -> P:
    """Return the part that runs: the one named on the command line, else `own`, with the options that the user gave."""
    named = asked.get(own.seam)
    if named is not None:
        own = typed(type(own), named, own)
    changes = own.asked_for(asked)
    return dataclasses.replace(own, **changes) if changes else own  # type: ignore[type-var]


def typed(cls: type[P], text: str, own: P | None = None) -> P:
    """Return the part that the text describes: NAME or NAME:option=value,option=value, from the table of `cls`.

    If `own` has this name, options that the text does not set are those of `own`.
    """
    name = text.partition(":")[0]
    table: Registry[type[P]] = cls.table()
    row = table[name]
    options: dict[str, Any] = {"name": name} if own is None or own.name != name else encode(own)
    known = {field.name: field for field in dataclasses.fields(row)}  # type: ignore[arg-type]
    for key, value in written(text).items():
        if key not in known or value is None:
            raise NndiffError(
                f"The {table.kind} '{name}' has no option '{key if value is None else f'{key}={value}'}'.",
                expected=f"{name}:OPTION=VALUE",
                remedy=nearest(key, known),
            )
        options[key] = _value(value)
    return decode(row, options, f"{table.kind} {name}")


def written(text: str | None) -> dict[str, str | None]:
    """Return the options of NAME:option=value,option=value as they stand there; None where there is no value."""
    pairs = [pair.partition("=") for pair in (text or "").partition(":")[2].split(",") if pair]
    return {key: value if equals else None for key, equals, value in pairs}


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)
