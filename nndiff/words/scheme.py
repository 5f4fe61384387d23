"""The name of a table's row with its options, as a plan stores it: {"name": "fixed", "options": {"low": -1024}}."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    name: str
    options: dict[str, float]
