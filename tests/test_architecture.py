"""Tests of the architecture: folders form floors, and imports go down only, also inside functions and by name.

0 words · 1 mechanisms, which never import one another · 2 parts of a plan · 3 the plan · 4 methods · 5 shared core
6 stages, which communicate through files · 7 commands, and the public functions of nndiff/__init__.py
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import nndiff
from nndiff.words.kind import KINDS

PACKAGE = Path(nndiff.__file__).parent

FLOORS = [
    {"words"},
    {"imaging", "diffusion", "networks", "metrics"},
    {"families", "walk"},
    {"plans"},
    {"methods"},
    {"assemble", "checkpoint", "folds", "archive", "pictures", "resources", "data", "sampling"},
    {"planning", "training", "tuning", "prediction", "evaluation", "handover", "demo"},
    {"cli", "__init__", "__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MECHANISMS, STAGES = 1, 6

WORDS_MAY_USE = {"numpy"}
HEAVY = {"torch", "scipy", "SimpleITK", "pandas", "matplotlib", "batchgenerators", "tqdm"}
LIGHT = {
    "nndiff.words",
    "nndiff.families",
    "nndiff.walk",
    "nndiff.plans",
    "nndiff.cli",
}  # what the top of a command may import
BY_NAME = re.compile(r"^nndiff(\.\w+)+(?=:\w+$|$)")  # a module in a string: importlib, an entry point


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def imports_of(tree: ast.AST, where: object = "") -> set[str]:
    """Every module that the code names: in an import at any depth, or whole in a string."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}: relative import; write the whole name"
            inside = str(node.module).split(".")[0] == "nndiff"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if inside else {str(node.module)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (match := BY_NAME.match(node.value)):
            found.add(match[0])
    return found


def imports(path: Path) -> set[str]:
    return imports_of(ast.parse(path.read_text(encoding="utf-8")), path)


def room(module: str) -> str:
    return module.split(".")[0]


def rooms_used(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(path) if name.startswith("nndiff.")}
    return {name for name in names if name in FLOOR}


every_module = pytest.mark.parametrize(("module", "path"), list(modules()))


@every_module
def test_every_file_has_a_floor(module: str, path: Path) -> None:
    assert room(module) in FLOOR, f"{module} stands on no floor: name its room in FLOORS"


@every_module
def test_imports_go_down(module: str, path: Path) -> None:
    here = room(module)
    for other in rooms_used(path) - {here}:
        assert FLOOR[other] <= FLOOR[here], f"{module} (floor {FLOOR[here]}) imports {other} (floor {FLOOR[other]})"
        if FLOOR[other] == FLOOR[here] == MECHANISMS:
            pytest.fail(f"{module} imports {other}: mechanisms never import one another")
        if FLOOR[other] == FLOOR[here] == STAGES:
            pytest.fail(f"{module} imports {other}: stages talk through files")


@pytest.mark.parametrize(("module", "path"), [(m, p) for m, p in modules() if room(m) == "words"])
def test_words_know_only_the_standard_library_and_numpy(module: str, path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & HEAVY


@pytest.mark.parametrize(("module", "path"), [(m, p) for m, p in modules() if FLOOR.get(room(m)) == MECHANISMS])
def test_mechanisms_take_plain_arguments(module: str, path: Path) -> None:
    assert not {name for name in imports(path) if name.startswith(("nndiff.plans", "nndiff.words.dataset"))}


@pytest.mark.parametrize(("module", "path"), [(m, p) for m, p in modules() if room(m) == "cli"])
def test_commands_import_nothing_heavy_at_the_top(module: str, path: Path) -> None:
    """--help answers at once: stages are imported inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "nndiff":
            names = imports_of(ast.Module([node], []), path)
            assert all(".".join(name.split(".")[:2]) in LIGHT for name in names), f"{module}: import {names} where used"


def test_a_module_named_in_a_string_is_an_import() -> None:
    for code in ('importlib.import_module("nndiff.training.run")', 'point = "nndiff.training.run:train"'):
        assert imports_of(ast.parse(code)) == {"nndiff.training.run"}
    assert imports_of(ast.parse('"""nndiff.predict(a, b) is a sentence."""')) == set()


@every_module
def test_a_modality_is_known_in_one_file(module: str, path: Path) -> None:
    """Elsewhere no name of a kind is compared with, or is the key of a table: a file asks the object."""
    names = set(KINDS)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        known = [node.left, *node.comparators] if isinstance(node, ast.Compare) else getattr(node, "keys", [])
        told = {part.value for part in known if isinstance(part, ast.Constant)} & names
        assert module == "words.kind" or not told, f"{module}:{node.lineno} knows {told}: make it a field of Kind"


def test_there_is_no_circle() -> None:
    known = {f"nndiff.{module}".removesuffix(".__init__") for module, _ in modules()}
    graph = {}
    for module, path in modules():
        names = {name if name in known else name.rpartition(".")[0] for name in imports(path)}
        graph[f"nndiff.{module}".removesuffix(".__init__")] = names & known - {"nndiff"}
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, " → ".join((*trail, node))
        if node not in done:
            for other in graph.get(node, ()):
                visit(other, (*trail, node))
            done.add(node)

    for node in graph:
        visit(node, ())
