"""What the three root folders hold, and how far each dataset is.

    raw only → fingerprint → planned → preprocessed, n of m cases → a fold's step of its total → finished → tuned

Cases are counted, never named: what is found here goes into bug reports. For the same reason an error is told without
its text, which may name a file; the command in its remedy tells it in full.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiff.resources.machine import GB
from nndiff.words.errors import NndiffError
from nndiff.words.paths import FOLDER
from nndiff.words.problem import Problem

if TYPE_CHECKING:
    from nndiff.checkpoint import Checkpoint
    from nndiff.plans.plan import Plan

KINDS = ("raw", "preprocessed", "results")
MOUNTS = Path("/proc/self/mounts")
LEAST_FREE = GB
FOLD = "fold_"

Row = dict[str, Any]


def roots(given: dict[str, Path | None]) -> tuple[list[Row], list[Problem]]:
    """Return the three root folders: by what they are set, and whether work can use them."""
    rows, problems = [], []
    for kind in KINDS:
        flag, variable = given.get(kind), os.environ.get(f"nndiff_{kind}", "")
        row: Row = {"kind": kind, "set_by": f"--{kind}" if flag else f"$nndiff_{kind}" if variable else None}
        if row["set_by"]:
            path = Path(flag or variable).expanduser().absolute()
            row |= {"path": str(path), **_state(path)}
        else:
            remedy = f"export nndiff_{kind}=/some/folder, or pass --{kind} to each command"
            problems.append(Problem(f"The folder for {kind} data is not set.", remedy))
        rows.append(row)
        problems += _of_root(row)
    return rows, problems


def _state(path: Path) -> Row:
    existing = next(each for each in (path, *path.parents) if each.exists())
    usage = shutil.disk_usage(existing)
    return {
        "exists": path.exists(),
        "folder": existing.is_dir(),
        "readable": os.access(existing, os.R_OK | os.X_OK),
        "writable": os.access(existing, os.W_OK | os.X_OK),
        "free_bytes": usage.free,
        "total_bytes": usage.total,
        "file_system": file_system(existing),
    }


def file_system(path: Path) -> str | None:
    """Return the kind of the file system that holds the path, such as ext4 or nfs4; None where that is not known."""
    try:
        rows = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:
        return None
    places = [(row[1].replace("\\040", " "), row[2]) for row in rows]
    whole = path.resolve()
    holding = sorted((len(place), i, kind) for i, (place, kind) in enumerate(places) if whole.is_relative_to(place))
    return holding[-1][2] if holding else None  # of two at one place, the later one is seen


def _of_root(row: Row) -> list[Problem]:
    if not row["set_by"]:
        return []
    kind, path = row["kind"], row["path"]
    if not row["folder"]:
        return [Problem(f"{path} for {kind} data is not a folder.", f"correct {row['set_by']}", stops=True)]
    found = []
    if kind == "raw" and not row["exists"]:
        remedy = f"create it, or correct {row['set_by']}"
        found.append(Problem(f"The folder {path} for raw data does not exist.", remedy, stops=True))
    if not row["readable"]:
        remedy = "ask its owner for permission to read it"
        found.append(Problem(f"The folder {path} for {kind} data cannot be read.", remedy, stops=True))
    if kind != "raw" and not row["writable"]:
        remedy = f"choose a folder for which you have write permission: export nndiff_{kind}=…"
        found.append(Problem(f"The folder {path} for {kind} data cannot be written.", remedy, stops=True))
    if kind != "raw" and row["free_bytes"] < LEAST_FREE:
        what = f"The disk of {path} has {row['free_bytes'] / GB:.2f} GB left."
        found.append(Problem(what, "free some space, or choose another disk", stops=True))
    return found


def datasets(known: dict[str, Path]) -> list[str]:
    """Return the names of all datasets in any of the root folders, sorted."""
    return sorted({name for root in known.values() for name in _folders(root) if FOLDER.match(name)})


def _folders(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    except OSError:  # unreadable or absent, which `roots` tells
        return []


def dataset(name: str, known: dict[str, Path]) -> tuple[Row, list[Problem]]:
    """Return how far a dataset is."""
    problems: list[Problem] = []
    row: Row = {"name": name, "stage": "nothing", "task": None, "cases": None}
    number, prepared = name[7:10], known.get("preprocessed", Path("/nowhere")) / name
    if "raw" in known and (known["raw"] / name).is_dir():
        row |= {"stage": "raw", **_raw(known["raw"] / name, problems)}
    names: tuple[str, ...] = ()
    if (prepared / "fingerprint.json").exists():
        row["stage"], names = "fingerprint", _fingerprinted(prepared, row, problems)
    if (prepared / "plan.json").exists():
        row["stage"], row["configurations"] = "planned", _planned(prepared, names, problems)
    row["runs"] = list(_runs(known.get("results", Path("/nowhere")) / name, problems))
    for configuration, done in row.get("configurations", {}).items():
        if done["preprocessed"] < (row["cases"] or 0) and any(r["configuration"] == configuration for r in row["runs"]):
            what = f"{name}, {configuration}: {done['preprocessed']} of {row['cases']} cases are preprocessed."
            problems.append(Problem(what, f"nndiff_preprocess -d {number} -c {configuration}"))
    return row, problems


def _raw(folder: Path, problems: list[Problem]) -> Row:
    from nndiff.words import dataset

    remedy = f"nndiff_extract_fingerprint -d {folder.name[7:10]}, which tells each problem with its place"
    try:
        found = dataset.read(folder)
    except (NndiffError, OSError):
        problems.append(Problem(f"{folder.name}: the raw dataset cannot be read.", remedy, stops=True))
        return {}
    wrong = sum(finding.severity == "error" for finding in found.findings)
    if wrong:
        problems.append(Problem(f"{folder.name}: the raw dataset has {wrong} errors.", remedy, stops=True))
    return {"task": found.task, "cases": len(found.cases), "raw_errors": wrong}


def _fingerprinted(folder: Path, row: Row, problems: list[Problem]) -> tuple[str, ...]:
    """Return the names of the cases, and add to the row what raw data do not tell."""
    from nndiff.plans.plan import load
    from nndiff.words.fingerprint import Fingerprint

    try:
        found = load(Fingerprint, folder / "fingerprint.json")
    except (NndiffError, OSError):
        remedy = f"nndiff_extract_fingerprint -d {folder.name[7:10]}"
        problems.append(Problem(f"{folder.name}: fingerprint.json cannot be used.", remedy, stops=True))
        return ()
    row["task"] = row["task"] or found.task
    if row["cases"] is not None and row["cases"] != len(found.cases):
        what = f"{folder.name}: fingerprint.json has {len(found.cases)} cases, the raw dataset {row['cases']}."
        problems.append(Problem(what, f"nndiff_plan_and_preprocess -d {folder.name[7:10]}"))
    row["cases"] = row["cases"] or len(found.cases)
    return tuple(case.name for case in found.cases)


def _planned(folder: Path, names: tuple[str, ...], problems: list[Problem]) -> Row:
    from nndiff.plans.plan import load_plan

    try:
        plan = load_plan(folder / "plan.json")
    except (NndiffError, OSError):
        remedy = f"nndiff_plan -d {folder.name[7:10]}, which tells why; with --clean it plans anew"
        problems.append(Problem(f"{folder.name}: plan.json cannot be used.", remedy, stops=True))
        return {}
    return {name: _prepared(plan, name, folder / name, names) for name in plan.configurations}


def _prepared(plan: Plan, name: str, folder: Path, names: tuple[str, ...]) -> Row:
    """Return how many cases are prepared as the plan says, and how many otherwise or damaged."""
    from nndiff.imaging import store
    from nndiff.plans.plan import digest

    wanted, done, others = digest(plan.preparation(name)), 0, 0
    for case in names:
        try:
            record = store.read_record(folder, case)
        except (NndiffError, OSError):
            record = {}
        done += record is not None and record.get("preparation") == wanted
        others += record is not None and record.get("preparation") != wanted
    return {"preprocessed": done, "otherwise": others}


def _runs(results: Path, problems: list[Problem]) -> Iterator[Row]:
    for configuration in _folders(results):
        for fold in _folders(results / configuration):
            if fold.startswith(FOLD):
                row: Row = {"configuration": configuration, "fold": fold.removeprefix(FOLD)}
                yield row | _trained(results / configuration / fold, problems)


def _trained(folder: Path, problems: list[Problem]) -> Row:
    """Return how far the training of a fold is."""
    from nndiff import checkpoint
    from nndiff.checkpoint import BEST, LATEST

    there = {name: (folder / name).exists() for name in (LATEST, BEST)}
    if not any(there.values()):
        return {"state": "no checkpoint"}
    name = LATEST if there[LATEST] else BEST
    try:
        found = checkpoint.load(folder / name, verify=False)
        left = checkpoint.steps_left(folder)
        tuned = _tuned(folder, checkpoint.load(folder / BEST, verify=False) if there[BEST] else None)
    except (NndiffError, OSError):
        where = "/".join(folder.parts[-3:])
        remedy = f"use the other checkpoint in its folder, or move the folder away and train again ({name} is damaged)"
        problems.append(Problem(f"{where}: the checkpoint cannot be used.", remedy, stops=True))
        return {"state": "damaged"}
    state = "finished" if not left else "begun"
    row = {"state": state, "step": found.step, "of": found.run.training_steps, "tuned": tuned}
    return row if there[LATEST] else row | {"state": "passed on", "tuned": tuned}


def _tuned(folder: Path, best: Checkpoint | None) -> bool:
    """Return whether a sampler was chosen for the best checkpoint; of an older one that does not count."""
    from nndiff.checkpoint import BEST
    from nndiff.sampling import inference

    if best is None:
        return False
    try:
        return inference.load(folder, BEST, best.planned.sampler, inference.digest_of(best.ema)) is not None
    except NndiffError:
        return False
