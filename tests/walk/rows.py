"""Every row of every table of parts, with settings of its options: what the laws of the seams are measured on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from nndiff.walk.caches import CACHES
from nndiff.walk.guides import GUIDES
from nndiff.walk.layers import LAYERS
from nndiff.walk.part import Part
from nndiff.walk.rules import RULES
from nndiff.walk.starts import STARTS
from nndiff.walk.times import TIMES
from nndiff.words.fields import rules_of
from nndiff.words.registry import Registry

TABLES: tuple[Registry[Any], ...] = (STARTS, TIMES, RULES, LAYERS, CACHES, GUIDES)
LISTED = (LAYERS, GUIDES, CACHES)  # of which a sampler lists any number
TRIED: dict[type, tuple[Any, ...]] = {  # values, the allowed among them are taken
    int: (0, 1, 2, 3),
    float: (0.0, 0.25, 0.5, 1.0),
    tuple: ((), (0, 1)),
}


def rows(*tables: Registry[Any]) -> list[type[Part]]:
    return [table[name] for table in tables or TABLES for name in table]


def base_of(row: type[Part]) -> type[Part]:
    """Return the class of its seam, such as Layer."""
    return next(
        cls for cls in reversed(row.__mro__) if "table" in vars(cls) and cls is not Part and issubclass(cls, Part)
    )


def settings(row: type[Part]) -> Iterator[Part]:
    """Yield the row with its defaults, and with each of its fields changed alone."""
    own = row()
    yield own
    for field in dataclasses.fields(row):  # type: ignore[arg-type]
        default, rule = getattr(own, field.name), rules_of(row).get(field.name)
        for value in TRIED[type(default)]:
            if value != default and (rule is None or rule.holds(value)):
                yield dataclasses.replace(own, **{field.name: value})  # type: ignore[type-var]


def every(*tables: Registry[Any]) -> list[Part]:
    return [part for row in rows(*tables) for part in settings(row)]
