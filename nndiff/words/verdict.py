"""The result of a planning rule: a value, the reason for it, and the alternatives that were not chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Alternative:
    value: Any
    note: str  # its cost, or why it was not chosen


@dataclass(frozen=True)
class Verdict(Generic[T]):
    value: T
    reason: str
    alternatives: tuple[Alternative, ...] = ()


def in_words(triple: tuple[float, ...]) -> str:
    """Return «1 x 1.5 x 3» for (1, 1.5, 3)."""
    return " x ".join(f"{value:.4g}" for value in triple)
