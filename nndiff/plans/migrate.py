"""Migration of plans and samplers from older versions to the current one.

It converts JSON to JSON, so that the current classes need not know the fields of older versions.

    1 → 2   a configuration stores its sampler as parts (start, times, rule, layers, caches) instead of ten fields;
            a network has only the fields of its family; unused fields are removed (free RAM and disk, FLOPs of a
            prediction)
    2 → 3   a configuration states how much of the target its source leaves open (open_part); before, a share of the
            distance of source and target stood for it

Where a part of a plan was unedited since the planner sealed it, its new form is sealed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from nndiff.words.errors import NndiffError

VERSION = 3

OPEN_SHARE = 0.3  # of the distance: the error of a network's output that version 2 assumed

SAMPLER_FIELDS = ("start", "start_step", "steps", "eta", "order", "hot", "shifts", "reuse_interval", "reuse_depth")
OVERLAP = "tile_overlap"
JOINED = {  # current decision → the decisions of version 1 that it joins
    "sampler.start": ("start",),
    "sampler.times": ("start_step", "steps"),
    "sampler.rule": ("eta", "order", "hot"),
    "sampler.layers.tiles": (OVERLAP,),
    "sampler.layers.shifts": ("shifts",),
    "sampler.caches.deep": ("reuse_interval", "reuse_depth"),
}
SHORT = {  # field of version 1 → its current path; --set still accepts the old names
    "start": "sampler.start.name",
    "start_step": "sampler.times.first",
    "steps": "sampler.times.steps",
    "shifts": "sampler.layers.shifts.places",
    "reuse_interval": "sampler.caches.deep.interval",
    "reuse_depth": "sampler.caches.deep.depth",
    OVERLAP: "sampler.layers.tiles.overlap",
}


C = TypeVar("C", bound=Callable[..., Any])


def in_words(convert: C) -> C:
    """Return the conversion of JSON that refuses in words what does not have the form of its version."""

    @wraps(convert)
    def converted(*arguments: Any) -> Any:
        try:
            return convert(*arguments)
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            raise NndiffError(
                "A file of an older version does not have the form of that version.",
                found=f"{type(error).__name__}: {str(error)[:80]}",
                remedy="take it from a copy, or make it anew",
            ) from None

    return converted  # type: ignore[return-value]


@in_words
def migrated(data: Any) -> Any:
    """Return the JSON of a plan in its current form; anything but a plan of an older version is returned unchanged."""
    if isinstance(data, dict) and data.get("version") == 1:
        data = _second(data)
    if isinstance(data, dict) and data.get("version") == 2:
        data = _third(data)
    return data


def _second(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan of version 1 as one of version 2."""
    configurations = {name: configuration(old) for name, old in data["configurations"].items()}
    overrides = dict(renamed(path, value) for path, value in data["overrides"].items())
    rows = decisions(data["decisions"], configurations)
    return _with(data, 2, configurations) | {"overrides": overrides, "decisions": rows}


def _third(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan of version 2 as one of version 3."""
    configurations = {name: _with_open_part(old) for name, old in data["configurations"].items()}
    rows = []
    for row in data["decisions"]:
        rows.append(row)
        name = row["configuration"]
        if row["name"] == "source_distance" and name in configurations:
            value = configurations[name]["open_part"]
            reason = f"{OPEN_SHARE:g} of the distance of source and target, which was assumed before it was estimated"
            rows.append({**row, "name": "open_part", "value": value, "reason": reason, "alternatives": []})
    return _with(data, 3, configurations) | {"decisions": rows}


def _with(data: Mapping[str, Any], version: int, configurations: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan with its configurations in a newer form, which are sealed again if they were unedited."""
    seals = {
        part: _digest(configurations[part]) if part and seal == _digest(data["configurations"].get(part)) else seal
        for part, seal in data["seals"].items()
    }
    return {**data, "version": version, "configurations": configurations, "seals": seals}


def _with_open_part(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of version 2 with its open part, at the place where the current classes store it."""
    new = {}
    for name, value in old.items():
        new[name] = value
        if name == "source_distance":
            new["open_part"] = OPEN_SHARE * value
    return new


def configuration(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of version 1 as one of version 2."""
    gone = {*SAMPLER_FIELDS, OVERLAP, "predicted"}
    new = {name: value for name, value in old.items() if name not in gone}
    new["budget"] = {key: value for key, value in old["budget"].items() if key not in ("ram_bytes", "disk_bytes")}
    new["network"] = network(old["network"])
    new["sampler"] = sampler({**old, "reuse": {"interval": old["reuse_interval"], "depth": old["reuse_depth"]}})
    new["predicted"] = {key: value for key, value in old["predicted"].items() if key != "prediction_flops"}
    return new


def network(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network of version 1 in its current form.

    Version 1 stored the token and the block of a prdit in the kernels and strides of a unet.
    """
    if old["name"] != "prdit":
        return dict(old)
    shared = {key: old[key] for key in ("name", "in_channels", "out_channels", "width", "recompute")}
    token, block = {"token": old["kernels"][0]}, {"block": old["strides"][0]}
    return {**shared, "answers": old.get("answers", 1), **token, **block, "depth": old["blocks"]}


@in_words
def sampler(old: Mapping[str, Any], overlap: float | None = None) -> dict[str, Any]:
    """Return a sampler of version 1 as parts; `overlap` is that of the tiles if the sampler does not store one."""
    reuse = {"listed": [], "threshold": 0.0, **(old.get("reuse") or {"interval": 1, "depth": 1})}
    tiles = old.get(OVERLAP, 0.5 if overlap is None else overlap)
    return {
        "start": {"name": old["start"]},
        "times": {"name": "suited", "first": old["start_step"], "steps": old["steps"]},
        "rule": _rule(old),
        "layers": [{"name": "tiles", "overlap": tiles}, {"name": "shifts", "places": old.get("shifts", 1)}],
        "guides": [],
        "caches": [{"name": "deep", **reuse}],
        "samples": old.get("samples", 1),
    }


def is_old_sampler(data: Any) -> bool:
    """Return whether the JSON is a sampler of version 1."""
    return isinstance(data, dict) and "start_step" in data


def renamed(path: str, value: Any) -> tuple[str, Any]:
    """Return the current path and value for a dotted path of version 1 and its value.

    `order=1` and `hot=0` stay as they are: they left the step rule as it was planned, and name none today.
    """
    head, _, field = path.rpartition(".")
    if not path.startswith("configurations.") or path.count(".") != 2:
        return path, value
    if field in SHORT:
        return f"{head}.{SHORT[field]}", value
    chooses_rule = field == "eta" or (field == "order" and value == 2) or (field == "hot" and value)
    return (f"{head}.sampler.rule", _rule({field: value})) if chooses_rule else (path, value)


def decisions(old: list[dict[str, Any]], configurations: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the decisions of version 1 in their current form.

    Decisions on the same part of the sampler are joined into one, at the position of the first of them.
    """
    of = {(row["configuration"], row["name"]): row for row in old}
    first = {names[0]: (today, names) for today, names in JOINED.items()}
    later = {name for names in JOINED.values() for name in names[1:]}
    rows = []
    for row in old:
        planned, name = row["configuration"], row["name"]
        if planned in configurations and name == "network":
            row = {**row, "value": configurations[planned]["network"]}
        elif planned in configurations and name in first:
            today, names = first[name]
            joined = [of[planned, each] for each in names if (planned, each) in of]
            reason = "; ".join(dict.fromkeys(each["reason"] for each in joined))
            others = [other for each in joined for other in each["alternatives"]]
            value = _at(configurations[planned], today)
            row = {**row, "name": today, "value": value, "reason": reason, "alternatives": others}
        elif planned in configurations and name in later:
            continue
        rows.append(row)
    return rows


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = next(item for item in tree if item["name"] == key) if isinstance(tree, list) else tree[key]
    return tree


def _rule(old: Mapping[str, Any]) -> dict[str, Any]:
    if old.get("hot"):
        return {"name": "hot", "ahead": old["hot"]}
    return {"name": "second"} if old.get("order") == 2 else {"name": "first", "eta": float(old.get("eta") or 0.0)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
