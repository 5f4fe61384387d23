"""Tests of the benchmark of growth: the laws of memory and FLOPs at toy sizes, and the powers of known costs."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import contenders, growth
from benchmarks.growth import Curve, cubes, fitted, quadratic_shares, traced
from benchmarks.memory import FULL, HALF, Work
from nndiff.plans.plan import Workload
from nndiff.words.volume import Triple

LINEAR = 1.05
SIZES = (1000, 2000, 4000, 8000, 16000)


def curve_of(costs: list[float], how: str = "traced") -> Curve:
    return Curve("memory", "voxels", "toy", how, SIZES, costs, "MB")


def toy(puzzle: Triple, again: str = "none") -> Workload:
    """Three levels of four channels: few weights, so that the peak lies where the maps are largest."""
    spec = replace(contenders.bridge_spec(16, puzzle, again), width=4, blocks=1)
    return Workload(spec, puzzle, (16, 16, 16), 1, "bf16", "cpu")


# ---------------------------------------------------------------- nndiff's laws


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("puzzle", "again"), [(HALF, "none"), (FULL, "norms"), (HALF, "blocks")])
def test_memory_and_flops_of_a_step_are_linear_in_the_voxels(puzzle: Triple, again: str, device: str) -> None:
    edges = (64, 128, 256)
    for lesson in (contenders.BRIDGE, None):
        works = [Work(replace(toy(puzzle, again), patch_size=shape, device=device), lesson) for shape in cubes(edges)]
        for curve in traced(works, [n**3 for n in edges], "voxels", ""):
            assert curve.power <= LINEAR, curve.row


def test_flops_are_proportional_to_the_batch_and_memory_is_linear_in_it() -> None:
    batches = (2, 4, 8)
    works = [Work(replace(toy(HALF), batch_size=batch, patch_size=(64,) * 3), contenders.BRIDGE) for batch in batches]
    memory, flops = traced(works, batches, "batch", "")
    assert memory.power <= LINEAR
    assert flops.costs == pytest.approx([batch / 2 * flops.costs[0] for batch in batches], rel=1e-3)


# ---------------------------------------------------------------- powers


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("fixed", [0.0, 1e3])
def test_the_power_of_a_known_cost_is_found(power: float, fixed: float) -> None:
    costs = [fixed + 0.25 * n**power for n in SIZES]
    assert curve_of(costs).powers == pytest.approx([power] * 3)
    assert fitted(SIZES, costs) == pytest.approx(power, abs=1e-3)
    noisy = costs * np.random.default_rng(0).normal(1, 0.002, len(costs))
    assert fitted(SIZES, noisy.tolist()) == pytest.approx(power, abs=0.15)


def test_a_cost_that_hardly_grows_has_no_power() -> None:
    constant = curve_of([10.0, 10.3, 9.9, 10.4, 10.2], "measured")
    assert constant.power is None
    assert constant.powers == []
    assert "| – |" in growth.markdown([constant.row])


def test_the_quadratic_share_of_a_known_cost_is_found() -> None:
    costs = [7.0 + 4 * n + n**2 / 1000 for n in SIZES]
    shares = quadratic_shares(curve_of(costs))
    assert shares == [(n, pytest.approx(n**2 / 1000 / cost)) for n, cost in zip(SIZES[2:], costs[2:], strict=True)]


def test_a_section_replaces_its_own_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "growth.csv"
    monkeypatch.setattr(growth, "SECTIONS", {"a": lambda: iter([curve_of([float(n) for n in SIZES])])} | {"b": list})
    assert growth.main(["-o", str(path)]) == 0
    monkeypatch.setattr(growth, "SECTIONS", {"a": list, "b": lambda: iter([curve_of([2.0 * n for n in SIZES])])})
    assert growth.main(["-o", str(path), "--only", "b"]) == 0
    with path.open(newline="") as file:
        assert [(row["section"], row["costs"].split()[0]) for row in csv.DictReader(file)] == [
            ("a", "1000"),
            ("b", "2000"),
        ]
