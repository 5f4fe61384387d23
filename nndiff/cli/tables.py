"""Format a fingerprint and a plan as tables for a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from statistics import median
from typing import Any

from nndiff.plans.plan import Decision, Plan
from nndiff.words.errors import NndiffError
from nndiff.words.fingerprint import Fingerprint
from nndiff.words.strict_json import type_at
from nndiff.words.text_table import text_table
from nndiff.words.volume import Spacing, Triple

NAMES = 22  # width in characters of the column of names


def fingerprint_table(fingerprint: Fingerprint) -> str:
    cases = fingerprint.cases
    rows = [
        ("cases", f"{len(cases)}, of {len({case.group for case in cases})} patients; task {fingerprint.task}"),
        ("spacing", _between([case.spacing for case in cases]) + " mm"),
        ("shape", _between([case.shape for case in cases])),
        ("shape after crop", _between([case.cropped_shape for case in cases])),
    ]
    for side, names, pooled in (
        ("source", fingerprint.channel_names, fingerprint.pooled_source),
        ("target", fingerprint.target_names, fingerprint.pooled_target),
    ):
        for name, row in zip(names, pooled, strict=True):
            levels = (
                f"median {row.percentiles['50']:.4g}, P99.5 {row.percentiles['99.5']:.4g}, largest {row.maximum:.4g}"
            )
            rows.append((f"{side} {name}", levels))
    for t, target in enumerate(fingerprint.target_names if fingerprint.channel_names else ()):
        for s, source in enumerate(fingerprint.channel_names):
            links = [case.links[t][s] for case in cases]
            words = (
                f"|r| {median([abs(link.correlation) for link in links]):.2f}, "
                f"rmse {median([link.rmse for link in links]):.4f} (normalised), "
                f"{median([link.noise_share for link in links]):.0%} noise, "
                f"matched step {median([link.matched_step for link in links]):.0f} of 1000"
            )
            rows.append((f"{source} → {target}", words))
    return text_table(rows)


def plan_table(plan: Plan, configurations: Sequence[str], verbose: bool = False, width: int | None = None) -> str:
    """Return every decision with its value and reason, and with `verbose` also the rejected alternatives."""
    width = width or max(72, min(120, shutil.get_terminal_size((100, 24)).columns))
    parts = [f"Plan for {plan.dataset}"]
    for configuration in ("", *configurations):
        decisions = [decision for decision in plan.decisions if decision.configuration == configuration]
        parts.append(f"\n{f'Configuration {configuration}' if configuration else 'The whole dataset'}\n")
        if configuration:
            parts.append(_device(plan, configuration, width))
        parts += [_decision(decision, verbose, width) for decision in decisions]
    return "\n".join(parts)


def _device(plan: Plan, configuration: str, width: int) -> str:
    budget = plan.configurations[configuration].budget
    return _row("device", f"{budget.device_name}, {budget.memory_bytes / 1e9:.1f} GB", budget.memory_from, width)


def _decision(decision: Decision, verbose: bool, width: int) -> str:
    path = f"configurations.{decision.configuration}.{decision.name}" if decision.configuration else decision.name
    lines = [_row(decision.name, _value(decision.value, path), decision.reason, width)]
    if verbose:
        lines += [_row("", f"not {_value(other.value, path)}", other.note, width) for other in decision.alternatives]
    return "\n".join(lines)


def _row(name: str, value: str, reason: str, width: int) -> str:
    head = f"  {name:<{NAMES}}{value}"
    body = textwrap.fill(reason, width, initial_indent=" " * (NAMES + 4), subsequent_indent=" " * (NAMES + 4))
    return f"{textwrap.fill(head, width, subsequent_indent=' ' * (NAMES + 2))}\n{body}"


def _value(value: Any, path: str) -> str:
    """Return a value in words; `path` is its place in the plan, whose declared type tells axes from other lists."""
    if isinstance(value, dict) and set(value) == {"name", "options"}:
        options = ", ".join(f"{key} {_value(option, f'{path}.{key}')}" for key, option in value["options"].items())
        return f"{value['name']} ({options})" if options else str(value["name"])
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item, f'{path}.{key}')}" for key, item in value.items())
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, (int, float)) for item in value):
        return (" x " if _has_axes(path) else ", ").join(_value(item, path) for item in value)
    if isinstance(value, (list, tuple)):
        words = [_value(item, f"{path}.{i}") for i, item in enumerate(value)]
        triples = value and all(isinstance(item, (list, tuple)) for item in value) and _has_axes(f"{path}.0")
        return ", ".join(word.replace(" ", "") for word in words) if triples else "; ".join(words) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _has_axes(path: str) -> bool:
    """Return whether the plan declares one number per axis there."""
    try:
        return type_at(Plan, path) in (Triple, Spacing)
    except NndiffError:  # of a decision that is no field of this version
        return False


def _between(triples: Sequence[Sequence[float]]) -> str:
    low, high = ([f(values) for values in zip(*triples, strict=True)] for f in (min, max))
    words = [" x ".join(f"{value:.4g}" for value in row) for row in (low, high)]
    return words[0] if words[0] == words[1] else f"{words[0]} to {words[1]}"
