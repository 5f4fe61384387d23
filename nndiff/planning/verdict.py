"""What a rule hands back: a value, the reason for it, and what was passed over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from nndiff.plans.plan import Alternative

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict(Generic[T]):
    value: T
    reason: str
    alternatives: tuple[Alternative, ...] = ()


def in_words(triple: tuple[float, ...]) -> str:
    """(1, 1.5, 3) → «1 x 1.5 x 3»."""
    return " x ".join(f"{value:.4g}" for value in triple)
