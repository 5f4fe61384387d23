"""Updates of an existing plan.json: which parts are planned again, and which are kept.

planned again   the requested configurations, and the dataset-wide choices
unchanged       every other configuration, byte for byte; a file of an older version is migrated first
edited by hand  kept, with a note, unless --clean; recognised by the seal that the planner stored for each part
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nndiff.planning.planner import part_of
from nndiff.plans.migrate import VERSION, migrated
from nndiff.plans.plan import DATASET_WIDE, Plan, digest, load_plan
from nndiff.words import strict_json
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, write_json
from nndiff.words.strict_json import encode

PLAN_FILE = "plan.json"

MakePlan = Callable[[Sequence[str], dict[str, Any]], Plan]  # configurations, overrides → plan


@dataclass(frozen=True)
class Settled:
    """The new contents of plan.json, with notes for the user."""

    data: dict[str, Any]
    kept: tuple[str, ...]  # configurations that were edited by hand and are unchanged
    notes: tuple[str, ...]


def settle(path: Path, wanted: Sequence[str], overrides: dict[str, Any], clean: bool, make: MakePlan) -> Settled:
    """Return the new contents of plan.json: the requested configurations planned, all others kept. Write nothing."""
    existing = None if clean or not path.exists() else _existing(path)
    if existing is None:
        return Settled(encode(make(wanted, overrides)), (), ())
    old, raw = existing
    edited = [part for part in ("", *old.configurations) if _is_edited(old, raw, part)]
    kept = tuple(name for name in wanted if name in edited)
    anew = [name for name in wanted if name not in edited]
    notes = [f"configuration {name} was edited by hand and is kept (pass --clean to plan it again)" for name in kept]
    if "" in edited:
        overrides = {**_as_overrides(old), **overrides}
        notes.append("the dataset-wide decisions were edited by hand and are kept (pass --clean to make them again)")
    if not anew:
        return Settled(raw, kept, tuple(notes))
    new = make(anew, overrides)
    others = [name for name in old.configurations if name not in anew]
    _demand_agreement(old, new, others, path)
    return Settled(_merged(raw, new, others), kept, tuple(notes))


def read(settled: Settled) -> Plan:
    return strict_json.decode(Plan, settled.data)


def write(path: Path, settled: Settled) -> None:
    write_json(path, settled.data)


def _existing(path: Path) -> tuple[Plan, dict[str, Any]]:
    raw = migrated(read_json(path))
    if isinstance(raw, dict) and raw.get("version") != VERSION:
        raise NndiffError(
            "plan.json was made by another version of nndiff.",
            expected=f"version {VERSION}",
            found=raw.get("version"),
            where=path,
            remedy="plan again with --clean",
        )
    return load_plan(path, "plan again with --clean"), raw


def _is_edited(old: Plan, raw: dict[str, Any], part: str) -> bool:
    """Return whether the part has changed since the planner sealed it.

    A part that is older than one of its fields is compared as it is in the file, without the field's default.
    """
    there = raw["configurations"][part] if part else {name: raw[name] for name in DATASET_WIDE if name in raw}
    return old.seals.get(part) not in (digest(part_of(old, part)), digest(there))


def _as_overrides(old: Plan) -> dict[str, Any]:
    """Return the dataset-wide choices as overrides, in the order in which they are decided."""
    sides = {"source_channels": old.source_channels, "target_channels": old.target_channels}
    channels = {f"{side}.{i}": channel for side, row in sides.items() for i, channel in enumerate(row)}
    rest = {name: getattr(old, name) for name in ("anchor", "crop", "target_range")}
    return {path: encode(value) for path, value in {**channels, **rest}.items()}


def _demand_agreement(old: Plan, new: Plan, others: Sequence[str], path: Path) -> None:
    """Refuse new dataset-wide choices if kept configurations were planned with other ones."""
    if others and part_of(old, "") != part_of(new, ""):
        differing = [name for name, value in part_of(new, "").items() if value != part_of(old, "")[name]]
        raise NndiffError(
            f"The dataset-wide decisions ({', '.join(differing)}) have changed since {', '.join(others)} was planned.",
            where=path,
            remedy=f"plan {' and '.join(others)} as well (-c), or plan everything again with --clean",
        )


def _merged(raw: dict[str, Any], new: Plan, others: Sequence[str]) -> dict[str, Any]:
    """Return the new plan with the old, unchanged parts of the other configurations, in the old order."""
    data: dict[str, Any] = encode(new)
    order = [*raw["configurations"], *(name for name in new.configurations if name not in raw["configurations"])]
    old_parts = {name: raw["configurations"][name] for name in others}
    data["configurations"] = {name: old_parts.get(name, data["configurations"].get(name)) for name in order}
    rows = [row for row in raw["decisions"] if row["configuration"] in others]
    data["decisions"] = sorted(data["decisions"] + rows, key=lambda row: _rank(row["configuration"], order))
    about_others = {
        key: value for key, value in raw["overrides"].items() if key.split(".")[1:2] and key.split(".")[1] in others
    }
    data["overrides"] = {**about_others, **data["overrides"]}
    data["seals"] = {**{name: raw["seals"][name] for name in others}, **data["seals"]}
    return data


def _rank(configuration: str, order: Sequence[str]) -> int:
    return order.index(configuration) if configuration else -1
