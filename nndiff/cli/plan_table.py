"""Format a plan for a terminal: what each configuration will do, then its decisions in groups, each with its reason.

bridge: three sentences          what it does · how long · how much memory
Data · Size · Training · Sampling
  name    value
             [what the name means, the first time]
             the reason
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from nndiff.plans.plan import Configuration, Decision, Plan
from nndiff.words.errors import NndiffError
from nndiff.words.strict_json import type_at
from nndiff.words.telling import in_words
from nndiff.words.volume import Spacing, Triple

NAMES = 22  # width in characters of the column of names
LONGEST = 6  # pairs of numbers that are shown; of longer lists the first and the last

# Decisions by their first word; those that are not named here concern the training.
GROUPS = {
    "Data": ("spacing", "volume_shape", "source_distance", "open_part", "grain", "open_curve"),
    "Size": ("device", "precision", "puzzle_factor", "patch_size", "batch_size", "network"),
    "Training": (),
    "Sampling": ("sampler",),
}

# What the names mean, for a reader who has not met them. Names that mean what they say are left out.
MEANINGS = {
    "anchor": "the source channel that each target channel is compared with and starts from",
    "crop": "whether what lies outside the body is cut off",
    "target_range": "values beyond which no estimate goes, in normalised units",
    "volume_shape": "voxels along z, y and x",
    "source_distance": "how far apart source and target are, in normalised units",
    "open_part": "what the best guess from the source still misses: texture, noise, details that the source lacks",
    "grain": "the strength of the target's finest texture, in normalised units",
    "open_curve": "the open part in dark and in bright places",
    "precision": "the numbers that convolutions compute with: fp32 has 32 bits, bf16 has 16 and needs half the memory",
    "puzzle_factor": "neighbouring voxels are stacked as channels, so many along z, y and x; nothing is lost",
    "patch_size": "the part of a volume that the network sees at once in training, in voxels",
    "batch_size": "patches per step on each device",
    "network.sources": "how the sources are shifted and scaled before the network sees them",
    "process": "the path from target to source, or to noise, along which the network is trained",
    "prediction": "what the network's output stands for",
    "stages": "what is trained one after the other, and by which loss",
    "augmentation": "how training cases are varied at random",
    "accumulate": "batches whose gradients are summed before the weights change",
    "ema_half_life": "prediction uses weights averaged over about so many steps",
    "sampler.start": "where a prediction begins",
    "sampler.times": "at which times on the path the network is evaluated; 1000 is the source or noise, 0 the target",
    "sampler.rule": "how an estimate moves the volume to the next time",
    "sampler.layers.tiles": "how volumes larger than a patch are put together",
    "sampler.layers.shifts": "whether estimates for several positions of the puzzle's grid are averaged",
    "sampler.caches.deep": "whether steps reuse features of the network from the step before",
}


def plan_table(plan: Plan, configurations: Sequence[str], verbose: bool = False, width: int | None = None) -> str:
    """Return every decision with its value and reason, and with `verbose` also the rejected alternatives."""
    width = width or max(72, min(120, shutil.get_terminal_size((100, 24)).columns))
    known = set[str]()  # names that have been explained
    parts = [f"Plan for {plan.dataset}"]
    for name in configurations:
        parts += ["", *_summary(plan, name, width)]
    parts += ["", "All configurations", "", *_rows(_decisions(plan, ""), known, verbose, width)]
    for name in configurations:
        decisions = _decisions(plan, name)
        for group in GROUPS:
            own = [decision for decision in decisions if _group(decision.name) == group]
            parts += ["", f"{name}: {group}", "", *_rows(own, known, verbose, width)] if own else []
    return "\n".join(parts)


# ---------------------------------------------------------------- what it will do


def _summary(plan: Plan, name: str, width: int) -> Iterator[str]:
    """Yield three sentences: what the configuration does, how long that takes, and how much memory it needs."""
    configuration = plan.configurations[name]
    sentences = (f"{name}: {_does(plan, name)}", _takes(configuration), _needs(configuration))
    for sentence in sentences:
        yield textwrap.fill(sentence, width, subsequent_indent="  ")


def _does(plan: Plan, name: str) -> str:
    from nndiff.methods import METHODS

    sources, targets = (
        " and ".join(channel.name for channel in row) for row in (plan.source_channels, plan.target_channels)
    )
    what = f"translates {sources} to {targets}" if sources else f"generates {targets}"
    about = METHODS[name].about if name in METHODS else ""
    return f"{what}. {about}".rstrip()


def _takes(configuration: Configuration) -> str:
    from nndiff.planning.recipe import training_seconds

    seconds = training_seconds(configuration)
    patches = configuration.batch_size * configuration.accumulate
    return (
        f"It trains for {configuration.training_steps} steps of {patches} "
        f"{'patch' if patches == 1 else 'patches'} of {' x '.join(map(str, configuration.patch_size))} voxels: "
        f"about {in_words(seconds)} on {configuration.budget.device_name} (--time_budget changes that), and a fifth of "
        "it to choose the sampler."
    )


def _needs(configuration: Configuration) -> str:
    steps = configuration.sampler.times.steps
    return (
        f"A training step needs {configuration.predicted.training_bytes / 1e9:.2g} of "
        f"{configuration.budget.memory_bytes / 1e9:.3g} GB. A median case is predicted by "
        f"{'one evaluation' if steps == 1 else f'{steps} evaluations'} of the network"
        f"{', in tiles' if _tiled(configuration) else ''}."
    )


def _tiled(configuration: Configuration) -> bool:
    return any(n > p for n, p in zip(configuration.volume_shape, configuration.patch_size, strict=True))


# ---------------------------------------------------------------- decisions


def _decisions(plan: Plan, name: str) -> list[Decision]:
    own = [decision for decision in plan.decisions if decision.configuration == name]
    if not name:
        return own
    budget = plan.configurations[name].budget
    return [
        Decision(name, "device", f"{budget.device_name}, {budget.memory_bytes / 1e9:.1f} GB", budget.memory_from),
        *own,
    ]


def _group(name: str) -> str:
    first = name.partition(".")[0]
    return next((group for group, names in GROUPS.items() if first in names), "Training")


def _rows(decisions: Sequence[Decision], known: set[str], verbose: bool, width: int) -> list[str]:
    return [_decision(decision, known, verbose, width) for decision in decisions]


def _decision(decision: Decision, known: set[str], verbose: bool, width: int) -> str:
    path = f"configurations.{decision.configuration}.{decision.name}" if decision.configuration else decision.name
    meaning = None if decision.name in known else MEANINGS.get(decision.name)
    known.add(decision.name)
    said = [f"[{meaning}]"] if meaning else []
    lines = [_row(decision.name, _value(decision.value, path), [*said, decision.reason], width)]
    if verbose:
        lines += [_row("", f"not {_value(other.value, path)}", [other.note], width) for other in decision.alternatives]
    return "\n".join(lines)


def _row(name: str, value: str, paragraphs: Sequence[str], width: int) -> str:
    head = textwrap.fill(f"  {name:<{NAMES}}{value}", width, subsequent_indent=" " * (NAMES + 2))
    indent = " " * (NAMES + 4)
    return "\n".join(
        [head, *(textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent) for text in paragraphs)]
    )


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
        if _is_long(value):
            first, last = (_value(value[i], f"{path}.{i}") for i in (0, -1))
            return f"{first}; … {len(value) - 2} more …; {last}"
        words = [_value(item, f"{path}.{i}") for i, item in enumerate(value)]
        triples = value and all(isinstance(item, (list, tuple)) for item in value) and _has_axes(f"{path}.0")
        return ", ".join(word.replace(" ", "") for word in words) if triples else "; ".join(words) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_long(value: Sequence[Any]) -> bool:
    pairs = all(isinstance(item, (list, tuple)) and len(item) == 2 for item in value)
    return pairs and len(value) > LONGEST


def _has_axes(path: str) -> bool:
    """Return whether the plan declares one number per axis there."""
    try:
        return type_at(Plan, path) in (Triple, Spacing)
    except NndiffError:  # of a decision that is no field of this version
        return False
