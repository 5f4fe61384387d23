"""Plans of older versions, brought to this one. JSON in, JSON out: no class of today is asked about yesterday's fields.

    1 → 2   a configuration holds its sampler as parts (start, times, rule, layers, caches) instead of ten fields;
            a network has its own family's fields; what nothing read is gone (free RAM and disk, FLOPs of a prediction)

A part that the planner had sealed and nobody had edited is sealed again as it now stands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

VERSION = 2

SAMPLER_FIELDS = ("start", "start_step", "steps", "eta", "order", "hot", "shifts", "reuse_interval", "reuse_depth")
OVERLAP = "tile_overlap"
JOINED = {  # decision of today → decisions of version 1 that it joins
    "sampler.start": ("start",),
    "sampler.times": ("start_step", "steps"),
    "sampler.rule": ("eta", "order", "hot"),
    "sampler.layers.tiles": (OVERLAP,),
    "sampler.layers.shifts": ("shifts",),
    "sampler.caches.deep": ("reuse_interval", "reuse_depth"),
}
SHORT = {  # fields of version 1 → where their value stands today; still understood by --set
    "start": "sampler.start.name",
    "start_step": "sampler.times.first",
    "steps": "sampler.times.steps",
    "shifts": "sampler.layers.shifts.places",
    "reuse_interval": "sampler.caches.deep.interval",
    "reuse_depth": "sampler.caches.deep.depth",
    OVERLAP: "sampler.layers.tiles.overlap",
}


def migrated(data: Any) -> Any:
    """Return a plan's JSON in the form of today; what is no plan of version 1 is returned as it is."""
    if not isinstance(data, dict) or data.get("version") != 1:
        return data
    configurations = {name: configuration(old) for name, old in data["configurations"].items()}
    whole = {**data, "version": VERSION, "configurations": configurations}
    whole["overrides"] = dict(renamed(path, value) for path, value in data["overrides"].items())
    whole["decisions"] = decisions(data["decisions"], configurations)
    whole["seals"] = {
        part: _digest(configurations[part]) if part and seal == _digest(data["configurations"].get(part)) else seal
        for part, seal in data["seals"].items()
    }
    return whole


def configuration(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return one configuration of version 1 as it stands today."""
    gone = {*SAMPLER_FIELDS, OVERLAP, "predicted"}
    new = {name: value for name, value in old.items() if name not in gone}
    new["budget"] = {key: value for key, value in old["budget"].items() if key not in ("ram_bytes", "disk_bytes")}
    new["network"] = network(old["network"])
    new["sampler"] = sampler({**old, "reuse": {"interval": old["reuse_interval"], "depth": old["reuse_depth"]}})
    new["predicted"] = {key: value for key, value in old["predicted"].items() if key != "prediction_flops"}
    return new


def network(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network of version 1, where a prdit's token and block stood in a unet's kernels and strides."""
    if old["name"] != "prdit":
        return dict(old)
    shared = {key: old[key] for key in ("name", "in_channels", "out_channels", "width", "recompute")}
    token, block = {"token": old["kernels"][0]}, {"block": old["strides"][0]}
    return {**shared, "answers": old.get("answers", 1), **token, **block, "depth": old["blocks"]}


def sampler(old: Mapping[str, Any], overlap: float | None = None) -> dict[str, Any]:
    """Return a sampler of version 1 as parts; one that knows no tiles takes `overlap`."""
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
    return isinstance(data, dict) and "start_step" in data


def renamed(path: str, value: Any) -> tuple[str, Any]:
    """Return where the value of a dotted path of version 1 stands today, and what it is there."""
    head, _, field = path.rpartition(".")
    if not path.startswith("configurations.") or path.count(".") != 2:
        return path, value
    if field in SHORT:
        return f"{head}.{SHORT[field]}", value
    rules = {"eta": {"eta": value}, "order": {"order": value}, "hot": {"hot": value}}
    return (f"{head}.sampler.rule", _rule(rules[field])) if field in rules else (path, value)


def decisions(old: list[dict[str, Any]], configurations: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the decisions of version 1, those on the sampler joined part by part in the place of the first of each."""
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
