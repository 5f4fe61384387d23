"""The Python code of the pages compiles, and the names that it uses from nndiff exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

import nndiff
from nndiff.data.preprocess import Summary as Prepared
from nndiff.evaluation import Evaluation, evaluate
from nndiff.plans.plan import Plan
from nndiff.prediction import Request, Summary
from nndiff.sampling.inference import Inference
from nndiff.walk.sampler import flags
from tests.documentation.pages import Page, module_of, pages, split

RETURNS = {"plan": Plan, "preprocess": Prepared, "tune": Inference, "predict": Summary, "evaluate": Evaluation}
OPTIONS = {
    "predict": {field.name for field in fields(Request)} | {flag.name for flag in flags()},
    "evaluate": set(inspect.signature(evaluate).parameters),
}
IN_PYTHON = re.compile(r"^(import|from) nndiff\b|\bnndiff\.\w+\(", re.MULTILINE)


def python_of(page: Page) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each block of Python; in the page on notebooks, all that are not of a shell."""
    for block in page.blocks:
        text = textwrap.dedent(block.text)
        if IN_PYTHON.search(text) or (page.path.name == "notebook.md" and not _of_a_shell(text)):
            yield block.line, text


def _of_a_shell(text: str) -> bool:
    return text.startswith(("nndiff_", "python ")) and bool(module_of(split(text.partition("\n")[0])[0]))


def complaints(text: str) -> Iterator[str]:
    """Yield what is wrong in code that calls nndiff's functions and reads what they return."""
    tree = ast.parse(text)
    results: dict[str, type] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (name := _function(node.value)):
            results[node.targets[0].id] = RETURNS.get(name, object)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("nndiff"):
            module = importlib.import_module(str(node.module))
            yield from (f"no {alias.name} in {node.module}" for alias in node.names if not hasattr(module, alias.name))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner: Any = nndiff if node.value.id == "nndiff" else results.get(node.value.id, object)
            known = {*dir(owner), *getattr(owner, "__dataclass_fields__", {})}
            if owner is not object and node.attr not in known:
                yield f"no {node.attr} in {node.value.id}"
        elif isinstance(node, ast.Call) and (name := _function(node)) and hasattr(nndiff, name):
            known = OPTIONS.get(name, set()) | set(inspect.signature(getattr(nndiff, name)).parameters)
            yield from (f"nndiff.{name} has no {word.arg}" for word in node.keywords if word.arg not in known)


def _function(node: ast.AST) -> str:
    """Return the name of the function of nndiff that is called, if one is."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return node.func.attr if node.func.value.id == "nndiff" else ""
    return ""


@pytest.mark.parametrize("page", [page for page in pages() if list(python_of(page))], ids=str)
def test_python_of_the_pages_calls_what_exists(page: Page) -> None:
    texts = list(python_of(page))
    for line, text in texts:
        try:
            compile(text, str(page), "exec")
        except SyntaxError as error:
            pytest.fail(f"{page}:{line + (error.lineno or 1) - 1}: {error.msg}")
    found = list(complaints("\n".join(text for _, text in texts)))
    assert not found, f"{page}: {'; '.join(found)}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nndiff.translate(1)", "no translate in nndiff"),
        ("p = nndiff.plan('1')\np.reasons", "no reasons in p"),
        ("nndiff.train('1', 'bridge', budget=3)", "nndiff.train has no budget"),
        ("nndiff.predict('a', 'b', 'c', step=3)", "nndiff.predict has no step"),
        ("from nndiff.words.errors import Error", "no Error in nndiff.words.errors"),
    ],
)
def test_a_wrong_name_is_noticed(text: str, said: str) -> None:
    assert list(complaints(text)) == [said]
