"""A choice from a table: the name of one of its rows, and the options that row is made with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """A row of some table and its settings, e.g. {"name": "fixed", "options": {"low": -1024, "high": 3071}}."""

    name: str
    options: dict[str, float]
