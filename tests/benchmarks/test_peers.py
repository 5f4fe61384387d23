"""Tests of the benchmark beside other libraries: nndiff's own rows at toy sizes, and the laws of tables and files."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import peers
from benchmarks.contenders import BRIDGE, FULL, GROUPS, HALF, Contender, bridge_spec, ours_merged, smooth, tiling
from benchmarks.peers import COLUMNS, Case, as_markdown, as_text, cases, derived, load, quick_cases, save, turns
from nndiff.plans.plan import Workload
from nndiff.resources.memory import prediction_cost, training_cost

OURS = [(group, row) for group, rows in GROUPS.items() for row in rows if not row.needs]
TOY = 16


def row_of(case: Case, **values: Any) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS, "") | peers.case_words(case) | {"library": ""} | values


@pytest.fixture(autouse=True)
def without_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.metadata, "version", lambda name: "1.0")


# ---------------------------------------------------------------- nndiff's own rows


@pytest.mark.parametrize(("group", "row"), OURS, ids=lambda value: getattr(value, "name", value))
def test_own_rows_run(group: str, row: Contender) -> None:
    ready = row.build(TOY, row.precision)
    ready.run()
    assert ready.evaluations >= 1
    if group == "networks":
        assert ready.train is not None
        weights = ready.train.weights  # type: ignore[attr-defined]
        before = [weight.detach().clone() for weight in weights]
        ready.train()
        assert ready.weights == sum(weight.numel() for weight in weights)
        assert not all(torch.equal(a, b) for a, b in zip(before, weights, strict=True)), "nothing was trained"
    if group in ("tiles", "up", "down"):
        assert ready.error() < (1e-5 if group == "tiles" else 0.2)  # type: ignore[operator]


@pytest.mark.parametrize("puzzle", [HALF, FULL], ids=str)
def test_counted_flops_are_those_of_the_memory_trace(puzzle: tuple[int, int, int]) -> None:
    name = "nndiff, as planned" if puzzle == HALF else "nndiff, full resolution"
    counted = peers.flops(Case("networks", TOY, name, "fp32").contender.build(TOY, "fp32"))
    load = Workload(bridge_spec(TOY, puzzle), puzzle, (TOY,) * 3, 1, "fp32", "cpu")
    assert counted["run_gflop"] == pytest.approx(prediction_cost(load).flops / 1e9, abs=0.01)
    assert counted["train_gflop"] == pytest.approx(training_cost(load, BRIDGE).flops / 1e9, abs=0.01)


def test_every_group_has_one_base_per_precision() -> None:
    for group, rows in GROUPS.items():
        for precision in {row.precision for row in rows}:
            assert sum(row.base for row in rows if row.precision == precision) == 1, (group, precision)
        assert len({(row.name, row.precision) for row in rows}) == len(rows)
        assert all(not row.needs for row in rows if row.base)


def test_tiles_are_counted_and_a_wrong_merge_is_seen() -> None:
    right, wrong = (tiling(TOY, "fp32", merged) for merged in (ours_merged, lambda n, whole, size: whole + 0.5))
    right.run()
    wrong.run()
    assert right.evaluations == 4**3, "from 0 to 2.5 tiles in steps of half a tile"
    assert wrong.error() == pytest.approx(0.5, abs=1e-6)


def test_a_smooth_volume_is_the_same_function_on_every_grid() -> None:
    coarse, fine = smooth((12, 12, 12)), smooth((36, 36, 36))
    assert np.array_equal(coarse, fine[1::3, 1::3, 1::3]), "every third centre coincides"


# ---------------------------------------------------------------- measured in other processes


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is read from Linux's /proc")
def test_a_case_is_measured_and_a_failure_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("up", 64, "nndiff", "fp32")
    with peers.Worker("ceiling", case) as convolution:
        row = peers.measured(case, convolution, None, 0.0)
    assert row["status"] == "ok"
    assert row["run_s"] > 0
    assert row["ceiling_gflops"] > 0
    assert row["run_s_ratio"] == row["run_mb_ratio"] == 1
    assert row["turns"] == peers.LEAST
    assert row["train_s"] == row["train_mb"] == row["run_rate"] == ""
    monkeypatch.setattr(peers, "free_bytes", lambda: peers.RESERVE_BYTES + 10**7)
    assert peers.measured(case, convolution, None, 0.0)["status"] != "ok"


class Scripted:
    """A worker whose seconds are written down."""

    def __init__(self, seconds: Sequence[float]):
        self.script = iter(seconds)

    def seconds(self, action: str) -> float:
        return next(self.script)


def test_turns_alternate_and_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(peers.time, "perf_counter", lambda: next(clock))
    first, second = Scripted(range(1, 9)), Scripted(range(11, 19))
    seen = turns([first, second], "run", 19.0)
    assert seen == [(1, 11), (2, 12), (3, 13)], "three are few enough; a fourth would not end within 19 s"
    assert turns([Scripted([peers.LONG])], "run", 20.0) == [(peers.LONG,)], "always one"
    assert len(turns([Scripted([50] * 9)], "run", 20.0)) == 3, "each turn takes a second of this test's clock"
    assert len(turns([Scripted([200] * 9)], "run", 20.0)) == 1
    assert len(turns([Scripted([0] * 9)], "run", 1000.0)) == peers.TURNS


@pytest.mark.parametrize(
    ("code", "log", "expected"),
    [
        (-9, "", "out of memory"),
        (1, "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried\nlater words", "out of memory"),
        (1, "Traceback\nValueError: no", "failed: ValueError: no"),
        (3, "", "ended with code 3"),
    ],
)
def test_reasons_of_failures(code: int, log: str, expected: str) -> None:
    assert peers.reason(code, log) == expected


class Idle:
    """A worker that is never asked."""

    def __init__(self, does: str, case: Case):
        pass

    def __enter__(self) -> Idle:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_rows_of_a_failed_base_are_told_but_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(case: Case, *_: object) -> dict[str, Any]:
        asked.append(case)
        return row_of(case, status="out of memory" if case.size == 96 else "ok")

    monkeypatch.setattr(peers, "Worker", Idle)
    monkeypatch.setattr(peers, "measured", measured)
    rows = list(peers.measure(cases({"tiles": (64, 96)}), 1.0))
    assert [peers.key_of(row) for row in rows] == [case.key for case in cases({"tiles": (64, 96)})]
    assert asked == [*cases({"tiles": (64,)}), Case("tiles", 96, "nndiff", "fp32")]
    assert [row["status"] == "ok" for row in rows] == [True] * 4 + [False] * 4
    assert as_text(rows)


# ---------------------------------------------------------------- figures that follow from others


def test_ratios_rates_and_seconds_per_volume() -> None:
    case = Case("sampling", 64, "MONAI DDIMScheduler", "fp32")
    words = {"run_mb": 100.0, "run_s": 0.75, "run_s_ratio": 1.0, "run_gflop": 30.0, "run_rate": 0.5}
    base = row_of(case.base, evaluations=2, ceiling_gflops=80.0, **words)
    own = row_of(case, run_mb=150.0, run_s=30.0, run_s_ratio=4.0, run_gflop=60.0, evaluations=50)
    row = derived(own, base)
    assert row["run_mb_ratio"] == 1.5
    assert row["run_s"] == 3.0, "4 times the 0.75 s of the base, although its own turns took 30 s on a busy machine"
    assert row["run_rate"] == 0.25 == 60 / row["run_s"] / row["ceiling_gflops"], "twice the work in 4 times the seconds"
    assert row["volume_s"] == 150.0
    assert row["volume_s_ratio"] == 100.0, "50 evaluations for 2, of 4 times the seconds"
    assert derived(base, None) == base | {"run_mb_ratio": 1.0, "volume_s": 1.5, "volume_s_ratio": 1.0}


# ---------------------------------------------------------------- tables and files


def every_row() -> Iterator[dict[str, Any]]:
    """Yield rows with large values: those of a network of 128³ voxels on a slow core."""
    for i, case in enumerate(cases(peers.SIZES)):
        train = {"train_mb": 21345.6, "train_s": 987.65, "train_mb_ratio": 12.3, "train_s_ratio": 45.6}
        measures = {"run_mb": 9876.5, "run_s": 456.78, "run_mb_ratio": 0.456, "run_s_ratio": 123.4}
        more = {"train_gflop": 9876.0, "train_rate": 1.0, "weights": 101_900_000, "turns": 8, "volume_s": 12345.6}
        more |= {"evaluations": 1000, "volume_s_ratio": 12345.6, "error": 4.9e-07, "commit": f"c{i % 2}"}
        yield row_of(case, **train, **measures, **more, cpu="Any", threads=2, torch="2", ceiling_gflops=100.0)


def test_tables_fit_into_100_columns_and_show_every_row() -> None:
    rows = list(every_row())
    text = as_text(rows)
    assert max(map(len, text.splitlines())) <= 100
    assert all(text.count(row.name) >= len(peers.SIZES[group]) for group, rows_ in GROUPS.items() for row in rows_)


def test_a_failure_is_told_below_its_table() -> None:
    failed = row_of(Case("networks", 128, "MONAI DiffusionModelUNet", "fp32"), status="out of memory")
    rows = [row if peers.key_of(row) != peers.key_of(failed) else failed for row in every_row()]
    for table in (as_text(rows), as_markdown(rows)):
        assert "MONAI DiffusionModelUNet fp32: out of memory" in table


def test_markdown_has_whole_rows_and_says_where_they_were_measured() -> None:
    rows = [row | {"ceiling_gflops": 90.0 + i} for i, row in enumerate(every_row())]
    text = as_markdown(rows)
    assert f"fp32 {89 + len(rows)}" in text, "the fastest of all tables"
    assert max(len(line) for line in text.splitlines() if line[:1] != "|") <= 120
    assert "Any, 2 thread(s); torch 2" in text
    assert "commit c0, c1" in text
    heads = {len(peers.HEADS.get(group, peers.REST)) for group in GROUPS}
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith(" |") and line.count("|") - 1 in heads for line in lines)
    assert sum(line.startswith("| --- |") for line in lines) == sum(map(len, peers.SIZES.values())), "one table each"


def test_a_file_keeps_rows_that_were_not_measured_again(tmp_path: Path) -> None:
    path, rows = tmp_path / "peers.csv", list(every_row())
    save(rows[::-1], path)
    assert [peers.key_of(row) for row in load(path)] == [peers.key_of(row) for row in rows], "the order of the cases"
    save([rows[3] | {"run_s": 1.25}], path)
    found = load(path)
    assert len(found) == len(rows)
    assert found[3]["run_s"] == "1.25"
    assert found[2] == {key: str(value) for key, value in rows[2].items()}
    assert as_markdown(found) == as_markdown([*rows[:3], rows[3] | {"run_s": 1.25}, *rows[4:]]), (
        "as before it was saved"
    )
    with path.open(newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)


def test_quick_cases_are_measured_in_full_runs_too() -> None:
    assert set(quick_cases()) < set(cases(peers.SIZES))


# ---------------------------------------------------------------- the command


def test_libraries_that_are_not_installed_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted: list[Case] = []

    def measure(found: list[Case], seconds: float) -> Iterator[dict[str, Any]]:
        wanted.extend(found)
        yield from (row_of(case) for case in found)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(peers, "measure", measure)
    assert peers.main(["--quick", "-o", str(tmp_path / "peers.csv")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "not installed" in line]
    assert [line.split()[0] for line in lines] == ["monai", "nnunetv2", "torchio"]
    assert all(peers.INSTALL in line for line in lines)
    assert wanted
    assert all(not case.contender.needs for case in wanted)
    assert len(load(tmp_path / "peers.csv")) == len(set(wanted))
