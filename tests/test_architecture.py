"""The floors: imports go downward only, those inside functions included.

0 words · 1 mechanisms (never import one another) · 2 shared core · 3 stages (talk through files) · 4 commands
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nndiff

PACKAGE = Path(nndiff.__file__).parent

FLOORS = [
    {"__init__", "checks", "errors", "files", "strict_json", "paths", "volume", "dataset", "plan", "registry"},
    {"imaging", "diffusion", "networks", "metrics"},
    {
        "assemble",
        "prepare",
        "translate",
        "layers",
        "reuse",
        "scoring",
        "inference",
        "checkpoint",
        "memory",
        "machine",
        "workers",
        "statistics",
        "pictures",
    },
    {"integrity", "fingerprint", "planning", "preprocess", "training", "tuning", "prediction", "evaluation", "demo"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Files of floors 0, 2 and 4 may use one another; of the stages only these two, which share one pass over the files.
STAGES_TOGETHER = {("fingerprint", "integrity")}
WORDS_MAY_USE = {"numpy"}
MECHANISMS_NEVER_SEE = {"plan", "dataset"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, at any depth; `from nndiff import x` counts as nndiff.x."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            found |= {f"nndiff.{alias.name}" for alias in node.names} if node.module == "nndiff" else {str(node.module)}
    return found


def room(module: str) -> str:
    return module.split(".")[0]


def rooms_used(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(path) if name.startswith("nndiff.")}
    return {name for name in names if name in FLOOR}


@pytest.mark.parametrize(("module", "path"), list(modules()))
def test_every_file_has_a_floor(module: str, path: Path) -> None:
    assert room(module) in FLOOR, f"{module} stands on no floor: name it in FLOORS"


@pytest.mark.parametrize(("module", "path"), list(modules()))
def test_imports_go_down(module: str, path: Path) -> None:
    here = room(module)
    for other in rooms_used(path) - {here}:
        assert FLOOR[other] <= FLOOR[here], f"{module} (floor {FLOOR[here]}) imports {other} (floor {FLOOR[other]})"
        if FLOOR[other] == FLOOR[here] == 1:
            pytest.fail(f"{module} imports {other}: mechanisms never import one another")
        if FLOOR[other] == FLOOR[here] == 3:
            assert (here, other) in STAGES_TOGETHER, f"{module} imports {other}: stages talk through files"


@pytest.mark.parametrize(("module", "path"), [(m, p) for m, p in modules() if FLOOR.get(room(m)) == 0])
def test_words_know_only_the_standard_library_and_numpy(module: str, path: Path) -> None:
    heavy = {"torch", "scipy", "SimpleITK", "pandas", "matplotlib", "batchgenerators", "tqdm"}
    assert not {name.split(".")[0] for name in imports(path)} & heavy


@pytest.mark.parametrize(("module", "path"), [(m, p) for m, p in modules() if FLOOR.get(room(m)) == 1])
def test_mechanisms_take_plain_arguments(module: str, path: Path) -> None:
    assert not rooms_used(path) & MECHANISMS_NEVER_SEE


@pytest.mark.parametrize(("module", "path"), [(m, p) for m, p in modules() if m.startswith("cli.")])
def test_commands_import_nothing_heavy_at_the_top(module: str, path: Path) -> None:
    """--help answers at once: stages are imported inside functions."""
    light = {"errors", "paths", "plan", "strict_json", "cli"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("nndiff."):
            assert str(node.module).split(".")[1] in light, f"{module}: import {node.module} where it is used"


def test_there_is_no_circle() -> None:
    known = {f"nndiff.{module}" for module, _ in modules()}
    graph = {}
    for module, path in modules():
        named = imports(path)
        graph[f"nndiff.{module}"] = {name for name in named if name in known}
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, " → ".join((*trail, node))
        if node not in done:
            for other in graph.get(node, ()):
                visit(other, (*trail, node))
            done.add(node)

    for node in graph:
        visit(node, ())
