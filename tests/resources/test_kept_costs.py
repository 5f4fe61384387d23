"""Tests of costs that are kept on disk: a later program gets them without a trace, and never those of other code."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from inspect import unwrap
from pathlib import Path
from typing import Any

import pytest

from nndiff.diffusion.losses import LOSSES, Squared
from nndiff.resources import kept_costs, memory
from nndiff.resources.memory import Cost, prediction_cost, reuse_cost, training_cost
from nndiff.words import registry
from nndiff.words.registry import Registry
from tests.resources.test_memory import LESSON, work_of

WORK = work_of(patch=(16, 16, 16), precision="fp32", device="cpu")
COSTS: dict[str, Callable[[], Cost]] = {
    "training": lambda: memory.kept(unwrap(training_cost))(WORK, LESSON),
    "prediction": lambda: memory.kept(unwrap(prediction_cost))(WORK),
    "reuse": lambda: memory.kept(unwrap(reuse_cost))(WORK, 2),
}  # each call as if by a new program


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nndiff_cache", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The traces that were made."""
    made, trace = [], memory._trace

    def counted(*arguments: Any) -> Cost:
        made.append(arguments)
        return trace(*arguments)

    monkeypatch.setattr(memory, "_trace", counted)
    return made


@pytest.mark.parametrize("name", COSTS)
def test_a_later_program_gets_them_without_a_trace(name: str, traces: list[Any]) -> None:
    first = COSTS[name]()
    assert traces
    traces.clear()
    assert COSTS[name]() == first
    assert not traces


def test_each_question_has_its_answer() -> None:
    assert len({COSTS[name]() for name in COSTS} | {COSTS[name]() for name in COSTS}) == 3


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-9],
        lambda text: "[]",
        lambda text: json.dumps({name: value for name, value in json.loads(text).items() if name != "question"}),
        lambda text: json.dumps(json.loads(text) | {"bytes": -1}),
        lambda text: json.dumps(json.loads(text) | {"flops": 1.5}),
        lambda text: json.dumps(json.loads(text) | {"question": "another"}),
    ],
)
def test_a_damaged_file_is_as_good_as_none(damage: Callable[[str], str], folder: Path, traces: list[Any]) -> None:
    first = COSTS["prediction"]()
    (file,) = files(folder)
    file.write_text(damage(file.read_text()))
    traces.clear()
    assert COSTS["prediction"]() == first
    assert traces


def test_other_code_is_asked_anew(monkeypatch: pytest.MonkeyPatch, traces: list[Any], tmp_path: Path) -> None:
    COSTS["prediction"]()
    own, package = kept_costs._code(), tmp_path / "nndiff"
    for folder in (kept_costs.PACKAGE / "networks", kept_costs.PACKAGE / "words"):
        (package / folder.name).mkdir(parents=True)
        for path in folder.glob("*.py"):
            (package / folder.name / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(kept_costs, "PACKAGE", package)
    digests = {own}
    for path in (package / "networks" / "unet.py", package / "networks" / "new.py"):
        with open(path, "a") as stream:
            stream.write("# changed\n")
        kept_costs._code.cache_clear()
        digests.add(kept_costs._code())
    traces.clear()
    COSTS["prediction"]()
    kept_costs._code.cache_clear()
    assert len(digests) == 3
    assert traces


def test_nothing_is_kept_where_nndiff_is_extended(
    monkeypatch: pytest.MonkeyPatch, folder: Path, traces: list[Any]
) -> None:
    class Mine(Squared):
        """Of this program: its code may change under the same name."""

    monkeypatch.setitem(LOSSES.table, "mine", Mine)
    for _ in range(2):
        traces.clear()
        COSTS["training"]()
        assert traces
    assert not folder.exists()


def test_a_table_of_another_program_changes_nothing(traces: list[Any]) -> None:
    theirs = Registry("colour", {"red": type("Red", (), {}), "blue": "a word"})
    COSTS["prediction"]()
    traces.clear()
    COSTS["prediction"]()
    assert not traces
    assert theirs.is_extended is False


def test_nothing_is_kept_where_another_package_is_installed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, traces: list[Any]
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: ["a row"] if group == "nndiff.loss" else [])
    for _ in range(2):
        traces.clear()
        COSTS["prediction"]()
        assert traces
    assert not folder.exists()


@pytest.mark.parametrize("where", ["", "nowhere", "file"])
def test_it_is_off_by_an_empty_name_and_where_nothing_can_be_written(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traces: list[Any]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("nndiff_cache", where and str(tmp_path / where if where == "file" else f"/proc/{where}"))
    for _ in range(2):
        traces.clear()
        COSTS["prediction"]()
        assert traces


def test_without_a_name_it_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nndiff_cache")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    COSTS["prediction"]()
    assert files(tmp_path / "home" / ".cache" / "nndiff" / "costs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    COSTS["prediction"]()
    assert files(tmp_path / "xdg" / "nndiff" / "costs")


def test_the_costs_of_code_that_nobody_uses_are_removed(folder: Path) -> None:
    for name, days in (("old", 31), ("young", 29)):
        (folder / "costs" / name).mkdir(parents=True)
        os.utime(folder / "costs" / name, (time.time() - days * 24 * 3600,) * 2)
    COSTS["prediction"]()
    assert {path.name for path in (folder / "costs").iterdir()} == {"young", kept_costs._code()}
