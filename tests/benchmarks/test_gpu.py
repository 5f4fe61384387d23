"""Tests of the benchmark of a GPU: the whole command at toy sizes on a CPU, and what it does with failures and time."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks import card, gpu
from benchmarks.card import GOLDEN, TOY_CONVOLUTIONS, Lab, Skipped
from nndiff.networks import lean
from nndiff.planning import overrides, planner
from nndiff.resources.memory import Cost
from nndiff.words.files import read_json

PLANS = Path(__file__).parents[1] / "golden" / "plans"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab("cpu", True, tmp_path)


@pytest.fixture(scope="module")
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def toy(*words: str, folder: Path) -> list[gpu.Row]:
    assert gpu.main(["--device", "cpu", "--toy", "--folder", str(folder), *words]) == 0
    return gpu.load(folder / "gpu_toy.csv")


def section(monkeypatch: pytest.MonkeyPatch, name: str, cases: Any) -> None:
    monkeypatch.setitem(gpu.SECTIONS, name, replace(gpu.SECTIONS[name], cases=cases))


def lines_of(page: str, case: str) -> int:
    return len(re.findall(rf"^\| {re.escape(case)} \|", page, re.MULTILINE))


def test_every_section_leaves_rows_and_the_page_has_each_row_once(
    tmp_path: Path, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (planner, overrides):  # tracing takes half of the time; the sizes are set by hand
        monkeypatch.setattr(module, "training_cost", lambda *_: Cost(10**6, 10**9))
    rows = toy(folder=tmp_path)
    assert {row["section"] for row in rows} == set(gpu.SECTIONS)
    failed = [(row["case"], row["status"]) for row in rows if row["status"].startswith("failed")]
    assert not failed
    assert not [row for row in rows if row["section"] in ("right", "resume") and row["status"] != "ok"]
    page = (tmp_path / "gpu_toy.md").read_text(encoding="utf-8")
    assert page.count("\n| ") == len(rows) + 2 * len(gpu.SECTIONS), "a head and a rule for each section"
    assert all(lines_of(page, row["case"]) == 1 for row in rows)
    assert str(tmp_path) not in page
    resumed = [row for row in rows if row["case"].startswith("interrupted")]
    assert resumed
    assert all(float(row["error"]) == 0 for row in resumed)


def test_a_failure_is_a_row_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> card.Figures:
        raise RuntimeError("no such file: /home/someone/data.nii\nmore")

    def skips() -> card.Figures:
        raise Skipped("needs 99 GB")

    def lists(lab: Lab) -> list[card.Case]:
        raise ValueError("at once")

    section(monkeypatch, "right", lambda lab: [("a", fails), ("b", skips), ("c", lambda: {"seconds": 2.0})])
    section(monkeypatch, "peak", lists)
    rows = toy("--only", "right", "peak", "card", folder=tmp_path)
    assert [(row["case"], row["status"]) for row in rows[:4]] == [
        ("a", "failed: RuntimeError: no such file: PATH"),
        ("b", "skipped: needs 99 GB"),
        ("c", "ok"),
        ("list of cases", "failed: ValueError: at once"),
    ]
    assert rows[2]["seconds"] == "2.0"
    assert rows[4]["section"] == "card"


def test_rows_are_in_the_file_as_soon_as_they_are_measured(tmp_path: Path) -> None:
    path, seen = tmp_path / "gpu.csv", []
    for found in gpu.save(path, (gpu.row("card", name, "ok", error=0.1, note="a, b|c") for name in "abc")):
        seen.append(found["case"])
        assert [row["case"] for row in gpu.load(path)] == seen
    assert gpu.load(path)[0]["note"] == "a, b|c"


def test_what_is_not_run_in_time_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> card.Figures:
        time.sleep(0.05)
        return {}

    section(monkeypatch, "card", lambda lab: [(f"case {i}", slow) for i in range(100)])
    rows = toy("--only", "card", "right", "--minutes", "0.004", folder=tmp_path)
    own = [row["status"] for row in rows if row["section"] == "card"]
    assert own[0] == "ok"
    assert own.count("not run: out of time") > 50
    assert len(own) == 100
    rows = toy("--minutes", "0", folder=tmp_path)
    assert [(row["section"], row["status"]) for row in rows] == [
        (name, "not run: out of time") for name in gpu.SECTIONS
    ]


def test_a_section_in_a_process_of_its_own_has_the_same_rows(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = replace(lab, until=math.inf)
    alone = list(gpu.isolated("card", replace(lab, until=time.perf_counter() + 60)))
    assert alone == list(gpu.rows_of("card", lab))
    monkeypatch.setattr(gpu, "GRACE", 0.0)
    ended = list(gpu.isolated("card", replace(lab, until=time.perf_counter() + 0.1)))
    assert [row["case"] for row in ended] == [row["case"] for row in alone]
    assert ended[0]["status"].startswith("failed: ended")
    assert {row["status"] for row in ended[1:]} == {"not run: its section had ended"}


# ---------------------------------------------------------------- what is measured


@pytest.mark.parametrize("gigabytes", GOLDEN)
def test_the_planned_networks_are_those_of_the_golden_plans(gigabytes: int) -> None:
    golden = read_json(PLANS / f"whole_body_pet_{gigabytes}GB.json")["bridge"]
    planned = card.configured(gigabytes, toy=False)
    found = gpu.card.memory.encode(planned)
    for name in ("puzzle_factor", "patch_size", "batch_size", "network", "precision", "process", "prediction"):
        assert found[name] == golden[name]["value"], name
    assert found["volume_shape"] == golden["volume_shape"]["value"]
    assert found["stages"][0]["objective"] == golden["stages"]["value"][0]["objective"]
    assert found["sampler"]["times"] == golden["sampler.times"]["value"]


def test_a_wrong_convolution_and_a_wrong_norm_are_seen(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    conv, silu = F.conv3d, lean.F.silu

    def shifted(x: Any, *rest: Any, **words: Any) -> Any:  # wrong in bf16 only, in one plane
        out = conv(x, *rest, **words)
        wrong = torch.ones_like(out)
        wrong[:, :, 0] = 1.1
        return out * wrong if out.dtype == torch.bfloat16 else out

    good = card._convolved(lab, TOY_CONVOLUTIONS[0], "contiguous")
    monkeypatch.setattr(F, "conv3d", shifted)
    assert (good["status"], card._convolved(lab, TOY_CONVOLUTIONS[0], "contiguous")["status"]) == ("ok", "wrong")
    monkeypatch.setattr(lean.F, "silu", lambda x, **words: silu(x, **words) * (1.05 if words else 1))
    assert card._normed(lab, "fp32", True)["status"] == "wrong"


def test_the_layout_of_all_maps_can_be_chosen() -> None:
    for layout in card.LAYOUTS.values():
        with card.laid_out(layout):
            out = card.blocks.conv(4, 4, (3, 3, 3))(torch.randn(2, 4, 5, 6, 7))
            normed = lean.norm_silu(out, torch.ones(4), torch.zeros(4), 1)
        assert out.is_contiguous(memory_format=layout)
        assert normed.is_contiguous(memory_format=layout)


def test_a_resumed_training_that_goes_elsewhere_is_wrong(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = {"w": torch.ones(3)}, {"w": torch.full((3,), 1.01)}
    weights = iter([right, right, right, wrong, right, wrong])
    monkeypatch.setattr(card, "data_of", lambda lab: SimpleNamespace(plan=None))
    monkeypatch.setattr(card, "in_precision", lambda plan, precision: plan)
    monkeypatch.setattr(card, "_weights", lambda *_, **__: next(weights))
    monkeypatch.setattr(card, "begun", lambda *_: (None, []))
    monkeypatch.setattr(card, "_saved", lambda *_: None)
    monkeypatch.setattr(card.checkpoint, "save", lambda *_: None)
    monkeypatch.setattr(card.checkpoint, "load", lambda *_: None)
    ways = ("trained twice", "interrupted and resumed", "trained without a recording")
    assert [card._again(lab, "bf16", False, way)["status"] for way in ways] == ["ok", "wrong", "wrong"]
