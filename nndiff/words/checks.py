"""What a field of a plan may hold, by the field's name, whoever wrote it: the planner, --set, or a person's editor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nndiff.words.errors import NndiffError


def _one_of(*names: Any) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in names, " or ".join(map(str, names))


def _at_least(low: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: all(v >= low for v in _as_tuple(value)), f"at least {low:g}"


def _within(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: low <= value <= high, f"{low:g} to {high:g}"


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "margin_mm": _at_least(0),
    "target_range": (lambda value: all(low < high for low, high in value), "the lower before the higher"),
    "spacing": (lambda value: all(v > 0 for v in value), "above 0 mm"),
    "volume_shape": _at_least(1),
    "puzzle_factor": _at_least(1),
    "patch_size": _at_least(1),
    "batch_size": _at_least(1),
    "accumulate": _at_least(1),
    "width": _at_least(4),
    "recompute": _one_of("none", "norms", "blocks"),
    "mix": _one_of("none", "haar"),
    "precision": _one_of("bf16", "fp32"),
    "prediction": _one_of("x0", "eps", "v", "residual", "x0_skip", "both"),
    "source_distance": (lambda value: value > 0, "above 0"),
    "learning_rate": (lambda value: 0 < value < 1, "between 0 and 1"),
    "training_steps": _at_least(1),
    "warmup_steps": _at_least(0),
    "ema_half_life": _at_least(1),
    "start": _one_of("source", "noise", "shortcut", "draft"),
    "start_step": _within(1, 1000),
    "steps": _within(1, 1000),
    "eta": _within(0, 1),
    "order": _one_of(1, 2),
    "hot": _at_least(0),
    "shifts": _at_least(1),
    "samples": _at_least(1),
    "reuse_interval": _at_least(1),
    "reuse_depth": _at_least(1),
    "interval": _at_least(1),
    "depth": _at_least(1),
    "listed": _at_least(0),
    "threshold": _at_least(0),
    "tile_overlap": _within(0, 0.9),
}


def demand_all_valid(word: Any) -> None:
    for name, value in vars(word).items():
        demand_valid(name, value)


def demand_valid(name: str, value: Any) -> None:
    if name in CHECKS and not CHECKS[name][0](value):
        raise NndiffError(f"'{name}' has a value that it cannot have.", expected=CHECKS[name][1], found=value)
